"""The laboratory: the operators under test, on one backend and in one precision."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from srr._array.namespace import Array, to_numpy
from srr.theory.statement import Sample

BACKENDS = {
    "numpy": "numpy",
    "torch": "torch",
    "jax": "jax.numpy",
    "cupy": "cupy",
    "strict": "array_api_strict",
}
DTYPES = ("float64", "float32")


@dataclass(frozen=True)
class Lab:
    """Runs the library's operators on NumPy problems through a chosen backend and dtype.

    ``lab.ops.coding_rate(Z, eps=0.5)`` moves the arrays to the backend, calls the public operator of that
    name as it is bound at that moment, and brings the result back in float64.

    Args:
        backend: one of numpy, torch, jax, cupy, strict.
        dtype: float64 or float32.

    Raises:
        ValueError: if the backend or the dtype is unknown, or the backend cannot be imported.
    """

    backend: str = "numpy"
    dtype: str = "float64"

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {self.backend!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {self.dtype!r}")
        try:
            importlib.import_module(BACKENDS[self.backend])
        except ImportError as missing:
            raise ValueError(f"backend must be installed; got {self.backend!r}: {missing}") from missing
        if self.backend == "jax":
            importlib.import_module("jax").config.update("jax_enable_x64", True)

    @property
    def eps(self) -> float:
        """Machine epsilon of the tested dtype."""
        return float(np.finfo(self.dtype).eps)

    @property
    def ops(self) -> _Operators:
        """The public operators, taking and giving float64 NumPy arrays."""
        return _Operators(self)

    def parameters(self, preset: str) -> int | None:
        """Parameters of a named network as the library builds it; None without torch."""
        if importlib.util.find_spec("torch") is None:
            return None
        with importlib.import_module("torch").device("meta"):  # shapes without memory
            model = importlib.import_module("srr.nn").create_model(preset)
        return sum(p.numel() for p in model.parameters())

    def array(self, x: npt.ArrayLike) -> Array:
        """A float array in the tested dtype on the tested backend; labels keep their integers, masks stay boolean."""
        x = np.asarray(x)
        x = x.astype(self.dtype) if x.dtype.kind == "f" else x
        return importlib.import_module(BACKENDS[self.backend]).asarray(x)

    def numpy(self, x: Any) -> Any:
        """Back to NumPy: arrays in float64, scalars as floats, tuples item by item."""
        if isinstance(x, tuple):
            return tuple(self.numpy(item) for item in x)
        if x is None or isinstance(x, (bool, int, float)):
            return x
        x = np.asarray(to_numpy(x))
        return x.astype(np.float64) if x.dtype.kind == "f" else x

    def quantize(self, problem: Sample) -> Sample:
        """The problem as the tested dtype sees it, so that the truth starts from the same numbers."""
        return Sample(**{name: self._rounded(value) for name, value in vars(problem).items()})

    def _rounded(self, value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            return value.astype(self.dtype).astype(np.float64)
        return value


class _Operators:
    """Attribute access to the operators of :mod:`srr.ops`, looked up at each call."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def __getattr__(self, name: str) -> Callable[..., Any]:
        operator = getattr(importlib.import_module("srr.ops"), name)
        lab = self._lab

        def call(*arrays: Any, **options: Any) -> Any:
            moved = [lab.array(a) if isinstance(a, np.ndarray) else a for a in arrays]
            named = {k: lab.array(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
            return lab.numpy(operator(*moved, **named))

        return call
