"""Parts of the released networks around their layers: convolutions before them, class attention after them."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from srr._array.checks import check_count
from srr.nn.alternatives import Perceptron
from srr.nn.network import Size, check_images, image_grid, pair, prepend
from srr.nn.pretrained import interpolate_positions

__all__ = ["ClassAttention", "ConvolutionalEmbedding", "fourier_positions"]

WAVES = 32
"""Sines and cosines of a direction."""


class ConvolutionalEmbedding(nn.Module):
    """Image to tokens: 3×3 convolutions of stride 2 with batch norms, then learned or Fourier positions.

    Args:
        grid: rows and columns of patches.
        patch_size: 8 for three convolutions or 16 for four, each halving the picture.
        channels: channels of an image.
        dim: width of a token.
        fourier: positions are a linear map of :func:`srr.nn.fourier_positions`, for any grid, instead of a table.
        late: the class token is kept for the layers that come after, and is not put in front here.
        position_std: standard deviation of the initial position table and class token.
        any_size: take other images of whole patches, with positions for their grid.

    Shapes:
        ``(B, channels, height, width)`` to ``(B, 1 + patches, dim)``, or to ``(B, patches, dim)`` when late.

    Raises:
        ValueError: another patch size, or a width that cannot be halved as often.

    Source: stem and positions of the networks released with [TOST] and [CBSA].

    Example:
        >>> embed = ConvolutionalEmbedding((4, 4), 8, channels=3, dim=16)
        >>> embed(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 17, 16])
    """

    def __init__(
        self,
        grid: tuple[int, int],
        patch_size: int,
        *,
        channels: int,
        dim: int,
        fourier: bool = False,
        late: bool = False,
        position_std: float = 1.0,
        any_size: bool = False,
    ) -> None:
        super().__init__()
        check_count(dim, "dim")
        if patch_size not in (8, 16):
            raise ValueError(f"patch_size must be 8 or 16 under convolutions; got {patch_size!r}")
        halvings = int(math.log2(patch_size))
        if dim % 2 ** (halvings - 1):
            raise ValueError(f"dim must be a multiple of {2 ** (halvings - 1)} under convolutions; got {dim}")
        self.grid, self.patch_size, self.channels, self.late, self.any_size = grid, patch_size, channels, late, any_size
        widths = [channels, *(dim // 2**i for i in range(halvings - 1, -1, -1))]  # 3, d/8, d/4, d/2, d
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            layers += [nn.Sequential(convolution, nn.BatchNorm2d(after)), nn.GELU()]
        self.stem = nn.Sequential(*layers[:-1])
        self.class_token = nn.Parameter(position_std * torch.randn(1, 1, dim))
        rows, columns = grid
        self.position_map = nn.Linear(2 * WAVES, dim) if fourier else None
        table = None if fourier else position_std * torch.randn(1, 1 + rows * columns, dim)
        self.positions = None if table is None else nn.Parameter(table)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens of the images."""
        rows, columns = self.grid
        size = rows * self.patch_size, columns * self.patch_size
        check_images(images, self.channels, size, any_size=self.any_size)
        grid = image_grid(images, self.patch_size)
        Z = self.stem(images).flatten(2).mT  # (B, C, H, W) -> (B, d, rows, columns) -> (B, n, d)
        table = None if self.positions is None else interpolate_positions(self.positions, self.grid, grid)
        if self.position_map is not None:
            Z = Z + self.position_map(fourier_positions(grid, like=Z))
        elif self.late and table is not None:
            Z = Z + table[:, 1:]
        if self.late:
            return Z
        Z = prepend(self.class_token, Z)  # (B, 1 + n, d)
        return Z if table is None else Z + table


def square_side(patch_size: Size) -> int:
    """Side of the patches that convolutions of stride 2 make."""
    height, width = pair(patch_size)
    if height != width:
        raise ValueError(f"patch_size must be square under convolutions; got {(height, width)}")
    return height


def check_windows(grid: tuple[int, int], own: tuple[int, int]) -> None:
    """Refuse a grid that means over windows would take for another: layers see only how many tokens come."""
    (rows, columns), patches = grid, math.prod(own)
    if grid != own and (rows != columns or rows * columns == patches):
        raise ValueError(f"grid_means takes images of {own} patches or square ones; got {grid}")


