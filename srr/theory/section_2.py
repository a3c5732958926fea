"""§2 Gradients, curvature, bounds and symmetries of the rates, against derivatives of their definitions."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from scipy import linalg

from srr.fits.dithered import dithered_decode, dithered_encode
from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Refutation, Sample, Series, counterexample, identity, inequality, order

# --- Gradients of the rates, against complex-step derivatives of their definitions


@identity("rate-gradient", "2.1", source="CRATE (7); REDU (12)", inside=draws.weighted_tokens, rounding=1e6)
def rate_gradient(lab: Lab, p: Sample) -> float:
    r"""Gradient of the coding rate.

    $$\nabla R = \alpha Z (I_d + \alpha Z^\top Z)^{-1}$$

    Assumes: Z finite; ε > 0; token weights ≥ 0 enter as W on the left.
    Proof: Jacobi: d logdet(M) = tr(M⁻¹ dM) with dM = α(dZᵀZ + ZᵀdZ); the two halves are equal, the ½ removes one.
    """
    plain = truth.gradient(lambda Z: truth.rate(Z, p.eps), p.Z)
    weighted = truth.gradient(lambda Z: truth.rate(Z, p.eps, p.w), p.Z)
    return max(
        truth.error(lab.ops.coding_rate_grad(p.Z, eps=p.eps), plain),
        truth.error(lab.ops.coding_rate_grad(p.Z, eps=p.eps, weights=p.w), weighted),
    )


@identity("redu-ridge", "2.1b", source="REDU, interpretation of the expansion operator", inside=draws.tokens)
def ridge_residual(lab: Lab, p: Sample) -> float:
    r"""The gradient is the residual of a ridge reconstruction.

    $$(\nabla R)_i = \alpha (z_i - \hat z_i), \quad \hat z = Z^\top q^*, \quad q^* = \mathrm{argmin}_q \; \alpha
    \Vert z - Z^\top q \Vert^2 + \Vert q \Vert^2$$

    Assumes: Z finite; ε > 0.
    Measured: error relative to α‖Z‖.
    Proof: Z − Zᵀ(ZZᵀ + I/α)⁻¹Zz = (I + αZᵀZ)⁻¹z; the truth solves the augmented least-squares problem by SciPy.
    """
    n, alpha = len(p.Z), truth.alpha(p.Z, p.eps)
    augmented = np.vstack([np.sqrt(alpha) * p.Z.T, np.eye(n)])
    q = linalg.lstsq(augmented, np.vstack([np.sqrt(alpha) * p.Z.T, np.zeros((n, n))]))[0]
    want = alpha * (p.Z - q.T @ p.Z)
    got = lab.ops.coding_rate_grad(p.Z, eps=p.eps)
    return truth.error(got, want, alpha * p.Z)


@inequality("rate-gradient-norm", "2.1c", source="CRATE (7)", inside=draws.tokens, rounding=1e5)
def gradient_norm(lab: Lab, p: Sample) -> float:
    r"""The gradient of the rate is bounded, and the bound is reached.

    $$\Vert\nabla R(Z)\Vert_F \leq \frac{1}{2}\sqrt{\alpha \min(n, d)}, \quad \mathrm{equality\;where\;every}\;
    \sigma = 1/\sqrt{\alpha}$$

    Assumes: Every Z.
    Measured: excess over the bound, and gap where it is reached, relative.
    Proof: The gradient has the singular values ασ/(1 + ασ²), at most √α/2 with equality at ασ² = 1, and there are
    min(n, d) of them.
    """
    n, d = p.Z.shape
    alpha = truth.alpha(p.Z, p.eps)
    limit = np.sqrt(alpha * min(n, d)) / 2
    own, reached = (
        float(np.linalg.norm(lab.ops.coding_rate_grad(Z, eps=p.eps))) / limit - 1
        for Z in (p.Z, np.eye(n, d) / np.sqrt(alpha))
    )
    return max(own, abs(reached))


@identity("crate-9", "2.2", source="CRATE (9)", inside=draws.free_subspaces, rounding=1e5)
def subspace_rate_gradient(lab: Lab, p: Sample) -> float:
    r"""Gradient of the coding rate under subspaces.

    $$\nabla R^c(Z; U) = \beta \sum_k V_k (I_p + \beta V_k^\top V_k)^{-1} U_k^\top$$

    Assumes: Any bases, orthonormal or free.
    Proof: The chain rule through V_k = Z U_k sends the gradient of each head back through U_kᵀ.
    """
    want = truth.gradient(lambda Z: truth.subspace_rate(Z, p.U, p.eps), p.Z)
    return truth.error(lab.ops.subspace_coding_rate_grad(p.Z, p.U, eps=p.eps), want)


@identity("srr-gradient", "2.2b", source="CRATE (1), (9)", inside=draws.subspaces, rounding=1e5)
def srr_gradient(lab: Lab, p: Sample) -> float:
    r"""Gradient of the smooth part of the sparse rate reduction.

    $$\nabla (R - R^c) = \nabla R - \nabla R^c$$

    Assumes: Any bases.
    Measured: error relative to the larger of both gradients.
    Proof: Linearity; the ℓ1 term is left to its proximal operator.
    """
    rise = truth.gradient(lambda Z: truth.rate(Z, p.eps), p.Z)
    fall = truth.gradient(lambda Z: truth.subspace_rate(Z, p.U, p.eps), p.Z)
    got = lab.ops.sparse_rate_reduction_grad(p.Z, p.U, eps=p.eps)
    return truth.error(got, rise - fall, [rise, fall])


@identity("partition-gradient", "2.3", source="MCR2 (8); REDU (13)", inside=draws.partition)
def partition_gradient(lab: Lab, p: Sample) -> float:
    r"""Gradient of the coding rate of a partition.

    $$\nabla_Z R^c(Z \mid \Pi) = \sum_k \frac{\mathrm{tr}\,\Pi_k}{n} \alpha_k \Pi_k Z (I + \alpha_k Z^\top \Pi_k
    Z)^{-1}, \quad \alpha_k = \frac{d}{\mathrm{tr}\,\Pi_k\,\varepsilon^2}$$

    Assumes: Memberships non-negative.
    Proof: Every class is a weighted rate; its weight tr Π_k/n and its α_k multiply to α, so small classes are not
    forgotten.
    """
    want = truth.gradient(lambda Z: truth.partition_rate(Z, p.Pi, p.eps), p.Z)
    return truth.error(lab.ops.partition_coding_rate_grad(p.Z, p.Pi, eps=p.eps), want)


@identity("reduction-gradient", "2.3b", source="MCR2 (10)", inside=lambda rng: draws.partition(rng, least=2))
def reduction_gradient(lab: Lab, p: Sample) -> float:
    r"""Gradient of the rate reduction.

    $$\nabla_Z \Delta R(Z \mid \Pi) = \nabla R - \nabla_Z R^c(Z \mid \Pi)$$

    Assumes: Memberships or labels.
    Measured: error relative to ‖∇R‖.
    Proof: Linearity; checked for memberships and for the labels that pick the largest of them.
    """
    labels = np.argmax(p.Pi, axis=1)
    rise = truth.gradient(lambda Z: truth.rate(Z, p.eps), p.Z)
    worst = 0.0
    for Pi, weights in ((p.Pi, p.Pi), (labels, np.eye(p.Pi.shape[1])[labels])):
        want = rise - truth.gradient(partial(truth.partition_rate, Pi=weights, eps=p.eps), p.Z)
        worst = max(worst, truth.error(lab.ops.rate_reduction_grad(p.Z, Pi, eps=p.eps), want, rise))
    return worst


# --- Curvature: what step is safe, and how sharp the constants are


_DIFFERENCE = 1e-7  # accuracy of the differenced Hessians, relative to the curvature


@inequality("rate-curvature", "2.4", source="sharpens CRATE, Lemma 6", inside=draws.curved_tokens, bound=_DIFFERENCE)
def rate_curvature(lab: Lab, p: Sample) -> float:
    r"""The Hessian of R lies within [−α/8, α].

    $$-\frac{\alpha}{8} I \preceq \nabla^2 R(Z) \preceq \alpha I$$

    Assumes: Every Z.
    Measured: distance outside the interval, over α.
    Proof: R is ½Σlog(1 + ασ²), so with g(σ) = ασ/(1 + ασ²) its Hessian has the eigenvalues g′(σᵢ), the divided
    differences (g(σᵢ) − g(±σⱼ))/(σᵢ ∓ σⱼ) and g(σ)/σ: all mean values of g′, whose range is [−α/8, α].
    """
    alpha = lab.ops.coding_rate_smoothness(p.Z, eps=p.eps)
    curvature = np.linalg.eigvalsh(truth.hessian(lambda Z: truth.rate(Z, p.eps), p.Z))
    return float(max(curvature[-1] - alpha, -alpha / 8 - curvature[0]) / alpha)


@identity("rate-curvature-sharp", "2.4b", source="this project", inside=draws.curved_tokens, bound=1e-6)
def rate_curvature_sharp(lab: Lab, p: Sample) -> float:
    r"""Both ends of the interval are reached.

    $$\lambda_{\max}\nabla^2 R(0) = \alpha, \qquad \lambda_{\min}\nabla^2 R = -\frac{\alpha}{8} \;\mathrm{at}\;
    \sigma = \sqrt{3/\alpha}$$

    Assumes: Z = 0; Z with a singular value √(3/α).
    Proof: g′(σ) = α(1 − ασ²)/(1 + ασ²)² is α at 0 and smallest where ασ² = 3; both the differenced Hessian of the
    definition and the operator's Hessian product are asked.
    """
    alpha = truth.alpha(p.Z, p.eps)
    spike = np.zeros_like(p.Z)
    spike[0, 0] = np.sqrt(3 / alpha)
    worst = 0.0
    for Z, want in ((np.zeros_like(p.Z), alpha), (spike, -alpha / 8)):
        direction = np.zeros_like(Z)
        direction[0, 0] = 1.0
        curvature = np.linalg.eigvalsh(truth.hessian(lambda X: truth.rate(X, p.eps), Z + 1e-12))
        found = curvature[-1] if want > 0 else curvature[0]
        product = lab.ops.coding_rate_hvp(Z, direction, eps=p.eps)[0, 0]
        worst = max(worst, truth.error(found, want), truth.error(product, want))
    return worst


@identity(
    "rate-hessian", "2.4c", source="differentiates CRATE (7)-(9)", inside=draws.curved_subspaces, bound=_DIFFERENCE
)
def rate_hessian(lab: Lab, p: Sample) -> float:
    r"""Hessian products of both rates.

    $$\nabla^2 R(Z)[V] = \lim_{t\to 0} \frac{\nabla R(Z + tV) - \nabla R(Z)}{t}, \quad
    \mathrm{and\;the\;same\;for}\; R^c(\cdot\,; U)$$

    Assumes: Any bases.
    Measured: error relative to the largest curvature.
    Proof: Differentiate Z M⁻¹ with dM⁻¹ = −M⁻¹ dM M⁻¹; the truth multiplies the differenced Hessian of the
    definition.
    """
    V = np.roll(p.Z, 1, axis=1) + np.linspace(-1.0, 1.0, p.Z.size).reshape(p.Z.shape)
    whole = truth.hessian(lambda Z: truth.rate(Z, p.eps), p.Z)
    parts = truth.hessian(lambda Z: truth.subspace_rate(Z, p.U, p.eps), p.Z)
    got = lab.ops.coding_rate_hvp(p.Z, V, eps=p.eps), lab.ops.subspace_coding_rate_hvp(p.Z, V, p.U, eps=p.eps)
    scale = np.linalg.norm(V)
    return max(
        float(np.max(np.abs(H @ V.ravel() - hvp.ravel())) / (np.linalg.norm(H, 2) * scale))
        for H, hvp in zip((whole, parts), got, strict=True)
    )


@inequality("subspace-curvature", "2.5", source="sharpens CRATE, Lemma 6", inside=draws.curved_subspaces, bound=1e-6)
def subspace_curvature(lab: Lab, p: Sample) -> float:
    r"""Smoothness of the rate under subspaces.

    $$\lambda_{\max} \nabla^2 R^c(Z; U) \leq L_c = \beta \left\Vert \sum_k U_k U_k^\top \right\Vert_2
    \;\mathrm{with\;equality\;at}\; Z = 0$$

    Assumes: Orthonormal columns in every head; any angles between heads.
    Measured: excess over L_c, and gap at Z = 0, relative.
    Proof: Every head's Hessian is at most β on its own coordinates, so the sum is at most β Σ U_kU_kᵀ on each
    token.
    """
    limit = lab.ops.subspace_coding_rate_smoothness(p.Z, p.U, eps=p.eps)
    top = [
        np.linalg.eigvalsh(truth.hessian(lambda X: truth.subspace_rate(X, p.U, p.eps), Z))[-1]
        for Z in (p.Z, np.full_like(p.Z, 1e-12))
    ]
    return max(float(top[0] / limit - 1), abs(float(top[1] / limit - 1)))


@inequality("srr-curvature", "2.6", source="sum of (4) and (5)", inside=draws.curved_subspaces, bound=_DIFFERENCE)
def srr_curvature(lab: Lab, p: Sample) -> float:
    r"""Smoothness of the sparse rate reduction.

    $$\lambda_{\max}\nabla^2 (R^c - R) \leq L = L_c + \frac{\alpha}{8}$$

    Assumes: Orthonormal columns in every head.
    Measured: excess over L, relative.
    Proof: The largest eigenvalue of a sum is at most the sum of the largest: L_c for R^c and α/8 for −R.
    """
    H = truth.hessian(lambda Z: -truth.sparse_reduction(Z, p.U, p.eps), p.Z)
    overlap = np.linalg.norm(np.sum(p.U @ p.U.mT, axis=0), 2)
    own = truth.alpha(p.Z, p.eps) / 8 + truth.beta(p.Z, p.U, p.eps) * overlap
    limit = lab.ops.sparse_rate_reduction_smoothness(p.Z, p.U, eps=p.eps)
    return float(max(np.linalg.eigvalsh(H)[-1] / limit - 1, abs(limit / own - 1) - 1e-12))


# --- What one step of the right size is sure to do


@inequality(
    "rate-step",
    "2.4d",
    source="descent lemma with the constants of (4)",
    inside=draws.curved_tokens,
    outside=lambda rng: draws.curved_tokens(rng).but(stretch=3.0),
)
def rate_step(lab: Lab, p: Sample) -> float:
    r"""A gradient step of 1/α on R moves by at least what it must.

    $$R(Z - \nabla R/\alpha) \leq R(Z) - \frac{\Vert\nabla R\Vert^2}{2\alpha}, \qquad R(Z + s\nabla R) \geq R(Z) +
    s\left(1 - \frac{s\alpha}{16}\right)\Vert\nabla R\Vert^2$$

    Assumes: Steps up to 1/α down, any step up.
    Measured: missing movement, relative to R.
    Outside: a step of 3/α overshoots near Z = 0.
    Proof: Curvature at most α downwards and −α/8 upwards, put into the second-order Taylor bound.
    """
    alpha = lab.ops.coding_rate_smoothness(p.Z, eps=p.eps)
    stretch = getattr(p, "stretch", 1.0)
    Z, down = (p.Z if stretch == 1.0 else 1e-3 * p.Z), stretch / alpha
    slope = lab.ops.coding_rate_grad(Z, eps=p.eps)
    size, up = float(np.sum(slope**2)), 8.0 / alpha
    here = truth.rate(Z, p.eps)
    fall = truth.rate(Z - down * slope, p.eps) - here + size / (2 * alpha)
    climb = here + up * (1 - up * alpha / 16) * size - truth.rate(Z + up * slope, p.eps)
    return float(max(fall, climb) / here)


@inequality(
    "compression-descent",
    "2.5b",
    source="descent lemma; exact form of CRATE (10)",
    inside=draws.curved_subspaces,
    outside=lambda rng: draws.curved_subspaces(rng).but(stretch=3.0),
)
def compression_descent(lab: Lab, p: Sample) -> float:
    r"""One exact compression step descends.

    $$R^c(Z - \kappa\nabla R^c) \leq R^c(Z) - \frac{\kappa}{2}\Vert \nabla R^c \Vert^2, \quad \kappa \leq 1/L_c$$

    Assumes: κ ≤ 1/L_c.
    Measured: missing descent, relative to R^c.
    Outside: κ = 3/L_c on tokens near zero: the step overshoots and the rate rises.
    Proof: Taylor with curvature at most L_c.
    """
    stretch = getattr(p, "stretch", 1.0)
    Z = p.Z if stretch == 1.0 else 1e-3 * p.Z
    step = stretch / lab.ops.subspace_coding_rate_smoothness(Z, p.U, eps=p.eps)
    after = lab.ops.compression_step(Z, p.U, step=step, eps=p.eps)
    size = float(np.sum(truth.gradient(lambda X: truth.subspace_rate(X, p.U, p.eps), Z) ** 2))
    before = float(truth.subspace_rate(Z, p.U, p.eps))
    change = float(truth.subspace_rate(after, p.U, p.eps)) - before
    return float((change + step * size / 2) / before)


@inequality(
    "srr-descent",
    "2.6b",
    source="proximal descent lemma with (6)",
    inside=draws.curved_subspaces,
    outside=lambda rng: draws.curved_subspaces(rng).but(stretch=30.0),
    rounding=1e5,
)
def srr_descent(lab: Lab, p: Sample) -> float:
    r"""Proximal gradient with step 1/L never lowers the objective.

    $$F(\mathrm{prox}_{\lambda/L}(Z + \nabla(R - R^c)/L)) \geq F(Z), \quad F = R - R^c - \lambda\Vert Z\Vert_1$$

    Assumes: Step 1/L.
    Measured: fall of the objective, relative.
    Outside: a step of 30/L.
    Proof: The prox minimizes a quadratic upper model of −F that touches it at Z.
    """
    lam, path = 0.1, [p.Z]
    step = getattr(p, "stretch", 1.0) / lab.ops.sparse_rate_reduction_smoothness(p.Z, p.U, eps=p.eps)
    for _ in range(5):
        slope = lab.ops.sparse_rate_reduction_grad(path[-1], p.U, eps=p.eps)
        path.append(lab.ops.soft_threshold(path[-1] + step * slope, threshold=step * lam))
    height = np.array([truth.sparse_reduction(Z, p.U, p.eps, lam) for Z in path])
    return float(np.max((height[:-1] - height[1:]) / (1 + np.abs(height[:-1]))))


# --- Bounds on the rates


@inequality(
    "rate-bound", "2.7", source="concavity of the logarithm; MCR2, Lemma A.2", inside=draws.tokens, rounding=1e3
)
def rate_bound(lab: Lab, p: Sample) -> float:
    r"""The rate is largest when the energy is spread evenly.

    $$R(Z) \leq \frac{r}{2} \log\left(1 + \frac{\alpha \Vert Z\Vert_F^2}{r}\right), \quad r = \min(n, d)$$

    Assumes: None.
    Measured: excess over the bound, relative.
    Proof: Jensen on the r possibly non-zero eigenvalues of αZᵀZ, whose sum is α‖Z‖².
    """
    r = min(p.Z.shape)
    limit = r / 2 * np.log1p(truth.alpha(p.Z, p.eps) * np.sum(p.Z**2) / r)
    return float(lab.ops.coding_rate(p.Z, eps=p.eps) / limit - 1)


@inequality("rate-subadditive", "2.7b", source="Fischer's inequality", inside=draws.tokens, rounding=1e3)
def rate_subadditive(lab: Lab, p: Sample) -> float:
    r"""A union of blocks costs at most the sum of its blocks.

    $$R(Z) \leq \sum_k \frac{1}{2}\log\det(I + \alpha Z_k^\top Z_k), \quad Z^\top Z = \sum_k Z_k^\top Z_k$$

    Assumes: One α for all, that of Z.
    Measured: excess over the sum, relative to R.
    Proof: The larger-side matrix I + αZZᵀ has the blocks I + αZ_kZ_kᵀ on its diagonal: det ≤ product (Fischer).
    """
    whole = lab.ops.coding_rate(p.Z, eps=p.eps)
    cut = len(p.Z) // 2
    blocks = [block for block in (p.Z[:cut], p.Z[cut:]) if len(block)]
    parts = sum(lab.ops.gram_logdet(b, truth.alpha(p.Z, p.eps)) for b in blocks) / 2
    return float((whole - parts) / whole)


@identity(
    "rate-orthogonal-blocks",
    "2.7h",
    source="equality in Fischer's inequality",
    inside=lambda rng: _blocks(rng, shared=False),
    outside=lambda rng: _blocks(rng, shared=True),
)
def orthogonal_blocks(lab: Lab, p: Sample) -> float:
    r"""The union costs as much as its blocks exactly when the blocks are orthogonal.

    $$R(Z) = \sum_k \frac{1}{2}\log\det(I + \alpha Z_k^\top Z_k) \;\Leftrightarrow\; Z_k Z_l^\top = 0 \;\mathrm{for}\; k
    \neq l$$

    Assumes: Every token of a block is orthogonal to every token of the others; one α for all.
    Outside: blocks that share a direction.
    Proof: I + αZZᵀ is then block-diagonal; Fischer's inequality is strict as soon as one block off the diagonal is not
    zero.
    """
    alpha = truth.alpha(p.Z, p.eps)
    parts = sum(truth.precise_logdet(block, alpha) for block in (p.Z[: p.cut], p.Z[p.cut :])) / 2
    return truth.error(lab.ops.coding_rate(p.Z, eps=p.eps), parts)


def _blocks(rng: np.random.Generator, shared: bool) -> Sample:
    """Two blocks of tokens, on axes of their own or with one axis in common."""
    d, cut = int(rng.integers(2, 7)), int(rng.integers(1, 4))
    split = int(rng.integers(1, d))
    Z = rng.standard_normal((cut + int(rng.integers(1, 4)), d))
    Z[:cut, split:] = 0.0
    Z[cut:, : split - shared] = 0.0
    return Sample(Z=Z @ draws.orthonormal(rng, d, d), cut=cut, eps=draws.spread(rng, 0.1, 1.0))


@inequality(
    "rate-jensen",
    "2.7i",
    source="concavity of log det",
    inside=lambda rng: _shards(rng, 3, 3),
    outside=lambda rng: _shards(rng, 1, 9),
    rounding=1e3,
)
def rate_jensen(lab: Lab, p: Sample) -> float:
    r"""The mean of rates on equal shards is at most the rate of all tokens.

    $$\frac{1}{m}\sum_i R(Z_i) \leq R(Z), \quad n_i = n/m$$

    Assumes: Shards of equal size, as the ranks of data-parallel training hold.
    Measured: excess over R, relative.
    Outside: shards of one and nine tokens whose rates are averaged without weights.
    Proof: With equal sizes ZᵀZ/n is the mean of the Z_iᵀZ_i/n_i, and log det is concave. A loss that averages the
    ranks' rates is therefore not that of the whole batch.
    """
    parts = np.mean([truth.rate(block, p.eps) for block in (p.Z[: p.cut], p.Z[p.cut :])])
    whole = lab.ops.coding_rate(p.Z, eps=p.eps)
    return float((parts - whole) / whole)


def _shards(rng: np.random.Generator, first: int, second: int) -> Sample:
    """Two shards; when the first is the smaller one its token is the longer."""
    d = int(rng.integers(1, 6))
    Z = rng.standard_normal((first + second, d))
    Z[first:] *= 1.0 if first == second else 0.1
    return Sample(Z=Z, cut=first, eps=draws.spread(rng, 0.5, 5.0))


def _rate_distortion(Z: Any, eps: float) -> float:
    """Rate-distortion function of a Gaussian source with covariance ZᵀZ/n at total distortion ε², by water-filling."""
    energy = np.sort(np.linalg.eigvalsh(Z.T @ Z / len(Z)))[::-1]
    energy = energy[energy > 1e-13 * energy[0]]
    if energy.sum() <= eps**2:
        return 0.0
    for r in range(len(energy), 0, -1):  # the water level when r directions stay above it
        level = (eps**2 - energy[r:].sum()) / r
        if 0 < level <= energy[r - 1]:
            return float(np.sum(np.log(energy[:r] / level)) / 2)
    raise ArithmeticError("no water level")


@inequality(
    "rate-above-distortion",
    "2.7j",
    source="MCR2, Section 2; Cover and Thomas, 10.3",
    inside=lambda rng: draws.tokens(rng).but(eps=draws.spread(rng, 1e-3, 1.0)),
)
def above_distortion(lab: Lab, p: Sample) -> float:
    r"""The rate is never below the Gaussian rate-distortion function.

    $$R(Z) \geq R_D(\varepsilon^2), \quad R_D = \min_{\sum_i D_i \leq \varepsilon^2} \sum_i \frac{1}{2}
    \log\frac{\lambda_i}{D_i}, \; \lambda_i = \lambda_i(Z^\top Z/n)$$

    Assumes: Every Z; ε² is the distortion of a whole token.
    Measured: missing rate, relative to R.
    Proof: D_i = λ_iδ/(λ_i + δ) with δ = ε²/d is allowed, as each is below δ, and costs exactly ½ Σ log(1 + λ_i/δ) = R.
    """
    rate = lab.ops.coding_rate(p.Z, eps=p.eps)
    return float((_rate_distortion(p.Z, p.eps) - rate) / rate)


def _low_rank(rng: np.random.Generator) -> Sample:
    d = int(rng.integers(3, 8))
    r = int(rng.integers(1, d))
    return Sample(Z=rng.standard_normal((2 * d, r)) @ draws.orthonormal(rng, d, r).T, r=r, eps=1e-5)


@counterexample(
    "rate-low-rank-gap",
    "2.7k",
    source="MCR2, Section 2 (close to the rate-distortion function for small ε)",
    inside=_low_rank,
    margin=0.1,
    bound=1e-6,
)
def low_rank_gap(lab: Lab, p: Sample) -> Refutation:
    r"""For tokens of low rank the rate stays above the rate-distortion function, however small ε is.

    $$R(Z) - R_D(\varepsilon^2) \rightarrow 0 \;\mathrm{as}\; \varepsilon \rightarrow 0$$
    Corrected: $$R(Z) - R_D(\varepsilon^2) \rightarrow \frac{r}{2} \log\frac{d}{r}, \quad r = \mathrm{rank}\, Z$$

    Assumes: Tokens of rank r < d, ε = 1e-5; with r = d the gap does close.
    Measured: distance of the gap from the corrected limit, relative.
    Proof: R_D spreads ε² over the r directions that hold energy, R over all d: each of the r terms differs by
    ½ log(d/r). Low rank is the case the rate is used for.
    """
    gap = float(lab.ops.coding_rate(p.Z, eps=p.eps)) - _rate_distortion(p.Z, p.eps)
    d = p.Z.shape[1]
    limit = p.r / 2 * np.log(d / p.r)
    return Refutation(gap, abs(gap / limit - 1), f"rank {p.r} in R^{d} at ε = 1e-5: R exceeds R_D by {gap:.4f} nats")


def _overfull(rng: np.random.Generator) -> Sample:
    p = draws.partition(rng)
    return p.but(Pi=np.ones((len(p.Z), 3)), overfull=True)


@inequality(
    "reduction-nonnegative", "2.7c", source="MCR2, Lemma A.4", inside=draws.partition, outside=_overfull, rounding=1e3
)
def reduction_nonnegative(lab: Lab, p: Sample) -> float:
    r"""Coding in classes never costs more: ΔR ≥ 0.

    $$R^c(Z \mid \Pi) \leq R(Z)$$

    Assumes: Rows of Π sum to one.
    Measured: excess over R, relative.
    Outside: rows of Π that sum to K: the same tokens are then coded K times.
    Proof: Log det is concave: R(Z) = ½ log det of the average, with weights tr Π_k/n, of the I + α_kZᵀΠ_kZ.
    """
    if getattr(p, "overfull", False):
        parts = truth.partition_rate(p.Z, p.Pi, p.eps)
    else:
        parts = lab.ops.partition_coding_rate(p.Z, p.Pi, eps=p.eps)
    return float(parts / truth.rate(p.Z, p.eps) - 1)


def _two_memberships(rng: np.random.Generator) -> Sample:
    p = draws.partition(rng)
    return p.but(other=draws.membership(rng, *p.Pi.shape), t=float(rng.uniform()))


@inequality("partition-concave", "2.7d", source="MCR2, Section 2", inside=_two_memberships, rounding=1e3)
def partition_concave(lab: Lab, p: Sample) -> float:
    r"""The rate of a partition is concave in the memberships.

    $$R^c(Z \mid t\Pi + (1 - t)\Pi') \geq t R^c(Z \mid \Pi) + (1 - t) R^c(Z \mid \Pi')$$

    Assumes: Rows of Π and Π′ on the simplex.
    Measured: missing concavity, relative to R.
    Proof: M logdet(I + S/m) is the perspective of a concave function of S, hence jointly concave in (S, m), both
    linear in Π.
    """
    mixed = lab.ops.partition_coding_rate(p.Z, p.t * p.Pi + (1 - p.t) * p.other, eps=p.eps)
    first, second = (truth.partition_rate(p.Z, Pi, p.eps) for Pi in (p.Pi, p.other))
    return float((p.t * first + (1 - p.t) * second - mixed) / truth.rate(p.Z, p.eps))


def _incomplete(rng: np.random.Generator) -> Sample:
    U = draws.orthogonal_bases(rng, 2, 6, 1)
    return Sample(Z=1e3 * rng.standard_normal((12, 6)), U=U, eps=0.5)


@inequality(
    "srr-gap-bound", "2.7e", source="this project", inside=draws.orthogonal_subspaces, outside=_incomplete, rounding=1e3
)
def gap_bound(lab: Lab, p: Sample) -> float:
    r"""The unsparse objective is at most ½ d log K.

    $$R(Z) - R^c(Z; U) \leq \frac{1}{2} d \log K$$

    Assumes: U complete and orthonormal: Kp = d.
    Measured: excess over ½ d log K, relative.
    Outside: bases that leave directions uncovered: R grows there without limit.
    Proof: Fischer in the basis U bounds R by blocks at scale α = Kβ, and 1 + Kβx ≤ K(1 + βx) for every eigenvalue x
    ≥ 0.
    """
    gap = lab.ops.sparse_rate_reduction(p.Z, p.U, eps=p.eps, lam=0.0)
    return float(gap / (p.Z.shape[1] / 2 * np.log(len(p.U))) - 1)


def _isotropic(rng: np.random.Generator) -> Sample:
    Z = draws.orthonormal(rng, 64, 32) * np.sqrt(64 / 32)
    return Sample(Z=Z, U=draws.orthogonal_bases(rng, 4, 32, 8))


@order(
    "srr-gap-approached", "2.7f", source="this project", inside=_isotropic, slope=(-2.05, -1.95), parameter="scale s"
)
def gap_approached(lab: Lab, p: Sample) -> Series:
    r"""Large isotropic tokens approach ½ d log K at rate 1/s².

    $$\frac{1}{2} d \log K - (R - R^c)(sZ) \sim s^{-2}, \quad Z^\top Z = n I / d$$

    Assumes: Z isotropic, U complete and orthonormal (d = 32, K = 4: ½ d log K = 22.181).
    Measured: slope of the gap in the scale s.
    Proof: All eigenvalues equal x = αs²n/d: the gap is ½ d log(K(1 + x/K)/(1 + x)) = ½ d (K − 1)/x + O(x⁻²).
    """
    scales = np.geomspace(10, 100, 8)
    limit = p.Z.shape[1] / 2 * np.log(len(p.U))
    gaps = [limit - lab.ops.sparse_rate_reduction(s * p.Z, p.U, eps=1.0, lam=0.0) for s in scales]
    return Series(scales, gaps)


@counterexample(
    "srr-gap-negative",
    "2.7g",
    source="by false analogy with MCR2, Lemma A.4",
    inside=lambda rng: Sample(Z=np.ones((1, 2)), U=np.eye(2)[:, :, None], eps=1.0),
    margin=0.1,
    samples=1,
)
def gap_negative(lab: Lab, p: Sample) -> Refutation:
    r"""R − R^c(·;U) has no lower bound at zero.

    $$R(Z) - R^c(Z; U) \geq 0$$
    Corrected: $$R(Z) - R^c(Z; U) < 0 \;\mathrm{for}\; Z = (1, 1), \; U = (e_1, e_2)$$

    Assumes: One token spread over both heads of a complete orthonormal U.
    Proof: R = ½ log(1 + 2·2) = ½ log 5; each head sees a 1: R^c = 2·½ log 2 = ½ log 4 at ε = 1 with β = 1.
    Stretched by s, R grows like log s and R^c like 2 log s, so the difference falls without limit.
    """
    sizes = [1.0, 2.0, 4.0, 8.0]
    gaps = [lab.ops.sparse_rate_reduction(s * p.Z, p.U, eps=p.eps, lam=0.0) for s in sizes]
    exact = [0.5 * np.log1p(4 * s**2) - np.log1p(s**2) for s in sizes]
    first = next(s for s, gap in zip(sizes, gaps, strict=True) if gap < 0)
    witness = f"Z = ({first:g}, {first:g}), U = (e₁, e₂), ε = 1: R − R^c = {gaps[sizes.index(first)]:.4f} nats"
    return Refutation(-min(gaps), truth.error(gaps, exact), witness)


# --- Symmetries: the operator on the transformed problem against the truth on the original one


def _transformed(rng: np.random.Generator) -> Sample:
    p = draws.subspaces(rng)
    K, d, width = p.U.shape
    n = len(p.Z)
    return p.but(
        rows=rng.permutation(n),
        heads=rng.permutation(K),
        inner=np.stack([draws.orthonormal(rng, width, width) for _ in range(K)]),
        turn=draws.orthonormal(rng, d, d),
        mix=draws.orthonormal(rng, n, n),
    )


def _change(lab: Lab, p: Sample, Z: Any, U: Any) -> float:
    """Change of R − R^c under a transformation, relative to the sizes of both."""
    got = lab.ops.sparse_rate_reduction(np.ascontiguousarray(Z), np.ascontiguousarray(U), eps=p.eps, lam=0.0)
    want = truth.sparse_reduction(p.Z, p.U, p.eps)
    return float(abs(got - want) / (truth.rate(p.Z, p.eps) + truth.subspace_rate(p.Z, p.U, p.eps)))


@identity("symmetry-tokens", "2.8", source="CRATE (7)-(8)", inside=_transformed, rounding=1e5)
def token_permutation(lab: Lab, p: Sample) -> float:
    r"""The order of tokens does not matter.

    $$(R - R^c)(PZ; U) = (R - R^c)(Z; U), \quad P \;\mathrm{a\;permutation}$$

    Assumes: None.
    Measured: change, relative to R + R^c.
    Proof: (PZ)ᵀPZ = ZᵀZ; the gradient moves with the rows.
    """
    want = truth.gradient(lambda Z: truth.subspace_rate(Z, p.U, p.eps), p.Z)[p.rows]
    moved = lab.ops.subspace_coding_rate_grad(p.Z[p.rows], p.U, eps=p.eps)
    return max(_change(lab, p, p.Z[p.rows], p.U), truth.error(moved, want))


@identity("symmetry-heads", "2.8b", source="CRATE (8)", inside=_transformed)
def head_permutation(lab: Lab, p: Sample) -> float:
    r"""The order of heads does not matter.

    $$R^c(Z; U_{\pi(1)}, \ldots, U_{\pi(K)}) = R^c(Z; U_1, \ldots, U_K)$$

    Assumes: None.
    Measured: change, relative to R + R^c.
    Proof: A sum over heads.
    """
    return _change(lab, p, p.Z, p.U[p.heads])


@identity(
    "symmetry-within-head",
    "2.8c",
    source="CRATE (8)",
    inside=_transformed,
    outside=lambda rng: _transformed(rng).but(shear=2.0),
)
def within_head(lab: Lab, p: Sample) -> float:
    r"""Only the subspace matters, not its basis.

    $$R^c(Z; U_k Q_k) = R^c(Z; U_k), \quad Q_k^\top Q_k = I_p$$

    Assumes: Q_k orthogonal.
    Measured: change, relative to R + R^c.
    Outside: a change of basis that is not orthogonal.
    Proof: det(I + βQᵀVᵀVQ) = det(Qᵀ(I + βVᵀV)Q).
    """
    return _change(lab, p, p.Z, getattr(p, "shear", 1.0) * p.U @ p.inner)


@identity(
    "symmetry-rotation",
    "2.8d",
    source="CRATE (7)-(8)",
    inside=lambda rng: _transformed(rng).but(frame=True),
    outside=lambda rng: _transformed(rng).but(frame=False),
)
def rotation(lab: Lab, p: Sample) -> float:
    r"""Tokens and bases may be rotated together.

    $$(R - R^c)(ZQ; Q^\top U) = (R - R^c)(Z; U), \quad \Vert ZQ \cdot Q^\top D\Vert_1 = \Vert ZD \Vert_1$$

    Assumes: The sparse frame D is rotated too.
    Measured: change, relative to the objective's terms.
    Outside: the ℓ1 norm measured in the standard basis, which does not turn along.
    Proof: V_k = ZQ·QᵀU_k is unchanged, det(I + αQᵀZᵀZQ) too; the ℓ1 norm is invariant only with its frame.
    """
    Z, U = p.Z @ p.turn, p.turn.T @ p.U
    if p.frame:
        return _change(lab, p, Z, U)
    got = lab.ops.sparse_rate_reduction(Z, np.ascontiguousarray(U), eps=p.eps, lam=0.1)
    want, sparse = truth.sparse_reduction(p.Z, p.U, p.eps, 0.1), 0.1 * np.abs(p.Z).sum()
    return float(abs(got - want) / (truth.rate(p.Z, p.eps) + sparse))


# --- The rate as a count: of balls that cover, and of bits that a real code writes


def _ellipsoid(rng: np.random.Generator) -> Sample:
    """One or two semi-axes, in units of the covering balls' radius."""
    return Sample(axes=np.sort(np.exp(rng.uniform(np.log(0.3), np.log(8.0), int(rng.integers(1, 3))))))


