"""Is this the gradient of that function?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from srr._array.checks import check_array
from srr._array.namespace import Array, asarray_like
from srr.testing.report import Matrix, Report, finish, host, worst_index

STEPS = (-4, -2, -1, 1, 2, 4)  # where differences look, in steps h


def check_gradient(
    f: Callable[[Array], Array | float],
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
        f: function of one array to a number, or to one number for each item of a batch; a constant is allowed.
        grad: its gradient, an array of the shape of Z.
        Z: point of any shape; double precision is wanted. Differences in float32 (JAX without ``jax_enable_x64``)
            carry two to four digits: the bound is then raised to what they carry, and the message says so.
        rtol: tolerance relative to the largest difference quotient, raised where rounding is larger: where the
            gradient is zero, all quotients are rounding, some 1e-12 of the size of what the function adds up.
        entries: most entries to difference; of larger arrays a random choice.
        seed: seed of that choice.
        throw: raise when it fails.

    Returns:
        The `Report`; its message names the worst entry and a constant factor or sign where that is the error.

    Raises:
        AssertionError: if ``throw`` is set and the gradient is wrong.
        ValueError: if the gradient does not have the shape of Z, Z is not finite, or f differs from call to call.

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
    kind, precision = coarser(Z, f(Z))
    once, again = (host(f(Z)) for _ in range(2))
    if np.any(np.abs(once - again) > 1e4 * precision * np.abs(once)):
        raise ValueError(f"f must be a function of Z; two calls at the same Z gave {once} and {again}")
    moves = [precision**0.2 * max(1.0, abs(float(point.ravel()[i]))) for i in flat]
    values = np.array([_along(f, Z, point, i, h) for i, h in zip(flat, moves, strict=True)])
    want, noise = quotients(values, np.array(moves), precision)
    have = got.ravel()[flat]
    least = float(np.min(noise))
    size = max(float(np.max(np.abs(want))), least)
    gap, allowed, bound = np.abs(have - want) / size, np.maximum(rtol, noise / size), max(rtol, least / size)
    worst = worst_index(gap / allowed)[0]
    index = tuple(int(i) for i in np.unravel_index(flat[worst], point.shape))
    passed = bool(np.all(gap <= allowed))
    message = f"worst entry {index} is {have[worst]:.8g}, difference quotient {want[worst]:.8g}"
    if not passed and least < size:
        message += _pattern(have, want, bound) + lines_of_error(have, want, flat, point.shape, bound * size)
    if bound > rtol:
        message += f"; differences in {kind} see errors above {least:.1g} only, "
        message += f"{bound:.1g} of the largest quotient" if least < size else "and the quotients are rounding"
        message += f": use float64 for {rtol:g}" if kind != "float64" else ""
    if lost := int(np.sum(allowed > 100 * bound)):
        message += f"; {lost} of {len(flat)} entries have another quotient at twice the step: a kink nearby, or noise"
    return finish(Report("check_gradient", passed, float(gap[worst]), bound, message), throw)


def coarser(*values: Any) -> tuple[str, float]:
    """Name and machine epsilon of the coarsest floating dtype among arrays; float64 for plain numbers."""
    names = [str(v.dtype).rsplit(".", 1)[-1] for v in values if hasattr(v, "dtype")]
    kinds = [(float(np.finfo(name).eps), name) for name in names if name in ("float16", "float32", "float64")]
    precision, name = max(kinds, default=(float(np.finfo(np.float64).eps), "float64"))
    return name, precision


def quotients(values: Matrix, h: Matrix, precision: float) -> tuple[Matrix, Matrix]:
    """Five-point difference quotients, and the error that each of them carries.

    The same quotient over twice the step tells the error: a smooth function's moves by 15 times the truncation, and
    rounding makes it another draw of the noise. Rounding is that of what the function computes inside: where it
    subtracts two equal numbers, its value is no measure of it. So an error is at least the rounding of the values, 20
    times what nine tenths of the entries show (up to half the digits of the larger of the values and 1: more than that
    is a kink, not rounding), and 4 times what the entry itself shows (a rare jump of the last digit).

    Args:
        values: the function at -4, -2, -1, 1, 2 and 4 steps, along axis 1; entries along axis 0, further axes allowed.
        h: the steps, shape of axis 0.
        precision: machine epsilon of the arithmetic.
    """
    h = h.reshape(-1, *[1] * (values.ndim - 2))
    ends = [values[:, k] for k in range(6)]
    want = (ends[1] - 8 * ends[2] + 8 * ends[3] - ends[4]) / (12 * h)
    twice = (ends[0] - 8 * ends[1] + 8 * ends[4] - ends[5]) / (24 * h)
    apart = np.abs(twice - want)
    largest = float(np.max(np.abs(values), initial=0.0))
    rounding = 8 * precision * (largest or 1.0) / float(np.min(h))
    usual = min(20 * float(np.quantile(apart, 0.9)), precision**0.5 * max(largest, 1.0))
    return want, np.maximum(max(rounding, usual), 4 * apart)


def _along(f: Callable[[Array], Array | float], Z: Array, point: Matrix, i: int, h: float) -> list[float]:
    """The function at six places along one entry."""
    found = []
    for k in STEPS:
        shifted = point.copy()
        shifted.ravel()[i] += k * h
        found.append(float(np.sum(host(f(asarray_like(shifted, Z))))))
    return found


def lines_of_error(have: Matrix, want: Matrix, flat: Matrix, shape: tuple[int, ...], tol: float) -> str:
    """Say which rows or columns hold all the error, and whether each has a factor of its own."""
    if len(shape) < 2 or shape[-2] < 2 or shape[-1] < 2:
        return ""
    places: Matrix = np.asarray(np.unravel_index(flat, shape))
    wrong = ~(np.abs(have - want) <= tol)
    for name, line, size in (("row", places[-2], shape[-2]), ("column", places[-1], shape[-1])):
        bad = np.unique(line[wrong])
        if 0 < len(bad) <= size // 2:
            return f"; all of them are in {name} {', '.join(map(str, bad[:8]))}{' ...' if len(bad) > 8 else ''}"
        factors = [
            float(have[line == k] @ want[line == k] / max(want[line == k] @ want[line == k], 1e-300)) for k in bad
        ]
        residue = [np.max(np.abs(have[line == k] - r * want[line == k])) for k, r in zip(bad, factors, strict=True)]
        if max(residue, default=np.inf) <= 10 * tol and np.ptp(factors) * np.max(np.abs(want)) > 20 * tol:
            return f"; every {name} has a factor of its own, {min(factors):.4g} to {max(factors):.4g}"
    return ""


def _pattern(have: Matrix, want: Matrix, rtol: float) -> str:
    """Say what kind of error it is, where one number or a few entries explain it."""
    ratio = float(have @ want / (want @ want)) if np.any(want) else 0.0
    size = float(np.max(np.abs(want)))
    if ratio != 0 and np.all(np.abs(have - ratio * want) <= 10 * rtol * abs(ratio) * size):
        return f"; every entry is {ratio:.6g} times the quotient: a constant factor is wrong"
    wrong = int(np.sum(~(np.abs(have - want) <= rtol * size)))
    return f"; {wrong} of {len(want)} entries are off, best common factor {ratio:.4g}"
