"""A network of any problem and solver: the solver's own steps, with right gradients in whatever is learned."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import srr
from srr.nn import Unrolled
from srr.solvers import (
    ExactCompression,
    IstaSparsification,
    NeumannCompression,
    ProximalSparsification,
    SoftmaxCompression,
)

pytestmark = pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
MIX = srr.subspace_mixture(n=24, d=8, K=2, p=3, noise=0.2, seed=0)
Z = torch.asarray(np.stack([MIX.Z, MIX.Z[::-1].copy()])) / 2
FRAME = torch.linalg.qr(torch.asarray(np.random.default_rng(1).standard_normal((8, 8))))[0]
PI = torch.nn.functional.one_hot(torch.asarray(MIX.labels)).double() * 0.8 + 0.1
Fixed = srr.FixedStep


@dataclass(frozen=True)
class Huber:
    """A penalty of one's own, smooth: its prox has a closed form."""

    lam: float
    width: float

    def value(self, Z):
        size = abs(Z)
        inside = size <= self.width
        return self.lam * (inside * Z**2 / (2 * self.width) + ~inside * (size - self.width / 2)).sum((-2, -1))

    def prox(self, V, *, step):
        shrunk = V / (1 + step * self.lam / self.width)
        return shrunk * (abs(shrunk) <= self.width) + (V - step * self.lam * V.sign()) * (abs(shrunk) > self.width)

    def distance(self, Z, grad):
        return ((grad + self.lam * (Z / self.width).clip(-1, 1)) ** 2).sum((-2, -1)) ** 0.5


@dataclass(frozen=True)
class Denoising(srr.problems.Problem):
    """A problem of one's own: tokens near given ones in the metric of a matrix; hidden tokens count for nothing."""

    target: torch.Tensor
    metric: torch.Tensor
    mask: torch.Tensor
    penalty: Huber

    @property
    def regularizer(self):
        return self.penalty

    def value_and_grad(self, Z):
        error = (Z - self.target) * self.mask[..., None]
        grad = error @ self.metric
        return (error * grad).sum((-2, -1)) / 2, grad

    def smoothness(self, Z):
        return torch.linalg.svdvals(self.metric)[..., 0]


OWN = Denoising(Z, torch.diag(torch.arange(1.0, 9.0)).double(), torch.ones(2, 24).double(), Huber(0.3, 0.1))
CASES = {
    "srr": (
        srr.SparseRateReduction(MIX.U, 0.7, srr.UnitL1(0.02)),
        srr.ProximalGradient(Fixed(0.05)),
        ("U", "eps", "penalty.lam", "solver.rule.step"),
    ),
    "srr, 1/L": (
        srr.SparseRateReduction(MIX.U, 0.7, srr.L1(0.02), FRAME.numpy()),
        srr.ProximalGradient(Fixed()),
        ("U", "eps", "penalty.lam", "solver.rule.step"),
    ),
    "mcr2": (
        srr.RateReduction(PI, 0.7, srr.Ridge(0.1)),
        srr.Accelerated(restart=False),
        ("eps", "penalty.lam", "solver.rule.step"),
    ),
    "lista": (
        srr.SparseCoding(Z, FRAME, srr.NonnegativeL1(0.02)),
        srr.ProximalGradient(Fixed(0.3)),
        ("D", "penalty.lam", "solver.rule.step"),
    ),
    "lfista": (
        srr.SparseCoding(Z, FRAME, srr.L1(0.02)),
        srr.Accelerated(Fixed(0.3)),
        ("D", "penalty.lam", "solver.rule.step"),
    ),
    "exact": (
        srr.SparseRateReduction(MIX.U, 0.7, srr.UnitL1(0.02)),
        srr.Alternating(ExactCompression(0.05), ProximalSparsification()),
        ("U", "eps", "solver.compress.step", "solver.sparsify.step"),
    ),
    "neumann": (
        srr.SparseRateReduction(MIX.U, 0.7, srr.UnitL1(0.02)),
        srr.Alternating(NeumannCompression(1, 0.05), IstaSparsification(FRAME, 0.05, 0.2)),
        ("U", "eps", "solver.compress.step", "solver.sparsify.D", "solver.sparsify.lam", "solver.sparsify.step"),
    ),
    "softmax": (
        srr.SparseRateReduction(MIX.U, 0.7, srr.UnitL1(0.02)),
        srr.Alternating(SoftmaxCompression(), IstaSparsification(FRAME, 0.05, 0.2, 2)),
        ("U", "eps", "solver.compress.step", "solver.sparsify.D"),
    ),
    "own": (
        OWN,
        srr.ProximalGradient(Fixed(0.05)),
        ("metric", "penalty.lam", "penalty.width", "solver.rule.step"),
    ),
}
case = pytest.mark.parametrize("name", CASES)


