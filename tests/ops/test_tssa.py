"""Token-statistics attention: loops, the variational bound behind it, causality, linear masks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import srr
from tests import references as ref
from tests.backends import Backend, to_numpy


@pytest.fixture
def released(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return rng.standard_normal((3, 8, 2)), rng.uniform(0.5, 2.0, size=(3, 1)), 0.1 * rng.standard_normal((3, 8, 1))


def test_causal_form_with_offsets(released: tuple, backend: Backend) -> None:
    V, temperature, offset = released
    found = srr.ops.tssa_heads(*map(backend.asarray, (V, temperature)), causal=True, offset=backend.asarray(offset))
    backend.close(found, ref.naive_tssa_heads(V, temperature, causal=True, offset=offset))


def test_causal_rows_equal_the_causal_form_of_every_prefix(released: tuple, library: Backend) -> None:
    V, temperature, _ = released
    t = library.asarray(temperature)
    whole = to_numpy(srr.ops.tssa_heads(library.asarray(V), t, causal=True))
    for i in (0, 1, 4, 7):
        prefix = to_numpy(srr.ops.tssa_heads(library.asarray(V[:, : i + 1]), t, causal=True))
        library.close(whole[:, i], prefix[:, i])


def test_masked_tokens_leave_no_trace(released: tuple, rng: np.random.Generator, backend: Backend) -> None:
    V, temperature, _ = released
    padded = np.concatenate([V, 7.0 * rng.standard_normal((3, 4, 2))], axis=1)
    keep = np.arange(12) < 8
    found = to_numpy(
        srr.ops.tssa_heads(backend.asarray(padded), backend.asarray(temperature), mask=backend.asarray(keep))
    )
    backend.close(found[:, :8], ref.naive_tssa_heads(V, temperature))
    assert not found[:, 8:].any()


def test_zero_tokens_give_zeros(backend: Backend) -> None:
    found = srr.ops.tssa_heads(backend.asarray(np.zeros((3, 5, 2))), backend.asarray(np.ones((3, 1))))
    assert not to_numpy(found).any()
    U = backend.asarray(np.ones((3, 4, 2)))
    assert not to_numpy(srr.ops.tssa(backend.asarray(np.zeros((5, 4))), U)).any()


def test_slope_is_a_parameter(rng: np.random.Generator) -> None:
    """f(x) = x has slope one: the step is then −(1/n) Σ diag(π_k) V_k U_kᵀ."""
    Z, U = rng.standard_normal((6, 4)), ref.random_bases(rng, 2, 4, 2, orthogonal=True)
    Pi = srr.ops.subspace_membership(Z, U, temperature=0.5)
    expected = -sum(np.diag(Pi[:, k]) @ Z @ B @ B.T for k, B in enumerate(U)) / 6
    found = srr.ops.tssa(Z, U, temperature=0.5, slope=np.ones_like)
    np.testing.assert_allclose(found, expected, atol=1e-14)


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.01, 100.0))
def test_variational_bound_and_its_equality(seed: int, scale: float) -> None:
    """Statement 26: Σ f(λ_i(M)) ≤ Σ f((QᵀMQ)_ii) for f = log(1 + ·), equality at an eigenbasis; Σf = 2R."""
    rng = np.random.default_rng(seed)
    Z = scale * rng.standard_normal((6, 4))
    Q = ref.random_rotation(rng, 4)
    alpha = 4 / (6 * 0.25)
    rate = 2 * float(srr.coding_rate(Z, eps=0.5))
    assert rate <= np.sum(np.log1p(alpha * np.sum((Z @ Q) ** 2, axis=0))) * (1 + 1e-12)
    eigenbasis = np.linalg.eigh(Z.T @ Z)[1]
    assert rate == pytest.approx(np.sum(np.log1p(alpha * np.sum((Z @ eigenbasis) ** 2, axis=0))), rel=1e-9)


def test_tssa_is_the_gradient_of_the_bound_with_memberships_fixed(rng: np.random.Generator) -> None:
    """½ Σ_k ⟨π_k,1⟩/n Σ_j f(π_kᵀ v_kj²/⟨π_k,1⟩) differentiated in Z at fixed π, negated."""
    Z, U = rng.standard_normal((7, 6)), ref.random_bases(rng, 3, 6, 2, orthogonal=False)
    Pi = srr.ops.subspace_membership(Z, U, temperature=0.8)

    def bound(X: np.ndarray) -> float:
        total = 0.0
        for k, B in enumerate(U):
            mass = Pi[:, k].sum()
            total += 0.5 * mass / 7 * np.sum(np.log1p(Pi[:, k] @ (X @ B) ** 2 / mass))
        return total

    gradient = ref.central_gradient(bound, Z, step=1e-6)
    np.testing.assert_allclose(srr.ops.tssa(Z, U, temperature=0.8), -gradient, atol=1e-9)
