"""Halves of a layer that provably lower what they are steps on, for any weights.

Tokens live on the sphere of layer norm. A gradient step of at most 1/L followed by the projection onto that sphere
never raises a function whose gradient is L-Lipschitz; L is an upper bound that the weights give in closed form.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from srr._array.checks import check_count, check_nonnegative
from srr.nn.layers import TORCH, Heads, uniform
from srr.ops.attention import not_after, softmax_weights
from srr.ops.energies import bare_centered_sphere, bare_softmax_energy_grad, bare_spectral_bound, softmax_energy
from srr.ops.rates import bare_rate_scale, bare_subspace_coding_rate, bare_subspace_coding_rate_value_and_grad
from srr.ops.sparse import bare_ista_step, bare_lasso
from srr.ops.subspaces import bare_project

__all__ = ["Descent", "EnergyAttention", "FeasibleISTA", "RateCompression"]

BEGIN = 3.0  # sigmoid(3) = 0.95: the share of the longest provable step that a new layer takes
SQUARINGS = 3  # of the matrix whose norm bounds a curvature: within d^(1/16)
LOOSE = 1e-3  # a layer's factor is good enough below this relative error; the certificate measures in float64


class Descent(NamedTuple):
    """One half-step and what it did to its objective, one number per item of the batch.

    Args:
        before: objective at the tokens that entered.
        after: objective at the tokens that left.
        guaranteed: how much it must have fallen at least.
    """

    before: Tensor
    after: Tensor
    guaranteed: Tensor


class Descending(Heads):
    """Gradient step and projection back onto the spheres that the tokens came from."""

    def __init__(self, dim: int, heads: int, head_dim: int, *, causal: bool = False) -> None:
        super().__init__(dim, heads, head_dim, causal=causal)
        if dim < 2:
            raise ValueError(f"dim must be >= 2, a centered token of one coordinate is zero; got {dim}")
        self.projection = nn.Parameter(uniform(heads * head_dim, dim, fan_in=dim))
        self.share = nn.Parameter(torch.tensor(BEGIN))

    def curvature(self, weights: Tensor) -> Tensor:
        """Upper bound of ‖Σ wₖ UₖUₖᵀ‖₂ for weights wₖ ≥ 0, (..., K) to (...); a weight of zero has no slope."""
        roots = torch.where(weights > 0, weights, 1).sqrt() * (weights > 0)
        rows = self.projection * roots.repeat_interleave(self.head_dim, dim=-1)[..., None]  # (..., K p, d)
        gram = rows.mT @ rows if rows.shape[-2] >= rows.shape[-1] else rows @ rows.mT
        return bare_spectral_bound(gram, SQUARINGS, TORCH)

    def onto_spheres(self, Y: Tensor, Z: Tensor) -> Tensor:
        """Nearest points to Y among centered tokens with the norms of Z."""
        radius = torch.linalg.vector_norm(Z, dim=-1, keepdim=True)
        return bare_centered_sphere(Y, radius, TORCH)

    def length(self, Z: Tensor) -> Tensor:
        """Length of the gradient step."""
        raise NotImplementedError

    def descent(self, Z: Tensor, mask: Tensor | None = None) -> Descent:
        """The objective of the half before and after it."""
        raise NotImplementedError


class RateCompression(Descending):
    r"""Exact compression: a gradient step on the coding rate under subspaces, on the sphere of layer norm.

    .. math::

        Z^{\ell+1/2} = P\bigl(Z - \tfrac{a}{L} \nabla R^c(Z; U)\bigr), \qquad
        L = \Bigl\lVert \sum_k \beta_k U_k U_k^\top \Bigr\rVert_2,\quad \beta_k = \frac{p}{n \varepsilon_k^2}

    R^c(Z^{ℓ+1/2}; U) ≤ R^c(Z; U) for any bases, any ε_k and any a in (0, 1): ∇R^c is L-Lipschitz, and over tokens of
    fixed norms the quadratic bound at Z is least at the projected step. One projection, K Gram matrices of p × p, one
    product back: the cost is linear in the number of tokens.

    Args:
        dim: width d of a token, at least 2.
        heads: number K of subspaces.
        head_dim: dimension p of each.
        causal: refused, since every token moves by the Gram matrix of all.
        eps: initial distortion ε of every head; it is learned.

    Shapes:
        Centered tokens ``(..., n, dim)`` to tokens of the same norms; ``mask`` is ``(..., n)``, True at real tokens,
        and the others stay where they are.

    Raises:
        ValueError: ``causal`` is true, or a size below one.

    Source: theory 5, smoothness of R^c; [CRATE] (9)-(10) without the approximations that follow them.

    Example:
        >>> layer = RateCompression(dim=8, heads=2, head_dim=4)
        >>> Z = nn.functional.layer_norm(torch.randn(3, 5, 8), (8,))
        >>> found = layer.descent(Z)
        >>> bool((found.after <= found.before).all())
        True
    """

    def __init__(self, dim: int, heads: int, head_dim: int, *, causal: bool = False, eps: float = 1.0) -> None:
        if causal:
            raise ValueError("exact compression moves a token by the Gram matrix of all tokens; it has no causal form")
        super().__init__(dim, heads, head_dim)
        self.log_eps = nn.Parameter(torch.full((heads,), eps).log())

    def forward(self, Z: Tensor, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """Tokens after the half, only the first ``rows`` where that is a number."""
        return self._step(Z, mask, rows)[0]

    def _step(self, Z: Tensor, mask: Tensor | None, rows: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens after the half, its step κ = a/L and L, (...)."""
        eps = self.distortion(Z, mask)
        bound = self.curvature(bare_rate_scale(Z.shape[-2], self.head_dim, eps))
        step = within(self.share).sigmoid() / bound.clamp(min=torch.finfo(bound.dtype).tiny)
        _, grad = bare_subspace_coding_rate_value_and_grad(masked(Z, mask), self.U, eps, LOOSE, TORCH)
        Z = Z[..., :rows, :]
        return self.onto_spheres(Z - step[..., None, None] * grad[..., :rows, :], Z), step, bound

    def distortion(self, Z: Tensor, mask: Tensor | None) -> Tensor:
        """ε of every head, (K,); with a mask (..., K), scaled so that p/(n ε²) counts the real tokens only."""
        eps = within(self.log_eps).exp()
        if mask is None:
            return eps
        share = mask.sum(-1, keepdim=True).clamp(min=1) / Z.shape[-2]
        return eps * share.sqrt()

    def length(self, Z: Tensor) -> Tensor:
        """Length a/L of the step."""
        return self._step(Z, None, None)[1]

    def descent(self, Z: Tensor, mask: Tensor | None = None) -> Descent:
        """R^c(·; U) before and after the half, and the decrease (1/κ − L)/2 ‖ΔZ‖² that is guaranteed."""
        after, step, bound = self._step(Z, mask, None)
        eps, rounding = self.distortion(Z, mask), 64 * torch.finfo(Z.dtype).eps
        moved = (after - Z).square().sum((-2, -1))
        rate, fallen = (bare_subspace_coding_rate(masked(X, mask), self.U, eps, rounding, TORCH) for X in (Z, after))
        return Descent(rate, fallen, (1 / step - bound) / 2 * moved)


