"""Derivatives in weights and memberships where some are zero, and forward-mode derivatives in torch and JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import srr
from tests import references as ref

EPS = 0.5
SHAPES = [(7, 4), (4, 7)]
FORWARD = ["jvp", "jacfwd", "dual"]


def central(function, x: np.ndarray, h: float = 1e-6) -> np.ndarray:
    """Central differences of the naive definition, which is a formula for small negative weights, too."""
    grad = np.zeros_like(x)
    for i in np.ndindex(*x.shape):
        e = np.zeros_like(x)
        e[i] = h
        grad[i] = (function(x + e) - function(x - e)) / (2 * h)
    return grad


def definition(Z: np.ndarray, w: np.ndarray) -> float:
    """R with weights by eigenvalues of the d×d matrix, linear in w."""
    alpha = Z.shape[1] / (w.sum() * EPS**2)
    return 0.5 * np.linalg.slogdet(np.eye(Z.shape[1]) + alpha * Z.T @ (w[:, None] * Z))[1]


def partition(Z: np.ndarray, Pi: np.ndarray) -> float:
    return sum(w.sum() / Pi.sum() * definition(Z, w) for w in Pi.T)


def reduction(Z: np.ndarray, Pi: np.ndarray) -> float:
    return definition(Z, Pi.sum(axis=1)) - partition(Z, Pi)


def problem(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, weights of which two are zero, one-hot memberships of two classes."""
    rng = np.random.default_rng(sum(shape) + shape[0])
    w = rng.uniform(0.5, 1.5, shape[0])
    w[1:3] = 0.0
    return rng.standard_normal(shape), w, ref.one_hot(np.arange(shape[0]) % 2, 2)


def slopes(function, x: np.ndarray) -> list[np.ndarray]:
    """Gradients by torch, torch.func, JAX and JAX under jit."""
    leaf = torch.from_numpy(x.copy()).requires_grad_()
    (backward,) = torch.autograd.grad(function(leaf, torch.from_numpy), leaf)
    func = torch.func.grad(lambda v: function(v, torch.from_numpy))(torch.from_numpy(x.copy()))
    plain = jax.grad(lambda v: function(v, jnp.asarray))
    return [np.asarray(g) for g in (backward, func, plain(jnp.asarray(x)), jax.jit(plain)(jnp.asarray(x)))]


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_at_zero(shape: tuple[int, int]) -> None:
    Z, w, _ = problem(shape)
    truth = central(lambda v: definition(Z, v), w)
    for found in slopes(lambda v, to: srr.coding_rate(to(Z), eps=EPS, weights=v), w):
        np.testing.assert_allclose(found, truth, rtol=1e-7, atol=1e-8)


def test_a_weight_at_zero_in_closed_form() -> None:
    """Of tokens e₁, e₂ with weights 1, 0: α = 2/(Σw ε²), dR/dw₂ = α/2 − R′s share of the shrinking α."""
    w = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    srr.coding_rate(torch.eye(2, dtype=torch.float64), eps=EPS, weights=w).backward()
    alpha = 2 / EPS**2
    np.testing.assert_allclose(w.grad, [0.0, alpha / 2 - alpha / (2 * (1 + alpha))], rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("operator", "truth"), [(srr.partition_coding_rate, partition), (srr.rate_reduction, reduction)]
)
def test_one_hot_memberships(shape: tuple[int, int], operator, truth) -> None:
    Z, _, Pi = problem(shape)
    expected = central(lambda P: truth(Z, P), Pi)
    for found in slopes(lambda P, to: operator(to(Z), P, eps=EPS), Pi):
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8)


