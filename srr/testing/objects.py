"""Does a penalty, a problem or a solver of one's own keep what it promises?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from srr._array.checks import check_positive
from srr._array.namespace import Array, asarray_like
from srr.penalties import Penalty
from srr.problems import Problem
from srr.solvers.driver import S, Solver, minimize
from srr.testing.gradient import STEPS, check_gradient, coarser, quotients
from srr.testing.report import Report, finish, host
from srr.testing.steps import check_prox

P = TypeVar("P", bound=Problem[Penalty])


def check_hessian(
    grad: Callable[[Array], Array],
    hvp: Callable[[Array, Array], Array],
    Z: Array,
    *,
    rtol: float = 1e-6,
    directions: int = 8,
    seed: int = 0,
    throw: bool = True,
) -> Report:
    r"""Compare Hessian-vector products with difference quotients of the gradient, and require their symmetry.

    Args:
        grad: the gradient, an array of the shape of Z.
        hvp: the Hessian at its first argument times its second, shape of Z.
        Z: point of any shape, with or without batch axes.
        rtol: tolerance relative to the largest entry; raised to what differences carry in float32.
        directions: random directions tried.
        seed: seed of the directions.
        throw: raise when it fails.

    Returns:
        The `Report`; its message says whether products or symmetry fail.

    Raises:
        AssertionError: if ``throw`` is set and the products are wrong.

    Example:
        >>> import numpy as np
        >>> from srr.testing import check_hessian
        >>> check_hessian(lambda Z: Z**3, lambda Z, V: 3 * Z**2 * V, np.ones((3, 2))).passed
        True
    """
    rng, point = np.random.default_rng(seed), host(Z)
    kind, precision = coarser(Z, grad(Z))
    h = precision**0.2 * max(1.0, float(np.max(np.abs(point), initial=0.0)))
    worst, bound, message, last = -np.inf, rtol, "", None
    for count in range(directions):
        V = rng.standard_normal(point.shape)
        got = host(hvp(Z, asarray_like(V, Z)))
        values = np.array([[host(grad(asarray_like(point + k * h * V, Z))) for k in STEPS]])
        want, noise = (found[0] for found in quotients(values, np.array([h]), precision))
        floor = float(np.min(noise))
        size = max(float(np.max(np.abs(want))), floor)
        over = float(np.max(np.abs(got - want) * np.minimum(1.0, floor / noise))) / size  # less where two steps differ
        bound = max(bound, floor / size)
        if not over <= worst:
            worst, message = over, f"direction {count}: worst error {over:.3g} of the largest entry"
        if last is not None:
            left, right = float(np.sum(last[0] * got)), float(np.sum(V * last[1]))
            seen = float(np.sum(np.abs(last[0]) + np.abs(V))) * floor / bound  # what the errors of both may add up to
            skew = abs(left - right) / (np.linalg.norm(last[0]) * np.linalg.norm(got) + seen + np.finfo(float).tiny)
            if not skew <= worst:
                worst, message = skew, f"not symmetric: ⟨W, HV⟩ = {left:.8g}, ⟨V, HW⟩ = {right:.8g}"
        last = (V, got)
    message += f"; differences in {kind} see errors above {bound:.1g} only" if bound > rtol else ""
    return finish(Report("check_hessian", bool(worst <= bound), worst, bound, message), throw)


def check_penalty(penalty: Penalty, V: Array, *, step: float = 0.3, seed: int = 0, throw: bool = True) -> Report:
    r"""Check that the prox of a penalty minimizes, and that its ``distance`` vanishes there.

    At x = prox(v) the vector (v - x)/t is a subgradient, so the distance of x with gradient (x - v)/t is zero.

    Args:
        penalty: what a problem takes: ``value``, ``prox`` and ``distance``.
        V: point of shape (n, d).
        step: t > 0.
        seed: seed of the points tried.
        throw: raise when it fails.

    Returns:
        The `Report`.

    Raises:
        AssertionError: if ``throw`` is set and a better point exists or the distance is not zero.

    Example:
        >>> import numpy as np, srr
        >>> from srr.testing import check_penalty
        >>> check_penalty(srr.UnitL1(0.3), np.random.default_rng(0).standard_normal((5, 4))).passed
        True
    """
    report = check_prox(
        lambda A: penalty.prox(A, step=step), penalty.value, V, step=step, seed=seed, throw=False
    )  # refuses a step that is not positive
    if not report.passed:
        return finish(Report("check_penalty", False, report.measured, report.bound, report.message), throw)
    v, x = host(V), host(penalty.prox(V, step=step))
    slope = asarray_like((x - v) / step, V)
    gap = float(np.max(host(penalty.distance(asarray_like(x, V), slope)))) / (1 + float(np.linalg.norm((x - v) / step)))
    bound = 1e3 * coarser(V)[1]
    message = f"no better point than the prox; distance to optimality there {gap:.3g}, relative"
    return finish(Report("check_penalty", bool(gap <= bound), gap, bound, message), throw)


def check_problem(problem: Problem[Penalty], Z: Array, *, pairs: int = 50, seed: int = 0, throw: bool = True) -> Report:
    r"""Check a problem's gradient, its smoothness constant and the prox of its penalty.

    .. math:: f(B) \leq f(A) + \langle \nabla f(A), B - A \rangle + \tfrac{L}{2} \lVert B - A \rVert^2

    Args:
        problem: the problem.
        Z: point that it takes, of shape (n, d).
        pairs: random pairs A, B around Z, at distances over four decades.
        seed: seed of the pairs.
        throw: raise when it fails.

    Returns:
        The `Report` of the first part that fails, or of the curvature: measured is the largest ratio of it to L.

    Raises:
        AssertionError: if ``throw`` is set and a part fails.

    Example:
        >>> import numpy as np, srr
        >>> from srr.testing import check_problem
        >>> Z = np.random.default_rng(0).standard_normal((6, 4))
        >>> U = np.eye(4).reshape(4, 2, 2).swapaxes(0, 1)  # two subspaces of two coordinates
        >>> check_problem(srr.SparseRateReduction(U, 0.5), Z).passed
        True
    """
    for part in (
        check_gradient(problem.value, problem.grad, Z, seed=seed, throw=False),
        check_penalty(problem.regularizer, Z, seed=seed, throw=False),
    ):
        if not part.passed:
            return finish(Report("check_problem", False, part.measured, part.bound, str(part)), throw)
    rng, center, precision = np.random.default_rng(seed), host(Z), coarser(Z)[1]
    L, worst, message = float(np.max(host(problem.smoothness(Z)))), 0.0, ""
    for _ in range(pairs):
        a, move = center * 10.0 ** rng.uniform(-2, 1), 10.0 ** rng.uniform(-3, 1) * rng.standard_normal(center.shape)
        A, B = asarray_like(a, Z), asarray_like(a + move, Z)
        before, after = float(np.sum(host(problem.value(A)))), float(np.sum(host(problem.value(B))))
        rounding = 100 * precision * (1 + abs(before) + abs(after) + abs(np.sum(host(problem.grad(A)) * move)))
        excess = after - before - float(np.sum(host(problem.grad(A)) * move)) - rounding
        ratio = 2 * excess / (L * float(np.sum(move**2)))
        if ratio >= worst:
            worst, message = ratio, f"curvature {ratio:.4g} L at distance {np.linalg.norm(move):.3g}, L = {L:.6g}"
    return finish(Report("check_problem", bool(worst <= 1 + 1e-9), worst, 1.0, message or "no curvature seen"), throw)


def check_solver(
    solver: Solver[P, Array, S],
    problem: P,
    Z: Array,
    *,
    tol: float = 1e-6,
    max_steps: int = 1000,
    throw: bool = True,
) -> Report:
    """Run a solver and recompute from the problem what it says about itself.

    Args:
        solver: the algorithm.
        problem: what it solves.
        Z: where it starts.
        tol: distance to optimality it has to reach.
        max_steps: largest number of steps.
        throw: raise when it fails.

    Returns:
        The `Report`: it converged, objective and distance are those of the problem at the point returned, the
        objective is no higher than at the start, and the tokens given were not written to.

    Raises:
        AssertionError: if ``throw`` is set and one of these does not hold.
        ValueError: if tol is not positive.

    Example:
        >>> import numpy as np, srr
        >>> from srr.testing import check_solver
        >>> problem = srr.SparseCoding(np.ones((2, 2)), np.eye(2), srr.L1(0.1))
        >>> check_solver(srr.ProximalGradient(), problem, np.zeros((2, 2))).passed
        True
    """
    check_positive(tol, "tol")
    before = host(Z).copy()
    first = host(problem.objective(problem.start(Z)))
    solution = minimize(problem, Z, solver, tol=tol, max_steps=max_steps)
    value, distance = host(problem.objective(solution.Z)), host(problem.distance(solution.Z))
    near = 1e4 * coarser(Z)[1] * (1 + np.abs(value))
    faults = {
        "the tokens given were changed": not np.array_equal(before, host(Z)),
        "it did not converge": not solution.converged,
        "the objective it reports is not the problem's": bool(np.any(np.abs(value - solution.objective) > near)),
        "the distance it reports is not the problem's": bool(np.any(distance > 2 * tol + near)),
        "the objective is higher than at the start": bool(np.any(value > first + near)),
    }
    message = "; ".join(text for text, wrong in faults.items() if wrong)
    said = f"{int(np.max(solution.steps))} steps, distance to optimality {float(np.max(distance)):.3g}"
    passed, said = not message, f"{message}; {said}" if message else said
    return finish(Report("check_solver", passed, float(np.max(distance)), tol, said), throw)
