r"""
Meet an optimum that is known in closed form
============================================

With a ridge in place of the constraint, the maximizers of the coding rate reduction are known [GEOM]: the classes live
on mutually orthogonal subspaces, and within a class every singular value is the larger root :math:`s` of

.. math:: \lambda (1 + \alpha s^2)(1 + \alpha_k s^2) = \alpha (\alpha_k - \alpha) s^2 .

A solver is right when it arrives there from anywhere. This page starts it from twenty random points at once.
"""

# %%
# Twenty starts are one batch
# ---------------------------
# Three classes of 30 tokens in 24 dimensions. Leading axes are a batch, so the twenty runs share every product, and
# each has its own status.

import matplotlib.pyplot as plt
import numpy as np

import srr

D, SIZES, EPS = 24, (30, 30, 30), 0.5
N = sum(SIZES)
labels = np.repeat(np.arange(len(SIZES)), SIZES)


def larger_root(lam, size):
    alpha, own = D / (N * EPS**2), D / (size * EPS**2)
    return np.sqrt(np.roots([lam * alpha * own, lam * (alpha + own) - alpha * (own - alpha), lam]).real.max())


starts = np.random.default_rng(0).standard_normal((20, N, D))
solver = srr.ProximalGradient(srr.BarzilaiBorwein())
solutions = {}
print("  λ     closed form   worst error   starts converged   most steps")
for lam in (0.01, 0.03, 0.05, 0.1):
    problem = srr.RateReduction(labels, EPS, srr.Ridge(lam))
    found = solutions[lam] = srr.minimize(problem, starts, solver, tol=1e-10, max_steps=500)
    sigma = np.concatenate([np.linalg.svd(found.Z[:, labels == k], compute_uv=False).ravel() for k in range(3)])
    wanted = larger_root(lam, 30)
    error = np.abs(sigma[sigma > 1e-3] / wanted - 1).max()
    converged = sum(status is srr.Status.CONVERGED for status in found.status)
    print(f"{lam:5.2f} {wanted:12.5f} {error:14.1e} {converged:14d} {found.steps.max():16d}")

# %%
# What the solution looks like
# ----------------------------
# Singular values of the three classes before and after, and the absolute Gram matrix of the solution: nothing
# between classes. How the 24 dimensions are shared between equal classes depends on the start; the objective does
# not.

found = solutions[0.05]
figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
for k in range(3):
    axes[0].plot(np.linalg.svd(starts[0][labels == k], compute_uv=False), ":", color=f"C{k}")
    axes[0].plot(
        np.linalg.svd(found.Z[0][labels == k], compute_uv=False), "o-", ms=3, color=f"C{k}", label=f"class {k}"
    )
axes[0].axhline(larger_root(0.05, 30), color="black", lw=0.8)
axes[0].set(xlabel="index", ylabel="singular value", title="before (dotted) and after")
axes[0].legend()
axes[1].imshow(np.abs(found.Z[0] @ found.Z[0].T), cmap="magma")
axes[1].set(title="|Z Zᵀ|", xlabel="token, by class")
axes[2].semilogy(found.history.residual)
axes[2].set(xlabel="step", ylabel="distance to optimality", title="twenty starts")
plt.show()

# %%
# Unequal classes: local maximizers
# ---------------------------------
# Here ranks matter. The optimum gives dimensions to smaller classes first; random starts end at local maximizers
# whose singular values are right and whose ranks are not.

SIZES = (20, 30, 50)
D, N = 16, sum(SIZES)
labels = np.repeat(np.arange(3), SIZES)
problem = srr.RateReduction(labels, EPS, srr.Ridge(0.05))
found = srr.minimize(problem, np.random.default_rng(0).standard_normal((20, N, D)), solver, tol=1e-10, max_steps=500)
ranks = np.stack([np.linalg.matrix_rank(found.Z[:, labels == k], tol=1e-3) for k in range(3)], axis=-1)
best = np.zeros((N, D))
best[:D] = larger_root(0.05, 20) * np.eye(D)
print(f"optimum, ranks (16, 0, 0): {-float(problem.objective(best)):.4f} nats")
for i in np.argsort(found.objective)[[0, 10, 19]]:
    print(f"a random start, ranks {tuple(ranks[i].tolist())}: {-found.objective[i]:.4f} nats")

# %%
# A quasi-Newton method, finished by a warm start
# -----------------------------------------------
# L-BFGS compares objectives, and these have no digits left once the tokens are right to about eight. The
# Barzilai-Borwein steps trust the gradient and finish from the solution.

rough = srr.minimize(problem, found.Z[0] + 0.1, srr.LBFGS(), tol=1e-6)
fine = srr.minimize(problem, rough, solver, tol=1e-12)
print(f"L-BFGS {rough.residual:.1e}, then {fine.steps} Barzilai-Borwein steps: {fine.residual:.1e}")

# %%
# A saddle is left
# ----------------
# One singular value at the *smaller* root is a critical point too, but a saddle. Exactly there the residual is zero
# and nothing moves; a millionth beside it the solver leaves.

D, SIZES, N = 6, (10, 10), 20
labels = np.repeat(np.arange(2), SIZES)
problem = srr.RateReduction(labels, EPS, srr.Ridge(0.05))
large = larger_root(0.05, 10)
small = 1 / (large * np.sqrt(D / (N * EPS**2) * D / (10 * EPS**2)))
saddle = np.zeros((N, D))
saddle[:3, :3] = np.diag([large, large, small])
saddle[10:13, 3:] = large * np.eye(3)
stays = srr.minimize(problem, saddle, solver, tol=1e-9)
paths = []
for nudge in (-1e-6, 1e-6):
    beside = saddle.copy()
    beside[2, 2] += nudge
    path = []
    watch = srr.solvers.Progress(lambda seen, p=path: p.append(seen.Z[2, 2]))
    srr.minimize(problem, beside, solver, tol=1e-10, callbacks=[watch])
    paths.append(path)
print(f"on the saddle: {stays.steps} steps. {stays.status.value}")
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
for path in paths:
    axis.plot(path, "o-", ms=3)
axis.axhline(large, color="black", lw=0.8)
axis.axhline(small, color="gray", ls=":", lw=0.8)
axis.set(xlabel="step", ylabel="the third singular value")
plt.show()

# %%
# The Frobenius constraint of MCR²
# --------------------------------
# With :math:`\lVert Z_k \rVert_F^2 = n_k` instead of the ridge, theory promises orthogonal classes whose leading
# singular values are equal.

SIZES, D = (20, 20, 20), 12
labels = np.repeat(np.arange(3), SIZES)
problem = srr.RateReduction(labels, EPS, srr.ClassSpheres(labels))
found = srr.minimize(problem, np.random.default_rng(0).standard_normal((60, D)), solver, tol=1e-9, max_steps=5000)
for k in range(3):
    print(f"class {k}:", np.linalg.svd(found.Z[labels == k], compute_uv=False).round(6)[:6])
gram = np.abs(found.Z @ found.Z.T) * (labels[:, None] != labels)
print(f"largest product between classes: {gram.max():.1e}")
