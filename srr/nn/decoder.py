"""Decoder layer of the autoencoder: undo the dictionary, then undo the compression."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srr.nn.mssa import MSSA

__all__ = ["DecoderBlock"]


class DecoderBlock(nn.Module):
    r"""One CRATE-MAE decoder layer, the two halves of an encoder layer run backwards.

    .. math::

        Z^{\ell+1/2} = \mathrm{LN}(Z^\ell)\, D^\top, \qquad
        Z^{\ell+1} = Z^{\ell+1/2} - \mathrm{MSSA}(\mathrm{LN}\, Z^{\ell+1/2})

    Objective step: the first half reads tokens back from sparse codes; the second steps against the
    compression, the discretized flow of the encoder with time reversed.

    Args:
        dim: width d of a token.
        heads: number K of subspaces.
        head_dim: dimension p of each.
        norm_eps: variance floor of the layer norms.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``; ``mask`` is ``(..., n)``, True at real tokens.

    Source: [MAE], decoder layer.

    Example:
        >>> DecoderBlock(dim=8, heads=2, head_dim=4)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, heads: int, head_dim: int, *, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.dictionary_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.D = nn.Parameter(torch.empty(dim, dim))
        nn.init.kaiming_uniform_(self.D)
        self.attention_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.attention = MSSA(dim, heads, head_dim)

    def forward(self, Z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Both halves."""
        Y = self.dictionary_norm(Z) @ self.D.mT
        return Y - self.attention(self.attention_norm(Y), mask)
