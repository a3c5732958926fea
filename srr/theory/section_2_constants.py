"""§2 Curvature: what step is safe, and how sharp the constants are."""

from __future__ import annotations

from typing import Any

import numpy as np

from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Problem, Refutation, statement

_DIFFERENCE = 1e-7  # accuracy of the differenced Hessians, relative to the curvature


def _alpha(Z: Any, eps: float) -> float:
    return float(Z.shape[1] / (len(Z) * eps**2))


def _small_tokens(rng: np.random.Generator) -> Problem:
    n, d = (int(size) for size in rng.integers(1, 4, size=2))
    eps = draws.spread(rng, 0.3, 2.0)
    size = draws.spread(rng, 0.1, 4.0) / np.sqrt(d / n) * eps  # singular values around √(3/α)
    return Problem(Z=size * rng.standard_normal((n, d)), eps=eps)


def _small_subspaces(rng: np.random.Generator) -> Problem:
    p = _small_tokens(rng)
    Z = rng.standard_normal((len(p.Z), 3)) * np.max(np.abs(p.Z))
    return Problem(Z=Z, U=draws.bases(rng, 3, 3, int(rng.integers(1, 3))), eps=p.eps)


@statement(
    label="rate-curvature",
    item="4",
    section=2,
    title="The Hessian of R lies within [−α/8, α]",
    formula=r"-\frac{\alpha}{8} I \preceq \nabla^2 R(Z) \preceq \alpha I",
    source="sharpens CRATE, Lemma 6",
    kind="inequality",
    assumes="Every Z.",
    inside=_small_tokens,
    quantity="distance outside the interval, over α",
    bound=_DIFFERENCE,
)
def rate_curvature(lab: Lab, p: Problem) -> float:
    """R is ½Σlog(1 + ασ²), so with g(σ) = ασ/(1 + ασ²) its Hessian has the eigenvalues g′(σᵢ), the divided differences
    (g(σᵢ) − g(±σⱼ))/(σᵢ ∓ σⱼ) and g(σ)/σ: all mean values of g′, whose range is [−α/8, α].
    """
    alpha = lab.ops.coding_rate_smoothness(p.Z, eps=p.eps)
    curvature = np.linalg.eigvalsh(truth.hessian(lambda Z: truth.rate(Z, p.eps), p.Z))
    return float(float(max(curvature[-1] - alpha, -alpha / 8 - curvature[0])) / alpha)


@statement(
    label="rate-curvature-sharp",
    item="4b",
    section=2,
    title="Both ends of the interval are reached",
    formula=r"\lambda_{\max}\nabla^2 R(0) = \alpha, \qquad \lambda_{\min}\nabla^2 R = -\frac{\alpha}{8} "
    r"\;\mathrm{at}\; \sigma = \sqrt{3/\alpha}",
    source="this project",
    kind="identity",
    assumes="Z = 0; Z with a singular value √(3/α).",
    inside=_small_tokens,
    bound=1e-6,
)
def rate_curvature_sharp(lab: Lab, p: Problem) -> float:
    """g′(σ) = α(1 − ασ²)/(1 + ασ²)² is α at 0 and smallest where ασ² = 3; both the differenced Hessian of the
    definition and the operator's Hessian product are asked.
    """
    alpha = _alpha(p.Z, p.eps)
    spike = np.zeros_like(p.Z)
    spike[0, 0] = np.sqrt(3 / alpha)
    worst = 0.0
    for Z, want in ((np.zeros_like(p.Z), alpha), (spike, -alpha / 8)):
        direction = np.zeros_like(Z)
        direction[0, 0] = 1.0
        curvature = np.linalg.eigvalsh(truth.hessian(lambda X: truth.rate(X, p.eps), Z + 1e-12))
        found = curvature[-1] if want > 0 else curvature[0]
        product = lab.ops.coding_rate_hvp(Z, direction, eps=p.eps)[0, 0]
        worst = max(worst, truth.error(found, want), truth.error(product, want))
    return worst


