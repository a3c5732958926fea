"""What proves the statements of the ledger: the reduction by hand in words, the rest decided by machine."""

from __future__ import annotations

from typing import Any

from sympy import Integer, Matrix, Rational, diff, log, oo, symbols, tanh

from srr import derive as d
from srr.theory.proof import Claim, Derived, Enclosed, Equal, Limit, Nonnegative, by_hand, proves

s, t, c, v, w, x, y, z, h = symbols("s t c v w x y z h", real=True)
kappa, alpha, beta, tau, K = symbols("kappa alpha beta tau K", positive=True)
ONE, LINE, RAY = {c: Integer(1)}, (-oo, oo), (0, oo)

# Matrices of any size; a transpose is a letter of its own.
Z, Zt, Q, Qt, U, D, Dt, G, R, A, B, P = symbols("Z Zt Q Qt U D Dt G R A B P", commutative=False)

# --- What several proofs share

DIAGONAL = by_hand(
    """Scale Z so that α = 1. With singular values σᵢ and f(σ) = ½ log(1 + σ²), R is Σ f(σᵢ), and ∇R has the singular
    vectors of Z and the singular values g(σᵢ), g = f′ = σ/(1 + σ²)."""
)
DIVIDED = by_hand(
    """The Hessian of such a sum has the eigenvalues g′(σᵢ), the divided differences (g(σᵢ) − g(±σⱼ))/(σᵢ ∓ σⱼ), and
    g(σᵢ)/σᵢ where Z is rectangular: all are values of the divided difference of the odd function g at two real numbers
    s and t, or its limit s = t."""
)
DESCENT = by_hand(
    """Descent lemma: with a Hessian of at most L along a segment a function lies below its tangent plus ½L‖ΔZ‖², with
    one of at least −l above its tangent minus ½l‖ΔZ‖²."""
)
HEADS = by_hand(
    """R^c(·; U) is the sum over heads of the rate of V_k = Z U_k with β for α. Along E a head's second derivative is at
    most β‖E U_k‖² = β⟨E U_kU_kᵀ, E⟩, the sum at most β‖Σ U_kU_kᵀ‖₂‖E‖², with equality at Z = 0."""
)
TANGENT = by_hand(
    """log det lies below its tangent planes: with the eigenvalues λ of A^(−½) B A^(−½), log det B − log det A −
    tr A⁻¹(B − A) = Σ (log λ − λ + 1). Write λ = 1 + x or λ = 1/(1 + x), x ≥ 0."""
)
JENSEN = by_hand("A function below its tangent planes is concave: Jensen's inequality holds for its averages.")
FISCHER = by_hand(
    """Fischer: take for A the diagonal blocks of B. A⁻¹(B − A) has a zero diagonal, so its trace is 0 and log det B ≤
    log det A; equality needs every λ = 1, that is B = A."""
)


def curvature() -> list[Claim]:
    """The Hessian of R within [−α/8, α], whatever the shape of Z."""
    both, g = (1 + s**2) * (1 + t**2), s / (1 + s**2)
    plane = {s: LINE, t: LINE}
    high = [(1, s + t / 2), (Rational(3, 4), t), (1, s * t)]
    low = [(1, s * t - 3), (1, s - t)]
    return [
        DIAGONAL,
        DIVIDED,
        Equal("the divided difference", (g - g.subs(s, t)) / (s - t), (1 - s * t) / both),
        Nonnegative("times (1 + s²)(1 + t²), at most α", c * both - (1 - s * t), plane, ONE, high),
        Nonnegative("times 8(1 + s²)(1 + t²), at least −α/8", c * both + 8 * (1 - s * t), plane, ONE, low),
    ]


def tangent() -> list[Claim]:
    """The logarithm below its tangent at one, on either side of it."""
    return [
        TANGENT,
        Nonnegative("log(1 + x) ≤ x", c * x - log(1 + x), {x: RAY}, ONE),
        Nonnegative("the same at 1/(1 + x)", c * log(1 + x) - x / (1 + x), {x: RAY}, ONE),
    ]


def threshold(*, signed: bool = True) -> list[Claim]:
    """The shrunk number costs least: ½(y − v)² + t|y| at y, less the same at the shrunk v."""
    quadrant = {w: RAY, t: RAY, y: RAY}
    best = t**2 / 2 + t * w
    claims: list[Claim] = [
        by_hand("By symmetry v ≥ 0. Where v = t + w with w ≥ 0 the shrunk number is w, at a cost of ½t² + tw."),
        Nonnegative("any y ≥ 0", c * ((y - t - w) ** 2 / 2 + t * y) - best, quadrant, ONE, [(Rational(1, 2), y - w)]),
        by_hand("Where v = t − w with w ≥ 0 it is 0, at a cost of ½v²."),
        Nonnegative("any y ≥ 0", c * (y**2 / 2 + t * y) - y * (t - w), quadrant, ONE),
    ]
    if signed:
        below = c * ((y + t + w) ** 2 / 2 + t * y) - best
        claims.insert(2, Nonnegative("any number −y ≤ 0", below, quadrant, ONE))
    return claims


# --- §1 and §2


