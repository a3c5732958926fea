"""
Digits that stay on their subspaces
===================================

Ten subspaces of dimension 4 in the 64 dimensions of small digits: 24 directions belong to no class. Where does the
sparse rate reduction take the tokens?
"""

# %%
# Subspaces of the classes
# ------------------------
#
# The mean is removed, images get unit length. The best subspaces of the classes overlap; the theory asks for
# incoherent ones, so they are replaced by the nearest orthogonal ones, blocks of a polar factor. Its complement makes
# the frame D complete, in which sparsity is measured.

import matplotlib.pyplot as plt
import numpy as np
from scipy.linalg import null_space, polar
from sklearn.datasets import load_digits

import srr

X, labels = load_digits(return_X_y=True)
X, labels = X[:600], labels[:600]
X = X - X.mean(axis=0)
X = X / np.linalg.norm(X, axis=1, keepdims=True)

K, p = 10, 4
classes = srr.ops.principal_bases(X, labels, rank=p)
inside = polar(np.concatenate(list(classes), axis=1))[0]
D = np.hstack([inside, null_space(inside.T)])
U = np.stack(np.split(inside, K, axis=1))
print(f"coherence of the classes' subspaces {srr.ops.coherence(classes):.2f}, orthogonal {srr.ops.coherence(U):.2f}")

# %%
# Without and with a charge for energy outside
# --------------------------------------------
#
# Energy outside raises R and costs nothing in R^c, so without a charge the tokens fill the 24 free directions, and the
# run still ends as converged. ``outside=1`` is the least weight with which leaving never pays.


def energies(Z):
    """Energy of every token in every subspace, (n, K)."""
    return np.sum((Z @ U) ** 2, axis=-1).T


found = {"data": X}
for outside in (0.0, 1.0):
    problem = srr.SparseRateReduction(U, eps=0.5, penalty=srr.UnitL1(0.01), D=D, outside=outside)
    solution = srr.minimize(problem, X, srr.ProximalGradient(), tol=1e-5, max_steps=100)
    print(f"outside={outside:g}: {solution.status.value}")
    found[f"outside={outside:g}"] = solution.Z

print("                 on the span  on the nearest subspace  on that of its class")
for name, Z in found.items():
    shares = energies(Z)
    own = shares[np.arange(len(Z)), labels]
    print(f"{name:10s} {shares.sum(axis=1).mean():15.3f} {shares.max(axis=1).mean():20.3f} {own.mean():22.3f}")

# %%
# What the tokens look like
# -------------------------
#
# Each square is the mean energy of one class (row) in each subspace (column); the last column is what lies outside all.

figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained", sharey=True)
for axis, (name, Z) in zip(axes, found.items(), strict=True):
    shares = energies(Z)
    shares = np.hstack([shares, 1 - shares.sum(axis=1, keepdims=True)])
    axis.imshow([shares[labels == k].mean(axis=0) for k in range(K)], vmin=0, vmax=1, cmap="viridis")
    axis.set(title=name, xlabel="subspace", xticks=[*range(K + 1)], xticklabels=[*map(str, range(K)), "out"])
axes[0].set(ylabel="class", yticks=range(K))
plt.show()
