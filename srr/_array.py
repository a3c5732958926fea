"""Floor 0: one place that knows array libraries, argument checks and the precision of the core.

Every other file speaks the Python array API standard and asks this one for its namespace.
"""

from __future__ import annotations

import math
import numbers
import sys
from typing import Any

import array_api_compat
import numpy as np

Array = Any
"""An array of any supported library: NumPy, torch, JAX, CuPy, array-api-strict."""
Namespace = Any
"""A module that follows the Python array API standard."""
DType = Any
"""A dtype object of such a module."""

is_jax = array_api_compat.is_jax_array
is_numpy = array_api_compat.is_numpy_array
is_cupy = array_api_compat.is_cupy_array


def is_torch(x: object) -> bool:
    """Whether x is a torch tensor, without importing torch and in a form ``torch.compile`` can follow."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def namespace(*arrays: Array | None, xp: Namespace = None) -> Namespace:
    """Array API namespace shared by the arrays; ``None`` entries are ignored.

    Args:
        *arrays: arrays of one library.
        xp: namespace to use instead of looking it up.

    Returns:
        The array API compatible module of that library.

    Raises:
        TypeError: an argument is not an array, or two libraries are mixed.
    """
    if xp is not None:
        return xp
    given = [a for a in arrays if a is not None]
    if given and all(is_torch(a) for a in given):
        import array_api_compat.torch as torch_namespace  # import_module stops torch.compile

        return torch_namespace
    try:
        return array_api_compat.array_namespace(*given)
    except TypeError as error:
        kinds = ", ".join(sorted({f"{type(a).__module__}.{type(a).__name__}" for a in given}))
        raise TypeError(f"arguments must be arrays of one library; got {kinds}") from error


def device(x: Array) -> Any:
    """Device an array lives on, in its own library's words."""
    return array_api_compat.device(x)


def is_concrete(*arrays: Array) -> bool:
    """Whether the values of every array may be read here and now at no hidden cost.

    False while a program is being traced (``jit``, ``vmap``, ``torch.compile``), for torch tensors that belong
    to an autograd graph, and for torch tensors on an accelerator, where reading one value would stall the stream.
    """
    return all(_is_concrete(a) for a in arrays)


def _is_concrete(x: Array) -> bool:
    if is_torch(x):
        torch = sys.modules["torch"]
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        return x.device.type == "cpu" and not x.requires_grad and not torch._C._functorch.is_functorch_wrapped_tensor(x)
    if is_jax(x):
        return not isinstance(x, sys.modules["jax"].core.Tracer)
    return not array_api_compat.is_dask_array(x)


def any_true(flags: Array, xp: Namespace) -> bool:
    """Whether an entry is known to be true; a trace that captures a constant makes even its flags unknown."""
    found = xp.any(flags)
    if is_jax(found) and isinstance(found, sys.modules["jax"].core.Tracer):
        return False
    return bool(found)


def is_floating(x: Array, xp: Namespace) -> bool:
    """Whether the dtype is a real floating type, the low-precision ones of each library included."""
    if is_torch(x):
        return bool(x.dtype.is_floating_point)
    return bool(xp.isdtype(x.dtype, "real floating"))


def check_array(x: Array, name: str, *, ndim: int = 2, finite: bool = True, xp: Namespace = None) -> None:
    """Refuse an array that is not real floating, lacks axes, has an empty one, or holds a value that is not finite.

    Raises:
        TypeError: not an array, or of an integer, boolean or complex dtype.
        ValueError: too few axes, a zero-length axis among the last ``ndim``, NaN or infinity.
    """
    xp = namespace(x, xp=xp)
    if not is_floating(x, xp):
        raise TypeError(f"{name} must have a real floating dtype; got {x.dtype}")
    if x.ndim < ndim:
        raise ValueError(f"{name} must have at least {ndim} axes; got shape {tuple(x.shape)}")
    if 0 in x.shape[x.ndim - ndim :]:
        raise ValueError(f"{name} must have no empty axis among its last {ndim}; got shape {tuple(x.shape)}")
    if finite and is_concrete(x) and not _sum_is_finite(x) and any_true(~xp.isfinite(x), xp):
        raise ValueError(f"{name} must be finite; got NaN or infinity")


