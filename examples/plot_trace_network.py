"""
Trace a network
===============

What do the layers of a white-box transformer do to their tokens? :func:`srr.layer_trace` measures the coding rate and
the sparsity after each half-step, in two ways that can disagree: on the tokens as they are, and on tokens of unit norm.
"""

# %%
# A network, trained for a few seconds
# ------------------------------------
#
# A small CRATE on the digits that come with scikit-learn, trained by a plain loop so that nothing is hidden. The same
# network before training is kept for comparison.

import copy

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

import srr
from srr.nn import create_model
from srr.plots import plot_layer_trace

torch.manual_seed(0)
torch.set_num_threads(1)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
labels = torch.tensor(digits.target)
held_out = torch.arange(len(labels)) % 5 == 0

model = create_model("crate_micro", image_size=8, channels=1, num_classes=10)
untrained = copy.deepcopy(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
train_images, train_labels = images[~held_out], labels[~held_out]
for _ in range(12):
    for batch in torch.randperm(len(train_labels)).split(64):
        loss = torch.nn.functional.cross_entropy(model(train_images[batch]), train_labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

model.eval()
with torch.no_grad():
    accuracy = (model(images[held_out]).argmax(1) == labels[held_out]).float().mean()
print(f"held-out accuracy {accuracy:.3f} after {loss.item():.3f} training loss")

# %%
# The trace
# ---------
#
# Every layer is measured at three places: its input :math:`Z^\ell`, after attention (:math:`Z^{\ell+1/2}`, compressed)
# and after the sparse-coding step (:math:`Z^{\ell+1}`, sparsified).

traces = {
    name: srr.layer_trace(network, images[held_out], eps=0.1)
    for name, network in (("untrained", untrained.eval()), ("trained", model))
}
print("R^c at unit norm, nats        layer 1 … 4")
for name, trace in traces.items():
    print(f"{name:10s} after the layer  ", np.round(trace.compression_normalized[:, 2], 2))
    print(f"{name:10s} non-zeros        ", np.round(trace.sparsity[:, 2], 3))

plot_layer_trace(traces)
plt.show()

# %%
# Two measures of compression
# ---------------------------
#
# Attention adds its output to the tokens, so they grow, and the raw rate grows with them. At unit norm only directions
# count. The change of both rates over each attention half-step shows the difference; a negative bar is compression.

figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=False, layout="constrained")
for axis, measure in zip(axes, ("compression_raw", "compression_normalized"), strict=True):
    for offset, (name, trace) in zip((-0.2, 0.2), traces.items(), strict=True):
        values = getattr(trace, measure)
        axis.bar(np.arange(1, trace.depth + 1) + offset, values[:, 1] - values[:, 0], width=0.38, label=name)
    axis.axhline(0.0, color="0.3", linewidth=0.8)
    axis.set(title=measure.replace("_", " "), xlabel="layer", ylabel="change of $R^c$ by attention (nats)")
    axis.set_xticks(range(1, trace.depth + 1))
axes[0].legend()
plt.show()

# %%
# So whether "attention compresses" is true depends on the measure; the library always reports both.
