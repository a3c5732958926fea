"""§4 The MLP is a sparse-coding step: ISTA, the networks' step sizes, and proximal operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import optimize

from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Refutation, Sample, Series, counterexample, identity, inequality, order

# --- ISTA and FISTA


def _lasso(A: Any, p: Sample) -> float:
    return float(truth.lasso(A, p.Z, p.D, p.lam))


def _shrink(v: float, t: float) -> float:
    """Argmin over x ≥ 0 of ½(x − v)² + t x, by comparing the end point with the stationary point."""
    stationary = v - t
    if stationary <= 0:
        return 0.0
    return min((0.0, stationary), key=lambda x: 0.5 * (x - v) ** 2 + t * x)


@identity("crate-17", "4.15", source="CRATE (17)", inside=draws.codes)
def ista_step(lab: Lab, p: Sample) -> float:
    r"""An ISTA step is a proximal gradient step.

    $$A^+ = \mathrm{ReLU}(A - \eta(AD^\top - Z)D - \eta\lambda) = \mathrm{prox}_{\eta g}(A - \eta\nabla f), \quad f
    = \frac{1}{2}\Vert Z - AD^\top\Vert_F^2, \; g = \lambda\Vert A\Vert_1 + \iota_{A \geq 0}$$

    Assumes: D complete or overcomplete; any step.
    Proof: ∇f = (ADᵀ − Z)D, and the prox of ηλ|x| over x ≥ 0 is a ReLU of x − ηλ.
    """
    forward = p.A - p.step * truth.gradient(lambda A: truth.lasso(A, p.Z, p.D), p.A)
    want = np.vectorize(_shrink)(forward, p.step * p.lam)
    return truth.error(lab.ops.ista_step(p.A, p.Z, p.D, step=p.step, lam=p.lam), want)


@identity("lasso-value", "4.15b", source="CRATE (15)-(16), with the ½ of (17)", inside=draws.codes)
def lasso_value(lab: Lab, p: Sample) -> float:
    r"""The sparse-coding objective.

    $$\frac{1}{2}\Vert Z - AD^\top\Vert_F^2 + \lambda\Vert A\Vert_1$$

    Assumes: None.
    Proof: Definition.
    """
    return truth.error(lab.ops.lasso(p.A, p.Z, p.D, lam=p.lam), _lasso(p.A, p))


def _long_step(rng: np.random.Generator) -> Sample:
    p = draws.codes(rng)
    return p.but(step=4.0 / float(np.linalg.norm(p.D, 2) ** 2))


@inequality(
    "ista-descent", "4.15c", source="proximal descent lemma", inside=draws.codes, outside=_long_step, rounding=1e3
)
def ista_descent(lab: Lab, p: Sample) -> float:
    r"""ISTA descends from feasible codes.

    $$F(A^+) \leq F(A) - \frac{1}{2\eta}\Vert A^+ - A\Vert_F^2, \quad \eta \leq \frac{1}{\Vert D\Vert_2^2}, \; A
    \geq 0$$

    Assumes: A ≥ 0 and η ≤ 1/‖D‖².
    Measured: missing descent, relative to F.
    Outside: a step of 4/‖D‖².
    Proof: The prox minimizes a model that touches F at A and lies above it; strong convexity of the model adds the
    square.
    """
    after = lab.ops.ista_step(p.A, p.Z, p.D, step=p.step, lam=p.lam)
    return float((_lasso(after, p) - _lasso(p.A, p) + np.sum((after - p.A) ** 2) / (2 * p.step)) / _lasso(p.A, p))


@counterexample(
    "ista-warm-start",
    "4.15d",
    source="CRATE (17) as the network runs it",
    inside=lambda rng: Sample(Z=-np.ones((1, 1)), D=np.ones((1, 1)), step=0.1, lam=0.1),
    margin=0.1,
    samples=1,
)
def warm_start(lab: Lab, p: Sample) -> Refutation:
    r"""From the network's warm start A = Z, descent is not guaranteed.

    $$F(A^+) \leq F(A) \;\mathrm{from}\; A = Z, \quad \eta \leq \frac{1}{\Vert D\Vert_2^2}$$
    Corrected: $$F(A^+) \leq F(A) \;\mathrm{from}\; A = \max(Z, 0)$$

    Assumes: One token, one atom: Z = −1, D = 1, η = 0.1, λ = 0.1.
    Proof: A = Z may be negative, hence infeasible: the ReLU then throws away a perfect fit. F(Z) = λ, F(A⁺) = ½.
    """

    def rise(start: Any) -> float:
        return _lasso(lab.ops.ista_step(start, p.Z, p.D, step=p.step, lam=p.lam), p) - _lasso(start, p)

    witness = f"Z = −1, D = 1, λ = 0.1: F rises from {_lasso(p.Z, p):.2f} to {_lasso(p.Z, p) + rise(p.Z):.2f}"
    return Refutation(rise(p.Z), max(rise(np.maximum(p.Z, 0.0)), 0.0), witness)


@inequality(
    "ista-from-feasible",
    "4.15e",
    source="this project; CRATE (17) made to descend",
    inside=lambda rng: draws.codes(rng).but(steps=int(rng.integers(1, 6))),
    outside=lambda rng: _long_step(rng).but(steps=5),
    rounding=1e3,
)
def ista_from_feasible(lab: Lab, p: Sample) -> float:
    r"""Started from the positive part, every ISTA step of a layer descends.

    $$F(A_{t+1}) \leq F(A_t), \quad A_0 = \max(XD, 0), \; \eta = \frac{a}{\Vert D\Vert_2^2}, \; 0 < a \leq 1$$

    Assumes: X any tokens, D any dictionary, one step or several.
    Measured: largest rise of a step, relative to F.
    Outside: a step of 4/‖D‖².
    Proof: The positive part is feasible, which the warm start of the released networks is not (15d); then (15c), step
    by step.
    """
    path = [np.maximum(p.Z @ p.D, 0.0)]
    for _ in range(p.steps):
        path.append(lab.ops.ista_step(path[-1], p.Z, p.D, step=p.step, lam=p.lam))
    height = np.array([_lasso(A, p) for A in path])
    return float(np.max((height[1:] - height[:-1]) / height[:-1]))


def _orthogonal(rng: np.random.Generator, step: float) -> Sample:
    n, d = int(rng.integers(1, 5)), int(rng.integers(2, 6))
    A = np.abs(rng.standard_normal((n, d)))
    return Sample(A=A, Z=rng.standard_normal((n, d)), D=draws.orthonormal(rng, d, d), step=step, lam=0.2)


@identity(
    "ista-orthogonal",
    "4.16",
    source="classical",
    inside=lambda rng: _orthogonal(rng, 1.0),
    outside=lambda rng: _orthogonal(rng, 0.5),
    bound=1e-12,
)
def orthogonal_dictionary(lab: Lab, p: Sample) -> float:
    r"""With an orthogonal dictionary one step solves the problem.

    $$D^\top D = I, \; \eta = 1: \quad A^+ = \mathrm{argmin}_{A \geq 0} F(A)$$

    Assumes: D orthogonal, η = 1, any start.
    Measured: excess of the objective over the optimum, relative.
    Outside: half a step.
    Proof: A − (ADᵀ − Z)D = ZD: the start drops out. The truth is SciPy's non-negative least squares of an augmented
    problem.
    """
    after = lab.ops.ista_step(p.A, p.Z, p.D, step=p.step, lam=p.lam)
    shifted = p.Z - p.lam * p.D.sum(axis=1)  # for A ≥ 0 the ℓ1 term is linear, and completes the square
    best = np.stack([optimize.nnls(p.D, row)[0] for row in shifted])
    return abs(_lasso(after, p) - _lasso(best, p)) / _lasso(best, p)


def _ill_conditioned(rng: np.random.Generator) -> Sample:
    """Singular values over four decades, every decade equally far from the solution A* = 1 of the lasso."""
    sigma = np.geomspace(1e-4, 1.0, 120)
    D = draws.orthonormal(rng, 120, 120) * sigma
    lam = 1e-3
    return Sample(D=D, Z=((sigma**2 + lam) / sigma)[None, :] @ (D / sigma).T, sigma=sigma, lam=lam)


def _gaps(lab: Lab, p: Sample, momentum: bool) -> Series:
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


@order(
    "ista-rate",
    "4.16b",
    source="classical; CRATE, Section 2.4",
    inside=_ill_conditioned,
    slope=(-1.1, -0.95),
    parameter="steps k",
    samples=1,
)
def ista_rate(lab: Lab, p: Sample) -> Series:
    r"""ISTA converges at O(1/k).

    $$F(A_k) - F^* \leq \frac{\Vert A_0 - A^*\Vert^2}{2\eta k}$$

    Assumes: A dictionary with condition number 10⁴, η = 1/‖D‖², start at 0.
    Measured: slope of the gap in the number of steps.
    Proof: Sum the descent lemma over k steps. Component i shrinks like (1 − σᵢ²)^k, so the gap is ½Σσᵢ²(1 −
    σᵢ²)^{2k}: with equally many σᵢ per decade it is proportional to 1/k until the smallest σ is reached.
    """
    return _gaps(lab, p, momentum=False)


@order(
    "fista-rate",
    "4.16c",
    source="Beck and Teboulle 2009, Theorem 4.4",
    inside=_ill_conditioned,
    slope=(-2.2, -1.9),
    parameter="steps k",
    samples=1,
)
def fista_rate(lab: Lab, p: Sample) -> Series:
    r"""FISTA converges at O(1/k²).

    $$F(A_k) - F^* \leq \frac{2\Vert A_0 - A^*\Vert^2}{\eta (k + 1)^2}$$

    Assumes: The same dictionary, momentum (k − 1)/(k + 2).
    Measured: slope of the gap in the number of steps.
    Proof: A Lyapunov function with weights of order k² replaces the sum of the descent lemma; components now
    oscillate and fade as functions of k²σᵢ², which gives 1/k² on the same spectrum.
    """
    return _gaps(lab, p, momentum=True)


def _square(rng: np.random.Generator) -> Sample:
    d = int(rng.integers(1, 7))
    return Sample(Z=rng.standard_normal((int(rng.integers(1, 7)), d)), D=rng.standard_normal((d, d)), step=0.1, lam=0.1)


@identity("ista-fold", "4.17", source="CRATE (17) at A = Z", inside=_square)
def ista_fold(lab: Lab, p: Sample) -> float:
    r"""The network's step is one matrix.

    $$\mathrm{ReLU}(Z M - \eta\lambda), \quad M = I + \eta(D - D^\top D)$$

    Assumes: D square, start A = Z.
    Proof: At A = Z the negative gradient is (Z − ZDᵀ)D = Z(D − DᵀD); both the matrix and the folded step are
    checked.
    """
    forward = p.Z - p.step * truth.gradient(lambda A: truth.lasso(A, p.Z, p.D), p.Z)
    want = np.vectorize(_shrink)(forward, p.step * p.lam)
    M = lab.ops.ista_matrix(p.D, step=p.step)
    return max(
        truth.error(p.Z @ M, forward),
        truth.error(lab.ops.folded_ista_step(p.Z, M, step=p.step, lam=p.lam), want),
    )


# --- Step sizes of the trained network, and the second derivation of its sparsifier


def _kaiming(rng: np.random.Generator, step: float = 0.1) -> Sample:
    """A d×d dictionary as the networks are initialized, with positive codes and tokens to fit."""
    d = 384
    D = rng.uniform(-1.0, 1.0, size=(d, d)) * np.sqrt(6.0 / d)
    A = np.abs(rng.standard_normal((2, d)))
    return Sample(D=D, A=A, Z=rng.standard_normal((2, d)), step=step, lam=0.1)


@inequality(
    "kaiming-norm",
    "4.18",
    source="CRATE, Section 3 (η = 0.1) and Table 7 (η = 0.5)",
    inside=_kaiming,
    outside=lambda rng: _kaiming(rng, step=0.5),
    samples=3,
)
def kaiming_norm(lab: Lab, p: Sample) -> float:
    r"""At initialization η = 0.1 is a safe step.

    $$D_{ij} \sim U(\pm\sqrt{6/d}): \quad 7.4 \leq \Vert D\Vert_2^2 \leq 8.2 \;\Rightarrow\; 0.1 < 1/\Vert
    D\Vert_2^2, \; 0.5 > 2/\Vert D\Vert_2^2$$

    Assumes: Kaiming-uniform initialization, d = 384, η = 0.1.
    Measured: ‖D‖² outside [7.4, 8.2], or rise of the objective over 20 steps, relative.
    Outside: the ablation's η = 0.5, beyond 2/‖D‖²: twenty steps blow the objective up.
    Proof: Entries have variance 2/d, so by Bai and Yin ‖D‖₂ → 2√2; at d = 384, ‖D‖² = 7.79 ± 0.09 over 40 draws.
    ISTA descends for η ≤ 1/‖D‖².
    """
    size, A = float(np.linalg.norm(p.D, 2) ** 2), p.A
    for _ in range(20):
        A = lab.ops.ista_step(A, p.Z, p.D, step=p.step, lam=p.lam)
    return max(7.4 - size, size - 8.2, _lasso(A, p) / _lasso(p.A, p) - 1)


def _isometric(rng: np.random.Generator, length: float = 1.0) -> Sample:
    """Orthogonal columns of tokens, by default ZᵀZ = I, with an orthogonal frame."""
    d = int(rng.integers(1, 5))
    n = d + int(rng.integers(0, 3))
    Z, eps = draws.orthonormal(rng, n, d), draws.spread(rng, 0.3, 2.0)
    return Sample(Z=length * Z, D=draws.orthonormal(rng, d, d), eps=eps, lam=draws.spread(rng, 0.01, 1.0) / eps**2)


@identity(
    "crate-92", "4.19", source="CRATE, Appendix A.3 (92)", inside=_isometric, outside=lambda rng: _isometric(rng, 3.0)
)
def prox_mm(lab: Lab, p: Sample) -> float:
    r"""Majorizing −R instead of fitting a dictionary.

    $$\mathrm{argmin}_{Y \geq 0} \; Q(Y \mid Z) + \lambda\Vert Y\Vert_1 = \mathrm{ReLU}\left(\left(1 + \frac{4}{9(1
    + \alpha)}\right) Z - \frac{4\lambda}{9\alpha}\right)$$

    Assumes: ZᵀZ = I; Q the quadratic upper model of −R with curvature 9α/4; any orthogonal frame D.
    Outside: tokens with ZᵀZ = 9I: the gradient is then α/(1 + 9α) Z.
    Proof: Q is minimized by a proximal step of length 4/(9α) on −R, and ∇R = α/(1 + α) Z where ZᵀZ = I. In a frame
    D the codes ZD take the place of Z, as R does not see the rotation. The truth takes the gradient by the complex
    step.
    """
    alpha = truth.alpha(p.Z, p.eps)
    slope = truth.gradient(lambda Z: truth.rate(Z, p.eps), p.Z)
    worst = 0.0
    for frame, D in ((None, np.eye(p.Z.shape[1])), (p.D, p.D)):
        for curvature in (2.25, 1.0):
            forward = p.Z + slope / (curvature * alpha)
            want = np.maximum(forward @ D - p.lam / (curvature * alpha), 0.0)
            arrays = (p.Z,) if frame is None else (p.Z, frame)
            got = lab.ops.prox_mm_step(*arrays, alpha=alpha, lam=p.lam, curvature=curvature)
            worst = max(worst, truth.error(got, want, forward))
    return worst


def _pair(rng: np.random.Generator, curvature: float = 0.125) -> Sample:
    """Two token sets, near each other and near the most negative curvature half of the time."""
    p = draws.tokens(rng)
    alpha = truth.alpha(p.Z, p.eps)
    Z, shift = p.Z, rng.standard_normal(p.Z.shape)
    if rng.random() < 0.5 or curvature < 0.125:
        Z, shift = np.zeros_like(p.Z), np.zeros_like(p.Z)
        Z[0, 0], shift[0, 0] = np.sqrt(3 / alpha), 0.05 * np.sqrt(3 / alpha)
    return Sample(Z=Z, Y=Z + shift, eps=p.eps, curvature=curvature)


@inequality(
    "rate-majorizer",
    "4.19b",
    source="sharpens CRATE, Appendix A.3 (c = 9/4)",
    inside=_pair,
    outside=lambda rng: _pair(rng, curvature=1 / 16),
    bound=1e-9,
)
def majorizer(lab: Lab, p: Sample) -> float:
    r"""α/8 is enough curvature to majorize −R.

    $$-R(Y) \leq -R(Z) - \langle \nabla R(Z), Y - Z\rangle + \frac{c\alpha}{2}\Vert Y - Z\Vert^2, \quad c =
    \frac{1}{8}$$

    Assumes: Any two token sets; hence also for c = 1 and c = 9/4.
    Measured: excess over the model, over α‖Y − Z‖².
    Outside: c = 1/16, around a singular value of √(3/α).
    Proof: Taylor with the lower end −α/8 of the Hessian's spectrum (statement 4).
    """
    alpha = lab.ops.coding_rate_smoothness(p.Z, eps=p.eps)
    slope, move = lab.ops.coding_rate_grad(p.Z, eps=p.eps), p.Y - p.Z
    size = float(np.sum(move**2))
    model = np.sum(slope * move) - p.curvature * alpha / 2 * size
    return float((truth.rate(p.Z, p.eps) + model - truth.rate(p.Y, p.eps)) / (alpha * size))


# --- Proximal operators: the convex ones by their global inequality, the others by brute force


def _points(rng: np.random.Generator) -> Sample:
    n, d = int(rng.integers(1, 5)), int(rng.integers(1, 6))
    V, t = rng.standard_normal((n, d)), draws.spread(rng, 0.05, 2.0)
    others = np.concatenate([rng.standard_normal((50, n, d)), V + 0.1 * rng.standard_normal((50, n, d))])
    return Sample(V=V, t=t, others=others)


def _l1(X: Any) -> Any:
    return np.abs(X).sum(axis=(-2, -1))


def _group(X: Any) -> Any:
    return np.linalg.norm(X, axis=-1).sum(axis=-1)


def _global_inequality(x: Any, p: Sample, g: Callable[[Any], Any], others: Any) -> float:
    """Largest violation of g(y) ≥ g(x) + ⟨(v − x)/t, y − x⟩ over random y."""
    model = g(x) + np.sum((p.V - x) / p.t * (others - x), axis=(-2, -1))
    return float(np.max(model - g(others)))


@inequality("prox-convex", "4.20", source="Moreau; shrinkage of CRATE (15)-(17)", inside=_points)
def convex_prox(lab: Lab, p: Sample) -> float:
    r"""Soft, non-negative and group thresholds are proximal operators.

    $$x = \mathrm{prox}_{tg}(v) \;\Leftrightarrow\; g(y) \geq g(x) + \langle (v - x)/t, y - x\rangle
    \;\mathrm{for\;all}\; y$$

    Assumes: g = ‖·‖₁; the same over y ≥ 0; the sum of row norms.
    Measured: violation of the inequality.
    Proof: (v − x)/t is a subgradient of g at x: exactly the optimality condition, and a global statement by
    convexity. A hundred random y, half of them close to v, are tried; a point other than the prox fails for some.
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


