"""Sparse rate reduction: operators, solvers, and the white-box transformers unrolled from them.

The chain runs one way: operators (``srr.ops``) → problems and solvers → unrolled networks (``srr.nn``) → training
(``srr.training``). The names of this module are those that are typed first, in the order of use; the rest is one
level down, ``srr.ops.x``, ``srr.solvers.x``, ``srr.nn.x``. Importing ``srr`` loads NumPy and SciPy only; the
submodules that need torch, matplotlib, scikit-learn or Lightning load when they are first used.
"""

from __future__ import annotations

from srr._array.interrupt import watch as _watch

_watch()  # holds while the rest is loaded

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from srr import certificates, diagnostics, fits, mixtures, ops, penalties, problems, solvers
from srr.certificates import certify
from srr.diagnostics import layer_trace
from srr.fits import CodingLengthSegmentation, SubspaceMixture, coding_length
from srr.mixtures import subspace_mixture
from srr.ops import (
    coding_rate,
    coding_rate_grad,
    ista_step,
    mssa,
    partition_coding_rate,
    partition_coding_rate_grad,
    rate_reduction,
    rate_reduction_grad,
    sparse_rate_reduction,
    sparse_rate_reduction_grad,
    subspace_coding_rate,
    subspace_coding_rate_grad,
)
from srr.penalties import L1, ClassSpheres, NonnegativeL1, Ridge, UnitL1
from srr.problems import RateReduction, SparseCoding, SparseRateReduction
from srr.solvers import (
    LBFGS,
    Accelerated,
    Alternating,
    Backtracking,
    BarzilaiBorwein,
    FixedStep,
    ProximalGradient,
    Solution,
    Status,
    minimize,
)

try:
    __version__ = version("srr")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

_LOADED_WHEN_USED = ("derive", "enclose", "estimators", "nn", "plots", "testing", "theory", "training")

__all__ = [
    # rates and their gradients
    "coding_rate",
    "subspace_coding_rate",
    "partition_coding_rate",
    "rate_reduction",
    "sparse_rate_reduction",
    "coding_rate_grad",
    "subspace_coding_rate_grad",
    "partition_coding_rate_grad",
    "rate_reduction_grad",
    "sparse_rate_reduction_grad",
    # the two halves of a layer
    "mssa",
    "ista_step",
    # what is solved, and how
    "SparseRateReduction",
    "RateReduction",
    "SparseCoding",
    "UnitL1",
    "L1",
    "NonnegativeL1",
    "Ridge",
    "ClassSpheres",
    "minimize",
    "ProximalGradient",
    "Accelerated",
    "LBFGS",
    "Alternating",
    "FixedStep",
    "Backtracking",
    "BarzilaiBorwein",
    "Solution",
    "Status",
    # data, and what is fitted to them
    "subspace_mixture",
    "SubspaceMixture",
    "CodingLengthSegmentation",
    "coding_length",
    # what a network did
    "layer_trace",
    "certify",
    # one level down
    "ops",
    "penalties",
    "problems",
    "solvers",
    "fits",
    "mixtures",
    "diagnostics",
    "certificates",
]


def __getattr__(name: str) -> Any:
    if name in _LOADED_WHEN_USED:
        return importlib.import_module(f"srr.{name}")
    raise AttributeError(f"module 'srr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_LOADED_WHEN_USED, "__version__"]