class EnergyAttention(Descending):
    r"""Softmax attention that descends an energy: keys frozen in the layer's input, on the sphere of layer norm.

    .. math::

        Z^{\ell+1/2} = P\bigl(Z - \min(1, \tfrac1L) \nabla E(Z; Y)\bigr), \quad
        E(Z; Y) = \sum_{k, i} \tfrac{\sigma_k}{s_k} \log \sum_j \exp(s_k \langle U_k^\top z_i, y_{kj} \rangle),
        \quad y_{kj} = \operatorname{rms}(W_k^\top z_j)

    E falls for any weights, with :math:`L = \lVert \sum_k \max(\sigma_k, 0)\, s_k\, p\, U_k U_k^\top \rVert_2`,
    since keys of norm at most √p bound the covariance inside a softmax. Heads with σ_k ≤ 0 are concave and cost
    nothing: the released sign, attention added, is the one that needs no step size. The keys are new in every layer;
    E says nothing across layers.

    Args:
        dim: width d of a token, at least 2.
        heads: number K of subspaces.
        head_dim: dimension p of each.
        causal: whether a token sees only those before it and itself; each token's energy is its own, so the guarantee
            carries over, as it does to masks.

    Shapes:
        Centered tokens ``(..., n, dim)`` to tokens of the same norms; ``mask`` is ``(..., n)``, True at real tokens.

    Raises:
        ValueError: a size below one.

    Source: [CRATE] (11)-(12) with keys held fixed; the bound is the largest covariance of keys of norm √p.

    Example:
        >>> layer = EnergyAttention(dim=8, heads=2, head_dim=4)
        >>> Z = nn.functional.layer_norm(torch.randn(3, 5, 8), (8,))
        >>> found = layer.descent(Z)
        >>> bool((found.after <= found.before).all())
        True
    """

    def __init__(self, dim: int, heads: int, head_dim: int, *, causal: bool = False) -> None:
        super().__init__(dim, heads, head_dim, causal=causal)
        del self.share  # a concave energy needs no share of a longest step
        self.keys = nn.Parameter(uniform(heads * head_dim, dim, fan_in=dim))
        self.sigma = nn.Parameter(-torch.ones(heads))
        self.log_scale = nn.Parameter(torch.full((heads,), head_dim**-0.5).log())

    def forward(self, Z: Tensor, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """Tokens after the half, only the first ``rows`` where that is a number."""
        return self._move(Z[..., :rows, :], self.coordinates(Z), self.seen(Z, mask, rows))

    def coordinates(self, Z: Tensor) -> Tensor:
        """Keys of every head, each of norm at most √p: (..., n, d) to (..., K, n, p)."""
        Y = bare_project(Z, self.keys.view(self.heads, self.head_dim, self.dim).mT, TORCH)
        return Y * torch.rsqrt(Y.square().mean(-1, keepdim=True) + torch.finfo(Y.dtype).eps)

    def _move(self, Z: Tensor, Y: Tensor, seen: Tensor | None) -> Tensor:
        grad = bare_softmax_energy_grad(Z, self.U, Y, self.sigma, within(self.log_scale).exp(), seen, TORCH)
        return self.onto_spheres(Z - grad / self._bound().clamp(min=1), Z)

    def length(self, Z: Tensor) -> Tensor:
        """Length min(1, 1/L) of the step."""
        return 1 / self._bound().clamp(min=1)

    def _bound(self) -> Tensor:
        return self.curvature(self.sigma.clamp(min=0) * within(self.log_scale).exp() * self.head_dim)

    def seen(self, Z: Tensor, mask: Tensor | None, rows: int | None) -> Tensor | None:
        """What the first ``rows`` tokens see: (..., 1, rows, n), or None for everything."""
        seen = None if mask is None else mask[..., None, None, :]  # (..., n) -> (..., 1, 1, n)
        if not self.causal:
            return seen
        below = not_after(0, Z.shape[-2] if rows is None else rows, Z, TORCH)
        return below if seen is None else below & seen

    def extend(self, Z: Tensor, past: Tensor | None = None, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens after the half for the newest of a causal sequence, and the keys of the whole of it.

        Args:
            Z: centered tokens (..., m, d) that follow those of ``past``.
            past: keys (..., K, t, p) of the tokens before, None at the start.
            mask: (..., t + m), True at real tokens; all are by default.

        Returns:
            Tokens (..., m, d) and keys (..., K, t + m, p).

        Raises:
            ValueError: the layer is not causal.
        """
        if not self.causal:
            return super().extend(Z, past, mask)
        Y = self.coordinates(Z)
        Y = Y if past is None else torch.cat((past, Y), dim=-2)
        n = Y.shape[-2]
        below = not_after(n - Z.shape[-2], n, Y, TORCH)
        seen = None if mask is None else mask[..., None, None, :]
        return self._move(Z, Y, below if seen is None else below & seen), Y

    def descent(self, Z: Tensor, mask: Tensor | None = None) -> Descent:
        """E(·; Y) before and after the half, and the decrease (1 − κL)/(2κ) ‖ΔZ‖² that is guaranteed."""
        Y, seen = self.coordinates(Z), self.seen(Z, mask, None)
        after, bound = self._move(Z, Y, seen), self._bound()
        seen = None if seen is None else seen.squeeze(-3) if seen.ndim > 2 else seen
        scales = within(self.log_scale).exp()
        energy, fallen = (softmax_energy(X, self.U, Y, self.sigma, scales, mask=seen) for X in (Z, after))
        moved = (after - Z).square().sum((-2, -1))
        return Descent(energy, fallen, (bound.clamp(min=1) - bound) / 2 * moved)

    def attention_map(self, Z: Tensor) -> Tensor:
        """Weights that tokens give to the keys: (..., K, n, n)."""
        V = bare_project(Z, self.U, TORCH) * within(self.log_scale).exp()[:, None, None]
        return softmax_weights(V, self.coordinates(Z), 1.0, self.seen(Z, None, None), TORCH)


class FeasibleISTA(nn.Module):
    r"""Sparse coding that descends: proximal steps from the feasible start ReLU(X), of a length the dictionary allows.

    .. math::

        A_0 = \mathrm{ReLU}(X), \qquad
        A_{t+1} = \mathrm{ReLU}\bigl(A_t - \eta\,((A_t D^\top - X) D + \lambda)\bigr), \qquad
        \eta = \frac{a}{\lVert D \rVert_2^2}

    ½‖X − A Dᵀ‖² + λ‖A‖₁ over A ≥ 0 falls from A₀ to the codes returned, for any D and any a in (0, 1). ‖D‖₂² stands
    for the upper bound of :func:`srr.ops.spectral_bound`.

    Args:
        dim: width d of a token; D is d × d.
        step: not used: the length of a step is a learned share of the longest that is proved to descend.
        lam: λ ≥ 0.
        steps: T ≥ 1 proximal steps with the same dictionary.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``, non-negative.

    Source: [CRATE] (17) from a feasible point; theory 15.

    Example:
        >>> layer = FeasibleISTA(dim=8)
        >>> found = layer.descent(torch.randn(3, 5, 8))
        >>> bool((found.after <= found.before).all())
        True
    """

    def __init__(self, dim: int, *, step: float | None = None, lam: float = 0.1, steps: int = 1) -> None:
        super().__init__()
        check_count(dim, "dim")
        check_count(steps, "steps")
        self.lam, self.steps = check_nonnegative(lam, "lam"), steps
        self.D = nn.Parameter(torch.empty(dim, dim))
        nn.init.kaiming_uniform_(self.D)
        self.share = nn.Parameter(torch.tensor(BEGIN))

    def forward(self, X: Tensor) -> Tensor:
        """Sparse codes of the tokens."""
        step, A = self.length(), X.relu()
        for _ in range(self.steps):
            A = bare_ista_step(A, X, self.D, step, self.lam, True, TORCH)
        return A

    def length(self) -> Tensor:
        """Length η = a/‖D‖₂² of a step."""
        return within(self.share).sigmoid() / self._bound()

    def _bound(self) -> Tensor:
        """Upper bound of ‖D‖₂², at least the smallest positive number."""
        gram = self.D.mT @ self.D
        return bare_spectral_bound(gram, SQUARINGS, TORCH).clamp(min=torch.finfo(gram.dtype).tiny)

    def descent(self, X: Tensor) -> Descent:
        """½‖X − A Dᵀ‖² + λ‖A‖₁ before and after the half, and the decrease (1/η − L/2) ‖ΔA‖² of its first step."""
        first, last, bound = X.relu(), self(X), self._bound()
        step = within(self.share).sigmoid() / bound
        moved = (bare_ista_step(first, X, self.D, step, self.lam, True, TORCH) - first).square().sum((-2, -1))
        before, after = (bare_lasso(A, X, self.D, self.lam, TORCH) for A in (first, last))
        return Descent(before, after, (1 / step - bound / 2) * moved)

    def extra_repr(self) -> str:
        """Sizes shown by ``print(layer)``."""
        return f"dim={self.D.shape[0]}, lam={self.lam}, steps={self.steps}"


def within(logarithm: Tensor) -> Tensor:
    """A logarithm kept in [−10, 10], so that nothing overflows whatever the weights."""
    return logarithm.clamp(-10, 10)


def masked(Z: Tensor, mask: Tensor | None) -> Tensor:
    """Tokens with those outside the mask at zero, where they add nothing to a Gram matrix."""
    return Z if mask is None else Z * mask[..., None].to(Z.dtype)
