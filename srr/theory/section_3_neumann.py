"""§3 The Neumann series of the compression gradient: where it is accurate, where it is useless."""

from __future__ import annotations

from typing import Any

import numpy as np

from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Problem, Refutation, Series, statement


def _beta(p: Problem) -> float:
    return float(p.U.shape[2] / (len(p.Z) * p.eps**2))


def mixture(rng: np.random.Generator, n: int = 64, K: int = 6, p: int = 8) -> Problem:
    """Unit tokens near K orthogonal subspaces of dimension p that fill the space; 64 tokens in 48 dimensions."""
    U = draws.orthogonal_bases(rng, K, K * p, p)
    labels = rng.integers(K, size=n)
    Z = (U[labels] @ rng.standard_normal((n, p, 1)))[:, :, 0] + 0.2 * rng.standard_normal((n, K * p))
    return Problem(Z=draws.unit_rows(Z), U=U, labels=labels, eps=0.1)


def _small_mixture(rng: np.random.Generator) -> Problem:
    return mixture(rng, n=12, K=3, p=2)


def _valid(rng: np.random.Generator) -> Problem:
    """Orthogonal heads and β max‖V_k‖² drawn below one."""
    p = draws.orthogonal_subspaces(rng)
    top = max(np.linalg.norm(p.Z @ basis, 2) for basis in p.U)
    return Problem(Z=p.Z * np.sqrt(rng.uniform(0.1, 0.95) / _beta(p)) / top, U=p.U, eps=p.eps)


def _unit_validity(rng: np.random.Generator) -> Problem:
    p = _valid(rng)
    top = max(np.linalg.norm(p.Z @ basis, 2) for basis in p.U)
    return Problem(Z=p.Z / (top * np.sqrt(_beta(p))), U=p.U, eps=p.eps)


def _exact(p: Problem) -> Any:
    return truth.gradient(lambda Z: truth.subspace_rate(Z, p.U, p.eps), p.Z)


def _norms(p: Problem) -> tuple[Any, Any]:
    V = [p.Z @ basis for basis in p.U]
    return np.array([np.linalg.norm(v, 2) for v in V]), np.array([np.linalg.norm(v) for v in V])


def _any_heads(rng: np.random.Generator) -> Problem:
    return draws.subspaces(rng) if rng.random() < 0.5 else draws.orthogonal_subspaces(rng)


@statement(
    label="neumann-bound",
    item="10",
    section=3,
    title="Error of the first-order Neumann gradient",
    formula=r"\left\Vert \nabla R^c - \beta\sum_k V_k(I - \beta V_k^\top V_k)U_k^\top \right\Vert_F \leq "
    r"\beta^3 \left(\sum_k \Vert V_k\Vert_2^8 \Vert V_k\Vert_F^2\right)^{1/2}",
    source="this project; first-order form of CRATE (10)",
    kind="inequality",
    assumes="Mutually orthogonal heads for the square root of the sum of squares; otherwise the plain sum "
    "of β³‖V_k‖₂⁴‖V_k‖_F. No restriction on ‖V_k‖.",
    inside=_any_heads,
    quantity="excess over the bound, relative",
    rounding=1e5,
)
def neumann_bound(lab: Lab, p: Problem) -> float:
    """(I + βG)⁻¹ = I − βG + β²G²(I + βG)⁻¹ with G = V_kᵀV_k: the remainder of a head is at most β³‖V_k‖_F‖V_k‖₂⁴."""
    spectral, frobenius = _norms(p)
    heads = _beta(p) ** 3 * spectral**4 * frobenius
    cosines = [np.linalg.norm(a.T @ b, 2) for i, a in enumerate(p.U) for b in p.U[:i]]
    limit = np.sqrt(np.sum(heads**2)) if max(cosines, default=0.0) < 1e-6 else np.sum(heads)
    got = lab.ops.neumann_grad(p.Z, p.U, eps=p.eps, terms=1)
    size = np.linalg.norm(_exact(p))
    return float((np.linalg.norm(got - _exact(p)) - limit) / max(limit, size))


