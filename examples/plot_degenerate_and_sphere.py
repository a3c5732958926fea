r"""
Why tokens must live on a sphere, and sparsity in the right frame
=================================================================

Two facts about the sparse rate reduction that its solver shows at once. Without a bound on the tokens' size the problem
is degenerate. And the :math:`\ell_1` norm measures sparsity in one basis: subspaces that are turned against it lose.
"""

# %%
# Without a bound
# ---------------
# Rates grow with the logarithm of the tokens' size, the :math:`\ell_1` term with the size itself and with the number of
# non-zero entries. The cheapest way to many bits is a few enormous tokens and nothing else.

import matplotlib.pyplot as plt
import numpy as np

import srr
from srr.plots import plot_energies

EPS, LAM = 0.5, 0.005
mix = srr.subspace_mixture(n=400, d=32, K=4, p=8, noise=0.3, seed=0)
solver = srr.ProximalGradient()
penalties = {
    "free": srr.L1(LAM),
    "non-negative": srr.NonnegativeL1(LAM),
    "unit sphere": srr.UnitL1(LAM),
}
found = {}
print("tokens        SRR (nats)  steps  non-zeros  tokens at zero  longest token")
for name, penalty in penalties.items():
    problem = srr.SparseRateReduction(mix.U, EPS, penalty)
    solution = found[name] = srr.minimize(problem, mix.Z, solver, tol=1e-6, max_steps=3000)
    length = np.linalg.norm(solution.Z, axis=-1)
    print(
        f"{name:13s} {-solution.objective:9.3f} {solution.steps:6d} {np.mean(solution.Z != 0):10.2%}"
        f" {np.mean(length == 0):14.1%} {length.max():14.2f}"
    )

figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
for name, solution in found.items():
    axes[0].plot(-solution.history.objective, label=name)
    axes[1].plot(np.sort(np.linalg.norm(solution.Z, axis=-1))[::-1], label=name)
axes[0].set(xlabel="step", ylabel="sparse rate reduction (nats)", xscale="symlog")
axes[1].set(xlabel="token, longest first", ylabel="length", yscale="symlog")
axes[0].legend()
plt.show()

# %%
# The objective of the free problem is higher than anything the sphere allows, and useless: most tokens are gone.

# %%
# Subspaces turned against the basis
# ----------------------------------
# The same mixture, rotated. In the standard basis sparsity pulls tokens onto coordinate axes that have nothing to do
# with the subspaces. Measured in the frame the subspaces are made of, :math:`g(Z) = \lambda \lVert Z D \rVert_1`,
# all is well again. ``D=`` wraps the penalty in :class:`srr.penalties.RotatedPenalty`.

turned = srr.subspace_mixture(n=400, d=32, K=4, p=8, noise=0.3, rotated=True, seed=0)
problems = {
    "standard basis": srr.SparseRateReduction(turned.U, EPS, srr.UnitL1(LAM)),
    "aligned frame": srr.SparseRateReduction(turned.U, EPS, srr.UnitL1(LAM), D=turned.D),
}
for name, problem in problems.items():
    solution = srr.minimize(problem, turned.Z, solver, tol=1e-6, max_steps=2000)
    energy = np.sum((solution.Z @ turned.U) ** 2, axis=-1)
    own = np.mean(energy.argmax(axis=0) == turned.labels)
    off = np.max(1 - energy.max(axis=0))
    print(
        f"{name:15s} SRR {-solution.objective:7.3f}, {own:6.1%} of the tokens on their own subspace, "
        f"largest energy off one subspace {off:.1e}"
    )
    plot_energies(turned.Z, solution.Z, turned.U, turned.labels).suptitle(name)
    plt.show()

# %%
# Both runs reach nearly the same *objective*. The objective sees :math:`Z` through :math:`Z^\top Z` and the sparsity;
# it does not know which token belongs where.
