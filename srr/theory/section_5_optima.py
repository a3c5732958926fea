"""§5 Optima of the rate reduction in closed form."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import optimize

from srr.penalties import ClassSpheres
from srr.problems import RateReduction
from srr.solvers import ProximalGradient, minimize
from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Problem, statement


def _scales(p: Problem) -> tuple[float, Any]:
    """α, and α_k of every class."""
    n, d = sum(p.sizes), p.d
    return d / (n * p.eps**2), d / (np.asarray(p.sizes) * p.eps**2)


def _roots(p: Problem, k: int, larger: bool = True) -> float:
    """S of class k: a root of λ(1 + αs²)(1 + α_ks²) = α(α_k − α)s²."""
    alpha, own = _scales(p)
    line = p.lam * (alpha + own[k]) - alpha * (own[k] - alpha)
    pair = np.sort(np.roots([p.lam * alpha * own[k], line, p.lam]).real)
    return float(np.sqrt(pair[1] if larger else pair[0]))


def _labels(p: Problem) -> Any:
    return np.repeat(np.arange(len(p.sizes)), p.sizes)


def _truth(Z: Any, p: Problem) -> Any:
    """ΔR − λ/2 ‖Z‖², from the definitions."""
    one_hot = np.eye(len(p.sizes))[_labels(p)]
    return truth.rate(Z, p.eps) - truth.partition_rate(Z, one_hot, p.eps) - p.lam / 2 * np.sum(Z**2)


def _aligned(p: Problem, ranks: Any, larger: bool = True) -> Any:
    """Tokens Z_k = s_k V_k U_kᵀ with the given ranks, on coordinate axes."""
    Z, row, axis = np.zeros((sum(p.sizes), p.d)), 0, 0
    for k, (size, rank) in enumerate(zip(p.sizes, ranks, strict=True)):
        for j in range(rank):
            Z[row + j, axis + j] = _roots(p, k, larger)
        row, axis = row + size, axis + rank
    return Z


def _fill(rng: np.random.Generator, eps: float = 0.3) -> Problem:
    """Classes of as many tokens as their rank, together filling at most d dimensions."""
    sizes = tuple(int(size) for size in rng.integers(3, 5, size=3))
    d = sum(sizes) + int(rng.integers(0, 3))
    return Problem(sizes=sizes, d=d, eps=eps, Z=rng.standard_normal((sum(sizes), d)))


def _coarse(rng: np.random.Generator) -> Problem:
    return _fill(rng, eps=30.0)


@statement(
    label="mcr2-optimum",
    item="23",
    section=5,
    title="MCR² makes classes orthogonal and their singular values equal",
    formula=r"\Vert Z_k\Vert_F^2 = n_k, \; \mathrm{rank}\,Z_k \leq d_k, \; \sum_k d_k \leq d: \quad "
    r"Z_k Z_l^\top = 0, \; \sigma_1(Z_k) = \ldots = \sigma_{d_k - 1}(Z_k)",
    source="MCR2, Theorem 2.1",
    kind="identity",
    assumes="Distortion small enough: ε⁴ < min_k (n_k/n)(d/d_k)²; here n_k = d_k bounds the ranks.",
    inside=_fill,
    outside=_coarse,
    breaks="ε = 30: below the curvature change of log, energy gathers in one direction",
    quantity="largest |Z_kZ_lᵀ| entry or spread of the leading singular values",
    bound=1e-4,
    rounding=1e5,
    samples=4,
)
def mcr2_optimum(lab: Lab, p: Problem) -> float:
    """At orthogonal classes ΔR is a sum of log(1 + αx) − γ log(1 + αx/γ) over squared singular values x, increasing
    and, for αx large enough, concave: even spread is best. The solver ascends from a random start on the spheres.
    """
    labels = _labels(p)
    problem = RateReduction(lab.array(labels), eps=p.eps, penalty=ClassSpheres(lab.array(labels)))
    Z = lab.numpy(minimize(problem, lab.array(p.Z), ProximalGradient(), tol=1e-9, max_steps=3000).Z)
    blocks = [Z[labels == k] for k in range(len(p.sizes))]
    overlap = max(float(np.max(np.abs(a @ b.T))) for a, b in itertools.combinations(blocks, 2))
    leading = [np.linalg.svd(block, compute_uv=False)[: len(block) - 1] for block in blocks]
    return max(overlap, *(float(np.ptp(values)) for values in leading), 0.0)


def _ridge(rng: np.random.Generator) -> Problem:
    lam = float(rng.choice([0.01, 0.03, 0.05, 0.1]))
    return Problem(sizes=(30, 30, 30), d=24, eps=0.5, lam=lam, Z=rng.standard_normal((90, 24)))


@statement(
    label="geom-optimum",
    item="24",
    section=5,
    title="Maximizers of the regularized rate reduction in closed form",
    formula=r"\lambda(1 + \alpha s_k^2)(1 + \alpha_k s_k^2) = \alpha(\alpha_k - \alpha)s_k^2, \quad "
    r"Z_k = s_k V_k U_k^\top, \; U_k^\top U_l = 0",
    source="GEOM, Theorem 3.1",
    kind="identity",
    assumes="d = 24, three classes of 30, ε = 0.5, λ = 0.01, 0.03, 0.05 or 0.1, where s = 8.08778, 4.57802, 3.47261 "
    "and 2.31561; random start.",
    inside=_ridge,
    quantity="error of the singular values, relative",
    bound=1e-6,
    rounding=1e5,
    samples=3,
)
def ridge_optimum(lab: Lab, p: Problem) -> float:
    """Stationarity of ½log(1 + αs²) − (n_k/2n)log(1 + α_ks²) − λs²/2, with n_kα_k = nα. SciPy's L-BFGS climbs the
    operators' value and gradient from a random start and must arrive at the larger root, 24 singular values in all.
    """
    labels = _labels(p)

    def cost(x: Any) -> tuple[float, Any]:
        Z = x.reshape(p.Z.shape)
        value, slope = lab.ops.rate_reduction_value_and_grad(Z, labels, eps=p.eps)
        return p.lam / 2 * float(np.sum(Z**2)) - float(value), (p.lam * Z - slope).ravel()

    settings = {"maxiter": 3000, "maxfun": 4000, "ftol": 1e-16, "gtol": 1e-9}
    found = optimize.minimize(cost, p.Z.ravel(), jac=True, method="L-BFGS-B", options=settings).x.reshape(p.Z.shape)
    sigma = np.concatenate([np.linalg.svd(found[labels == k], compute_uv=False) for k in range(3)])
    return truth.error(np.sort(sigma)[-p.d :], np.full(p.d, _roots(p, 0)))


def _any_sizes(rng: np.random.Generator) -> Problem:
    sizes = tuple(int(size) for size in rng.integers(3, 9, size=3))
    return Problem(sizes=sizes, d=int(rng.integers(4, 9)), eps=draws.spread(rng, 0.2, 1.0))


@statement(
    label="geom-existence",
    item="24b",
    section=5,
    title="Non-zero critical points exist up to an exact λ",
    formula=r"0 < \lambda \leq \alpha\,\frac{\sqrt{n/n_{\max}} - 1}{\sqrt{n/n_{\max}} + 1}",
    source="GEOM, Theorem 3.1",
    kind="identity",
    assumes="Any sizes; the bound is that of the largest class.",
    inside=_any_sizes,
    bound=1e-8,
)
def ridge_existence(lab: Lab, p: Problem) -> float:
    """The slope per unit of energy of class k is h(x) = α(α_k − α)x/((1 + αx)(1 + α_kx)), largest at x = 1/√(αα_k).
    The truth maximizes it numerically; the slope itself is read off the operator's gradient on one scaled token.
    """
    alpha, own = _scales(p)
    k, n = int(np.argmax(p.sizes)), sum(p.sizes)
    ratio = np.sqrt(n / max(p.sizes))
    row = int(np.sum(p.sizes[:k]))

    def slope(log_x: float) -> float:
        Z = np.zeros((n, p.d))
        Z[row, 0] = np.exp(log_x / 2)
        one_hot = np.eye(len(p.sizes))[_labels(p)]
        return float(lab.ops.rate_reduction_grad(Z, one_hot, eps=p.eps)[row, 0] / Z[row, 0])

    center = -np.log(alpha * own[k]) / 2
    best = optimize.minimize_scalar(lambda x: -slope(x), bounds=(center - 3, center + 2), method="bounded")
    return truth.error(-best.fun, alpha * (ratio - 1) / (ratio + 1))


def _small_ridge(rng: np.random.Generator) -> Problem:
    p = Problem(sizes=(2, 3), d=3, eps=0.5)
    alpha, _ = _scales(p)
    ratio = np.sqrt(5 / 3)
    lam = float(rng.uniform(0.2, 0.9)) * alpha * (ratio - 1) / (ratio + 1)
    return Problem(**vars(p), lam=lam, ranks=np.array([rng.integers(0, 3), 1]))


@statement(
    label="geom-landscape",
    item="24c",
    section=5,
    title="Larger roots are local maxima, smaller roots strict saddles",
    formula=r"\nabla^2 F \preceq 0 \;\mathrm{at\;larger\;roots\;of\;any\;ranks}, \qquad "
    r"\lambda_{\max}\nabla^2 F > 0 \;\mathrm{where\;a\;smaller\;root\;occurs}",
    source="GEOM, Theorem 3.2",
    kind="inequality",
    assumes="Two classes of 2 and 3 tokens in R³, λ below its bound.",
    inside=_small_ridge,
    quantity="gradient, rise at a maximum, or missing rise at a saddle, over λ",
    bound=1e-6,
    rounding=1e5,
    samples=5,
)
def ridge_landscape(lab: Lab, p: Problem) -> float:
    """Along the scale of one singular direction the objective has its minimum at the smaller root: a direction of
    ascent. Hessians are differenced from complex-step gradients of the definition; that the points are critical is
    checked with the operator's gradient.
    """
    labels, worst = _labels(p), 0.0
    for larger in (True, False):
        Z = _aligned(p, p.ranks, larger=larger)
        slope = lab.ops.rate_reduction_grad(Z, labels, eps=p.eps) - p.lam * Z
        top = float(np.linalg.eigvalsh(truth.hessian(lambda X: _truth(X, p), Z))[-1])
        wrong = top if larger else 1e-3 * p.lam - top
        worst = max(worst, float(np.max(np.abs(slope))) / p.lam, wrong / p.lam)
    return worst


def _three_classes(rng: np.random.Generator) -> Problem:
    sizes = tuple(int(size) for size in rng.permutation([2, 3, 4]))
    p = Problem(sizes=sizes, d=5, eps=0.4)
    alpha, _ = _scales(p)
    lam = float(rng.uniform(0.2, 0.9)) * alpha * (1.5 - 1) / (1.5 + 1)
    return Problem(**vars(p), lam=lam)


def _allocations(p: Problem) -> Iterator[tuple[int, ...]]:
    for ranks in itertools.product(*(range(size + 1) for size in p.sizes)):
        if sum(ranks) <= p.d:
            yield ranks


@statement(
    label="geom-global",
    item="24d",
    section=5,
    title="The global maximum fills all dimensions, smaller classes first",
    formula=r"\sum_k r_k = \min(n, d), \quad r_k < n_k \;\Rightarrow\; r_l = 0 "
    r"\;\mathrm{for\;all\;larger\;classes}\; l",
    source="GEOM, Theorem 3.1",
    kind="identity",
    assumes="Three classes of 2, 3 and 4 tokens in any order, d = 5.",
    inside=_three_classes,
    quantity="gap to the best of all rank allocations, relative",
    samples=5,
)
def ridge_global(lab: Lab, p: Problem) -> float:
    """A direction is worth more in a smaller class, whose α_k is larger. The truth evaluates the definition at every
    allocation of ranks; the operator's value at the rule's allocation must reach the best of them.
    """
    left, ranks = p.d, [0] * len(p.sizes)
    for k in np.argsort(p.sizes):
        ranks[k] = min(p.sizes[k], left)
        left -= ranks[k]
    Z = _aligned(p, ranks)
    own = float(lab.ops.rate_reduction(Z, _labels(p), eps=p.eps)) - p.lam / 2 * float(np.sum(Z**2))
    best = max(float(_truth(_aligned(p, each), p)) for each in _allocations(p))
    return float(abs(own - best) / best)
