"""The sphere of layer norm, the bound of a spectral norm, and the energy of softmax attention."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import srr
from tests import references as ref

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("d", [2, 3, 7])
@pytest.mark.parametrize("radius", [None, 0.0, 2.5])
def test_no_centered_token_of_that_norm_is_nearer(d, radius):
    Z = RNG.standard_normal((20, d)) * 10.0 ** RNG.uniform(-8, 8, (20, 1))
    found = srr.ops.centered_sphere(Z, radius=radius)
    length = d**0.5 if radius is None else radius
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), length, rtol=1e-12)
    np.testing.assert_allclose(found.mean(-1), 0.0, atol=1e-12 * max(length, 1))
    others = RNG.standard_normal((2000, d))
    others -= others.mean(-1, keepdims=True)
    others *= length / np.linalg.norm(others, axis=-1, keepdims=True)
    reached = np.linalg.norm(Z - found, axis=-1)
    near = np.linalg.norm(Z[:, None] - others, axis=-1).min(-1)
    assert (reached <= near + 1e-12 * (1 + np.linalg.norm(Z, axis=-1))).all()


def test_layer_norm_without_offset_is_the_projection():
    Z = RNG.standard_normal((6, 9)) * 3 + 1
    np.testing.assert_allclose(srr.ops.centered_sphere(Z), srr.ops.layer_norm(Z, offset=0.0), rtol=1e-13)


@pytest.mark.parametrize("constant", [0.0, 3.7, -1e8, 1e-8])
def test_a_constant_token_goes_to_a_point_of_the_sphere(constant):
    found = srr.ops.centered_sphere(np.full((1, 5), constant), radius=2.0)
    np.testing.assert_allclose(found, 2.0 * np.asarray([[1, -1, 0, 0, 0]]) / 2**0.5)


def test_the_derivative_at_a_constant_token_is_finite():
    torch = pytest.importorskip("torch")
    Z = torch.ones(2, 4, dtype=torch.float64, requires_grad=True)
    srr.ops.centered_sphere(Z).square().sum().backward()
    assert torch.isfinite(Z.grad).all()


@settings(max_examples=60, deadline=None)
@given(
    d=st.integers(1, 12),
    rank=st.integers(0, 12),
    exponent=st.floats(-140, 140),
    squarings=st.integers(0, 5),
    seed=st.integers(0, 999),
)
def test_spectral_bound_lies_between_the_norm_and_its_power_of_the_width(d, rank, exponent, squarings, seed):
    A = np.random.default_rng(seed).standard_normal((rank, d)) * 10.0 ** (exponent / 2)
    M = A.T @ A
    norm = np.linalg.norm(M, 2) if rank else 0.0
    bound = float(srr.ops.spectral_bound(M, squarings=squarings))
    assert norm <= bound * (1 + 1e-13) <= norm * d ** (0.5 ** (squarings + 1)) * (1 + 1e-12)


def test_spectral_bound_of_orthonormal_columns_is_reached():
    M = np.diag([3.0, 0.0, 0.0])
    np.testing.assert_allclose(srr.ops.spectral_bound(M), 3.0, rtol=1e-13)
    np.testing.assert_allclose(srr.ops.spectral_bound(2 * np.eye(16)), 2 * 16 ** (1 / 16), rtol=1e-13)


def test_spectral_bound_has_the_derivative_of_the_power_mean():
    torch = pytest.importorskip("torch")
    A = torch.as_tensor(RNG.standard_normal((4, 3))).requires_grad_()
    assert torch.autograd.gradcheck(lambda A: srr.ops.spectral_bound(A.mT @ A), (A,))
    zero = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    srr.ops.spectral_bound(zero).backward()
    assert torch.isfinite(zero.grad).all()


@pytest.mark.parametrize("sigma", [(0.7, 0.2), (-0.7, -0.2), (0.5, -0.5)])
def test_curvature_of_the_energy_is_inside_its_bound(sigma):
    """L = ‖Σ max(σ, 0) s p UUᵀ‖ bounds the Hessian above for keys of norm √p; concave heads add nothing."""
    n, d, p = 3, 5, 2
    U, scales = RNG.standard_normal((2, d, p)), np.asarray([0.9, 1.7])
    Y = RNG.standard_normal((2, 4, p))
    Y *= p**0.5 / np.linalg.norm(Y, axis=-1, keepdims=True)
    weights = np.asarray(sigma)
    bound = np.linalg.norm(sum(max(w, 0) * s * p * B @ B.T for w, s, B in zip(weights, scales, U, strict=True)), 2)
    for _ in range(20):
        Z, V = RNG.standard_normal((n, d)), RNG.standard_normal((n, d))
        slope = [srr.ops.softmax_energy_grad(Z + t * V, U, Y, weights, scales) for t in (1e-5, -1e-5)]
        quadratic = np.sum(V * (slope[0] - slope[1])) / 2e-5
        assert quadratic <= bound * np.sum(V * V) + 1e-6


def test_a_token_that_sees_no_key_adds_nothing():
    Z, U, Y = RNG.standard_normal((3, 4)), RNG.standard_normal((1, 4, 2)), RNG.standard_normal((1, 3, 2))
    seen = np.asarray([[True, True, True], [False, False, False], [True, False, True]])
    options = (U, Y, np.ones(1), np.ones(1))
    assert not srr.ops.softmax_energy_grad(Z, *options, mask=seen)[1].any()
    rest = ref.naive_softmax_energy(Z[[0, 2]], *options, mask=seen[[0, 2]])
    np.testing.assert_allclose(srr.ops.softmax_energy(Z, *options, mask=seen), rest, rtol=1e-13)


WRONG = {
    "one coordinate": (lambda: srr.ops.centered_sphere(np.ones((3, 1))), "d >= 2"),
    "negative radius": (lambda: srr.ops.centered_sphere(np.ones((3, 2)), radius=-1.0), "radius"),
    "not square": (lambda: srr.ops.spectral_bound(np.ones((3, 2))), "square"),
    "keys of other heads": (
        lambda: srr.ops.softmax_energy(np.ones((3, 4)), np.ones((2, 4, 2)), np.ones((1, 3, 2)), np.ones(2), np.ones(2)),
        "K=2 and p=2",
    ),
    "weights of other heads": (
        lambda: srr.ops.softmax_energy(np.ones((3, 4)), np.ones((2, 4, 2)), np.ones((2, 3, 2)), np.ones(3), np.ones(2)),
        "weights must have shape",
    ),
    "a scale of zero": (
        lambda: srr.ops.softmax_energy(
            np.ones((3, 4)), np.ones((2, 4, 2)), np.ones((2, 3, 2)), np.ones(2), np.zeros(2)
        ),
        "scales must be > 0",
    ),
}


@pytest.mark.parametrize(("call", "words"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