def _separated(axes: Any, distance: float) -> int:
    """Points of a fine grid of the ellipsoid, kept one by one when farther than a distance from those kept."""
    steps = [np.linspace(-a, a, max(3, int(2 * a / 0.1))) for a in axes]
    grid = np.stack([x.ravel() for x in np.meshgrid(*steps)], axis=1)
    grid = grid[np.sum((grid / axes) ** 2, axis=1) <= 1 + 1e-12]
    count = 0
    while len(grid):
        count += 1
        grid = grid[np.sum((grid - grid[0]) ** 2, axis=1) > distance**2]
    return count


@inequality("rate-covering", "2.7l", source="MCR2, Section 2 (sphere packing)", inside=_ellipsoid, rounding=1e3)
def rate_covering(lab: Lab, p: Sample) -> float:
    r"""The rate is the logarithm of a covering number, up to a constant a dimension.

    $$R(Z) - \frac{d}{2}\log 2 \leq \log N(E, \delta) \leq R(Z) + \frac{d}{2}\log 5, \quad \delta^2 =
    \varepsilon^2/d$$

    Assumes: E the ellipsoid of the semi-axes √λ_i of ZᵀZ/n, covered by balls of radius δ with centers in E.
    Measured: violation of either side by what a grid shows of N in one and two dimensions, in nats.
    Proof: With s = √λ/δ, N is at least the volume ratio of the axes with s > 1, and at most that of E and half a ball
    around it to half a ball, Π(1 + 2s); 1 + s² ≤ 2 max(1, s²) and (1 + 2s)² ≤ 5(1 + s²).
    """
    d = len(p.axes)
    rate = float(lab.ops.coding_rate(np.sqrt(d) * np.diag(p.axes), eps=float(np.sqrt(d))))
    covers, packs = _separated(p.axes, 1.0 - 0.1 * np.sqrt(d)), _separated(p.axes, 2.0)
    return max(rate - d / 2 * np.log(2) - np.log(covers), np.log(packs) - rate - d / 2 * np.log(5))