def network(name, depth=3, **options):
    problem, solver, learn = CASES[name]
    return Unrolled(problem, solver, depth, learn, **options)


def on_torch(problem):
    """The problem of the case with tensors for arrays."""
    if isinstance(problem, srr.SparseRateReduction):
        D = None if problem.D is None else torch.asarray(problem.D)
        return srr.SparseRateReduction(torch.asarray(problem.U), problem.eps, problem.penalty, D)
    return problem


def perturbed(net):
    """Other parameters in every layer, as after some training."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator)
    return net


def read_out(A):
    return torch.sum(A * torch.sin(torch.arange(A.numel(), dtype=A.dtype)).reshape(A.shape))


@case
@pytest.mark.parametrize("share", [False, True])
def test_untrained_it_is_the_solver(name, share):
    problem, solver, learn = CASES[name]
    net = network(name, 5, share=share)
    solution = srr.minimize(on_torch(problem), Z, solver, tol=0.0, max_steps=5)
    torch.testing.assert_close(net(Z).detach(), solution.Z, rtol=1e-12, atol=1e-13)
    assert len(list(net.parameters())) == len(learn) * (1 if share else 5)


@case
@pytest.mark.parametrize("cap", [False, True])
def test_gradients_of_all_that_is_learned(name, cap):
    """Away from the start, each layer with its own parameters, against central differences along random directions."""
    if cap and name == "neumann":
        pytest.skip("the step of ISTA has a limit of its own")
    net = perturbed(network(name, 3, cap=cap))
    read_out(net(Z)).backward()
    rng = torch.Generator().manual_seed(1)
    for path, parameter in net.named_parameters():
        direction = torch.randn(parameter.shape, dtype=parameter.dtype, generator=rng)
        values = []
        for h in (1e-5, -1e-5):
            with torch.no_grad():
                parameter += h * direction
                values.append(float(read_out(net(Z))))
                parameter -= h * direction
        slope = (values[0] - values[1]) / 2e-5
        assert float(torch.sum(parameter.grad * direction)) == pytest.approx(slope, rel=1e-4, abs=1e-6), path


@case
def test_vmap_and_checkpointing(name):
    net = perturbed(network(name))
    wanted = net(Z)
    read_out(wanted).backward()
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    if name not in ("lista", "lfista", "own"):  # these have tokens of their own for every item
        torch.testing.assert_close(torch.func.vmap(net)(Z), wanted, rtol=1e-11, atol=1e-12)
    net.zero_grad()
    net.recompute = True
    read_out(net.train()(Z)).backward()
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["srr, 1/L", "lfista", "softmax", "own"])
def test_compiled_whole(name):
    torch.compiler.reset()
    net = perturbed(network(name, 2))
    wanted = net(Z)
    read_out(wanted).backward()
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    found = torch.compile(net, fullgraph=True, backend="aot_eager")(Z)
    read_out(found).backward()
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-11)


@case
def test_half_precision(name):
    """Under autocast the output is that of float32 to the digits of bfloat16, and gradients are finite."""
    net = network(name, 2).float()
    wanted = net(Z.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = net(Z.float())
        read_out(found.float()).backward()
    torch.testing.assert_close(found.float(), wanted, rtol=0.1, atol=0.05)
    assert all(torch.isfinite(parameter.grad).all() for parameter in net.parameters())


@case
def test_saved_and_loaded(name, tmp_path):
    net = perturbed(network(name))
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    other = network(name)
    other.load_state_dict(load_file(tmp_path / "net.safetensors"))
    assert torch.equal(net(Z), other(Z))


def test_a_layer_is_given_back():
    """The problem and the solver of each trained layer, one step each, give what the network gives."""
    net = perturbed(network("srr, 1/L", cap=True))
    A = net.layer(0, Z)[0].start(Z)
    for index in range(3):
        problem, solver = net.layer(index, A)
        assert float(solver.rule.step) < float(1 / problem.smoothness(A))
        A, _ = solver.step(problem, A, solver.init(problem, A))
    torch.testing.assert_close(A, net(Z), rtol=1e-12, atol=1e-13)


def test_bases_stay_orthonormal_and_numbers_positive():
    problem, solver, learn = CASES["srr"]
    net = Unrolled(problem, solver, 2, learn, orthonormal=("U",))
    torch.testing.assert_close(net(Z), network("srr", 2)(Z), rtol=1e-12, atol=1e-13)
    optimizer = torch.optim.SGD(net.parameters(), lr=3.0)
    for _ in range(5):
        optimizer.zero_grad()
        read_out(net(Z)).backward()
        optimizer.step()
    for index in range(2):
        made, with_step = net.layer(index, Z)
        torch.testing.assert_close(made.U.mT @ made.U, torch.eye(3).double().expand(2, 3, 3), rtol=0, atol=1e-12)
        assert min(float(made.eps), float(made.penalty.lam), float(with_step.rule.step)) > 0


def test_inputs_are_given_by_every_call():
    """Sparse codes of tokens that arrive with the call, masks included; nothing of the first ones is kept."""
    tokens = torch.randn(5, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    problem = srr.SparseCoding(Z[0], FRAME, srr.L1(0.1))
    net = Unrolled(problem, srr.Accelerated(), 4, ("D",), inputs=("Z",))
    found = net(torch.zeros(5, 3, 8).double(), Z=tokens)
    wanted = srr.minimize(
        srr.SparseCoding(tokens, FRAME, srr.L1(0.1)), 0 * tokens, srr.Accelerated(), tol=0, max_steps=4
    )
    torch.testing.assert_close(found.detach(), wanted.Z, rtol=1e-12, atol=1e-13)
    assert set(net.state_dict()) == {f"layers.{index}.D" for index in range(4)}
    masked = Unrolled(OWN, srr.ProximalGradient(Fixed(0.05)), 3, ("metric",), inputs=("mask", "target"))
    mask = torch.arange(24) < torch.tensor([[24], [10]])
    garbage = torch.where(mask[..., None], Z, 1e3)
    a, b = (masked(torch.zeros_like(Z), mask=mask.double(), target=target) for target in (Z, garbage))
    assert torch.equal(a, b)
    with pytest.raises(ValueError, match="must give the fields"):
        net(tokens)


def test_crate_is_unrolled():
    """The layers of CRATE as two half-steps with the same weights: the same output, the same gradients."""
    from srr.nn import create_model
    from srr.solvers import ResidualAttention

    torch.manual_seed(0)
    model = create_model("crate_micro", dim=8, depth=2, heads=2, head_dim=4).double()
    blocks = list(model.blocks)
    first = blocks[0]
    attention, dictionary = first.attention, first.dictionary
    solver = srr.Alternating(
        ResidualAttention(4**-0.5, first.attention_norm, attention.out.detach(), attention.bias.detach()),
        IstaSparsification(dictionary.D.detach(), dictionary.lam, dictionary.step, norm=first.dictionary_norm),
    )
    learn = (
        "U",
        "solver.compress.out",
        "solver.compress.bias",
        "solver.compress.norm",
        "solver.sparsify.D",
        "solver.sparsify.norm",
    )
    problem = srr.SparseRateReduction(attention.U.detach(), 0.5, srr.L1(0.1))
    net = Unrolled(problem, solver, 2, learn)
    net.load_state_dict({f"layers.{i}.{name}": x for i, block in enumerate(blocks) for name, x in crate_parts(block)})
    tokens = torch.randn(3, 10, 8, dtype=torch.float64)
    wanted, found = blocks[1](blocks[0](tokens)), net(tokens)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    read_out(wanted).backward()
    read_out(found).backward()
    with torch.no_grad():
        for index, block in enumerate(blocks):
            for parameter in block.parameters():
                parameter.copy_(parameter.grad)  # the views that give the weights also give their gradients
            for name, gradient in crate_parts(block):
                torch.testing.assert_close(
                    net.get_parameter(f"layers.{index}.{name}").grad, gradient, rtol=0, atol=1e-12
                )


def crate_parts(block):
    """Weights of a block under the names that they have in the network of its two half-steps."""
    yield "U", block.attention.U.detach()
    yield "solver_compress_out", block.attention.out.detach()
    yield "solver_compress_bias", block.attention.bias.detach()
    yield "solver_sparsify_D", block.dictionary.D.detach()
    for path, norm in (("solver_compress_norm", block.attention_norm), ("solver_sparsify_norm", block.dictionary_norm)):
        yield f"{path}.weight", norm.weight.detach()
        yield f"{path}.bias", norm.bias.detach()


BAD = {
    "depth": (lambda: network("srr", 0), "depth"),
    "no field": (lambda: Unrolled(*CASES["srr"][:2], 2, ("V",)), "learn must name fields"),
    "search": (lambda: Unrolled(CASES["srr"][0], srr.ProximalGradient(), 2), "fixed steps"),
    "SciPy": (lambda: Unrolled(CASES["mcr2"][0], srr.LBFGS(), 2), "LBFGS"),
    "labels": (
        lambda: Unrolled(srr.RateReduction(MIX.labels, 0.5, srr.Ridge(0.1)), srr.Accelerated(), 2, ("Pi",)),
        "Pi",
    ),
    "orthonormal": (lambda: network("srr", orthonormal=("D",)), "orthonormal must name learned"),
    "zero": (
        lambda: Unrolled(srr.SparseRateReduction(MIX.U, 0.5), srr.ProximalGradient(Fixed()), 2, ("penalty.lam",)),
        "must start above 0",
    ),
    "limit of ISTA": (lambda: network("neumann", cap=True), "1/‖D‖²"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
