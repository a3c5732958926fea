"""§4 Step sizes of the trained network, the second derivation of its sparsifier, and proximal operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Problem, Refutation, statement


def _kaiming(rng: np.random.Generator, step: float = 0.1) -> Problem:
    """A d×d dictionary as the networks are initialised, with positive codes and tokens to fit."""
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
    title="At initialisation η = 0.1 is a safe step",
    formula=r"D_{ij} \sim U(\pm\sqrt{6/d}): \quad 7.4 \leq \Vert D\Vert_2^2 \leq 8.2 \;\Rightarrow\; "
    r"0.1 < 1/\Vert D\Vert_2^2, \; 0.5 > 2/\Vert D\Vert_2^2",
    source="CRATE, Section 3 (η = 0.1) and Table 7 (η = 0.5)",
    kind="inequality",
    assumes="Kaiming-uniform initialisation, d = 384, η = 0.1.",
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
    title="Majorising −R instead of fitting a dictionary",
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
    """Q is minimised by a proximal step of length 4/(9α) on −R, and ∇R = α/(1 + α) Z where ZᵀZ = I. In a frame D the
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
    label="rate-majoriser",
    item="19b",
    section=4,
    title="α/8 is enough curvature to majorise −R",
    formula=r"-R(Y) \leq -R(Z) - \langle \nabla R(Z), Y - Z\rangle + \frac{c\alpha}{2}\Vert Y - Z\Vert^2, \quad "
    r"c = \frac{1}{8}",
    source="sharpens CRATE, Appendix A.3 (c = 9/4)",
    kind="inequality",
    assumes="Any two token sets; hence also for c = 1 and c = 9/4.",
    inside=_pair,
    outside=_too_flat,
    breaks="c = 1/16, around a singular value of √(3/α)",
    quantity="excess over the model, over α‖Y − Z‖²",
    rounding=1e6,
)
def majoriser(lab: Lab, p: Problem) -> float:
    """Taylor with the lower end −α/8 of the Hessian's spectrum (statement 4)."""
    alpha = lab.ops.coding_rate_smoothness(p.Z, eps=p.eps)
    slope, move = lab.ops.coding_rate_grad(p.Z, eps=p.eps), p.Y - p.Z
    size = float(np.sum(move**2))
    model = np.sum(slope * move) - p.curvature * alpha / 2 * size
    return float(float(truth.rate(p.Z, p.eps) + model - truth.rate(p.Y, p.eps)) / (alpha * size))


def _points(rng: np.random.Generator) -> Problem:
    n, d = int(rng.integers(1, 5)), int(rng.integers(1, 6))
    V, t = rng.standard_normal((n, d)), draws.spread(rng, 0.05, 2.0)
    others = np.concatenate([rng.standard_normal((50, n, d)), V + 0.1 * rng.standard_normal((50, n, d))])
    return Problem(V=V, t=t, others=others)


def _l1(X: Any) -> Any:
    return np.abs(X).sum(axis=(-2, -1))


def _group(X: Any) -> Any:
    return np.linalg.norm(X, axis=-1).sum(axis=-1)


def _global_inequality(x: Any, p: Problem, g: Callable[[Any], Any], others: Any) -> float:
    """Largest violation of g(y) ≥ g(x) + ⟨(v − x)/t, y − x⟩ over random y."""
    model = g(x) + np.sum((p.V - x) / p.t * (others - x), axis=(-2, -1))
    return float(np.max(model - g(others)))


@statement(
    label="prox-convex",
    item="20",
    section=4,
    title="Soft, non-negative and group thresholds are proximal operators",
    formula=r"x = \mathrm{prox}_{tg}(v) \;\Leftrightarrow\; g(y) \geq g(x) + \langle (v - x)/t, y - x\rangle "
    r"\;\mathrm{for\;all}\; y",
    source="Moreau; shrinkage of CRATE (15)-(17)",
    kind="inequality",
    assumes="g = ‖·‖₁; the same over y ≥ 0; the sum of row norms.",
    inside=_points,
    quantity="violation of the inequality",
)
def convex_prox(lab: Lab, p: Problem) -> float:
    """(v − x)/t is a subgradient of g at x: exactly the optimality condition, and a global statement by convexity. A
    hundred random y, half of them close to v, are tried; a point other than the prox fails for some.
    """
    soft = lab.ops.soft_threshold(p.V, threshold=p.t)
    relu = lab.ops.relu_threshold(p.V, threshold=p.t)
    group = lab.ops.group_soft_threshold(p.V, threshold=p.t)
    return max(
        _global_inequality(soft, p, _l1, np.concatenate([p.others, p.V[None], 0 * p.V[None], 2 * soft[None]])),
        _global_inequality(relu, p, _l1, np.concatenate([np.abs(p.others), np.maximum(p.V, 0)[None], 0 * p.V[None]])),
        _global_inequality(group, p, _group, np.concatenate([p.others, p.V[None], 0 * p.V[None], 2 * group[None]])),
        float(np.max(-relu)),
    )


