"""The reference mixture: what the solver finds on the sphere, in a rotated frame, and without any bound."""

import numpy as np
import pytest

import srr
from srr.solvers import Status
from tests.backends import BACKENDS, Backend, to_numpy

REFERENCE = {"n": 400, "d": 32, "K": 4, "p": 8, "noise": 0.3}
RULES = [srr.FixedStep(), srr.Backtracking(), srr.BarzilaiBorwein()]


def measures(Z, mix):
    """Share of tokens whose strongest subspace is their own, and the largest energy outside the strongest."""
    energy = np.sum((Z @ mix.U) ** 2, axis=-1)
    return np.mean(np.argmax(energy, axis=0) == mix.labels), np.max(1 - np.max(energy, axis=0))


@pytest.mark.parametrize("seed", range(5))
def test_sphere_problem(seed):
    """λ = 0.005, axis-aligned: under 50 steps, SRR 6.6 → 12.65, 3 % non-zeros, own subspaces."""
    mix = srr.subspace_mixture(**REFERENCE, seed=seed)
    problem = srr.SparseRateReduction(mix.U, 0.5, srr.UnitL1(0.005))
    solution = srr.minimize(problem, mix.Z, srr.ProximalGradient(), tol=1e-7)
    assert solution.status is Status.CONVERGED
    assert solution.steps < 50
    assert -solution.history.objective[0] < 6.8
    assert -solution.objective > 12.6
    assert 0.03 < np.mean(solution.Z != 0) < 0.0325
    own, outside = measures(solution.Z, mix)
    assert own >= 0.99
    assert outside < 1e-3
    independent = srr.sparse_rate_reduction(solution.Z, mix.U, eps=0.5, lam=0.005)
    assert -solution.objective == pytest.approx(independent, rel=1e-12)


def test_the_best_value_is_that_of_evenly_used_axes():
    """On one-hot tokens the rates are sums over axes: 400 tokens do best with 12 or 13 on each of 32 axes."""
    counts = np.repeat([12, 13], 16)
    alpha, beta = 32 / (400 * 0.25), 8 / (400 * 0.25)
    best = 0.5 * np.sum(np.log1p(alpha * counts) - np.log1p(beta * counts)) - 0.005 * 400
    assert best == pytest.approx(12.6557, abs=1e-4)
    mix = srr.subspace_mixture(**REFERENCE, seed=0)
    problem = srr.SparseRateReduction(mix.U, 0.5, srr.UnitL1(0.005))
    solution = srr.minimize(problem, mix.Z, srr.ProximalGradient(srr.FixedStep()), tol=1e-7)
    assert best - 0.003 < -solution.objective < best


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("penalty", [srr.UnitL1(0.005), srr.L1(0.001), srr.NonnegativeL1(0.001)], ids=repr)
def test_no_rule_lets_the_objective_rise(rule, penalty):
    """Monotone for 1/L and backtracking; Barzilai-Borwein stays below the largest of its ten last values."""
    mix = srr.subspace_mixture(n=100, d=16, K=4, p=4, noise=0.3, seed=1)
    problem = srr.SparseRateReduction(mix.U, 0.5, penalty)
    fell = srr.minimize(problem, mix.Z, srr.ProximalGradient(rule), tol=0.0, max_steps=80).history.objective
    memory = max(rule.memory, 1)
    for step in range(1, len(fell)):
        assert fell[step] <= np.max(fell[max(step - memory, 0) : step]) + 1e-12


@pytest.mark.parametrize("seed", range(2))
def test_rotated_subspaces_need_a_rotated_frame(seed):
    """The standard basis fights subspaces turned against it; the frame they were turned with restores the result."""
    mix = srr.subspace_mixture(**REFERENCE, rotated=True, seed=seed)
    solver = srr.ProximalGradient()
    plain = srr.minimize(srr.SparseRateReduction(mix.U, 0.5, srr.UnitL1(0.005)), mix.Z, solver, tol=1e-7)
    frame = srr.SparseRateReduction(mix.U, 0.5, srr.UnitL1(0.005), D=mix.D)
    turned = srr.minimize(frame, mix.Z, solver, tol=1e-7)
    assert measures(plain.Z, mix)[0] < 0.6
    assert turned.converged
    own, outside = measures(turned.Z, mix)
    assert own >= 0.99
    assert outside < 1e-3
    still = srr.subspace_mixture(**REFERENCE, seed=seed)
    assert np.mean(np.abs(turned.Z @ mix.D) > 1e-12) < 0.0325
    assert still.Z.shape == mix.Z.shape


def test_without_a_bound_the_problem_degenerates():
    """λ = 0.005 in the whole space: a few enormous tokens carry everything, 0.25 %-1.7 % of the entries."""
    mix = srr.subspace_mixture(**REFERENCE, seed=0)
    problem = srr.SparseRateReduction(mix.U, 0.5, srr.L1(0.005))
    solution = srr.minimize(problem, mix.Z, srr.ProximalGradient(), tol=1e-7, max_steps=5000)
    lengths = np.linalg.norm(solution.Z, axis=-1)
    assert np.mean(solution.Z != 0) < 0.017
    assert np.max(lengths) > 10 * np.mean(lengths)
    assert np.mean(lengths == 0) > 0.7
    assert -solution.objective > 12.7  # beyond anything the sphere allows


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_every_backend_walks_the_same_path(backend: Backend):
    mix = srr.subspace_mixture(n=60, d=8, K=2, p=4, noise=0.3, seed=0)
    like = srr.subspace_mixture(
        n=60, d=8, K=2, p=4, noise=0.3, seed=0, xp=backend.xp, dtype=getattr(backend.xp, backend.dtype)
    )
    wanted = srr.minimize(
        srr.SparseRateReduction(mix.U, 0.5, srr.UnitL1(0.005)), mix.Z, srr.ProximalGradient(), max_steps=12
    )
    problem = srr.SparseRateReduction(like.U, 0.5, srr.UnitL1(0.005))
    solution = srr.minimize(problem, like.Z, srr.ProximalGradient(), max_steps=12)
    rounding = 1e-3 if backend.dtype == "float32" else 1e-10
    assert type(solution.Z) is type(like.Z)
    assert solution.Z.dtype == like.Z.dtype
    np.testing.assert_allclose(to_numpy(solution.Z), wanted.Z, atol=rounding)
    np.testing.assert_allclose(solution.history.objective, wanted.history.objective, rtol=rounding)


def test_float32_tokens_converge_as_far_as_they_can():
    mix = srr.subspace_mixture(**REFERENCE, seed=0, dtype=np.float32)
    problem = srr.SparseRateReduction(mix.U, 0.5, srr.UnitL1(0.005))
    solution = srr.minimize(problem, mix.Z, srr.ProximalGradient(), tol=1e-5)
    assert solution.converged
    assert -solution.objective > 12.6
