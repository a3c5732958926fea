"""Token-statistics layers: compression by second moments, at a cost linear in the number of tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srr._array.checks import check_count
from srr.nn.blocks import CrateBlock
from srr.nn.mssa import MSSA, uniform
from srr.ops.attention import tssa_heads

__all__ = ["TSSA", "TokenStatisticsBlock", "TostBlock"]


class TSSA(MSSA):
    r"""Token-statistics self-attention as the released networks run it.

    .. math::

        -\sum_k \Pi_k \odot V_k \oslash (1 + m_k)\, O_k^\top + b, \qquad V_k = Z U_k + c_k

    with the membership Π a softmax over heads and m_k the second moments of head k, see
    :func:`srr.ops.attention.tssa_heads`.

    Args:
        dim: width d of a token.
        heads: number K of subspaces.
        head_dim: dimension p of each.
        bias: whether projection and output map have biases.
        causal: running sums over the sequence instead of sums over all tokens.
        context: longest sequence of a causal layer with a learned offset for each head and position.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``; ``mask`` is ``(..., n)``, True at real tokens.

    Source: [TOST], vision and causal forms as released.

    Example:
        >>> import torch
        >>> TSSA(dim=8, heads=2, head_dim=4)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    projection_bias: Tensor | None
    offset: Tensor | None

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        *,
        bias: bool = True,
        causal: bool = False,
        context: int | None = None,
    ) -> None:
        super().__init__(dim, heads, head_dim, bias=bias, causal=causal)
        self.projection_bias = nn.Parameter(uniform(heads * head_dim, fan_in=dim)) if bias else None
        self.temperature = nn.Parameter(torch.ones(heads, 1))
        self.offset = None
        if context is not None:
            check_count(context, "context")
            self.offset = nn.Parameter(torch.zeros(heads, context, 1))

    def _make_output(self, bias: bool) -> None:
        self.lifted = True
        super()._make_output(bias)

    def coordinates(self, Z: Tensor) -> Tensor:
        """Coordinates of tokens in every head, with the bias of the projection: (..., n, d) to (..., K, n, p)."""
        V = super().coordinates(Z)
        if self.projection_bias is None:
            return V
        return V + self.projection_bias.view(self.heads, 1, self.head_dim)

    def forward(self, Z: Tensor, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """Attended tokens, without the residual; only the first ``rows`` of them where that is a number."""
        return self.restore(self._attend(self.coordinates(Z), mask)[..., :rows, :])

    def attend_newest(self, V: Tensor, count: int, mask: Tensor | None = None) -> Tensor:
        """Attention of the last ``count`` tokens: (..., K, n, p) to (..., K, count, p)."""
        return self._attend(V, mask)[..., -count:, :]

    def _attend(self, V: Tensor, mask: Tensor | None = None) -> Tensor:
        offset = None if self.offset is None else self.offset[:, : V.shape[-2]]
        return tssa_heads(V, self.temperature, causal=self.causal, offset=offset, mask=mask)


class TokenStatisticsBlock(CrateBlock):
    r"""CRATE layer whose compressing half costs O(n): token statistics instead of pairwise attention.

    .. math::

        Z^{\ell+1/2} = Z^\ell + \mathrm{TSSA}(\mathrm{LN}\, Z^\ell), \qquad
        Z^{\ell+1} = \mathrm{ISTA}(\mathrm{LN}\, Z^{\ell+1/2})

    Objective step: the first half is a gradient step on the variational upper bound of the compression
    term, the second the sparse-coding step of :class:`srr.nn.CrateBlock`.

    Source: [TOST] for the first half, [CRATE] (17) for the second.

    Example:
        >>> import torch
        >>> TokenStatisticsBlock(dim=8, heads=2, head_dim=4)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    attention_type = TSSA


class TostBlock(CrateBlock):
    r"""Token-statistics transformer layer: TSSA, then an ordinary two-layer perceptron.

    .. math::

        Z^{\ell+1/2} = Z^\ell + \mathrm{TSSA}(\mathrm{LN}\, Z^\ell), \qquad
        Z^{\ell+1} = Z^{\ell+1/2} + \mathrm{MLP}(\mathrm{LN}\, Z^{\ell+1/2})

    Objective step: the first half as in :class:`TokenStatisticsBlock`; the second half has none.

    Source: [TOST].

    Example:
        >>> import torch
        >>> TostBlock(dim=8, heads=2, head_dim=4)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    attention_type = TSSA

    def _make_sparsifier(self, dim: int, step: float, lam: float, norm_eps: float) -> None:
        self.dictionary_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def sparsify(self, Z: Tensor) -> Tensor:
        """Second half: the perceptron with its residual."""
        return Z + self.mlp(self.dictionary_norm(Z))