def test_redunet_operators_of_one_hot_memberships() -> None:
    Z, _, Pi = problem((7, 4))
    expected = central(lambda P: reduction(Z, P), Pi)
    for found in slopes(lambda P, to: srr.ops.redunet_operators(to(Z), P, eps=EPS).rate_reduction, Pi):
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8)

    def operators(P: np.ndarray) -> float:
        total = 0.0
        for w in (P.sum(axis=1), *P.T):
            alpha = 4 / (w.sum() * EPS**2)
            total += np.cos(alpha * np.linalg.inv(np.eye(4) + alpha * Z.T @ (w[:, None] * Z))).sum()
        return total

    expected = central(operators, Pi)

    def same(P, to):
        made = srr.ops.redunet_operators(to(Z), P, eps=EPS)
        cos = torch.cos if isinstance(P, torch.Tensor) else jnp.cos
        return cos(made.E).sum() + cos(made.C).sum()

    for found in slopes(same, Pi):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_moments_of_weights_at_zero(shape: tuple[int, int]) -> None:
    Z, w, _ = problem(shape)
    truth = central(lambda v: definition(Z, v), w)

    def rate(v, to):
        X = to(Z)
        return srr.ops.SecondMoment.zeros(shape[1], like=X).update(X, v).coding_rate(eps=EPS)

    leaf = torch.from_numpy(w.copy()).requires_grad_()
    (found,) = torch.autograd.grad(rate(leaf, torch.from_numpy), leaf)
    np.testing.assert_allclose(found, truth, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(jax.grad(lambda v: rate(v, jnp.asarray))(jnp.asarray(w)), truth, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_second_derivatives_in_weights_and_tokens(shape: tuple[int, int]) -> None:
    """Where a weight is zero gradcheck cannot step below it; the gradient's gradient is differenced instead."""
    Z, w, _ = problem(shape)
    leaf = torch.from_numpy(w.copy())
    hessian = torch.autograd.functional.hessian(
        lambda v: srr.coding_rate(torch.from_numpy(Z), eps=EPS, weights=v), leaf
    )
    by_jax = jax.hessian(lambda v: srr.coding_rate(jnp.asarray(Z), eps=EPS, weights=v))(jnp.asarray(w))

    def gradient(v: np.ndarray) -> np.ndarray:
        alpha = Z.shape[1] / (v.sum() * EPS**2)
        G = Z.T @ (v[:, None] * Z)
        S = np.linalg.inv(np.eye(Z.shape[1]) + alpha * G)
        return 0.5 * (alpha * np.sum((Z @ S) * Z, axis=1) - alpha / v.sum() * np.trace(S @ G))

    expected = np.stack([(gradient(w + e) - gradient(w - e)) / 2e-6 for e in 1e-6 * np.eye(len(w))])
    np.testing.assert_allclose(hessian, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(by_jax, expected, rtol=1e-6, atol=1e-7)
    X, v = torch.from_numpy(Z.copy()).requires_grad_(), torch.from_numpy(w + 0.5).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda A, b: srr.coding_rate(A, eps=EPS, weights=b), (X, v))
    assert torch.autograd.gradcheck(
        lambda A, b: srr.coding_rate_grad(A, eps=EPS, weights=b), (X, v), check_forward_ad=True
    )


def forward(function, X: torch.Tensor, V: torch.Tensor, mode: str) -> np.ndarray:
    """Derivative of a function of tokens along V, by forward-mode differentiation."""
    if mode == "jvp":
        return torch.func.jvp(function, (X,), (V,))[1].numpy()
    if mode == "jacfwd":
        return np.tensordot(torch.func.jacfwd(function)(X).numpy(), V.numpy(), axes=2)
    with torch.autograd.forward_ad.dual_level():
        out = function(torch.autograd.forward_ad.make_dual(X, V))
        return torch.autograd.forward_ad.unpack_dual(out).tangent.numpy()


@pytest.mark.parametrize("mode", FORWARD)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 7, 4)])
def test_forward_mode_of_gradients(mode: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    Z, V = rng.standard_normal(shape), rng.standard_normal(shape)
    X, W = torch.from_numpy(Z), torch.from_numpy(V)
    if len(shape) == 3 and mode == "jacfwd":
        pytest.skip("the product along V is written for matrices")
    d = shape[-1]
    U = ref.random_bases(rng, 2, d, 2, orthogonal=True)
    labels, bases = np.arange(shape[-2]) % 2, torch.from_numpy(U)
    classes = torch.from_numpy(labels)
    difference = lambda f: (f(Z + 1e-6 * V) - f(Z - 1e-6 * V)) / 2e-6  # noqa: E731
    cases = {
        lambda A: srr.coding_rate_grad(A, eps=EPS): srr.ops.coding_rate_hvp(Z, V, eps=EPS),
        lambda A: srr.ops.subspace_coding_rate_grad(A, bases, eps=EPS): srr.ops.subspace_coding_rate_hvp(
            Z, V, U, eps=EPS
        ),
        lambda A: srr.ops.rate_reduction_grad(A, classes, eps=EPS): difference(
            lambda A: srr.ops.rate_reduction_grad(A, labels, eps=EPS)
        ),
        lambda A: srr.ops.expansion_operator(A, eps=EPS): difference(lambda A: srr.ops.expansion_operator(A, eps=EPS)),
        lambda A: srr.ops.redunet_operators(A, classes, eps=EPS).C: difference(
            lambda A: srr.ops.redunet_operators(A, labels, eps=EPS).C
        ),
    }
    for function, truth in cases.items():
        np.testing.assert_allclose(forward(function, X, W, mode), truth, rtol=1e-6, atol=1e-7)
