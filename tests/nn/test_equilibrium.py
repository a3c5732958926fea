"""The solver inside a network: its derivative is that of the solution, not of the way there."""

import numpy as np
import pytest
import torch

import srr
from srr.nn import Equilibrium, Unrolled
from srr.solvers import Status

MIX = srr.subspace_mixture(n=12, d=6, K=2, p=2, noise=0.2, seed=0)
Z = torch.asarray(MIX.Z)
SMALL = srr.subspace_mixture(n=8, d=4, K=2, p=2, noise=0.2, rotated=True, seed=0)
D = torch.linalg.qr(torch.asarray(np.random.default_rng(1).standard_normal((6, 4))))[0] * 0.9
D = D + 0.1 * torch.asarray(np.random.default_rng(2).standard_normal((6, 4)))


def read_out(A):
    return torch.sum(A * torch.sin(torch.arange(A.numel(), dtype=A.dtype)).reshape(A.shape))


CASES = {
    "coding": (
        srr.SparseCoding(Z, D, srr.L1(0.2)),
        srr.Accelerated(),
        srr.ProximalGradient(srr.FixedStep()),
        ("D", "penalty.lam"),
        torch.zeros(12, 4).double(),
    ),
    "alternating": (
        srr.SparseRateReduction(SMALL.U, 0.8, srr.UnitL1(0.01)),
        srr.Alternating(),
        srr.Alternating(),
        ("U", "eps", "penalty.lam"),
        torch.asarray(SMALL.Z),
    ),
}
STEPS = {"coding": 5000, "alternating": 800}  # of a fixed length, more than enough to forget the start


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_many_steps(name):
    """Unrolled steps of fixed length, differentiated one by one; half of the entries are zero in the second case."""
    problem, solver, fixed, learn, start = CASES[name]
    net = Equilibrium(problem, solver, learn, tol=1e-10)
    unrolled = Unrolled(problem, fixed, STEPS[name], learn, share=True)
    found, wanted = net(start), unrolled(start)
    assert net.solution.status is Status.CONVERGED
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    read_out(found).backward()
    read_out(wanted).backward()
    for a, b in zip(net.parameters(), unrolled.parameters(), strict=True):
        assert float(b.grad.abs().max()) > 1e-3
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-7)


def test_inputs_and_status_of_every_item():
    """The tokens that a call gives get a gradient: that of the lasso's active atoms, in closed form."""
    tokens = torch.stack([Z, 0.5 * Z]).requires_grad_()
    problem = srr.SparseCoding(Z, D, srr.L1(0.2))
    net = Equilibrium(problem, srr.Accelerated(), ("D",), tol=1e-11, inputs=("Z",))
    found = net(torch.zeros(2, 12, 4).double(), Z=tokens)
    assert list(net.solution.status) == [Status.CONVERGED] * 2
    read_out(found).backward()
    weights = torch.sin(torch.arange(found.numel(), dtype=found.dtype)).reshape(found.shape)
    for item, row in np.ndindex(2, 12):
        active = torch.nonzero(found[item, row].detach()).ravel()
        atoms = D[:, active]
        wanted = atoms @ torch.linalg.solve(atoms.mT @ atoms, weights[item, row, active])
        torch.testing.assert_close(tokens.grad[item, row], wanted, rtol=1e-7, atol=1e-8)


def test_where_the_solution_is_not_unique():
    """Tokens of MCR² may be turned together: what sees the turn has no derivative, what does not has the right one."""
    labels = torch.asarray(np.repeat([0, 1], 6))
    problem = srr.RateReduction(labels, 0.5, srr.Ridge(0.3))
    net = Equilibrium(problem, srr.ProximalGradient(srr.BarzilaiBorwein()), ("penalty.lam",), tol=1e-11)
    found = net(Z)
    with pytest.raises(RuntimeError, match="not locally unique"):
        read_out(found).backward()
    net.zero_grad()
    torch.sum(net(Z) ** 2).backward()
    (slope,) = (float(parameter.grad) for parameter in net.parameters())
    energies = []
    for h in (1e-4, -1e-4):
        other = srr.RateReduction(labels, 0.5, srr.Ridge(0.3 * np.exp(h)))
        solver = srr.ProximalGradient(srr.BarzilaiBorwein())
        energies.append(float(torch.sum(srr.minimize(other, Z, solver, tol=1e-11, max_steps=10_000).Z ** 2)))
    assert slope == pytest.approx((energies[0] - energies[1]) / 2e-4, rel=1e-6)


def test_only_what_the_solution_depends_on_is_learned():
    with pytest.raises(ValueError, match="does not depend on"):
        Equilibrium(srr.SparseCoding(Z, D, srr.L1(0.2)), srr.Accelerated(srr.FixedStep(0.1)), ("solver.rule.step",))
