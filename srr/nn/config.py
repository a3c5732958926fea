"""Frozen descriptions of models: checked on creation, written as JSON beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

from srr._array.checks import check_count, check_nonnegative, check_positive

__all__ = ["Config", "CrateConfig"]

Size = int | tuple[int, int]


@dataclass(frozen=True)
class Config:
    """Fields shared by every model of the family.

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

    counts: ClassVar[tuple[str, ...]] = ("dim", "depth", "heads", "head_dim")

    def __post_init__(self) -> None:
        for name in self.counts:
            check_count(getattr(self, name), name)
        check_positive(self.step, "step")
        check_nonnegative(self.lam, "lam")
        check_positive(self.norm_eps, "norm_eps")

    def override(self, **changes: Any) -> Self:
        """Copy with other values.

        Raises:
            ValueError: a name that is no field, or a value that does not fit.
        """
        known = {f.name for f in fields(self)}
        if unknown := sorted(changes.keys() - known):
            raise ValueError(f"unknown model options {unknown}; wanted some of {sorted(known)}")
        return replace(self, **changes)

    def to_json(self) -> str:
        """Text of ``config.json``."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Config from parsed JSON, lists read as tuples."""
        return cls().override(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


@dataclass(frozen=True)
class CrateConfig(Config):
    """Description of a :class:`srr.nn.CRATE` classifier.

    Args:
        image_size: height and width in pixels (one number for a square).
        patch_size: height and width of a patch.
        channels: channels of an image.
        num_classes: classes of the head.
        pool: ``"cls"`` reads the class token, ``"mean"`` the mean over all tokens.
        position_std: standard deviation of the initial positions and class token; 1 in the released network.
        patch_norm: layer norms around the patch projection.

    Raises:
        ValueError: a count below one, an image that is no whole number of patches, an unknown pooling.

    Example:
        >>> CrateConfig(image_size=32, patch_size=4).grid
        (8, 8)
    """

    image_size: Size = 224
    patch_size: Size = 16
    channels: int = 3
    num_classes: int = 1000
    pool: str = "cls"
    position_std: float = 1.0
    patch_norm: bool = True

    counts: ClassVar[tuple[str, ...]] = (*Config.counts, "channels", "num_classes")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.position_std, "position_std")
        patch_grid(self.image_size, self.patch_size)
        if self.pool not in ("cls", "mean"):
            raise ValueError(f'pool must be "cls" or "mean"; got {self.pool!r}')

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return patch_grid(self.image_size, self.patch_size)


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