@inequality("prox-hard", "4.20b", source="the ℓ0 term of CRATE (1)", inside=_points)
def hard_prox(lab: Lab, p: Sample) -> float:
    r"""Hard thresholding is the proximal operator of the ℓ0 count.

    $$\mathrm{argmin}_x \; \frac{1}{2}(x - v)^2 + \frac{t^2}{2}[x \neq 0] = v\,[|v| > t]$$

    Assumes: Not convex: compared with every point of a grid that contains 0 and v.
    Measured: excess over the brute-force minimum.
    Proof: Entry by entry the best non-zero point is v itself, at cost t²/2 against v²/2 for zero.
    """
    got, worst = lab.ops.hard_threshold(p.V, threshold=p.t), -np.inf
    for v, x in zip(p.V.ravel(), got.ravel(), strict=True):

        def cost(y: float, v: float = v) -> float:
            return float(0.5 * (y - v) ** 2 + 0.5 * p.t**2 * (y != 0))

        best, _ = truth.minimum_on([0.0, v, *np.linspace(-3, 3, 41)], cost)
        worst = max(worst, cost(x) - best)
    return worst


def _sphere_points(rng: np.random.Generator) -> Sample:
    d = int(rng.integers(2, 4))
    return Sample(V=rng.standard_normal((4, d)), t=draws.spread(rng, 0.05, 3.0))


