"""
Solve a mixture
===============

Tokens drawn near four subspaces, and the tokens that maximize the sparse rate reduction from there. The solver says why
it stopped; the pictures show what it found.
"""

# %%
# The problem
# -----------
#
# .. math::
#     \max_Z \; R(Z) - R^c(Z; U_{[K]}) - \lambda \lVert Z \rVert_1 \quad \text{with every token on the unit sphere.}
#
# The sphere matters: without it, a positive :math:`\lambda` makes a few tokens enormous and all others vanish.

import matplotlib.pyplot as plt
import numpy as np

import srr
from srr.plots import plot_energies, plot_gram

mix = srr.subspace_mixture(n=400, d=32, K=4, p=8, noise=0.3, seed=0)
problem = srr.SparseRateReduction(U=mix.U, eps=0.5, penalty=srr.UnitL1(0.005))

# %%
# Three solvers
# -------------
#
# The step 1/L is always safe and slow. Backtracking tries longer steps and keeps those that lower the objective enough.
# Each run reports its own status.

solvers = {
    "step 1/L": srr.ProximalGradient(srr.FixedStep()),
    "backtracking": srr.ProximalGradient(srr.Backtracking()),
    "accelerated": srr.Accelerated(),
}
found = {name: srr.minimize(problem, mix.Z, solver, tol=1e-7, max_steps=300) for name, solver in solvers.items()}
for name, solution in found.items():
    print(f"{name:13s} {-solution.objective:8.4f} nats after {solution.steps:3d} steps. {solution.status.value}")

figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for name, solution in found.items():
    axes[0].plot(-solution.history.objective, label=name)
    axes[1].semilogy(np.maximum(solution.history.residual, 1e-16), label=name)
axes[0].set(xlabel="step", ylabel="sparse rate reduction (nats)", xscale="symlog")
axes[1].set(xlabel="step", ylabel="distance to optimality", xscale="symlog")
axes[0].legend()
plt.show()

# %%
# What became of the tokens
# -------------------------
#
# Before, a token shares a little with the tokens of every class; afterward classes are orthogonal to each other, and
# within a class tokens sit on single coordinates.

solution = found["backtracking"]
plot_gram(mix.Z, solution.Z, mix.labels)
plot_energies(mix.Z, solution.Z, mix.U, mix.labels)
plt.show()

energy = np.sum((solution.Z @ mix.U) ** 2, axis=-1)
print(f"tokens on their own subspace  {np.mean(energy.argmax(axis=0) == mix.labels):.2%}")
print(f"coordinates that are not zero {np.mean(solution.Z != 0):.2%}")

# %%
# The loop can be yours
# ---------------------
#
# A solver is ``init`` and ``step``; :func:`srr.minimize` only adds the stopping rule. Here the loop stops when no token
# changes its set of non-zero coordinates any more.

solver = solvers["backtracking"]
Z = problem.start(mix.Z)
state = solver.init(problem, Z)
support, unchanged = Z != 0, 0
while unchanged < 3:
    Z, state = solver.step(problem, Z, state)
    unchanged = unchanged + 1 if np.array_equal(Z != 0, support) else 0
    support = Z != 0
print(f"the support settled at {-float(state.objective):.4f} nats")
