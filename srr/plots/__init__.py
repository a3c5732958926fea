"""Floor 4: matplotlib pictures. Each function draws into a figure and returns it; none of them shows or saves."""

from srr.plots.attention import plot_attention, plot_masks, token_colors
from srr.plots.networks import (
    plot_atoms,
    plot_coherence,
    plot_confusion,
    plot_curves,
    plot_features,
    plot_reconstructions,
)
from srr.plots.solutions import plot_energies, plot_gram, plot_objective
from srr.plots.traces import plot_layer_objective, plot_layer_trace

__all__ = [
    # tokens and solutions
    "plot_objective",
    "plot_gram",
    "plot_energies",
    # objectives and layers
    "plot_layer_trace",
    "plot_layer_objective",
    # networks
    "plot_curves",
    "plot_confusion",
    "plot_features",
    "plot_atoms",
    "plot_coherence",
    "plot_reconstructions",
    # attention
    "token_colors",
    "plot_attention",
    "plot_masks",
]
