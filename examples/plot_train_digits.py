"""
Train on the digits
===================

From the data to a trained network and back to what it learned, with the training package of the library: the same
engine as ``srr train --data digits``, called from Python.
"""

# %%
# One run
# -------
#
# A run is described by a config. What is not named comes from the recipe of the data set. The run leaves a folder with
# the resolved config, the metrics of every epoch, checkpoints and the exported weights.

import csv
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from srr.training import open_run, resolve_with_recipe, train

torch.set_num_threads(1)
folder = Path(tempfile.mkdtemp()) / "digits"
config = resolve_with_recipe(
    {
        "data": {"name": "digits"},
        "model": {"preset": "crate_micro"},
        "trainer": {"max_epochs": 25, "progress": "none"},
        "out": str(folder),
    }
)
result = train(config)
print(f"{result['parameters']:,} parameters, {result['seconds']:.0f} s")
print(f"held-out accuracy {result['val_accuracy']:.4f}")

# %%
# An honest baseline
# ------------------
#
# Ten subspaces fitted to raw pixels, a digit belongs to the nearest: no network at all. On this data set it is hard to
# beat.

baseline = result["baseline_nearest_subspace"]
print(f"nearest subspace of rank {baseline['rank']} on raw pixels: {baseline['accuracy']:.4f}")

# %%
# How it went
# -----------

with open(folder / "metrics.csv", newline="") as file:
    rows = list(csv.DictReader(file))
epochs = [int(float(row["epoch"])) for row in rows if row["val_accuracy"]]
accuracy = [float(row["val_accuracy"]) for row in rows if row["val_accuracy"]]

figure, axis = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
axis.plot(epochs, accuracy, marker="o", label="CRATE, held-out")
axis.axhline(baseline["accuracy"], color="0.4", linestyle="--", label="nearest subspace on pixels")
axis.set(xlabel="epoch", ylabel="accuracy", ylim=(min(accuracy) - 0.02, 1.005))
axis.legend(loc="lower right")
plt.show()

# %%
# What it learned
# ---------------
#
# The run can be opened again. The Gram matrix of a layer's dictionary says how far its atoms are from orthogonal, where
# one sparse-coding step would be exact; the eigenvalues are compared with the bound under which the step descends.

run = open_run(folder)
step = run.model.config.step
figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for name, network, mark in (("untrained", run.untrained, "o"), ("trained", run.model, "s")):
    norms = [float(torch.linalg.matrix_norm(block.dictionary.D.detach(), 2) ** 2) for block in network.blocks]
    axes[0].plot(range(1, len(norms) + 1), norms, marker=mark, label=name)
axes[0].axhline(1 / step, color="0.4", linestyle="--", label=r"descent bound $1/\eta$")
axes[0].set(xlabel="layer", ylabel=r"$\|D\|_2^2$", title="Dictionaries")
axes[0].set_xticks(range(1, len(norms) + 1))
axes[0].legend()

D = run.model.blocks[-1].dictionary.D.detach().numpy()
atoms = D / np.linalg.norm(D, axis=0)
image = axes[1].imshow(np.abs(atoms.T @ atoms), cmap="magma_r", vmin=0, vmax=1)
axes[1].set(title="Coherence of the last layer's atoms", xlabel="atom", ylabel="atom")
figure.colorbar(image, ax=axes[1])
plt.show()
