"""§1 Objects: the rates as the papers define them, against 60-digit arithmetic."""

from __future__ import annotations

import numpy as np

from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Problem, Refutation, statement


@statement(
    label="crate-7",
    item="0a",
    section=1,
    title="Coding rate of tokens",
    formula=r"R(Z) = \frac{1}{2}\log\det(I + \alpha Z^\top Z), \quad \alpha = \frac{d}{n\varepsilon^2}",
    source="CRATE (7)",
    kind="identity",
    assumes="Z finite of any shape, rank and scale; ε > 0.",
    inside=draws.tokens,
)
def coding_rate(lab: Lab, p: Problem) -> float:
    """Definition. The operator factors the smaller side; the truth is the d-side determinant in 60 digits."""
    n, d = p.Z.shape
    want = truth.precise_logdet(p.Z, d / (n * p.eps**2)) / 2
    return truth.error(lab.ops.coding_rate(p.Z, eps=p.eps), want)


@statement(
    label="crate-8",
    item="0b",
    section=1,
    title="Coding rate under subspace codebooks",
    formula=r"R^c(Z; U) = \frac{1}{2}\sum_k \log\det(I_p + \beta V_k^\top V_k), "
    r"\quad V_k = Z U_k, \; \beta = \frac{p}{n\varepsilon^2}",
    source="CRATE (8)",
    kind="identity",
    assumes="Any bases, orthonormal or free.",
    inside=draws.free_subspaces,
)
def subspace_coding_rate(lab: Lab, p: Problem) -> float:
    """Definition, head by head in 60 digits."""
    beta = p.U.shape[2] / (len(p.Z) * p.eps**2)
    want = sum(truth.precise_logdet(p.Z @ basis, beta) for basis in p.U) / 2
    return truth.error(lab.ops.subspace_coding_rate(p.Z, p.U, eps=p.eps), want)


@statement(
    label="mcr2-rate",
    item="0c",
    section=1,
    title="Coding rate of a partition",
    formula=r"R^c(Z \mid \Pi) = \sum_k \frac{\mathrm{tr}\,\Pi_k}{2n}"
    r"\log\det\left(I + \frac{d}{\mathrm{tr}\,\Pi_k\,\varepsilon^2} Z^\top \Pi_k Z\right)",
    source="MCR2 (8)",
    kind="identity",
    assumes="Memberships non-negative, rows summing to one.",
    inside=draws.partition,
)
def partition_coding_rate(lab: Lab, p: Problem) -> float:
    """Definition, class by class in 60 digits; the weights enter as the square root on the tokens."""
    n, d = p.Z.shape
    mass = p.Pi.sum(axis=0)
    terms = [
        truth.precise_logdet(np.sqrt(w)[:, None] * p.Z, d / (m * p.eps**2)) for w, m in zip(p.Pi.T, mass, strict=True)
    ]
    return truth.error(lab.ops.partition_coding_rate(p.Z, p.Pi, eps=p.eps), mass @ terms / (2 * n))


def _labeled(rng: np.random.Generator) -> Problem:
    p = draws.partition(rng)
    return Problem(Z=p.Z, eps=p.eps, labels=rng.integers(0, 3, size=len(p.Z)))


@statement(
    label="mcr2-reduction",
    item="0d",
    section=1,
    title="Rate reduction, from labels or memberships",
    formula=r"\Delta R(Z \mid \Pi) = R(Z) - R^c(Z \mid \Pi)",
    source="MCR2 (10)",
    kind="identity",
    assumes="Labels are memberships with one entry per row; empty classes count zero.",
    inside=_labeled,
    quantity="error relative to R",
)
def rate_reduction(lab: Lab, p: Problem) -> float:
    """Definition: the labeled form sorts tokens into segments, the truth multiplies by a one-hot membership."""
    one_hot = np.eye(4)[p.labels]
    want = truth.rate(p.Z, p.eps) - truth.partition_rate(p.Z, one_hot, p.eps)
    got = [lab.ops.rate_reduction(p.Z, Pi, eps=p.eps) for Pi in (p.labels, one_hot)]
    return float(max(abs(value - want) for value in got) / truth.rate(p.Z, p.eps))


