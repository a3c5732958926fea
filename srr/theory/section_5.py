"""§5 The problem itself: run through the solvers, its optima, token statistics and ReduNet."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy import optimize

from srr import ops
from srr.mixtures import subspace_mixture
from srr.penalties import L1, ClassSpheres, RotatedPenalty, UnitL1
from srr.problems import RateReduction, SparseRateReduction
from srr.solvers import ProximalGradient, Solution, minimize
from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Refutation, Sample, counterexample, identity, inequality

# --- The sparse rate reduction as an optimization problem, run through the solvers


LAM = 0.005


def _reference(rng: np.random.Generator, rotated: bool = False) -> Sample:
    """The reference run: 400 tokens in 32 dimensions near four subspaces of dimension 8, noise 0.3, ε = 0.5."""
    mix = subspace_mixture(n=400, d=32, K=4, p=8, noise=0.3, rotated=rotated, seed=rng)
    return Sample(Z=mix.Z, U=mix.U, D=mix.D, labels=mix.labels, eps=0.5)


def _solve(lab: Lab, p: Sample, penalty: Any) -> Solution[Any]:
    problem = SparseRateReduction(lab.array(p.U), eps=p.eps, penalty=penalty)
    return minimize(problem, lab.array(p.Z), ProximalGradient(), tol=1e-5, max_steps=200)


def _assigned(Z: Any, p: Sample) -> float:
    """Share of tokens whose own subspace holds most of their energy."""
    energy = np.sum((Z[None] @ p.U) ** 2, axis=-1)
    return float(np.mean(np.argmax(energy, axis=0) == p.labels))


@counterexample("srr-degenerate", "5.21", source="CRATE (1)", inside=_reference, margin=0.5, samples=1)
def degenerate(lab: Lab, p: Sample) -> Refutation:
    r"""Unconstrained, the problem is solved by a few enormous tokens.

    $$\mathrm{argmax}_Z \; R(Z) - R^c(Z; U) - \lambda\Vert Z\Vert_1 \;\mathrm{represents\;every\;token}$$
    Corrected: $$\mathrm{argmax}_{\Vert z_i\Vert = 1} \; R(Z) - R^c(Z; U) - \lambda\Vert Z\Vert_1$$

    Assumes: The reference run, λ = 0.005, backtracking proximal gradient.
    Measured: share of tokens lost (corrected form: on the sphere).
    Proof: Energy is worth ½ log of its size wherever it sits but costs λ per unit: one long token per axis pays the
    price once. LayerNorm, or the sphere, forbids the trade.
    """
    free = lab.numpy(_solve(lab, p, L1(LAM)).Z)
    sphere = lab.numpy(_solve(lab, p, UnitL1(LAM)).Z)
    size = np.linalg.norm(free, axis=1)
    lost = float(np.mean(size < 1e-6))
    witness = (
        f"{np.mean(free != 0):.2%} non-zeros, {np.sum(size > 0)} of 400 tokens alive, longest {size.max():.1f}; "
        f"on the sphere {np.mean(sphere != 0):.1%} non-zeros, {_assigned(sphere, p):.2%} on their own subspace"
    )
    return Refutation(lost, float(np.mean(np.linalg.norm(sphere, axis=1) < 1e-6)), witness)


@inequality(
    "srr-sphere-monotone", "5.21b", source="this project", inside=_reference, bound=1e-9, rounding=1e6, samples=2
)
def sphere_monotone(lab: Lab, p: Sample) -> float:
    r"""On the sphere the same solver is monotone and finds the classes.

    $$F(Z^{\ell + 1}) \geq F(Z^\ell), \quad \mathrm{SRR}: 7.8 \rightarrow 12.6 \;\mathrm{in} < 50 \;\mathrm{steps}$$

    Assumes: The reference run with the sphere prox of statement (20).
    Measured: largest fall, or shortfall from 12.6 nats, 50 steps, 98 % on their own subspace.
    Proof: The prox over the sphere is exact, so each step minimizes a model above the cost that touches it at Z;
    that the sphere is not convex does not matter for descent. The final objective is recomputed from the
    definitions.
    """
    solution = _solve(lab, p, UnitL1(LAM))
    Z, path = lab.numpy(solution.Z), -np.asarray(solution.history.objective, dtype=float)
    fall = float(np.max(path[:-1] - path[1:])) / path[-1]
    reached = float(truth.sparse_reduction(Z, p.U, p.eps, LAM))
    missing = max(12.6 - reached, 0.98 - _assigned(Z, p), (int(np.max(solution.steps)) - 50) / 50)
    return float(max(fall, missing, abs(path[-1] - reached) / path[-1] - 1e-5))


@counterexample(
    "srr-rotated-frame",
    "5.22",
    source="CRATE (1)",
    inside=lambda rng: _reference(rng, rotated=True),
    bound=0.02,
    margin=0.2,
    samples=1,
)
def rotated_frame(lab: Lab, p: Sample) -> Refutation:
    r"""Sparsity must be measured in a frame aligned with U.

    $$g(Z) = \lambda\Vert Z\Vert_1 \;\mathrm{serves\;any}\; U$$
    Corrected: $$g(Z) = \lambda\Vert ZD\Vert_1, \quad \mathrm{prox}_g(Z) =
    \mathrm{prox}_{\lambda\Vert\cdot\Vert_1}(ZD)D^\top$$

    Assumes: The reference run turned by a random rotation D.
    Measured: share of tokens on a foreign subspace (corrected form).
    Proof: Sparse unit tokens are axes; axes of the standard basis belong to no rotated subspace. Measured along D,
    the problem is the unrotated one (statement 8d).
    """
    standard = lab.numpy(_solve(lab, p, UnitL1(LAM)).Z)
    aligned = lab.numpy(_solve(lab, p, RotatedPenalty(UnitL1(LAM), lab.array(p.D))).Z)
    wrong = 1 - _assigned(standard, p)
    witness = f"{1 - wrong:.1%} of the tokens on their own subspace, {_assigned(aligned, p):.1%} in the aligned frame"
    return Refutation(wrong, 1 - _assigned(aligned, p), witness)


def _narrow(rng: np.random.Generator) -> Sample:
    """Four subspaces of dimension 4 that leave half of the 32 dimensions free, noise 0.1."""
    mix = subspace_mixture(n=400, d=32, K=4, p=4, noise=0.1, seed=rng)
    return Sample(Z=mix.Z, U=mix.U, labels=mix.labels, eps=0.5)


@counterexample("srr-leaves-subspaces", "5.21c", source="CRATE (1)", inside=_narrow, bound=1e-6, margin=0.4, samples=1)
def leaves_subspaces(lab: Lab, p: Sample) -> Refutation:
    r"""Where the subspaces do not fill the space, the solutions leave them.

    $$\mathrm{argmax}_{\Vert z_i\Vert = 1} \; R(Z) - R^c(Z; U) - \lambda\Vert Z\Vert_1 \;
    \mathrm{lies\;on\;the\;subspaces}$$
    Corrected: $$\mathrm{argmax}_{\Vert z_i\Vert = 1} \; R(Z) - R^c(Z; U) - \lambda\Vert Z\Vert_1
    - \frac{\alpha}{2}\Vert Z(I - P)\Vert^2$$

    Assumes: n = 400, d = 32, K = p = 4, so that K·p < d; noise 0.1, ε = 0.5, λ = 0.005.
    Measured: share of the energy outside the span of the subspaces, 0.06 in the data (corrected form: the same).
    Proof: Energy outside enlarges R and is in no term of R^c: every free direction is filled. The added term outweighs
    what it gains, statement 5.21d.
    """

    def lost(outside: float) -> float:
        problem = SparseRateReduction(lab.array(p.U), eps=p.eps, penalty=UnitL1(LAM), outside=outside)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it names this very fault
            Z = lab.numpy(minimize(problem, lab.array(p.Z), ProximalGradient(), tol=1e-5, max_steps=200).Z)
        return 1 - float(np.sum((Z @ p.U) ** 2) / np.sum(Z**2))  # the subspaces of a mixture are orthogonal

    return Refutation(lost(0.0), lost(1.0), f"{1 - lost(0.0):.1%} of the energy left on the subspaces")


def _any_span(rng: np.random.Generator) -> Sample:
    d, rank = 6, int(rng.integers(1, 6))
    Z = draws.spread(rng, 0.05, 5.0) * rng.standard_normal((int(rng.integers(3, 20)), d))
    return Sample(Z=Z, W=np.linalg.qr(rng.standard_normal((d, rank)))[0], eps=draws.spread(rng, 0.2, 1.0))


@inequality("rate-outside", "5.21d", source="this project", inside=_any_span, bound=1e-9)
def rate_outside(lab: Lab, p: Sample) -> float:
    r"""What tokens gain in rate outside a subspace is at most α/2 of their energy there.

    $$R(Z) \leq R(ZP) + \frac{\alpha}{2}\Vert Z(I - P)\Vert_F^2, \quad \alpha = d/(n\varepsilon^2)$$

    Assumes: P an orthogonal projector, any Z.
    Measured: largest excess over the right side, relative.
    Proof: Fischer: the determinant of I + αZᵀZ is at most the product of its blocks along P and I - P, and log det
    (I + M) ≤ tr M on the second. So a charge of α/2 or more makes the projection of tokens no worse in R^c - R.
    """
    n, d = p.Z.shape
    inside = p.Z @ p.W @ p.W.T
    right = truth.rate(inside, p.eps) + d / (2 * n * p.eps**2) * np.sum((p.Z - inside) ** 2)
    excess = float(lab.ops.coding_rate(p.Z, eps=p.eps)) - float(right)
    return float(
        max(
            excess / float(right),
            truth.error(lab.ops.coding_rate(inside, eps=p.eps), truth.rate(inside, p.eps)) - 1e-10,
        )
    )


def _denoised(rng: np.random.Generator, delta: float = 0.05, step: float = 0.1, layers: int = 12) -> Sample:
    """Tokens on four orthogonal subspaces of dimension 64, noise of size δ in the other three."""
    K, p, n = 4, 64, 200
    labels = rng.integers(K, size=n)
    own = np.arange(K)[:, None] == labels
    V = np.where(own[:, :, None], 1.0, delta) * rng.standard_normal((K, n, p))
    U = np.stack(np.split(np.eye(K * p), K, axis=1))
    return Sample(Z=np.sum(V @ U.mT, axis=0), U=U, labels=labels, step=step, layers=layers)


@identity(
    "aot-snr",
    "5.25",
    source="AOT, Theorem 1",
    inside=_denoised,
    outside=lambda rng: _denoised(rng, delta=0.2, step=0.5, layers=4),
    samples=2,
)
def signal_to_noise(lab: Lab, p: Sample) -> float:
    r"""Thresholded attention raises the signal-to-noise ratio by 1 + ητ a layer.

    $$Z^+ = Z + \eta \sum_k h_\tau(\mathrm{softmax}(V_k V_k^\top)) V_k U_k^\top \;\Rightarrow\; \mathrm{SNR}(Z_k^+)
    = (1 + \eta\tau)\,\mathrm{SNR}(Z_k)$$

    Assumes: p = 64, K = 4, n = 200, δ = 0.05, η = 0.1, τ = 0.6, 12 layers.
    Outside: δ = 0.2, η = 0.5, 4 layers: noise rows begin to attend.
    Proof: Norms of order p make the softmax of a token in its own head one-hot on itself, and nearly uniform in the
    others: above τ only the diagonal of the own head survives, as τ. The signal grows by 1 + ητ and the noise
    stays.
    """
    tau, Z, worst = 0.6, p.Z, 0.0
    ratio = _snr(Z, p)
    for _ in range(p.layers):
        Z = Z + p.step * lab.ops.thresholded_mssa(Z, p.U, threshold=tau)
        ratio = ratio * (1 + p.step * tau)
        worst = max(worst, truth.error(lab.ops.snr(Z, p.U, p.labels), ratio), truth.error(_snr(Z, p), ratio))
    return worst


def _snr(Z: Any, p: Sample) -> Any:
    """Norm on the own subspace over norm off it, class by class."""
    ratios = []
    for k, basis in enumerate(p.U):
        own = Z[p.labels == k]
        ratios.append(np.linalg.norm(own @ basis) / np.linalg.norm(own - own @ basis @ basis.T))
    return np.array(ratios)


# --- Optima of the rate reduction in closed form


def _scales(p: Sample) -> tuple[float, Any]:
    """α, and α_k of every class."""
    n, d = sum(p.sizes), p.d
    return d / (n * p.eps**2), d / (np.asarray(p.sizes) * p.eps**2)


def _roots(p: Sample, k: int, larger: bool = True) -> float:
    """S of class k: a root of λ(1 + αs²)(1 + α_ks²) = α(α_k − α)s²."""
    alpha, own = _scales(p)
    line = p.lam * (alpha + own[k]) - alpha * (own[k] - alpha)
    pair = np.sort(np.roots([p.lam * alpha * own[k], line, p.lam]).real)
    return float(np.sqrt(pair[1] if larger else pair[0]))


def _labels(p: Sample) -> Any:
    return np.repeat(np.arange(len(p.sizes)), p.sizes)


def _truth(Z: Any, p: Sample) -> Any:
    """ΔR − λ/2 ‖Z‖², from the definitions."""
    one_hot = np.eye(len(p.sizes))[_labels(p)]
    return truth.rate(Z, p.eps) - truth.partition_rate(Z, one_hot, p.eps) - p.lam / 2 * np.sum(Z**2)


def _aligned(p: Sample, ranks: Any, larger: bool = True) -> Any:
    """Tokens Z_k = s_k V_k U_kᵀ with the given ranks, on coordinate axes."""
    Z, row, axis = np.zeros((sum(p.sizes), p.d)), 0, 0
    for k, (size, rank) in enumerate(zip(p.sizes, ranks, strict=True)):
        for j in range(rank):
            Z[row + j, axis + j] = _roots(p, k, larger)
        row, axis = row + size, axis + rank
    return Z


def _fill(rng: np.random.Generator, eps: float = 0.3) -> Sample:
    """Classes of as many tokens as their rank, together filling at most d dimensions."""
    sizes = tuple(int(size) for size in rng.integers(3, 5, size=3))
    d = sum(sizes) + int(rng.integers(0, 3))
    return Sample(sizes=sizes, d=d, eps=eps, Z=rng.standard_normal((sum(sizes), d)))


@identity(
    "mcr2-optimum",
    "5.23",
    source="MCR2, Theorem 2.1",
    inside=_fill,
    outside=lambda rng: _fill(rng, eps=30.0),
    bound=1e-4,
    rounding=1e5,
    samples=4,
)
def mcr2_optimum(lab: Lab, p: Sample) -> float:
    r"""MCR² makes classes orthogonal and their singular values equal.

    $$\Vert Z_k\Vert_F^2 = n_k, \; \mathrm{rank}\,Z_k \leq d_k, \; \sum_k d_k \leq d: \quad Z_k Z_l^\top = 0, \;
    \sigma_1(Z_k) = \ldots = \sigma_{d_k - 1}(Z_k)$$

    Assumes: Distortion small enough: ε⁴ < min_k (n_k/n)(d/d_k)²; here n_k = d_k bounds the ranks.
    Measured: largest |Z_kZ_lᵀ| entry or spread of the leading singular values.
    Outside: ε = 30: below the curvature change of log, energy gathers in one direction.
    Proof: At orthogonal classes ΔR is a sum of log(1 + αx) − γ log(1 + αx/γ) over squared singular values x,
    increasing and, for αx large enough, concave: even spread is best. The solver ascends from a random start on the
    spheres.
    """
    labels = _labels(p)
    problem = RateReduction(lab.array(labels), eps=p.eps, penalty=ClassSpheres(lab.array(labels)))
    Z = lab.numpy(minimize(problem, lab.array(p.Z), ProximalGradient(), tol=1e-9, max_steps=3000).Z)
    blocks = [Z[labels == k] for k in range(len(p.sizes))]
    overlap = max(float(np.max(np.abs(a @ b.T))) for a, b in itertools.combinations(blocks, 2))
    leading = [np.linalg.svd(block, compute_uv=False)[: len(block) - 1] for block in blocks]
    return max(overlap, *(float(np.ptp(values)) for values in leading), 0.0)


def _ridge(rng: np.random.Generator) -> Sample:
    lam = float(rng.choice([0.01, 0.03, 0.05, 0.1]))
    return Sample(sizes=(30, 30, 30), d=24, eps=0.5, lam=lam, Z=rng.standard_normal((90, 24)))


@identity("geom-optimum", "5.24", source="GEOM, Theorem 3.1", inside=_ridge, bound=1e-6, rounding=1e5, samples=3)
def ridge_optimum(lab: Lab, p: Sample) -> float:
    r"""Maximizers of the regularized rate reduction in closed form.

    $$\lambda(1 + \alpha s_k^2)(1 + \alpha_k s_k^2) = \alpha(\alpha_k - \alpha)s_k^2, \quad Z_k = s_k V_k U_k^\top,
    \; U_k^\top U_l = 0$$

    Assumes: d = 24, three classes of 30, ε = 0.5, λ = 0.01, 0.03, 0.05 or 0.1, where s = 8.08778, 4.57802, 3.47261
    and 2.31561; random start.
    Measured: error of the singular values, relative.
    Proof: Stationarity of ½log(1 + αs²) − (n_k/2n)log(1 + α_ks²) − λs²/2, with n_kα_k = nα. SciPy's L-BFGS climbs
    the operators' value and gradient from a random start and must arrive at the larger root, 24 singular values in
    all.
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


