"""Pictures of a trained network: curves, confusions, features by class, dictionary atoms, subspaces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from srr._array.namespace import Array, to_numpy
from srr.plots.canvas import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


__all__ = ["plot_atoms", "plot_coherence", "plot_confusion", "plot_curves", "plot_features", "plot_reconstructions"]

MOST_ATOMS = 64


def plot_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str, figure: Figure | None = None
) -> Figure:
    """Draw metrics against steps.

    Args:
        curves: steps and values of each line, by the name it gets in the legend.
        title: title of the picture.
        figure: matplotlib figure to draw into, a new one by default.

    Returns:
        The figure.
    """
    figure = canvas(figure, (5.0, 3.2))
    axis = figure.subplots()
    for name, (steps, values) in curves.items():
        axis.plot(steps, values, linewidth=1, marker="." if len(steps) < 60 else None, label=name)
    axis.set(xlabel="step", title=title)
    if curves:
        axis.legend(fontsize=8)
    return figure


def plot_confusion(counts: Array, classes: Sequence[str], *, figure: Figure | None = None) -> Figure:
    """Draw a confusion matrix; a row is a true class, its shades are shares of that class.

    Args:
        counts: (K, K) samples of true class i predicted as j.
        classes: names of the classes.
        figure: matplotlib figure to draw into, a new one by default.

    Returns:
        The figure.
    """
    figure = canvas(figure, (4.6, 4.2))
    axis = figure.subplots()
    table = to_numpy(counts).astype(float)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="true", title="Confusion")
    if len(classes) <= 20:
        axis.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
        axis.set_yticks(range(len(classes)), classes, fontsize=7)
        for i, j in zip(*np.nonzero(table), strict=True):
            color = "white" if shares[i, j] > 0.5 else "black"
            axis.text(j, i, f"{table[i, j]:.0f}", ha="center", va="center", fontsize=6, color=color)
    return figure


def plot_features(features: Mapping[str, Array], labels: Array, *, figure: Figure | None = None) -> Figure:
    """Draw absolute cosines between features, ordered by class: orthogonal classes are dark off the diagonal blocks.

    Args:
        features: (N, d) features by the title of their panel.
        labels: classes of shape (N,).
        figure: matplotlib figure to draw into, a new one by default.

    Returns:
        The figure.
    """
    figure = canvas(figure, (4.2 * len(features), 3.8))
    order = np.argsort(to_numpy(labels), kind="stable")
    axes = figure.subplots(1, len(features), squeeze=False)[0]
    for axis, (title, values) in zip(axes, features.items(), strict=True):
        Z = to_numpy(values)[order].astype(float)
        Z = Z / np.maximum(np.linalg.norm(Z, axis=1, keepdims=True), 1e-12)
        image = axis.imshow(np.abs(Z @ Z.T), vmin=0, vmax=1, cmap="magma", interpolation="nearest")
        axis.set(title=title, xlabel="sample, by class")
    figure.colorbar(image, ax=list(axes), shrink=0.8, label="|cosine|")
    return figure


def plot_atoms(atoms: Array, *, title: str, figure: Figure | None = None) -> Figure:
    """Draw dictionary atoms as little pictures, the largest first.

    Args:
        atoms: (m, height, width) or (m, height, width, 3); at most 64 are drawn, each on its own scale around zero.
        title: title of the picture.
        figure: matplotlib figure to draw into, a new one by default.

    Returns:
        The figure.
    """
    values = to_numpy(atoms).astype(float)
    size = np.sqrt((values**2).reshape(len(values), -1).sum(1))
    values = values[np.argsort(-size)][:MOST_ATOMS]
    columns = math.ceil(math.sqrt(len(values)))
    figure = canvas(figure, (4.2, 4.4))
    figure.suptitle(title, fontsize=10)
    rows = math.ceil(len(values) / columns)
    for axis in (axes := figure.subplots(rows, columns, squeeze=False).ravel()):
        axis.axis("off")
    for axis, atom in zip(axes, values, strict=False):
        scale = max(np.abs(atom).max(), 1e-12)
        axis.imshow((atom / scale + 1) / 2, cmap="RdBu_r", vmin=0, vmax=1, interpolation="nearest")
    return figure


def plot_reconstructions(images: Array, decoded: Array, *, figure: Figure | None = None) -> Figure:
    """Draw images in pairs of rows, each above what was decoded for it.

    Args:
        images: (N, height, width) or (N, height, width, 3), in [0, 1]; at most 48 are drawn.
        decoded: of the same shape; what leaves [0, 1] is cut off.
        figure: matplotlib figure to draw into, a new one by default.

    Returns:
        The figure.
    """
    pair = [to_numpy(x).astype(float)[:48].clip(0, 1) for x in (images, decoded)]
    columns = min(12, len(pair[0]))
    rows = math.ceil(len(pair[0]) / columns)
    figure = canvas(figure, (0.6 * columns, 1.25 * rows))
    axes = figure.subplots(2 * rows, columns, squeeze=False)
    for axis in axes.ravel():
        axis.axis("off")
    for at, (above, below) in enumerate(zip(*pair, strict=True)):
        row, column = divmod(at, columns)
        for axis, image in ((axes[2 * row, column], above), (axes[2 * row + 1, column], below)):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    return figure


def plot_coherence(cosines: Array, *, figure: Figure | None = None) -> Figure:
    """Draw the largest cosine between every two heads' subspaces, one panel a layer.

    Args:
        cosines: (L, K, K), from 0 (orthogonal subspaces) to 1 (a shared direction).
        figure: matplotlib figure to draw into, a new one by default.

    Returns:
        The figure.
    """
    values = to_numpy(cosines)
    columns = min(6, len(values))
    rows = math.ceil(len(values) / columns)
    figure = canvas(figure, (1.9 * columns + 1, 2.1 * rows))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for layer, (axis, table) in enumerate(zip(axes, values, strict=False)):
        image = axis.imshow(table, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
        axis.set_title(f"layer {layer + 1}", fontsize=8)
    figure.colorbar(image, ax=list(axes), shrink=0.8, label="cosine")
    return figure
