"""The CRATE classifier, top to bottom: config, embedding, the layers unrolled, head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from srr._array.checks import check_count, check_positive
from srr.nn.blocks import Block, keep_orthonormal
from srr.nn.layers import check_mask
from srr.nn.network import NetworkConfig, Size, check_images, image_grid, pair, patch_grid, patchify, prepend
from srr.nn.pretrained import PretrainedModel, interpolate_positions
from srr.nn.probe import is_watched
from srr.nn.stem import ClassAttention, ConvolutionalEmbedding, check_windows, square_side
from srr.solvers.driver import unroll

__all__ = ["CRATE", "ClassifierHead", "CrateConfig", "PatchEmbedding", "build_blocks"]


@dataclass(frozen=True)
class CrateConfig(NetworkConfig):
    """Description of a :class:`srr.nn.CRATE` classifier.

    Args:
        image_size: height and width in pixels (one number for a square).
        patch_size: height and width of a patch.
        channels: channels of an image.
        num_classes: classes of the head; 0 for the features that it reads, in place of scores.
        pool: ``"cls"`` reads the class token, ``"mean"`` the mean over all tokens.
        position_std: standard deviation of the initial positions and class token; 1 in the released network.
        patch_norm: layer norms around the patch projection.
        stem: ``"patches"``, one linear map of each patch, or ``"convolutions"``, 3×3 ones of stride 2 with batch norms,
            for patches of 8 or 16 pixels.
        positions: ``"learned"``, a table, or ``"fourier"``, a linear map of sines and cosines, after convolutions.
        class_layers: layers of class attention, before which there is no class token; 0 lets it go through all layers.
        class_norm_all: whether their second norm is taken of all tokens, or of the class token alone.
        grid_means: whether the representatives of ``block="cbsa"`` are means over the image grid, as published, or
            over stretches of the sequence.
        head_eps: variance floor of the norm before the scores.
        any_size: take images of other sizes too, a whole number of patches each way: positions are interpolated as
            they come. The weights are the same.

    Raises:
        ValueError: a count below one, an image that is no whole number of patches, an unknown pooling, choices that
            do not go together.

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
    stem: str = "patches"
    positions: str = "learned"
    class_layers: int = 0
    class_norm_all: bool = True
    grid_means: bool = False
    head_eps: float = 1e-5
    any_size: bool = False

    counts: ClassVar[tuple[str, ...]] = (*NetworkConfig.counts, "channels", "num_classes")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.position_std, "position_std")
        check_positive(self.head_eps, "head_eps")
        check_count(self.class_layers, "class_layers", least=0)
        words = {"stem": ("patches", "convolutions"), "positions": ("learned", "fourier"), "pool": ("cls", "mean")}
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}; got {getattr(self, name)!r}")
        convolutions = self.stem == "convolutions"
        if not convolutions and (self.positions == "fourier" or self.class_layers):
            raise ValueError('positions="fourier" and class_layers need stem="convolutions"; got stem="patches"')
        if convolutions and self.positions == "fourier" and not self.class_layers:
            raise ValueError('positions="fourier" gives the class token none: class_layers must be >= 1; got 0')
        if self.class_layers and self.pool != "cls":
            raise ValueError(f'class_layers needs pool="cls"; got {self.pool!r}')
        if self.grid_means and (self.block != "cbsa" or self.class_layers):
            raise ValueError(f'grid_means needs block="cbsa" and no class_layers; got block={self.block!r}')
        patch_grid(self.image_size, self.patch_size)

    @property
    def attention_options(self) -> dict[str, Any]:
        """Options of the compressing half that only this kind of layer has."""
        return super().attention_options | ({"grid": self.grid} if self.grid_means else {})

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return patch_grid(self.image_size, self.patch_size)


