"""The pictures of the results page, from a summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tables import named

Rows = dict[str, dict[str, Any]]

PANELS = {
    "compression_normalized": "R^c under the layer's own\northonormal bases (nats)",
    "compression_common": "R^c under the bases\nof the first layer (nats)",
    "sparsity": "share of non-zeros",
}

CURVES = {
    ("cross_entropy", "val_accuracy"): ("cross-entropy, head", "C0o-"),
    ("cross_entropy", "nearest_subspace"): ("cross-entropy, nearest subspace", "C0s--"),
    ("mcr2", "val_accuracy"): ("MCR², head", "C1o-"),
    ("mcr2", "nearest_subspace"): ("MCR², nearest subspace", "C1s--"),
}


def layers(rows: Rows) -> Figure:
    """A row for each measure, a column for each network; bands are one standard deviation over seeds."""
    own = {name.rpartition("/")[2]: row for name, row in rows.items() if "trained" in row}
    figure = Figure(figsize=(2.6 * len(own), 6.6), layout="constrained")
    axes = figure.subplots(len(PANELS), len(own), squeeze=False, sharey="row")
    for column, (name, row) in enumerate(own.items()):
        for line, (field, title) in enumerate(PANELS.items()):
            axis = axes[line][column]
            for color, state in (("C7", "untrained"), ("C0", "trained")):
                draw(axis, np.asarray(row[state][field]), state, color, joined=line > 0)
            axis.set(ylabel=title if column == 0 else "", title=named(name).replace(", ", ",\n") if line == 0 else "")
            if field == "sparsity":
                axis.set(ylim=(0, 1.05), xlabel="layer")
    axes[0][0].legend(fontsize=8)
    return figure


def draw(axis: Any, trace: np.ndarray, label: str, color: str, *, joined: bool) -> None:
    """Three places of each layer, (seeds, L, 3); a gap between layers where each has a measure of its own."""
    mean = trace.mean(axis=0)
    deviation = trace.std(axis=0, ddof=1) if len(trace) > 1 else np.zeros_like(mean)
    for layer, (values, spread) in enumerate(zip(mean, deviation, strict=True)):
        at = layer + np.asarray([0.0, 0.5, 1.0] if joined else [0.1, 0.5, 0.9])
        axis.plot(at, values, "-", color=color, linewidth=1, label=label if layer == 0 else None)
        axis.plot(at[[0, 2]], values[[0, 2]], "o", color=color, markersize=3)
        axis.plot(at[1], values[1], "x", color=color, markersize=4)
        axis.fill_between(at, values - spread, values + spread, color=color, alpha=0.2, linewidth=0)


def depth(rows: Rows) -> Figure:
    """Accuracy against the number of layers; bars are one standard deviation over seeds."""
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axis = figure.subplots()
    for network in dict.fromkeys(name.partition("/")[0] for name in rows):
        own = sorted(
            (int(n.partition("/")[2]), row["val_accuracy"]) for n, row in rows.items() if n.startswith(f"{network}/")
        )
        at, values = zip(*own, strict=True)
        deviation = [100 * np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in values]
        axis.errorbar(
            at, [100 * np.mean(v) for v in values], deviation, fmt="o-", markersize=4, capsize=2, label=named(network)
        )
    axis.set(xlabel="layers", ylabel="test accuracy (%)", xscale="log", xticks=at, xticklabels=map(str, at))
    axis.minorticks_off()
    axis.legend(fontsize=8)
    return figure


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


PICTURES = {f.__name__: f for f in (layers, depth, masked, labels)}


def save(figure: Figure, path: Path) -> None:
    """A small PNG without a date inside."""
    figure.savefig(path, dpi=90, metadata={"Software": None})
