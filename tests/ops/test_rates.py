"""Coding rates: units, weights and masks, value-and-gradient pairs, theory's reference numbers."""

import numpy as np
import pytest

import srr
from tests import references as ref
from tests.backends import NUMPY, Backend, to_numpy

EPS = 0.5


def test_the_distortion_is_eps_and_not_its_square() -> None:
    """A hand computation: Z = I₄, ε = ½ gives α = 4/(4·¼) = 4 and R = ½·4·log 5."""
    assert float(srr.coding_rate(np.eye(4), eps=0.5)) == pytest.approx(2.0 * np.log(5.0), rel=1e-15)
    assert srr.ops.rate_scale(10, 6, eps=0.5) == pytest.approx(6 / (10 * 0.25), rel=1e-15)


def test_rate_scale_with_counts() -> None:
    scale = srr.ops.rate_scale(np.array([0.0, 3.0]), 6, eps=0.5)
    np.testing.assert_allclose(to_numpy(scale), [0.0, 6 / (3 * 0.25)], rtol=1e-15)


@pytest.mark.parametrize("function", ["coding_rate", "subspace_coding_rate", "sparse_rate_reduction"])
def test_pairs_are_the_definition_and_its_derivative(rng: np.random.Generator, function: str, backend: Backend) -> None:
    Z, U = rng.standard_normal((2, 9, 6)), ref.random_bases(rng, 3, 6, 2, orthogonal=True)
    options = {"eps": EPS, "lam": 0.1} if function == "sparse_rate_reduction" else {"eps": EPS}
    rates = {
        "coding_rate": lambda z: ref.analytic_coding_rate(z, EPS),
        "subspace_coding_rate": lambda z: ref.analytic_subspace_coding_rate(z, U, EPS),
    }
    rates["sparse_rate_reduction"] = lambda z: rates["coding_rate"](z) - rates["subspace_coding_rate"](z)
    weight = options.get("lam", 0.0)
    arguments = (backend.asarray(Z),) if function == "coding_rate" else (backend.asarray(Z), backend.asarray(U))
    value, grad = getattr(srr.ops, f"{function}_value_and_grad")(*arguments, **options)
    backend.close(value, np.array([rates[function](z).real - weight * np.abs(z).sum() for z in Z]), ulps=200)
    backend.close(grad, np.stack([ref.complex_step_gradient(rates[function], z) for z in Z]), ulps=400)


def test_unit_weights_change_nothing(rng: np.random.Generator) -> None:
    Z = rng.standard_normal((2, 9, 6))
    ones = np.ones(Z.shape[:-1])
    NUMPY.close(srr.coding_rate(Z, eps=EPS, weights=ones), srr.coding_rate(Z, eps=EPS), ulps=8)
    NUMPY.close(srr.coding_rate_grad(Z, eps=EPS, weights=ones), srr.coding_rate_grad(Z, eps=EPS), ulps=8)


def test_zero_weights_mask_tokens(rng: np.random.Generator, backend: Backend) -> None:
    """The masked rate is the rate of the tokens that remain, whatever the padding holds."""
    Z = rng.standard_normal((9, 6))
    padded = np.concatenate([Z, 1e3 * rng.standard_normal((4, 6))])
    weights = backend.asarray(np.concatenate([np.ones(9), np.zeros(4)]))
    tokens = backend.asarray(padded)
    backend.close(srr.coding_rate(tokens, eps=EPS, weights=weights), ref.naive_coding_rate(Z, EPS))
    grad = to_numpy(srr.coding_rate_grad(tokens, eps=EPS, weights=weights))
    assert not grad[9:].any()
    backend.close(grad[:9], ref.complex_step_gradient(lambda X: ref.analytic_coding_rate(X, EPS), Z))


def test_a_batch_of_masks_broadcasts_over_shared_tokens(rng: np.random.Generator) -> None:
    Z = rng.standard_normal((9, 6))
    weights = rng.uniform(size=(4, 9))
    stacked = np.broadcast_to(Z, (4, 9, 6))
    values = srr.coding_rate(np.ascontiguousarray(stacked), eps=EPS, weights=weights)
    NUMPY.close(values, np.array([ref.naive_coding_rate(Z, EPS, w) for w in weights]))


def test_integer_weights_repeat_tokens(rng: np.random.Generator) -> None:
    Z = rng.standard_normal((5, 6))
    counts = np.array([1, 3, 2, 1, 4])
    repeated = srr.coding_rate(np.repeat(Z, counts, axis=0), eps=EPS)
    NUMPY.close(srr.coding_rate(Z, eps=EPS, weights=counts.astype(float)), np.asarray(repeated))


