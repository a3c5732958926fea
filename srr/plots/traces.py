"""Pictures of what the layers of a network do to its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from srr.diagnostics import LayerTrace, Numbers
from srr.plots.canvas import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


__all__ = ["plot_layer_objective", "plot_layer_trace"]

PANELS = (
    ("compression_raw", "R^c(Z; U of the layer), tokens as they are (nats)"),
    ("compression_normalized", "R^c(Z; U of the layer), unit tokens (nats)"),
    ("compression_common", "R^c(Z; U of layer 0), unit tokens (nats)"),
    ("sparsity", "share of non-zero coordinates"),
)
OWN = ("compression_raw", "compression_normalized")
"""Measures under the codebook of the layer, which do not compare across layers."""
ASIDE = 0.12  # of a layer: how far its ends are drawn from its neighbors, where the codebook changes


def plot_layer_trace(traces: Mapping[str, LayerTrace], *, figure: Figure | None = None) -> Figure:
    """Draw compression and sparsity along the layers of one or more networks, half-steps included.

    Under its own bases each layer is three points by itself, its input, the place between its halves and its output:
    no line joins values under different bases. Beside them is one curve through all places, under the bases of the
    first layer.

    Args:
        traces: what :func:`srr.layer_trace` returned, by the name it gets in the legend. A dot is the input or
            the output of a layer, a cross the place between its two halves.
        figure: matplotlib figure to draw into, a new one by default.

    Returns:
        The figure.

    Raises:
        ValueError: there is no trace.
    """
    if not traces:
        raise ValueError("traces must hold at least one trace; got none")
    figure = canvas(figure, (13.0, 3.6))
    axes = figure.subplots(1, len(PANELS))
    depth = max(trace.depth for trace in traces.values())
    for axis, (field, label) in zip(axes, PANELS, strict=True):
        for number, (name, trace) in enumerate(traces.items()):
            _draw(axis, getattr(trace, field), name, f"C{number}", apart=field in OWN)
        axis.set_xticks(np.arange(depth) + 0.5, [str(layer) for layer in range(depth)])
        axis.set(xlabel="layer")
        axis.set_ylabel(label, fontsize="small")
        if field == "sparsity":
            axis.set_ylim(0.0, 1.05)
    axes[0].legend()
    return figure


def plot_layer_objective(objectives: Mapping[str, Numbers], *, figure: Figure | None = None) -> Figure:
    """Draw an objective at the three places of every layer, each layer by itself: its measure is its own.

    Args:
        objectives: values (L, 3) before, between and after the halves of L layers, by the name in the legend.
        figure: matplotlib figure to draw into, a new one by default.

    Returns:
        The figure.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not objectives:
        raise ValueError("objectives must hold at least one array; got none")
    figure = canvas(figure, (8.0, 3.6))
    axis = figure.subplots()
    for number, (name, values) in enumerate(objectives.items()):
        _draw(axis, values, name, f"C{number}", apart=True)
    depth = max(len(values) for values in objectives.values())
    axis.set_xticks(np.arange(depth) + 0.5, [str(layer) for layer in range(depth)])
    axis.set(xlabel="layer", ylabel="objective (nats)")
    axis.legend(fontsize=8)
    return figure


def _draw(axis: Axes, values: Numbers, name: str, color: str, *, apart: bool) -> None:
    """Values (L, 3) at ℓ, ℓ + ½, ℓ + 1 as one line, broken between the layers where they are to stand apart."""
    aside = ASIDE if apart else 0.0
    at = np.arange(len(values))[:, None] + np.array([aside, 0.5, 1.0 - aside])
    gap = np.full((len(values), 1 if apart else 0), np.nan)
    x, y = (np.concatenate((part, gap), axis=1).ravel() for part in (at, values))
    axis.plot(x, y, color=color, linewidth=1.2, label=name)
    axis.plot(at[:, ::2].ravel(), values[:, ::2].ravel(), "o", color=color, markersize=4)
    axis.plot(at[:, 1], values[:, 1], "x", color=color, markersize=5)