@proves("smaller-side")
def smaller_side() -> list[Claim]:
    """One block matrix, two triangular factorizations."""
    block = Matrix([[1, -A], [B, 1]])
    return [
        by_hand("Put A = αZ, B = Zᵀ. A block-triangular matrix has the product of its diagonal blocks' determinants."),
        Equal("factored to the right", Matrix([[1, 0], [B, 1]]) * Matrix([[1, -A], [0, 1 + B * A]]), block),
        Equal("factored to the left", Matrix([[1 + A * B, -A], [0, 1]]) * Matrix([[1, 0], [B, 1]]), block),
    ]


_Z, _V = d.Matrix("Z", "n", "d"), d.Matrix("V", "n", "d")
_W, _PI = d.Vector("w", "n", positive=True), d.Matrix("Pi", "n", "K", positive=True)
_U, _Y = d.Family("U", "d", "p", over="K"), d.Family("Y", "n", "p", over="K")
_EPS, _A = d.Scalar("eps"), d.Scalar("alpha")
_N, _D, _P = d.size("n"), d.size("d"), d.size("p")


def _rate(weights: d.Expr | None = None) -> tuple[d.Expr, d.Expr]:
    """R of weighted tokens and α W Z (I + α ZᵀWZ)⁻¹."""
    WZ = _Z if weights is None else d.diag(weights) @ _Z
    scale = _D / ((_N if weights is None else d.total(weights)) * _EPS**2)
    gram = d.eye("d") + scale * _Z.T @ WZ
    return d.half * d.logdet(gram), scale * WZ @ d.inv(gram)


def _heads() -> tuple[d.Expr, d.Expr]:
    """R^c(Z; U) and β Σ V_k (I + β V_kᵀV_k)⁻¹ U_kᵀ."""
    scale, V = _P / (_N * _EPS**2), _Z @ _U["k"]
    gram = d.eye("p") + scale * V.T @ V
    return d.half * d.Sum("k", d.logdet(gram)), d.Sum("k", scale * V @ d.inv(gram) @ _U["k"].T)


def _parts() -> tuple[d.Expr, d.Expr]:
    """R^c(Z | Π) and Σ (tr Π_k/n) α_k Π_k Z (I + α_k ZᵀΠ_kZ)⁻¹."""
    (value, slope), share = _rate(_PI.column("k")), d.total(_PI.column("k")) / _N
    return d.Sum("k", share * value), d.Sum("k", share * slope)


@proves("rate-gradient")
def rate_gradient() -> list[Claim]:
    """With and without weights."""
    pairs = {"plain tokens": _rate(), "weighted tokens": _rate(_W)}
    return [Derived(words, d.grad(value, _Z), slope) for words, (value, slope) in pairs.items()]


@proves("redu-ridge")
def ridge() -> list[Claim]:
    """The normal equations, then the push-through identity."""
    outer = d.inv(d.eye("n") + _A * _Z @ _Z.T)
    residual = _A * (_Z - _A * _Z @ _Z.T @ outer @ _Z)
    return [
        by_hand("The normal equations (I + αZZᵀ)q = αZz give the rows q* of αZZᵀ(I + αZZᵀ)⁻¹."),
        Derived("the residual is the gradient", residual, _A * _Z @ d.inv(d.eye("d") + _A * _Z.T @ _Z)),
    ]


@proves("rate-gradient-norm")
def gradient_norm() -> list[Claim]:
    """One singular value."""
    return [
        DIAGONAL,
        Nonnegative("times 2(1 + σ²), g ≤ ½", c * (1 + s**2) - 2 * s, {s: LINE}, ONE, [(1, s - 1)]),
        by_hand("There are min(n, d) singular values; σ = 1 is σ = 1/√α before the scaling, where g = ½."),
    ]


@proves("crate-9")
def subspace_gradient() -> list[Claim]:
    """The chain rule, by machine."""
    value, slope = _heads()
    return [Derived("the gradient, for any number and size of heads", d.grad(value, _Z), slope)]


@proves("srr-gradient")
def srr_gradient() -> list[Claim]:
    """Both rates at once."""
    (value, slope), (parts, pull) = _rate(), _heads()
    return [Derived("the gradient of the difference", d.grad(value - parts, _Z), slope - pull)]


@proves("partition-gradient")
def partition_gradient() -> list[Claim]:
    """Any memberships."""
    value, slope = _parts()
    return [Derived("the gradient, for any number of classes", d.grad(value, _Z), slope)]


@proves("reduction-gradient")
def reduction_gradient() -> list[Claim]:
    """Both rates at once."""
    (value, slope), (parts, pull) = _rate(), _parts()
    return [Derived("the gradient of the difference", d.grad(value - parts, _Z), slope - pull)]


@proves("redu-operators")
def redunet() -> list[Claim]:
    """The increment is the gradient of ΔR; E and C_k are definitions."""
    (value, _), (parts, _) = _rate(), _parts()
    weights = _PI.column("k")
    whole, own = _D / (_N * _EPS**2), _D / (d.total(weights) * _EPS**2)
    E = whole * d.inv(d.eye("d") + whole * _Z.T @ _Z)
    C = own * d.inv(d.eye("d") + own * _Z.T @ d.diag(weights) @ _Z)
    increment = _Z @ E - d.Sum("k", d.total(weights) / _N * d.diag(weights) @ _Z @ C)
    return [Derived("the increment", d.grad(value - parts, _Z), increment)]


