"""Floor 4: matplotlib pictures. Each function draws into a figure and returns it; none of them shows or saves."""

from srr.plots.solutions import plot_energies, plot_gram, plot_objective

__all__ = ["plot_energies", "plot_gram", "plot_objective"]
