"""Operators under jax.jit, jax.vmap, jax.grad, torch.func.vmap, torch.func.grad and torch.compile(fullgraph=True)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import srr
from tests import references as ref
from tests.backends import NUMPY
from tests.ops.cases import CASES, UNBATCHED, Case

TRACEABLE = [c for c in CASES if "labels" not in c.names or c.operator is srr.ops.snr]
BATCHED = [c for c in TRACEABLE if not c.shape_only and not UNBATCHED.issuperset(c.names)]


def _axes(case: Case) -> tuple[int | None, ...]:
    return tuple(None if name in UNBATCHED else 0 for name in case.names)


@pytest.mark.parametrize("case", BATCHED, ids=lambda c: c.name.replace(" ", "-"))
def test_jax_jit_of_vmap(case: Case) -> None:
    """Traced values cannot be read: every check and every choice must be made from shapes. Nested twice for (2, 3)."""
    function = jax.jit(jax.vmap(jax.vmap(case.call, in_axes=_axes(case)), in_axes=_axes(case)))
    NUMPY.close(function(*map(jnp.asarray, case.inputs())), case.truth())


@pytest.mark.parametrize("case", BATCHED, ids=lambda c: c.name.replace(" ", "-"))
def test_torch_vmap(case: Case) -> None:
    function = torch.func.vmap(torch.func.vmap(case.call, in_dims=_axes(case)), in_dims=_axes(case))
    NUMPY.close(function(*map(torch.from_numpy, case.inputs())), case.truth())


def test_jit_with_a_traced_distortion_step_and_sparsity(rng: np.random.Generator) -> None:
    Z, U = jnp.asarray(rng.standard_normal((6, 4))), jnp.asarray(ref.random_bases(rng, 2, 4, 2, orthogonal=True))

    @jax.jit
    def objective(tokens: jax.Array, eps: jax.Array, lam: jax.Array) -> jax.Array:
        return srr.sparse_rate_reduction(tokens, U, eps=eps, lam=lam)

    expected = ref.naive_sparse_rate_reduction(np.asarray(Z), np.asarray(U), 0.4, 0.2)
    NUMPY.close(objective(Z, 0.4, 0.2), np.asarray(expected))
    slope = jax.grad(objective, argnums=1)(Z, 0.4, 0.2)
    h = 1e-6
    low, high = (ref.naive_sparse_rate_reduction(np.asarray(Z), np.asarray(U), 0.4 + s, 0.2) for s in (-h, h))
    assert float(slope) == pytest.approx((high - low) / (2 * h), rel=1e-6)


def test_jax_captured_constants_inside_jit(rng: np.random.Generator) -> None:
    """A concrete array used inside a trace: its checks still run, its value is right."""
    Z = jnp.asarray(rng.standard_normal((6, 4)))
    NUMPY.close(jax.jit(lambda: srr.coding_rate(Z, eps=0.5))(), np.asarray(ref.naive_coding_rate(np.asarray(Z), 0.5)))


def test_labels_under_a_trace_are_refused_with_advice(rng: np.random.Generator) -> None:
    Z, labels = jnp.asarray(rng.standard_normal((6, 4))), jnp.asarray([0, 0, 1, 1, 2, 2])
    with pytest.raises(TypeError, match="membership"):
        jax.jit(lambda z, y: srr.rate_reduction(z, y, eps=0.5))(Z, labels)


def test_labels_closed_over_may_be_traced_around(rng: np.random.Generator) -> None:
    Z, labels = rng.standard_normal((6, 4)), np.array([0, 0, 1, 1, 1, 3])
    truth = ref.naive_rate_reduction(Z, ref.one_hot(labels, 4), 0.5)
    held = jnp.asarray(labels)
    NUMPY.close(jax.jit(lambda z: srr.rate_reduction(z, held, eps=0.5))(jnp.asarray(Z)), np.asarray(truth))


def test_torch_func_grad_and_hessian_product(rng: np.random.Generator) -> None:
    Z, V = torch.from_numpy(rng.standard_normal((6, 4))), torch.from_numpy(rng.standard_normal((6, 4)))
    U = torch.from_numpy(ref.random_bases(rng, 2, 4, 2, orthogonal=True))
    gradient = torch.func.grad(lambda X: srr.coding_rate(X, eps=0.5))
    NUMPY.close(gradient(Z), srr.coding_rate_grad(Z, eps=0.5))
    _, product = torch.func.jvp(gradient, (Z,), (V,))
    NUMPY.close(product, srr.ops.coding_rate_hvp(Z, V, eps=0.5))
    compress = torch.func.grad(lambda X: srr.subspace_coding_rate(X, U, eps=0.5))
    NUMPY.close(compress(Z), srr.subspace_coding_rate_grad(Z, U, eps=0.5))
    _, product = torch.func.jvp(compress, (Z,), (V,))
    NUMPY.close(product, srr.ops.subspace_coding_rate_hvp(Z, V, U, eps=0.5))


def test_torch_vmap_of_grad_gives_per_sample_gradients(rng: np.random.Generator) -> None:
    Z = torch.from_numpy(rng.standard_normal((3, 6, 4)))
    each = torch.func.vmap(torch.func.grad(lambda X: srr.coding_rate(X, eps=0.5)))(Z)
    NUMPY.close(each, srr.coding_rate_grad(Z, eps=0.5))


def _composite(
    Z: torch.Tensor, U: torch.Tensor, D: torch.Tensor, Pi: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """One pass through every kind of operator, so that a single compilation covers them."""
    half = Z + srr.mssa(Z, U, scale=0.5) + srr.mssa(Z, U, mask=mask, causal=True)
    half = srr.ops.neumann_step(srr.ops.compression_step(half, U, step=0.1, eps=1.0), U, step=0.1, eps=3.0)
    codes = srr.ops.folded_ista_step(half, srr.ops.ista_matrix(D, step=0.1), step=0.1, lam=0.1)
    codes = srr.ista_step(codes, half, D, step=0.1, lam=0.1) + srr.ops.unit_soft_threshold(half, threshold=0.1)
    return (
        codes,
        srr.coding_rate(half, eps=0.5),
        srr.coding_rate_grad(half, eps=0.5),
        srr.subspace_coding_rate(half, U, eps=0.5),
        srr.rate_reduction(half, Pi, eps=0.5),
        srr.rate_reduction_grad(half, Pi, eps=0.5),
        srr.ops.tssa(half, U),
    )


def test_torch_compile_without_a_graph_break_forward_and_backward(rng: np.random.Generator) -> None:
    arrays = [
        rng.standard_normal((2, 7, 6)),
        ref.random_bases(rng, 3, 6, 2, orthogonal=True),
        rng.standard_normal((6, 6)) / 3,
        rng.dirichlet(np.ones(3), (2, 7)),
    ]
    mask = torch.from_numpy(rng.uniform(size=(7, 7)) < 0.7) | torch.eye(7, dtype=torch.bool)

    def run(function: object) -> list[torch.Tensor]:
        leaves = [torch.from_numpy(a.copy()).requires_grad_() for a in arrays]
        outputs = function(*leaves, mask)
        sum(o.sum() for o in outputs).backward()
        return [*outputs, *(leaf.grad for leaf in leaves)]

    compiled = torch.compile(_composite, fullgraph=True, backend="aot_eager")
    for got, wanted in zip(run(compiled), run(_composite), strict=True):
        NUMPY.close(got, wanted.detach().numpy())


def test_torch_inductor_compiles_a_layer(rng: np.random.Generator) -> None:
    """The default backend, on the operators that a network runs."""
    Z, U = torch.from_numpy(rng.standard_normal((2, 7, 6))), torch.from_numpy(rng.standard_normal((3, 6, 2)))
    D = torch.from_numpy(rng.standard_normal((6, 6)) / 3)

    def layer(z: torch.Tensor) -> torch.Tensor:
        half = z + srr.mssa(z, U, scale=0.7)
        return srr.ops.folded_ista_step(half, srr.ops.ista_matrix(D, step=0.1), step=0.1, lam=0.1)

    half = Z.numpy() + np.stack([ref.naive_mssa(z, U.numpy(), scale=0.7) for z in Z.numpy()])
    expected = np.stack([ref.naive_ista(h, h, D.numpy(), 0.1, 0.1) for h in half])
    NUMPY.close(torch.compile(layer, fullgraph=True)(Z), expected)
