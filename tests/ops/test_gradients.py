"""Closed-form gradients against complex steps, central differences, autograd and gradcheck."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import srr
from tests import references as ref
from tests.backends import NUMPY

EPS = 0.5
SHAPES = [(1, 1), (1, 5), (5, 1), (3, 6), (6, 3), (5, 5)]


def _arguments(rng: np.random.Generator, name: str, shape: tuple[int, int]) -> tuple[tuple, Callable]:
    """Extra arguments of the operator `name`, and its holomorphic twin."""
    n, d = shape
    U = ref.random_bases(rng, 2, d, max(1, d // 2), orthogonal=False)
    Pi, labels = rng.dirichlet(np.ones(3), n), rng.integers(0, 3, n)
    rate, partition = ref.analytic_coding_rate, ref.analytic_partition_coding_rate
    hard = ref.one_hot(labels, 3)
    return {
        "coding_rate": ((), lambda X: rate(X, EPS)),
        "subspace_coding_rate": ((U,), lambda X: ref.analytic_subspace_coding_rate(X, U, EPS)),
        "sparse_rate_reduction": ((U,), lambda X: rate(X, EPS) - ref.analytic_subspace_coding_rate(X, U, EPS)),
        "partition_coding_rate": ((Pi,), lambda X: partition(X, Pi, EPS)),
        "partition_coding_rate labels": ((labels,), lambda X: partition(X, hard, EPS)),
        "rate_reduction": ((Pi,), lambda X: rate(X, EPS) - partition(X, Pi, EPS)),
        "rate_reduction labels": ((labels,), lambda X: rate(X, EPS) - partition(X, hard, EPS)),
    }[name]


NAMES = [
    "coding_rate",
    "subspace_coding_rate",
    "sparse_rate_reduction",
    "partition_coding_rate",
    "partition_coding_rate labels",
    "rate_reduction",
    "rate_reduction labels",
]
EVERY = pytest.mark.parametrize("name", NAMES, ids=lambda s: s.replace(" ", "-"))


def _operators(name: str) -> tuple[Callable, Callable]:
    stem = name.split(maxsplit=1)[0]
    value, grad = getattr(srr.ops, stem), getattr(srr, stem + "_grad")
    if stem != "sparse_rate_reduction":
        return value, grad
    return lambda *a, **k: value(*a, lam=0.0, **k), grad


@EVERY
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_the_complex_step(rng: np.random.Generator, name: str, shape: tuple[int, int]) -> None:
    Z = rng.standard_normal(shape)
    arguments, twin = _arguments(rng, name, shape)
    truth = ref.complex_step_gradient(twin, Z)
    found = _operators(name)[1](Z, *arguments, eps=EPS)
    NUMPY.close(found, truth, scale=max(np.abs(truth).max(), np.sqrt(shape[1] / shape[0]) / EPS))


@EVERY
def test_against_central_differences_of_the_operators_own_value(rng: np.random.Generator, name: str) -> None:
    """The pair belongs together: another check, of consistency rather than of truth."""
    Z = rng.standard_normal((5, 4))
    arguments, _ = _arguments(rng, name, (5, 4))
    value, grad = _operators(name)
    difference = ref.central_gradient(lambda X: value(X, *arguments, eps=EPS), Z, step=1e-4)
    np.testing.assert_allclose(grad(Z, *arguments, eps=EPS), difference, atol=2e-7)


@EVERY
def test_autograd_of_the_value_is_the_closed_form_in_torch_and_jax(rng: np.random.Generator, name: str) -> None:
    Z = rng.standard_normal((2, 6, 4))
    arguments, _ = _arguments(rng, name, (6, 4))
    value, grad = _operators(name)
    closed = grad(Z, *arguments, eps=EPS)
    tokens = torch.from_numpy(Z.copy()).requires_grad_()
    value(tokens, *map(torch.from_numpy, arguments), eps=EPS).sum().backward()
    NUMPY.close(tokens.grad, closed)
    moved = jax.grad(lambda X: value(X, *map(jnp.asarray, arguments), eps=EPS).sum())(jnp.asarray(Z))
    NUMPY.close(moved, closed)


@EVERY
def test_gradcheck_of_values_and_of_gradients(rng: np.random.Generator, name: str) -> None:
    """torch's own numerical check, of the value and of the closed-form gradient (that is, of the Hessian)."""
    Z = torch.from_numpy(rng.standard_normal((4, 3))).requires_grad_()
    arguments, _ = _arguments(rng, name, (4, 3))
    constants = [torch.from_numpy(a) for a in arguments]
    value, grad = _operators(name)
    assert torch.autograd.gradcheck(lambda X: value(X, *constants, eps=EPS), (Z,))
    assert torch.autograd.gradcheck(lambda X: grad(X, *constants, eps=EPS), (Z,))


