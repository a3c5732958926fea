"""§2 Bounds on the rates."""

from __future__ import annotations

import numpy as np

from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Problem, Refutation, Series, statement


@statement(
    label="rate-bound",
    item="7",
    section=2,
    title="The rate is largest when the energy is spread evenly",
    formula=r"R(Z) \leq \frac{r}{2} \log\left(1 + \frac{\alpha \Vert Z\Vert_F^2}{r}\right), \quad r = \min(n, d)",
    source="concavity of the logarithm; MCR2, Lemma A.2",
    kind="inequality",
    assumes="None.",
    inside=draws.tokens,
    quantity="excess over the bound, relative",
    rounding=1e3,
)
def rate_bound(lab: Lab, p: Problem) -> float:
    """Jensen on the r possibly non-zero eigenvalues of αZᵀZ, whose sum is α‖Z‖²."""
    n, d = p.Z.shape
    r = min(n, d)
    limit = r / 2 * np.log1p(d / (n * p.eps**2) * np.sum(p.Z**2) / r)
    return float(lab.ops.coding_rate(p.Z, eps=p.eps) / limit - 1)


@statement(
    label="rate-subadditive",
    item="7b",
    section=2,
    title="A union of blocks costs at most the sum of its blocks",
    formula=r"R(Z) \leq \sum_k \frac{1}{2}\log\det(I + \alpha Z_k^\top Z_k), \quad Z^\top Z = \sum_k Z_k^\top Z_k",
    source="Fischer's inequality",
    kind="inequality",
    assumes="One α for all, that of Z.",
    inside=draws.tokens,
    quantity="excess over the sum, relative to R",
    rounding=1e3,
)
def rate_subadditive(lab: Lab, p: Problem) -> float:
    """The larger-side matrix I + αZZᵀ has the blocks I + αZ_kZ_kᵀ on its diagonal: det ≤ product (Fischer)."""
    whole = lab.ops.coding_rate(p.Z, eps=p.eps)
    cut = len(p.Z) // 2
    blocks = [block for block in (p.Z[:cut], p.Z[cut:]) if len(block)]
    alpha = p.Z.shape[1] / (len(p.Z) * p.eps**2)
    parts = sum(lab.ops.gram_logdet(b, alpha) for b in blocks) / 2
    return float((whole - parts) / whole)


def _overfull(rng: np.random.Generator) -> Problem:
    p = draws.partition(rng)
    return Problem(Z=p.Z, Pi=np.ones((len(p.Z), 3)), eps=p.eps, overfull=True)


@statement(
    label="reduction-nonnegative",
    item="7c",
    section=2,
    title="Coding in classes never costs more: ΔR ≥ 0",
    formula=r"R^c(Z \mid \Pi) \leq R(Z)",
    source="MCR2, Lemma A.4",
    kind="inequality",
    assumes="Rows of Π sum to one.",
    inside=draws.partition,
    outside=_overfull,
    breaks="rows of Π that sum to K: the same tokens are then coded K times",
    quantity="excess over R, relative",
    rounding=1e3,
)
def reduction_nonnegative(lab: Lab, p: Problem) -> float:
    """Log det is concave: R(Z) = ½ log det of the average, with weights tr Π_k/n, of the I + α_kZᵀΠ_kZ."""
    if getattr(p, "overfull", False):
        parts = truth.partition_rate(p.Z, p.Pi, p.eps)
    else:
        parts = lab.ops.partition_coding_rate(p.Z, p.Pi, eps=p.eps)
    return float(parts / truth.rate(p.Z, p.eps) - 1)


def _two_memberships(rng: np.random.Generator) -> Problem:
    p = draws.partition(rng)
    return Problem(Z=p.Z, eps=p.eps, Pi=p.Pi, other=draws.membership(rng, *p.Pi.shape), t=float(rng.uniform()))


@statement(
    label="partition-concave",
    item="7d",
    section=2,
    title="The rate of a partition is concave in the memberships",
    formula=r"R^c(Z \mid t\Pi + (1 - t)\Pi') \geq t R^c(Z \mid \Pi) + (1 - t) R^c(Z \mid \Pi')",
    source="MCR2, Section 2",
    kind="inequality",
    assumes="Rows of Π and Π′ on the simplex.",
    inside=_two_memberships,
    quantity="missing concavity, relative to R",
    rounding=1e3,
)
def partition_concave(lab: Lab, p: Problem) -> float:
    """M logdet(I + S/m) is the perspective of a concave function of S, hence jointly concave in (S, m), both linear in
    Π.
    """
    mixed = lab.ops.partition_coding_rate(p.Z, p.t * p.Pi + (1 - p.t) * p.other, eps=p.eps)
    first, second = (truth.partition_rate(p.Z, Pi, p.eps) for Pi in (p.Pi, p.other))
    return float(float(p.t * first + (1 - p.t) * second - mixed) / truth.rate(p.Z, p.eps))