def _sphere_grid(d: int) -> Any:
    """Points on the unit sphere: 20,000 on the circle, 40,000 on the 2-sphere, axes included."""
    if d == 2:
        angle = np.linspace(0, 2 * np.pi, 20_001)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    polar, turn = np.meshgrid(np.linspace(0, np.pi, 143), np.linspace(0, 2 * np.pi, 285))
    flat = np.stack([np.sin(polar) * np.cos(turn), np.sin(polar) * np.sin(turn), np.cos(polar)], axis=-1)
    return np.concatenate([flat.reshape(-1, 3), np.eye(3), -np.eye(3)])


@inequality("prox-sphere", "4.20c", source="this project", inside=_sphere_points, bound=1e-12)
def sphere_prox(lab: Lab, p: Sample) -> float:
    r"""Soft thresholding on the unit sphere is exact.

    $$\mathrm{argmin}_{\Vert x\Vert = 1} \frac{1}{2}\Vert x - v\Vert^2 + t\Vert x\Vert_1 = \frac{\mathrm{soft}(v,
    t)}{\Vert\mathrm{soft}(v, t)\Vert}, \;\mathrm{or\;the\;signed\;largest\;axis}$$

    Assumes: d = 2, 3: every point of a grid on the sphere is tried.
    Measured: excess over the brute-force minimum, or ‖x‖ off the sphere.
    Proof: On the sphere ½‖x − v‖² is a constant minus ⟨v, x⟩: maximize ⟨|v| − t, |x|⟩. With a positive part, Cauchy
    and Schwarz give its normalization; with none, the least bad is to put all weight on the largest |v|.
    """
    got = lab.ops.unit_soft_threshold(p.V, threshold=p.t)
    off = float(np.max(np.abs(np.linalg.norm(got, axis=1) - 1)))
    grid, worst = _sphere_grid(p.V.shape[1]), off
    for v, x in zip(p.V, got, strict=True):
        cost = 0.5 * np.sum((grid - v) ** 2, axis=1) + p.t * np.abs(grid).sum(axis=1)
        worst = max(worst, float(0.5 * np.sum((x - v) ** 2) + p.t * np.abs(x).sum() - cost.min()))
    return worst


