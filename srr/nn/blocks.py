"""One layer of the family, and the table of its variants: a compressing half-step, then a sparsifying half-step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from srr.nn.alternatives import CBSA, TSSA, OvercompleteISTA, Perceptron, ProxMM
from srr.nn.descent import Descending, Descent, EnergyAttention, FeasibleISTA, RateCompression
from srr.nn.layers import ISTA, MSSA, TORCH
from srr.ops.rates import bare_subspace_coding_rate
from srr.ops.sparse import bare_lasso

__all__ = ["BLOCKS", "Block", "HalfObjective", "Variant", "keep_orthonormal"]


class HalfObjective(NamedTuple):
    """What one half of a layer does, and what it is a step on.

    Args:
        formula: the half in one line; LN is layer norm.
        function: the function of the tokens that it is a step on, None when there is none.
        note: what separates it from a step that descends, or what is proved.
        descends: the condition under which it is proved not to raise that function, None when nothing is proved.
    """

    formula: str
    function: str | None
    note: str
    descends: str | None = None


@dataclass(frozen=True)
class Variant:
    """One row of :data:`BLOCKS`: how a layer is put together and what its halves are steps on.

    Args:
        attention: makes the compressing half from ``(dim, heads, head_dim, causal=...)``.
        sparsifier: makes the other half from ``(dim, step=..., lam=...)``; None leaves the tokens as they are.
        source: where the layer is published.
        compresses: what the first half is a step on.
        sparsifies: what the second half is a step on.
        sign: the tokens move by sign times what attention returns.
        residual: whether the tokens are added to what the sparsifier returns.
        moves: whether the first half returns the tokens themselves, moved on the sphere of a plain layer norm, and not
            what is added to them.
    """

    attention: Callable[..., MSSA | Descending]
    sparsifier: Callable[..., nn.Module] | None
    source: str
    compresses: HalfObjective
    sparsifies: HalfObjective
    sign: int = 1
    residual: bool = False
    moves: bool = False


RATE, CODE = "R^c(Z; U)", "½‖Z − A Dᵀ‖² + λ‖A‖₁, A ≥ 0"
FREE = HalfObjective(
    "Z½ = Z + Σ softmax(p^-½ V Vᵀ) V Oᵀ + b, V = LN(Z) U",
    RATE,
    "the softmax stands in for the gradient, without (1 − κβ) in front of Z, and O is free",
)
TIED = HalfObjective(
    "Z½ = Z + Σ softmax(p^-½ V Vᵀ) V Uᵀ",
    RATE,
    "the softmax stands in for the gradient; measured, R^c of raw tokens may rise, of unit tokens it falls",
)
NEGATED = HalfObjective(
    "Z½ = Z − Σ softmax(p^-½ V Vᵀ) V Uᵀ",
    RATE,
    "the sign that lowers R^c of raw tokens, by measurement; with a free O it would be absorbed",
)
TRANSPOSED = HalfObjective(
    "Z½ = Z + [softmax(p^-½ V Vᵀ) V]₁…ₖ [U₁ … Uₖ]", None, "the parameters of CRATE-C, off its direction"
)
STRICT = HalfObjective("Z½ = Z + Σ softmax(V Vᵀ) V Uᵀ", RATE, "(10) with κβ = 1 in front of attention, 1 of Z")
DENOISE = HalfObjective(FREE.formula, None, "a step that denoises a mixture of subspaces; its theorem has a threshold")
STATISTICS = HalfObjective(
    "Z½ = Z + TSSA(LN Z)",
    "the variational bound on R^c(Z | Π)",
    "a gradient step of free length without 1/n; O and biases are free",
)
CONTRACT = HalfObjective("Z½ = Z + CBSA(LN Z)", "R^c of the representatives", "tokens take their share of its motion")
SPARSE = HalfObjective(
    "Z⁺ = ReLU(A + η (A − A Dᵀ) D − ηλ), A = LN Z½", CODE, "one proximal step, from A = Z, which need not be feasible"
)
MAJORIZE = HalfObjective(
    "Z⁺ = ReLU((1 + 4/(9(1 + α))) LN(Z½) D − 4λ/(9α))",
    "λ‖A‖₁ − R(A), A ≥ 0",
    "a majorizer whose gradient is taken as if ZᵀZ = I",
)
TWO_STEPS = HalfObjective(
    "Z⁺ = Z½ + A₂ D₁ᵀ", CODE, "two proximal steps of the codes from the feasible A = 0; D₁ decodes them", "η ≤ 1/‖D‖₂²"
)
PERCEPTRON = HalfObjective("Z⁺ = Z½ + MLP(LN Z½)", None, "an ordinary perceptron")
COMPRESS = HalfObjective(
    "Z½ = P(H − a/L ∇R^c(H; U)), H = LN Z",
    "R^c(Z; U) with a learned ε per head",
    "a < 1 and L = ‖Σ βₖ UₖUₖᵀ‖₂ bounds the curvature, whatever the weights",
    "always, on the sphere of layer norm",
)
ATTEND = HalfObjective(
    "Z½ = P(H − min(1, 1/L) ∇E(H; Y)), H = LN Z, yₖⱼ = rms(Wₖᵀ hⱼ)",
    "E = Σ σₖ/sₖ log Σ exp(sₖ ⟨Uₖᵀz, yₖⱼ⟩), keys Y frozen",
    "L = ‖Σ max(σₖ, 0) sₖ p UₖUₖᵀ‖₂; heads with σ ≤ 0 add attention and are concave",
    "always, on the sphere of layer norm",
)
FEASIBLE = HalfObjective(
    "Z⁺ = ReLU(A₀ − η ((A₀Dᵀ − X) D + λ)), A₀ = ReLU(X), X = LN Z½",
    CODE,
    "a proximal step of length η < 1/‖D‖₂² from a feasible point",
    "always",
)
NOTHING = HalfObjective("Z⁺ = Z½", None, "there is no second half")

tied, transposed, frozen = (partial(MSSA, **{how: True}) for how in ("tied", "transposed", "frozen"))

BLOCKS: dict[str, Variant] = {
    "crate": Variant(MSSA, ISTA, "[CRATE] (17)-(18)", FREE, SPARSE),
    "crate_c": Variant(tied, ISTA, "CRATE-C of [INDEPTH]", TIED, SPARSE),
    "crate_n": Variant(tied, ISTA, "CRATE-N of [INDEPTH]", NEGATED, SPARSE, sign=-1),
    "crate_t": Variant(transposed, ISTA, "CRATE-T of [INDEPTH]", TRANSPOSED, SPARSE),
    "crate_fix": Variant(frozen, ISTA, "CRATE-Fix of [INDEPTH]: U is never trained", FREE, SPARSE),
    "crate_strict": Variant(partial(MSSA, tied=True, scale=1.0), ISTA, "[CRATE] (11)-(12) in (18)", STRICT, SPARSE),
    "crate_prox_mm": Variant(MSSA, ProxMM, "[CRATE] appendix A.3, (92)", FREE, MAJORIZE),
    "alpha": Variant(partial(MSSA, bias=False), OvercompleteISTA, "[ALPHA]", FREE, TWO_STEPS, residual=True),
    "attention_only": Variant(MSSA, None, "[AOT]", DENOISE, NOTHING),
    "tssa": Variant(TSSA, ISTA, "[TOST] for the first half, [CRATE] (17) for the second", STATISTICS, SPARSE),
    "tost": Variant(TSSA, Perceptron, "[TOST]", STATISTICS, PERCEPTRON, residual=True),
    "crate_descent": Variant(
        RateCompression, FeasibleISTA, "[CRATE] (9) and (17), exact", COMPRESS, FEASIBLE, moves=True
    ),
    "crate_energy": Variant(
        EnergyAttention,
        FeasibleISTA,
        "[CRATE] (11) with frozen keys, (17)",
        ATTEND,
        FEASIBLE,
        moves=True,
    ),
    "cbsa": Variant(CBSA, ISTA, "[CBSA] for the first half, [CRATE] (17) for the second", CONTRACT, SPARSE),
}
"""Kinds of layers, by the name a config gives them."""


class Block(nn.Module):
    r"""One layer: compress against the subspaces, then sparsify in the dictionary.

    .. math::

        Z^{\ell+1/2} = Z^\ell \pm \mathrm{attention}(\mathrm{LN}\, Z^\ell), \qquad
        Z^{\ell+1} = [Z^{\ell+1/2} +]\ \mathrm{sparsifier}(\mathrm{LN}\, Z^{\ell+1/2})

    The sign, the residual in brackets and the two halves are those of the variant; ``objective`` says what they are
    steps on.

    Args:
        variant: a name in :data:`srr.nn.BLOCKS`, or a row of one's own.
        dim: width d of a token.
        heads: number K of subspaces.
        head_dim: dimension p of each.
        step: step η of the sparsifying half.
        lam: sparsity weight λ.
        norm_eps: variance floor of the layer norms.
        causal: whether a token sees only those before it and itself.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``; ``mask`` is ``(..., n)``, True at real tokens.

    Raises:
        ValueError: an unknown variant, or a size that does not fit it.

    Source: [CRATE] (18) and (17).

    Example:
        >>> import torch
        >>> block = Block("crate", dim=8, heads=2, head_dim=4)
        >>> block(torch.zeros(3, 5, 8)).shape, block.objective["compress"].function
        (torch.Size([3, 5, 8]), 'R^c(Z; U)')
    """

    def __init__(
        self,
        variant: str | Variant,
        dim: int,
        heads: int,
        head_dim: int,
        *,
        step: float = 0.1,
        lam: float = 0.1,
        norm_eps: float = 1e-5,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(variant, str):
            if variant not in BLOCKS:
                raise ValueError(f"block must be one of {sorted(BLOCKS)}; got {variant!r}")
            variant = BLOCKS[variant]
        self.variant = variant
        self.attention_norm = nn.LayerNorm(dim, eps=norm_eps, elementwise_affine=not variant.moves)
        self.attention = self.variant.attention(dim, heads, head_dim, causal=causal)
        self.dictionary: nn.Module | None = None
        if self.variant.sparsifier is not None:
            self.dictionary_norm = nn.LayerNorm(dim, eps=norm_eps)
            self.dictionary = self.variant.sparsifier(dim, step=step, lam=lam)

    @property
    def objective(self) -> dict[str, HalfObjective]:
        """What ``compress`` and ``sparsify`` are steps on, and whether descent is proved."""
        return {"compress": self.variant.compresses, "sparsify": self.variant.sparsifies}

    def forward(self, Z: Tensor, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """Both halves; only the first ``rows`` tokens after the layer where that is a number."""
        return self.sparsify(self.compress(Z, mask, rows))

    def compress(self, Z: Tensor, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """First half: Z^{ℓ+1/2}."""
        attended: Tensor = self.attention(self.attention_norm(Z), mask, rows)
        return self._moved(Z[..., :rows, :], attended)

    def _moved(self, Z: Tensor, attended: Tensor) -> Tensor:
        if self.variant.moves:
            return attended
        return Z + attended if self.variant.sign > 0 else Z - attended

    def sparsify(self, Z: Tensor) -> Tensor:
        """Second half: Z^{ℓ+1} from Z^{ℓ+1/2}."""
        if self.dictionary is None:
            return Z
        codes: Tensor = self.dictionary(self.dictionary_norm(Z))
        return Z + codes if self.variant.residual else codes

    def descents(self, Z: Tensor, mask: Tensor | None = None) -> dict[str, Descent | None]:
        """What each half did to the objective it provably descends; None where nothing is proved.

        Args:
            Z: tokens (..., n, d) before the layer.
            mask: (..., n), True at real tokens.

        Returns:
            ``compress`` and ``sparsify``, with one number an item of the batch.
        """
        first, second = self.attention, self.dictionary
        compressed = first.descent(self.attention_norm(Z), mask) if isinstance(first, Descending) else None
        coded = None
        if isinstance(second, FeasibleISTA):
            coded = second.descent(self.dictionary_norm(self.compress(Z, mask)))
        return {"compress": compressed, "sparsify": coded}

    def derived(self, half: str, Z: Tensor, eps: float) -> Descent | None:
        """The objective that a half is derived from, before and after it, where nothing is proved; None without one."""
        moved = self.compress(Z)
        if half == "compress" and self.variant.compresses.function == RATE:
            tight = 64 * torch.finfo(Z.dtype).eps
            rate, raised = (bare_subspace_coding_rate(X, self.attention.U, eps, tight, TORCH) for X in (Z, moved))
            return Descent(rate, raised, torch.zeros_like(rate))
        if half == "sparsify" and isinstance(self.dictionary, ISTA):
            coder = self.dictionary
            X: Tensor = self.dictionary_norm(moved)
            before, after = (bare_lasso(A, X, coder.D, coder.lam, TORCH) for A in (X, coder.forward(X)))
            return Descent(before, after, torch.zeros_like(before))
        return None

    def extend(self, Z: Tensor, past: Tensor | None = None, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Both halves for the newest tokens of a causal sequence, and all coordinates; see :meth:`MSSA.extend`."""
        attended, coordinates = self.attention.extend(self.attention_norm(Z), past, mask)
        return self.sparsify(self._moved(Z, attended)), coordinates


def keep_orthonormal(block: nn.Module) -> nn.Module:
    """Keep the bases of all heads of a layer orthonormal and orthogonal to each other during training.

    Args:
        block: a layer whose ``attention.projection`` is a parameter with heads·head_dim ≤ dim.

    Returns:
        The same layer, its projection parametrized on the Stiefel manifold.

    Raises:
        ValueError: the bases do not fit in the token space.

    Example:
        >>> import torch
        >>> U = keep_orthonormal(Block("crate", dim=8, heads=2, head_dim=4)).attention.projection
        >>> torch.allclose(U @ U.T, torch.eye(8), atol=1e-5)
        True
    """
    attention = block.get_submodule("attention")
    projection = attention.projection
    if not isinstance(projection, nn.Parameter):
        return block  # fixed bases stay as they are
    rows, columns = projection.shape
    if rows > columns:
        raise ValueError(f"orthonormal bases need heads * head_dim <= dim; got {rows} and {columns}")
    parametrizations.orthogonal(attention, "projection")
    return block