@proves("rate-hessian")
def hessians() -> list[Claim]:
    """Differentials of the gradients."""
    M = d.inv(d.eye("d") + _A * _Z.T @ _Z)
    whole = _A * _V @ M - _A**2 * _Z @ M @ (_V.T @ _Z + _Z.T @ _V) @ M
    rate = d.half * d.logdet(d.eye("d") + _A * _Z.T @ _Z)
    Y, X, U_k = _Z @ _U["k"], _V @ _U["k"], _U["k"]
    M = d.inv(d.eye("p") + _A * Y.T @ Y)
    heads = d.half * d.Sum("k", d.logdet(d.eye("p") + _A * Y.T @ Y))
    parts = d.Sum("k", (_A * X @ M - _A**2 * Y @ M @ (X.T @ Y + Y.T @ X) @ M) @ U_k.T)
    return [
        Derived("of R along V", d.hessian_product(rate, _Z, "V"), whole),
        Derived("of R^c along V", d.hessian_product(heads, _Z, "V"), parts),
    ]


@proves("rate-curvature", "rate-majorizer")
def rate_curvature() -> list[Claim]:
    """Curvature, and Taylor's theorem with it."""
    return [*curvature(), DESCENT]


@proves("rate-curvature-sharp", "crate-lemma-6")
def rate_curvature_sharp() -> list[Claim]:
    """Both ends are values."""
    slope = (1 - x) / (1 + x) ** 2
    return [
        *curvature(),
        by_hand("One singular value σ with x = ασ² has the curvature α(1 − x)/(1 + x)² along itself."),
        Equal("α at Z = 0", slope.subs(x, 0), Integer(1)),
        Equal("−α/8 where ασ² = 3", slope.subs(x, 3), Rational(-1, 8)),
    ]


@proves("rate-step")
def rate_step() -> list[Claim]:
    """One step down as a scalar inequality; the step up by the lower end of the spectrum."""
    return [
        *curvature(),
        by_hand(
            """A step along the gradient keeps the singular vectors: one inequality a singular value, log(1 + σ²) −
            log(1 + (σ − g)²) ≥ g². Put t = σ²/(1 + σ²) in [0, 1)."""
        ),
        Equal("(1 + (σ − g)²)/(1 + σ²)", (1 - t) * (1 + t / (1 - t) * t**2), 1 - t + t**3),
        Equal("g²", t / (1 - t) * (1 - t) ** 2, t * (1 - t)),
        Nonnegative("it falls by g² at least", -c * log(1 - t + t**3) - t * (1 - t), {t: (0, 1)}, ONE),
        DESCENT,
    ]


@proves("subspace-curvature")
def subspace_curvature() -> list[Claim]:
    """One head, then the sum."""
    return [*curvature(), HEADS]


@proves("srr-curvature")
def srr_curvature() -> list[Claim]:
    """The largest eigenvalue of a sum."""
    return [*curvature(), HEADS, by_hand("λ_max(A + B) ≤ λ_max(A) + λ_max(B), for the Hessians of R^c and −R.")]


@proves("compression-descent")
def compression_descent() -> list[Claim]:
    """Taylor with L_c."""
    return [
        *curvature(),
        HEADS,
        DESCENT,
        by_hand("At Z − κ∇ the bound is R^c − κ(1 − ½κL)‖∇‖². Put x = κL in [0, 1]."),
        Nonnegative("1 − x/2 is at least ½", c * (1 - x / 2) - Rational(1, 2), {x: (0, 1)}, ONE),
    ]


@proves("srr-descent")
def srr_descent() -> list[Claim]:
    """Majorize, minimize."""
    return [
        *curvature(),
        HEADS,
        DESCENT,
        by_hand(
            """The proximal step minimizes m(Y), the smooth part of −F linearized at Z plus ½L‖Y − Z‖² + λ‖Y‖₁. It lies
            above −F and touches it at Z: −F(Z⁺) ≤ m(Z⁺) ≤ m(Z) = −F(Z)."""
        ),
        *threshold(),
    ]


@proves("rate-bound")
def rate_bound() -> list[Claim]:
    """Jensen on the eigenvalues."""
    return [*tangent(), JENSEN, by_hand("Average the r eigenvalues of αZᵀZ that can differ from zero.")]


@proves("rate-subadditive")
def rate_subadditive() -> list[Claim]:
    """Fischer on the larger side."""
    return [*smaller_side(), *tangent(), FISCHER]


@proves("rate-orthogonal-blocks")
def orthogonal_blocks() -> list[Claim]:
    """Fischer's case of equality."""
    return [
        *rate_subadditive(),
        by_hand("Both scalar inequalities are strict for x > 0: their slopes x/(1 + x) and x/(1 + x)² are positive."),
        Equal("slope of the first", diff(x - log(1 + x), x), x / (1 + x)),
        Equal("slope of the second", diff(log(1 + x) - x / (1 + x), x), x / (1 + x) ** 2),
    ]


@proves("rate-jensen")
def rate_jensen() -> list[Claim]:
    """Concavity."""
    return [*tangent(), JENSEN, by_hand("With equal sizes I + αZᵀZ is the mean of the I + α_iZ_iᵀZ_i.")]


@proves("reduction-nonnegative")
def reduction_nonnegative() -> list[Claim]:
    """Concavity with the classes' shares as weights."""
    return [
        *tangent(),
        JENSEN,
        by_hand("With weights tr Π_k/n, which sum to one, I + αZᵀZ is the mean of the I + α_kZᵀΠ_kZ."),
    ]


