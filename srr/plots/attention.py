"""Pictures of what a model looks at: attention of the class token over an image, and tokens as colors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from srr._array.checks import check_array
from srr._array.namespace import Array, to_numpy
from srr.plots.canvas import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


__all__ = ["plot_attention", "plot_masks", "token_colors"]


def token_colors(tokens: Array) -> npt.NDArray[np.float64]:
    """Colors of tokens: their first three principal components, each stretched to [0, 1].

    The sign of a component is the one in which its largest coordinate is positive, so that pictures repeat.

    Args:
        tokens: tokens of shape (n, d).

    Returns:
        NumPy array (n, 3); components beyond the rank of the tokens are 0.5.

    Raises:
        ValueError: fewer than two axes, or a value that is not finite.

    Example:
        >>> token_colors(np.asarray([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]))[:, 0].tolist()
        [0.0, 0.5, 1.0]
    """
    check_array(tokens, "tokens", ndim=2)
    Z = to_numpy(tokens).astype(np.float64)
    left, values, right = np.linalg.svd(Z - Z.mean(axis=0), full_matrices=False)
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
    scores = (left * values * np.where(signs == 0, 1, signs))[:, :3]
    span = scores.max(axis=0) - scores.min(axis=0)
    real = span > 1e-12 * max(values[0], 1e-300)
    stretched = (scores - scores.min(axis=0)) / np.where(real, span, 1.0)
    colors = np.full((len(Z), 3), 0.5)
    colors[:, : scores.shape[1]] = np.where(real, stretched, 0.5)
    return colors


def plot_attention(
    image: Array,
    maps: Array,
    tokens: Array,
    *,
    grid: tuple[int, int],
    memberships: bool = False,
    figure: Figure | None = None,
) -> Figure:
    """Draw an image, each head's attention to its patches or their membership in it, and its patch tokens as colors.

    Args:
        image: picture of shape (height, width) or (height, width, 3), in [0, 1].
        maps: attention of the class token to the patches, or their memberships, of shape (K, n).
        tokens: patch tokens of shape (n, d).
        grid: rows and columns of patches, n in all.
        memberships: whether the maps are shares of the patches in the heads, which sum to one over the heads.
        figure: matplotlib figure to draw into, a new one by default.

    Returns:
        The figure: K + 2 panels.

    Raises:
        ValueError: maps or tokens that are not one for each patch.
    """
    picture, weights = to_numpy(image), to_numpy(maps)
    patches = grid[0] * grid[1]
    for name, count in (("maps", weights.shape[-1]), ("tokens", tokens.shape[0])):
        if count != patches:
            raise ValueError(f"{name} must have one entry for each of {patches} patches; got {count}")
    panels = len(weights) + 2
    columns = min(4, math.ceil(math.sqrt(panels)))
    rows = math.ceil(panels / columns)
    figure = canvas(figure, (2.4 * columns, 2.6 * rows))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    extent = (0, picture.shape[1], picture.shape[0], 0)
    _show(axes[0], picture, extent, "image")
    _show(axes[1], token_colors(tokens).reshape(*grid, 3), extent, "tokens (first three PCs)")
    for head, axis in enumerate(axes[2:panels]):
        share = f"{weights[head].mean():.0%} of patches" if memberships else f"{weights[head].sum():.0%} on patches"
        _show(axis, picture, extent, f"head {head}: {share}")
        axis.imshow(weights[head].reshape(grid), extent=extent, cmap="inferno", alpha=0.75, interpolation="nearest")
    return figure


def plot_masks(image: Array, masks: Mapping[str, Array], *, figure: Figure | None = None) -> Figure:
    """Draw an image, and what each mask leaves of it.

    Args:
        image: picture of shape (height, width) or (height, width, 3), in [0, 1].
        masks: boolean, (height, width), by the title of their panel.
        figure: matplotlib figure to draw into, a new one by default.

    Returns:
        The figure: one panel more than there are masks.

    Raises:
        ValueError: a mask of another size than the image.
    """
    picture = to_numpy(image)
    figure = canvas(figure, (2.4 * (len(masks) + 1), 2.6))
    axes = figure.subplots(1, len(masks) + 1, squeeze=False).ravel()
    extent = (0, picture.shape[1], picture.shape[0], 0)
    _show(axes[0], picture, extent, "image")
    for axis, (name, mask) in zip(axes[1:], masks.items(), strict=True):
        kept = to_numpy(mask)
        if kept.shape != picture.shape[:2]:
            raise ValueError(f"masks must have the shape {picture.shape[:2]} of the image; got {kept.shape}")
        keep = kept if picture.ndim == 2 else kept[..., None]
        _show(axis, np.where(keep, picture, 0.15 * picture), extent, f"{name}: {kept.mean():.0%} of the image")
    for axis in axes:
        axis.axis("off")
    return figure


def _show(axis: Axes, picture: Any, extent: tuple[float, float, float, float], title: str) -> None:
    axis.imshow(picture, extent=extent, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    axis.set_title(title, fontsize=8)