@statement(
    label="rate-hessian",
    item="4c",
    section=2,
    title="Hessian products of both rates",
    formula=r"\nabla^2 R(Z)[V] = \lim_{t\to 0} \frac{\nabla R(Z + tV) - \nabla R(Z)}{t}, \quad "
    r"\mathrm{and\;the\;same\;for}\; R^c(\cdot\,; U)",
    source="differentiates CRATE (7)-(9)",
    kind="identity",
    assumes="Any bases.",
    inside=_small_subspaces,
    quantity="error relative to the largest curvature",
    bound=_DIFFERENCE,
)
def rate_hessian(lab: Lab, p: Problem) -> float:
    """Differentiate Z M⁻¹ with dM⁻¹ = −M⁻¹ dM M⁻¹; the truth multiplies the differenced Hessian of the definition."""
    V = np.roll(p.Z, 1, axis=1) + np.linspace(-1.0, 1.0, p.Z.size).reshape(p.Z.shape)
    whole = truth.hessian(lambda Z: truth.rate(Z, p.eps), p.Z)
    parts = truth.hessian(lambda Z: truth.subspace_rate(Z, p.U, p.eps), p.Z)
    got = lab.ops.coding_rate_hvp(p.Z, V, eps=p.eps), lab.ops.subspace_coding_rate_hvp(p.Z, V, p.U, eps=p.eps)
    scale = np.linalg.norm(V)
    return max(
        float(np.max(np.abs(H @ V.ravel() - hvp.ravel())) / (np.linalg.norm(H, 2) * scale))
        for H, hvp in zip((whole, parts), got, strict=True)
    )


@statement(
    label="rate-step",
    item="4d",
    section=2,
    title="A gradient step of 1/α on R moves by at least what it must",
    formula=r"R(Z - \nabla R/\alpha) \leq R(Z) - \frac{\Vert\nabla R\Vert^2}{2\alpha}, \qquad "
    r"R(Z + s\nabla R) \geq R(Z) + s\left(1 - \frac{s\alpha}{16}\right)\Vert\nabla R\Vert^2",
    source="descent lemma with the constants of (4)",
    kind="inequality",
    assumes="Steps up to 1/α down, any step up.",
    inside=_small_tokens,
    outside=lambda rng: Problem(**vars(_small_tokens(rng)) | {"down": 3.0}),
    breaks="a step of 3/α overshoots near Z = 0",
    quantity="missing movement, over ‖∇R‖²/α",
    rounding=1e6,
)
def rate_step(lab: Lab, p: Problem) -> float:
    """Curvature at most α downwards and −α/8 upwards, put into the second-order Taylor bound."""
    alpha = lab.ops.coding_rate_smoothness(p.Z, eps=p.eps)
    down = getattr(p, "down", 1.0) / alpha
    Z = p.Z if down * alpha == 1.0 else 1e-3 * p.Z
    slope = lab.ops.coding_rate_grad(Z, eps=p.eps)
    size, up = float(np.sum(slope**2)), 8.0 / alpha
    here = truth.rate(Z, p.eps)
    fall = truth.rate(Z - down * slope, p.eps) - here + size / (2 * alpha)
    climb = here + up * (1 - up * alpha / 16) * size - truth.rate(Z + up * slope, p.eps)
    return float(max(fall, climb) * alpha / size)


@statement(
    label="subspace-curvature",
    item="5",
    section=2,
    title="Smoothness of the rate under subspaces",
    formula=r"\lambda_{\max} \nabla^2 R^c(Z; U) \leq L_c = \beta \left\Vert \sum_k U_k U_k^\top \right\Vert_2 "
    r"\;\mathrm{with\;equality\;at}\; Z = 0",
    source="sharpens CRATE, Lemma 6",
    kind="inequality",
    assumes="Orthonormal columns in every head; any angles between heads.",
    inside=_small_subspaces,
    quantity="excess over L_c, and gap at Z = 0, relative",
    bound=1e-6,
)
def subspace_curvature(lab: Lab, p: Problem) -> float:
    """Every head's Hessian is at most β on its own coordinates, so the sum is at most β Σ U_kU_kᵀ on each token."""
    limit = lab.ops.subspace_coding_rate_smoothness(p.Z, p.U, eps=p.eps)
    top = [
        np.linalg.eigvalsh(truth.hessian(lambda X: truth.subspace_rate(X, p.U, p.eps), Z))[-1]
        for Z in (p.Z, np.full_like(p.Z, 1e-12))
    ]
    return max(float(top[0] / limit - 1), abs(float(top[1] / limit - 1)))


@statement(
    label="compression-descent",
    item="5b",
    section=2,
    title="One exact compression step descends",
    formula=r"R^c(Z - \kappa\nabla R^c) \leq R^c(Z) - \frac{\kappa}{2}\Vert \nabla R^c \Vert^2, \quad \kappa \leq "
    r"1/L_c",
    source="descent lemma; exact form of CRATE (10)",
    kind="inequality",
    assumes="κ ≤ 1/L_c.",
    inside=_small_subspaces,
    outside=lambda rng: Problem(**vars(_small_subspaces(rng)) | {"stretch": 3.0}),
    breaks="κ = 3/L_c on tokens near zero: the step overshoots and the rate rises",
    quantity="missing descent, over κ‖∇R^c‖²",
    rounding=1e6,
)
def compression_descent(lab: Lab, p: Problem) -> float:
    """Taylor with curvature at most L_c."""
    stretch = getattr(p, "stretch", 1.0)
    Z = p.Z if stretch == 1.0 else 1e-3 * p.Z
    step = stretch / lab.ops.subspace_coding_rate_smoothness(Z, p.U, eps=p.eps)
    after = lab.ops.compression_step(Z, p.U, step=step, eps=p.eps)
    size = float(np.sum(truth.gradient(lambda X: truth.subspace_rate(X, p.U, p.eps), Z) ** 2))
    change = truth.subspace_rate(after, p.U, p.eps) - truth.subspace_rate(Z, p.U, p.eps)
    return float(float(change + step * size / 2) / (step * size))