def _any_sizes(rng: np.random.Generator) -> Sample:
    sizes = tuple(int(size) for size in rng.integers(3, 9, size=3))
    return Sample(sizes=sizes, d=int(rng.integers(4, 9)), eps=draws.spread(rng, 0.2, 1.0))


@identity("geom-existence", "5.24b", source="GEOM, Theorem 3.1", inside=_any_sizes, bound=1e-8)
def ridge_existence(lab: Lab, p: Sample) -> float:
    r"""Non-zero critical points exist up to an exact λ.

    $$0 < \lambda \leq \alpha\,\frac{\sqrt{n/n_{\max}} - 1}{\sqrt{n/n_{\max}} + 1}$$

    Assumes: Any sizes; the bound is that of the largest class.
    Proof: The slope per unit of energy of class k is h(x) = α(α_k − α)x/((1 + αx)(1 + α_kx)), largest at x =
    1/√(αα_k). The truth maximizes it numerically; the slope itself is read off the operator's gradient on one
    scaled token.
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


def _small_ridge(rng: np.random.Generator) -> Sample:
    p = Sample(sizes=(2, 3), d=3, eps=0.5)
    alpha, _ = _scales(p)
    ratio = np.sqrt(5 / 3)
    lam = float(rng.uniform(0.2, 0.9)) * alpha * (ratio - 1) / (ratio + 1)
    return p.but(lam=lam, ranks=np.array([rng.integers(0, 3), 1]))


@inequality(
    "geom-landscape", "5.24c", source="GEOM, Theorem 3.2", inside=_small_ridge, bound=1e-6, rounding=1e5, samples=5
)
def ridge_landscape(lab: Lab, p: Sample) -> float:
    r"""Larger roots are local maxima, smaller roots strict saddles.

    $$\nabla^2 F \preceq 0 \;\mathrm{at\;larger\;roots\;of\;any\;ranks}, \qquad \lambda_{\max}\nabla^2 F > 0
    \;\mathrm{where\;a\;smaller\;root\;occurs}$$

    Assumes: Two classes of 2 and 3 tokens in R³, λ below its bound.
    Measured: gradient, rise at a maximum, or missing rise at a saddle, over λ.
    Proof: Along the scale of one singular direction the objective has its minimum at the smaller root: a direction
    of ascent. Hessians are differenced from complex-step gradients of the definition; that the points are critical
    is checked with the operator's gradient.
    """
    labels, worst = _labels(p), 0.0
    for larger in (True, False):
        Z = _aligned(p, p.ranks, larger=larger)
        slope = lab.ops.rate_reduction_grad(Z, labels, eps=p.eps) - p.lam * Z
        top = float(np.linalg.eigvalsh(truth.hessian(lambda X: _truth(X, p), Z))[-1])
        wrong = top if larger else 1e-3 * p.lam - top
        worst = max(worst, float(np.max(np.abs(slope))) / p.lam, wrong / p.lam)
    return worst


def _three_classes(rng: np.random.Generator) -> Sample:
    sizes = tuple(int(size) for size in rng.permutation([2, 3, 4]))
    p = Sample(sizes=sizes, d=5, eps=0.4)
    alpha, _ = _scales(p)
    lam = float(rng.uniform(0.2, 0.9)) * alpha * (1.5 - 1) / (1.5 + 1)
    return p.but(lam=lam)


def _allocations(p: Sample) -> Iterator[tuple[int, ...]]:
    for ranks in itertools.product(*(range(size + 1) for size in p.sizes)):
        if sum(ranks) <= p.d:
            yield ranks


@identity("geom-global", "5.24d", source="GEOM, Theorem 3.1", inside=_three_classes, samples=5)
def ridge_global(lab: Lab, p: Sample) -> float:
    r"""The global maximum fills all dimensions, smaller classes first.

    $$\sum_k r_k = \min(n, d), \quad r_k < n_k \;\Rightarrow\; r_l = 0 \;\mathrm{for\;all\;larger\;classes}\; l$$

    Assumes: Three classes of 2, 3 and 4 tokens in any order, d = 5.
    Measured: gap to the best of all rank allocations, relative.
    Proof: A direction is worth more in a smaller class, whose α_k is larger. The truth evaluates the definition at
    every allocation of ranks; the operator's value at the rule's allocation must reach the best of them.
    """
    left, ranks = p.d, [0] * len(p.sizes)
    for k in np.argsort(p.sizes):
        ranks[k] = min(p.sizes[k], left)
        left -= ranks[k]
    Z = _aligned(p, ranks)
    own = float(lab.ops.rate_reduction(Z, _labels(p), eps=p.eps)) - p.lam / 2 * float(np.sum(Z**2))
    best = max(float(_truth(_aligned(p, each), p)) for each in _allocations(p))
    return float(abs(own - best) / best)


# --- Compression from second moments alone: the variational bound and token-statistics attention


CONCAVE: tuple[Callable[[Any], Any], ...] = (np.log1p, np.sqrt, np.tanh)


def _framed(rng: np.random.Generator) -> Sample:
    p = draws.tokens(rng)
    d = p.Z.shape[1]
    return Sample(Z=p.Z, scale=1 / p.eps, Q=draws.orthonormal(rng, d, d), convex=False)


@inequality(
    "vmcr2-bound",
    "5.26",
    source="VMCR2, Theorem 1; TOST (9)",
    inside=_framed,
    outside=lambda rng: _framed(rng).but(convex=True),
    rounding=1e5,
)
def variational_bound(lab: Lab, p: Sample) -> float:
    r"""Diagonals in any frame bound the spectrum's cost from above.

    $$\sum_i f(\lambda_i(M)) \leq \sum_i f((Q^\top M Q)_{ii}), \quad f \;\mathrm{concave}, \; Q^\top Q = I$$

    Assumes: M positive semidefinite, f = log(1 + x), √x, tanh x; equality in an eigenbasis.
    Measured: excess over the bound, or gap in an eigenbasis, relative.
    Outside: a convex f = x²: the inequality turns round.
    Proof: The diagonal of QᵀMQ is a doubly stochastic average of the eigenvalues (Schur), so Jensen's inequality
    applies. With f = log(1 + x) the left side is the operator's log-determinant.
    """
    M = p.scale * p.Z.T @ p.Z
    values, frame = np.linalg.eigh(M)
    functions = (np.square,) if p.convex else CONCAVE
    worst = -np.inf
    for f in functions:
        left = float(np.sum(f(np.maximum(values, 0.0))))
        turned, eigen = (float(np.sum(f(np.maximum(np.diag(Q.T @ M @ Q), 0.0)))) for Q in (p.Q, frame))
        worst = max(worst, left / turned - 1, (abs(eigen / left - 1) if f is not np.sqrt else 0.0))
    if p.convex:
        return worst
    return max(worst, float(lab.ops.gram_logdet(p.Z, p.scale)) / float(np.sum(np.log1p(np.maximum(values, 0)))) - 1)


def _heads(rng: np.random.Generator) -> Sample:
    p = draws.subspaces(rng)
    return p.but(eta=draws.spread(rng, 0.3, 3.0))


@identity("tost-step", "5.26b", source="TOST (13)-(14)", inside=_heads)
def token_statistics(lab: Lab, p: Sample) -> float:
    r"""Token-statistics attention is the gradient of the bound.

    $$-\frac{1}{n}\sum_k \mathrm{diag}(\pi_k) V_k D_k U_k^\top, \quad D_k = \mathrm{diag}\,
    f^\prime\left(\frac{\pi_k^\top V_k^{\circ 2}}{\langle\pi_k, 1\rangle}\right)$$

    Assumes: Membership π held fixed, f = log(1 + x), π = softmax over heads of ‖U_kᵀz‖²/(2η).
    Proof: Differentiate Σ_k ⟨π_k, 1⟩/(2n) Σ_i f of the weighted second moment of coordinate i: the ½ meets the
    square.
    """
    energy = np.sum((p.Z[None] @ p.U) ** 2, axis=-1).T / (2 * p.eta)
    share = np.stack([truth.softmax(row) for row in energy])

    def bound(Z: Any) -> Any:
        total = 0.0
        for weights, basis in zip(share.T, p.U, strict=True):
            moments = weights @ (Z @ basis) ** 2 / weights.sum()
            total = total + weights.sum() / (2 * len(Z)) * np.sum(np.log(1 + moments))
        return total

    return truth.error(lab.ops.tssa(p.Z, p.U, temperature=p.eta), -truth.gradient(bound, p.Z))


def _coordinates(rng: np.random.Generator) -> Sample:
    K, n, p = (int(size) for size in rng.integers(1, 5, size=3))
    return Sample(V=rng.standard_normal((K, n, p)), temperature=rng.uniform(0.5, 2.0, size=(K, 1)))


@identity("tost-released", "5.26c", source="TOST, released vision networks", inside=_coordinates, rounding=1e5)
def released_form(lab: Lab, p: Sample) -> float:
    r"""The released form normalizes over tokens and drops 1/n.

    $$-\Pi \circ V \oslash (1 + m), \quad \Pi = \mathrm{softmax}_k\left(T_k \Vert \hat V_{ki}\Vert^2\right), \; m_k
    = \frac{\sum_i \Pi_{ki} V_{ki}^{\circ 2}}{\sum_i \Pi_{ki}}$$

    Assumes: V̂ has every coordinate divided by its norm over tokens; 1e-8 guards the division by the mass.
    Proof: Definition, with loops over heads and tokens; the causal form must give token i what the first i tokens
    give their last.
    """
    plain = truth.error(lab.ops.tssa_heads(p.V, p.temperature), _released(p.V, p.temperature))
    causal = lab.ops.tssa_heads(p.V, p.temperature, causal=True)
    n = p.V.shape[1]
    growing = np.stack([_released_causal(p.V[:, : i + 1], p.temperature)[:, -1] for i in range(n)], axis=1)
    return max(plain, truth.error(causal, growing))


def _released(V: Any, temperature: Any) -> Any:
    """The whole-sequence form."""
    unit = V / np.sqrt(np.sum(V**2, axis=1, keepdims=True))
    return _weighted(V, np.sum(unit**2, axis=-1) * temperature)


def _released_causal(V: Any, temperature: Any) -> Any:
    """The form at the end of a sequence, where the memberships of earlier tokens were fixed in their own time."""
    running = np.stack([np.sum(V[:, : i + 1] ** 2, axis=1) for i in range(V.shape[1])], axis=1)
    return _weighted(V, np.sum(V**2 / running, axis=-1) * temperature)


def _weighted(V: Any, scores: Any) -> Any:
    share = np.stack([truth.softmax(column) for column in scores.T], axis=1)
    out = np.zeros_like(V)
    for k in range(len(V)):
        moment = share[k] @ V[k] ** 2 / (share[k].sum() + 1e-8)
        out[k] = -share[k][:, None] * V[k] / (1 + moment)
    return out


@inequality(
    "vmcr2-thin",
    "5.26d",
    source="VMCR2, Theorem 1; TOST (9)-(10)",
    inside=draws.subspaces,
    outside=lambda rng: draws.subspaces(rng).but(convex=True),
    rounding=1e5,
)
def variational_thin(lab: Lab, p: Sample) -> float:
    r"""Thin bases too: the second moments of a head's coordinates bound its rate.

    $$R^c(Z; U) \leq \frac{1}{2}\sum_k \sum_i \log(1 + \beta (V_k^\top V_k)_{ii})$$

    Assumes: Any bases, orthonormal or free, of any width; equality where the coordinates of a head are uncorrelated.
    Measured: excess over the bound, or gap in each head's own principal axes, relative.
    Outside: a convex function for the logarithm: x² turns the inequality round.
    Proof: (26) for M = V_kᵀV_k with Q = I; U_k need not be complete, as M is p × p.
    """
    scale, V = truth.beta(p.Z, p.U, p.eps), p.Z @ p.U
    moments = scale * np.sum(V**2, axis=1)
    if getattr(p, "convex", False):
        exact = sum(float(np.sum(np.linalg.eigvalsh(scale * W.T @ W) ** 2)) for W in V)
        return exact / float(np.sum(moments**2)) - 1 + 1e-3
    axes = np.stack([np.linalg.eigh(W.T @ W)[1] for W in V])
    bound = float(np.sum(np.log1p(moments))) / 2
    turned = float(np.sum(np.log1p(scale * np.sum((V @ axes) ** 2, axis=1)))) / 2
    rate = float(lab.ops.subspace_coding_rate(p.Z, p.U, eps=p.eps))
    return max(rate / bound - 1, abs(rate / turned - 1))


@identity("cbsa-special", "5.29", source="CBSA, Section 4", inside=_coordinates, rounding=1e5)
def cbsa_special(lab: Lab, p: Sample) -> float:
    r"""Contract-and-broadcast: its two ends are symmetric attention and one shared mean.

    $$Q = V, \; \rho = 0: \; A^\top A V, \qquad m = 1: \; a\,(q + \rho\, a^\top V), \quad A =
    \mathrm{softmax}_{\mathrm{rows}}(QV^\top)$$

    Assumes: Representatives that are the tokens themselves, or a single one q; scale 1.
    Proof: With Q = V the contraction is softmax attention and the broadcast its transpose, a positive semidefinite map
    of V. A single representative attends to itself alone, and every token receives it by its weight.
    """
    worst = 0.0
    for V in p.V:
        A = np.stack([truth.softmax(row) for row in V @ V.T])
        own = lab.ops.contract_broadcast(V, V, step=0.0)
        q = V[:1] + 0.5
        weights = truth.softmax((q @ V.T)[0])
        single = weights[:, None] * (q + 0.7 * weights @ V)
        got = lab.ops.contract_broadcast(V, q, step=0.7)
        worst = max(worst, truth.error(own, A.T @ (A @ V)), truth.error(got, single))
    return worst


# --- Closed loops: the distance that the follower of a sequential game can bring to zero


def _loop(rng: np.random.Generator, same: bool = True) -> Sample:
    n, d = int(rng.integers(3, 8)), int(rng.integers(2, 5))
    Z = draws.spread(rng, 0.3, 3.0) * rng.standard_normal((n, d))
    back = draws.orthonormal(rng, n, n) @ Z if same else Z @ draws.orthonormal(rng, d, d)
    return Sample(Z=Z, back=back, eps=draws.spread(rng, 0.3, 2.0))


@identity(
    "ctrl-equilibrium",
    "5.30",
    source="closed-loop transcription by sequential games (2022), Theorem 1",
    inside=_loop,
    outside=lambda rng: _loop(rng, same=False),
)
def sequential_equilibrium(lab: Lab, p: Sample) -> float:
    r"""The follower of the closed loop reaches zero, so the leader maximizes the rate reduction.

    $$\Delta R(Z, \hat Z) = R(Z \cup \hat Z) - \frac{1}{2} R(Z) - \frac{1}{2} R(\hat Z) \geq 0, \quad = 0
    \Leftrightarrow Z^\top Z = \hat Z^\top \hat Z$$

    Assumes: As many decoded tokens as tokens. The decoder moves second and may return any Ẑ with the second moments of
    Z, such as Z itself: it leaves the encoder ΔR(Z | Π) to maximize, whose optimum is (23).
    Measured: distance at equal second moments, relative to R; every draw also checks its sign at unequal ones.
    Outside: a decoder that turns the tokens' space.
    Proof: Log det is concave in ZᵀZ/n, strictly; equality needs equal second moments.
    """
    labels = np.repeat([0, 1], len(p.Z))
    joint, n = np.vstack([p.Z, p.back]), len(p.Z)
    size = float(truth.rate(joint, p.eps))
    distance = float(lab.ops.rate_reduction(joint, labels, eps=p.eps)) / size
    moved = float(lab.ops.rate_reduction(np.vstack([p.Z, 0.5 * p.back]), labels, eps=p.eps)) / size
    exact = size - float(truth.rate(p.Z, p.eps) + truth.rate(p.back, p.eps)) / 2
    return max(abs(distance), abs(distance - exact / size), 1.0 if moved <= 0 or n != len(p.back) else 0.0)


# --- ReduNet: operators, increment, and their circulant form


def _redunet(rng: np.random.Generator) -> Sample:
    n, d, K = 9, int(rng.integers(2, 5)), 3
    labels = np.concatenate([np.arange(K), rng.integers(K, size=n - K)])
    return Sample(
        Z=rng.standard_normal((n, d)),
        labels=labels,
        eps=draws.spread(rng, 0.3, 2.0),
        sharpness=float(rng.uniform(0.5, 3)),
    )


@identity("redu-operators", "5.27", source="REDU (12)-(15)", inside=_redunet)
def redunet_operators(lab: Lab, p: Sample) -> float:
    r"""ReduNet's operators, and its increment as a gradient.

    $$E = \alpha(I + \alpha Z^\top Z)^{-1}, \; C_k = \alpha_k(I + \alpha_k Z_k^\top Z_k)^{-1}, \quad ZE - \sum_k
    \gamma_k \Pi_k Z C_k = \nabla_Z \Delta R(Z \mid \Pi)$$

    Assumes: Labels of the tokens that made the operators.
    Proof: γ_kα_k = α: statement (3) without its factors. Operators against explicit inverses, increment against the
    complex step on ΔR.
    """
    Z, labels = lab.array(p.Z), lab.array(p.labels)
    made = ops.redunet_operators(Z, labels, eps=p.eps)
    E, C, share = _dense_operators(p.Z, p.labels, p.eps)
    one_hot = np.eye(3)[p.labels]
    rise = truth.gradient(lambda X: truth.rate(X, p.eps) - truth.partition_rate(X, one_hot, p.eps), p.Z)
    moved = lab.numpy(ops.redunet_increment(Z, made, labels))
    return max(
        truth.error(lab.numpy(made.E), E),
        truth.error(lab.numpy(made.C), C),
        truth.error(lab.numpy(made.proportions), share),
        truth.error(moved, rise, p.Z @ E),
    )


def _dense_operators(Z: Any, labels: Any, eps: float) -> tuple[Any, Any, Any]:
    """E, C_k and γ_k with explicit inverses."""
    n, d = Z.shape
    counts = np.bincount(labels, minlength=3)
    scales = d / (counts * eps**2)
    C = [a * np.linalg.inv(np.eye(d) + a * Z[labels == k].T @ Z[labels == k]) for k, a in enumerate(scales)]
    alpha = d / (n * eps**2)
    return alpha * np.linalg.inv(np.eye(d) + alpha * Z.T @ Z), np.stack(C), counts / n


@identity("redu-layer", "5.27b", source="REDU (18)-(22)", inside=_redunet, rounding=1e5)
def redunet_layer(lab: Lab, p: Sample) -> float:
    r"""Without labels the layer estimates its membership.

    $$z^+ \propto z + \eta\left(Ez - \sum_k \gamma_k \hat\pi_k C_k z\right), \quad \hat\pi =
    \mathrm{softmax}_k(-\lambda\Vert C_k z\Vert)$$

    Assumes: Operators from other tokens with labels.
    Proof: Definition, token by token: C_kz is small where class k explains z, hence the minus sign.
    """
    made = ops.redunet_operators(lab.array(p.Z), lab.array(p.labels), eps=p.eps)
    E, C, share = _dense_operators(p.Z, p.labels, p.eps)
    fresh = np.roll(p.Z, 1, axis=1) + 0.5
    want = []
    for z in fresh:
        pi = truth.softmax([-p.sharpness * np.linalg.norm(operator @ z) for operator in C])
        want.append(E @ z - sum(g * w * operator @ z for g, w, operator in zip(share, pi, C, strict=True)))
    got = lab.numpy(ops.redunet_increment(lab.array(fresh), made, sharpness=p.sharpness))
    return truth.error(got, np.array(want))


def _signals(rng: np.random.Generator) -> Sample:
    labels = np.concatenate([np.arange(3), rng.integers(3, size=3)])
    return Sample(
        Z=rng.standard_normal((6, 2, int(rng.integers(3, 6)))), labels=labels, eps=draws.spread(rng, 0.3, 2.0)
    )


@identity("redu-circulant", "5.27c", source="REDU (35)-(39)", inside=_signals)
def redunet_circulant(lab: Lab, p: Sample) -> float:
    r"""Shift invariance makes the operators circulant.

    $$\mathcal{F}\left(E z\right)(\omega) = \hat E(\omega)\,\hat z(\omega), \quad \hat E(\omega) \in \mathbb{C}^{C
    \times C}$$

    Assumes: Every circular shift of a signal belongs to its class.
    Proof: The Gram matrix of all shifts is block-circulant, so the Fourier transform splits it into one C×C block
    per frequency. The truth stacks every shift of every signal and inverts the dense CT×CT matrices.
    """
    n, C, T = p.Z.shape
    shifts = np.concatenate([np.roll(p.Z, s, axis=-1).reshape(n, C * T) for s in range(T)])
    E, compress, share = _dense_operators(shifts, np.tile(p.labels, T), p.eps)
    flat = p.Z.reshape(n, C * T)
    want = np.stack([z @ E - share[k] * z @ compress[k] for z, k in zip(flat, p.labels, strict=True)])
    Z, labels = lab.array(p.Z), lab.array(p.labels)
    made = ops.redunet_operators(Z, labels, eps=p.eps, shift_axes=1)
    got = lab.numpy(ops.redunet_increment(Z, made, labels, shift_axes=1)).reshape(n, C * T)
    return truth.error(got, want, flat @ E)