@statement(
    label="crate-1",
    item="0e",
    section=1,
    title="Sparse rate reduction",
    formula=r"R(Z) - R^c(Z; U) - \lambda \Vert Z \Vert_1",
    source="CRATE (1), with the norm relaxed from 0 to 1",
    kind="identity",
    assumes="Any bases; λ ≥ 0.",
    inside=draws.subspaces,
    quantity="error relative to the sum of the terms",
)
def sparse_rate_reduction(lab: Lab, p: Problem) -> float:
    """Definition: the three terms, written out one by one."""
    terms = np.array([truth.rate(p.Z, p.eps), -truth.subspace_rate(p.Z, p.U, p.eps), -0.1 * np.abs(p.Z).sum()])
    got = lab.ops.sparse_rate_reduction(p.Z, p.U, eps=p.eps, lam=0.1)
    return float(abs(got - terms.sum()) / float(np.abs(terms).sum()))


@statement(
    label="weights-mask",
    item="0f",
    section=1,
    title="Token weights: zero masks a token",
    formula=r"R(Z; w) = \frac{1}{2}\log\det\left(I + \frac{d}{\varepsilon^2\sum_i w_i}\sum_i w_i z_i z_i^\top\right)",
    source="one class of MCR2 (8)",
    kind="identity",
    assumes="w ≥ 0, not all zero.",
    inside=draws.weighted_tokens,
)
def weighted_rate(lab: Lab, p: Problem) -> float:
    """A token of weight zero adds nothing to the sum, so removing its row must not change the rate."""
    kept = p.w > 0
    want = truth.precise_logdet(np.sqrt(p.w[kept])[:, None] * p.Z[kept], p.Z.shape[1] / (p.w.sum() * p.eps**2)) / 2
    return truth.error(lab.ops.coding_rate(p.Z, eps=p.eps, weights=p.w), want)


@statement(
    label="smaller-side",
    item="0g",
    section=1,
    title="One determinant, two sides",
    formula=r"\log\det(I_d + \alpha Z^\top Z) = \log\det(I_n + \alpha Z Z^\top)",
    source="Sylvester's determinant identity",
    kind="identity",
    assumes="None.",
    inside=draws.tokens,
)
def smaller_side(lab: Lab, p: Problem) -> float:
    """Both products have the same non-zero eigenvalues; a zero eigenvalue contributes log 1 = 0."""
    want = truth.precise_logdet(p.Z, 1 / p.eps)
    got = [lab.ops.gram_logdet(Z, 1 / p.eps) for Z in (p.Z, np.ascontiguousarray(p.Z.T))]
    return max(truth.error(value, want) for value in got)


@statement(
    label="larger-side-float32",
    item="0h",
    section=1,
    title="In float32 the larger side is lost",
    formula=r"\log\det_{\mathrm{float32}}(I_d + \alpha Z^\top Z) = \log\det(I_d + \alpha Z^\top Z)",
    corrected=r"\log\det_{\mathrm{float32}}(I_n + \alpha Z Z^\top), \quad n < d",
    source="this project",
    kind="counter-example",
    assumes="d = 64, four tokens, α = 1e8.",
    inside=lambda rng: Problem(Z=rng.standard_normal((4, 64)), alpha=1e8),
    margin=0.1,
    bound=1e-5,
)
def larger_side(lab: Lab, p: Problem) -> Refutation:
    """In float32 the unit diagonal drowns in αZᵀZ: the d − n eigenvalues that should be 1 become rounding noise."""
    want = truth.precise_logdet(p.Z.T, p.alpha)
    Z = p.Z.astype(np.float32)
    wide = float(np.linalg.slogdet(np.eye(64, dtype=np.float32) + np.float32(p.alpha) * Z.T @ Z)[1])
    got = lab.ops.gram_logdet(p.Z, p.alpha)
    return Refutation(truth.error(wide, want), truth.error(got, want), f"{wide:.1f} nats for a truth of {want:.2f}")
