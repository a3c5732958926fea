r"""
Learned ISTA: a solver that becomes a network
=============================================

Sparse coding solves :math:`\min_A \tfrac12 \lVert Z - A D^\top \rVert_F^2 + \lambda \lVert A \rVert_1` by proximal
gradient steps, hundreds of them for two digits. :class:`srr.nn.Unrolled` makes a network of the first few, and learns
the dictionary, the threshold and the step of each. How many steps of the solver is one learned layer worth?
"""

# %%
# Codes to be predicted
# ---------------------
# Tokens of few atoms, and their codes by a solver that ran to the end; a thousand are held out.

import matplotlib.pyplot as plt
import numpy as np
import torch

import srr
from srr.nn import Unrolled

LAM = 0.1
rng = np.random.default_rng(0)
D = rng.standard_normal((20, 40))
D /= np.linalg.norm(D, axis=0)
atoms = rng.standard_normal((4000, 40)) * (rng.random((4000, 40)) < 0.1)
Z = atoms @ D.T + 0.01 * rng.standard_normal((4000, 20))
solved = srr.minimize(
    srr.SparseCoding(Z, D, srr.L1(LAM)), np.zeros((4000, 40)), srr.Accelerated(), tol=1e-6, max_steps=3000
)
print(f"FISTA {solved.status.name} after {solved.steps} steps; {np.mean(solved.Z != 0):.0%} of a code is not zero")
Z, codes = (torch.asarray(x, dtype=torch.float32) for x in (Z, solved.Z))
train, test = slice(0, 3000), slice(3000, 4000)

# %%
# The network
# -----------
# The problem's tokens come with every call (``inputs``), so one network codes any of them. Untrained it is the solver:
# ISTA or FISTA, stopped early.

problem = srr.SparseCoding(np.zeros((1, 20), np.float32), D.astype(np.float32), srr.L1(LAM))
step = float(1 / problem.smoothness(np.zeros((1, 40), np.float32)))
LEARN = ("D", "penalty.lam", "solver.rule.step")


def error(network):
    """Squared distance to the held-out codes, relative to their size."""
    with torch.no_grad():
        found = network(torch.zeros_like(codes[test]), Z=Z[test])
    return float(torch.sum((found - codes[test]) ** 2) / torch.sum(codes[test] ** 2))


def stopped(solver, depth):
    return Unrolled(problem, solver, depth, inputs=("Z",))


ista, fista = srr.ProximalGradient(srr.FixedStep(step)), srr.Accelerated(srr.FixedStep(step), restart=False)
steps = np.unique(np.geomspace(1, 200, 24).round().astype(int))
curves = {name: [error(stopped(s, int(n))) for n in steps] for name, s in (("ISTA", ista), ("FISTA", fista))}

# %%
# Training
# --------
# A thousand batches of 256 tokens for each depth: the squared error of the codes, nothing else.

depths, learned = (1, 2, 4, 8), []
for depth in depths:
    torch.manual_seed(0)
    network = Unrolled(problem, ista, depth, LEARN, inputs=("Z",))
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=1000)
    for _ in range(1000):
        batch = torch.randint(3000, (256,))
        loss = torch.mean(torch.sum((network(torch.zeros(256, 40), Z=Z[batch]) - codes[batch]) ** 2, dim=-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    learned.append(error(network))


def steps_to(curve, level):
    """Steps of a solver until its error is at a level."""
    reached = np.flatnonzero(np.asarray(curve) <= level)
    return str(steps[reached[0]]) if len(reached) else f"more than {steps[-1]}"


for depth, found in zip(depths, learned, strict=True):
    same = error(stopped(ista, depth))
    print(
        f"{depth} layers: error {found:.3f} where ISTA of the same depth has {same:.3f}; "
        f"ISTA is there after {steps_to(curves['ISTA'], found)} steps, FISTA after {steps_to(curves['FISTA'], found)}"
    )
    assert found < same / 2

# %%
# A learned layer is worth ten to twenty steps of ISTA, and three to ten of FISTA; Gregor and LeCun (2010) report
# savings of that order. The network knows the tokens it will meet, which a solver does not: the lead need not carry
# over to tokens of another kind, and it shrinks as the error does, since only the solver goes on to the exact codes.

figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
for name, curve in curves.items():
    axis.loglog(steps, curve, label=f"{name}, stopped")
axis.loglog(depths, learned, "o-", label="learned layers")
axis.set(xlabel="steps or layers", ylabel="error of held-out codes")
axis.legend()
plt.show()
