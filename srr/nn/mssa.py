"""Multi-head subspace self-attention layers: one projection per head, queries = keys = values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from srr._array.checks import check_count
from srr.ops.attention import mssa, ssa, ssa_newest
from srr.ops.subspaces import lift, project

__all__ = ["MSSA"]


def attend_real(mask: Tensor | None) -> Tensor | None:
    """Attention mask (..., 1, n) from a token mask (..., n) that is True at real tokens."""
    return None if mask is None else mask[..., None, :]


class MSSA(nn.Module):
    r"""Multi-head subspace self-attention with a free output map: the compressing half of a CRATE layer.

    .. math::

        \mathrm{MSSA}(Z) = \sum_k \mathrm{softmax}(s\, V_k V_k^\top)\, V_k O_k^\top + b, \qquad V_k = Z U_k

    The projection is stored as one ``(heads * head_dim, dim)`` matrix, so that all heads cost one product;
    :attr:`U` is a view of it. The output map is left out when there is one head of full width, as in the
    released network.

    Args:
        dim: width d of a token.
        heads: number K of subspaces.
        head_dim: dimension p of each.
        bias: whether the output map has a bias.
        causal: whether row i sees the tokens up to i only.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``; ``mask`` is ``(..., n)``, True at real tokens.

    Source: [CRATE] (11)-(12) with the output map and scale p^{-1/2} of the released network.

    Example:
        >>> import torch
        >>> layer = MSSA(dim=8, heads=2, head_dim=4)
        >>> layer(torch.zeros(3, 5, 8)).shape, layer.U.shape
        (torch.Size([3, 5, 8]), torch.Size([2, 8, 4]))
    """

    projection: Tensor
    output: Tensor | None
    bias: Tensor | None

    def __init__(self, dim: int, heads: int, head_dim: int, *, bias: bool = True, causal: bool = False) -> None:
        super().__init__()
        check_count(dim, "dim")
        check_count(heads, "heads")
        check_count(head_dim, "head_dim")
        self.dim, self.heads, self.head_dim = dim, heads, head_dim
        self.causal = causal
        self.lifted = heads > 1 or head_dim != dim
        self.scale = head_dim**-0.5
        self._make_projection()
        self._make_output(bias)

    def _make_projection(self) -> None:
        self.projection = nn.Parameter(uniform(self.heads * self.head_dim, self.dim, fan_in=self.dim))

    def _make_output(self, bias: bool) -> None:
        width = self.heads * self.head_dim
        self.output = nn.Parameter(uniform(self.dim, width, fan_in=width)) if self.lifted else None
        self.bias = nn.Parameter(uniform(self.dim, fan_in=width)) if bias and self.lifted else None

    @property
    def U(self) -> Tensor:
        """Bases of the subspaces, shape (K, d, p), as a view of the projection."""
        return self.projection.view(self.heads, self.head_dim, self.dim).mT  # (K, d, p)

    @property
    def out(self) -> Tensor | None:
        """Output bases, shape (K, d, p), or None where the tokens are lifted by U itself."""
        return None if self.output is None else self._bases_of(self.output)

    def _bases_of(self, weight: Tensor) -> Tensor:
        return weight.view(self.dim, self.heads, self.head_dim).transpose(0, 1)  # (d, K p) -> (K, d, p)

    def forward(self, Z: Tensor, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """Attended tokens, without the residual; only the first ``rows`` of them where that is a number."""
        seen: Any = {"scale": self.scale, "causal": self.causal, "mask": attend_real(mask), "rows": rows}
        if not self.lifted:
            return ssa(Z @ self.projection.mT, **seen)
        return mssa(Z, self.U, out=self.out, bias=self.bias, **seen)

    def extend(self, Z: Tensor, past: Tensor | None = None, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attended tokens for the newest of a causal sequence, and the coordinates of the whole of it.

        As queries, keys and values are one, one array per layer is all that has to be remembered.

        Args:
            Z: tokens (..., m, d) that follow those of ``past``.
            past: coordinates (..., K, t, p) of the tokens before, None at the start.
            mask: (..., t + m), True at real tokens; all are by default.

        Returns:
            Attended tokens (..., m, d) and coordinates (..., K, t + m, p).

        Raises:
            ValueError: the layer is not causal.
        """
        if not self.causal:
            raise ValueError("only a causal layer can be extended; this one lets tokens see later ones")
        V = self.coordinates(Z)  # (..., m, d) -> (..., K, m, p)
        V = V if past is None else torch.cat((past, V), dim=-2)  # (..., K, t + m, p)
        return self.restore(self.attend_newest(V, Z.shape[-2], mask)), V

    def coordinates(self, Z: Tensor) -> Tensor:
        """Coordinates of tokens in every head: (..., n, d) to (..., K, n, p)."""
        return project(Z, self.U)

    def attend_newest(self, V: Tensor, count: int, mask: Tensor | None = None) -> Tensor:
        """Attention of the last ``count`` tokens: (..., K, n, p) to (..., K, count, p)."""
        return ssa_newest(V, count=count, scale=self.scale, mask=attend_real(mask))

    def restore(self, V: Tensor) -> Tensor:
        """Tokens from attended coordinates: (..., K, n, p) to (..., n, d)."""
        if not self.lifted:
            return V.squeeze(-3)  # (..., 1, n, d) -> (..., n, d)
        out = self.out
        lifted = lift(V, self.U if out is None else out)
        return lifted if self.bias is None else lifted + self.bias

    def extra_repr(self) -> str:
        """Sizes shown by ``print(layer)``."""
        return f"dim={self.dim}, heads={self.heads}, head_dim={self.head_dim}, causal={self.causal}"


def uniform(*shape: int, fan_in: int) -> Tensor:
    """Tensor uniform in ±1/√fan_in, the initialization of linear maps in the released network."""
    bound = fan_in**-0.5
    return torch.empty(shape).uniform_(-bound, bound)
