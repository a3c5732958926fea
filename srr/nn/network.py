"""What every config of the family shares, the sizes of images and patches, and the token in front."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from srr._array.checks import check_count, check_nonnegative, check_positive

__all__ = ["NetworkConfig"]

Size = int | tuple[int, int]


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes and kind of the layers: the fields shared by every model of the family, written as JSON beside the weights.

    Args:
        dim: width d of a token.
        depth: number of layers.
        heads: number K of subspaces.
        head_dim: dimension p of each.
        step: step η of the sparsifying half of a layer.
        lam: sparsity weight λ.
        block: name of the layer in :data:`srr.nn.BLOCKS`.
        orthogonal: keep the bases of all heads orthonormal during training.
        checkpoint_blocks: recompute a layer in the backward pass instead of keeping its activations.
        norm_eps: variance floor of the layer norms inside blocks.
        bias: whether norms and output maps of the layers have biases.
        projection_bias: whether the projection of token statistics has a bias (other kinds have none).
        layer_scale: initial value of a factor for each coordinate of what a half-step adds; None for no factors.
    """

    dim: int = 384
    depth: int = 12
    heads: int = 6
    head_dim: int = 64
    step: float = 0.1
    lam: float = 0.1
    block: str = "crate"
    orthogonal: bool = False
    checkpoint_blocks: bool = False
    norm_eps: float = 1e-5
    bias: bool = True
    projection_bias: bool = True
    layer_scale: float | None = None

    counts: ClassVar[tuple[str, ...]] = ("dim", "depth", "heads", "head_dim")

    def __post_init__(self) -> None:
        for name in self.counts:
            check_count(getattr(self, name), name, least=0 if name == "num_classes" else 1)  # 0: features, no scores
        check_positive(self.step, "step")
        check_nonnegative(self.lam, "lam")
        check_positive(self.norm_eps, "norm_eps")
        if self.layer_scale is not None:
            check_nonnegative(self.layer_scale, "layer_scale")

    @property
    def attention_options(self) -> dict[str, Any]:
        """Options of the compressing half that only this kind of layer has."""
        return {"projection_bias": self.projection_bias} if self.block in ("tssa", "tost") else {}

    def override(self, **changes: Any) -> Self:
        """Copy with other values.

        Raises:
            ValueError: a name that is no field, or a value that does not fit.
        """
        known = {f.name for f in fields(self)}
        if unknown := sorted(changes.keys() - known):
            raise ValueError(f"unknown model options {unknown}; wanted some of {sorted(known)}")
        return replace(self, **changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Config from parsed JSON, lists read as tuples."""
        return cls().override(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def pair(size: Size, name: str = "size") -> tuple[int, int]:
    """Height and width from one number or two."""
    both = (size, size) if isinstance(size, int) else tuple(size)
    if len(both) != 2:
        raise ValueError(f"{name} must be one number or two; got {size!r}")
    for side in both:
        check_count(side, name)
    return both


def patch_grid(image_size: Size, patch_size: Size) -> tuple[int, int]:
    """Rows and columns of patches.

    Raises:
        ValueError: the image is no whole number of patches.
    """
    (height, width), (p1, p2) = pair(image_size, "image_size"), pair(patch_size, "patch_size")
    if height % p1 or width % p2:
        raise ValueError(f"image_size must be a multiple of patch_size; got {(height, width)} and {(p1, p2)}")
    return height // p1, width // p2


def image_grid(images: Tensor, patch_size: Size) -> tuple[int, int]:
    """Rows and columns of patches of images (B, C, H, W)."""
    height, width = images.shape[-2:]
    return patch_grid((height, width), patch_size)


def prepend(token: Tensor, Z: Tensor) -> Tensor:
    """Sequences (B, n, d) with one shared token (1, 1, d) in front: (B, 1 + n, d)."""
    return torch.cat((token.expand(Z.shape[0], -1, -1), Z), dim=1)


def check_images(images: Tensor, channels: int, size: tuple[int, int], *, any_size: bool = False) -> None:
    """Refuse anything but floating images (B, channels, height, width), of that size unless any will do."""
    wanted = (channels, *(("height", "width") if any_size else size))
    if images.ndim != 4 or tuple(images.shape[1:]) != (channels, *(images.shape[2:] if any_size else size)):
        raise ValueError(f"images must have shape (batch, {', '.join(map(str, wanted))}); got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(f"images must have a floating dtype; got {images.dtype}")


def patchify(images: Tensor, patch_size: Size, *, channels_first: bool = False) -> Tensor:
    """Patches of images as rows, channel fastest.

    Args:
        images: (B, C, H, W).
        patch_size: height p1 and width p2 of a patch.
        channels_first: channel slowest instead, a copy of longer stretches.

    Returns:
        (B, H/p1 · W/p2, p1 · p2 · C), patches in reading order.

    Raises:
        ValueError: not four axes, or no whole number of patches.

    Example:
        >>> patchify(torch.zeros(2, 3, 8, 12), 4).shape
        torch.Size([2, 6, 48])
    """
    if images.ndim != 4:
        raise ValueError(f"images must have shape (batch, channels, height, width); got {tuple(images.shape)}")
    (B, C, H, W), (p1, p2) = images.shape, pair(patch_size)
    h, w = patch_grid((H, W), patch_size)
    tiles = images.reshape(B, C, h, p1, w, p2)  # (B, C, H, W) -> (B, C, h, p1, w, p2)
    order = (0, 2, 4, 1, 3, 5) if channels_first else (0, 2, 4, 3, 5, 1)
    return tiles.permute(order).reshape(B, h * w, p1 * p2 * C)  # (B, n, patch_dim)
