"""What the two halves of a layer are steps on, and whether descent is proved: the words of the table of variants."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["HalfObjective"]


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
FROM_ZERO = HalfObjective(
    "Z⁺ = ReLU(η (X D − λ)), X = LN Z½",
    CODE,
    "a proximal step of length η < 1/‖D‖₂² from A = 0: one product, and no token passes by itself",
    "always",
)
NOTHING = HalfObjective("Z⁺ = Z½", None, "there is no second half")
