"""Positions of patches: fixed sine-cosine tables, and learned tables carried to another grid."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["interpolate_positions", "sincos_positions"]


def sincos_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """Fixed two-dimensional sine-cosine positions with a zero row for the class token in front.

    The first half of the coordinates encodes the column, the second the row; each half is sines then
    cosines of the index times 10000^(-4i/dim), i = 0 … dim/4 − 1.

    Args:
        grid: rows and columns of patches.
        dim: width of a token, a multiple of four.

    Returns:
        Table (1 + rows · columns, dim), patches in reading order.

    Raises:
        ValueError: dim is no multiple of four.

    Source: [MAE], positions of encoder and decoder.

    Example:
        >>> sincos_positions((2, 3), 8).shape
        torch.Size([7, 8])
    """
    if dim % 4:
        raise ValueError(f"dim must be a multiple of 4; got {dim}")
    rows, columns = grid
    frequencies = 10000.0 ** (-4.0 * torch.arange(dim // 4, dtype=torch.float64) / dim)
    angles = torch.arange(max(grid), dtype=torch.float64)[:, None] * frequencies  # (side, dim/4)
    waves = torch.cat((angles.sin(), angles.cos()), dim=1)  # (side, dim/2)
    across = waves[:columns].expand(rows, -1, -1)  # (rows, columns, dim/2)
    down = waves[:rows, None].expand(-1, columns, -1)  # (rows, columns, dim/2)
    table = torch.cat((across, down), dim=2).flatten(0, 1)  # (rows · columns, dim)
    return torch.cat((torch.zeros(1, dim, dtype=torch.float64), table)).to(torch.get_default_dtype())


def interpolate_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Learned positions of a model carried to another number of patches, the class token's kept.

    Args:
        positions: (1, 1 + rows · columns, d) for the old grid.
        old: rows and columns they were learned on.
        new: rows and columns wanted.

    Returns:
        (1, 1 + new rows · new columns, d), bicubic between patch centers, antialiased when the grid shrinks.

    Raises:
        ValueError: the table does not have 1 + rows · columns rows.

    Example:
        >>> interpolate_positions(torch.zeros(1, 5, 8), (2, 2), (3, 4)).shape
        torch.Size([1, 13, 8])
    """
    if positions.shape[1] != 1 + old[0] * old[1]:
        raise ValueError(f"positions must have {1 + old[0] * old[1]} rows; got {positions.shape[1]}")
    if old == new:
        return positions
    first, patches = positions[:, :1], positions[:, 1:]
    picture = patches.reshape(1, *old, -1).permute(0, 3, 1, 2)  # (1, n, d) -> (1, d, rows, columns)
    resized = torch.nn.functional.interpolate(picture, size=new, mode="bicubic", antialias=True)
    return torch.cat((first, resized.flatten(2).mT), dim=1)  # (1, 1 + new n, d)
