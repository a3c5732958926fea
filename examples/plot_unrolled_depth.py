r"""
How far an unrolled network gets
================================

A layer is a step, so a network of :math:`L` layers is a solver stopped after :math:`L` steps. This page draws the
objective against depth for three compress half-steps (exact gradient, Neumann series, softmax attention), beside the
converged solver, and then trains a network of six layers.
"""

# %%
# Layers by hand
# --------------
# :class:`srr.Alternating` is one layer: compress, then sparsify. ``layer`` makes it a map of tokens and
# :func:`srr.solvers.unroll` folds the tokens through it. The softmax follows no gradient, and the Neumann series is
# one only where :math:`\beta \max_k \lVert V_k \rVert_2^2 < 1`.

import matplotlib.pyplot as plt
import numpy as np
import torch

import srr
from srr.nn import Block

DEPTH = 60
mix = srr.subspace_mixture(n=400, d=32, K=4, p=8, noise=0.3, seed=0)
halves = {
    "exact": srr.solvers.ExactCompression,
    "Neumann, 1 term": srr.solvers.NeumannCompression,
    "softmax": srr.solvers.SoftmaxCompression,
}


def rewards(problem, solver):
    """Sparse rate reduction after every layer."""
    Z = problem.start(mix.Z)
    values = [-float(problem.objective(Z))]
    for _ in range(DEPTH):
        Z, _ = solver.layer(problem, Z)
        values.append(-float(problem.objective(Z)))
    return values


figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
for axis, (eps, lam) in zip(axes, ((0.7, 0.002), (0.5, 0.005)), strict=True):
    problem = srr.SparseRateReduction(mix.U, eps, srr.UnitL1(lam))
    start = problem.start(mix.Z)
    best = srr.minimize(problem, mix.Z, srr.ProximalGradient(), tol=1e-8, max_steps=500)
    validity = float(srr.ops.neumann_validity(start, mix.U, eps=eps))
    print(f"ε = {eps}: converged {-best.objective:.3f} in {best.steps} steps, Neumann validity {validity:.2f}")
    for name, half in halves.items():
        solver = srr.Alternating(half(), srr.solvers.ProximalSparsification())
        curve = rewards(problem, solver)
        axis.plot(curve, label=name)
        print(f"  {name:16s} 6 layers {curve[6]:7.3f}, 60 layers {curve[60]:7.3f}, best {max(curve):7.3f}")
    axis.axhline(-best.objective, color="black", lw=0.8, label="converged solver")
    axis.set(xlabel="depth", title=f"ε = {eps}, Neumann validity {validity:.2f}")
axes[0].set_ylabel("sparse rate reduction (nats)")
axes[1].set_ylim(4, 13)
axes[0].legend()
plt.show()

# %%
# The exact layers approach the solver's optimum. The Neumann layers follow them where the series is valid and collapse
# where it is not. The softmax layers rise nearly as fast at first, then settle
# below.

# %%
# Layers that learn
# -----------------
# The same computation as released: :class:`srr.nn.Block`, ``Z + MSSA(LN Z)`` and one ISTA step. Untrained, every
# block holds the true subspaces and the dictionary I; trained, six blocks maximize the sparse rate reduction of their
# output on fresh mixtures. Outputs are put on the unit sphere before they are measured, all of them on mixtures that
# training never saw and nothing was chosen on.

torch.manual_seed(0)
EPS, LAM, SUBSPACES = 0.5, 0.005, torch.tensor(mix.U, dtype=torch.float32)


def draw(seeds):
    Z = np.stack([srr.subspace_mixture(n=400, d=32, K=4, p=8, noise=0.3, seed=s).Z for s in seeds])
    return torch.nn.functional.normalize(torch.tensor(Z, dtype=torch.float32), dim=-1)


def reward(Z):
    return srr.sparse_rate_reduction(torch.nn.functional.normalize(Z, dim=-1), SUBSPACES, eps=EPS, lam=LAM).mean()


def network(depth):
    blocks = [Block("crate", dim=32, heads=4, head_dim=8) for _ in range(depth)]
    with torch.no_grad():
        for block in blocks:
            block.attention.projection.copy_(SUBSPACES.mT.reshape(32, 32))
            block.attention.output.copy_(SUBSPACES.permute(1, 0, 2).reshape(32, 32))
            block.attention.bias.zero_()
            block.dictionary.D.copy_(torch.eye(32))
    return torch.nn.Sequential(*blocks)


unseen = draw(range(50_000, 50_008))
with torch.no_grad():
    Z, untrained = unseen, [float(reward(unseen))]
    for block in network(DEPTH):
        Z = block(Z)
        untrained.append(float(reward(Z)))

model = network(6)
optimizer = torch.optim.Adam(model.parameters(), lr=6e-3, betas=(0.9, 0.95))
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=200)
for iteration in range(200):
    loss = -reward(model(draw([iteration])))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()

with torch.no_grad():
    Z, trained = unseen, [float(reward(unseen))]
    for block in model:
        Z = block(Z)
        trained.append(float(reward(Z)))
problem = srr.SparseRateReduction(mix.U, EPS, srr.UnitL1(LAM))
solved = srr.minimize(problem, unseen.double().numpy(), srr.ProximalGradient(), tol=1e-7)

figure, axis = plt.subplots(figsize=(7, 3.6), layout="constrained")
axis.plot(untrained, label="60 untrained blocks")
axis.plot(trained, "o-", label="6 trained blocks")
axis.axhline(-solved.objective.mean(), color="black", lw=0.8, label="converged solver")
axis.set(xlabel="depth", ylabel="sparse rate reduction (nats)")
axis.legend()
plt.show()
print(f"untrained: 6 blocks {untrained[6]:.2f}, 60 blocks {untrained[60]:.2f}, at best {max(untrained):.2f}")
print(f"trained:   6 blocks {trained[6]:.2f}")
print(f"converged solver: {-solved.objective.mean():.2f} after {solved.steps.max()} steps")

# %%
# Six trained blocks pass what untrained blocks reach at any depth, and both stay short of the solver, whose steps are
# gradients of the objective that is being measured.