def _gaussian(rng: np.random.Generator) -> Sample:
    d = int(rng.integers(2, 6))
    Z = rng.standard_normal((4000, d)) * np.exp(rng.uniform(-2.0, 1.0, d)) @ draws.orthonormal(rng, d, d)
    return Sample(Z=Z, eps=draws.spread(rng, 0.05, 1.0), seed=int(rng.integers(1 << 30)))


@inequality(
    "rate-reached",
    "2.7m",
    source="MCR2, Section 2; Zamir and Feder (1992)",
    inside=_gaussian,
    bound=0.05,
    samples=5,
)
def rate_reached(lab: Lab, p: Sample) -> float:
    r"""A dithered code reaches the rate within 0.254 bits a dimension.

    $$\frac{R(Z)}{\log 2} \leq \mathrm{bits} \leq \frac{R(Z)}{\log 2} + \frac{d}{2}\log_2\frac{2\pi e}{12},
    \quad \frac{1}{n}\Vert Z - \hat Z\Vert_F^2 \leq \varepsilon^2$$

    Assumes: 4,000 normal tokens; `srr encode` writes the bits and reads them back.
    Measured: bits a dimension outside that range, or distortion over ε² less one.
    Proof: Dither makes the error uniform and independent with variance ε²/d; shrinking by λ/(λ + ε²/d) leaves less. The
    bits are the information across that channel, at most ½ log₂(2πe/12) above that of normal noise, which is R.
    """
    tokens = lab.array(p.Z)
    code = dithered_encode(tokens, eps=p.eps, seed=p.seed)
    d, rate = p.Z.shape[1], float(lab.ops.coding_rate(p.Z, eps=p.eps)) / np.log(2)
    above = (code.bits - rate) / d
    error = float(np.mean(np.sum((dithered_decode(code) - p.Z) ** 2, axis=1)))
    return max(above - np.log2(2 * np.pi * math.e / 12) / 2, -above, error / p.eps**2 - 1)