def test_all_zero_weights_give_zero_rate_and_gradient(rng: np.random.Generator, backend: Backend) -> None:
    Z = backend.asarray(rng.standard_normal((2, 5, 6)))
    weights = backend.asarray(np.stack([np.zeros(5), np.ones(5)]))
    value, grad = srr.ops.coding_rate_value_and_grad(Z, eps=EPS, weights=weights)
    assert float(to_numpy(value)[0]) == 0.0
    assert not to_numpy(grad)[0].any()
    assert np.isfinite(to_numpy(grad)).all()
    assert float(to_numpy(value)[1]) > 0.0


def test_zero_tokens_cost_nothing(backend: Backend) -> None:
    Z, U = backend.asarray(np.zeros((2, 5, 6))), backend.asarray(np.ones((2, 6, 3)))
    for value, grad in (
        srr.ops.coding_rate_value_and_grad(Z, eps=EPS),
        srr.ops.subspace_coding_rate_value_and_grad(Z, U, eps=EPS),
    ):
        assert not to_numpy(value).any()
        assert not to_numpy(grad).any()


def test_heads_may_have_any_columns(rng: np.random.Generator) -> None:
    """A trained U is neither orthonormal nor of full rank, and may have more columns than d."""
    Z, U = rng.standard_normal((7, 4)), rng.standard_normal((2, 4, 6))
    U[1, :, 3] = U[1, :, 0]
    NUMPY.close(srr.subspace_coding_rate(Z, U, eps=EPS), ref.naive_subspace_coding_rate(Z, U, EPS))
    truth = ref.complex_step_gradient(lambda X: ref.analytic_subspace_coding_rate(X, U, EPS), Z)
    NUMPY.close(srr.subspace_coding_rate_grad(Z, U, eps=EPS), truth)


def test_one_head_of_the_whole_space_is_the_coding_rate(rng: np.random.Generator) -> None:
    Z = rng.standard_normal((7, 4))
    U = ref.random_rotation(rng, 4)[None]
    NUMPY.close(srr.subspace_coding_rate(Z, U, eps=EPS), np.asarray(ref.naive_coding_rate(Z, EPS)))


def test_complete_isotropic_tokens_approach_the_log_k_bound() -> None:
    """Statement 7: 22.168 of ½ d log K = 22.181 at d = 32, K = 4."""
    U = np.eye(32).reshape(32, 4, 8).transpose(1, 0, 2)
    values = []
    for size in (1e1, 1e2, 1e3):
        Z = size * np.concatenate([np.eye(32), -np.eye(32)])
        reduction = float(srr.sparse_rate_reduction(Z, U, eps=0.5, lam=0.0))
        alpha, energy = 32 / (64 * 0.25), 2 * size**2
        assert reduction == pytest.approx(16 * (np.log1p(alpha * energy) - np.log1p(alpha * energy / 4)), rel=1e-12)
        values.append(reduction)
    bound = 16 * np.log(4.0)
    assert bound == pytest.approx(22.181, abs=5e-4)
    assert values[0] < values[1] < values[2] < bound
    assert bound - values[2] < 1e-4


def test_a_rank_one_set_spread_over_all_heads_is_negative() -> None:
    """Statement 7: the reduction has no lower bound at zero."""
    U = np.eye(32).reshape(32, 4, 8).transpose(1, 0, 2)
    Z = np.ones((50, 1)) @ np.ones((1, 32))
    assert float(srr.sparse_rate_reduction(Z, U, eps=0.5, lam=0.0)) < -1.0


def test_the_sparsity_term_is_lam_times_the_l1_norm(rng: np.random.Generator) -> None:
    Z, U = rng.standard_normal((2, 7, 4)), ref.random_bases(rng, 2, 4, 2, orthogonal=True)
    smooth = srr.sparse_rate_reduction(Z, U, eps=EPS, lam=0.0)
    whole = srr.sparse_rate_reduction(Z, U, eps=EPS, lam=0.3)
    NUMPY.close(smooth - whole, 0.3 * np.abs(Z).sum((-2, -1)))


def test_core_dtype_chooses_the_precision_of_the_core(rng: np.random.Generator) -> None:
    Z = rng.standard_normal((30, 20)).astype(np.float32)
    exact = ref.naive_coding_rate(Z.astype(np.float64), EPS)
    fast = srr.coding_rate(Z, eps=EPS, core_dtype=np.float32)
    assert fast.dtype == np.float32
    assert float(fast) == pytest.approx(exact, rel=1e-5)
    assert float(srr.coding_rate(Z, eps=EPS)) == pytest.approx(exact, rel=float(np.finfo(np.float32).eps))
