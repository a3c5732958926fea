"""§1 Objects: the rates as the papers define them, against 60-digit arithmetic."""

from __future__ import annotations

import numpy as np

from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Refutation, Sample, counterexample, identity


@identity("crate-7", "1.0a", source="CRATE (7)", inside=draws.tokens)
def coding_rate(lab: Lab, p: Sample) -> float:
    r"""Coding rate of tokens.

    $$R(Z) = \frac{1}{2}\log\det(I + \alpha Z^\top Z), \quad \alpha = \frac{d}{n\varepsilon^2}$$

    Assumes: Z finite of any shape, rank and scale; ε > 0.
    Proof: Definition. The operator factors the smaller side; the truth is the d-side determinant in 60 digits.
    """
    want = truth.precise_logdet(p.Z, truth.alpha(p.Z, p.eps)) / 2
    return truth.error(lab.ops.coding_rate(p.Z, eps=p.eps), want)


@identity("crate-8", "1.0b", source="CRATE (8)", inside=draws.free_subspaces)
def subspace_coding_rate(lab: Lab, p: Sample) -> float:
    r"""Coding rate under subspace codebooks.

    $$R^c(Z; U) = \frac{1}{2}\sum_k \log\det(I_p + \beta V_k^\top V_k), \quad V_k = Z U_k, \; \beta =
    \frac{p}{n\varepsilon^2}$$

    Assumes: Any bases, orthonormal or free.
    Proof: Definition, head by head in 60 digits.
    """
    want = sum(truth.precise_logdet(V, truth.beta(p.Z, p.U, p.eps)) for V in p.Z @ p.U) / 2
    return truth.error(lab.ops.subspace_coding_rate(p.Z, p.U, eps=p.eps), want)


@identity("mcr2-rate", "1.0c", source="MCR2 (8)", inside=draws.partition)
def partition_coding_rate(lab: Lab, p: Sample) -> float:
    r"""Coding rate of a partition.

    $$R^c(Z \mid \Pi) = \sum_k \frac{\mathrm{tr}\,\Pi_k}{2n}\log\det\left(I +
    \frac{d}{\mathrm{tr}\,\Pi_k\,\varepsilon^2} Z^\top \Pi_k Z\right)$$

    Assumes: Memberships non-negative, rows summing to one.
    Proof: Definition, class by class in 60 digits; the weights enter as the square root on the tokens.
    """
    n, d = p.Z.shape
    mass = p.Pi.sum(axis=0)
    terms = [
        truth.precise_logdet(np.sqrt(w)[:, None] * p.Z, d / (m * p.eps**2)) for w, m in zip(p.Pi.T, mass, strict=True)
    ]
    return truth.error(lab.ops.partition_coding_rate(p.Z, p.Pi, eps=p.eps), mass @ terms / (2 * n))


def _labeled(rng: np.random.Generator) -> Sample:
    p = draws.partition(rng)
    return p.but(labels=rng.integers(0, 3, size=len(p.Z)))


@identity("mcr2-reduction", "1.0d", source="MCR2 (10)", inside=_labeled)
def rate_reduction(lab: Lab, p: Sample) -> float:
    r"""Rate reduction, from labels or memberships.

    $$\Delta R(Z \mid \Pi) = R(Z) - R^c(Z \mid \Pi)$$

    Assumes: Labels are memberships with one entry per row; empty classes count zero.
    Measured: error relative to R.
    Proof: Definition: the labeled form sorts tokens into segments, the truth multiplies by a one-hot membership.
    """
    one_hot = np.eye(4)[p.labels]
    want = truth.rate(p.Z, p.eps) - truth.partition_rate(p.Z, one_hot, p.eps)
    got = [lab.ops.rate_reduction(p.Z, Pi, eps=p.eps) for Pi in (p.labels, one_hot)]
    return float(max(abs(value - want) for value in got) / truth.rate(p.Z, p.eps))


@identity("crate-1", "1.0e", source="CRATE (1), with the norm relaxed from 0 to 1", inside=draws.subspaces)
def sparse_rate_reduction(lab: Lab, p: Sample) -> float:
    r"""Sparse rate reduction.

    $$R(Z) - R^c(Z; U) - \lambda \Vert Z \Vert_1$$

    Assumes: Any bases; λ ≥ 0.
    Measured: error relative to the sum of the terms.
    Proof: Definition: the three terms, written out one by one.
    """
    terms = np.array([truth.rate(p.Z, p.eps), -truth.subspace_rate(p.Z, p.U, p.eps), -0.1 * np.abs(p.Z).sum()])
    got = lab.ops.sparse_rate_reduction(p.Z, p.U, eps=p.eps, lam=0.1)
    return float(abs(got - terms.sum()) / float(np.abs(terms).sum()))


@identity("weights-mask", "1.0f", source="one class of MCR2 (8)", inside=draws.weighted_tokens)
def weighted_rate(lab: Lab, p: Sample) -> float:
    r"""Token weights: zero masks a token.

    $$R(Z; w) = \frac{1}{2}\log\det\left(I + \frac{d}{\varepsilon^2\sum_i w_i}\sum_i w_i z_i z_i^\top\right)$$

    Assumes: w ≥ 0, not all zero.
    Proof: A token of weight zero adds nothing to the sum, so removing its row must not change the rate.
    """
    kept = p.w > 0
    want = truth.precise_logdet(np.sqrt(p.w[kept])[:, None] * p.Z[kept], p.Z.shape[1] / (p.w.sum() * p.eps**2)) / 2
    return truth.error(lab.ops.coding_rate(p.Z, eps=p.eps, weights=p.w), want)


@identity("smaller-side", "1.0g", source="Sylvester's determinant identity", inside=draws.tokens)
def smaller_side(lab: Lab, p: Sample) -> float:
    r"""One determinant, two sides.

    $$\log\det(I_d + \alpha Z^\top Z) = \log\det(I_n + \alpha Z Z^\top)$$

    Assumes: None.
    Proof: Both products have the same non-zero eigenvalues; a zero eigenvalue contributes log 1 = 0.
    """
    want = truth.precise_logdet(p.Z, 1 / p.eps)
    got = [lab.ops.gram_logdet(Z, 1 / p.eps) for Z in (p.Z, np.ascontiguousarray(p.Z.T))]
    return max(truth.error(value, want) for value in got)


@counterexample(
    "larger-side-float32",
    "1.0h",
    source="this project",
    inside=lambda rng: Sample(Z=rng.standard_normal((4, 64)), alpha=1e8),
    bound=1e-5,
    margin=0.1,
)
def larger_side(lab: Lab, p: Sample) -> Refutation:
    r"""In float32 the larger side is lost.

    $$\log\det_{\mathrm{float32}}(I_d + \alpha Z^\top Z) = \log\det(I_d + \alpha Z^\top Z)$$
    Corrected: $$\log\det_{\mathrm{float32}}(I_n + \alpha Z Z^\top), \quad n < d$$

    Assumes: d = 64, four tokens, α = 1e8.
    Proof: In float32 the unit diagonal drowns in αZᵀZ: the d − n eigenvalues that should be 1 become rounding
    noise.
    """
    want = truth.precise_logdet(p.Z.T, p.alpha)
    Z = p.Z.astype(np.float32)
    wide = float(np.linalg.slogdet(np.eye(64, dtype=np.float32) + np.float32(p.alpha) * Z.T @ Z)[1])
    got = lab.ops.gram_logdet(p.Z, p.alpha)
    return Refutation(truth.error(wide, want), truth.error(got, want), f"{wide:.1f} nats for a truth of {want:.2f}")