@proves("partition-concave")
def partition_concave() -> list[Claim]:
    """The perspective of a concave function."""
    return [
        *tangent(),
        JENSEN,
        by_hand(
            """m F(S/m) with F concave is jointly concave: m₁F(S₁/m₁) + m₂F(S₂/m₂) ≤ (m₁ + m₂) F((S₁ + S₂)/(m₁ + m₂)) is
            Jensen with the weights m_i/(m₁ + m₂). Here S = (d/ε²)ZᵀΠ_kZ and m = tr Π_k, both linear in Π."""
        ),
    ]


@proves("rate-above-distortion")
def above_distortion() -> list[Claim]:
    """A distribution of distortions that is allowed and costs R."""
    own = x * y / (x + y)
    return [
        by_hand("Put x = λ_i, y = ε²/d, and D_i = xy/(x + y). R_D is a minimum, so any D_i with Σ D_i ≤ ε² bounds it."),
        Nonnegative("D_i ≤ ε²/d", c * y - own, {x: RAY, y: RAY}, ONE),
        Equal("λ_i/D_i", x / own, 1 + x / y),
    ]


@proves("srr-gap-bound")
def gap_bound() -> list[Claim]:
    """Fischer, then one eigenvalue at a time."""
    return [
        *smaller_side(),
        *tangent(),
        FISCHER,
        by_hand(
            "In the basis U the blocks of I + αZᵀZ are I + KβV_kᵀV_k, as d = Kp. Compare each eigenvalue x of βV_kᵀV_k."
        ),
        Nonnegative("1 + Kx ≤ K(1 + x)", c * K * (1 + x) - (1 + K * x), {K: (1, oo), x: RAY}, ONE),
    ]


@proves("rate-covering")
def covering() -> list[Claim]:
    """One axis of the ellipsoid."""
    return [
        by_hand(
            """In units of δ: points of E more than 1 apart have disjoint half balls within an ellipsoid of axes s + ½,
            so N ≤ Π(1 + 2s); balls that cover E cover its shadow on the axes with s > 1, so N ≥ Π max(1, s)."""
        ),
        Nonnegative("(1 + 2s)² ≤ 5(1 + s²)", 5 * c * (1 + s**2) - (1 + 2 * s) ** 2, {s: LINE}, ONE, [(1, s - 2)]),
        Nonnegative("1 + s² ≤ 2 where s ≤ 1", 2 * c - (1 + s**2), {s: (0, 1)}, ONE),
        Nonnegative("1 + s² ≤ 2s² where s ≥ 1", 2 * c * s**2 - (1 + s**2), {s: (1, oo)}, ONE),
    ]


@proves("srr-gap-approached")
def gap_approached() -> list[Claim]:
    """The limit, for every K."""
    return [
        by_hand("All eigenvalues of αs²ZᵀZ are x = αs²n/d: the gap is ½ d log((K + x)/(1 + x)), and x grows like s²."),
        Limit("the gap times x", x * log((3 + x) / (1 + x)), x, oo, Integer(2)),
        Equal("its slope in 1/x at 0, for every K", diff(log((K * h + 1) / (h + 1)), h).subs(h, 0), K - 1),
    ]


@proves("symmetry-tokens", "membership-blind")
def token_rotation() -> list[Claim]:
    """The rates see the Gram matrix."""
    return [
        by_hand("R and R^c(·; U) are functions of ZᵀZ; a permutation P is a rotation Q of the token axis."),
        Equal("the Gram matrix", Zt * Qt * Q * Z, Zt * Z, {(Qt, Q): 1}),
    ]


@proves("symmetry-within-head")
def within_head() -> list[Claim]:
    """A similarity."""
    return [
        Equal("with G = V_kᵀV_k", 1 + beta * Qt * G * Q, Qt * (1 + beta * G) * Q, {(Qt, Q): 1}),
        by_hand("det(QᵀMQ) = det M, as QᵀQ = I."),
    ]


@proves("symmetry-rotation")
def rotation() -> list[Claim]:
    """The coordinates do not change."""
    return [
        Equal("V_k", Z * Q * Qt * U, Z * U, {(Q, Qt): 1}),
        Equal("ZD", Z * Q * Qt * D, Z * D, {(Q, Qt): 1}),
        Equal("I + αZᵀZ", 1 + alpha * Qt * Zt * Z * Q, Qt * (1 + alpha * Zt * Z) * Q, {(Qt, Q): 1}),
        by_hand("det(QᵀMQ) = det M, as QᵀQ = I."),
    ]


# --- §3


@proves("crate-5")
def posterior_mean() -> list[Claim]:
    """The inverse of a covariance that is a projector plus noise."""
    return [
        by_hand(
            """Given subspace k, x is normal with covariance C_k = P + τI, P = U_kU_kᵀ a projector, τ = t². Equal
            dimensions give equal determinants, so the weights are softmax(−½xᵀC_k⁻¹x); Tweedie's mean is
            Σ weights (x − τC_k⁻¹x)."""
        ),
        Equal("C_k times its inverse, times τ(1 + τ)", (P + tau) * (1 + tau - P), tau * (1 + tau), {(P, P): P}),
        Equal("I − τC_k⁻¹, times 1 + τ", (1 + tau) - (1 + tau - P), P),
        by_hand("So the exponents are ‖U_kᵀx‖²/(2τ(1 + τ)) up to a constant, and the means U_kU_kᵀx/(1 + τ)."),
    ]


