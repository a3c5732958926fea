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


@statement(
    label="rate-curvature",
    item="4",
    section=2,
    title="The Hessian of R lies within [−α/8, α]",
    formula=r"-\frac{\alpha}{8} I \preceq \nabla^2 R(Z) \preceq \alpha I",
    source="sharpens CRATE, Lemma 6",
    kind="inequality",
    assumes="Every Z.",
    inside=draws.curved_tokens,
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
    inside=draws.curved_tokens,
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
    inside=draws.curved_subspaces,
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
    label="subspace-curvature",
    item="5",
    section=2,
    title="Smoothness of the rate under subspaces",
    formula=r"\lambda_{\max} \nabla^2 R^c(Z; U) \leq L_c = \beta \left\Vert \sum_k U_k U_k^\top \right\Vert_2 "
    r"\;\mathrm{with\;equality\;at}\; Z = 0",
    source="sharpens CRATE, Lemma 6",
    kind="inequality",
    assumes="Orthonormal columns in every head; any angles between heads.",
    inside=draws.curved_subspaces,
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
    label="srr-curvature",
    item="6",
    section=2,
    title="Smoothness of the sparse rate reduction",
    formula=r"\lambda_{\max}\nabla^2 (R^c - R) \leq L = L_c + \frac{\alpha}{8}",
    source="sum of (4) and (5)",
    kind="inequality",
    assumes="Orthonormal columns in every head.",
    inside=draws.curved_subspaces,
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
    label="crate-lemma-6",
    item="h",
    section=7,
    title="Lemma 6's constant 9α/4 is valid and loose; α is tight",
    formula=r"\Vert\nabla^2 R\Vert_2 \leq \frac{9\alpha}{4} \;\mathrm{is\;sharp}",
    corrected=r"\sup_Z \Vert\nabla^2 R(Z)\Vert_2 = \alpha",
    source="CRATE, Lemma 6",
    kind="erratum",
    assumes="Every Z.",
    inside=draws.curved_tokens,
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
