"""§2 Gradients of the rates, against complex-step derivatives of their definitions."""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy import linalg

from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Problem, statement


@statement(
    label="rate-gradient",
    item="1",
    section=2,
    title="Gradient of the coding rate",
    formula=r"\nabla R = \alpha Z (I_d + \alpha Z^\top Z)^{-1}",
    source="CRATE (7); REDU (12)",
    kind="identity",
    assumes="Z finite; ε > 0; token weights ≥ 0 enter as W on the left.",
    inside=draws.weighted_tokens,
    rounding=1e6,
)
def rate_gradient(lab: Lab, p: Problem) -> float:
    """Jacobi: d logdet(M) = tr(M⁻¹ dM) with dM = α(dZᵀZ + ZᵀdZ); the two halves are equal, the ½ removes one."""
    plain = truth.gradient(lambda Z: truth.rate(Z, p.eps), p.Z)
    weighted = truth.gradient(lambda Z: truth.rate(Z, p.eps, p.w), p.Z)
    return max(
        truth.error(lab.ops.coding_rate_grad(p.Z, eps=p.eps), plain),
        truth.error(lab.ops.coding_rate_grad(p.Z, eps=p.eps, weights=p.w), weighted),
    )


@statement(
    label="redu-ridge",
    item="1b",
    section=2,
    title="The gradient is the residual of a ridge reconstruction",
    formula=r"(\nabla R)_i = \alpha (z_i - \hat z_i), \quad \hat z = Z^\top q^*, \quad "
    r"q^* = \mathrm{argmin}_q \; \alpha \Vert z - Z^\top q \Vert^2 + \Vert q \Vert^2",
    source="REDU, interpretation of the expansion operator",
    kind="identity",
    assumes="Z finite; ε > 0.",
    inside=draws.tokens,
    quantity="error relative to α‖Z‖",
)
def ridge_residual(lab: Lab, p: Problem) -> float:
    """Z − Zᵀ(ZZᵀ + I/α)⁻¹Zz = (I + αZᵀZ)⁻¹z; the truth solves the augmented least-squares problem by SciPy."""
    n, d = p.Z.shape
    alpha = d / (n * p.eps**2)
    augmented = np.vstack([np.sqrt(alpha) * p.Z.T, np.eye(n)])
    q = linalg.lstsq(augmented, np.vstack([np.sqrt(alpha) * p.Z.T, np.zeros((n, n))]))[0]
    want = alpha * (p.Z - q.T @ p.Z)
    got = lab.ops.coding_rate_grad(p.Z, eps=p.eps)
    return float(np.max(np.abs(got - want)) / (alpha * np.max(np.abs(p.Z))))


@statement(
    label="crate-9",
    item="2",
    section=2,
    title="Gradient of the coding rate under subspaces",
    formula=r"\nabla R^c(Z; U) = \beta \sum_k V_k (I_p + \beta V_k^\top V_k)^{-1} U_k^\top",
    source="CRATE (9)",
    kind="identity",
    assumes="Any bases, orthonormal or free.",
    rounding=1e5,
    inside=draws.free_subspaces,
)
def subspace_rate_gradient(lab: Lab, p: Problem) -> float:
    """The chain rule through V_k = Z U_k sends the gradient of each head back through U_kᵀ."""
    want = truth.gradient(lambda Z: truth.subspace_rate(Z, p.U, p.eps), p.Z)
    return truth.error(lab.ops.subspace_coding_rate_grad(p.Z, p.U, eps=p.eps), want)


@statement(
    label="srr-gradient",
    item="2b",
    section=2,
    title="Gradient of the smooth part of the sparse rate reduction",
    formula=r"\nabla (R - R^c) = \nabla R - \nabla R^c",
    source="CRATE (1), (9)",
    kind="identity",
    assumes="Any bases.",
    rounding=1e5,
    inside=draws.subspaces,
    quantity="error relative to the larger of both gradients",
)
def srr_gradient(lab: Lab, p: Problem) -> float:
    """Linearity; the ℓ1 term is left to its proximal operator."""
    rise = truth.gradient(lambda Z: truth.rate(Z, p.eps), p.Z)
    fall = truth.gradient(lambda Z: truth.subspace_rate(Z, p.U, p.eps), p.Z)
    got = lab.ops.sparse_rate_reduction_grad(p.Z, p.U, eps=p.eps)
    return float(np.max(np.abs(got - (rise - fall))) / max(np.max(np.abs(rise)), np.max(np.abs(fall))))


@statement(
    label="partition-gradient",
    item="3",
    section=2,
    title="Gradient of the coding rate of a partition",
    formula=r"\nabla_Z R^c(Z \mid \Pi) = \sum_k \frac{\mathrm{tr}\,\Pi_k}{n} \alpha_k \Pi_k Z "
    r"(I + \alpha_k Z^\top \Pi_k Z)^{-1}, \quad \alpha_k = \frac{d}{\mathrm{tr}\,\Pi_k\,\varepsilon^2}",
    source="MCR2 (8); REDU (13)",
    kind="identity",
    assumes="Memberships non-negative.",
    inside=draws.partition,
)
def partition_gradient(lab: Lab, p: Problem) -> float:
    """Every class is a weighted rate; its weight tr Π_k/n and its α_k multiply to α, so small classes are not
    forgotten.
    """
    want = truth.gradient(lambda Z: truth.partition_rate(Z, p.Pi, p.eps), p.Z)
    return truth.error(lab.ops.partition_coding_rate_grad(p.Z, p.Pi, eps=p.eps), want)


@statement(
    label="reduction-gradient",
    item="3b",
    section=2,
    title="Gradient of the rate reduction",
    formula=r"\nabla_Z \Delta R(Z \mid \Pi) = \nabla R - \nabla_Z R^c(Z \mid \Pi)",
    source="MCR2 (10)",
    kind="identity",
    assumes="Memberships or labels.",
    inside=draws.partition,
    quantity="error relative to ‖∇R‖",
)
def reduction_gradient(lab: Lab, p: Problem) -> float:
    """Linearity; checked for memberships and for the labels that pick the largest of them."""
    labels = np.argmax(p.Pi, axis=1)
    rise = truth.gradient(lambda Z: truth.rate(Z, p.eps), p.Z)
    worst = 0.0
    for Pi, weights in ((p.Pi, p.Pi), (labels, np.eye(p.Pi.shape[1])[labels])):
        want = rise - truth.gradient(partial(truth.partition_rate, Pi=weights, eps=p.eps), p.Z)
        worst = max(worst, float(np.max(np.abs(lab.ops.rate_reduction_grad(p.Z, Pi, eps=p.eps) - want))))
    return worst / float(np.max(np.abs(rise)))