class PatchEmbedding(nn.Module):
    """Image to tokens: linear map of each patch, class token in front, learned positions.

    Args:
        image_size: height and width in pixels.
        patch_size: height and width of a patch.
        channels: channels of an image.
        dim: width of a token.
        norm: layer norms before and after the linear map.
        position_std: standard deviation of the initial positions and class token.
        any_size: take other images of whole patches, with positions interpolated to their grid.

    Shapes:
        ``(B, channels, height, width)`` to ``(B, 1 + patches, dim)``.

    Source: released CRATE network; without norms, the strided convolution of CRATE-α.

    Example:
        >>> PatchEmbedding(32, 4, channels=3, dim=16)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 65, 16])
    """

    def __init__(
        self,
        image_size: Size,
        patch_size: Size,
        *,
        channels: int,
        dim: int,
        norm: bool = True,
        position_std: float = 1,
        any_size: bool = False,
    ) -> None:
        super().__init__()
        (h, w), (p1, p2) = patch_grid(image_size, patch_size), pair(patch_size)
        self.image_size, self.patch_size, self.channels = pair(image_size), (p1, p2), channels
        self.grid, self.any_size = (h, w), any_size
        patch_dim = p1 * p2 * channels
        self.patch_norm = nn.LayerNorm(patch_dim) if norm else nn.Identity()
        self.linear = nn.Linear(patch_dim, dim)
        self.token_norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.class_token = nn.Parameter(position_std * torch.randn(1, 1, dim))
        self.positions = nn.Parameter(position_std * torch.randn(1, 1 + h * w, dim))

    def forward(self, images: Tensor) -> Tensor:
        """Tokens of the images, class token first."""
        check_images(images, self.channels, self.image_size, any_size=self.any_size)
        grid = image_grid(images, self.patch_size)
        Z = self.token_norm(self.project(images))  # (B, C, H, W) -> (B, n, d)
        return prepend(self.class_token, Z) + interpolate_positions(self.positions, self.grid, grid)  # (B, 1 + n, d)

    def project(self, images: Tensor) -> Tensor:
        """Linear map of normalized patches, (B, n, d).

        Pixels stay in the order of images, channels slowest, and the weights are put in it: they are fewer.
        """
        if self.channels == 1 or type(self.linear) is not nn.Linear or is_watched(self):
            return self.linear(self.patch_norm(patchify(images, self.patch_size)))
        patches = patchify(images, self.patch_size, channels_first=True)  # (B, n, patch_dim)
        if isinstance(self.patch_norm, nn.LayerNorm):
            scale, shift = (self.channels_first(w) for w in (self.patch_norm.weight, self.patch_norm.bias))
            patches = nn.functional.layer_norm(patches, patches.shape[-1:], scale, shift, self.patch_norm.eps)
        return nn.functional.linear(patches, self.channels_first(self.linear.weight), self.linear.bias)

    def channels_first(self, weight: Tensor) -> Tensor:
        """Weights (..., patch_dim) of pixels with channels fastest as those of pixels with channels slowest."""
        return weight.reshape(*weight.shape[:-1], -1, self.channels).mT.flatten(-2)