def _sum_is_finite(x: Array) -> bool:
    """Whether one pass of torch already shows that all entries are finite; an overflowing sum shows nothing."""
    return is_torch(x) and math.isfinite(x.sum())


def check_tokens(Z: Array, name: str = "Z", *, xp: Namespace = None) -> None:
    """Refuse anything but finite real tokens of shape (..., n, d) with n, d ≥ 1."""
    check_array(Z, name, ndim=2, xp=xp)


def check_bases(U: Array, d: int | None = None, name: str = "U", *, xp: Namespace = None) -> None:
    """Refuse anything but finite bases of shape (..., K, d, p), with the given ``d`` when there is one."""
    check_array(U, name, ndim=3, xp=xp)
    if d is not None and U.shape[-2] != d:
        raise ValueError(f"{name} must have shape (K, d, p) with d={d}; got {tuple(U.shape)}")


def check_weights(weights: Array, Z: Array, name: str = "weights", *, xp: Namespace = None) -> None:
    """Refuse token weights that are negative, non-finite, or not one number per token."""
    xp = namespace(weights, Z, xp=xp)
    check_array(weights, name, ndim=1, xp=xp)
    if weights.shape[-1] != Z.shape[-2]:
        raise ValueError(f"{name} must have shape (..., n) with n={Z.shape[-2]}; got {tuple(weights.shape)}")
    check_batch(weights, tuple(Z.shape[:-2]), 1, name)
    if is_concrete(weights) and any_true(weights < 0, xp):
        raise ValueError(f"{name} must be >= 0; got a negative entry")


def check_batch(x: Array, batch: tuple[int, ...], ndim: int, name: str) -> None:
    """Refuse leading axes (all but the last ``ndim``) that do not broadcast with the batch axes of the tokens."""
    lead = tuple(x.shape[: x.ndim - ndim])
    if any(a != b and 1 not in (a, b) for a, b in zip(reversed(lead), reversed(batch), strict=False)):
        raise ValueError(f"{name} must have batch axes that broadcast with {batch}; got shape {tuple(x.shape)}")


def check_labels(labels: Array, name: str, *, classes: int | None = None, xp: Namespace = None) -> None:
    """Refuse anything but integers ≥ 0, below ``classes`` when there is such a bound (traced labels pass)."""
    xp = namespace(labels, xp=xp)
    if not xp.isdtype(labels.dtype, "integral"):
        raise TypeError(f"{name} must be integers; got {labels.dtype}")
    if is_concrete(labels) and any_true(labels < 0, xp):
        raise ValueError(f"{name} must be >= 0; got a negative class")
    if classes is not None and is_concrete(labels) and any_true(labels >= classes, xp):
        raise ValueError(f"{name} must be below the number of classes {classes}; got a larger one")


def check_same_dtype(**arrays: Array | None) -> None:
    """Refuse arrays of different dtypes: no silent promotion."""
    given = {name: a.dtype for name, a in arrays.items() if a is not None}
    if len(set(given.values())) > 1:
        raise TypeError("arguments must share one dtype; got " + ", ".join(f"{n}: {t}" for n, t in given.items()))


def check_positive(value: Any, name: str) -> Any:
    """Refuse a number that is not finite and > 0; the number as a Python float (traced scalars pass as they are)."""
    number = _as_number(value, name)
    if isinstance(number, float) and not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be a finite number > 0; got {value!r}")
    return number


def check_nonnegative(value: Any, name: str) -> Any:
    """Refuse a number that is not finite and ≥ 0; the number as a Python float (traced scalars pass as they are)."""
    number = _as_number(value, name)
    if isinstance(number, float) and not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} must be a finite number >= 0; got {value!r}")
    return number


def _as_number(value: Any, name: str) -> Any:
    """Host numbers and readable scalar arrays as Python floats, which promote no array; others as they are."""
    real = isinstance(value, numbers.Real)
    if isinstance(value, bool) or not (real or getattr(value, "ndim", 1) == 0):
        raise TypeError(f"{name} must be a number; got {type(value).__name__}")
    return float(value) if real or is_concrete(value) else value


