"""Contract-and-broadcast layers: attention through a few representatives, linear in the number of tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srr._array.checks import check_count
from srr.nn.blocks import CrateBlock
from srr.nn.mssa import MSSA
from srr.ops.attention import contract_broadcast, stretch_means

__all__ = ["CBSA", "ContractBroadcastBlock"]


class CBSA(MSSA):
    r"""Contract-and-broadcast self-attention.

    .. math::

        Q_k = \text{means of stretches of } V_k,\quad
        A_k = \mathrm{softmax}(p^{-1/2} Q_k V_k^\top),\quad
        \sum_k \sigma_k\, A_k^\top\, \mathrm{SSA}(Q_k + \rho_k A_k V_k)\, O_k^\top + b

    Representatives start as means of equal stretches of the sequence, the order tokens come in; the published vision
    network averages over a coarse grid of the image instead.

    Args:
        dim: width d of a token.
        heads: number K of subspaces.
        head_dim: dimension p of each.
        bias: whether the output map has a bias.
        causal: not available, representatives see all tokens.
        representatives: number m of them.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``; ``mask`` is ``(..., n)``, True at real tokens.

    Raises:
        ValueError: ``causal`` is true.

    Source: [CBSA].

    Example:
        >>> import torch
        >>> CBSA(dim=8, heads=2, head_dim=4, representatives=3)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        *,
        bias: bool = True,
        causal: bool = False,
        representatives: int = 64,
    ) -> None:
        if causal:
            raise ValueError("contract-and-broadcast attention has no causal form: representatives see all tokens")
        check_count(representatives, "representatives")
        super().__init__(dim, heads, head_dim, bias=bias)
        self.representatives = representatives
        self.contract_step = nn.Parameter(torch.ones(heads, 1, 1))
        self.broadcast_step = nn.Parameter(torch.ones(heads, 1, 1))

    def _make_output(self, bias: bool) -> None:
        self.lifted = True
        super()._make_output(bias)

    def forward(self, Z: Tensor, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """Attended tokens, without the residual; only the first ``rows`` of them where that is a number."""
        V = self.coordinates(Z)  # (..., n, d) -> (..., K, n, p)
        real = None if mask is None else mask[..., None, :]  # (..., 1, n)
        Q = stretch_means(V, count=self.representatives, mask=real)  # (..., K, m, p)
        seen = None if real is None else real[..., None, :]  # (..., 1, 1, n)
        broadcast = contract_broadcast(V, Q, step=self.contract_step, scale=self.scale, mask=seen)
        return self.restore((self.broadcast_step * broadcast)[..., :rows, :])


class ContractBroadcastBlock(CrateBlock):
    r"""CRATE layer whose compressing half goes through a few representatives.

    .. math::

        Z^{\ell+1/2} = Z^\ell + \mathrm{CBSA}(\mathrm{LN}\, Z^\ell), \qquad
        Z^{\ell+1} = \mathrm{ISTA}(\mathrm{LN}\, Z^{\ell+1/2})

    Objective step: the first half compresses the representatives of every subspace and moves each token by its share
    of their motion; the second half is the sparse-coding step of :class:`srr.nn.CrateBlock`.

    Source: [CBSA] for the first half, [CRATE] (17) for the second.

    Example:
        >>> import torch
        >>> ContractBroadcastBlock(dim=8, heads=2, head_dim=4)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    attention_type = CBSA