class ClassifierHead(nn.Module):
    """Layer norm and linear map of one pooled token to class scores.

    Args:
        dim: width of a token.
        num_classes: number of classes; 0 for none, and the normalized token itself.
        bias: whether the scores have a bias.
        norm_bias: whether the norm has one.
        norm_eps: variance floor of the norm.

    Shapes:
        ``(..., dim)`` to ``(..., num_classes)``, or to ``(..., dim)`` without classes.

    Example:
        >>> ClassifierHead(8, 10)(torch.zeros(2, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, dim: int, num_classes: int, *, bias: bool = True, norm_bias: bool = True, norm_eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=norm_eps, bias=norm_bias)
        self.linear = nn.Linear(dim, num_classes, bias=bias) if num_classes else nn.Identity()

    def forward(self, token: Tensor) -> Tensor:
        """Class scores, unnormalized."""
        return self.linear(self.norm(token))


def build_embedding(config: CrateConfig) -> PatchEmbedding | ConvolutionalEmbedding:
    """What brings the images of a classifier to tokens."""
    shared = {name: getattr(config, name) for name in ("channels", "dim", "position_std", "any_size")}
    if config.stem == "patches":
        return PatchEmbedding(config.image_size, config.patch_size, norm=config.patch_norm, **shared)
    fourier, late = config.positions == "fourier", config.class_layers > 0
    return ConvolutionalEmbedding(config.grid, square_side(config.patch_size), fourier=fourier, late=late, **shared)


def build_blocks(config: NetworkConfig, *, causal: bool = False) -> nn.ModuleList:
    """The layers of a model.

    Args:
        config: kind, number and sizes of the layers.
        causal: whether a token sees only those before it and itself.

    Returns:
        ``config.depth`` layers of the kind ``config.block``.

    Raises:
        ValueError: an unknown kind of layer, or orthonormal bases that do not fit.

    Example:
        >>> len(build_blocks(CrateConfig(dim=8, heads=2, head_dim=4, depth=3)))
        3
    """
    shared = ("step", "lam", "norm_eps", "bias", "layer_scale")
    options = {name: getattr(config, name) for name in shared} | {"causal": causal} | config.attention_options
    sizes = config.dim, config.heads, config.head_dim
    blocks = nn.ModuleList(Block(config.block, *sizes, **options) for _ in range(config.depth))
    if config.orthogonal:
        for block in blocks:
            keep_orthonormal(block)
    return blocks


class CRATE(PretrainedModel):
    """White-box transformer classifier: embed → unroll(blocks) → head.

    Args:
        config: sizes and choices, see :class:`srr.nn.CrateConfig`.

    Shapes:
        images ``(B, channels, height, width)`` to scores ``(B, num_classes)``, or to features ``(B, dim)`` where
        ``num_classes`` is 0; ``mask`` is ``(B, patches)``, True at real patches, for batches of padded images.

    Source: [CRATE] section 2.4, sizes of its Table 4.

    Example:
        >>> CRATE(CrateConfig(image_size=32, depth=2))(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 1000])
    """

    config: CrateConfig
    config_type = CrateConfig

    def __init__(self, config: CrateConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = build_embedding(config)
        self.blocks = build_blocks(config)
        self.class_layers = nn.ModuleList(
            ClassAttention(
                config.dim,
                config.heads,
                norm_eps=config.norm_eps,
                bias=config.projection_bias,
                scale=config.layer_scale,
                all_normed=config.class_norm_all,
            )
            for _ in range(config.class_layers)
        )
        self.head = ClassifierHead(config.dim, config.num_classes, norm_eps=config.head_eps)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Class scores of the images."""
        return self.forward_head(self._tokens(images, mask, read=self.config.pool == "cls"), mask)

    def forward_features(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """All tokens after the last layer, which :meth:`forward_head` pools: (B, C, H, W) to (B, 1 + n, d)."""
        return self._tokens(images, mask, read=False)

    def forward_head(self, Z: Tensor, mask: Tensor | None = None, *, pre_logits: bool = False) -> Tensor:
        """Scores (B, classes) of the tokens that :meth:`forward_features` gives.

        With ``pre_logits`` what the linear map reads, (B, d), as a network with ``num_classes=0`` gives anyway.
        """
        pooled = self.pool(Z, None if mask is None else with_class_token(mask, mask.shape[1]))  # (B, d)
        return self.head.norm(pooled) if pre_logits else self.head(pooled)

    def _tokens(self, images: Tensor, mask: Tensor | None, *, read: bool) -> Tensor:
        """Tokens after the last layer; where only the class token is read, perhaps that alone."""
        Z = self.embed(images)  # (B, C, H, W) -> (B, 1 + n, d), or (B, n, d) before class attention
        if self.config.grid_means:
            check_windows(image_grid(images, self.config.patch_size), self.config.grid)
        late = self.config.class_layers > 0
        mask_with_class = with_class_token(mask, Z.shape[1] - (0 if late else 1))
        Z = unroll(self.steps(mask if late else mask_with_class, read=read and not late), Z)
        if late:
            Z = prepend(self.embed.class_token, Z)  # (B, n, d) -> (B, 1 + n, d)
            Z = unroll(layer_steps(self.class_layers, mask_with_class, recompute=False), Z)
        return Z

    def steps(self, mask: Tensor | None = None, *, read: bool) -> Iterator[Callable[[Tensor], Tensor]]:
        """The layers as functions of the tokens alone, recomputed in the backward pass if so configured.

        Where only the class token is read, the last layer computes that token alone, unless a hook watches the layer.
        """
        rows = 1 if read and not is_watched(self.blocks[-1]) else None
        return layer_steps(self.blocks, mask, last_rows=rows, recompute=self.config.checkpoint_blocks and self.training)

    def pool(self, Z: Tensor, mask: Tensor | None = None) -> Tensor:
        """The token the head reads: (B, 1 + n, d) to (B, d)."""
        if self.config.pool == "cls":
            return Z[:, 0]  # (B, d)
        if mask is None:
            return Z.mean(dim=1)  # (B, d)
        real = mask[..., None].to(Z.dtype)  # (B, 1 + n, 1)
        return (Z * real).sum(dim=1) / real.sum(dim=1)  # (B, d)


def layer_steps(
    blocks: nn.ModuleList, mask: Tensor | None, *, recompute: bool, last_rows: int | None = None
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Blocks as steps of an unrolled solver; the last computes its first ``last_rows`` tokens, all when None."""
    for place, block in enumerate(blocks, start=1):
        rows = {"rows": last_rows} if last_rows is not None and place == len(blocks) else {}
        step = partial(block, mask=mask, **rows)
        yield partial(checkpoint, step, use_reentrant=False) if recompute else step


def with_class_token(mask: Tensor | None, n: int) -> Tensor | None:
    """Token mask (B, 1 + n) from a patch mask (B, n): the class token is always real."""
    check_mask(mask, n)
    return None if mask is None else nn.functional.pad(mask, (1, 0), value=True)
