"""Sparse coding against scikit-learn, and how fast each solver converges, as measured slopes."""

import numpy as np
import pytest
from sklearn.linear_model import Lasso

import srr

PLAIN = srr.Accelerated(restart=False)
SOLVERS = {
    "fixed": srr.ProximalGradient(srr.FixedStep()),
    "backtracking": srr.ProximalGradient(),
    "bb": srr.ProximalGradient(srr.BarzilaiBorwein()),
    "accelerated": srr.Accelerated(),
}


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
def test_sparse_codes_equal_scikit_learns_lasso(name, positive):
    """Objective equal to coordinate descent's to 1e-6, overcomplete dictionary, every token."""
    rng = np.random.default_rng(0)
    D, lam = rng.standard_normal((20, 30)), 1.5
    Z = rng.standard_normal((6, 20)) * 3
    penalty = srr.NonnegativeL1(lam) if positive else srr.L1(lam)
    problem = srr.SparseCoding(Z, D, penalty)
    solution = srr.minimize(problem, np.zeros((6, 30)), SOLVERS[name], tol=1e-5, max_steps=20000)
    assert solution.converged
    lasso = Lasso(alpha=lam / 20, fit_intercept=False, positive=positive, tol=1e-14, max_iter=1_000_000)
    codes = np.stack([lasso.fit(D, z).coef_ for z in Z])
    wanted = 0.5 * np.sum((Z - codes @ D.T) ** 2) + lam * np.sum(np.abs(codes))
    assert solution.objective == pytest.approx(wanted, abs=1e-6, rel=0)
    np.testing.assert_allclose(solution.Z, codes, atol=1e-4)


def hard_problem(m=1000):
    """Least squares whose gap falls like a power of k and no faster: curvatures spread evenly over many decades."""
    curvature = np.geomspace(1e-8, 1.0, m)
    start = np.full(m, m**-0.5)
    D = np.diag(np.sqrt(curvature))
    return srr.SparseCoding(np.zeros((1, m)), D, srr.L1(0.0)), start[None, :]


def slope(history, low, high):
    """Slope of log gap against log step, the optimal value being zero."""
    k = np.arange(low, high)
    return np.polyfit(np.log(k), np.log(history[low:high]), 1)[0]


def test_ista_is_first_order():
    """O(1/k): the gap times k stays below L‖Z0 - Z*‖²/2, and the slope is -1."""
    problem, start = hard_problem()
    gap = srr.minimize(problem, start, SOLVERS["fixed"], tol=0.0, max_steps=2000).history.objective
    k = np.arange(1, len(gap))
    assert np.all(gap[1:] * k <= 0.5 * np.sum(start**2))
    assert slope(gap, 50, 2000) == pytest.approx(-1.0, abs=0.1)


def test_fista_is_second_order():
    """O(1/k²): the gap times (k + 1)² stays below 2L‖Z0 - Z*‖², and the slope is -2."""
    problem, start = hard_problem()
    gap = srr.minimize(problem, start, PLAIN, tol=0.0, max_steps=600).history.objective
    k = np.arange(1, len(gap))
    assert np.all(gap[1:] * (k + 1) ** 2 <= 2 * np.sum(start**2))
    envelope = np.minimum.accumulate(gap)
    assert slope(envelope, 20, 600) == pytest.approx(-2.0, abs=0.25)


@pytest.mark.parametrize(("name", "rate"), [("fixed", 0.98), ("accelerated", 0.9), ("bb", 0.85)])
def test_strong_convexity_is_linear(name, rate):
    """Curvatures from 0.02 to 1: 1/L contracts the gap by (1 - 0.02)² a step or better, restarts by far better."""
    curvature = np.geomspace(0.02, 1.0, 60)
    problem = srr.SparseCoding(np.ones((1, 60)), np.diag(np.sqrt(curvature)), srr.L1(0.01))
    best = srr.minimize(problem, np.zeros((1, 60)), SOLVERS["bb"], tol=1e-13, max_steps=5000).objective
    fell = srr.minimize(problem, np.zeros((1, 60)), SOLVERS[name], tol=1e-9, max_steps=5000).history.objective
    gap = np.maximum(fell - best, 1e-15)
    stop = int(np.argmax(gap < 1e-11)) or len(gap)
    factor = np.exp(np.polyfit(np.arange(stop), np.log(gap[:stop]), 1)[0])
    assert factor < rate
    if name == "fixed":
        assert factor == pytest.approx((1 - 0.02) ** 2, abs=0.02)


def test_restart_never_lets_the_objective_rise_and_is_faster():
    curvature = np.geomspace(1e-3, 1.0, 60)
    problem = srr.SparseCoding(np.ones((1, 60)), np.diag(np.sqrt(curvature)), srr.L1(1e-4))
    start = np.zeros((1, 60))
    plain = srr.minimize(problem, start, PLAIN, tol=1e-8, max_steps=20000)
    restarted = srr.minimize(problem, start, SOLVERS["accelerated"], tol=1e-8, max_steps=20000)
    assert np.any(np.diff(plain.history.objective) > 1e-12)
    assert np.all(np.diff(restarted.history.objective) <= 1e-14)
    assert restarted.steps < plain.steps / 2
    assert restarted.objective == pytest.approx(plain.objective, rel=1e-7)


def test_accelerated_solves_a_batch_item_by_item():
    rng = np.random.default_rng(0)
    Z, D = rng.standard_normal((3, 5, 8)), rng.standard_normal((8, 12))
    batch = srr.minimize(
        srr.SparseCoding(Z, D, srr.L1(0.3)), np.zeros((3, 5, 12)), srr.Accelerated(), tol=1e-8, max_steps=5000
    )
    for i in range(3):
        alone = srr.minimize(
            srr.SparseCoding(Z[i], D, srr.L1(0.3)), np.zeros((5, 12)), srr.Accelerated(), tol=1e-8, max_steps=5000
        )
        assert alone.steps == batch.steps[i]
        np.testing.assert_allclose(alone.Z, batch.Z[i], atol=1e-12)