@counterexample(
    "prox-sphere-clipped",
    "4.20d",
    source="this project",
    inside=lambda rng: Sample(v=np.array([[0.3, -0.2]]), t=1.0),
    bound=1e-12,
    margin=0.01,
    samples=1,
)
def clipped_prox(lab: Lab, p: Sample) -> Refutation:
    r"""Normalizing alone fails where everything is thresholded.

    $$\mathrm{prox}(v) = \mathrm{soft}(v, t)/\Vert\mathrm{soft}(v, t)\Vert \;\mathrm{for\;every}\; v$$
    Corrected: $$\mathrm{prox}(v) = \mathrm{sign}(v_j) e_j, \; j = \mathrm{argmax}|v| \;\mathrm{where}\; \max|v|
    \leq t$$

    Assumes: v = (0.3, −0.2), t = 1: soft(v, t) = 0 has no direction.
    Proof: The direction of v itself is what a careless normalization with a small constant gives; the axis is
    cheaper.
    """
    grid, naive = _sphere_grid(2), p.v / np.linalg.norm(p.v)

    def cost(x: Any) -> Any:
        return 0.5 * np.sum((x - p.v) ** 2, axis=-1) + p.t * np.abs(x).sum(axis=-1)

    best = float(cost(grid).min())
    got = lab.ops.unit_soft_threshold(p.v, threshold=p.t)
    witness = f"v = (0.3, −0.2), t = 1: cost {cost(naive)[0]:.3f} along v, {cost(got)[0]:.3f} on the axis"
    return Refutation(float(cost(naive)[0]) - best, abs(float(cost(got)[0]) - best), witness)
