"""Masks of the object in an image from a network that was trained on classes alone: by attention, by PCA, by a cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor, nn

from srr.nn.alternatives import TSSA
from srr.nn.network import image_grid, pair
from srr.nn.probe import patch_maps, patch_tokens

__all__ = ["MASKS", "attention_mask", "cut_mask", "mean_iou", "principal_mask", "segment"]

Bools = np.ndarray[Any, np.dtype[np.bool_]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


def attention_mask(maps: Floats, *, mass: float = 0.6) -> Bools:
    """Patches that hold most of what the heads attend to, on average over the heads.

    Args:
        maps: attention to the patches, (K, n).
        mass: share of the attention that the mask holds.

    Returns:
        (n,), True on the fewest patches that hold that share.

    Raises:
        ValueError: a share outside (0, 1).

    Source: thresholding of [CRATE] section 3.3, after Caron et al. 2021.

    Example:
        >>> attention_mask(np.asarray([[0.1, 0.5, 0.3, 0.1]])).tolist()
        [False, True, True, False]
    """
    if not 0 < mass < 1:
        raise ValueError(f"mass must lie between 0 and 1; got {mass}")
    mean = maps.mean(axis=0)
    order = np.argsort(-mean, kind="stable")
    held = np.cumsum(mean[order])
    count = int(np.searchsorted(held, mass * held[-1])) + 1
    mask = np.zeros(len(mean), dtype=bool)
    mask[order[:count]] = True
    return mask


def principal_mask(tokens: Floats, grid: tuple[int, int]) -> Bools:
    """Patches on one side of the first principal component of the tokens: the side with less of the border.

    Args:
        tokens: (n, d), n = rows · columns.
        grid: rows and columns.

    Returns:
        (n,), True on the object.

    Source: PCA of tokens in [CRATE] section 3.3, first step.
    """
    centered = tokens - tokens.mean(axis=0)
    left, values, _ = np.linalg.svd(centered, full_matrices=False)
    return _inner(left[:, 0] * values[0] > 0, grid)


def cut_mask(tokens: Floats, grid: tuple[int, int], *, threshold: float = 0.2) -> Bools:
    r"""Patches on one side of the normalized cut of the graph of similar tokens, after Shi and Malik.

    Edges weigh 1 where the cosine of two tokens is above the threshold and 10⁻⁵ elsewhere; the second generalized
    eigenvector of :math:`(D - W)\,y = \lambda D\,y` is cut at its mean; the object is the side with less of the border.

    Args:
        tokens: (n, d), n = rows · columns.
        grid: rows and columns.
        threshold: τ of the cosines, which are taken of tokens less their mean.

    Returns:
        (n,), True on the object.

    Source: normalized cut as in MaskCut (Wang et al. 2023), which [CRATE] evaluates with; ``scipy.linalg.eigh``.
    """
    centered = tokens - tokens.mean(axis=0)
    unit = centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-12)
    W = np.where(unit @ unit.T > threshold, 1.0, 1e-5)
    D = np.diag(W.sum(axis=1))
    second = eigh(D - W, D, subset_by_index=(1, 1))[1][:, 0]
    return _inner(second > second.mean(), grid)


def _inner(side: Bools, grid: tuple[int, int]) -> Bools:
    """The mask or its complement: whichever has the smaller share of the border."""
    edge = np.zeros(grid, dtype=bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    return ~side if side[edge.ravel()].mean() > 0.5 else side


MASKS: dict[str, Callable[[Floats, Floats, tuple[int, int]], Bools]] = {
    "attention": lambda maps, tokens, grid: attention_mask(maps),
    "pca": lambda maps, tokens, grid: principal_mask(tokens, grid),
    "cut": lambda maps, tokens, grid: cut_mask(tokens, grid),
}
"""Ways to a mask, by name: from maps (K, n), tokens (n, d) and the grid."""


def segment(model: nn.Module, images: Tensor, *, layer: int = -1) -> dict[str, Tensor]:
    """Masks of the objects in images, one for each way that the layer allows.

    Args:
        model: :class:`srr.nn.CRATE` or :class:`srr.nn.CrateMAE`; it was never shown a mask.
        images: (B, C, H, W), normalized as in training.
        layer: layer whose attention and tokens are used, counted from the end when negative.

    Returns:
        Boolean masks (B, H, W) by the names of :data:`MASKS`; ``attention`` is left out where the layer has no
        attention of a class token.

    Raises:
        ValueError: no such layer.

    Example:
        >>> from srr.nn import create_model
        >>> masks = segment(create_model("crate_micro"), torch.rand(2, 1, 8, 8))
        >>> sorted(masks), masks["cut"].shape
        (['attention', 'cut', 'pca'], torch.Size([2, 8, 8]))
    """
    config, blocks = cast("Any", model.config), cast("Any", model.blocks)
    tokens = patch_tokens(model, images, layer=layer).double().cpu().numpy()
    maps, names = None, set(MASKS)
    try:
        maps = patch_maps(model, images, layer=layer).double().cpu().numpy()
    except ValueError:  # no pairs of tokens, or no class token among them
        names.discard("attention")
    if isinstance(blocks[layer].attention, TSSA):  # memberships are no attention
        names.discard("attention")
    found, (p1, p2) = {}, pair(config.patch_size)
    grid = image_grid(images, config.patch_size)
    for name in sorted(names):
        pairs = zip(tokens if maps is None else maps, tokens, strict=True)
        drawn = np.stack([MASKS[name](one, all_tokens, grid) for one, all_tokens in pairs])
        mask = torch.from_numpy(drawn).reshape(-1, *grid)
        found[name] = mask.repeat_interleave(p1, dim=1).repeat_interleave(p2, dim=2)
    return found


def mean_iou(masks: Tensor, truth: Tensor) -> float:
    """Mean over images of the intersection over the union of two masks.

    Args:
        masks: boolean (B, H, W).
        truth: boolean (B, H, W).

    Returns:
        Number in [0, 1]; an image with two empty masks counts 1.

    Raises:
        ValueError: masks of different shapes.

    Example:
        >>> mean_iou(torch.tensor([[[True, True]]]), torch.tensor([[[True, False]]]))
        0.5
    """
    if masks.shape != truth.shape:
        raise ValueError(f"masks must have the shape {tuple(truth.shape)} of truth; got {tuple(masks.shape)}")
    both, either = (masks & truth).flatten(1).sum(1), (masks | truth).flatten(1).sum(1)
    return float(torch.where(either > 0, both / either.clamp_min(1), torch.ones(())).mean())