def _incomplete(rng: np.random.Generator) -> Problem:
    U = draws.orthogonal_bases(rng, 2, 6, 1)
    return Problem(Z=1e3 * rng.standard_normal((12, 6)), U=U, eps=0.5)


@statement(
    label="srr-gap-bound",
    item="7e",
    section=2,
    title="The unsparse objective is at most ½ d log K",
    formula=r"R(Z) - R^c(Z; U) \leq \frac{1}{2} d \log K",
    source="this project",
    kind="inequality",
    assumes="U complete and orthonormal: Kp = d.",
    inside=draws.orthogonal_subspaces,
    outside=_incomplete,
    breaks="bases that leave directions uncovered: R grows there without limit",
    quantity="excess over ½ d log K, relative",
    rounding=1e3,
)
def gap_bound(lab: Lab, p: Problem) -> float:
    """Fischer in the basis U bounds R by blocks at scale α = Kβ, and 1 + Kβx ≤ K(1 + βx) for every eigenvalue x ≥ 0."""
    gap = lab.ops.sparse_rate_reduction(p.Z, p.U, eps=p.eps, lam=0.0)
    return float(gap / (p.Z.shape[1] / 2 * np.log(len(p.U))) - 1)


def _isotropic(rng: np.random.Generator) -> Problem:
    Z = draws.orthonormal(rng, 64, 32) * np.sqrt(64 / 32)
    return Problem(Z=Z, U=draws.orthogonal_bases(rng, 4, 32, 8))


@statement(
    label="srr-gap-approached",
    item="7f",
    section=2,
    title="Large isotropic tokens approach ½ d log K at rate 1/s²",
    formula=r"\frac{1}{2} d \log K - (R - R^c)(sZ) \sim s^{-2}, \quad Z^\top Z = n I / d",
    source="this project",
    kind="order",
    assumes="Z isotropic, U complete and orthonormal (d = 32, K = 4: ½ d log K = 22.181).",
    inside=_isotropic,
    quantity="slope of the gap in the scale s",
    slope=(-2.05, -1.95),
    parameter="scale s",
)
def gap_approached(lab: Lab, p: Problem) -> Series:
    """All eigenvalues equal x = αs²n/d: the gap is ½ d log(K(1 + x/K)/(1 + x)) = ½ d (K − 1)/x + O(x⁻²)."""
    scales = np.geomspace(10, 100, 8)
    limit = p.Z.shape[1] / 2 * np.log(len(p.U))
    gaps = [limit - lab.ops.sparse_rate_reduction(s * p.Z, p.U, eps=1.0, lam=0.0) for s in scales]
    return Series(scales, gaps)


@statement(
    label="srr-gap-negative",
    item="7g",
    section=2,
    title="R − R^c(·;U) has no lower bound at zero",
    formula=r"R(Z) - R^c(Z; U) \geq 0",
    corrected=r"R(Z) - R^c(Z; U) < 0 \;\mathrm{for}\; Z = (1, 1), \; U = (e_1, e_2)",
    source="by false analogy with MCR2, Lemma A.4",
    kind="counter-example",
    assumes="One token spread over both heads of a complete orthonormal U.",
    inside=lambda rng: Problem(Z=np.ones((1, 2)), U=np.eye(2)[:, :, None], eps=1.0),
    samples=1,
    margin=0.1,
)
def gap_negative(lab: Lab, p: Problem) -> Refutation:
    """R = ½ log(1 + 2·2) = ½ log 5; each head sees a 1: R^c = 2·½ log 2 = ½ log 4 at ε = 1 with β = 1. Stretched by s,
    R grows like log s and R^c like 2 log s, so the difference falls without limit.
    """
    sizes = [1.0, 2.0, 4.0, 8.0]
    gaps = [lab.ops.sparse_rate_reduction(s * p.Z, p.U, eps=p.eps, lam=0.0) for s in sizes]
    exact = [0.5 * np.log1p(4 * s**2) - np.log1p(s**2) for s in sizes]
    first = next(s for s, gap in zip(sizes, gaps, strict=True) if gap < 0)
    witness = f"Z = ({first:g}, {first:g}), U = (e₁, e₂), ε = 1: R − R^c = {gaps[sizes.index(first)]:.4f} nats"
    return Refutation(-min(gaps), truth.error(gaps, exact), witness)