def check_count(value: Any, name: str, *, least: int = 1) -> None:
    """Refuse anything but an integer ≥ ``least``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer; got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be >= {least}; got {value}")


def asarray_like(values: Any, like: Array, *, dtype: DType = None, xp: Namespace = None) -> Array:
    """Bring host values to the library, device and (unless given) dtype of ``like``."""
    xp = namespace(like, xp=xp)
    return xp.asarray(values, dtype=like.dtype if dtype is None else dtype, device=device(like))


def eye(n: int, like: Array, xp: Namespace) -> Array:
    """Identity of size n with the dtype and device of ``like``."""
    return xp.eye(n, dtype=like.dtype, device=device(like))


def to_numpy(x: Array) -> np.ndarray[Any, Any]:
    """Copy or view an array of any library as NumPy on the host."""
    if is_torch(x):
        return np.asarray(x.detach().cpu().numpy())
    if is_cupy(x):
        return np.asarray(x.get())
    return np.asarray(x)


def epsilon(dtype: DType, xp: Namespace) -> float:
    """Machine epsilon of a floating dtype."""
    return float(xp.finfo(dtype).eps)


def core_cast(Z: Array, core_dtype: DType, xp: Namespace) -> Array:
    """Tokens in the dtype of the core: float64 unless asked otherwise, or unless there is none (JAX without x64)."""
    if core_dtype is None:
        core_dtype = xp.float64 if _has_float64(Z, xp) else Z.dtype
    return Z if Z.dtype == core_dtype else xp.astype(Z, core_dtype)


def _has_float64(Z: Array, xp: Namespace) -> bool:
    if is_jax(Z):
        return bool(sys.modules["jax"].config.jax_enable_x64)
    return not (is_torch(Z) and Z.device.type == "mps")


def positive_part(x: Array, xp: Namespace) -> Array:
    """Entries where positive, zero elsewhere, of an array that is the caller's own: torch overwrites it."""
    if is_torch(x):
        return x.relu_()
    return xp.maximum(x, xp.zeros_like(x))


def root(x: Array, xp: Namespace) -> Array:
    """Square root of numbers ≥ 0 whose derivative at zero is zero, where that of the root is infinite."""
    positive = x > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, x, xp.ones_like(x))), xp.zeros_like(x))


def softmax(scores: Array, *, axis: int, xp: Namespace) -> Array:
    """Softmax along an axis; a slice of only −∞ gives zeros."""
    top = xp.max(scores, axis=axis, keepdims=True)
    top = xp.where(xp.isfinite(top), top, xp.zeros_like(top))
    mass = xp.exp(scores - top)
    total = xp.sum(mass, axis=axis, keepdims=True)
    return mass / xp.where(total > 0, total, xp.ones_like(total))


def cholesky(M: Array, xp: Namespace) -> Array | None:
    """Lower Cholesky factor of a batch of symmetric matrices; None where the library finds one of them not positive."""
    try:
        return xp.linalg.cholesky(M)
    except (np.linalg.LinAlgError, RuntimeError):
        if not is_concrete(M):
            raise
        return None


def cholesky_solve(L: Array, B: Array, xp: Namespace) -> Array:
    """X with L Lᵀ X = B, by the triangular solver of the library where the standard has none."""
    if is_torch(L):
        return sys.modules["torch"].cholesky_solve(B, L)
    if is_jax(L):
        return sys.modules["jax"].scipy.linalg.cho_solve((L, True), B)
    if is_numpy(L):
        from scipy.linalg import cho_solve

        return cho_solve((L, True), B, check_finite=False) if B.size else B
    if is_cupy(L) and L.ndim == B.ndim == 2:
        from cupyx.scipy.linalg import solve_triangular

        half = solve_triangular(L, B, lower=True)
        return solve_triangular(L, half, lower=True, trans="T")
    adjoint = L.mT if is_floating(L, xp) else xp.conj(L).mT
    return xp.linalg.solve(L @ adjoint, B)


def scaled_dot_product_attention(Q: Array, V: Array, *, scale: float, causal: bool, mask: Array | None) -> Array:
    """Softmax attention of torch with key = value = V, on whichever fused kernel torch has for the case."""
    functional = sys.modules["torch"].nn.functional
    return functional.scaled_dot_product_attention(Q, V, V, attn_mask=mask, is_causal=causal, scale=scale)
