"""Pictures of what the layers of a network do to its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from srr.diagnostics import LayerTrace
from srr.plots.canvas import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


__all__ = ["plot_layer_trace"]

PANELS = (
    ("compression_raw", "R^c, tokens as they are (nats)"),
    ("compression_normalized", "R^c, unit tokens (nats)"),
    ("sparsity", "share of non-zero coordinates"),
)


def plot_layer_trace(traces: Mapping[str, LayerTrace], *, figure: Figure | None = None) -> Figure:
    """Draw compression and sparsity along the layers of one or more networks, half-steps included.

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
    figure = canvas(figure, (11.0, 3.4))
    axes = figure.subplots(1, len(PANELS))
    for axis, (field, title) in zip(axes, PANELS, strict=True):
        for number, (name, trace) in enumerate(traces.items()):
            _draw(axis, getattr(trace, field), name, f"C{number}")
        axis.set(xlabel="layer", title=title)
        if field == "sparsity":
            axis.set_ylim(0.0, 1.05)
    axes[0].legend()
    return figure


def _draw(axis: Axes, values: Any, name: str, color: str) -> None:
    """The polygon Z⁰, Z^½, Z¹, Z^{1+½}, …: positions 0, ½, 1, 1½, …"""
    path = np.append(values[:, :2].ravel(), values[-1, 2])
    at = np.arange(len(path)) / 2
    axis.plot(at, path, color=color, linewidth=0.6, linestyle=":")
    axis.plot(at[::2], path[::2], "o-", color=color, markersize=4, linewidth=1.2, label=name)
    axis.plot(at[1::2], path[1::2], "x", color=color, markersize=4)
