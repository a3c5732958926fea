"""Is this the gradient of that function?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from srr._array.checks import check_array
from srr._array.namespace import Array, asarray_like
from srr.testing.report import Matrix, Report, finish, host


def check_gradient(
    f: Callable[[Array], Any],
    grad: Callable[[Array], Array],
    Z: Array,
    *,
    rtol: float = 1e-6,
    entries: int = 400,
    seed: int = 0,
    throw: bool = True,
) -> Report:
    """Compare a gradient with fourth-order difference quotients of its function.

    Args:
        f: function of one array to a number.
        grad: its gradient, an array of the shape of Z.
        Z: point of any shape; double precision is wanted, differences of float32 carry three digits.
        rtol: tolerance relative to the largest difference quotient.
        entries: most entries to difference; of larger arrays a random choice.
        seed: seed of that choice.
        throw: raise when it fails.

    Returns:
        The `Report`; its message names the worst entry and a constant factor or sign where that is the error.

    Raises:
        AssertionError: if ``throw`` is set and the gradient is wrong.
        ValueError: if the gradient does not have the shape of Z, or Z is not finite.

    Example:
        >>> import numpy as np, srr
        >>> from srr.testing import check_gradient
        >>> Z = np.random.default_rng(0).standard_normal((5, 3))
        >>> report = check_gradient(
        ...     lambda Z: srr.coding_rate(Z, eps=0.5), lambda Z: srr.coding_rate_grad(Z, eps=0.5), Z)
        >>> report.passed
        True
    """
    check_array(Z, "Z", ndim=0)
    point, got = host(Z), host(grad(Z))
    if got.shape != point.shape:
        raise ValueError(f"grad must return the shape of Z, {point.shape}; got {got.shape}")
    flat = np.arange(point.size)
    if point.size > entries:
        flat = np.sort(np.random.default_rng(seed).choice(point.size, entries, replace=False))
    want = np.array([_quotient(f, Z, point, int(i)) for i in flat])
    have = got.ravel()[flat]
    gap = np.abs(have - want) / max(float(np.max(np.abs(want))), np.finfo(float).tiny)
    worst = int(np.argmax(np.where(np.isnan(gap), np.inf, gap)))
    index = tuple(int(i) for i in np.unravel_index(flat[worst], point.shape))
    passed = bool(np.all(gap <= rtol))
    message = f"worst entry {index} is {have[worst]:.8g}, difference quotient {want[worst]:.8g}"
    if not passed:
        message += _pattern(have, want, rtol)
    return finish(Report("check_gradient", passed, float(gap[worst]), rtol, message), throw)


def _quotient(f: Callable[[Array], Any], Z: Array, point: Matrix, i: int) -> float:
    """Five-point difference quotient of f along entry i."""
    precision = float(np.finfo(str(Z.dtype).rsplit(".", 1)[-1]).eps)
    h = precision**0.2 * max(1.0, abs(float(point.ravel()[i])))
    values = []
    for k in (-2, -1, 1, 2):
        shifted = point.copy()
        shifted.ravel()[i] += k * h
        values.append(float(host(f(asarray_like(shifted, Z)))))
    return float((values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h))


def _pattern(have: Matrix, want: Matrix, rtol: float) -> str:
    """Say what kind of error it is, where one number or a few entries explain it."""
    ratio = float(have @ want / (want @ want)) if np.any(want) else 0.0
    size = float(np.max(np.abs(want)))
    if ratio != 0 and np.all(np.abs(have - ratio * want) <= 10 * rtol * abs(ratio) * size):
        return f"; every entry is {ratio:.6g} times the quotient: a constant factor is wrong"
    wrong = int(np.sum(~(np.abs(have - want) <= rtol * size)))
    return f"; {wrong} of {len(want)} entries are off, best common factor {ratio:.4g}"
