"""§4 The MLP is a sparse-coding step."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import optimize

from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Problem, Refutation, Series, statement


def _residual(A: Any, Z: Any, D: Any) -> Any:
    """½‖Z − ADᵀ‖², entry by entry, real or complex."""
    return 0.5 * np.sum((Z - A @ D.T) ** 2)


def _lasso(A: Any, p: Problem) -> float:
    return float(_residual(A, p.Z, p.D) + p.lam * np.abs(A).sum())


def _shrink(v: float, t: float) -> float:
    """Argmin over x ≥ 0 of ½(x − v)² + t x, by comparing the end point with the stationary point."""
    stationary = v - t
    if stationary <= 0:
        return 0.0
    return min((0.0, stationary), key=lambda x: 0.5 * (x - v) ** 2 + t * x)


@statement(
    label="crate-17",
    item="15",
    section=4,
    title="An ISTA step is a proximal gradient step",
    formula=r"A^+ = \mathrm{ReLU}(A - \eta(AD^\top - Z)D - \eta\lambda) = \mathrm{prox}_{\eta g}(A - \eta\nabla "
    r"f), \quad "
    r"f = \frac{1}{2}\Vert Z - AD^\top\Vert_F^2, \; g = \lambda\Vert A\Vert_1 + \iota_{A \geq 0}",
    source="CRATE (17)",
    kind="identity",
    assumes="D complete or overcomplete; any step.",
    inside=draws.codes,
)
def ista_step(lab: Lab, p: Problem) -> float:
    """∇f = (ADᵀ − Z)D, and the prox of ηλ|x| over x ≥ 0 is a ReLU of x − ηλ."""
    forward = p.A - p.step * truth.gradient(lambda A: _residual(A, p.Z, p.D), p.A)
    want = np.vectorize(_shrink)(forward, p.step * p.lam)
    return truth.error(lab.ops.ista_step(p.A, p.Z, p.D, step=p.step, lam=p.lam), want)


@statement(
    label="lasso-value",
    item="15b",
    section=4,
    title="The sparse-coding objective",
    formula=r"\frac{1}{2}\Vert Z - AD^\top\Vert_F^2 + \lambda\Vert A\Vert_1",
    source="CRATE (15)-(16), with the ½ of (17)",
    kind="identity",
    assumes="None.",
    inside=draws.codes,
)
def lasso_value(lab: Lab, p: Problem) -> float:
    """Definition."""
    return truth.error(lab.ops.lasso(p.A, p.Z, p.D, lam=p.lam), _lasso(p.A, p))


def _long_step(rng: np.random.Generator) -> Problem:
    p = draws.codes(rng)
    return Problem(**vars(p) | {"step": 4.0 / float(np.linalg.norm(p.D, 2) ** 2)})


@statement(
    label="ista-descent",
    item="15c",
    section=4,
    title="ISTA descends from feasible codes",
    formula=r"F(A^+) \leq F(A) - \frac{1}{2\eta}\Vert A^+ - A\Vert_F^2, \quad \eta \leq \frac{1}{\Vert "
    r"D\Vert_2^2}, \; A \geq 0",
    source="proximal descent lemma",
    kind="inequality",
    assumes="A ≥ 0 and η ≤ 1/‖D‖².",
    inside=draws.codes,
    outside=_long_step,
    breaks="a step of 4/‖D‖²",
    quantity="missing descent, relative to F",
    rounding=1e3,
)
def ista_descent(lab: Lab, p: Problem) -> float:
    """The prox minimizes a model that touches F at A and lies above it; strong convexity
    of the model adds the square.
    """
    after = lab.ops.ista_step(p.A, p.Z, p.D, step=p.step, lam=p.lam)
    return float((_lasso(after, p) - _lasso(p.A, p) + np.sum((after - p.A) ** 2) / (2 * p.step)) / _lasso(p.A, p))


@statement(
    label="ista-warm-start",
    item="15d",
    section=4,
    title="From the network's warm start A = Z, descent is not guaranteed",
    formula=r"F(A^+) \leq F(A) \;\mathrm{from}\; A = Z, \quad \eta \leq \frac{1}{\Vert D\Vert_2^2}",
    corrected=r"F(A^+) \leq F(A) \;\mathrm{from}\; A = \max(Z, 0)",
    source="CRATE (17) as the network runs it",
    kind="counter-example",
    assumes="One token, one atom: Z = −1, D = 1, η = 0.1, λ = 0.1.",
    inside=lambda rng: Problem(Z=-np.ones((1, 1)), D=np.ones((1, 1)), step=0.1, lam=0.1),
    samples=1,
    margin=0.1,
)
def warm_start(lab: Lab, p: Problem) -> Refutation:
    """A = Z may be negative, hence infeasible: the ReLU then throws away a perfect fit. F(Z) = λ, F(A⁺) = ½."""

    def rise(start: Any) -> float:
        return _lasso(lab.ops.ista_step(start, p.Z, p.D, step=p.step, lam=p.lam), p) - _lasso(start, p)

    witness = f"Z = −1, D = 1, λ = 0.1: F rises from {_lasso(p.Z, p):.2f} to {_lasso(p.Z, p) + rise(p.Z):.2f}"
    return Refutation(rise(p.Z), max(rise(np.maximum(p.Z, 0.0)), 0.0), witness)


def _orthogonal(rng: np.random.Generator, step: float) -> Problem:
    n, d = int(rng.integers(1, 5)), int(rng.integers(2, 6))
    A = np.abs(rng.standard_normal((n, d)))
    return Problem(A=A, Z=rng.standard_normal((n, d)), D=draws.orthonormal(rng, d, d), step=step, lam=0.2)


@statement(
    label="ista-orthogonal",
    item="16",
    section=4,
    title="With an orthogonal dictionary one step solves the problem",
    formula=r"D^\top D = I, \; \eta = 1: \quad A^+ = \mathrm{argmin}_{A \geq 0} F(A)",
    source="classical",
    kind="identity",
    assumes="D orthogonal, η = 1, any start.",
    inside=lambda rng: _orthogonal(rng, 1.0),
    outside=lambda rng: _orthogonal(rng, 0.5),
    breaks="half a step",
    quantity="excess of the objective over the optimum, relative",
    bound=1e-12,
)
def orthogonal_dictionary(lab: Lab, p: Problem) -> float:
    """A − (ADᵀ − Z)D = ZD: the start drops out. The truth is SciPy's non-negative least squares of an augmented
    problem.
    """
    after = lab.ops.ista_step(p.A, p.Z, p.D, step=p.step, lam=p.lam)
    shifted = p.Z - p.lam * p.D.sum(axis=1)  # for A ≥ 0 the ℓ1 term is linear, and completes the square
    best = np.stack([optimize.nnls(p.D, row)[0] for row in shifted])
    return abs(_lasso(after, p) - _lasso(best, p)) / _lasso(best, p)


def _ill_conditioned(rng: np.random.Generator) -> Problem:
    """Singular values over four decades, every decade equally far from the solution A* = 1 of the lasso."""
    sigma = np.geomspace(1e-4, 1.0, 120)
    D = draws.orthonormal(rng, 120, 120) * sigma
    lam = 1e-3
    return Problem(D=D, Z=((sigma**2 + lam) / sigma)[None, :] @ (D / sigma).T, sigma=sigma, lam=lam)


def _gaps(lab: Lab, p: Problem, momentum: bool) -> Series:
    """F(A_k) − F* at logarithmically spaced steps k; F − F* = ½‖(A − A*)diag(σ)‖² for A ≥ 0."""
    A = before = np.zeros((1, len(p.sigma)))
    steps, gaps = np.unique(np.geomspace(50, 1000, 12).astype(int)), []
    for k in range(1, int(steps[-1]) + 1):
        if momentum:
            weight = (k - 1) / (k + 2)
            A, before = lab.ops.fista_step(A, before, p.Z, p.D, step=1.0, lam=p.lam, momentum=weight), A
        else:
            A = lab.ops.ista_step(A, p.Z, p.D, step=1.0, lam=p.lam)
        if k in steps:
            gaps.append(float(np.sum(((A - 1.0) * p.sigma) ** 2)) / 2)
    return Series(steps, gaps)


@statement(
    label="ista-rate",
    item="16b",
    section=4,
    title="ISTA converges at O(1/k)",
    formula=r"F(A_k) - F^* \leq \frac{\Vert A_0 - A^*\Vert^2}{2\eta k}",
    source="classical; CRATE, Section 2.4",
    kind="order",
    assumes="A dictionary with condition number 10⁴, η = 1/‖D‖², start at 0.",
    inside=_ill_conditioned,
    quantity="slope of the gap in the number of steps",
    slope=(-1.1, -0.95),
    parameter="steps k",
    samples=1,
)
def ista_rate(lab: Lab, p: Problem) -> Series:
    """Sum the descent lemma over k steps. Component i shrinks like (1 − σᵢ²)^k, so the gap is ½Σσᵢ²(1 − σᵢ²)^{2k}:
    with equally many σᵢ per decade it is proportional to 1/k until the smallest σ is reached.
    """
    return _gaps(lab, p, momentum=False)


@statement(
    label="fista-rate",
    item="16c",
    section=4,
    title="FISTA converges at O(1/k²)",
    formula=r"F(A_k) - F^* \leq \frac{2\Vert A_0 - A^*\Vert^2}{\eta (k + 1)^2}",
    source="Beck and Teboulle 2009, Theorem 4.4",
    kind="order",
    assumes="The same dictionary, momentum (k − 1)/(k + 2).",
    inside=_ill_conditioned,
    quantity="slope of the gap in the number of steps",
    slope=(-2.2, -1.9),
    parameter="steps k",
    samples=1,
)
def fista_rate(lab: Lab, p: Problem) -> Series:
    """A Lyapunov function with weights of order k² replaces the sum of the descent lemma; components now oscillate and
    fade as functions of k²σᵢ², which gives 1/k² on the same spectrum.
    """
    return _gaps(lab, p, momentum=True)


def _square(rng: np.random.Generator) -> Problem:
    d = int(rng.integers(1, 7))
    return Problem(
        Z=rng.standard_normal((int(rng.integers(1, 7)), d)), D=rng.standard_normal((d, d)), step=0.1, lam=0.1
    )


@statement(
    label="ista-fold",
    item="17",
    section=4,
    title="The network's step is one matrix",
    formula=r"\mathrm{ReLU}(Z M - \eta\lambda), \quad M = I + \eta(D - D^\top D)",
    source="CRATE (17) at A = Z",
    kind="identity",
    assumes="D square, start A = Z.",
    inside=_square,
)
def ista_fold(lab: Lab, p: Problem) -> float:
    """At A = Z the negative gradient is (Z − ZDᵀ)D = Z(D − DᵀD); both the matrix and the folded step are checked."""
    forward = p.Z - p.step * truth.gradient(lambda A: _residual(A, p.Z, p.D), p.Z)
    want = np.vectorize(_shrink)(forward, p.step * p.lam)
    M = lab.ops.ista_matrix(p.D, step=p.step)
    return max(
        truth.error(p.Z @ M, forward),
        truth.error(lab.ops.folded_ista_step(p.Z, M, step=p.step, lam=p.lam), want),
    )