@pytest.mark.parametrize("shape", [(4, 3), (3, 4)])
def test_gradients_reach_bases_weights_and_memberships(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    n, d = shape
    Z = torch.from_numpy(rng.standard_normal(shape)).requires_grad_()
    U = torch.from_numpy(rng.standard_normal((2, d, 2))).requires_grad_()
    weights = torch.from_numpy(rng.uniform(0.5, 1.5, n)).requires_grad_()
    Pi = torch.from_numpy(rng.dirichlet(np.ones(3), n)).requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda X, B: srr.subspace_coding_rate(X, B, eps=EPS), (Z, U))
    assert check(lambda X, w: srr.coding_rate(X, eps=EPS, weights=w), (Z, weights))
    assert check(lambda X, P: srr.rate_reduction(X, P, eps=EPS), (Z, Pi))


def test_gradcheck_of_attention_and_steps(rng: np.random.Generator) -> None:
    def parameter(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape)).requires_grad_()

    Z, U, out, bias, D = parameter(4, 3), parameter(2, 3, 2), parameter(2, 3, 2), parameter(3), parameter(3, 3)
    mask = torch.from_numpy(rng.uniform(size=(4, 4)) < 0.7) | torch.eye(4, dtype=torch.bool)
    check = torch.autograd.gradcheck
    assert check(lambda z, u, o, b: srr.mssa(z, u, out=o, bias=b, scale=0.7, mask=mask), (Z, U, out, bias))
    assert check(lambda z, u: srr.mssa(z, u, causal=True), (Z, U))
    assert check(lambda z, u: srr.ops.neumann_step(z, u, step=0.3, eps=2.0, terms=2), (Z, U))
    assert check(lambda z, u: srr.ops.compression_step(z, u, step=0.3, eps=2.0), (Z, U))
    assert check(lambda z, u: srr.ops.subspace_membership(z, u, temperature=0.7), (Z, U))
    assert check(lambda z, u: srr.ops.tssa(z, u, temperature=0.7), (Z, U))
    assert check(lambda z, d: srr.ops.folded_ista_step(z, srr.ops.ista_matrix(d, step=0.2), step=0.2, lam=0.1), (Z, D))
    assert check(lambda a, z, d: srr.ista_step(a, z, d, step=0.2, lam=0.1), (parameter(4, 3), Z, D))


def test_masked_rows_have_finite_gradients() -> None:
    """A fully masked row returns zero and must not poison the gradient of the others with NaN."""
    V = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask[2] = False
    srr.ops.ssa(V, mask=mask).square().sum().backward()
    assert torch.isfinite(V.grad).all()
    W = jnp.asarray(V.detach().numpy())
    gradient = jax.grad(lambda X: jnp.sum(srr.ops.ssa(X, mask=jnp.asarray(mask.numpy())) ** 2))(W)
    NUMPY.close(V.grad, np.asarray(gradient))


@pytest.mark.parametrize(
    "function", ["soft_threshold", "relu_threshold", "group_soft_threshold", "unit_soft_threshold"]
)
def test_zero_rows_have_finite_gradients(function: str) -> None:
    Z = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    getattr(srr.ops, function)(Z, threshold=0.5).sum().backward()
    assert torch.isfinite(Z.grad).all()
    gradient = jax.grad(lambda X: getattr(srr.ops, function)(X, threshold=0.5).sum())(jnp.asarray(Z.detach().numpy()))
    assert jnp.isfinite(gradient).all()


def test_zero_weights_and_empty_classes_have_finite_gradients() -> None:
    Z = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    labels = torch.tensor([0, 0, 3, 3, 3])
    srr.partition_coding_rate(Z, labels, eps=EPS).backward()
    truth = srr.partition_coding_rate_grad(Z.detach(), labels, eps=EPS)
    NUMPY.close(Z.grad, truth)
    Z.grad = None
    srr.coding_rate(Z, eps=EPS, weights=torch.tensor([1.0, 0.0, 1.0, 0.0, 2.0], dtype=torch.float64)).backward()
    assert torch.isfinite(Z.grad).all()
    assert not Z.grad[1].any()


def test_one_hot_memberships_have_finite_gradients() -> None:
    """√π has an infinite slope at zero: a hard membership that requires a gradient must still give numbers."""
    Z = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    Pi = torch.eye(3, dtype=torch.float64).repeat(2, 1).requires_grad_()
    srr.rate_reduction(Z, Pi, eps=EPS).backward()
    assert torch.isfinite(Pi.grad).all()


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6), d=st.integers(1, 6), eps=st.floats(0.1, 3.0))
def test_row_form_of_the_gradient(seed: int, n: int, d: int, eps: float) -> None:
    """Statement 1: row i is α(z_i − ẑ_i), ẑ_i the ridge reconstruction of z_i from all tokens by least squares."""
    Z = np.random.default_rng(seed).standard_normal((n, d))
    alpha = d / (n * eps**2)
    rows = []
    for z in Z:
        design = np.concatenate([np.sqrt(alpha) * Z.T, np.eye(n)])
        target = np.concatenate([np.sqrt(alpha) * z, np.zeros(n)])
        q = np.linalg.lstsq(design, target, rcond=None)[0]
        rows.append(alpha * (z - Z.T @ q))
    np.testing.assert_allclose(srr.coding_rate_grad(Z, eps=eps), rows, atol=1e-12 * alpha * (1 + np.abs(Z).max()))
