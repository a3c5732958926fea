"""§2 What one step of the right size is sure to do."""

from __future__ import annotations

from typing import Any

import numpy as np

from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Problem, statement


@statement(
    label="rate-step",
    item="4d",
    section=2,
    title="A gradient step of 1/α on R moves by at least what it must",
    formula=r"R(Z - \nabla R/\alpha) \leq R(Z) - \frac{\Vert\nabla R\Vert^2}{2\alpha}, \qquad "
    r"R(Z + s\nabla R) \geq R(Z) + s\left(1 - \frac{s\alpha}{16}\right)\Vert\nabla R\Vert^2",
    source="descent lemma with the constants of (4)",
    kind="inequality",
    assumes="Steps up to 1/α down, any step up.",
    inside=draws.curved_tokens,
    outside=lambda rng: Problem(**vars(draws.curved_tokens(rng)) | {"down": 3.0}),
    breaks="a step of 3/α overshoots near Z = 0",
    quantity="missing movement, relative to R",
)
def rate_step(lab: Lab, p: Problem) -> float:
    """Curvature at most α downwards and −α/8 upwards, put into the second-order Taylor bound."""
    alpha = lab.ops.coding_rate_smoothness(p.Z, eps=p.eps)
    stretch = getattr(p, "down", 1.0)
    Z, down = (p.Z if stretch == 1.0 else 1e-3 * p.Z), stretch / alpha
    slope = lab.ops.coding_rate_grad(Z, eps=p.eps)
    size, up = float(np.sum(slope**2)), 8.0 / alpha
    here = truth.rate(Z, p.eps)
    fall = truth.rate(Z - down * slope, p.eps) - here + size / (2 * alpha)
    climb = here + up * (1 - up * alpha / 16) * size - truth.rate(Z + up * slope, p.eps)
    return float(max(fall, climb) / here)


@statement(
    label="compression-descent",
    item="5b",
    section=2,
    title="One exact compression step descends",
    formula=r"R^c(Z - \kappa\nabla R^c) \leq R^c(Z) - \frac{\kappa}{2}\Vert \nabla R^c \Vert^2, \quad \kappa \leq "
    r"1/L_c",
    source="descent lemma; exact form of CRATE (10)",
    kind="inequality",
    assumes="κ ≤ 1/L_c.",
    inside=draws.curved_subspaces,
    outside=lambda rng: Problem(**vars(draws.curved_subspaces(rng)) | {"stretch": 3.0}),
    breaks="κ = 3/L_c on tokens near zero: the step overshoots and the rate rises",
    quantity="missing descent, relative to R^c",
)
def compression_descent(lab: Lab, p: Problem) -> float:
    """Taylor with curvature at most L_c."""
    stretch = getattr(p, "stretch", 1.0)
    Z = p.Z if stretch == 1.0 else 1e-3 * p.Z
    step = stretch / lab.ops.subspace_coding_rate_smoothness(Z, p.U, eps=p.eps)
    after = lab.ops.compression_step(Z, p.U, step=step, eps=p.eps)
    size = float(np.sum(truth.gradient(lambda X: truth.subspace_rate(X, p.U, p.eps), Z) ** 2))
    before = float(truth.subspace_rate(Z, p.U, p.eps))
    change = float(truth.subspace_rate(after, p.U, p.eps)) - before
    return float((change + step * size / 2) / before)


@statement(
    label="srr-descent",
    item="6b",
    section=2,
    title="Proximal gradient with step 1/L never lowers the objective",
    formula=r"F(\mathrm{prox}_{\lambda/L}(Z + \nabla(R - R^c)/L)) \geq F(Z), \quad F = R - R^c - \lambda\Vert Z\Vert_1",
    source="proximal descent lemma with (6)",
    kind="inequality",
    assumes="Step 1/L.",
    inside=draws.curved_subspaces,
    outside=lambda rng: Problem(**vars(draws.curved_subspaces(rng)) | {"stretch": 30.0}),
    breaks="a step of 30/L",
    quantity="fall of the objective, relative",
    rounding=1e5,
)
def srr_descent(lab: Lab, p: Problem) -> float:
    """The prox minimizes a quadratic upper model of −F that touches it at Z."""
    lam, worst, Z = 0.1, -np.inf, p.Z
    step = getattr(p, "stretch", 1.0) / lab.ops.sparse_rate_reduction_smoothness(Z, p.U, eps=p.eps)

    def objective(X: Any) -> float:
        return float(truth.rate(X, p.eps) - truth.subspace_rate(X, p.U, p.eps) - lam * np.abs(X).sum())

    for _ in range(5):
        slope = lab.ops.sparse_rate_reduction_grad(Z, p.U, eps=p.eps)
        after = lab.ops.soft_threshold(Z + step * slope, threshold=step * lam)
        worst = max(worst, (objective(Z) - objective(after)) / (1 + abs(objective(Z))))
        Z = after
    return worst
