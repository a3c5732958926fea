"""Halves of trained layers given back as a problem and a step of a solver."""

import numpy as np
import pytest
import torch

import srr
from srr.nn import BLOCKS, Block
from srr.penalties import CenteredSpheres, NonnegativeL1
from srr.problems import SoftmaxEnergy, SubspaceCompression
from tests import references as ref

DIM, HEADS, P, N = 12, 3, 4, 7
NO_PROBLEM = {
    "compress": {"crate_t", "attention_only", "tssa", "tost", "cbsa"},
    "sparsify": {"attention_only", "tost"},
}


def drawn(variant, **options):
    """A layer in float64 whose every parameter is drawn anew, and tokens."""
    rng = torch.Generator().manual_seed(3)
    block = Block(variant, DIM, HEADS, P, **options).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
    return block, torch.randn(2, N, DIM, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("half", ["compress", "sparsify"])
@pytest.mark.parametrize("variant", sorted(BLOCKS))
def test_the_solver_takes_the_step_of_the_layer(variant, half):
    block, Z = drawn(variant)
    if variant in NO_PROBLEM[half]:
        with pytest.raises(ValueError, match=r"objective|no step of a solver") as said:
            block.problem(Z, half)
        assert "\n" not in str(said.value)
        return
    with torch.no_grad():
        want = getattr(block, half)(Z)
    got = block.step(Z, half)
    assert not got.requires_grad
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", ["crate", "crate_descent", "alpha"])
def test_the_coding_half_is_the_lasso_of_the_library(variant):
    block, Z = drawn(variant, lam=0.2)
    found = block.problem(Z, "sparsify")
    assert isinstance(found.problem, srr.SparseCoding)
    assert isinstance(found.problem.penalty, NonnegativeL1)
    with torch.no_grad():
        X, D = block.dictionary_norm(Z).numpy(), block.dictionary.D.numpy()
    A = np.abs(np.random.default_rng(0).normal(size=(2, N, D.shape[1])))
    want = [0.5 * np.sum((x - a @ D.T) ** 2) + 0.2 * a.sum() for a, x in zip(A, X, strict=True)]
    np.testing.assert_allclose(found.problem.objective(torch.as_tensor(A)).numpy(), want, rtol=1e-12)


@pytest.mark.parametrize("variant", ["crate_descent", "crate_energy"])
def test_the_objective_is_the_one_the_certificate_measures(variant):
    block, Z = drawn(variant)
    found, descent = block.problem(Z), block.descents(Z)["compress"]
    for tokens, value in ((found.start, descent.before), (found.run(), descent.after)):
        np.testing.assert_allclose(found.problem.objective(tokens).numpy(), value.detach().numpy(), rtol=1e-10)


def test_other_solvers_take_the_problem_of_a_layer():
    block, Z = drawn("crate_descent")
    found = block.problem(Z)
    solved = srr.minimize(found.problem, found.start, srr.ProximalGradient(), tol=1e-6, max_steps=500)
    assert (np.asarray(solved.objective) <= block.descents(Z)["compress"].after.detach().numpy()).all()


def test_an_unknown_half_is_refused():
    block, Z = drawn("crate")
    with pytest.raises(ValueError, match="half must be one of"):
        block.problem(Z, "both")


def centered(*shape, seed=0):
    Z = np.random.default_rng(seed).normal(size=shape)
    return Z - Z.mean(-1, keepdims=True)


def test_centered_spheres_against_their_definition():
    rng = np.random.default_rng(1)
    V, radius = rng.normal(size=(N, DIM)), np.abs(rng.normal(size=(N, 1))) + 0.1
    penalty = CenteredSpheres(radius)
    Z = penalty.prox(V, step=0.3)
    np.testing.assert_allclose(Z.mean(-1), 0, atol=1e-15)
    np.testing.assert_allclose(np.linalg.norm(Z, axis=-1, keepdims=True), radius)
    for _ in range(50):  # no other point of the set is nearer
        other = centered(N, DIM, seed=int(rng.integers(1 << 30)))
        other *= radius / np.linalg.norm(other, axis=-1, keepdims=True)
        assert (np.linalg.norm(other - V, axis=-1) >= np.linalg.norm(Z - V, axis=-1)).all()
    assert penalty.value(Z) == 0
    assert penalty.value(V) == np.inf
    # at the projection of V, the gradient Z − V of ‖Z − V‖²/2 is normal to the set
    np.testing.assert_allclose(penalty.distance(Z, Z - V), 0, atol=1e-13)
    assert penalty.distance(Z, centered(N, DIM, seed=9)) > 0.1
    with pytest.raises(ValueError, match="radius"):
        CenteredSpheres(-1.0)


@pytest.mark.parametrize("eps", [0.7, np.asarray([0.4, 0.7, 1.1])])
def test_compression_against_naive_values_and_curvature(eps):
    rng = np.random.default_rng(2)
    U, Z = rng.normal(size=(HEADS, DIM, P)), rng.normal(size=(N, DIM))
    problem = SubspaceCompression(U, eps, CenteredSpheres(1.0))
    each = np.broadcast_to(eps, HEADS)
    value, grad = problem.value_and_grad(Z)
    np.testing.assert_allclose(
        value, sum(ref.naive_subspace_coding_rate(Z, U[k : k + 1], each[k]) for k in range(HEADS)), rtol=1e-10
    )
    np.testing.assert_allclose(
        grad, sum(ref.naive_subspace_grad(Z, U[k : k + 1], each[k]) for k in range(HEADS)), rtol=1e-8, atol=1e-10
    )
    total = sum(P / (N * e**2) * B @ B.T for e, B in zip(each, U, strict=True))
    np.testing.assert_allclose(problem.smoothness(Z), np.linalg.norm(total, 2), rtol=1e-10)
    with pytest.raises(ValueError, match="eps"):
        SubspaceCompression(U, np.asarray([0.5, -1.0, 1.0]), CenteredSpheres(1.0))
    with pytest.raises(ValueError, match="heads"):
        SubspaceCompression(U, np.asarray([0.5]), CenteredSpheres(1.0))


def test_the_energy_against_naive_values_and_its_curvature():
    rng = np.random.default_rng(4)
    U, Y, Z = rng.normal(size=(HEADS, DIM, P)), rng.normal(size=(HEADS, 5, P)), rng.normal(size=(N, DIM))
    sigma, s = rng.normal(size=HEADS), np.abs(rng.normal(size=HEADS)) + 0.1
    problem = SoftmaxEnergy(U, Y, sigma, s, CenteredSpheres(1.0))
    value, grad = problem.value_and_grad(Z)
    np.testing.assert_allclose(value, ref.naive_softmax_energy(Z, U, Y, sigma, s), rtol=1e-10)
    want = ref.complex_step_gradient(lambda X: ref.naive_softmax_energy(X, U, Y, sigma, s), Z)
    np.testing.assert_allclose(grad, want, rtol=1e-8, atol=1e-10)
    L = float(problem.smoothness(Z))
    for _ in range(50):
        A, B = rng.normal(size=(2, N, DIM))
        apart = np.linalg.norm(problem.value_and_grad(A)[1] - problem.value_and_grad(B)[1])
        assert apart <= L * np.linalg.norm(A - B)
    with pytest.raises(ValueError, match="scales"):
        SoftmaxEnergy(U, Y, sigma, -s, CenteredSpheres(1.0))