@statement(
    label="srr-curvature",
    item="6",
    section=2,
    title="Smoothness of the sparse rate reduction",
    formula=r"\lambda_{\max}\nabla^2 (R^c - R) \leq L = L_c + \frac{\alpha}{8}",
    source="sum of (4) and (5)",
    kind="inequality",
    assumes="Orthonormal columns in every head.",
    inside=_small_subspaces,
    quantity="excess over L, relative",
    bound=_DIFFERENCE,
)
def srr_curvature(lab: Lab, p: Problem) -> float:
    """The largest eigenvalue of a sum is at most the sum of the largest: L_c for R^c and α/8 for −R."""
    H = truth.hessian(lambda Z: truth.subspace_rate(Z, p.U, p.eps) - truth.rate(Z, p.eps), p.Z)
    own = _alpha(p.Z, p.eps) / 8 + p.U.shape[2] / (len(p.Z) * p.eps**2) * np.linalg.norm(
        sum(basis @ basis.T for basis in p.U), 2
    )
    limit = lab.ops.sparse_rate_reduction_smoothness(p.Z, p.U, eps=p.eps)
    return float(max(float(np.linalg.eigvalsh(H)[-1] / limit - 1), abs(limit / own - 1) - 1e-12))


@statement(
    label="srr-descent",
    item="6b",
    section=2,
    title="Proximal gradient with step 1/L never lowers the objective",
    formula=r"F(\mathrm{prox}_{\lambda/L}(Z + \nabla(R - R^c)/L)) \geq F(Z), \quad F = R - R^c - \lambda\Vert Z\Vert_1",
    source="proximal descent lemma with (6)",
    kind="inequality",
    assumes="Step 1/L.",
    inside=_small_subspaces,
    outside=lambda rng: Problem(**vars(_small_subspaces(rng)) | {"stretch": 30.0}),
    breaks="a step of 30/L",
    quantity="fall of the objective, relative",
    rounding=1e5,
)
def srr_descent(lab: Lab, p: Problem) -> float:
    """The prox minimises a quadratic upper model of −F that touches it at Z."""
    lam, worst, Z = 0.1, -np.inf, p.Z
    step = getattr(p, "stretch", 1.0) / lab.ops.sparse_rate_reduction_smoothness(Z, p.U, eps=p.eps)

    def objective(X: Any) -> float:
        return float(truth.rate(X, p.eps) - truth.subspace_rate(X, p.U, p.eps) - lam * np.abs(X).sum())

    for _ in range(5):
        slope = lab.ops.sparse_rate_reduction_grad(Z, p.U, eps=p.eps)
        after = lab.ops.soft_threshold(Z + step * slope, threshold=step * lam)
        worst = max(worst, (objective(Z) - objective(after)) / (1 + abs(objective(Z))))
        Z = after
    return worst


@statement(
    label="crate-lemma-6",
    item="h",
    section=7,
    title="Lemma 6's constant 9α/4 is valid and loose; α is tight",
    formula=r"\Vert\nabla^2 R\Vert_2 \leq \frac{9\alpha}{4} \;\mathrm{is\;sharp}",
    corrected=r"\sup_Z \Vert\nabla^2 R(Z)\Vert_2 = \alpha",
    source="CRATE, Lemma 6",
    kind="erratum",
    assumes="Every Z.",
    inside=_small_tokens,
    quantity="gap of the constant to the largest curvature found, relative",
    bound=1e-6,
    margin=1.0,
)
def lemma_six(lab: Lab, p: Problem) -> Refutation:
    """The largest curvature over Z = 0 and random Z is α to six digits; 9/4 comes from bounding two terms apart."""
    alpha = lab.ops.coding_rate_smoothness(p.Z, eps=p.eps)
    points = (p.Z, np.full_like(p.Z, 1e-12))
    found = max(np.linalg.norm(truth.hessian(lambda X: truth.rate(X, p.eps), Z), 2) for Z in points)
    return Refutation(2.25 * alpha / found - 1, abs(alpha / found - 1), f"largest curvature {found / alpha:.6f} α")