@proves("tweedie-schedule")
def schedule() -> list[Claim]:
    """The same with a signal of any size."""
    return [
        by_hand(
            """Given subspace k, x is normal with covariance C_k = aP + τI, a = α², τ = σ², P a projector; Tweedie's
            mean of αz is x − τC_k⁻¹x, weighted by softmax(−½xᵀC_k⁻¹x)."""
        ),
        Equal(
            "C_k times its inverse, times τ(a + τ)",
            (alpha * P + tau) * (alpha + tau - alpha * P),
            tau * (alpha + tau),
            {(P, P): P},
        ),
        Equal("I − τC_k⁻¹, times a + τ", (alpha + tau) - (alpha + tau - alpha * P), alpha * P),
        by_hand("So the exponents are a‖U_kᵀx‖²/(2τ(a + τ)), and divided by α the means are αU_kU_kᵀx/(a + τ)."),
    ]


@proves("entropy-diffusion")
def entropies() -> list[Claim]:
    """One direction of a normal token."""
    slope = diff(log(x + y) / 2, y)
    return [
        by_hand("For normal z, h is ½ Σ log 2πe(λ + τ) with τ = t²; put x = λ ≥ 0, y = τ > 0."),
        Equal("its slope in τ", slope, 1 / (2 * (x + y))),
        Nonnegative("the denoiser's factor is at most one", c - x / (x + y), {x: RAY, y: RAY}, ONE),
        by_hand("For any z de Bruijn's identity has half the Fisher information for that slope."),
    ]


RESOLVENT = by_hand("Let R = (I + βG)⁻¹ with G = V_kᵀV_k, so that GR = (I − R)/β.")
_GR = {(G, R): (1 - R) / beta}


@proves("neumann-bound")
def neumann_bound() -> list[Claim]:
    """The remainder of one head, then of all."""
    return [
        RESOLVENT,
        Equal("the remainder", R - (1 - beta * G), beta**2 * G * G * R, _GR),
        by_hand("On a singular value v of V_k, with x = βv², the error is βv·x²/(1 + x)."),
        Nonnegative("x²/(1 + x) ≤ x²", c * x**2 - x**2 / (1 + x), {x: RAY}, ONE),
        by_hand(
            """So a head errs by at most β³‖V_k‖₂⁴‖V_k‖_F. Lifted by orthogonal heads the errors are orthogonal, by
            others their norms add."""
        ),
    ]


@proves("neumann-order", "neumann-terms")
def neumann_order() -> list[Claim]:
    """What is dropped after J terms."""
    return [
        by_hand("On a singular value v, with x = βv² ∝ s², the gradient is βv/(1 + x) and the series βv Σ (−x)^j."),
        Equal("J = 1", 1 / (1 + x) - (1 - x), x**2 / (1 + x)),
        Equal("J = 2", 1 / (1 + x) - (1 - x + x**2), -(x**3) / (1 + x)),
        Limit("the error over v x², v x³ is constant: s⁵ and s⁷", 1 / (1 + x), x, 0, Integer(1)),
    ]


@proves("neumann-descent")
def neumann_descent() -> list[Claim]:
    """Both gradients on one singular value."""
    return [
        by_hand(
            """With orthogonal heads the inner product is a sum over heads and singular values of β²v²(1 − x)/(1 + x),
            x = βv² in [0, 1)."""
        ),
        Nonnegative("no term is negative", (c - x) / (1 + x), {x: (0, 1)}, ONE),
        by_hand("It is zero at x = 1 only."),
    ]


ON_SPHERE = by_hand(
    """LN(Y) is the nearest point of S to Y, and all points of S have one norm. Over S the nearest point to Z − κ∇f is
    that where ⟨∇f, Y − Z⟩ + ‖Y − Z‖²/(2κ) is least, which is 0 at Y = Z."""
)
SQUARE = Equal(
    "the square completed, entry by entry",
    (y - (x - kappa * v)) ** 2 / (2 * kappa) - kappa * v**2 / 2,
    v * (y - x) + (y - x) ** 2 / (2 * kappa),
)


@proves("descent-projection")
def descent_projection() -> list[Claim]:
    """The projection minimizes the quadratic model over a sphere."""
    return [
        *curvature(),
        HEADS,
        DESCENT,
        ON_SPHERE,
        SQUARE,
        by_hand("So ⟨∇f, Z⁺ − Z⟩ ≤ −‖Z⁺ − Z‖²/(2κ); add ½L‖Z⁺ − Z‖² of the descent lemma."),
    ]


@proves("descent-natural-scale")
def natural_scale() -> list[Claim]:
    """Scaled by 1/β, the curvature of a head is at most one."""
    return [
        *curvature(),
        by_hand(
            """½β⁻¹ log det(I + βVᵀV) is β⁻¹ times a rate whose α is β: its curvature in V is at most 1 for every β. The
            sum over heads is at most Σ‖E U_k‖² = ⟨E ΣU_kU_kᵀ, E⟩."""
        ),
    ]


@proves("descent-trace-norm")
def trace_norm() -> list[Claim]:
    """A sum of powers between its largest term and d times it."""
    return [
        by_hand("tr H¹⁶ = Σ xᵢ¹⁶ over eigenvalues 0 ≤ xᵢ ≤ x₁ = ‖H‖₂: at least x₁¹⁶. Write xᵢ = x₁h."),
        Nonnegative("no term exceeds the largest", c - h**16, {h: (0, 1)}, ONE),
    ]


