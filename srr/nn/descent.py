"""Halves of a layer that provably lower what they are steps on, for any weights.

Tokens live on the sphere of layer norm. A gradient step of at most 1/L followed by the projection onto that sphere
never raises a function whose gradient is L-Lipschitz; L is an upper bound that the weights give in closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from srr._array.checks import check_count, check_nonnegative
from srr._array.derivatives import gram_factor
from srr._array.linalg import bare_gram, has_cholesky, inverse_of_factor, sure_cholesky, trusted_cholesky
from srr._array.namespace import is_readable
from srr.nn.kept import Kept, irregular
from srr.nn.layers import TORCH, Heads, add_product, column_gram, uniform
from srr.ops.attention import not_after, softmax_weights
from srr.ops.energies import bare_softmax_energy_grad, bare_spectral_bound, softmax_energy
from srr.ops.rates import bare_rate_scale, bare_subspace_coding_rate
from srr.ops.sparse import bare_ista_step, bare_lasso
from srr.ops.subspaces import bare_project, merge_heads, split_heads

__all__ = ["Descent", "EnergyAttention", "FeasibleISTA", "RateCompression"]

BEGIN = 3.0  # sigmoid(3) = 0.95: the share of the longest provable step that a new layer takes
MARGIN = 0.03  # by which the bound of a norm lies above what a few powers of the matrix find
POWERS, COLUMNS = 6, 16  # of the block Krylov space in which the norm is looked for
SQUARINGS = 3  # of the matrix, where the margin was too small: within d^(1/16) of the norm
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
        self.kept: Kept[Tensor] = Kept()

    def curvature(self, weights: Tensor) -> Tensor:
        """Upper bound of ‖Σ wₖ UₖUₖᵀ‖₂ for weights wₖ ≥ 0, (K,); a weight of zero has no slope."""
        roots = torch.where(weights > 0, weights, 1).sqrt() * (weights > 0)
        return norm_bound(self.projection * roots.repeat_interleave(self.head_dim)[:, None])  # (K p, d)

    def onto_spheres(self, Y: Tensor, Z: Tensor) -> Tensor:
        """Nearest points to Y among centered tokens with the norms of Z, by the kernel of layer norm.

        A variance near the smallest positive number leaves a token inside its sphere, where the quadratic bound that
        a step rests on is lower still.
        """
        radius = torch.linalg.vector_norm(Z, dim=-1, keepdim=True) * self.dim**-0.5
        return nn.functional.layer_norm(Y, (self.dim,), eps=torch.finfo(Y.dtype).tiny) * radius

    def train(self, mode: bool = True) -> Self:
        """Set the mode; what was kept is dropped where the mode changes."""
        if mode != self.training:
            self.kept = Kept()
        return super().train(mode)

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
        steps: T ≥ 1 exact steps with the same bases and one bound; each of them descends.

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

    def __init__(
        self, dim: int, heads: int, head_dim: int, *, causal: bool = False, eps: float = 1.0, steps: int = 1
    ) -> None:
        if causal:
            raise ValueError("exact compression moves a token by the Gram matrix of all tokens; it has no causal form")
        super().__init__(dim, heads, head_dim)
        check_count(steps, "steps")
        self.steps = steps
        self.log_eps = nn.Parameter(torch.full((heads,), eps).log())

    def forward(self, Z: Tensor, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """Tokens after the half, only the first ``rows`` where that is a number."""
        return self._step(Z, mask, rows)[0]

    def _step(self, Z: Tensor, mask: Tensor | None, rows: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens after the half, its step κ = a/L and L, (...)."""
        scale, bound = self._scale(Z, mask)
        step = within(self.share).sigmoid() / bound
        for left in reversed(range(self.steps)):
            Z = self._moved(Z, mask, scale, step, None if left else rows)
        return Z, step, bound

    def _moved(self, Z: Tensor, mask: Tensor | None, scale: Tensor, step: Tensor, rows: int | None) -> Tensor:
        """The first rows of the tokens, all when None, after one step of length κ."""
        wide = Z @ self.projection.mT  # (..., n, d) -> (..., n, K p)
        V = split_heads(masked(wide, mask), self.heads, self.head_dim, TORCH)  # (..., K, n, p)
        factor = -(step[..., None] * scale)[..., None, None] * resolvent(V, scale)  # (..., K, p, p)
        move = merge_heads(V[..., :rows, :] @ factor, TORCH)  # (..., K, rows, p) -> (..., rows, K p)
        Z = Z[..., :rows, :]
        return self.onto_spheres(add_product(Z, move, self.projection), Z)

    def _scale(self, Z: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """βₖ = p/(n εₖ²), (..., K), and the bound of ‖Σ βₖ UₖUₖᵀ‖₂, (...): fewer real tokens scale both alike."""
        scale = bare_rate_scale(Z.shape[-2], self.head_dim, within(self.log_eps).exp())
        unit = bare_rate_scale(1, self.head_dim, within(self.log_eps).exp())  # kept for any number of tokens
        bound = self.kept(lambda: self.curvature(unit.detach()), self.projection, self.log_eps, training=self.training)
        bound = self.curvature(unit) if bound is None else bound
        bound = bound.clamp(min=torch.finfo(bound.dtype).tiny) / Z.shape[-2]
        if mask is None:
            return scale, bound
        real = Z.shape[-2] / mask.sum(-1).clamp(min=1).to(scale.dtype)  # (...)
        return scale * real[..., None], bound * real

    def distortion(self, Z: Tensor, mask: Tensor | None) -> Tensor:
        """ε of every head, (K,); with a mask (..., K), scaled so that p/(n ε²) counts the real tokens only."""
        eps = within(self.log_eps).exp()
        if mask is None:
            return eps
        share = mask.sum(-1, keepdim=True).clamp(min=1).to(eps.dtype) / Z.shape[-2]
        return eps * share.sqrt()

    def length(self, Z: Tensor) -> Tensor:
        """Length a/L of the step."""
        return self._step(Z, None, None)[1]

    def descent(self, Z: Tensor, mask: Tensor | None = None) -> Descent:
        """R^c(·; U) before and after the half, and the decrease (1/κ − L)/2 Σ ‖ΔZ‖² that its steps guarantee."""
        scale, bound = self._scale(Z, mask)
        step = within(self.share).sigmoid() / bound
        after, moved = Z, torch.zeros_like(bound)
        for _ in range(self.steps):
            last, after = after, self._moved(after, mask, scale, step, None)
            moved = moved + (after - last).square().sum((-2, -1))
        eps, rounding = self.distortion(Z, mask), 64 * torch.finfo(Z.dtype).eps
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
    r"""Sparse coding that descends: proximal steps from a feasible start, of a length the dictionary allows.

    .. math::

        A_0 = \mathrm{ReLU}(X) \text{ or } 0, \qquad
        A_{t+1} = \mathrm{ReLU}\bigl(A_t - \eta\,((A_t D^\top - X) D + \lambda)\bigr), \qquad
        \eta = \frac{a}{\lVert D \rVert_2^2}

    ½‖X − A Dᵀ‖² + λ‖A‖₁ over A ≥ 0 falls from A₀ to the codes returned, for any D and any a in (0, 1). ‖D‖₂² stands
    for an upper bound about three percent above it. From zero the first step is one product, ReLU(η (X D − λ)), where
    it is two from ReLU(X); but then no token passes the half by itself.

    Args:
        dim: width d of a token; D is d × d.
        step: not used: the length of a step is a learned share of the longest that is proved to descend.
        lam: λ ≥ 0.
        steps: T ≥ 1 proximal steps with the same dictionary.
        start: ``"positive"`` for ReLU(X), ``"zero"`` for zero codes, where D begins orthogonal.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``, non-negative.

    Source: [CRATE] (17) from a feasible point; theory 15.

    Example:
        >>> layer = FeasibleISTA(dim=8)
        >>> found = layer.descent(torch.randn(3, 5, 8))
        >>> bool((found.after <= found.before).all())
        True
    """

    def __init__(
        self, dim: int, *, step: float | None = None, lam: float = 0.1, steps: int = 1, start: str = "positive"
    ) -> None:
        super().__init__()
        check_count(dim, "dim")
        check_count(steps, "steps")
        if start not in ("positive", "zero"):
            raise ValueError(f'start must be "positive" or "zero"; got {start!r}')
        self.lam, self.steps, self.start = check_nonnegative(lam, "lam"), steps, start
        self.D = nn.Parameter(torch.empty(dim, dim))
        if start == "zero":
            nn.init.orthogonal_(self.D)
        else:
            nn.init.kaiming_uniform_(self.D)
        self.share = nn.Parameter(torch.tensor(BEGIN))
        self.kept: Kept[Tensor] = Kept()

    def forward(self, X: Tensor) -> Tensor:
        """Sparse codes of the tokens."""
        step, A = self.length(), self.first(X)
        atoms, decode = step * self.D, -self.D.mT
        for taken in range(self.steps):
            at_zero = self.start == "zero" and taken == 0  # the gradient there is −X D
            moved = X @ atoms if at_zero else add_product(A, add_product(X, A, decode), atoms)
            A = moved.sub_(step * self.lam).relu_()
        return A

    def first(self, X: Tensor) -> Tensor:
        """Feasible codes to begin with."""
        return X.relu() if self.start == "positive" else torch.zeros_like(X)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; what was kept is dropped where the mode changes."""
        if mode != self.training:
            self.kept = Kept()
        return super().train(mode)

    def length(self) -> Tensor:
        """Length η = a/‖D‖₂² of a step."""
        return within(self.share).sigmoid() / self._bound()

    def _bound(self) -> Tensor:
        """Upper bound of ‖D‖₂², at least the smallest positive number."""
        kept = self.kept(lambda: norm_bound(self.D), self.D, training=self.training)
        bound = norm_bound(self.D) if kept is None else kept
        return bound.clamp(min=torch.finfo(bound.dtype).tiny)

    def descent(self, X: Tensor) -> Descent:
        """½‖X − A Dᵀ‖² + λ‖A‖₁ before and after the half, and the decrease (1/η − L/2) ‖ΔA‖² of its first step."""
        first, last, bound = self.first(X), self(X), self._bound()
        step = within(self.share).sigmoid() / bound
        moved = (bare_ista_step(first, X, self.D, step, self.lam, True, TORCH) - first).square().sum((-2, -1))
        before, after = (bare_lasso(A, X, self.D, self.lam, TORCH) for A in (first, last))
        return Descent(before, after, (1 / step - bound / 2) * moved)

    def extra_repr(self) -> str:
        """Sizes shown by ``print(layer)``."""
        return f"dim={self.D.shape[0]}, lam={self.lam}, steps={self.steps}, start={self.start!r}"


def norm_bound(rows: Tensor) -> Tensor:
    r"""Upper bound of ‖B‖₂² for B of shape (m, d), about three percent above it, for about one product of B with B.

    .. math:: c = (1 + 0.03)\,\lVert B v \rVert^2, \qquad c I - B B^\top = L L^\top

    v is the best unit vector of a block Krylov space. That c is a bound is then proved by the existence of a Cholesky
    factor; where there is none, the power mean of :func:`srr.ops.spectral_bound` takes over. Rounding of Gram matrix
    and factor is bounded a priori and added: m d unit roundoffs, 5 % for float32 at m = d = 936. The derivative is that
    of ‖Bv‖² at this v.
    """
    rows = rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
    with torch.autocast(rows.device.type, enabled=False):
        top = rows.detach().abs().amax()
        unit = rows / torch.where(top > 0, top, 1)
        B = unit if rows.shape[0] < rows.shape[1] else unit.mT  # wide
        with torch.no_grad():
            bound, v = _bound_and_vector(B)
        at = (v @ B).square().sum()  # ‖Bᵀv‖²
        ratio = bound / torch.where(at > 0, at, 1).detach()
        return top.square() * ratio * at


def _bound_and_vector(B: Tensor) -> tuple[Tensor, Tensor]:
    """A bound of ‖BBᵀ‖₂ and a unit vector that almost reaches it."""
    m, d = B.shape
    G = bare_gram(B.mT, TORCH)
    largest, v = _top_vector(G)
    bound = (1 + MARGIN) * largest
    trusted = has_cholesky(bound * torch.eye(m, dtype=B.dtype, device=B.device) - G)
    if not is_readable(G):
        bound = torch.where(trusted, bound, torch.linalg.matrix_norm(G))
    elif not trusted:
        bound = bare_spectral_bound(G, SQUARINGS, TORCH)
    rounding = m * (d + 16) * torch.finfo(B.dtype).eps / 2
    return bound * (1 + rounding), v


def _top_vector(G: Tensor) -> tuple[Tensor, Tensor]:
    """The largest Ritz value of a symmetric matrix in a block Krylov space, and its vector."""
    d = G.shape[-1]
    if d <= (POWERS + 1) * COLUMNS:
        values, vectors = torch.linalg.eigh(G)
        return values[-1], vectors[:, -1]
    space = [irregular(d, COLUMNS, G)]
    for _ in range(POWERS):
        X = G @ space[-1]
        space.append(X / X.abs().amax().clamp(min=torch.finfo(X.dtype).tiny))
    Q = torch.linalg.qr(torch.cat(space, dim=-1))[0]
    values, vectors = torch.linalg.eigh(Q.mT @ (G @ Q))
    return values[-1], Q @ vectors[:, -1]


def resolvent(V: Tensor, scale: Tensor) -> Tensor:
    """(I + βₖ VₖᵀVₖ)⁻¹ of every head, (..., K, n, p) to (..., K, p, p), in the precision of V.

    A network asks for a direction, not for digits: in float32 it costs two products of n × p × p, and three backward.
    Where its pivots say that it lost more than `LOOSE`, the operators' own factor takes over.
    """
    M = torch.eye(V.shape[-1], dtype=V.dtype, device=V.device) + scale[..., None, None] * column_gram(V)
    if not is_readable(V):
        return inverse_of_factor(sure_cholesky(M, TORCH), TORCH)
    factor = trusted_cholesky(M.detach(), LOOSE, TORCH)
    if factor is None:
        return gram_factor(V, scale.expand(V.shape[:-2]), rtol=LOOSE, xp=TORCH).inverse()
    return inverse_from_factor(M, factor[0])


class _Inverse(torch.autograd.Function):
    """M⁻¹ of symmetric M from its Cholesky factor, with the derivative −M⁻¹ G M⁻¹."""

    @staticmethod
    def forward(M: Tensor, L: Tensor) -> Tensor:
        return inverse_of_factor(L, TORCH)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor, None]:
        W: Tensor = ctx.saved_tensors[0]
        return -(W @ G @ W), None

    @staticmethod
    def jvp(ctx: Any, change: Tensor, _: None) -> Tensor:
        W: Tensor = ctx.saved_tensors[0]
        return -(W @ change @ W)


inverse_from_factor: Callable[[Tensor, Tensor], Tensor] = _Inverse.apply


def within(logarithm: Tensor) -> Tensor:
    """A logarithm kept in [−10, 10], so that nothing overflows whatever the weights."""
    return logarithm.clamp(-10, 10)


def masked(Z: Tensor, mask: Tensor | None) -> Tensor:
    """Tokens with those outside the mask at zero, where they add nothing to a Gram matrix."""
    return Z if mask is None else Z * mask[..., None].to(Z.dtype)