def fourier_positions(grid: tuple[int, int], *, like: Tensor) -> Tensor:
    r"""Sines and cosines of the row and of the column of every patch of a grid.

    .. math:: \theta_j = \frac{2\pi\, i}{I + 10^{-6}}\, 10^{-4 \cdot 2j/32}, \qquad j = 0 \dots 15

    for index i = 1 … I of a row or column; sines and cosines alternate, rows come first.

    Args:
        grid: rows and columns of patches.
        like: tensor that gives dtype and device.

    Returns:
        Table (rows · columns, 64), patches in reading order.

    Source: positions of the vision network released with [TOST].

    Example:
        >>> fourier_positions((2, 3), like=torch.zeros(1)).shape
        torch.Size([6, 64])
    """
    rows, columns = grid
    exponents = torch.arange(0, WAVES, 2, dtype=like.dtype, device=like.device) / WAVES
    frequencies = 10000.0**-exponents  # (16,)

    def waves(count: int) -> Tensor:
        places = torch.arange(1, count + 1, dtype=like.dtype, device=like.device) * (2 * math.pi / (count + 1e-6))
        angles = places[:, None] * frequencies  # (count, 16)
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)  # (count, 32)

    down = waves(rows)[:, None].expand(-1, columns, -1)  # (rows, columns, 32)
    across = waves(columns).expand(rows, -1, -1)
    return torch.cat((down, across), dim=-1).flatten(0, 1)


class ClassAttention(nn.Module):
    r"""One layer in which the class token alone asks all tokens, and alone goes through a perceptron.

    .. math::

        Y = Z + \gamma_1 \odot [\mathrm{attention}(\mathrm{LN}\,Z)_0;\ \mathrm{LN}(Z)_{1 \dots n}], \qquad
        Z^+ = Y' + [\gamma_2 \odot \mathrm{MLP}(y'_0);\ y'_1 \dots y'_n], \quad Y' = \mathrm{LN}\,Y

    The other tokens change as well, as the released code has it: they gain their own normalized selves, and are
    doubled in the second half. With ``all_normed=False`` the second norm is that of the class token alone.

    Args:
        dim: width d of a token.
        heads: number of heads, a divisor of d.
        norm_eps: variance floor of the layer norms.
        bias: whether queries, keys and values have a bias.
        scale: initial value of γ₁ and γ₂; None for none.
        all_normed: whether the second norm is taken of every token.

    Shapes:
        ``(B, 1 + n, dim)`` to ``(B, 1 + n, dim)``, class token first; ``mask`` is ``(B, 1 + n)``, True at real tokens.

    Raises:
        ValueError: a width that is no multiple of the heads.

    Source: class attention of the vision network released with [TOST].

    Example:
        >>> ClassAttention(dim=8, heads=2)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        norm_eps: float = 1e-6,
        bias: bool = True,
        scale: float | None = 1.0,
        all_normed: bool = True,
    ) -> None:
        super().__init__()
        check_count(heads, "heads")
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads={heads} under class attention; got {dim}")
        self.heads, self.all_normed = heads, all_normed
        self.attention_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.maps = nn.Linear(dim, 3 * dim, bias=bias)
        self.output = nn.Linear(dim, dim)
        self.perceptron_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.perceptron = Perceptron(dim)
        self.attention_scale = None if scale is None else nn.Parameter(torch.full((dim,), float(scale)))
        self.perceptron_scale = None if scale is None else nn.Parameter(torch.full((dim,), float(scale)))

    def forward(self, Z: Tensor, mask: Tensor | None = None) -> Tensor:
        """All tokens after the layer."""
        X = self.attention_norm(Z)
        moved = torch.cat((self.attend(X, mask), X[:, 1:]), dim=1)  # (B, 1 + n, d)
        Y = Z + (moved if self.attention_scale is None else self.attention_scale * moved)
        normed = self.perceptron_norm(Y if self.all_normed else Y[:, :1])
        Y = normed if self.all_normed else torch.cat((normed, Y[:, 1:]), dim=1)
        seen = self.perceptron(Y[:, :1])
        seen = seen if self.perceptron_scale is None else self.perceptron_scale * seen
        return Y + torch.cat((seen, Y[:, 1:]), dim=1)

    def attend(self, X: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the class token of normalized tokens (B, 1 + n, d) reads: (B, 1, d)."""
        Q, K, V = self._maps(X)
        seen = None if mask is None else mask[:, None, None, :]
        read = scaled_dot_product_attention(Q[:, :, :1], K, V, attn_mask=seen)  # (B, heads, 1, p)
        return self.output(read.transpose(1, 2).flatten(2))

    def attention_map(self, X: Tensor) -> Tensor:
        """What the class token attends to, (B, heads, 1, 1 + n)."""
        Q, K, _ = self._maps(X)
        return (Q[:, :, :1] @ K.mT * K.shape[-1] ** -0.5).softmax(dim=-1)

    def _maps(self, X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        split = self.maps(X).unflatten(-1, (3, self.heads, -1))  # (B, 1 + n, 3, heads, p)
        Q, K, V = split.permute(2, 0, 3, 1, 4)
        return Q, K, V
