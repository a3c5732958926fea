"""Alternating half-steps: each is the operator it names, and together they are a CRATE layer."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime

import srr
from srr.nn import Block
from tests.backends import BACKENDS, Backend, to_numpy

MIX = srr.subspace_mixture(n=40, d=8, K=2, p=4, noise=0.2, seed=0)
PROBLEM = srr.SparseRateReduction(MIX.U, 0.5, srr.UnitL1(0.005))
START = PROBLEM.start(MIX.Z)


def naive_gradient(Z):
    beta = 4 / (40 * 0.25)
    V = [Z @ U for U in MIX.U]
    return beta * sum(v @ np.linalg.inv(np.eye(4) + beta * v.T @ v) @ U.T for v, U in zip(V, MIX.U, strict=True))


def test_exact_compression_is_a_gradient_step():
    beta, alpha = 4 / (40 * 0.25), 8 / (40 * 0.25)
    moved = START - naive_gradient(START) / (beta + alpha / 8)
    np.testing.assert_allclose(srr.solvers.ExactCompression()(PROBLEM, START), moved, atol=1e-12)
    moved = START - 0.3 * naive_gradient(START)
    np.testing.assert_allclose(srr.solvers.ExactCompression(0.3)(PROBLEM, START), moved, atol=1e-12)


def test_neumann_compression_tends_to_the_exact_one():
    exact = srr.solvers.ExactCompression(0.1)(PROBLEM, 0.3 * START)
    errors = [
        np.linalg.norm(srr.solvers.NeumannCompression(k, 0.1)(PROBLEM, 0.3 * START) - exact) for k in (0, 1, 2, 4, 8)
    ]
    assert all(b < 0.8 * a for a, b in pairwise(errors))


def test_softmax_compression_counts_beta_once():
    beta, kappa = 4 / (40 * 0.25), 0.7
    attended = np.zeros_like(START)
    for U in MIX.U:
        V = START @ U
        scores = np.exp(V @ V.T)
        attended += scores / scores.sum(-1, keepdims=True) @ V @ U.T
    wanted = (1 - kappa * beta) * START + kappa * beta * attended
    np.testing.assert_allclose(srr.solvers.SoftmaxCompression(kappa)(PROBLEM, START), wanted, atol=1e-13)
    np.testing.assert_allclose(srr.solvers.ResidualAttention()(PROBLEM, START), START + attended, atol=1e-13)


def test_ista_sparsification_solves_the_lasso_when_repeated():
    D = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0] + 0.1 * np.eye(8)
    step = 1 / np.linalg.norm(D, 2) ** 2
    codes = srr.solvers.IstaSparsification(D, 0.05, step, iterations=4000)(PROBLEM, START)
    problem = srr.SparseCoding(START, D, srr.NonnegativeL1(0.05))
    assert problem.distance(codes) < 1e-7
    one = np.maximum(START + step * (START - START @ D.T) @ D - step * 0.05, 0.0)
    np.testing.assert_allclose(srr.solvers.IstaSparsification(D, 0.05, step)(PROBLEM, START), one, atol=1e-13)


def test_majorized_sparsification():
    alpha = 8 / (40 * 0.25)
    wanted = np.maximum((1 + 4 / (9 * (1 + alpha))) * START - 4 * 0.1 / (9 * alpha), 0.0)
    np.testing.assert_allclose(srr.solvers.MajorizedSparsification(0.1)(PROBLEM, START), wanted, atol=1e-13)


def test_proximal_sparsification_ascends_the_rate_on_the_sphere():
    t = 0.3
    grad = approx_fprime(START.ravel(), lambda z: float(srr.coding_rate(z.reshape(40, 8), eps=0.5)), 1e-7)
    wanted = srr.UnitL1(0.005).prox(START + t * grad.reshape(40, 8), step=t)
    np.testing.assert_allclose(srr.solvers.ProximalSparsification(t)(PROBLEM, START), wanted, atol=1e-6)


@pytest.mark.parametrize("normed", [False, True])
def test_one_step_is_a_crate_layer(normed):
    """The same half-steps with a block's weights give the block's output to 1e-12."""
    torch.manual_seed(0)
    block = Block("crate", dim=8, heads=2, head_dim=4, step=0.1, lam=0.1).double()
    if not normed:
        block.attention_norm = block.dictionary_norm = torch.nn.Identity()
    Z = torch.randn(3, 10, 8, dtype=torch.float64)
    attention, weights = block.attention, block.dictionary
    solver = srr.Alternating(
        srr.solvers.ResidualAttention(4**-0.5, block.attention_norm, attention.out.detach(), attention.bias.detach()),
        srr.solvers.IstaSparsification(weights.D.detach(), lam=0.1, step=0.1, norm=block.dictionary_norm),
    )
    problem = srr.SparseRateReduction(attention.U.detach(), 0.5, srr.L1(0.1))
    with torch.no_grad():
        step, _ = solver.step(problem, Z, solver.init(problem, Z))
        torch.testing.assert_close(step, block(Z), rtol=0, atol=1e-12)
        twice = srr.solvers.unroll([lambda Z: solver.layer(problem, Z)[0]] * 2, Z)
        torch.testing.assert_close(twice, block(block(Z)), rtol=0, atol=1e-12)


def test_exact_layers_reach_the_converged_solver():
    """Layer by layer the objective falls, and the fixed point is one of the whole problem."""
    solver = srr.Alternating()
    solution = srr.minimize(PROBLEM, MIX.Z, solver, tol=1e-9, max_steps=1000)
    assert solution.converged
    assert np.all(np.diff(solution.history.objective) <= 1e-13)
    converged = srr.minimize(PROBLEM, MIX.Z, srr.ProximalGradient(), tol=1e-8)
    assert solution.objective == pytest.approx(converged.objective, rel=1e-9)
    assert PROBLEM.distance(solution.Z) < 1e-9
    unrolled = srr.solvers.unroll([lambda Z: solver.layer(PROBLEM, Z)[0]] * int(solution.steps), START)
    np.testing.assert_allclose(unrolled, solution.Z, atol=1e-12)


def test_softmax_layers_rise_then_fall_short():
    """The softmax follows no gradient: on the reference mixture it peaks near 11.4 of the 12.65 there are."""
    mix = srr.subspace_mixture(n=400, d=32, K=4, p=8, noise=0.3, seed=0)
    problem = srr.SparseRateReduction(mix.U, 0.5, srr.UnitL1(0.005))
    t = 0.5 / problem.smoothness(mix.Z)
    solver = srr.Alternating(srr.solvers.SoftmaxCompression(t), srr.solvers.ProximalSparsification(t))
    reward = -srr.minimize(problem, mix.Z, solver, tol=1e-9, max_steps=300).history.objective
    assert reward[0] < 6.6
    assert 11 < np.max(reward) < 11.8


def test_neumann_layers_need_a_valid_series():
    """Within its region Neumann-1 raises the objective nearly as the exact step does; outside it ends far below."""
    mix = srr.subspace_mixture(n=400, d=32, K=4, p=8, noise=0.3, seed=0)
    gained, valid = {}, {}
    for eps, lam in ((0.7, 0.002), (0.5, 0.005)):
        problem = srr.SparseRateReduction(mix.U, eps, srr.UnitL1(lam))
        valid[eps] = float(srr.ops.neumann_validity(problem.start(mix.Z), mix.U, eps=eps))
        for compress in (srr.solvers.ExactCompression(), srr.solvers.NeumannCompression()):
            history = srr.minimize(problem, mix.Z, srr.Alternating(compress), tol=1e-9, max_steps=100).history
            gained[eps, type(compress)] = history.objective[0] - history.objective[-1]
    assert valid[0.7] < 0.75 < 1.3 < valid[0.5]
    assert gained[0.7, srr.solvers.NeumannCompression] > 0.85 * gained[0.7, srr.solvers.ExactCompression] > 1.5
    assert gained[0.5, srr.solvers.NeumannCompression] < 0 < 5 < gained[0.5, srr.solvers.ExactCompression]


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_backends_agree(backend: Backend):
    problem = srr.SparseRateReduction(backend.asarray(MIX.U), 0.5, srr.UnitL1(0.005))
    solver = srr.Alternating(srr.solvers.SoftmaxCompression(), srr.solvers.ProximalSparsification())
    wanted = srr.solvers.unroll([lambda Z: solver.layer(PROBLEM, Z)[0]] * 3, START)
    got = srr.solvers.unroll([lambda Z: solver.layer(problem, Z)[0]] * 3, backend.asarray(START))
    backend.close(to_numpy(got), wanted, ulps=1e5)


def test_bad_arguments():
    with pytest.raises(TypeError, match="Alternating needs a problem with subspaces"):
        srr.minimize(srr.RateReduction(np.asarray([0, 1]), 0.5, srr.Ridge(0.1)), np.eye(2), srr.Alternating())
    for make in (
        lambda: srr.solvers.ExactCompression(0.0),
        lambda: srr.solvers.NeumannCompression(-1),
        lambda: srr.solvers.SoftmaxCompression(scale=-1.0),
        lambda: srr.solvers.ResidualAttention(-1.0),
        lambda: srr.solvers.IstaSparsification(np.eye(2), lam=-1.0),
        lambda: srr.solvers.IstaSparsification(np.eye(2), iterations=0),
        lambda: srr.solvers.MajorizedSparsification(-0.1),
        lambda: srr.solvers.MajorizedSparsification(0.1, curvature=0.0),
        lambda: srr.solvers.ProximalSparsification(-1.0),
    ):
        with pytest.raises(ValueError, match="must be"):
            make()