@proves("softmax-energy-gradient")
def softmax_gradient() -> list[Claim]:
    """The slope of log Σ exp, for any heads."""
    scores = _Z @ _U["k"] @ _Y["k"].T
    energy = d.Sum("k", d.total(d.logsumexp(scores)))
    attention = d.Sum("k", d.softmax(scores) @ _Y["k"] @ _U["k"].T)
    return [Derived("attention to the keys Y_k", d.grad(energy, _Z), attention)]


@proves("softmax-energy-descent")
def softmax_descent() -> list[Claim]:
    """Concave below its tangent, at any step."""
    p, a = symbols("p1:4"), symbols("a1:4", real=True)
    spread = (
        sum(p) * sum(q * b**2 for q, b in zip(p, a, strict=True)) - sum(q * b for q, b in zip(p, a, strict=True)) ** 2
    )
    pairs = sum(p[i] * p[j] * (a[i] - a[j]) ** 2 for i in range(3) for j in range(i))
    return [
        by_hand(
            "The second derivative of log Σ exp along a direction is the variance of its scores under the weights."
        ),
        Equal("Lagrange's identity, here for three keys: a variance is a sum of squares", spread, pairs),
        by_hand("So E is concave and lies below its tangent at Z."),
        ON_SPHERE,
        SQUARE,
        by_hand("Hence ⟨∇E, Z⁺ − Z⟩ ≤ −‖Z⁺ − Z‖²/(2κ) ≤ 0 for every κ > 0."),
    ]


@proves("tost-step")
def token_statistics() -> list[Claim]:
    """The gradient of the bound at fixed memberships."""
    weights, V = _PI.column("k"), _Z @ _U["k"]
    moments = d.diagonal(V.T @ d.diag(weights) @ V) / d.total(weights)
    bound = d.half / _N * d.Sum("k", d.total(weights) * d.total(d.log1p(moments)))
    slope = d.power(d.ones("p") + moments, -1)
    step = d.Sum("k", d.diag(weights) @ V @ d.diag(slope) @ _U["k"].T) / _N
    return [Derived("the step is minus the gradient", d.grad(bound, _Z), step)]


# --- §4


_CODES, _DICT = d.Matrix("A", "n", "m"), d.Matrix("D", "d", "m")


def lasso_slope() -> list[Claim]:
    """The gradient of the fit."""
    fit = d.half * d.squared_norm(_Z - _CODES @ _DICT.T)
    return [Derived("the gradient of the fit", d.grad(fit, _CODES), (_CODES @ _DICT.T - _Z) @ _DICT)]


@proves("crate-17")
def ista_step() -> list[Claim]:
    """The gradient, and the ReLU as a proximal operator."""
    return [*lasso_slope(), *threshold(signed=False)]


@proves("ista-descent", "ista-from-feasible")
def ista_descent() -> list[Claim]:
    """The fit is a quadratic; the prox minimizes a strongly convex model."""
    return [
        *ista_step(),
        by_hand(
            """The fit at A + E is the fit at A plus ⟨∇f, E⟩ + ½‖EDᵀ‖², and ‖EDᵀ‖ ≤ ‖D‖₂‖E‖: with η ≤ 1/‖D‖₂² the model
            ⟨∇f, E⟩ + ‖E‖²/(2η) + λ‖A + E‖₁ lies above. It is the square of the claim below, entry by entry, and a
            minimum of a (1/η)-strongly convex function lies ‖E‖²/(2η) below its value at E = 0."""
        ),
        SQUARE,
    ]


@proves("ista-orthogonal")
def ista_orthogonal() -> list[Claim]:
    """The start drops out."""
    return [
        Equal("one step", A - (A * Dt - Z) * D, Z * D, {(Dt, D): 1}),
        by_hand("‖Z − ADᵀ‖ = ‖ZD − A‖, so the problem falls into entries ½(a − v)² + λa over a ≥ 0."),
        *threshold(signed=False),
    ]


@proves("ista-fold")
def ista_fold() -> list[Claim]:
    """One product."""
    return [Equal("the matrix", Z - kappa * (Z * Dt - Z) * D, Z * (1 + kappa * (D - Dt * D)))]


@proves("crate-92")
def prox_mm() -> list[Claim]:
    """An upper model, its slope, and its minimizer."""
    return [
        *curvature(),
        DESCENT,
        by_hand("−R is majorized with curvature α/8, hence with α and 9α/4 too."),
        Equal("∇R(I + αZᵀZ)/α where ZᵀZ = I", Z * (1 + alpha * Zt * Z), (1 + alpha) * Z, {(Zt, Z): 1}),
        by_hand("With curvature L the model is ½L(y − v)² + λy entry by entry, v = z + g/L; divide by L."),
        *threshold(signed=False),
    ]


@proves("prox-convex")
def convex_prox() -> list[Claim]:
    """The three thresholds as minimizers."""
    return [
        by_hand(
            """For convex g the inequality says that x minimizes ½‖y − v‖² + t g(y). Both ℓ1 norms split into entries;
            for row norms ‖y − v‖ ≥ |‖y‖ − ‖v‖| with equality along v, so the norms stand for y and v ≥ 0."""
        ),
        *threshold(),
    ]


