"""§3 Attention is a compression step: denoising, Neumann series, softmax, and what each does to the rate."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Refutation, Sample, Series, approximation, counterexample, identity, inequality, order

# --- Attention as denoising: the posterior mean of a mixture of subspaces


def _noisy_token(rng: np.random.Generator) -> Sample:
    """A token x = z + t w with z = U_k a, a standard normal, on one of K equally likely subspaces."""
    K, d = int(rng.integers(2, 4)), int(rng.integers(2, 6))
    p = int(rng.integers(1, d))
    U, t = draws.bases(rng, K, d, p), draws.spread(rng, 0.3, 1.5)
    x = U[rng.integers(K)] @ rng.standard_normal(p) + t * rng.standard_normal(d)
    return Sample(x=x[None, :], U=U, t=t, prior=np.full(K, 1 / K))


def _unequal_prior(rng: np.random.Generator) -> Sample:
    p = _noisy_token(rng)
    weight = np.arange(1, len(p.U) + 1) ** 3
    return p.but(prior=weight / weight.sum())


def _denoise(lab: Lab, x: Any, U: Any, t: float) -> Any:
    """Membership-weighted projections, shrunk by 1/(1 + t²), from the operators."""
    share = lab.ops.subspace_membership(x, U, temperature=t**2 * (1 + t**2))  # (n, K)
    return lab.ops.lift(share.T[:, :, None] * lab.ops.project(x, U), U) / (1 + t**2)


def _log_density(x: Any, U: Any, t: float, prior: Any) -> Any:
    """Logarithm of the density of noisy tokens, from dense covariances; x may be complex."""
    parts = []
    for basis, weight in zip(U, prior, strict=True):
        covariance = basis @ basis.T + t**2 * np.eye(len(basis))
        parts.append(np.log(weight) - truth.logdet(covariance) / 2 - (x @ np.linalg.solve(covariance, x.T))[0, 0] / 2)
    top = max(np.real(part) for part in parts)
    return top + np.log(sum(np.exp(part - top) for part in parts))


@identity("crate-5", "3.9", source="CRATE (5)-(6), Proposition 1", inside=_noisy_token, outside=_unequal_prior)
def posterior_mean(lab: Lab, p: Sample) -> float:
    r"""The denoiser of a mixture of subspaces is attention over subspaces.

    $$E[z \mid x] = x + t^2 \nabla\log q(x) = \frac{1}{1 + t^2} \sum_k \mathrm{softmax}_k\left(\frac{\Vert U_k^\top
    x\Vert^2}{2t^2(1 + t^2)}\right) U_k U_k^\top x$$

    Assumes: Equally likely subspaces of equal dimension, orthonormal bases, standard normal coefficients.
    Measured: error relative to the score's posterior mean.
    Outside: subspaces that are not equally likely.
    Proof: Given k, x is normal with covariance U_kU_kᵀ + t²I, whose inverse is (I − U_kU_kᵀ/(1 + t²))/t²: the
    energies are the log-posteriors of k and U_kU_kᵀx/(1 + t²) the posterior mean. The truth differentiates the log
    density (Tweedie).
    """
    score = truth.gradient(lambda x: _log_density(x, p.U, p.t, p.prior), p.x)
    return truth.error(_denoise(lab, p.x, p.U, p.t), p.x + p.t**2 * score)


def _line_token(rng: np.random.Generator) -> Sample:
    p = _noisy_token(rng)
    draw = rng.integers(len(p.U), size=40_000)
    coefficients = rng.standard_normal((40_000, p.U.shape[2]))
    z = (p.U[draw] @ coefficients[:, :, None])[:, :, 0]
    return p.but(z=z, t=max(p.t, 0.6))


@identity(
    "crate-5-monte-carlo", "3.9b", source="CRATE (5)-(6), Proposition 1", inside=_line_token, bound=6.0, samples=10
)
def monte_carlo(lab: Lab, p: Sample) -> float:
    r"""Posterior means drawn at random agree.

    $$E[z \mid x] \approx \frac{\sum_i z_i\, e^{-\Vert x - z_i\Vert^2/(2t^2)}}{\sum_i e^{-\Vert x -
    z_i\Vert^2/(2t^2)}}$$

    Assumes: As (9); 40,000 draws from the mixture.
    Measured: deviation, in standard errors.
    Proof: Draws of z weighted by the likelihood of x; the standard error of the ratio is that of its linearization.
    """
    weight = np.exp(-np.sum((p.x - p.z) ** 2, axis=1) / (2 * p.t**2))
    mean = weight @ p.z / weight.sum()
    spread = np.sqrt(weight**2 @ (p.z - mean) ** 2) / weight.sum()
    return float(np.max(np.abs(_denoise(lab, p.x, p.U, p.t)[0] - mean) / spread))


@order(
    "crate-6", "3.9c", source="CRATE (6), Approximation 2", inside=_noisy_token, slope=(1.9, 2.1), parameter="noise t"
)
def small_noise(lab: Lab, p: Sample) -> Series:
    r"""The small-noise form is second-order accurate.

    $$E[z \mid x] = \sum_k \mathrm{softmax}_k\left(\frac{\Vert U_k^\top x\Vert^2}{2t^2}\right) U_k U_k^\top x +
    O(t^2)$$

    Assumes: x on one subspace and away from the others, t → 0.
    Measured: slope of the error in t.
    Proof: The factor 1/(1 + t²) is 1 − t² + …; the change of temperature moves the softmax by exponentially little
    once one subspace has won. The truth is Tweedie's formula.
    """
    noise, gaps = np.geomspace(0.02, 0.1, 8), []
    clean = np.sum(p.U[0], axis=1)[None, :]
    for t in noise:
        exact = clean + t**2 * truth.gradient(partial(_log_density, U=p.U, t=t, prior=p.prior), clean)
        share = lab.ops.subspace_membership(clean, p.U, temperature=t**2)
        simple = lab.ops.lift(share.T[:, :, None] * lab.ops.project(clean, p.U), p.U)
        gaps.append(float(np.linalg.norm(simple - exact)))
    return Series(noise, gaps)


def _scaled_token(rng: np.random.Generator, forget: bool = False) -> Sample:
    """A token a·z + σ·w of a diffusion with any schedule; ``forget`` reads it as if a were one."""
    p = _noisy_token(rng)
    shrink = float(rng.uniform(0.2, 0.8))
    return p.but(x=p.x, shrink=shrink, read=1.0 if forget else shrink)


@identity(
    "tweedie-schedule",
    "3.9d",
    source="Tweedie; CRATE (5) for a schedule (α_t, σ_t)",
    inside=_scaled_token,
    outside=lambda rng: _scaled_token(rng, forget=True),
)
def tweedie_schedule(lab: Lab, p: Sample) -> float:
    r"""Tweedie's formula and its attention for any schedule of signal and noise.

    $$E[z \mid x] = \frac{x + \sigma^2\nabla\log q(x)}{\alpha} = \frac{\alpha}{\alpha^2 + \sigma^2} \sum_k
    \mathrm{softmax}_k\left(\frac{\alpha^2\Vert U_k^\top x\Vert^2}{2\sigma^2(\alpha^2 + \sigma^2)}\right) U_k
    U_k^\top x, \quad x = \alpha z + \sigma w$$

    Assumes: The mixture of (9); any α > 0 and σ > 0.
    Measured: error relative to the score's posterior mean.
    Outside: tokens that were shrunk by α, read as if α were one.
    Proof: Given k, x is normal with covariance α²U_kU_kᵀ + σ²I. Differentiate log q and use ∇q = ∫ (αz − x)/σ² q(x, z).
    """
    a, noise = p.read, p.t**2
    score = truth.gradient(lambda x: _log_density(x / p.shrink, p.U, p.t / p.shrink, p.prior), p.x)
    temperature = noise * (a**2 + noise) / a**2
    share = lab.ops.subspace_membership(p.x, p.U, temperature=temperature)
    lifted = lab.ops.lift(share.T[:, :, None] * lab.ops.project(p.x, p.U), p.U)
    return truth.error(a / (a**2 + noise) * lifted, (p.x + noise * score) / p.shrink)


def _spread_source(rng: np.random.Generator, shrink: bool = False) -> Sample:
    n, d = 12, int(rng.integers(2, 5))
    low, high = np.sort(rng.uniform(0.1, 2.0, 2))
    return Sample(Z=3 * rng.standard_normal((n, d)), low=float(low), high=float(high + 0.1), shrink=shrink)


@inequality(
    "entropy-diffusion",
    "3.9e",
    source="the 2025 book on deep representations of data distributions; de Bruijn's identity",
    inside=_spread_source,
    outside=lambda rng: _spread_source(rng, shrink=True),
)
def entropy_diffusion(lab: Lab, p: Sample) -> float:
    r"""Entropy rises under added noise and falls under denoising.

    $$h(z + t_1 w) < h(z + t_2 w), \; t_1 < t_2, \qquad h(E[z \mid x]) < h(x), \quad h(z + tw) = R(Z)
    + \frac{d}{2}\log(2\pi e t^2), \; \varepsilon = t\sqrt{d}$$

    Assumes: Noise is added to z and z is not shrunk; checked for normal z with covariance ZᵀZ/n, where h is the rate at
    that distortion.
    Measured: largest fall of entropy under noise, or rise under denoising, in nats.
    Outside: a schedule that shrinks the signal as it adds noise; tokens longer than the noise then lose entropy.
    Proof: De Bruijn: the derivative of h in t² is half the Fisher information, which is positive. The denoiser
    multiplies each direction by λ/(λ + t²) < 1, which lowers h by its logarithm.
    """
    n, d = p.Z.shape

    def entropy(Z: Any, t: float) -> float:
        return float(lab.ops.coding_rate(Z, eps=float(t * np.sqrt(d)))) + d / 2 * np.log(2 * np.pi * math.e * t**2)

    if p.shrink:
        return entropy(p.Z, p.low) - entropy(np.sqrt(1 - 0.9**2) * p.Z, 0.9)
    S = p.Z.T @ p.Z / n
    values = np.linalg.eigvalsh(S)
    exact = [float(np.sum(np.log(2 * np.pi * math.e * (values + t**2))) / 2) for t in (p.low, p.high)]
    got = [entropy(p.Z, t) for t in (p.low, p.high)]
    wrong = truth.error(np.array(got), np.array(exact))
    denoised = got[1] + float(np.sum(np.log(values / (values + p.high**2))))
    return max(got[0] - got[1], denoised - got[1], wrong - 1e-5)


# --- The Neumann series of the compression gradient: where it is accurate, where it is useless


def _beta(p: Sample) -> float:
    return truth.beta(p.Z, p.U, p.eps)


def _valid(rng: np.random.Generator, low: float = 0.1, high: float = 0.95) -> Sample:
    """Orthogonal heads and β max‖V_k‖² drawn below one."""
    p = draws.orthogonal_subspaces(rng)
    return p.but(Z=p.Z * np.sqrt(rng.uniform(low, high) / _beta(p)) / np.max(_norms(p)[0]))


def _unit_validity(rng: np.random.Generator) -> Sample:
    return _valid(rng, 1.0, 1.0)


def _exact(p: Sample) -> Any:
    return truth.gradient(lambda Z: truth.subspace_rate(Z, p.U, p.eps), p.Z)


def _norms(p: Sample) -> tuple[Any, Any]:
    V = p.Z @ p.U
    return np.linalg.norm(V, 2, axis=(1, 2)), np.linalg.norm(V, axis=(1, 2))


def _any_heads(rng: np.random.Generator) -> Sample:
    return draws.subspaces(rng) if rng.random() < 0.5 else draws.orthogonal_subspaces(rng)


@inequality(
    "neumann-bound", "3.10", source="this project; first-order form of CRATE (10)", inside=_any_heads, rounding=1e5
)
def neumann_bound(lab: Lab, p: Sample) -> float:
    r"""Error of the first-order Neumann gradient.

    $$\left\Vert \nabla R^c - \beta\sum_k V_k(I - \beta V_k^\top V_k)U_k^\top \right\Vert_F \leq \beta^3
    \left(\sum_k \Vert V_k\Vert_2^8 \Vert V_k\Vert_F^2\right)^{1/2}$$

    Assumes: Mutually orthogonal heads for the square root of the sum of squares; otherwise the plain sum of
    β³‖V_k‖₂⁴‖V_k‖_F. No restriction on ‖V_k‖.
    Measured: excess over the bound, relative.
    Proof: (I + βG)⁻¹ = I − βG + β²G²(I + βG)⁻¹ with G = V_kᵀV_k: the remainder of a head is at most
    β³‖V_k‖_F‖V_k‖₂⁴.
    """
    spectral, frobenius = _norms(p)
    heads = _beta(p) ** 3 * spectral**4 * frobenius
    cosines = [np.linalg.norm(a.T @ b, 2) for i, a in enumerate(p.U) for b in p.U[:i]]
    limit = np.sqrt(np.sum(heads**2)) if max(cosines, default=0.0) < 1e-6 else np.sum(heads)
    got = lab.ops.neumann_grad(p.Z, p.U, eps=p.eps, terms=1)
    size = np.linalg.norm(_exact(p))
    return float((np.linalg.norm(got - _exact(p)) - limit) / max(limit, size))


def _error_over_scale(lab: Lab, p: Sample, terms: int, scales: Any) -> Series:
    gaps = []
    for s in scales:
        scaled = p.but(Z=s * p.Z)
        got = lab.ops.neumann_grad(scaled.Z, p.U, eps=p.eps, terms=terms)
        gaps.append(float(np.linalg.norm(got - _exact(scaled))))
    return Series(scales, gaps)


@order(
    "neumann-order",
    "3.10b",
    source="this project; first-order form of CRATE (10)",
    inside=_unit_validity,
    slope=(4.9, 5.1),
    parameter="scale s",
)
def neumann_order(lab: Lab, p: Sample) -> Series:
    r"""The first-order error grows with the fifth power of the scale.

    $$\Vert \nabla R^c(sZ) - \widehat{\nabla R^c}(sZ) \Vert \sim s^5$$

    Assumes: β max‖V_k‖² = s² with s between 0.05 and 0.15.
    Measured: slope of the error in the scale s.
    Proof: The first dropped term is β³V_kG²: five factors of Z.
    """
    return _error_over_scale(lab, p, 1, np.geomspace(0.05, 0.15, 8))


@order("neumann-terms", "3.10c", source="this project", inside=_unit_validity, slope=(6.75, 7.05), parameter="scale s")
def neumann_terms(lab: Lab, p: Sample) -> Series:
    r"""Every further term gains two powers.

    $$\Vert \nabla R^c(sZ) - \widehat{\nabla R^c}_J(sZ) \Vert \sim s^{2J + 3}, \quad J = 2$$

    Assumes: β max‖V_k‖² = s² with s between 0.12 and 0.3.
    Measured: slope of the error in the scale s.
    Proof: After J terms the remainder is βV_k(−βG)^{J+1}(I + βG)⁻¹; with J = 2 the slope is 7, less what (I + βG)⁻¹
    takes.
    """
    return _error_over_scale(lab, p, 2, np.geomspace(0.12, 0.3, 8))


@counterexample(
    "neumann-bound-exponent",
    "3.10d",
    source="an earlier statement of this project",
    inside=lambda rng: Sample(Z=np.full((1, 1), 2.0), U=np.ones((1, 1, 1)), eps=2.0),
    margin=0.1,
    samples=1,
)
def bound_exponent(lab: Lab, p: Sample) -> Refutation:
    r"""With ‖V_k‖₂⁴ under the root the error bound is false.

    $$\mathrm{error} \leq \beta^3 \left(\sum_k \Vert V_k\Vert_2^4 \Vert V_k\Vert_F^2\right)^{1/2}$$
    Corrected: $$\mathrm{error} \leq \beta^3 \left(\sum_k \Vert V_k\Vert_2^8 \Vert V_k\Vert_F^2\right)^{1/2}$$

    Assumes: One token, one head: Z = 2, U = 1, ε = 2, so that β = ¼.
    Proof: The sum under the root is of squares: (β³‖V‖₂⁴‖V‖_F)² = β⁶‖V‖₂⁸‖V‖_F². The remainder has five factors of
    Z, the printed bound three, so it must fail for large tokens: at x = βv² = 1 the error is βv/2, the printed
    bound βv/v².
    """
    spectral, frobenius = _norms(p)
    found = np.linalg.norm(lab.ops.neumann_grad(p.Z, p.U, eps=p.eps, terms=1) - _exact(p))
    printed, corrected = (_beta(p) ** 3 * np.sqrt(np.sum(spectral**k * frobenius**2)) for k in (4, 8))
    witness = f"Z = 2, U = 1, ε = 2: error {found:.4f}, printed bound {printed:.4f}, corrected {corrected:.4f}"
    return Refutation(found / printed - 1, max(found / corrected - 1, 0.0), witness)


@inequality(
    "neumann-descent",
    "3.10e",
    source="this project; validity of CRATE (10)",
    inside=_valid,
    outside=lambda rng: draws.mixture(rng, n=12, K=3, p=2),
)
def neumann_descent(lab: Lab, p: Sample) -> float:
    r"""Below β‖V_k‖² = 1 the Neumann gradient is a descent direction.

    $$\left\langle \nabla R^c, \widehat{\nabla R^c} \right\rangle > 0 \;\mathrm{where}\; \beta \max_k \Vert
    V_k\Vert_2^2 < 1$$

    Assumes: Mutually orthogonal heads; validity number below one.
    Measured: minus the cosine with the exact gradient.
    Outside: ε = 0.1, validity number far above one: the Neumann gradient points uphill.
    Proof: On a singular value v of a head, with x = βv², the factors are 1/(1 + x) and 1 − x: of one sign while x <
    1.
    """
    got = lab.ops.neumann_grad(p.Z, p.U, eps=p.eps, terms=1)
    exact = _exact(p)
    own = _beta(p) * np.max(_norms(p)[0]) ** 2
    wrong = truth.error(lab.ops.neumann_validity(p.Z, p.U, eps=p.eps), own) > 1e-4
    return 1.0 if wrong else float(-np.sum(got * exact) / (np.linalg.norm(got) * np.linalg.norm(exact)))


@approximation(
    "neumann-cosine",
    "3.13",
    source="measures CRATE (10)",
    inside=draws.mixture,
    bound=0.1,
    parameter="validity number",
    samples=3,
)
def neumann_cosine(lab: Lab, p: Sample) -> Series:
    r"""How far the Neumann gradient turns away from the exact one.

    $$1 - \cos\left(\nabla R^c, \widehat{\nabla R^c}\right) \;\mathrm{against}\; \beta\max_k \Vert V_k\Vert_2^2$$

    Assumes: 64 unit tokens near six subspaces (d = 48, p = 8), ε from 3 down to 0.1; inside where the validity
    number is below one.
    Measured: 1 − cosine.
    Outside: beyond one the direction decays, and below ε ≈ 0.4 it points uphill.
    Proof: Exact gradients by the p×p resolvents written out in NumPy (the complex step agrees on small problems).
    """
    x, y = [], []
    for eps in np.geomspace(3.0, 0.1, 12):
        exact, got = _resolvent_gradient(p, eps), lab.ops.neumann_grad(p.Z, p.U, eps=float(eps), terms=1)
        x.append(lab.ops.neumann_validity(p.Z, p.U, eps=float(eps)))
        y.append(1 - float(np.sum(got * exact) / (np.linalg.norm(got) * np.linalg.norm(exact))))
    return Series(np.array(x), np.array(y), np.array(x) < 1)


def _resolvent_gradient(p: Sample, eps: float) -> Any:
    """∇R^c with explicit inverses."""
    beta, V = truth.beta(p.Z, p.U, eps), p.Z @ p.U
    return np.sum(beta * V @ np.linalg.inv(np.eye(V.shape[2]) + beta * V.mT @ V) @ p.U.mT, axis=0)


@counterexample(
    "neumann-raises", "3.13b", source="CRATE (10), first-order form", inside=draws.mixture, margin=1.0, samples=3
)
def neumann_raises(lab: Lab, p: Sample) -> Refutation:
    r"""Outside its region the Neumann step raises what it should lower.

    $$R^c(Z - \kappa\widehat{\nabla R^c}) \leq R^c(Z), \quad \kappa = 0.01 < 1/L_c$$
    Corrected: $$R^c(Z - \kappa\nabla R^c) \leq R^c(Z)$$

    Assumes: The mixture of (13) at ε = 0.1.
    Proof: For x = βv² ≫ 1 the factor 1 − x is a large negative number, and the step runs up the rate.
    """
    before = truth.subspace_rate(p.Z, p.U, p.eps)
    guessed = truth.subspace_rate(lab.ops.neumann_step(p.Z, p.U, step=0.01, eps=p.eps), p.U, p.eps) - before
    exact = truth.subspace_rate(lab.ops.compression_step(p.Z, p.U, step=0.01, eps=p.eps), p.U, p.eps) - before
    witness = f"ε = 0.1, κ = 0.01: the Neumann step changes R^c by {guessed:+.1f} nats, the exact step by {exact:+.2f}"
    return Refutation(guessed, max(exact, 0.0), witness)


# --- Subspace attention: what the operator is, and what it does to the rate


SCALES = (1.0, 0.5, 0.1)  # the distortions at which network steps are measured


def _coordinates(rng: np.random.Generator) -> Sample:
    n, p = int(rng.integers(1, 7)), int(rng.integers(1, 5))
    return Sample(V=draws.spread(rng, 0.3, 3.0) * rng.standard_normal((n, p)), scale=draws.spread(rng, 0.2, 2.0))


@identity("crate-11", "3.11", source="CRATE (11)", inside=_coordinates)
def subspace_attention(lab: Lab, p: Sample) -> float:
    r"""Subspace self-attention.

    $$\mathrm{SSA}(V) = \mathrm{softmax}_{\mathrm{rows}}(s\, V V^\top) V$$

    Assumes: s = 1 in the theory, p^{-1/2} in the released networks.
    Proof: Definition, token by token: the weights of a row sum to one, over the tokens it looks at.
    """
    return truth.error(lab.ops.ssa(p.V, scale=p.scale), truth.attend(p.V, scale=p.scale))


@identity("ssa-causal", "3.11b", source="CRATE (11), language form of LONG", inside=_coordinates)
def causal_attention(lab: Lab, p: Sample) -> float:
    r"""Causal attention: row i sees tokens j ≤ i.

    $$\mathrm{SSA}_{\mathrm{causal}}(V)_i = \sum_{j \leq i} w_{ij} v_j, \quad w_{ij} \propto e^{s v_i \cdot v_j}$$

    Assumes: Tokens in rows.
    Proof: Definition; the same through a boolean lower-triangular mask, where True means may be seen.
    """
    want = truth.attend(p.V, scale=p.scale, visible=lambda i, j: j <= i)
    lower = np.tril(np.ones((len(p.V), len(p.V)), dtype=bool))
    got = lab.ops.ssa(p.V, scale=p.scale, causal=True), lab.ops.ssa(p.V, scale=p.scale, mask=lower)
    return max(truth.error(value, want) for value in got)


@identity(
    "causal-truncation",
    "3.11g",
    source="language form of LONG",
    inside=lambda rng: draws.free_subspaces(rng).but(causal=True),
    outside=lambda rng: draws.free_subspaces(rng).but(causal=False),
)
def causal_truncation(lab: Lab, p: Sample) -> float:
    r"""Causal attention commutes with truncation.

    $$\mathrm{MSSA}_{\mathrm{causal}}(Z_{1:m}) = \mathrm{MSSA}_{\mathrm{causal}}(Z)_{1:m}$$

    Assumes: Causal attention: tokens may be read one by one, with what was computed before kept.
    Outside: attention without a mask, where every token changes every output.
    Proof: Row i depends on tokens j ≤ i alone.
    """
    m = (len(p.Z) + 1) // 2
    short, whole = (lab.ops.mssa(Z, p.U, causal=p.causal) for Z in (np.ascontiguousarray(p.Z[:m]), p.Z))
    return truth.error(short, whole[:m])


def _small_heads(rng: np.random.Generator) -> Sample:
    p = draws.free_subspaces(rng)
    return Sample(Z=draws.unit_rows(p.Z), U=p.U / 2, out=rng.standard_normal(p.U.shape), bias=p.Z[0], scale=0.7)


@identity("crate-12", "3.11c", source="CRATE (12), without its factor β", inside=_small_heads)
def multi_head(lab: Lab, p: Sample) -> float:
    r"""Multi-head subspace self-attention.

    $$\mathrm{MSSA}(Z) = \sum_k \mathrm{SSA}(Z U_k)\, U_k^\top$$

    Assumes: Any bases; a free output map W and a bias replace U in released networks.
    Proof: Definition, head by head; with the output map, heads are lifted by W_k instead of U_k.
    """
    tied = sum(truth.attend(p.Z @ basis) @ basis.T for basis in p.U)
    heads = [truth.attend(p.Z @ basis, scale=p.scale) for basis in p.U]
    free = sum(head @ W.T for head, W in zip(heads, p.out, strict=True)) + p.bias
    return max(
        truth.error(lab.ops.mssa(p.Z, p.U), tied),
        truth.error(lab.ops.mssa(p.Z, p.U, out=p.out, bias=p.bias, scale=p.scale), free),
    )


@inequality("crate-10-falls", "3.12", source="CRATE (10)", inside=draws.mixture, samples=5)
def averaging_step(lab: Lab, p: Sample) -> float:
    r"""The step with its (1 − κβ) factor lowers the rate.

    $$R^c((1 - \kappa\beta) Z + \kappa\beta\,\mathrm{MSSA}(Z)) \leq R^c(Z), \quad \kappa\beta = 1/2$$

    Assumes: Unit tokens of the mixture in (13); ε = 1, 0.5, 0.1. An observation over this ensemble, without proof.
    Measured: largest change of R^c, in nats.
    Proof: Averages of tokens have at most the tokens' norms, and half of each token is given up: the scale shrinks.
    """
    after = (p.Z + lab.ops.mssa(p.Z, p.U)) / 2
    return max(float(truth.subspace_rate(after, p.U, e) - truth.subspace_rate(p.Z, p.U, e)) for e in SCALES)


def _changes(lab: Lab, p: Sample, sign: float = 1.0) -> tuple[list[float], list[float]]:
    """Change of R^c by Z ± MSSA(Z), raw and with tokens put back to unit norm, at the three distortions."""
    after = p.Z + sign * lab.ops.mssa(p.Z, p.U)
    before, raw, unit = (
        np.array([truth.subspace_rate(Z, p.U, eps) for eps in SCALES]) for Z in (p.Z, after, draws.unit_rows(after))
    )
    return list(raw - before), list(unit - before)


def _listed(numbers: list[float]) -> str:
    return " / ".join(f"{number:+.3f}" for number in numbers)


@counterexample("crate-18-compresses", "3.12b", source="CRATE (18)", inside=draws.mixture, margin=0.1, samples=5)
def network_step(lab: Lab, p: Sample) -> Refutation:
    r"""The network's step Z + MSSA(Z) does not compress at raw scale.

    $$R^c(Z + \mathrm{MSSA}(Z)) \leq R^c(Z)$$
    Corrected: $$R^c(\mathrm{norm}(Z + \mathrm{MSSA}(Z))) \leq R^c(Z), \quad \mathrm{unit\;tokens}$$

    Assumes: Unit tokens of the mixture in (13); smallest case: one token in one dimension, where MSSA(Z) = Z.
    Proof: The factor (1 − κβ) is gone, so tokens grow, and R^c with them; directions do gather. Put back to unit
    norm the tokens cost less, and the negated step costs more: compression is a statement about directions.
    """
    raw, unit = _changes(lab, p)
    _, negated = _changes(lab, p, sign=-1.0)
    scalar = lab.ops.mssa(np.ones((1, 1)), np.ones((1, 1, 1)))[0, 0]
    witness = (
        f"Z = U = 1 gives Z + MSSA = {1 + scalar:g}; ε = 1 / 0.5 / 0.1: raw {_listed(raw)}, "
        f"normalized {_listed(unit)}, negated and normalized {_listed(negated)} nats"
    )
    worst = max(0.0, *unit, *(-change for change in negated))
    return Refutation(min(raw), worst, witness)


@counterexample(
    "indepth-decompresses", "3.12c", source="INDEPTH, Section 4", inside=draws.mixture, margin=0.1, samples=5
)
def decompression(lab: Lab, p: Sample) -> Refutation:
    r"""Nor does it decompress tokens of fixed norm.

    $$R^c(\mathrm{norm}(Z + \mathrm{MSSA}(Z))) \geq R^c(Z)$$
    Corrected: $$R^c(Z + \mathrm{MSSA}(Z)) \geq R^c(Z) \;\mathrm{at\;raw\;scale}$$

    Assumes: Unit tokens of the mixture in (13).
    Proof: The same numbers read the other way: both claims are right, on two measures. A trace must report both.
    """
    raw, unit = _changes(lab, p)
    witness = f"ε = 1 / 0.5 / 0.1: normalized {_listed(unit)}, raw {_listed(raw)} nats"
    return Refutation(-min(unit), max(0.0, -min(raw)), witness)


def _mixed(rng: np.random.Generator, lam: float) -> Sample:
    p = draws.mixture(rng)
    Q = draws.orthonormal(rng, len(p.Z), len(p.Z))
    return Sample(Z=p.Z @ np.hstack(list(p.U)), U=np.stack(np.split(np.eye(48), 6, axis=1)), eps=0.5, Q=Q, lam=lam)


@identity(
    "membership-blind",
    "3.14",
    source="this project",
    inside=lambda rng: _mixed(rng, 0.0),
    outside=lambda rng: _mixed(rng, 0.1),
)
def membership_blind(lab: Lab, p: Sample) -> float:
    r"""The rates do not see which token belongs where.

    $$(R - R^c)(QZ; U) = (R - R^c)(Z; U), \quad Q^\top Q = I_n$$

    Assumes: Q any rotation of the token axis, which mixes clusters into each other; the ℓ1 norm and the softmax do
    see it.
    Measured: change, relative to R + R^c.
    Outside: λ > 0: the ℓ1 term changes when clusters are mixed.
    Proof: (QZ)ᵀQZ = ZᵀZ. An isotropic Z without any cluster reaches the bound ½ d log K (statement 7f).
    """
    got = lab.ops.sparse_rate_reduction(p.Q @ p.Z, p.U, eps=p.eps, lam=p.lam)
    want = truth.sparse_reduction(p.Z, p.U, p.eps, p.lam)
    return float(abs(got - want) / (truth.rate(p.Z, p.eps) + truth.subspace_rate(p.Z, p.U, p.eps)))


# --- From the Gram matrix to the softmax: a heuristic without a bound, so its gap is measured


@approximation(
    "crate-10", "3.11d", source="CRATE (10)", inside=draws.mixture, bound=0.3, parameter="distortion ε", samples=3
)
def softmax_heuristic(lab: Lab, p: Sample) -> Series:
    r"""Replacing the Gram matrix by a softmax is a heuristic.

    $$Z - \kappa\nabla R^c(Z; U) \approx (1 - \kappa\beta) Z + \kappa\beta\,\mathrm{MSSA}(Z), \quad \kappa\beta =
    1$$

    Assumes: 64 unit tokens near six subspaces that fill the space; ε from 3 down to 0.1, inside for ε ≥ 1. No bound
    is known; the gap is measured.
    Measured: difference of the steps, relative to the exact step.
    Outside: for small ε the exact step stays small while the softmax step does not: the gap grows without limit.
    Proof: For large ε the exact step is −Z and MSSA is nearly the mean token; for small ε the resolvent vanishes on
    every direction that holds energy, and the softmax knows nothing of it.
    """
    distortions, gaps = np.geomspace(0.1, 3.0, 12), []
    softmax_step = lab.ops.mssa(p.Z, p.U) - p.Z
    for eps in distortions:
        step = len(p.Z) * eps**2 / p.U.shape[2]
        exact = lab.ops.compression_step(p.Z, p.U, step=float(step), eps=float(eps)) - p.Z
        gaps.append(float(np.linalg.norm(softmax_step - exact) / np.linalg.norm(exact)))
    return Series(distortions, gaps, distortions >= 1)


@approximation(
    "crate-10-scale",
    "3.11e",
    source="measures CRATE (10)",
    inside=draws.mixture,
    bound=0.4,
    parameter="norm of the tokens",
    samples=3,
)
def heuristic_scale(lab: Lab, p: Sample) -> Series:
    r"""The softmax step and the scale of the tokens.

    $$\Vert (\mathrm{MSSA}(sZ) - sZ) + \nabla R^c(sZ)/\beta \Vert \;\mathrm{relative\;to}\; \Vert\nabla
    R^c(sZ)/\beta\Vert$$

    Assumes: The mixture of (13) at ε = 1, tokens of norm s from 0.1 to 10; inside for s ≤ 1.
    Measured: difference of the steps, relative to the exact step.
    Outside: long tokens attend to themselves only: MSSA(Z) − Z vanishes more slowly than the exact step.
    Proof: Short tokens attend to all alike and both steps are nearly −Z; for long ones the resolvent divides by
    β‖V‖² where the softmax knows only which token is nearest.
    """
    sizes, gaps = np.geomspace(0.1, 10.0, 9), []
    step = len(p.Z) / p.U.shape[2]
    for s in sizes:
        exact = lab.ops.compression_step(s * p.Z, p.U, step=step, eps=1.0) - s * p.Z
        heuristic = lab.ops.mssa(s * p.Z, p.U) - s * p.Z
        gaps.append(float(np.linalg.norm(heuristic - exact) / np.linalg.norm(exact)))
    return Series(sizes, gaps, sizes <= 1.001)


@approximation(
    "crate-10-depth",
    "3.11f",
    source="measures CRATE (10)",
    inside=draws.mixture,
    bound=0.25,
    parameter="depth",
    samples=3,
)
def heuristic_depth(lab: Lab, p: Sample) -> Series:
    r"""Layer by layer the softmax network leaves the exact descent.

    $$\Vert Z^\ell_{\mathrm{softmax}} - Z^\ell_{\mathrm{exact}} \Vert / \Vert Z^\ell_{\mathrm{exact}} \Vert, \quad
    \kappa\beta = 0.2$$

    Assumes: The mixture of (13) at ε = 1, 1 to 12 layers from the same tokens; inside up to three.
    Measured: distance of the two networks' tokens, relative.
    Outside: the gap grows with every layer and passes the size of the tokens near ten.
    Proof: Each layer adds its own error, and both networks shrink the tokens: the relative gap grows a little
    faster than the depth.
    """
    step = 0.2 * len(p.Z) / p.U.shape[2]
    exact = softmax = p.Z
    gaps = []
    for _ in range(12):
        exact = lab.ops.compression_step(exact, p.U, step=step, eps=1.0)
        softmax = 0.8 * softmax + 0.2 * lab.ops.mssa(softmax, p.U)
        gaps.append(float(np.linalg.norm(softmax - exact) / np.linalg.norm(exact)))
    depth = np.arange(1, 13)
    return Series(depth, gaps, depth <= 3)


@order(
    "structured-decoder",
    "3.9f",
    source="MAE, Section 3 (structured denoising and its inversion)",
    inside=_valid,
    slope=(1.9, 2.1),
    parameter="step κ, over 1/L",
)
def structured_decoder(lab: Lab, p: Sample) -> Series:
    r"""A decoder layer undoes an encoder layer to second order.

    $$Z^+ = Z - \kappa\nabla R^c(Z), \quad \left\Vert Z^+ + \kappa\nabla R^c(Z^+) - Z\right\Vert \sim \kappa^2$$

    Assumes: The exact gradient; κ between 10⁻³ and 10⁻² of 1/L. Attention in its place is as good as statement (11d).
    Measured: slope of the error in κ.
    Proof: ∇R^c(Z⁺) − ∇R^c(Z) is −κ∇²R^c[∇R^c] + O(κ²): the two steps cancel but for κ times that.
    """
    limit, shares, gaps = truth.beta(p.Z, p.U, p.eps), np.geomspace(1e-3, 1e-2, 8), []
    for share in shares:
        step = float(share / limit)
        after = lab.ops.compression_step(p.Z, p.U, step=step, eps=p.eps)
        back = after + step * lab.ops.subspace_coding_rate_grad(after, p.U, eps=p.eps)
        gaps.append(float(np.linalg.norm(back - p.Z)))
    return Series(shares, gaps)


# --- Layers that provably descend


def _layer(rng: np.random.Generator, stretch: float = 1.0, sign: float = 1.0) -> Sample:
    """Tokens on the LayerNorm sphere, mean zero and norm √d, with orthonormal heads."""
    d, K = int(rng.integers(3, 7)), int(rng.integers(1, 4))
    Z = rng.standard_normal((int(rng.integers(2, 6)), d))
    Z -= Z.mean(axis=1, keepdims=True)
    U = draws.bases(rng, K, d, int(rng.integers(1, d)))
    eps, step = draws.spread(rng, 0.3, 2.0), draws.spread(rng, 0.1, 10.0)
    own = {"Z": np.sqrt(d) * draws.unit_rows(Z), "U": U, "eps": eps, "stretch": stretch, "sign": sign, "step": step}
    return Sample(**own, scales=np.exp(rng.uniform(-1.0, 3.0, K)))


@inequality(
    "descent-projection",
    "3.28",
    source="this project; projected gradient on a sphere",
    inside=lambda rng: _layer(rng, stretch=float(rng.uniform(0.1, 1.0))),
    outside=lambda rng: _layer(rng, stretch=30.0),
    rounding=1e5,
)
def descent_projection(lab: Lab, p: Sample) -> float:
    r"""A compression step followed by LayerNorm descends, for any bases.

    $$f(\mathrm{LN}(Z - \kappa\nabla f(Z))) \leq f(Z) - \left(\frac{1}{2\kappa} - \frac{L}{2}\right) \Vert Z^+ -
    Z\Vert_F^2, \quad \kappa \leq \frac{1}{L}$$

    Assumes: f = R^c(·; U), tokens on the sphere that LN projects on, κ ≤ 1/L with L = β‖ΣU_kU_kᵀ‖₂.
    Measured: missing descent, relative to R^c.
    Outside: κ = 30/L.
    Proof: LN is the nearest point of the sphere, so Z⁺ minimizes ⟨∇f, Y − Z⟩ + ‖Y − Z‖²/(2κ) there, whose value at Z is
    0; the descent lemma does the rest. The sphere need not be convex.
    """
    limit = lab.ops.subspace_coding_rate_smoothness(p.Z, p.U, eps=p.eps)
    step = p.stretch / limit
    after = lab.ops.layer_norm(lab.ops.compression_step(p.Z, p.U, step=step, eps=p.eps), offset=0.0)
    before, reached = (float(truth.subspace_rate(Z, p.U, p.eps)) for Z in (p.Z, after))
    promised = (1 / (2 * step) - limit / 2) * float(np.sum((after - p.Z) ** 2)) if p.stretch <= 1 else 0.0
    return float((reached - before + promised) / before)


@inequality(
    "descent-natural-scale",
    "3.28b",
    source="this project",
    inside=_layer,
    outside=lambda rng: _layer(rng, stretch=0.0),
    bound=1e-6,
    samples=5,
)
def natural_scale(lab: Lab, p: Sample) -> float:
    r"""In its natural scale the compressed rate has one curvature for every ε.

    $$f_1(Z) = \sum_k \frac{1}{2\beta_k}\log\det(I + \beta_k V_k^\top V_k): \quad \lambda_{\max}\nabla^2 f_1 \leq
    \left\Vert\sum_k U_kU_k^\top\right\Vert_2$$

    Assumes: Any β_k > 0, one a head: ε may be learned without touching the step.
    Measured: excess over the bound, relative.
    Outside: the same sum without 1/β_k.
    Proof: log det is concave in the Gram matrix, so the second-order term of V_k is at most that of ½‖V_k‖² times (I +
    β_kV_kᵀV_k)⁻¹ ≼ I; sum over the heads.
    """
    weights = p.scales if p.stretch == 0 else np.ones(len(p.U))

    def energy(Z: Any) -> Any:
        parts = zip(weights, p.scales, Z @ p.U, strict=True)
        return sum(w * truth.logdet(np.eye(V.shape[1]) + b * V.T @ V) / (2 * b) for w, b, V in parts)

    limit = lab.ops.subspace_coding_rate_smoothness(p.Z, p.U, eps=p.eps) / truth.beta(p.Z, p.U, p.eps)
    points = (p.Z[:2], 1e-3 * p.Z[:1])  # two tokens are enough: the curvature is that of one
    return max(float(np.linalg.eigvalsh(truth.hessian(energy, Z))[-1] / limit - 1) for Z in points)


def _rectangular(rng: np.random.Generator) -> Sample:
    return _layer(rng).but(H=np.eye(4, k=1))


@inequality("descent-trace-norm", "3.28c", source="Schatten norms", inside=_layer, outside=_rectangular, rounding=1e5)
def trace_norm(lab: Lab, p: Sample) -> float:
    r"""A trace of a power bounds the spectral norm without an eigenvalue problem.

    $$\Vert H\Vert_2 \leq (\mathrm{tr}\,H^{16})^{1/16} \leq d^{1/16} \Vert H\Vert_2$$

    Assumes: H positive semidefinite; here ΣU_kU_kᵀ, whose norm the smoothness constant holds.
    Measured: violation of either side, relative.
    Outside: H a shift, whose powers lose their trace.
    Proof: The trace is the sum of σ¹⁶ over d values, at least the largest and at most d times that. Four squarings give
    H¹⁶, and all of it is differentiable.
    """
    H = getattr(p, "H", np.sum(p.U @ p.U.mT, axis=0))
    power = np.linalg.matrix_power(H, 16)
    bound = np.trace(power) ** (1 / 16)
    norm = lab.ops.subspace_coding_rate_smoothness(p.Z, p.U, eps=p.eps) / truth.beta(p.Z, p.U, p.eps)
    norm = float(np.linalg.norm(H, 2)) if hasattr(p, "H") else norm
    return float(max(norm - bound, bound - len(H) ** (1 / 16) * norm) / norm)


def _softmax_energy(Z: Any, V: Any, U: Any) -> Any:
    """Σ_i Σ_k log Σ_j exp⟨U_kᵀz_i, v_kj⟩ with the keys V frozen; complex tokens give its slope."""
    scores = Z @ U @ V.mT  # (K, n, n)
    top = np.max(np.real(scores), axis=-1, keepdims=True)
    return np.sum(np.log(np.sum(np.exp(scores - top), axis=-1)) + top[..., 0])


@identity("softmax-energy-gradient", "3.28d", source="this project; CRATE (12)", inside=_layer, rounding=1e5)
def softmax_energy_gradient(lab: Lab, p: Sample) -> float:
    r"""Attention is the gradient of a log-sum-exp energy whose keys are frozen.

    $$\mathrm{MSSA}(Z) = \nabla_Z \sum_{i,k} \log\sum_j \exp\langle U_k^\top z_i, y_{kj}\rangle \;\mathrm{at}\; y_{kj} =
    U_k^\top z_j$$

    Assumes: The keys do not move with the tokens.
    Proof: The slope of log Σ exp is the softmax; its weights average the keys, and U_k sends the mean back.
    """
    V = p.Z @ p.U
    return truth.error(lab.ops.mssa(p.Z, p.U), truth.gradient(lambda Z: _softmax_energy(Z, V, p.U), p.Z))


@inequality(
    "softmax-energy-descent",
    "3.28e",
    source="this project",
    inside=_layer,
    outside=lambda rng: _layer(rng, sign=-1.0),
)
def softmax_energy_descent(lab: Lab, p: Sample) -> float:
    r"""Attention that is added, then normalized, descends minus that energy at any step.

    $$E(\mathrm{LN}(Z + \kappa\,\mathrm{MSSA}(Z))) \leq E(Z), \quad E = -\sum_{i,k} \log\sum_j \exp\langle U_k^\top z_i,
    y_{kj}\rangle, \; \kappa > 0$$

    Assumes: Keys frozen at the layer's input, tokens on the sphere that LN projects on, any κ > 0.
    Measured: rise of E, relative.
    Outside: attention subtracted, the sign that the derivation from R^c suggests.
    Proof: E is concave, so it lies below its tangent; LN(Z − κ∇E) lowers the tangent over a sphere for every κ, as all
    its points have one norm.
    """
    V = p.Z @ p.U
    after = lab.ops.layer_norm(p.Z + p.sign * p.step * lab.ops.mssa(p.Z, p.U), offset=0.0)
    before, reached = (-float(_softmax_energy(Z, V, p.U)) for Z in (p.Z, after))
    return (reached - before) / abs(before)
