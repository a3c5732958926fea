"""Problems: values against the operators, gradients against central differences, curvature against its bound."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import sparse_encode

import srr
from tests.backends import BACKENDS, Backend, to_numpy


def problems(n=30, d=6, seed=0):
    rng = np.random.default_rng(seed)
    U = srr.ops.orthonormalize(rng.standard_normal((3, d, 2)))
    Pi = rng.dirichlet(np.ones(3), n)
    return {
        "srr": srr.SparseRateReduction(U, 0.5),
        "srr-outside": srr.SparseRateReduction(U[:2], 0.5, outside=1.5),
        "mcr2-labels": srr.RateReduction(rng.integers(0, 3, n), 0.5, srr.Ridge(0.1)),
        "mcr2-weights": srr.RateReduction(Pi, 0.5, srr.Ridge(0.1)),
        "coding": srr.SparseCoding(
            rng.standard_normal((n, d)), rng.standard_normal((d, d)) / 2, srr.NonnegativeL1(0.1)
        ),
    }


@pytest.mark.parametrize("which", list(problems()))
@pytest.mark.parametrize("n", [4, 30])
def test_gradient_matches_central_differences(which, n):
    problem = problems(n)[which]
    rng = np.random.default_rng(1)
    Z, V = rng.standard_normal((2, n, 6))
    h = 1e-5
    slope = (problem.value(Z + h * V) - problem.value(Z - h * V)) / (2 * h)
    assert np.sum(problem.grad(Z) * V) == pytest.approx(slope, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("which", list(problems()))
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-2, 30.0))
def test_curvature_stays_below_the_smoothness_constant(which, seed, scale):
    """f(B) ≤ f(A) + ⟨∇f(A), B - A⟩ + L‖B - A‖²/2 for every pair."""
    problem = problems()[which]
    rng = np.random.default_rng(seed)
    A = scale * rng.standard_normal((30, 6))
    B = A + scale * rng.exponential() * rng.standard_normal((30, 6))
    value, grad = problem.value_and_grad(A)
    model = value + np.sum(grad * (B - A)) + problem.smoothness(A) / 2 * np.sum((B - A) ** 2)
    assert problem.value(B) <= model + 1e-9 * (1 + abs(model))


def test_smoothness_constant_is_reached():
    """At Z = 0 the Hessian of R^c alone reaches L_c, along a token that lies in all heads at once."""
    U = np.repeat(np.eye(6)[None, :, :2], 5, axis=0)  # one plane, five times: ‖ΣUUᵀ‖ = 5
    problem = srr.SparseRateReduction(U, 0.5)
    alpha, beta = 6 / (30 * 0.25), 2 / (30 * 0.25)
    Z, V = np.zeros((30, 6)), np.zeros((30, 6))
    V[0, 0] = 1e-4
    curvature = np.sum(V * (problem.grad(Z + V) - problem.grad(Z))) / np.sum(V**2)
    assert problem.smoothness(Z) == pytest.approx(5 * beta + alpha / 8)
    assert curvature == pytest.approx(5 * beta - alpha, rel=1e-6)


@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 40),
    eps=st.floats(0.05, 2.0),
    scale=st.floats(1e-3, 1e2),
    K=st.integers(1, 4),
)
def test_srr_from_the_second_moment_equals_the_operators(seed, n, eps, scale, K):
    """One Gram matrix and one product give what two operators with their projections and solves give."""
    rng = np.random.default_rng(seed)
    Z = scale * rng.standard_normal((2, n, 7))
    U = rng.standard_normal((K, 7, 3))
    value, grad = srr.SparseRateReduction(U, eps).value_and_grad(Z)
    wanted = srr.subspace_coding_rate(Z, U, eps=eps) - srr.coding_rate(Z, eps=eps)
    wanted_grad = -srr.sparse_rate_reduction_grad(Z, U, eps=eps)
    size = srr.coding_rate(Z, eps=eps) + srr.subspace_coding_rate(Z, U, eps=eps)
    assert np.all(np.abs(value - wanted) <= 1e-11 * (1 + size))
    whole = np.linalg.norm(srr.coding_rate_grad(Z, eps=eps))
    parts = np.linalg.norm(srr.subspace_coding_rate_grad(Z, U, eps=eps)) + whole
    np.testing.assert_allclose(grad, wanted_grad, rtol=0, atol=1e-9 * (1 + parts))


def test_mcr2_equals_the_operator():
    rng = np.random.default_rng(0)
    Z, labels = rng.standard_normal((30, 6)), rng.integers(0, 3, 30)
    problem = srr.RateReduction(labels, 0.5, srr.Ridge(0.2))
    assert problem.value(Z) == pytest.approx(-srr.rate_reduction(Z, labels, eps=0.5), rel=1e-14)
    assert problem.objective(Z) == pytest.approx(
        -srr.rate_reduction(Z, labels, eps=0.5) + 0.1 * np.sum(Z**2), rel=1e-14
    )


def test_sparse_coding_distance_vanishes_at_the_coordinate_descent_solution():
    rng = np.random.default_rng(0)
    Z, D = rng.standard_normal((5, 8)), rng.standard_normal((8, 12))
    codes = sparse_encode(Z, D.T, algorithm="lasso_cd", alpha=0.5, max_iter=100000)
    problem = srr.SparseCoding(Z, D, srr.L1(0.5))
    assert problem.distance(codes) < 2e-3
    assert problem.distance(codes + 0.1) > 0.1


@pytest.mark.parametrize(
    ("backend", "which"),
    [
        pytest.param(backend, which, id=f"{backend.name}-{which}")
        for backend in BACKENDS
        for which in problems()
        if backend.name != "jax" or not which.startswith("mcr2")  # compiled on JAX by the operator's own tests
    ],
)
def test_backends_agree(backend: Backend, which):
    reference, Z = problems()[which], np.random.default_rng(3).standard_normal((30, 6))
    arrays = {
        "srr": lambda: srr.SparseRateReduction(backend.asarray(reference.U), 0.5),
        "srr-outside": lambda: srr.SparseRateReduction(backend.asarray(reference.U), 0.5, outside=1.5),
        "mcr2-labels": lambda: srr.RateReduction(backend.asarray(reference.Pi), 0.5, srr.Ridge(0.1)),
        "mcr2-weights": lambda: srr.RateReduction(backend.asarray(reference.Pi), 0.5, srr.Ridge(0.1)),
        "coding": lambda: srr.SparseCoding(
            backend.asarray(reference.Z), backend.asarray(reference.D), reference.penalty
        ),
    }
    problem = arrays[which]()
    value, grad = problem.value_and_grad(backend.asarray(Z))
    wanted, wanted_grad = reference.value_and_grad(Z)
    assert float(value) == pytest.approx(float(wanted), rel=1e-5 if backend.dtype == "float32" else 1e-12)
    backend.close(grad, wanted_grad)
    assert "float64" in str(value.dtype)
    assert float(problem.smoothness(backend.asarray(Z))) == pytest.approx(reference.smoothness(Z), rel=1e-6)


def test_tokens_keep_their_dtype_and_the_core_can_be_float32():
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((30, 6)).astype(np.float32)
    U = srr.ops.orthonormalize(rng.standard_normal((3, 6, 2))).astype(np.float32)
    value, grad = srr.SparseRateReduction(U, 0.5).value_and_grad(Z)
    assert (value.dtype, grad.dtype) == (np.float64, np.float32)
    value32, grad32 = srr.SparseRateReduction(U, 0.5, core_dtype=np.float32).value_and_grad(Z)
    assert (value32.dtype, grad32.dtype) == (np.float32, np.float32)
    assert float(value32) == pytest.approx(float(value), rel=1e-4)


def test_sparsity_frame():
    D = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    Z = np.eye(4)
    problem = srr.SparseRateReduction(np.eye(4)[None], 0.5, srr.L1(0.3), D=D)
    assert problem.objective(Z) - problem.value(Z) == pytest.approx(0.3 * np.sum(np.abs(D)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: srr.SparseRateReduction(np.ones((4, 2)), 0.5), "U must have at least 3 axes"),
        (lambda: srr.SparseRateReduction(np.ones((1, 4, 2)), 0.0), "eps must be"),
        (lambda: srr.SparseRateReduction(np.ones((1, 4, 2)), 0.5).value(np.ones((3, 5))), "U must have shape"),
        (lambda: srr.SparseRateReduction(np.ones((1, 4, 2)), 0.5).value(np.full((3, 4), np.nan)), "must be finite"),
        (lambda: srr.RateReduction(np.asarray([0, 1]), -1.0, srr.Ridge()), "eps must be"),
        (lambda: srr.SparseCoding(np.ones((3, 4)), np.ones((5, 6)), srr.L1(0.1)), "D must have shape"),
        (lambda: srr.SparseCoding(np.full((3, 4), np.inf), np.ones((4, 6)), srr.L1(0.1)), "Z must be finite"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_values_are_batched():
    problem = problems()["srr"]
    Z = np.random.default_rng(0).standard_normal((2, 3, 30, 6))
    value, grad = problem.value_and_grad(Z)
    assert value.shape == (2, 3)
    assert float(to_numpy(value)[1, 2]) == pytest.approx(float(problem.value(Z[1, 2])), rel=1e-12)
    np.testing.assert_allclose(grad[1, 2], problem.grad(Z[1, 2]), rtol=1e-9, atol=1e-12)


# --- K·p < d: the part of the space that no subspace covers


def narrow():
    return srr.subspace_mixture(n=400, d=32, K=4, p=4, noise=0.1, seed=0)


def on_subspaces(Z, U):
    """Share of the energy on the union of orthogonal subspaces."""
    return float(np.sum((Z @ U) ** 2) / np.sum(Z**2))


def test_outside_is_the_energy_off_the_span_from_an_independent_projector():
    rng = np.random.default_rng(0)
    U = rng.standard_normal((2, 7, 2))
    U[1, :, 1] = U[0, :, 0]  # a shared direction: the span has dimension 3
    Z = rng.standard_normal((5, 7))
    span = np.linalg.svd(np.concatenate(list(U), axis=1))[0][:, :3]
    off = Z - Z @ span @ span.T
    weight = 2.0 * 7 / (5 * 0.5**2)
    free, charged = srr.SparseRateReduction(U, 0.5), srr.SparseRateReduction(U, 0.5, outside=2.0)
    assert charged.value(Z) - free.value(Z) == pytest.approx(weight / 2 * np.sum(off**2), rel=1e-12)
    np.testing.assert_allclose(charged.grad(Z) - free.grad(Z), weight * off, rtol=1e-11, atol=1e-12)


def test_solutions_leave_narrow_subspaces_unless_outside_is_charged():
    mix = narrow()
    Z = mix.Z / np.linalg.norm(mix.Z, axis=1, keepdims=True)
    assert on_subspaces(Z, mix.U) > 0.93
    free, charged = (srr.SparseRateReduction(mix.U, 0.5, srr.UnitL1(0.005), outside=mu) for mu in (0.0, 1.0))
    with pytest.warns(UserWarning, match="give SparseRateReduction outside=1") as seen:
        left = srr.minimize(free, Z, srr.ProximalGradient())
    assert len(seen) == 1
    assert seen[0].filename == __file__  # the line that called minimize
    stayed = srr.minimize(charged, Z, srr.ProximalGradient())
    assert left.converged
    assert stayed.converged
    assert on_subspaces(left.Z, mix.U) < 0.5
    assert on_subspaces(stayed.Z, mix.U) > 1 - 1e-9


def test_no_warning_where_subspaces_fill_the_space_or_outside_is_charged(recwarn):
    mix = narrow()
    srr.SparseRateReduction(mix.U, 0.5, outside=1.0).start(mix.Z)
    srr.SparseRateReduction(np.eye(4)[None], 0.5).start(np.eye(4))
    assert not [w for w in recwarn if "outside" in str(w.message)]


def test_outside_must_not_be_negative():
    with pytest.raises(ValueError, match="outside must be"):
        srr.SparseRateReduction(np.eye(4)[None], 0.5, outside=-1.0)