@statement(
    label="prox-hard",
    item="20b",
    section=4,
    title="Hard thresholding is the proximal operator of the ℓ0 count",
    formula=r"\mathrm{argmin}_x \; \frac{1}{2}(x - v)^2 + \frac{t^2}{2}[x \neq 0] = v\,[|v| > t]",
    source="the ℓ0 term of CRATE (1)",
    kind="inequality",
    assumes="Not convex: compared with every point of a grid that contains 0 and v.",
    inside=_points,
    quantity="excess over the brute-force minimum",
)
def hard_prox(lab: Lab, p: Problem) -> float:
    """Entry by entry the best non-zero point is v itself, at cost t²/2 against v²/2 for zero."""
    got, worst = lab.ops.hard_threshold(p.V, threshold=p.t), -np.inf
    for v, x in zip(p.V.ravel(), got.ravel(), strict=True):

        def cost(y: float, v: float = v) -> float:
            return float(0.5 * (y - v) ** 2 + 0.5 * p.t**2 * (y != 0))

        best, _ = truth.minimum_on([0.0, v, *np.linspace(-3, 3, 41)], cost)
        worst = max(worst, cost(x) - best)
    return worst


def _sphere_points(rng: np.random.Generator) -> Problem:
    d = int(rng.integers(2, 4))
    return Problem(V=rng.standard_normal((4, d)), t=draws.spread(rng, 0.05, 3.0))


def _sphere_grid(d: int) -> Any:
    """Points on the unit sphere: 20,000 on the circle, 40,000 on the 2-sphere, axes included."""
    if d == 2:
        angle = np.linspace(0, 2 * np.pi, 20_001)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    polar, turn = np.meshgrid(np.linspace(0, np.pi, 143), np.linspace(0, 2 * np.pi, 285))
    flat = np.stack([np.sin(polar) * np.cos(turn), np.sin(polar) * np.sin(turn), np.cos(polar)], axis=-1)
    return np.concatenate([flat.reshape(-1, 3), np.eye(3), -np.eye(3)])


@statement(
    label="prox-sphere",
    item="20c",
    section=4,
    title="Soft thresholding on the unit sphere is exact",
    formula=r"\mathrm{argmin}_{\Vert x\Vert = 1} \frac{1}{2}\Vert x - v\Vert^2 + t\Vert x\Vert_1 = "
    r"\frac{\mathrm{soft}(v, t)}{\Vert\mathrm{soft}(v, t)\Vert}, \;\mathrm{or\;the\;signed\;largest\;axis}",
    source="this project",
    kind="inequality",
    assumes="d = 2, 3: every point of a grid on the sphere is tried.",
    inside=_sphere_points,
    quantity="excess over the brute-force minimum, or ‖x‖ off the sphere",
    bound=1e-12,
)
def sphere_prox(lab: Lab, p: Problem) -> float:
    """On the sphere ½‖x − v‖² is a constant minus ⟨v, x⟩: maximise ⟨|v| − t, |x|⟩. With a positive part, Cauchy and
    Schwarz give its normalisation; with none, the least bad is to put all weight on the largest |v|.
    """
    got = lab.ops.unit_soft_threshold(p.V, threshold=p.t)
    off = float(np.max(np.abs(np.linalg.norm(got, axis=1) - 1)))
    grid, worst = _sphere_grid(p.V.shape[1]), off
    for v, x in zip(p.V, got, strict=True):
        cost = 0.5 * np.sum((grid - v) ** 2, axis=1) + p.t * np.abs(grid).sum(axis=1)
        worst = max(worst, float(0.5 * np.sum((x - v) ** 2) + p.t * np.abs(x).sum() - cost.min()))
    return worst


@statement(
    label="prox-sphere-clipped",
    item="20d",
    section=4,
    title="Normalising alone fails where everything is thresholded",
    formula=r"\mathrm{prox}(v) = \mathrm{soft}(v, t)/\Vert\mathrm{soft}(v, t)\Vert \;\mathrm{for\;every}\; v",
    corrected=r"\mathrm{prox}(v) = \mathrm{sign}(v_j) e_j, \; j = \mathrm{argmax}|v| \;\mathrm{where}\; \max|v| \leq t",
    source="this project",
    kind="counter-example",
    assumes="v = (0.3, −0.2), t = 1: soft(v, t) = 0 has no direction.",
    inside=lambda rng: Problem(v=np.array([[0.3, -0.2]]), t=1.0),
    samples=1,
    margin=0.01,
    bound=1e-12,
)
def clipped_prox(lab: Lab, p: Problem) -> Refutation:
    """The direction of v itself is what a careless normalisation with a small constant gives; the axis is cheaper."""
    grid, naive = _sphere_grid(2), p.v / np.linalg.norm(p.v)

    def cost(x: Any) -> Any:
        return 0.5 * np.sum((x - p.v) ** 2, axis=-1) + p.t * np.abs(x).sum(axis=-1)

    best = float(cost(grid).min())
    got = lab.ops.unit_soft_threshold(p.v, threshold=p.t)
    witness = f"v = (0.3, −0.2), t = 1: cost {cost(naive)[0]:.3f} along v, {cost(got)[0]:.3f} on the axis"
    return Refutation(float(cost(naive)[0]) - best, abs(float(cost(got)[0]) - best), witness)
