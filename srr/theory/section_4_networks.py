"""§4 Step sizes of the trained network, and the second derivation of its sparsifier."""

from __future__ import annotations

import numpy as np

from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Problem, statement


def _kaiming(rng: np.random.Generator, step: float = 0.1) -> Problem:
    """A d×d dictionary as the networks are initialized, with positive codes and tokens to fit."""
    d = 384
    D = rng.uniform(-1.0, 1.0, size=(d, d)) * np.sqrt(6.0 / d)
    A = np.abs(rng.standard_normal((2, d)))
    return Problem(D=D, A=A, Z=rng.standard_normal((2, d)), step=step, lam=0.1)


def _long_kaiming(rng: np.random.Generator) -> Problem:
    return _kaiming(rng, step=0.5)


@statement(
    label="kaiming-norm",
    item="18",
    section=4,
    title="At initialization η = 0.1 is a safe step",
    formula=r"D_{ij} \sim U(\pm\sqrt{6/d}): \quad 7.4 \leq \Vert D\Vert_2^2 \leq 8.2 \;\Rightarrow\; "
    r"0.1 < 1/\Vert D\Vert_2^2, \; 0.5 > 2/\Vert D\Vert_2^2",
    source="CRATE, Section 3 (η = 0.1) and Table 7 (η = 0.5)",
    kind="inequality",
    assumes="Kaiming-uniform initialization, d = 384, η = 0.1.",
    inside=_kaiming,
    outside=_long_kaiming,
    breaks="the ablation's η = 0.5, beyond 2/‖D‖²: twenty steps blow the objective up",
    quantity="‖D‖² outside [7.4, 8.2], or rise of the objective over 20 steps, relative",
    samples=3,
)
def kaiming_norm(lab: Lab, p: Problem) -> float:
    """Entries have variance 2/d, so by Bai and Yin ‖D‖₂ → 2√2; at d = 384, ‖D‖² = 7.79 ± 0.09 over 40 draws. ISTA
    descends for η ≤ 1/‖D‖².
    """
    size, A = float(np.linalg.norm(p.D, 2) ** 2), p.A
    for _ in range(20):
        A = lab.ops.ista_step(A, p.Z, p.D, step=p.step, lam=p.lam)
    objective = [0.5 * np.sum((p.Z - X @ p.D.T) ** 2) + p.lam * np.abs(X).sum() for X in (p.A, A)]
    return float(max(7.4 - size, size - 8.2, objective[1] / objective[0] - 1))


def _isometric(rng: np.random.Generator) -> Problem:
    """Orthonormal columns of tokens, ZᵀZ = I, with an orthogonal frame."""
    d = int(rng.integers(1, 5))
    n = d + int(rng.integers(0, 3))
    Z, eps = draws.orthonormal(rng, n, d), draws.spread(rng, 0.3, 2.0)
    return Problem(Z=Z, D=draws.orthonormal(rng, d, d), eps=eps, lam=draws.spread(rng, 0.01, 1.0) / eps**2)


def _stretched(rng: np.random.Generator) -> Problem:
    p = _isometric(rng)
    return Problem(**vars(p) | {"Z": 3.0 * p.Z})


@statement(
    label="crate-92",
    item="19",
    section=4,
    title="Majorizing −R instead of fitting a dictionary",
    formula=r"\mathrm{argmin}_{Y \geq 0} \; Q(Y \mid Z) + \lambda\Vert Y\Vert_1 = "
    r"\mathrm{ReLU}\left(\left(1 + \frac{4}{9(1 + \alpha)}\right) Z - \frac{4\lambda}{9\alpha}\right)",
    source="CRATE, Appendix A.3 (92)",
    kind="identity",
    assumes="ZᵀZ = I; Q the quadratic upper model of −R with curvature 9α/4; any orthogonal frame D.",
    inside=_isometric,
    outside=_stretched,
    breaks="tokens with ZᵀZ = 9I: the gradient is then α/(1 + 9α) Z",
)
def prox_mm(lab: Lab, p: Problem) -> float:
    """Q is minimized by a proximal step of length 4/(9α) on −R, and ∇R = α/(1 + α) Z where ZᵀZ = I. In a frame D the
    codes ZD take the place of Z, as R does not see the rotation. The truth takes the gradient by the complex step.
    """
    alpha = p.Z.shape[1] / (len(p.Z) * p.eps**2)
    slope = truth.gradient(lambda Z: truth.rate(Z, p.eps), p.Z)
    worst = 0.0
    for frame, D in ((None, np.eye(p.Z.shape[1])), (p.D, p.D)):
        for curvature in (2.25, 1.0):
            forward = p.Z + slope / (curvature * alpha)
            want = np.maximum(forward @ D - p.lam / (curvature * alpha), 0.0)
            arrays = (p.Z,) if frame is None else (p.Z, frame)
            got = lab.ops.prox_mm_step(*arrays, alpha=alpha, lam=p.lam, curvature=curvature)
            worst = max(worst, float(np.max(np.abs(got - want)) / np.max(np.abs(forward))))
    return worst


def _pair(rng: np.random.Generator, curvature: float = 0.125) -> Problem:
    """Two token sets, near each other and near the most negative curvature half of the time."""
    p = draws.tokens(rng)
    alpha = p.Z.shape[1] / (len(p.Z) * p.eps**2)
    Z, shift = p.Z, rng.standard_normal(p.Z.shape)
    if rng.random() < 0.5 or curvature < 0.125:
        Z, shift = np.zeros_like(p.Z), np.zeros_like(p.Z)
        Z[0, 0], shift[0, 0] = np.sqrt(3 / alpha), 0.05 * np.sqrt(3 / alpha)
    return Problem(Z=Z, Y=Z + shift, eps=p.eps, curvature=curvature)


def _too_flat(rng: np.random.Generator) -> Problem:
    return _pair(rng, curvature=1 / 16)


@statement(
    label="rate-majorizer",
    item="19b",
    section=4,
    title="α/8 is enough curvature to majorize −R",
    formula=r"-R(Y) \leq -R(Z) - \langle \nabla R(Z), Y - Z\rangle + \frac{c\alpha}{2}\Vert Y - Z\Vert^2, \quad "
    r"c = \frac{1}{8}",
    source="sharpens CRATE, Appendix A.3 (c = 9/4)",
    kind="inequality",
    assumes="Any two token sets; hence also for c = 1 and c = 9/4.",
    inside=_pair,
    outside=_too_flat,
    breaks="c = 1/16, around a singular value of √(3/α)",
    quantity="excess over the model, over α‖Y − Z‖²",
    bound=1e-9,
)
def majorizer(lab: Lab, p: Problem) -> float:
    """Taylor with the lower end −α/8 of the Hessian's spectrum (statement 4)."""
    alpha = lab.ops.coding_rate_smoothness(p.Z, eps=p.eps)
    slope, move = lab.ops.coding_rate_grad(p.Z, eps=p.eps), p.Y - p.Z
    size = float(np.sum(move**2))
    model = np.sum(slope * move) - p.curvature * alpha / 2 * size
    return float(float(truth.rate(p.Z, p.eps) + model - truth.rate(p.Y, p.eps)) / (alpha * size))
