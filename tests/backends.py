"""The array backends that the operators are tested on, and the conversions between them and NumPy."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import array_api_compat.torch
import array_api_strict
import jax
import numpy as np
import torch

jax.config.update("jax_enable_x64", True)  # without it JAX silently demotes the float64 core


@dataclass(frozen=True)
class Backend:
    """One array namespace, one floating dtype, one device."""

    name: str
    xp: ModuleType
    dtype: str = "float64"
    device: Any = None

    @property
    def floating(self) -> Any:
        """The dtype object of this backend."""
        return getattr(self.xp, self.dtype)

    @property
    def eps(self) -> float:
        """Spacing of floating-point numbers at one."""
        return float(np.finfo(self.dtype).eps)

    def asarray(self, x: Any) -> Any:
        """A NumPy array in this backend; floating arrays take this backend's dtype."""
        x = np.asarray(x)
        options = {} if self.device is None else {"device": self.device}
        if x.dtype.kind == "f":
            return self.xp.asarray(x.astype(self.dtype), **options)
        return self.xp.asarray(x, **options)

    def close(self, actual: Any, desired: Any, *, ulps: float = 2000.0, scale: float | None = None) -> None:
        """Assert equality to `ulps` roundings of this dtype, relative to the largest entry."""
        got, wanted = to_numpy(actual), np.asarray(desired)
        assert got.shape == wanted.shape, f"shape {got.shape}, wanted {wanted.shape}"
        size = float(np.max(np.abs(wanted), initial=0.0)) if scale is None else scale
        np.testing.assert_allclose(got, wanted, rtol=0.0, atol=ulps * self.eps * max(size, 1e-300))


def to_numpy(x: Any) -> np.ndarray:
    """Any backend's array (or a scalar) as NumPy."""
    if isinstance(x, torch.Tensor):
        return x.detach().cpu().numpy()
    if type(x).__module__.startswith("cupy"):
        return x.get()
    if type(x).__module__.startswith("array_api_strict"):
        return np.asarray(x._array)  # of any of its devices
    return np.asarray(x)


def _cupy_available() -> bool:
    if importlib.util.find_spec("cupy") is None:
        return False
    return bool(importlib.import_module("cupy").cuda.is_available())


def _backends() -> list[Backend]:
    found = [
        Backend("numpy", np),
        Backend("numpy-float32", np, "float32"),
        Backend("torch", array_api_compat.torch),
        Backend("torch-float32", array_api_compat.torch, "float32"),
        Backend("strict", array_api_strict),
        Backend("strict-device", array_api_strict, device=array_api_strict.Device("device1")),
        Backend("jax", jax.numpy),
    ]
    if torch.cuda.is_available():
        found.append(Backend("torch-cuda", array_api_compat.torch, device="cuda"))
    if _cupy_available():
        found.append(Backend("cupy", importlib.import_module("array_api_compat.cupy")))
    return found


BACKENDS = _backends()
NUMPY = BACKENDS[0]
