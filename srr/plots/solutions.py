"""Pictures of a solution: how the objective fell, and how the tokens moved onto their subspaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from srr._array.namespace import Array, to_numpy
from srr.ops.subspaces import project
from srr.plots.canvas import canvas
from srr.solvers.driver import Solution

if TYPE_CHECKING:
    from matplotlib.figure import Figure


__all__ = ["plot_energies", "plot_gram", "plot_objective"]

LARGEST_PICTURE = 1000  # tokens drawn at most; more are thinned out evenly


def plot_objective(solution: Solution[Any], *, figure: Figure | None = None) -> Figure:
    """Draw the objective and the distance to optimality at every step.

    Args:
        solution: what `minimize` returned; every batch item becomes a line.
        figure: matplotlib figure to draw into, a new one by default.

    Returns:
        The figure.
    """
    figure = canvas(figure, (9.0, 3.4), managed=True)
    left, right = figure.subplots(1, 2)
    steps = np.arange(len(solution.history.objective))
    left.plot(steps, solution.history.objective.reshape(len(steps), -1))
    left.set(xlabel="step", ylabel="objective (nats)", title="Objective")
    residual = solution.history.residual.reshape(len(steps), -1)
    right.semilogy(steps, np.where(residual > 0, residual, np.nan), marker=".")
    right.set(xlabel="step", ylabel="distance to optimality", title="Residual")
    return figure


def plot_gram(before: Array, after: Array, labels: Array, *, figure: Figure | None = None) -> Figure:
    """Draw the absolute Gram matrices ``|Z Zᵀ|`` of unit tokens before and after, ordered by class.

    More than 1,000 tokens are thinned out evenly, and the axes say so.

    Args:
        before: tokens of shape (n, d).
        after: tokens of shape (n, d).
        labels: classes of shape (n,).
        figure: matplotlib figure to draw into, a new one by default.

    Returns:
        The figure.
    """
    figure = canvas(figure, (9.0, 4.2), managed=True)
    order, edges = _by_class(labels)
    token = f"token, by class{_thinned(len(order), len(to_numpy(labels)))}"
    for axis, tokens, title in zip(figure.subplots(1, 2), (before, after), ("before", "after"), strict=True):
        Z = _unit(to_numpy(tokens))[order]
        image = axis.imshow(np.abs(Z @ Z.T), vmin=0.0, vmax=1.0, cmap="magma", interpolation="nearest")
        axis.set(title=f"|Z Zᵀ| {title}", xlabel=token, ylabel=token)
        for edge in edges:
            axis.axhline(edge, color="white", linewidth=0.5)
            axis.axvline(edge, color="white", linewidth=0.5)
    figure.colorbar(image, ax=figure.axes, shrink=0.8, label="cosine")
    return figure


def plot_energies(before: Array, after: Array, U: Array, labels: Array, *, figure: Figure | None = None) -> Figure:
    """Draw the share of every token's energy in every subspace, before and after, ordered by class.

    Args:
        before: tokens of shape (n, d).
        after: tokens of shape (n, d).
        U: orthonormal bases of shape (K, d, p).
        labels: classes of shape (n,).
        figure: matplotlib figure to draw into, a new one by default.

    Returns:
        The figure.
    """
    figure = canvas(figure, (9.0, 3.4), managed=True)
    order, edges = _by_class(labels)
    for axis, tokens, title in zip(figure.subplots(2, 1), (before, after), ("before", "after"), strict=True):
        energy = np.sum(to_numpy(project(tokens, U)) ** 2, axis=-1)
        total = np.sum(to_numpy(tokens) ** 2, axis=-1)
        share = energy / np.where(total > 0, total, 1.0)
        image = axis.imshow(share[:, order], vmin=0.0, vmax=1.0, aspect="auto", cmap="viridis", interpolation="nearest")
        axis.set(title=f"energy per subspace, {title}", ylabel="subspace", yticks=range(len(share)))
        for edge in edges:
            axis.axvline(edge, color="white", linewidth=0.5)
    axis.set_xlabel(f"token, by class{_thinned(len(order), len(to_numpy(labels)))}")
    figure.colorbar(image, ax=figure.axes, label="share of ‖z‖²")
    return figure


def _thinned(drawn: int, n: int) -> str:
    """What an axis says of tokens left out; nothing where all are drawn."""
    return f" ({drawn:,} of {n:,} drawn)" if drawn < n else ""


def _by_class(labels: Array) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Tokens in order of class, thinned out when there are too many, and where each class but the first starts."""
    y = to_numpy(labels)
    order = np.argsort(y, kind="stable")
    order = order[:: -(-len(order) // LARGEST_PICTURE)]
    return order, np.flatnonzero(np.diff(y[order])) + 0.5


def _unit(Z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    length = np.linalg.norm(Z, axis=-1, keepdims=True)
    return np.asarray(Z / np.where(length > 0, length, 1.0))
