"""Sparse rate reduction: operators, solvers, and the white-box transformers unrolled from them.

The chain runs one way: operators (``srr.ops``) → problems and solvers → unrolled networks (``srr.nn``) → training
(``srr.training``). Importing ``srr`` loads NumPy and SciPy only; the submodules that need torch, matplotlib,
scikit-learn or Lightning load when they are first used.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from srr import fits, ops, penalties, problems, solvers
from srr.diagnostics import LayerTrace, layer_trace
from srr.fits import *  # noqa: F403
from srr.mixtures import Mixture, subspace_mixture
from srr.ops import *  # noqa: F403
from srr.penalties import *  # noqa: F403
from srr.problems import *  # noqa: F403
from srr.solvers import *  # noqa: F403

try:
    __version__ = version("srr")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

_SUBMODULES = ("diagnostics", "estimators", "nn", "plots", "testing", "theory", "training")

__all__ = ["LayerTrace", "Mixture", "fits", "layer_trace", "ops", "penalties", "problems", "solvers"]
__all__ += ["subspace_mixture"]
__all__ += fits.__all__
__all__ += ops.__all__
__all__ += penalties.__all__
__all__ += problems.__all__
__all__ += solvers.__all__


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"srr.{name}")
    raise AttributeError(f"module 'srr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES})
