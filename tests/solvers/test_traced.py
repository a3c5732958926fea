"""A step of fixed length reads no values: it runs compiled, batched by vmap, and its derivatives are right."""

import numpy as np
import pytest
import torch

import srr
from srr.solvers import (
    Accelerated,
    Alternating,
    ExactCompression,
    IstaSparsification,
    MajorizedSparsification,
    NeumannCompression,
    ProximalGradient,
    ProximalSparsification,
    ResidualAttention,
    SoftmaxCompression,
)

MIX = srr.subspace_mixture(n=30, d=8, K=2, p=3, noise=0.2, seed=0)
Z = torch.asarray(np.stack([MIX.Z, MIX.Z[::-1].copy()])) / 2
U = torch.asarray(MIX.U)
FRAME = torch.linalg.qr(torch.asarray(np.random.default_rng(1).standard_normal((8, 8))))[0]
LABELS = torch.asarray(MIX.labels)
PI = torch.nn.functional.one_hot(LABELS).double() * 0.8 + 0.1
fixed = srr.FixedStep


def tensor(x):
    return torch.as_tensor(x, dtype=torch.float64)


PROBLEMS = {
    "srr": lambda eps, lam: srr.SparseRateReduction(U, eps, srr.UnitL1(lam)),
    "srr in a frame": lambda eps, lam: srr.SparseRateReduction(U, eps, srr.L1(lam), FRAME),
    "mcr2": lambda eps, lam: srr.RateReduction(PI, eps, srr.Ridge(lam)),
    "coding": lambda eps, lam: srr.SparseCoding(Z, FRAME * eps, srr.NonnegativeL1(lam)),
}
SOLVERS = {
    "proximal": lambda t: ProximalGradient(fixed(t)),
    "proximal 1/L": lambda t: ProximalGradient(fixed()),
    "accelerated": lambda t: Accelerated(fixed(t)),
    "accelerated 1/L": lambda t: Accelerated(fixed(), restart=False),
    "exact": lambda t: Alternating(ExactCompression(t), ProximalSparsification(t)),
    "exact 1/L": lambda t: Alternating(ExactCompression(), ProximalSparsification()),  # dynamo makes no defaults
    "neumann": lambda t: Alternating(NeumannCompression(2, t), MajorizedSparsification(t / 10, FRAME)),
    "softmax": lambda t: Alternating(SoftmaxCompression(t), IstaSparsification(FRAME, t, t)),
    "residual": lambda t: Alternating(ResidualAttention(0.5, out=0.1 * U), IstaSparsification(FRAME, t, t, 2)),
}
pytestmark = pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
CASES = [
    pytest.param(problem, solver, id=f"{problem}, {solver}")
    for problem in PROBLEMS
    for solver in SOLVERS
    if problem.startswith("srr") or solver.split()[0] in ("proximal", "accelerated")
]


COMPILED = [  # every problem and every solver once: compiling takes seconds
    ("srr", "accelerated 1/L"),
    ("srr", "exact 1/L"),
    ("srr in a frame", "neumann"),
    ("srr", "softmax"),
    ("srr", "residual"),
    ("srr in a frame", "proximal 1/L"),
    ("mcr2", "proximal"),
    ("coding", "accelerated"),
]


def two_steps(problem, solver, Z):
    """Everything that two steps give: the tokens, the objective and the residual."""
    Z, state = solver.step(problem, Z, solver.init(problem, Z))
    Z, state = solver.step(problem, Z, state)
    return Z, state.objective, state.residual


@pytest.mark.parametrize(("problem", "solver"), CASES)
def test_layers_are_the_steps(problem, solver):
    problem, solver = PROBLEMS[problem](0.7, 0.02), SOLVERS[solver](0.05)
    start, memory = problem.start(Z), None
    A = start
    for _ in range(3):
        A, memory = solver.layer(problem, A, memory)
    B, state = start, solver.init(problem, start)
    for _ in range(3):
        B, state = solver.step(problem, B, state)
    assert torch.equal(A, B)


