"""From images or symbols to tokens: patches, class token, positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srr.nn.config import Size, pair, patch_grid

__all__ = ["PatchEmbedding", "TokenEmbedding", "patchify", "unpatchify"]


def patchify(images: Tensor, patch_size: Size) -> Tensor:
    """Patches of images as rows, channel fastest.

    Args:
        images: (B, C, H, W).
        patch_size: height p1 and width p2 of a patch.

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
    return tiles.permute(0, 2, 4, 3, 5, 1).reshape(B, h * w, p1 * p2 * C)  # (B, n, patch_dim)


def unpatchify(patches: Tensor, image_size: Size, patch_size: Size) -> Tensor:
    """Images from the rows :func:`patchify` makes of them.

    Args:
        patches: (B, n, p1 · p2 · C).
        image_size: height and width of the images.
        patch_size: height p1 and width p2 of a patch.

    Returns:
        (B, C, H, W).

    Example:
        >>> images = torch.randn(2, 3, 8, 12)
        >>> torch.equal(unpatchify(patchify(images, 4), (8, 12), 4), images)
        True
    """
    (h, w), (p1, p2) = patch_grid(image_size, patch_size), pair(patch_size)
    tiles = patches.reshape(-1, h, w, p1, p2, patches.shape[-1] // (p1 * p2))  # (B, h, w, p1, p2, C)
    return tiles.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)  # (B, C, H, W)


class PatchEmbedding(nn.Module):
    """Image to tokens: linear map of each patch, class token in front, learned positions.

    Args:
        image_size: height and width in pixels.
        patch_size: height and width of a patch.
        channels: channels of an image.
        dim: width of a token.
        norm: layer norms before and after the linear map.
        position_std: standard deviation of the initial positions and class token.

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
        position_std: float = 1.0,
    ) -> None:
        super().__init__()
        (h, w), (p1, p2) = patch_grid(image_size, patch_size), pair(patch_size)
        self.image_size, self.patch_size, self.channels = pair(image_size), (p1, p2), channels
        patch_dim = p1 * p2 * channels
        self.patch_norm = nn.LayerNorm(patch_dim) if norm else nn.Identity()
        self.linear = nn.Linear(patch_dim, dim)
        self.token_norm = nn.LayerNorm(dim) if norm else nn.Identity()
        self.class_token = nn.Parameter(position_std * torch.randn(1, 1, dim))
        self.positions = nn.Parameter(position_std * torch.randn(1, 1 + h * w, dim))

    def forward(self, images: Tensor) -> Tensor:
        """Tokens of the images, class token first."""
        check_images(images, self.channels, self.image_size)
        patches = patchify(images, self.patch_size)  # (B, C, H, W) -> (B, n, patch_dim)
        Z = self.token_norm(self.linear(self.patch_norm(patches)))  # (B, n, d)
        return prepend(self.class_token, Z) + self.positions  # (B, 1 + n, d)


class TokenEmbedding(nn.Module):
    """Symbols to tokens: a row of a table for each symbol plus a learned position.

    Args:
        vocabulary: number of symbols.
        context: longest sequence.
        dim: width of a token.
        std: standard deviation of the initial tables.

    Shapes:
        integers ``(B, n)`` to ``(B, n, dim)``; ``start`` is the position of the first symbol.

    Example:
        >>> TokenEmbedding(256, context=10, dim=8)(torch.zeros(2, 5, dtype=torch.long)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, vocabulary: int, *, context: int, dim: int, std: float = 0.02) -> None:
        super().__init__()
        self.context = context
        self.symbols = nn.Parameter(std * torch.randn(vocabulary, dim))
        self.positions = nn.Parameter(std * torch.randn(context, dim))

    def forward(self, symbols: Tensor, start: int = 0) -> Tensor:
        """Tokens of the symbols at positions ``start`` and on."""
        end = start + symbols.shape[-1]
        if end > self.context:
            raise ValueError(f"a sequence must have at most context={self.context} symbols; got {end}")
        return nn.functional.embedding(symbols, self.symbols) + self.positions[start:end]  # (B, n) -> (B, n, d)


def prepend(token: Tensor, Z: Tensor) -> Tensor:
    """Sequences (B, n, d) with one shared token (1, 1, d) in front: (B, 1 + n, d)."""
    return torch.cat((token.expand(Z.shape[0], -1, -1), Z), dim=1)


def check_images(images: Tensor, channels: int, size: tuple[int, int]) -> None:
    """Refuse anything but floating images (B, channels, height, width)."""
    wanted = (channels, *size)
    if images.ndim != 4 or tuple(images.shape[1:]) != wanted:
        raise ValueError(f"images must have shape (batch, {', '.join(map(str, wanted))}); got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(f"images must have a floating dtype; got {images.dtype}")
