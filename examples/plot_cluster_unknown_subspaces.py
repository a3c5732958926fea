r"""
Cluster data when nobody tells you the subspaces
================================================

Tokens lie near a few subspaces, and neither the subspaces nor, in the second half, their number is known.
Two estimators find them: a mixture of low-rank Gaussians fitted by EM, whose expectation step is the softmax that
attention is derived from, and agglomerative merging that shortens the code of the tokens. K-means and full Gaussian
mixtures get the same tokens, and the rule that knows the truth says what is possible at all.
"""

# %%
# The data
# --------
# 2,000 tokens in 64 dimensions, near 6 independent subspaces of dimension 5. The noise is given as the length of the
# noise vector over the length of the signal vector: :math:`\sigma\sqrt{d} = r\sqrt{p}`. At :math:`r = 1.07` every
# *coordinate* has noise 0.3, and the noise vector is longer than the signal.

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

import srr
from srr.estimators import CodingLengthClustering, SubspaceMixtureClustering

N, D, K, P = 2000, 64, 6, 5
RATIOS = (0.1, 0.3, 0.6, 0.8, 0.3 * np.sqrt(D / P))


def draw(ratio, n=N):
    sigma = ratio * np.sqrt(P / D)
    return sigma, srr.subspace_mixture(n=n, d=D, K=K, p=P, noise=sigma, coherence=None, rotated=True, seed=0)


def accuracy(labels, truth):
    table = np.zeros((labels.max() + 1, truth.max() + 1))
    np.add.at(table, (labels, truth), 1)
    rows, columns = linear_sum_assignment(-table)
    return table[rows, columns].sum() / len(truth)


# %%
# Known number, unknown subspaces
# -------------------------------

models = {
    "SubspaceMixture": SubspaceMixtureClustering(K, P, affine=False, random_state=0),
    "GaussianMixture": GaussianMixture(K, random_state=0, max_iter=200),
    "KMeans": KMeans(K, n_init=4, random_state=0),
}
scores = {name: [] for name in ("Bayes rule", *models)}
angles = []
for ratio in RATIOS:
    sigma, mix = draw(ratio)
    bayes = srr.ops.subspace_membership(mix.Z, mix.U, temperature=sigma**2 * (1 + sigma**2)).argmax(axis=1)
    scores["Bayes rule"].append(accuracy(bayes, mix.labels))
    for name, model in models.items():
        scores[name].append(accuracy(model.fit_predict(mix.Z), mix.labels))
    fitted = models["SubspaceMixture"]
    nearest = [np.bincount(fitted.labels_[mix.labels == k]).argmax() for k in range(K)]
    angles.append(max(srr.ops.principal_angles(mix.U[k], fitted.bases_[j]).max() for k, j in enumerate(nearest)))

print(f"{'noise / signal':>16}" + "".join(f"{r:8.2f}" for r in RATIOS))
for name, row in scores.items():
    print(f"{name:>16}" + "".join(f"{s:8.3f}" for s in row))
print(f"{'angle (rad)':>16}" + "".join(f"{a:8.3f}" for a in angles))

# %%
# EM is as good as the rule that knows the truth. K-means looks for centers, and all subspaces share theirs; a full
# Gaussian has 2,080 parameters a class where the subspace has 295.

figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for name, row in scores.items():
    axes[0].plot(RATIOS, row, "--" if name == "Bayes rule" else "o-", label=name, zorder=3 if "B" in name else 2)
axes[0].set(xlabel="length of noise / length of signal", ylabel="clustering accuracy", ylim=(0, 1.03))
axes[0].legend()
axes[1].plot(RATIOS, angles, "o-")
axes[1].set(xlabel="length of noise / length of signal", ylabel="largest principal angle to the truth (rad)", ylim=0)
plt.show()

# %%
# Unknown number: the shortest code
# ---------------------------------
# Merging needs only a distortion. Every token starts as a cluster of its own; the code gets shorter with every merge,
# and here stops getting shorter at six clusters, for distortions around the length of the noise, 0.29. Much smaller
# or larger ones run some classes together.

_, mix = draw(0.13, n=600)
found = {eps: CodingLengthClustering(eps, affine=False).fit(mix.Z) for eps in (0.1, 0.2, 0.3, 0.6, 1.0)}
for eps, model in found.items():
    print(f"eps = {eps}: {model.n_clusters_} clusters, accuracy {accuracy(model.labels_, mix.labels):.3f}")

model = found[0.3]
figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
axes[0].plot(np.arange(600, 600 - len(model.history_), -1), model.history_)
axes[0].set(xlabel="clusters left", ylabel="coding length (nats)", xscale="log")
axes[0].axvline(K, color="0.6", linestyle=":")
for axis, order, title in (
    (axes[1], np.arange(600), "|Z Zᵀ|, as drawn"),
    (axes[2], np.argsort(model.labels_), "ordered by cluster"),
):
    axis.imshow(np.abs(mix.Z[order] @ mix.Z[order].T), vmax=4, cmap="magma")
    axis.set(title=title, xticks=[], yticks=[])
plt.show()

# %%
# Where it stops working
# ----------------------
# Merging is greedy. With more noise early mistakes add up, and it ends at a longer code than another segmentation
# has: :func:`srr.coding_length` shows it, and the mixture, told the number, is then the better tool. It can choose
# its own numbers too: K by coding length, p by how well the clusters of two halves agree. Here it takes one cluster
# more than there are subspaces, a small one.

_, noisy = draw(0.3, n=600)
merged = CodingLengthClustering(0.67, affine=False).fit(noisy.Z)
truth = srr.coding_length(noisy.Z, noisy.labels, eps=0.67)
print(f"merging: {merged.n_clusters_} clusters, {merged.coding_length_:.0f} nats; the true classes need {truth:.0f}")
chosen = SubspaceMixtureClustering(range(4, 8), range(4, 7), affine=False, n_init=3, random_state=0).fit(noisy.Z)
found_K, found_p = chosen.bases_.shape[0], chosen.bases_.shape[2]
sizes = np.bincount(chosen.labels_)
print(f"mixture: K = {found_K}, p = {found_p}, accuracy {accuracy(chosen.labels_, noisy.labels):.3f}")
print(f"its smallest cluster has {sizes.min()} of 600 tokens")