@pytest.mark.parametrize(("problem", "solver"), CASES)
def test_derivatives_in_every_parameter(problem, solver):
    """Autograd through two steps against central differences, in ε, λ, the step and the tokens."""

    def run(eps, lam, step, scale):
        made = PROBLEMS[problem](eps, lam)
        A = two_steps(made, SOLVERS[solver](step), made.start(scale * Z))[0]
        return torch.sum(A * torch.sin(torch.arange(A.numel(), dtype=A.dtype)).reshape(A.shape))

    at = [0.7, 0.02, 0.05, 1.1]
    leaves = [tensor(x).requires_grad_() for x in at]
    run(*leaves).backward()
    for i, x in enumerate(at):
        h = 1e-5 * x
        up, down = (run(*(tensor(y + (s * h if i == j else 0.0)) for j, y in enumerate(at))) for s in (1, -1))
        slope = float(up - down) / (2 * h)
        found = 0.0 if leaves[i].grad is None else float(leaves[i].grad)
        assert found == pytest.approx(slope, rel=2e-5, abs=2e-6), i


@pytest.mark.parametrize(("problem", "solver"), CASES)
def test_vmap(problem, solver):
    coding = srr.SparseCoding(Z[0], FRAME, srr.L1(0.02))
    made = coding if problem == "coding" else PROBLEMS[problem](0.7, 0.02)
    made_solver = SOLVERS[solver](0.05)
    start = made.start(Z)
    wanted = two_steps(made, made_solver, start)
    found = torch.func.vmap(lambda A: two_steps(made, made_solver, A))(start)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("problem", "solver"), COMPILED)
def test_compiled_without_a_break(problem, solver):
    torch._dynamo.reset()

    def run(A, eps, lam, step):
        return two_steps(PROBLEMS[problem](eps, lam), SOLVERS[solver](step), A)

    values = [tensor(x).requires_grad_() for x in (0.7, 0.02, 0.05)]
    start = PROBLEMS[problem](0.7, 0.02).start(Z)
    found = torch.compile(run, fullgraph=True, backend="aot_eager")(start, *values)
    for a, b in zip(found, run(start, *values), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("problem", "solver"), CASES)
def test_jit(problem, solver):
    jax = pytest.importorskip("jax")
    jnp = jax.numpy

    def to_jax(x):
        return jnp.asarray(x.numpy())

    problems = {
        "srr": lambda eps, lam: srr.SparseRateReduction(to_jax(U), eps, srr.UnitL1(lam)),
        "srr in a frame": lambda eps, lam: srr.SparseRateReduction(to_jax(U), eps, srr.L1(lam), to_jax(FRAME)),
        "mcr2": lambda eps, lam: srr.RateReduction(to_jax(PI), eps, srr.Ridge(lam)),
        "coding": lambda eps, lam: srr.SparseCoding(to_jax(Z), to_jax(FRAME) * eps, srr.NonnegativeL1(lam)),
    }
    solvers = {
        **SOLVERS,
        "neumann": lambda t: Alternating(NeumannCompression(2, t), MajorizedSparsification(t / 10, to_jax(FRAME))),
        "softmax": lambda t: Alternating(SoftmaxCompression(t), IstaSparsification(to_jax(FRAME), t, t)),
        "residual": lambda t: Alternating(
            ResidualAttention(0.5, out=0.1 * to_jax(U)), IstaSparsification(to_jax(FRAME), t, t, 2)
        ),
    }
    start = PROBLEMS[problem](0.7, 0.02).start(Z)
    wanted = two_steps(PROBLEMS[problem](0.7, 0.02), SOLVERS[solver](0.05), start)
    jax.config.update("jax_enable_x64", True)
    run = jax.jit(lambda A, eps, lam, t: two_steps(problems[problem](eps, lam), solvers[solver](t), A))
    found = run(to_jax(start), 0.7, 0.02, 0.05)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(a), b.numpy(), rtol=1e-10, atol=1e-11)
