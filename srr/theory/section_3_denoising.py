"""§3 Attention as denoising: the posterior mean of a mixture of subspaces."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Problem, Series, statement


def _noisy_token(rng: np.random.Generator) -> Problem:
    """A token x = z + t w with z = U_k a, a standard normal, on one of K equally likely subspaces."""
    K, d, p = int(rng.integers(2, 4)), int(rng.integers(2, 6)), 1
    p = int(rng.integers(1, d))
    U, t = draws.bases(rng, K, d, p), draws.spread(rng, 0.3, 1.5)
    x = U[rng.integers(K)] @ rng.standard_normal(p) + t * rng.standard_normal(d)
    return Problem(x=x[None, :], U=U, t=t, prior=np.full(K, 1 / K))


def _unequal_prior(rng: np.random.Generator) -> Problem:
    p = _noisy_token(rng)
    return Problem(**vars(p) | {"prior": np.arange(1, len(p.U) + 1) ** 3 / np.sum(np.arange(1, len(p.U) + 1) ** 3)})


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


@statement(
    label="crate-5",
    item="9",
    section=3,
    title="The denoiser of a mixture of subspaces is attention over subspaces",
    formula=r"E[z \mid x] = x + t^2 \nabla\log q(x) = \frac{1}{1 + t^2} \sum_k "
    r"\mathrm{softmax}_k\left(\frac{\Vert U_k^\top x\Vert^2}{2t^2(1 + t^2)}\right) U_k U_k^\top x",
    source="CRATE (5)-(6), Proposition 1",
    kind="identity",
    assumes="Equally likely subspaces of equal dimension, orthonormal bases, standard normal coefficients.",
    inside=_noisy_token,
    outside=_unequal_prior,
    breaks="subspaces that are not equally likely",
    quantity="error relative to the score's posterior mean",
)
def posterior_mean(lab: Lab, p: Problem) -> float:
    """Given k, x is normal with covariance U_kU_kᵀ + t²I, whose inverse is (I − U_kU_kᵀ/(1 + t²))/t²: the energies are
    the log-posteriors of k and U_kU_kᵀx/(1 + t²) the posterior mean. The truth differentiates the log density
    (Tweedie).
    """
    score = truth.gradient(lambda x: _log_density(x, p.U, p.t, p.prior), p.x)
    return truth.error(_denoise(lab, p.x, p.U, p.t), p.x + p.t**2 * score)


def _line_token(rng: np.random.Generator) -> Problem:
    p = _noisy_token(rng)
    draw = rng.integers(len(p.U), size=40_000)
    coefficients = rng.standard_normal((40_000, p.U.shape[2]))
    z = (p.U[draw] @ coefficients[:, :, None])[:, :, 0]
    return Problem(**vars(p) | {"z": z, "t": max(p.t, 0.6)})


@statement(
    label="crate-5-monte-carlo",
    item="9b",
    section=3,
    title="Posterior means drawn at random agree",
    formula=r"E[z \mid x] \approx \frac{\sum_i z_i\, e^{-\Vert x - z_i\Vert^2/(2t^2)}}"
    r"{\sum_i e^{-\Vert x - z_i\Vert^2/(2t^2)}}",
    source="CRATE (5)-(6), Proposition 1",
    kind="identity",
    assumes="As (9); 40,000 draws from the mixture.",
    inside=_line_token,
    quantity="deviation, in standard errors",
    bound=6.0,
    samples=10,
)
def monte_carlo(lab: Lab, p: Problem) -> float:
    """Draws of z weighted by the likelihood of x; the standard error of the ratio is that of its linearization."""
    weight = np.exp(-np.sum((p.x - p.z) ** 2, axis=1) / (2 * p.t**2))
    mean = weight @ p.z / weight.sum()
    spread = np.sqrt(weight**2 @ (p.z - mean) ** 2) / weight.sum()
    return float(np.max(np.abs(_denoise(lab, p.x, p.U, p.t)[0] - mean) / spread))


@statement(
    label="crate-6",
    item="9c",
    section=3,
    title="The small-noise form is second-order accurate",
    formula=r"E[z \mid x] = \sum_k \mathrm{softmax}_k\left(\frac{\Vert U_k^\top x\Vert^2}{2t^2}\right) "
    r"U_k U_k^\top x + O(t^2)",
    source="CRATE (6), Approximation 2",
    kind="order",
    assumes="x on one subspace and away from the others, t → 0.",
    inside=_noisy_token,
    quantity="slope of the error in t",
    slope=(1.9, 2.1),
    parameter="noise t",
)
def small_noise(lab: Lab, p: Problem) -> Series:
    """The factor 1/(1 + t²) is 1 − t² + …; the change of temperature moves the softmax by exponentially little once
    one subspace has won. The truth is Tweedie's formula.
    """
    noise, gaps = np.geomspace(0.02, 0.1, 8), []
    clean = np.sum(p.U[0], axis=1)[None, :]
    for t in noise:
        exact = clean + t**2 * truth.gradient(partial(_log_density, U=p.U, t=t, prior=p.prior), clean)
        share = lab.ops.subspace_membership(clean, p.U, temperature=t**2)
        simple = lab.ops.lift(share.T[:, :, None] * lab.ops.project(clean, p.U), p.U)
        gaps.append(float(np.linalg.norm(simple - exact)))
    return Series(noise, gaps)
