"""The pictures of the results page, from a summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

Rows = dict[str, dict[str, Any]]

PANELS = {
    "compression_raw": "raw R^c (nats)",
    "compression_normalized": "R^c, unit tokens and\northonormal bases (nats)",
    "sparsity": "share of non-zeros",
}

CURVES = {
    ("cross_entropy", "val_accuracy"): ("cross-entropy, head", "C0o-"),
    ("cross_entropy", "nearest_subspace"): ("cross-entropy, nearest subspace", "C0s--"),
    ("mcr2", "val_accuracy"): ("MCR², head", "C1o-"),
    ("mcr2", "nearest_subspace"): ("MCR², nearest subspace", "C1s--"),
}


def layers(rows: Rows) -> Figure:
    """A row for each measure, a column for each size; bands are one standard deviation over seeds."""
    figure = Figure(figsize=(3.0 * len(rows), 6.6), layout="constrained")
    axes = figure.subplots(len(PANELS), len(rows), squeeze=False)
    for column, (name, row) in enumerate(rows.items()):
        for line, (field, title) in enumerate(PANELS.items()):
            axis = axes[line][column]
            for color, state in (("C7", "untrained"), ("C0", "trained")):
                draw(axis, np.asarray(row[state][field]), state, color)
            axis.set(ylabel=title if column == 0 else "", title=name if line == 0 else "")
            if field == "sparsity":
                axis.set(ylim=(0, 1.05), xlabel="layer")
    axes[0][0].legend()
    return figure


def draw(axis: Any, trace: np.ndarray, label: str, color: str) -> None:
    """Layer inputs and outputs as dots, the places between the two halves as crosses: (seeds, L, 3)."""
    path = np.concatenate([trace[:, :, :2].reshape(len(trace), -1), trace[:, -1:, 2]], axis=1)
    mean, at = path.mean(axis=0), np.arange(path.shape[1]) / 2
    deviation = path.std(axis=0, ddof=1) if len(path) > 1 else np.zeros_like(mean)
    axis.plot(at, mean, ":", color=color, linewidth=0.7)
    axis.plot(at[::2], mean[::2], "o-", color=color, markersize=4, label=label)
    axis.plot(at[1::2], mean[1::2], "x", color=color, markersize=4)
    axis.fill_between(at, mean - deviation, mean + deviation, color=color, alpha=0.2, linewidth=0)


def masked(rows: Rows) -> Figure:
    """Eight held-out images: original, what the network saw, what it made of it."""
    found = next(iter(rows.values()))["pictures"]
    parts = {name: np.asarray(found[name]) for name in ("original", "masked", "reconstruction")}
    count = len(parts["original"])
    figure = Figure(figsize=(0.9 * count, 2.9), layout="constrained")
    axes = figure.subplots(3, count, squeeze=False)
    for line, (name, images) in zip(axes, parts.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=8)
    return figure


def labels(rows: Rows) -> Figure:
    """Accuracy against the share of redrawn labels, a panel for each number of training images."""
    sizes = list(dict.fromkeys(name.split("/")[0] for name in rows))
    figure = Figure(figsize=(3.9 * len(sizes), 3.4), layout="constrained")
    axes = figure.subplots(1, len(sizes), squeeze=False, sharey=True)[0]
    for axis, size in zip(axes, sizes, strict=True):
        for (objective, metric), (label, style) in CURVES.items():
            own = {tuple(name.split("/")): row[metric] for name, row in rows.items()}
            found = [(float(f), values) for (s, f, o), values in own.items() if (s, o) == (size, objective)]
            at, values = zip(*sorted(found), strict=True)
            deviation = [100 * np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in values]
            means = [100 * np.mean(v) for v in values]
            axis.errorbar([100 * a for a in at], means, deviation, fmt=style, markersize=4, capsize=2, label=label)
        axis.set(title=f"{size} training images", xlabel="training labels redrawn at random (%)")
    axes[0].set(ylabel="held-out accuracy (%)")
    axes[0].legend(fontsize=8)
    return figure


PICTURES = {f.__name__: f for f in (layers, masked, labels)}


def save(figure: Figure, path: Path) -> None:
    """A small PNG without a date inside."""
    figure.savefig(path, dpi=90, metadata={"Software": None})
