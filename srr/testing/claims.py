"""Is the error of this order, and are these two sides equal?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import numpy as np
from scipy import stats

from srr._array.checks import check_positive
from srr._array.namespace import Array
from srr.testing.report import Matrix, Report, finish, host, worst_index

Drawn = TypeVar("Drawn")
"""A problem of any kind, as it was drawn."""
Value: TypeAlias = Array | float


def check_order(
    error: Callable[[float], float],
    x: Array | Sequence[float],
    *,
    order: float,
    slack: float = 0.1,
    throw: bool = True,
) -> Report:
    """Fit the slope of an error on a log-log line and compare it with the claimed order.

    Args:
        error: positive error at one parameter value.
        x: at least four positive parameter values.
        order: claimed slope.
        slack: how far the slope's 95 % interval may reach beyond ``order`` on either side.
        throw: raise when it fails.

    Returns:
        The `Report`; measured is the slope, the message has its interval.

    Raises:
        AssertionError: if ``throw`` is set and the interval reaches outside.
        ValueError: if fewer than four values are given, or a value or an error is not positive.

    Example:
        >>> import numpy as np
        >>> from srr.testing import check_order
        >>> check_order(lambda h: abs(np.sin(h) - h), np.geomspace(0.01, 0.1, 6), order=3).passed
        True
    """
    values = np.asarray(x, dtype=float)
    errors = np.array([float(error(float(v))) for v in values])
    if values.size < 4 or not (np.all(values > 0) and np.all(errors > 0)):
        raise ValueError(f"x and errors must be four or more positive numbers; got x={values}, errors={errors}")
    fit = stats.linregress(np.log(values), np.log(errors))
    reach = float(stats.t.ppf(0.975, values.size - 2) * fit.stderr)
    slope = float(fit.slope)
    passed = abs(slope - order) + reach <= slack
    message = f"slope {slope:.4f} ± {reach:.4f} (95 %), claimed {order:g} ± {slack:g}"
    return finish(Report("check_order", bool(passed), slope, (order - slack, order + slack), message), throw)


def check_identity(
    left: Callable[[Drawn], Value],
    right: Callable[[Drawn], Value],
    draw: Callable[[np.random.Generator], Drawn],
    *,
    samples: int = 20,
    rtol: float = 1e-9,
    seed: int = 0,
    throw: bool = True,
) -> Report:
    """Compare two sides of an identity over random problems.

    Args:
        left: one side, a function of a problem to a number or an array.
        right: the other side.
        draw: draws a problem from a NumPy generator, inside the assumptions.
        samples: problems drawn.
        rtol: tolerance relative to the largest entry of the right side.
        seed: seed of the generator.
        throw: raise when it fails.

    Returns:
        The `Report`; its message names the worst problem and both values there.

    Raises:
        AssertionError: if ``throw`` is set and the sides differ.
        ValueError: if samples is not positive.

    Example:
        >>> import numpy as np, srr
        >>> from srr.testing import check_identity
        >>> check_identity(
        ...     lambda Z: srr.ops.gram_logdet(Z, 2.0), lambda Z: np.linalg.slogdet(np.eye(3) + 2.0 * Z.T @ Z)[1],
        ...     lambda rng: rng.standard_normal((5, 3))).passed
        True
    """
    check_positive(samples, "samples")
    rng, worst, message = np.random.default_rng(seed), -np.inf, ""
    for count in range(samples):
        problem = draw(rng)
        a, b = np.atleast_1d(host(left(problem))), np.atleast_1d(host(right(problem)))
        size = float(np.max(np.abs(b), initial=0.0))
        gap = float(np.max(np.abs(a - b), initial=0.0)) / (size if size > 0 else 1.0) if a.shape == b.shape else np.inf
        if not gap <= worst:
            worst = gap
            message = f"worst at problem {count}: " + _two_sides(a, b)
    return finish(Report("check_identity", bool(worst <= rtol), worst, rtol, message), throw)


def check_inequality(
    left: Callable[[Drawn], Value],
    right: Callable[[Drawn], Value],
    draw: Callable[[np.random.Generator], Drawn],
    *,
    samples: int = 200,
    rtol: float = 1e-12,
    seed: int = 0,
    throw: bool = True,
) -> Report:
    """Require left ≤ right, entry by entry, over random problems.

    Args:
        left: the smaller side, a function of a problem to a number or an array (one entry for each item of a batch).
        right: the larger side.
        draw: draws a problem from a NumPy generator, inside the assumptions.
        samples: problems drawn.
        rtol: excess that is put down to rounding, relative to the larger of both sides.
        seed: seed of the generator.
        throw: raise when it fails.

    Returns:
        The `Report`; measured is the largest excess, relative, negative where the inequality is strict everywhere.

    Raises:
        AssertionError: if ``throw`` is set and a problem breaks the inequality.
        ValueError: if samples is not positive.

    Example:
        >>> import numpy as np
        >>> from srr.testing import check_inequality
        >>> check_inequality(lambda x: np.log1p(x), lambda x: x, lambda rng: rng.exponential(size=3)).passed
        True
    """
    check_positive(samples, "samples")
    rng, worst, message = np.random.default_rng(seed), -np.inf, ""
    for count in range(samples):
        problem = draw(rng)
        a, b = np.broadcast_arrays(np.atleast_1d(host(left(problem))), np.atleast_1d(host(right(problem))))
        size = np.maximum(np.maximum(np.abs(a), np.abs(b)), np.finfo(float).tiny)
        gap = (a - b) / size
        index = worst_index(gap)
        if not gap[index] <= worst:
            worst = float(gap[index])
            message = (
                f"tightest at problem {count}, entry {index}: {a[index]:.10g} on the left, {b[index]:.10g} on the right"
            )
    return finish(Report("check_inequality", bool(worst <= rtol), worst, rtol, message), throw)


def _two_sides(a: Matrix, b: Matrix) -> str:
    if a.shape != b.shape:
        return f"shapes {a.shape} and {b.shape}"
    index = worst_index(np.abs(a - b))
    ratio = f", ratio {a[index] / b[index]:.6g}" if b[index] != 0 else ""
    return f"entry {index} is {a[index]:.10g} on the left, {b[index]:.10g} on the right{ratio}"
