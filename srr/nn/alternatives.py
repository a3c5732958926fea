"""Halves of the other variants: attention that costs O(n), and three things in the place of the ISTA step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from srr._array.checks import check_count, check_nonnegative, check_positive
from srr.nn.layers import MSSA, TORCH, uniform
from srr.ops.attention import (
    bare_contract_broadcast,
    bare_grid_means,
    bare_stretch_means,
    bare_tssa_heads,
    bare_tssa_mass,
    softmax_weights,
)
from srr.ops.sparse import bare_folded_ista_step, bare_ista_step, bare_prox_mm_step

__all__ = ["CBSA", "TSSA", "OvercompleteISTA", "Perceptron", "ProxMM"]


class TSSA(MSSA):
    r"""Token-statistics self-attention as the released networks run it.

    .. math::

        -\sum_k \Pi_k \odot V_k \oslash (1 + m_k)\, O_k^\top + b, \qquad V_k = Z U_k + c_k

    with the membership Π a softmax over heads and m_k the second moments of head k, see
    :func:`srr.ops.tssa_heads`.

    Args:
        dim: width d of a token.
        heads: number K of subspaces.
        head_dim: dimension p of each.
        bias: whether the output map has a bias.
        causal: running sums over the sequence instead of sums over all tokens.
        context: longest sequence of a causal layer with a learned offset for each head and position.
        projection_bias: whether the projection has a bias, as ``bias`` says when None.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``; ``mask`` is ``(..., n)``, True at real tokens.

    Source: [TOST], vision and causal forms as released.

    Example:
        >>> TSSA(dim=8, heads=2, head_dim=4)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    always_lifted = True

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        *,
        bias: bool = True,
        causal: bool = False,
        context: int | None = None,
        projection_bias: bool | None = None,
    ) -> None:
        super().__init__(dim, heads, head_dim, bias=bias, causal=causal)
        shifted = bias if projection_bias is None else projection_bias
        self.projection_bias = nn.Parameter(uniform(heads * head_dim, fan_in=dim)) if shifted else None
        self.temperature = nn.Parameter(torch.ones(heads, 1))
        if context is not None:
            check_count(context, "context")
        self.offset = None if context is None else nn.Parameter(torch.zeros(heads, context, 1))

    def coordinates(self, Z: Tensor) -> Tensor:
        """Coordinates of tokens in every head, with the bias of the projection: (..., n, d) to (..., K, n, p)."""
        V = super().coordinates(Z)
        return V if self.projection_bias is None else V + self.projection_bias.view(self.heads, 1, self.head_dim)

    def attend(self, V: Tensor, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """Attention inside the heads: (..., K, n, p) to (..., K, rows, p)."""
        n = V.shape[-2]
        if self.offset is not None and n > self.offset.shape[1]:
            raise ValueError(f"a sequence must have at most context={self.offset.shape[1]} tokens; got {n}")
        offset = None if self.offset is None else self.offset[:, :n]
        attended = bare_tssa_heads(V, self.temperature, self.causal, offset, mask, TORCH)
        return attended[..., :rows, :]

    def attend_newest(self, V: Tensor, count: int, mask: Tensor | None = None) -> Tensor:
        """Attention of the last ``count`` tokens: (..., K, n, p) to (..., K, count, p)."""
        return self.attend(V, mask)[..., -count:, :]

    def attention_map(self, Z: Tensor) -> Tensor:
        """Memberships of the tokens in the heads, (..., K, n): no token attends to another by itself."""
        V = self.coordinates(Z)
        offset = None if self.offset is None else self.offset[:, : V.shape[-2]]
        return bare_tssa_mass(V, self.temperature, self.causal, offset, None, TORCH)[0][..., 0]


class CBSA(MSSA):
    r"""Contract-and-broadcast self-attention.

    .. math::

        Q_k = \text{means of stretches of } V_k,\quad
        A_k = \mathrm{softmax}(p^{-1/2} Q_k V_k^\top),\quad
        \sum_k \sigma_k\, A_k^\top\, \mathrm{SSA}(Q_k + \rho_k A_k V_k)\, O_k^\top + b

    Representatives start as means of equal stretches of the sequence, the order tokens come in, or, with a ``grid``, as
    means over the windows of a coarse grid. The published vision network lays all tokens but the last on the grid of
    patches, with the class token in the first place: every patch stands one place later than in the image. So it is
    here, or its weights would give other outputs.

    Args:
        dim: width d of a token.
        heads: number K of subspaces.
        head_dim: dimension p of each.
        bias: whether the output map has a bias.
        causal: not available, representatives see all tokens.
        representatives: number m of them, a square number with a grid.
        grid: rows and columns of patches after a class token; a square one where the tokens are of another number.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``; ``mask`` is ``(..., n)``, True at real tokens.

    Raises:
        ValueError: ``causal`` is true, or a number of representatives that makes no square.

    Source: [CBSA]; the grid as in its released vision network.

    Example:
        >>> CBSA(dim=8, heads=2, head_dim=4, representatives=3)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    always_lifted = True

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        *,
        bias: bool = True,
        causal: bool = False,
        representatives: int = 64,
        grid: tuple[int, int] | None = None,
    ) -> None:
        if causal:
            raise ValueError("contract-and-broadcast attention has no causal form: representatives see all tokens")
        check_count(representatives, "representatives")
        if grid is not None and math.isqrt(representatives) ** 2 != representatives:
            raise ValueError(f"representatives must be a square number with a grid; got {representatives}")
        super().__init__(dim, heads, head_dim, bias=bias)
        self.representatives, self.grid = representatives, grid
        self.contract_step = nn.Parameter(torch.ones(heads, 1, 1))
        self.broadcast_step = nn.Parameter(torch.ones(heads, 1, 1))

    def attend(self, V: Tensor, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """Attention inside the heads: (..., K, n, p) to (..., K, rows, p)."""
        real = None if mask is None else mask[..., None, :]  # (..., 1, n)
        seen = None if mask is None else mask[..., None, None, :]  # (..., 1, 1, n)
        Q = self._means(V, real)  # (..., K, m, p)
        broadcast = bare_contract_broadcast(V, Q, self.contract_step, self.scale, seen, TORCH)
        return (self.broadcast_step * broadcast)[..., :rows, :]

    def _means(self, V: Tensor, real: Tensor | None) -> Tensor:
        """Representatives before they are contracted: (..., K, n, p) to (..., K, m, p)."""
        if self.grid is None:
            return bare_stretch_means(V, self.representatives, real, TORCH)
        n = V.shape[-2] - 1
        grid = self.grid if math.prod(self.grid) == n else (math.isqrt(n), math.isqrt(n))
        if math.prod(grid) != n:
            raise ValueError(f"tokens must be a class token and patches on {self.grid} or a square; got {n + 1}")
        side = math.isqrt(self.representatives)
        kept = None if real is None else real[..., :-1]
        return bare_grid_means(V[..., :-1, :], grid, (side, side), kept, TORCH)

    def attention_map(self, Z: Tensor) -> Tensor:
        """What token i reads of token j through the representatives: AᵀA with rows that sum to one, (..., K, n, n)."""
        V = self.coordinates(Z)
        A = softmax_weights(self._means(V, None), V, self.scale, None, TORCH)  # (..., K, m, n)
        return A.mT @ A / A.sum(dim=-2)[..., None]


class OvercompleteISTA(nn.Module):
    r"""Two non-negative ISTA steps from zero in an overcomplete dictionary, decoded by another dictionary.

    .. math::

        A_1 = \mathrm{ReLU}(\eta\, Z D - \eta\lambda), \quad
        A_2 = \mathrm{ReLU}\big(A_1 - \eta\,(A_1 D^\top - Z) D - \eta\lambda\big), \quad
        \text{out} = A_2 D_1^\top

    The first step is the folded one with M = ηD: from A = 0 the gradient is −Z D.

    Args:
        dim: width d of a token.
        expansion: atoms per dimension, m = expansion · d.
        step: η > 0.
        lam: λ ≥ 0.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``; D and D1 are (dim, expansion · dim).

    Source: [ALPHA], overcomplete and decoupled form.

    Example:
        >>> layer = OvercompleteISTA(dim=8)
        >>> layer(torch.zeros(3, 5, 8)).shape, layer.D.shape
        (torch.Size([3, 5, 8]), torch.Size([8, 32]))
    """

    def __init__(self, dim: int, *, expansion: int = 4, step: float = 0.1, lam: float = 0.1) -> None:
        super().__init__()
        check_count(dim, "dim")
        check_count(expansion, "expansion")
        self.step, self.lam = check_positive(step, "step"), check_nonnegative(lam, "lam")
        self.D = nn.Parameter(torch.empty(dim, expansion * dim))
        self.D1 = nn.Parameter(torch.empty(dim, expansion * dim))
        nn.init.kaiming_uniform_(self.D)
        nn.init.kaiming_uniform_(self.D1)

    def codes(self, Z: Tensor) -> Tensor:
        """Sparse codes A₂ of the tokens: (..., n, d) to (..., n, m)."""
        A = bare_folded_ista_step(Z, self.step * self.D, self.step, self.lam, TORCH)  # (..., n, d) -> (..., n, m)
        return bare_ista_step(A, Z, self.D, self.step, self.lam, True, TORCH)

    def forward(self, Z: Tensor) -> Tensor:
        """Tokens rebuilt from their codes."""
        return self.codes(Z) @ self.D1.mT  # (..., n, m) -> (..., n, d)

    def extra_repr(self) -> str:
        """Sizes shown by ``print(layer)``."""
        return f"dim={self.D.shape[0]}, atoms={self.D.shape[1]}, step={self.step}, lam={self.lam}"


class ProxMM(nn.Module):
    r"""One majorization step on λ‖A‖₁ − R in a learned frame, A ≥ 0.

    .. math::

        A = \mathrm{ReLU}\Big(\big(1 + \tfrac{4}{9(1 + \alpha)}\big) Z D - \tfrac{4\lambda}{9\alpha}\Big),
        \qquad \alpha = \tfrac{4}{9\eta}

    α = d/(nε²) is written through the step η = 4/(9α) of the majorizer, so that ηλ is the threshold as it
    is in :class:`srr.nn.ISTA`. D starts orthogonal and is free afterward.

    Args:
        dim: width d of a token; D is d × d.
        step: η > 0.
        lam: λ ≥ 0.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``, non-negative.

    Source: [CRATE] appendix A.3, (92).

    Example:
        >>> ProxMM(dim=8)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    curvature = 9 / 4
    """Bound on the curvature of −R, in units of α, that the paper uses."""

    def __init__(self, dim: int, *, step: float = 0.1, lam: float = 0.1) -> None:
        super().__init__()
        check_count(dim, "dim")
        self.step, self.lam = check_positive(step, "step"), check_nonnegative(lam, "lam")
        self.D = nn.Parameter(nn.init.orthogonal_(torch.empty(dim, dim)))

    def forward(self, Z: Tensor) -> Tensor:
        """Sparse codes of the tokens."""
        alpha = 1.0 / (self.curvature * self.step)
        return bare_prox_mm_step(Z, self.D, alpha, self.lam, self.curvature, TORCH)

    def extra_repr(self) -> str:
        """Sizes shown by ``print(layer)``."""
        return f"dim={self.D.shape[0]}, step={self.step}, lam={self.lam}"


class Perceptron(nn.Sequential):
    """Two-layer perceptron of width 4d, in the place of a sparsifying step; it is a step on nothing.

    Args:
        dim: width d of a token.
        bias: whether the two linear maps have biases.
        **unused: the step and sparsity weight of the layer.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``.

    Source: [TOST].

    Example:
        >>> Perceptron(dim=8)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, *, bias: bool = True, **unused: float) -> None:
        super().__init__(nn.Linear(dim, 4 * dim, bias=bias), nn.GELU(), nn.Linear(4 * dim, dim, bias=bias))
