r"""
A network built forward: ReduNet
================================

A ReduNet is gradient ascent on the rate reduction, unrolled: each layer's operators are computed from the labeled
features that reach it, and nothing is back-propagated. This page shows what the layers do, what a shift-invariant
network adds, and, on real digits, what it does not add.
"""

# %%
# Three Gaussians on the sphere
# -----------------------------
# For any step up to :math:`8 n \varepsilon^2 / (9 d)`, the default, no layer lowers the rate reduction.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import srr
from srr.estimators import ReduNetClassifier

rng = np.random.default_rng(0)
centers = np.asarray([[1.0, 0.2, 0.0], [0.5, 1.0, 0.1], [0.4, 0.3, 1.0]])
labels = np.arange(600) % 3
tokens = centers[labels] / np.linalg.norm(centers, axis=1)[labels, None] + 0.07 * rng.normal(size=(600, 3))
tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)

network = srr.fits.build_redunet(tokens[:300], labels[:300], eps=0.5, depth=20)
features = network(tokens[300:])  # no label is seen here
predicted = network.class_residuals(tokens[300:]).argmin(axis=1)
gains = np.diff(network.rate_reduction)
print(f"test accuracy {np.mean(predicted == labels[300:]):.3f}, smallest gain of a layer {gains.min():.1e} nats")

figure = plt.figure(figsize=(11, 3.6), layout="constrained")
for place, (points, title) in enumerate(((tokens[300:], "test tokens"), (features, "after 20 layers")), start=1):
    axis = figure.add_subplot(1, 3, place, projection="3d")
    axis.scatter(*points.T, c=labels[300:], cmap="viridis", s=8)
    axis.set(title=title, xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
axis = figure.add_subplot(1, 3, 3)
axis.plot(network.rate_reduction)
axis.set(xlabel="layer", ylabel="rate reduction of the training tokens (nats)")
plt.show()

# %%
# Real digits, and an honest baseline
# -----------------------------------
# Nearest subspace on raw pixels needs no layer. Zero layers of a ReduNet are its soft form, without a rank to choose:
# with ``affine=False`` on the same raw pixels, and last with the default, which centers them and adds a coordinate.

X, y = load_digits(return_X_y=True)


def nearest_subspace(train, classes, test, rank=16):
    bases = srr.ops.principal_bases(train, classes, rank=rank)
    return np.sum((test @ bases) ** 2, axis=-1).argmax(axis=0)


rows = []
for seed in range(5):
    train, test, classes, truth = train_test_split(X, y, test_size=0.2, random_state=seed, stratify=y)
    row = [np.mean(nearest_subspace(train, classes, test) == truth)]
    kinds = (
        {"n_layers": 0, "affine": False},
        {"n_layers": 5, "affine": False},
        {"n_layers": 20, "affine": False},
        {"n_layers": 20},
    )
    row += [ReduNetClassifier(0.5, **kind).fit(train, classes).score(test, truth) for kind in kinds]
    rows.append(row)
names = ("nearest subspace", "0 layers", "5 layers", "20 layers", "20, centered")
for name, mean, spread in zip(names, np.mean(rows, axis=0), np.std(rows, axis=0), strict=True):
    print(f"{name:>17}: {mean:.4f} ± {spread:.4f}")

# %%
# The layers raise the rate reduction many times over, and the classes become orthogonal. They do not buy accuracy:
# the decision was already made by the subspaces of the pixels.

model = ReduNetClassifier(0.5, 20, affine=False).fit(train, classes)
print(f"rate reduction {model.rate_reduction_[0]:.1f} to {model.rate_reduction_[-1]:.1f} nats")
order = np.argsort(truth, kind="stable")
figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
axes[0].plot(model.rate_reduction_)
axes[0].set(xlabel="layer", ylabel="rate reduction (nats)")
unit = test / np.linalg.norm(test, axis=1, keepdims=True)
for axis, Z, title in ((axes[1], unit, "test digits"), (axes[2], model.transform(test), "after 20 layers")):
    axis.imshow(np.abs(Z[order] @ Z[order].T), vmin=0, vmax=1, cmap="magma")
    axis.set(title=f"|cosines|, {title}", xticks=[], yticks=[])
plt.show()

# %%
# Circular shifts
# ---------------
# Here is what a ReduNet adds. With every circular shift of an image in its class, the operators are one small matrix
# per frequency. The network is then equivariant, and its decision invariant, to rounding: an image moved anywhere on
# the torus gets the same answer, though no moved image was seen. Random filters lift the image to 16 channels first.


def on_a_torus(rows):
    return np.pad(rows.reshape(-1, 8, 8), [(0, 0), (0, 4), (0, 4)])


train, test, classes, truth = train_test_split(X, y, test_size=0.2, random_state=0, stratify=y)
images = on_a_torus(test)
moved = np.stack([np.roll(image, rng.integers(0, 12, 2), axis=(0, 1)) for image in images])
flat = [a.reshape(len(a), -1) for a in (on_a_torus(train), images, moved)]
invariant = ReduNetClassifier(0.5, 2, signal_shape=(1, 12, 12), n_filters=16, random_state=0).fit(flat[0], classes)
plain = ReduNetClassifier(0.5, 2, affine=False).fit(flat[0], classes)
difference = np.abs(invariant.residuals(flat[2]) - invariant.residuals(flat[1])).max()
print(f"shift-invariant: {invariant.score(flat[1], truth):.4f}, moved {invariant.score(flat[2], truth):.4f}")
print(f"        vectors: {plain.score(flat[1], truth):.4f}, moved {plain.score(flat[2], truth):.4f}")
print(f"largest change of a residual by moving: {difference:.1e}")

figure, axes = plt.subplots(2, 8, figsize=(11, 3.0), layout="constrained")
for column in range(8):
    for row, (data, fitted) in enumerate(((flat[1], invariant), (flat[2], invariant))):
        guess = [m.predict(data[column : column + 1])[0] for m in (fitted, plain)]
        axes[row, column].imshow(data[column].reshape(12, 12), cmap="gray_r")
        axes[row, column].set(xticks=[], yticks=[], title=f"{guess[0]}  (vectors: {guess[1]})")
        axes[row, column].title.set_fontsize(8)
plt.show()
