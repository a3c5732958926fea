"""§4 Proximal operators: the convex ones by their global inequality, the others by brute force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Problem, Refutation, statement


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
    """On the sphere ½‖x − v‖² is a constant minus ⟨v, x⟩: maximize ⟨|v| − t, |x|⟩. With a positive part, Cauchy and
    Schwarz give its normalization; with none, the least bad is to put all weight on the largest |v|.
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
    title="Normalizing alone fails where everything is thresholded",
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
    """The direction of v itself is what a careless normalization with a small constant gives; the axis is cheaper."""
    grid, naive = _sphere_grid(2), p.v / np.linalg.norm(p.v)

    def cost(x: Any) -> Any:
        return 0.5 * np.sum((x - p.v) ** 2, axis=-1) + p.t * np.abs(x).sum(axis=-1)

    best = float(cost(grid).min())
    got = lab.ops.unit_soft_threshold(p.v, threshold=p.t)
    witness = f"v = (0.3, −0.2), t = 1: cost {cost(naive)[0]:.3f} along v, {cost(got)[0]:.3f} on the axis"
    return Refutation(float(cost(naive)[0]) - best, abs(float(cost(got)[0]) - best), witness)
