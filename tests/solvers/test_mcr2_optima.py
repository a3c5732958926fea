"""The solver against the closed-form optima of maximal coding rate reduction."""

import numpy as np
import pytest

import srr
from srr.solvers import Status

PUBLISHED = {0.01: 8.08778, 0.03: 4.57802, 0.05: 3.47261, 0.1: 2.31561}
# d, class sizes, ε, λ: every λ lies inside α(√(n/n_max) - 1)/(√(n/n_max) + 1)
OTHERS = [
    (16, (20, 30, 50), 0.5, 0.05),
    (16, (20, 30, 50), 1.0, 0.01),
    (40, (12, 12, 12), 0.5, 0.05),
    (12, (5, 9), 0.7, 0.03),
    (20, (25, 25, 25, 25), 0.3, 0.2),
]
CASES = [(24, (30, 30, 30), 0.5, lam) for lam in PUBLISHED] + OTHERS
BB = srr.ProximalGradient(srr.BarzilaiBorwein())


def labels_of(sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


def optimal_value(d, n, size, eps, lam):
    """Larger root s of λ(1 + αs²)(1 + α_k s²) = α(α_k - α)s², by bisection on the slope beyond its minimum."""
    alpha, own = d / (n * eps**2), d / (size * eps**2)
    roots = np.roots([lam * alpha * own, lam * (alpha + own) - alpha * (own - alpha), lam])
    return np.sqrt(np.max(roots.real)) if np.allclose(roots.imag, 0) else np.nan


def closed_form_objective(d, sizes, eps, lam, ranks):
    """Rate reduction of orthogonal classes with r_k equal singular values each, less the ridge; one per start."""
    n = sum(sizes)
    alpha, total = d / (n * eps**2), 0.0
    for size, rank in zip(sizes, ranks, strict=True):
        s2, own = optimal_value(d, n, size, eps, lam) ** 2, d / (size * eps**2)
        gain = 0.5 * np.log1p(alpha * s2) - size / n * 0.5 * np.log1p(own * s2) - lam / 2 * s2
        total = total + rank * gain
    return -total


def ranks_and_error(Z, d, sizes, eps, lam):
    """Rank of each class, and the largest relative error of its non-zero singular values."""
    ranks, worst = [], 0.0
    for k, size in enumerate(sizes):
        wanted = optimal_value(d, sum(sizes), size, eps, lam)
        sigma = np.linalg.svd(Z[..., labels_of(sizes) == k, :], compute_uv=False)
        on = sigma > 1e-3 * wanted
        worst = max(worst, np.max(np.abs(sigma[on] / wanted - 1), initial=0.0), np.max(sigma[~on], initial=0.0))
        ranks.append(np.sum(on, axis=-1))
    return ranks, worst


def cross_cosine(Z, sizes):
    """Largest |⟨z, z'⟩| of tokens of different classes, relative to the largest squared length."""
    gram, y = np.abs(Z @ Z.mT), labels_of(sizes)
    return np.max(gram * (y[:, None] != y)) / np.max(gram)


@pytest.mark.parametrize("lam", PUBLISHED)
def test_published_singular_values(lam):
    assert optimal_value(24, 90, 30, 0.5, lam) == pytest.approx(PUBLISHED[lam], abs=5e-6)


@pytest.mark.parametrize(("d", "sizes", "eps", "lam"), CASES)
def test_twenty_random_starts_end_at_closed_form_maximizers(d, sizes, eps, lam):
    """Equal singular values to 1e-8, orthogonal classes to 1e-7, the objective to 1e-8, from all 20 starts at once."""
    Z0 = np.random.default_rng(0).standard_normal((20, sum(sizes), d))
    problem = srr.RateReduction(labels_of(sizes), eps, srr.Ridge(lam))
    solution = srr.minimize(problem, Z0, BB, tol=1e-10, max_steps=500)
    assert solution.converged
    ranks, worst = ranks_and_error(solution.Z, d, sizes, eps, lam)
    assert worst < 1e-8
    assert cross_cosine(solution.Z, sizes) < 1e-7
    wanted = closed_form_objective(d, sizes, eps, lam, ranks)
    np.testing.assert_allclose(solution.objective, wanted, rtol=1e-8)
    # The maximizers are global exactly when the ranks fill min(n, d), smaller classes first. Ranks do fill it here.
    assert set(np.sum(ranks, axis=0)) == {min(d, sum(sizes))}
    best = closed_form_objective(d, sizes, eps, lam, _smaller_first(d, sizes))
    assert np.all(solution.objective >= best * (1 + 1e-12))
    if len(set(sizes)) == 1:
        np.testing.assert_allclose(solution.objective, best, rtol=1e-8)


def _smaller_first(d, sizes):
    left, ranks = d, []
    for size in sizes:  # listed from small to large
        ranks.append(min(size, left))
        left -= ranks[-1]
    return ranks


def test_unequal_classes_have_local_maximizers_that_are_not_global():
    d, sizes, eps, lam = OTHERS[0]
    Z0 = np.random.default_rng(0).standard_normal((20, sum(sizes), d))
    problem = srr.RateReduction(labels_of(sizes), eps, srr.Ridge(lam))
    solution = srr.minimize(problem, Z0, BB, tol=1e-10, max_steps=500)
    best = closed_form_objective(d, sizes, eps, lam, _smaller_first(d, sizes))
    assert best < np.min(solution.objective) < np.max(solution.objective) - 0.1
    # from the optimum's own neighborhood it is found
    rng = np.random.default_rng(1)
    Z = 0.05 * rng.standard_normal((sum(sizes), d))
    Z[:16] += 3 * np.linalg.qr(rng.standard_normal((16, 16)))[0]
    near = srr.minimize(problem, Z, BB, tol=1e-10)
    assert near.objective == pytest.approx(best, rel=1e-10)


@pytest.mark.parametrize("lam", PUBLISHED)
def test_lbfgs_finds_them_and_a_warm_start_finishes_the_digits(lam):
    Z0 = np.random.default_rng(1).standard_normal((90, 24))
    problem = srr.RateReduction(labels_of((30, 30, 30)), 0.5, srr.Ridge(lam))
    rough = srr.minimize(problem, Z0, srr.LBFGS(), tol=1e-6)
    assert rough.converged
    assert ranks_and_error(rough.Z, 24, (30, 30, 30), 0.5, lam)[1] < 1e-5
    fine = srr.minimize(problem, rough, BB, tol=1e-11)
    assert fine.converged
    assert fine.steps < 40
    assert ranks_and_error(fine.Z, 24, (30, 30, 30), 0.5, lam)[1] < 1e-9


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_constructed_saddle_is_left(sign):
    """One singular value at the smaller root is a critical point, the lowest one along its own axis: a strict saddle.

    Exactly there no step is taken; a millionth to either side the solver leaves, to the larger root or to zero.
    """
    d, sizes, eps, lam = 6, (10, 10), 0.5, 0.05
    alpha, own = d / (20 * eps**2), d / (10 * eps**2)
    product = (lam / (lam * alpha * own)) ** 0.5  # of the two roots s, by Vieta
    large = optimal_value(d, 20, 10, eps, lam)
    small = product / large
    saddle = np.zeros((20, d))
    saddle[:3, :3] = np.diag([large, large, small])
    saddle[10:13, 3:] = large * np.eye(3)
    problem = srr.RateReduction(labels_of(sizes), eps, srr.Ridge(lam))
    stays = srr.minimize(problem, saddle, BB, tol=1e-9)
    assert (stays.status, stays.steps) == (Status.CONVERGED, 0)
    nudged = saddle.copy()
    nudged[2, 2] += sign * 1e-6
    for solver in (BB, srr.ProximalGradient(), srr.LBFGS()):
        left = srr.minimize(problem, nudged, solver, tol=1e-8, max_steps=3000)
        assert left.converged
        assert left.objective < stays.objective - 1e-4
        assert ranks_and_error(left.Z, d, sizes, eps, lam)[1] < 1e-6


@pytest.mark.parametrize(("d", "sizes", "eps"), [(12, (20, 20, 20), 0.5), (16, (15, 25), 0.3)])
def test_frobenius_constraint(d, sizes, eps):
    """Classes on their spheres end mutually orthogonal; in each, all singular values but the least are equal."""
    y = labels_of(sizes)
    Z0 = np.random.default_rng(0).standard_normal((5, len(y), d))
    problem = srr.RateReduction(y, eps, srr.ClassSpheres(y))
    solution = srr.minimize(problem, Z0, BB, tol=1e-9, max_steps=5000)
    assert solution.converged
    assert cross_cosine(solution.Z, sizes) < 1e-7
    for k, size in enumerate(sizes):
        sigma = np.linalg.svd(solution.Z[:, y == k], compute_uv=False)
        np.testing.assert_allclose(np.sum(sigma**2, axis=-1), size, rtol=1e-10)
        for values in sigma:
            leading = values[values > 1e-6][:-1]
            np.testing.assert_allclose(leading, leading[0], rtol=1e-6)


def test_sphere_constraint_keeps_every_token_at_unit_length():
    y = labels_of((20, 20, 20))
    problem = srr.RateReduction(y, 0.5, srr.UnitL1())
    Z0 = np.random.default_rng(0).standard_normal((60, 12))
    solution = srr.minimize(problem, Z0, BB, tol=1e-8, max_steps=5000)
    assert solution.converged
    np.testing.assert_allclose(np.linalg.norm(solution.Z, axis=-1), 1.0, rtol=1e-12)
    assert cross_cosine(solution.Z, (20, 20, 20)) < 1e-6


def test_lbfgs_says_what_it_needs():
    y = labels_of((3, 3))
    with pytest.raises(TypeError, match="LBFGS needs a penalty with a gradient, such as Ridge; got UnitL1"):
        srr.minimize(srr.RateReduction(y, 0.5, srr.UnitL1()), np.ones((6, 4)), srr.LBFGS())
    with pytest.raises(ValueError, match=r"one problem at a time.*\(2, 6, 4\)"):
        srr.minimize(srr.RateReduction(y, 0.5, srr.Ridge(0.1)), np.ones((2, 6, 4)), srr.LBFGS())