@proves("prox-hard")
def hard_prox() -> list[Claim]:
    """Zero and v itself against every other number."""
    half, positive = Rational(1, 2), {v: RAY, w: RAY, t: RAY, y: LINE}
    return [
        by_hand("By symmetry v ≥ 0. Where v = t + w, w ≥ 0, v is kept, at a cost of ½t²."),
        Nonnegative("any y ≠ 0", c * ((y - v) ** 2 + t**2) - t**2, {y: LINE, v: LINE, t: RAY}, ONE, [(1, y - v)]),
        Nonnegative("y = 0", c * (t + w) ** 2 - t**2, {t: RAY, w: RAY}, ONE),
        by_hand("Where t = v + w, w ≥ 0, zero is taken, at a cost of ½v²."),
        Nonnegative(
            "any y ≠ 0",
            c * ((y - v) ** 2 + (v + w) ** 2) - v**2,
            {key: positive[key] for key in (v, w, y)},
            ONE,
            [(1, y - v), (2 * v * w, 1), (2 * half, w)],
        ),
    ]


# --- §5


@proves("rate-outside")
def rate_outside() -> list[Claim]:
    """Fischer along P and I − P, and the tangent of the logarithm."""
    return [
        *tangent(),
        FISCHER,
        by_hand("The block along I − P is I + M with tr M = α‖Z(I − P)‖², and log det(I + M) = Σ log(1 + x) ≤ tr M."),
    ]


@proves("geom-existence")
def existence() -> list[Claim]:
    """The largest slope of one direction."""
    return [
        by_hand(
            """The slope of ΔR per unit of energy x along one direction of class k is h = α(α_k − α)x/((1 + αx)(1 +
            α_kx)). Put y = αx and α_k = s²α with s² = n/n_k ≥ 1."""
        ),
        Nonnegative(
            "h ≤ α(s − 1)/(s + 1), denominators multiplied out",
            c * (s - 1) * (1 + y) * (1 + s**2 * y) - (s - 1) * (s + 1) ** 2 * y,
            {s: (1, oo), y: RAY},
            ONE,
            [(s - 1, 1 - s * y)],
        ),
        by_hand("Equality at y = 1/s; the bound grows with s, so the largest class has the smallest."),
    ]


@proves("vmcr2-thin")
def variational_thin() -> list[Claim]:
    """Hadamard's inequality is Fischer's with blocks of one."""
    return [*tangent(), FISCHER, by_hand("Here B = I + βV_kᵀV_k with blocks of one coordinate each; sum over heads.")]


@proves("ctrl-equilibrium")
def closed_loop() -> list[Claim]:
    """Concavity with its case of equality."""
    return [
        *orthogonal_blocks()[3:],
        JENSEN,
        by_hand(
            "I + α(ZᵀZ + ẐᵀẐ) is the mean of I + 2αZᵀZ and I + 2αẐᵀẐ; a strict tangent makes equality need ZᵀZ = ẐᵀẐ."
        ),
    ]


@proves("vmcr2-bound")
def variational() -> list[Claim]:
    """Schur, then Jensen for the three functions measured."""
    T = tanh(x)
    return [
        by_hand(
            """The diagonal of QᵀMQ is a doubly stochastic average of the eigenvalues (Schur), so Jensen's inequality
            for concave f gives the bound; an eigenbasis averages nothing."""
        ),
        *tangent()[1:],
        Nonnegative("√: (x² − y²)/(2y) ≥ x − y", c * (x**2 + y**2) - 2 * x * y, {x: RAY, y: RAY}, ONE, [(1, x - y)]),
        Equal("tanh: its second derivative", diff(T, x, 2), -2 * T * (1 - T**2)),
        Nonnegative("which is not positive, h = tanh x", h * (c - h**2), {h: (0, 1)}, ONE),
    ]


# --- Counter-examples, enclosed


def _refuted(label: str, words: str, names: str, above: str, number: Any) -> None:
    """A statement's counter-example as a ball."""

    def claims() -> list[Claim]:
        return [by_hand(words), Enclosed("the printed form misses", number, above, names)]

    claims.__qualname__ = f"refuted.{label}"
    proves(label)(claims)


def _gathered(f: Any) -> Any:
    """R^c of two unit tokens less that after attention and a return to unit norm: U = I, β = 4."""
    a, b = f.arb(f.fmpq(3, 5)), f.arb(f.fmpq(4, 5))
    own, other = f.arb(1).exp(), f.arb(f.fmpq(24, 25)).exp()
    p, q = a + (own * a + other * b) / (own + other), b + (own * b + other * a) / (own + other)
    cosine = 2 * p * q / (p * p + q * q)
    # I + βVVᵀ of unit tokens with inner product c has the determinant (1 + β)² − β²c²
    return ((25 - 16 * f.arb(f.fmpq(24, 25)) ** 2).log() - (25 - 16 * cosine**2).log()) / 2