def _error_over_scale(lab: Lab, p: Problem, terms: int, scales: Any) -> Series:
    gaps = []
    for s in scales:
        scaled = Problem(Z=s * p.Z, U=p.U, eps=p.eps)
        got = lab.ops.neumann_grad(scaled.Z, p.U, eps=p.eps, terms=terms)
        gaps.append(float(np.linalg.norm(got - _exact(scaled))))
    return Series(scales, gaps)


@statement(
    label="neumann-order",
    item="10b",
    section=3,
    title="The first-order error grows with the fifth power of the scale",
    formula=r"\Vert \nabla R^c(sZ) - \widehat{\nabla R^c}(sZ) \Vert \sim s^5",
    source="this project; first-order form of CRATE (10)",
    kind="order",
    assumes="β max‖V_k‖² = s² with s between 0.05 and 0.15.",
    inside=_unit_validity,
    quantity="slope of the error in the scale s",
    slope=(4.9, 5.1),
    parameter="scale s",
)
def neumann_order(lab: Lab, p: Problem) -> Series:
    """The first dropped term is β³V_kG²: five factors of Z."""
    return _error_over_scale(lab, p, 1, np.geomspace(0.05, 0.15, 8))


@statement(
    label="neumann-terms",
    item="10c",
    section=3,
    title="Every further term gains two powers",
    formula=r"\Vert \nabla R^c(sZ) - \widehat{\nabla R^c}_J(sZ) \Vert \sim s^{2J + 3}, \quad J = 2",
    source="this project",
    kind="order",
    assumes="β max‖V_k‖² = s² with s between 0.12 and 0.3.",
    inside=_unit_validity,
    quantity="slope of the error in the scale s",
    slope=(6.75, 7.05),
    parameter="scale s",
)
def neumann_terms(lab: Lab, p: Problem) -> Series:
    """After J terms the remainder is βV_k(−βG)^{J+1}(I + βG)⁻¹; with J = 2 the slope is
    7, less what (I + βG)⁻¹ takes.
    """
    return _error_over_scale(lab, p, 2, np.geomspace(0.12, 0.3, 8))


@statement(
    label="neumann-bound-exponent",
    item="10d",
    section=3,
    title="With ‖V_k‖₂⁴ under the root the error bound is false",
    formula=r"\mathrm{error} \leq \beta^3 \left(\sum_k \Vert V_k\Vert_2^4 \Vert V_k\Vert_F^2\right)^{1/2}",
    corrected=r"\mathrm{error} \leq \beta^3 \left(\sum_k \Vert V_k\Vert_2^8 \Vert V_k\Vert_F^2\right)^{1/2}",
    source="an earlier statement of this project",
    kind="counter-example",
    assumes="One token, one head: Z = 2, U = 1, ε = 2, so that β = ¼.",
    inside=lambda rng: Problem(Z=np.full((1, 1), 2.0), U=np.ones((1, 1, 1)), eps=2.0),
    samples=1,
    margin=0.1,
)
def bound_exponent(lab: Lab, p: Problem) -> Refutation:
    """The sum under the root is of squares: (β³‖V‖₂⁴‖V‖_F)² = β⁶‖V‖₂⁸‖V‖_F². The remainder has five factors of Z, the
    printed bound three, so it must fail for large tokens: at x = βv² = 1 the error is βv/2, the printed bound βv/v².
    """
    spectral, frobenius = _norms(p)
    found = np.linalg.norm(lab.ops.neumann_grad(p.Z, p.U, eps=p.eps, terms=1) - _exact(p))
    printed, corrected = (_beta(p) ** 3 * np.sqrt(np.sum(spectral**k * frobenius**2)) for k in (4, 8))
    witness = f"Z = 2, U = 1, ε = 2: error {found:.4f}, printed bound {printed:.4f}, corrected {corrected:.4f}"
    return Refutation(found / printed - 1, max(found / corrected - 1, 0.0), witness)


