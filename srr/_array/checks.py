"""Floor 0: what is wrong with an argument, said before any arithmetic."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from srr._array.namespace import Array, Namespace, any_true, is_concrete, is_floating, is_torch, namespace


def check_array(x: Array, name: str, *, ndim: int = 2, finite: bool = True, xp: Namespace = None) -> None:
    """Refuse an array that is not real floating, lacks axes, has an empty one, or holds a value that is not finite.

    Raises:
        TypeError: not an array, or of an integer, boolean or complex dtype.
        ValueError: too few axes, a zero-length axis among the last ``ndim``, NaN or infinity.
    """
    if xp is None:
        xp = namespace(x)
    if not is_floating(x, xp):
        raise TypeError(f"{name} must have a real floating dtype; got {x.dtype}")
    if x.ndim < ndim:
        raise ValueError(f"{name} must have at least {ndim} axes; got shape {tuple(x.shape)}")
    if 0 in x.shape and 0 in x.shape[x.ndim - ndim :]:
        raise ValueError(f"{name} must have no empty axis among its last {ndim}; got shape {tuple(x.shape)}")
    if finite and is_concrete(x) and not _sum_is_finite(x) and any_true(~xp.isfinite(x), xp):
        raise ValueError(f"{name} must be finite; got NaN or infinity")


def _sum_is_finite(x: Array) -> bool:
    """Whether a fast way shows that all entries are finite; for torch one pass, whose overflow shows nothing."""
    if isinstance(x, np.ndarray):
        return bool(np.isfinite(x).all())
    return is_torch(x) and math.isfinite(x.sum())


def check_tokens(Z: Array, name: str = "Z", *, finite: bool = True, xp: Namespace = None) -> None:
    """Refuse anything but finite real tokens of shape (..., n, d) with n, d ≥ 1."""
    check_array(Z, name, ndim=2, finite=finite, xp=xp)


def check_bases(U: Array, d: int | None = None, name: str = "U", *, finite: bool = True, xp: Namespace = None) -> None:
    """Refuse anything but finite bases of shape (..., K, d, p), with the given ``d`` when there is one."""
    check_array(U, name, ndim=3, finite=finite, xp=xp)
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


def check_mask(mask: Array | None, sizes: tuple[int, ...], *, xp: Namespace) -> None:
    """Refuse anything but booleans of these sizes: numbers to add would be read upside down.

    Two sizes are broadcast to, one must be met.
    """
    if mask is None:
        return
    if not xp.isdtype(mask.dtype, "bool"):
        raise TypeError(f"mask must be boolean, True where a token may be seen; got {mask.dtype}")
    last = tuple(mask.shape[-len(sizes) :])
    if len(sizes) == 1 and last != sizes:
        raise ValueError(f"mask must have shape (..., {sizes[0]}); got shape {tuple(mask.shape)}")
    if len(last) < len(sizes) or any(a not in (1, b) for a, b in zip(last, sizes, strict=True)):
        raise ValueError(f"mask must broadcast to (..., {sizes[0]}, {sizes[1]}); got shape {tuple(mask.shape)}")


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
    number = value if type(value) is float else _as_number(value, name)
    if isinstance(number, float) and not 0 < number < math.inf:
        raise ValueError(f"{name} must be a finite number > 0; got {value!r}")
    return number


def check_nonnegative(value: Any, name: str) -> Any:
    """Refuse a number that is not finite and ≥ 0; the number as a Python float (traced scalars pass as they are)."""
    number = value if type(value) is float else _as_number(value, name)
    if isinstance(number, float) and not 0 <= number < math.inf:
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