_refuted(
    "rate-low-rank-gap",
    "One token (1, 0) in R², ε = 10⁻⁵: R = ½ log(1 + 2/ε²) and R_D = ½ log(1/ε²).",
    "R − R_D",
    "0.34",
    lambda f: ((1 + 2 * f.arb(10) ** 10).log() - 10 * f.arb(10).log()) / 2,
)
_refuted(
    "srr-gap-negative",
    "Z = (2, 2), U = (e₁, e₂), ε = 1: R = ½ log 17 and R^c = log 5.",
    "R^c − R",
    "0.19",
    lambda f: f.arb(5).log() - f.arb(17).log() / 2,
)
_refuted(
    "neumann-bound-exponent",
    "Z = 2, U = 1, ε = 2: β = ¼, x = βv² = 1; the error is βv·x²/(1 + x), the printed bound β³v³.",
    "error over printed bound",
    "1.98",
    lambda f: f.arb(1) / 4 * 2 * f.arb(1) / 2 / (f.arb(f.fmpq(1, 64)) * 8),
)
_refuted(
    "neumann-raises",
    "Z = U = 1, ε = 0.1, κ = 0.01 = 1/L: β = 100, the step ends at 1 − κβ(1 − β) = 100.",
    "rise of R^c by the Neumann step",
    "4.5",
    lambda f: ((1 + 100 * f.arb(100) ** 2).log() - f.arb(101).log()) / 2,
)
_refuted(
    "crate-18-compresses",
    "Z = U = 1, ε = 1: MSSA(1) = 1, so the step doubles the token.",
    "rise of R^c",
    "0.45",
    lambda f: (f.arb(5).log() - f.arb(2).log()) / 2,
)
_refuted(
    "indepth-decompresses",
    "Tokens (3/5, 4/5) and (4/5, 3/5), one head U = I, ε = ½: β = 4.",
    "fall of R^c at unit norm",
    "0.0468",
    _gathered,
)
_refuted(
    "ista-warm-start",
    "Z = −1, D = 1, η = λ = 0.1: A = Z fits at a cost of λ, A⁺ = 0 costs ½.",
    "rise of F",
    "0.398",
    lambda f: f.arb(f.fmpq(1, 2)) - f.arb(f.fmpq(1, 10)),
)
_refuted(
    "prox-sphere-clipped",
    "v = (0.3, −0.2), t = 1; a unit x costs a constant plus ‖x‖₁ − ⟨v, x⟩, along v and on the axis.",
    "cost along v less cost on the axis",
    "0.32",
    lambda f: f.arb(f.fmpq(37, 100)) / f.arb(f.fmpq(13, 100)).sqrt() - f.arb(f.fmpq(7, 10)),
)
_refuted(
    "erratum-half",
    "Z = D = 1, A = 0, η = ½, λ = 0.2: the step with the ½ gives 0.4, without it 0.9.",
    "difference of the codes",
    "0.49",
    lambda f: f.arb(f.fmpq(9, 10)) - f.arb(f.fmpq(4, 10)),
)
_refuted(
    "erratum-sign",
    "Z = D = 1, A = 0, η = ½, λ = 0.2: with −ηλ the code is 0.4, with + it is 0.6.",
    "difference of the codes",
    "0.198",
    lambda f: f.arb(f.fmpq(6, 10)) - f.arb(f.fmpq(4, 10)),
)
_refuted(
    "erratum-mask",
    "Two tokens 0 and 1 in one dimension. With the transposed mask the first sees both; the second becomes 2.",
    "change of the first output",
    "0.49",
    lambda f: f.arb(2) / 2 - f.arb(1) / 2,
)
_refuted(
    "erratum-layer-norm",
    "d = 16: ‖z − z̄‖ = √d std(z), so the two forms have the norms 1 and 4.",
    "difference of the norms",
    "2.98",
    lambda f: f.arb(16).sqrt() - 1,
)
_refuted(
    "erratum-alpha",
    "One token (1, 0), d = 2, ε = 1 and m = 4d = 8 atoms: ½ log(1 + 8) instead of ½ log(1 + 2).",
    "relative error",
    "0.99",
    lambda f: f.arb(9).log() / f.arb(3).log() - 1,
)
_refuted(
    "erratum-epsilon",
    "One token 1 in one dimension, eps = 0.1: ½ log(1 + 1/eps) instead of ½ log(1 + 1/eps²).",
    "relative error",
    "0.48",
    lambda f: 1 - f.arb(11).log() / f.arb(101).log(),
)
_refuted(
    "erratum-beta",
    "n = 64, p = 8, ε = 0.1: β = p/(nε²) = 12.5 times too much.",
    "relative error",
    "11.4",
    lambda f: f.arb(f.fmpq(25, 2)) - 1,
)
_refuted(
    "erratum-parameters",
    "The shapes add to 22,796,008 parameters, which is counted where the statement is measured.",
    "relative error of 22.08 million",
    "0.0312",
    lambda f: 1 - f.arb(f.fmpq(22_080_000, 22_796_008)),
)
_refuted(
    "erratum-book-half",
    "One token 1 in one dimension, ε = 1: log 2 is printed for ½ log 2.",
    "difference in nats",
    "0.346",
    lambda f: f.arb(2).log() / 2,
)
_refuted(
    "erratum-book-neumann",
    "βG = ¼: the resolvent is 4/5, the sum without its first term −1/5.",
    "difference",
    "0.99",
    lambda f: f.arb(f.fmpq(4, 5)) + f.arb(f.fmpq(1, 5)),
)
_refuted(
    "erratum-book-ranks",
    "Two orthogonal classes of one token of norm 1 in R², ε = 1: ranks of one against a class of rank zero.",
    "ΔR lost",
    "0.0715",
    lambda f: 2 * (f.arb(2).log() / 2 - f.arb(3).log() / 4) - (f.arb(2).log() / 2 - f.arb(3).log() / 4),
)
_refuted(
    "erratum-book-entropy",
    "N = 2 equally likely values.",
    "log N less its half",
    "0.346",
    lambda f: f.arb(2).log() / 2,
)
_refuted(
    "erratum-book-values",
    "One token 2 in one dimension: its weight is 1, its value 2.",
    "difference",
    "0.99",
    lambda f: f.arb(2) - f.arb(1),
)