@statement(
    label="neumann-descent",
    item="10e",
    section=3,
    title="Below β‖V_k‖² = 1 the Neumann gradient is a descent direction",
    formula=r"\left\langle \nabla R^c, \widehat{\nabla R^c} \right\rangle > 0 \;\mathrm{where}\; "
    r"\beta \max_k \Vert V_k\Vert_2^2 < 1",
    source="this project; validity of CRATE (10)",
    kind="inequality",
    assumes="Mutually orthogonal heads; validity number below one.",
    inside=_valid,
    outside=_small_mixture,
    breaks="ε = 0.1, validity number far above one: the Neumann gradient points uphill",
    quantity="minus the cosine with the exact gradient",
)
def neumann_descent(lab: Lab, p: Problem) -> float:
    """On a singular value v of a head, with x = βv², the factors are 1/(1 + x) and 1 − x: of one sign while x < 1."""
    got = lab.ops.neumann_grad(p.Z, p.U, eps=p.eps, terms=1)
    exact = _exact(p)
    own = _beta(p) * np.max(_norms(p)[0]) ** 2
    wrong = truth.error(lab.ops.neumann_validity(p.Z, p.U, eps=p.eps), own) > 1e-4
    return 1.0 if wrong else float(-np.sum(got * exact) / (np.linalg.norm(got) * np.linalg.norm(exact)))


@statement(
    label="neumann-cosine",
    item="13",
    section=3,
    title="How far the Neumann gradient turns away from the exact one",
    formula=r"1 - \cos\left(\nabla R^c, \widehat{\nabla R^c}\right) \;\mathrm{against}\; \beta\max_k \Vert "
    r"V_k\Vert_2^2",
    source="measures CRATE (10)",
    kind="approximation",
    assumes="64 unit tokens near six subspaces (d = 48, p = 8), ε from 3 down to 0.1; inside where the validity "
    "number is below one.",
    inside=mixture,
    quantity="1 − cosine",
    bound=0.1,
    parameter="validity number",
    breaks="beyond one the direction decays, and below ε ≈ 0.4 it points uphill",
    samples=3,
)
def neumann_cosine(lab: Lab, p: Problem) -> Series:
    """Exact gradients by the p×p resolvents written out in NumPy (the complex step agrees on small problems)."""
    x, y = [], []
    for eps in np.geomspace(3.0, 0.1, 12):
        exact, got = _resolvent_gradient(p, eps), lab.ops.neumann_grad(p.Z, p.U, eps=float(eps), terms=1)
        x.append(lab.ops.neumann_validity(p.Z, p.U, eps=float(eps)))
        y.append(1 - float(np.sum(got * exact) / (np.linalg.norm(got) * np.linalg.norm(exact))))
    return Series(np.array(x), np.array(y), np.array(x) < 1)


def _resolvent_gradient(p: Problem, eps: float) -> Any:
    """∇R^c with explicit inverses."""
    beta, total = p.U.shape[2] / (len(p.Z) * eps**2), np.zeros_like(p.Z)
    for basis in p.U:
        V = p.Z @ basis
        total += beta * V @ np.linalg.inv(np.eye(V.shape[1]) + beta * V.T @ V) @ basis.T
    return total


@statement(
    label="neumann-raises",
    item="13b",
    section=3,
    title="Outside its region the Neumann step raises what it should lower",
    formula=r"R^c(Z - \kappa\widehat{\nabla R^c}) \leq R^c(Z), \quad \kappa = 0.01 < 1/L_c",
    corrected=r"R^c(Z - \kappa\nabla R^c) \leq R^c(Z)",
    source="CRATE (10), first-order form",
    kind="counter-example",
    assumes="The mixture of (13) at ε = 0.1.",
    inside=mixture,
    margin=1.0,
    samples=3,
)
def neumann_raises(lab: Lab, p: Problem) -> Refutation:
    """For x = βv² ≫ 1 the factor 1 − x is a large negative number, and the step runs up the rate."""
    before = truth.subspace_rate(p.Z, p.U, p.eps)
    guessed = truth.subspace_rate(lab.ops.neumann_step(p.Z, p.U, step=0.01, eps=p.eps), p.U, p.eps) - before
    exact = truth.subspace_rate(lab.ops.compression_step(p.Z, p.U, step=0.01, eps=p.eps), p.U, p.eps) - before
    witness = f"ε = 0.1, κ = 0.01: the Neumann step changes R^c by {guessed:+.1f} nats, the exact step by {exact:+.2f}"
    return Refutation(guessed, max(exact, 0.0), witness)
