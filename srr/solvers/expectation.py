"""Unknown subspaces: expectation maximisation for a mixture of low-rank Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from srr._array import Array, Namespace, namespace, softmax
from srr.ops.subspaces import project

_CHUNK = 4096  # tokens whose K weighted copies are held at once
_FLOOR = 1e-12  # smallest noise variance, relative to the mean squared coordinate of the tokens


class MixtureParameters(NamedTuple):
    r"""Parameters of a mixture of K low-rank Gaussians :math:`N(0, \sigma^2 I + s^2 U_k U_k^\top)`.

    Args:
        U: orthonormal bases of shape (K, d, p).
        weights: class probabilities of shape (K,), which sum to one.
        signal: variance s² of every coefficient on its subspace, shape ().
        noise: variance σ² of the noise in every coordinate, shape ().
    """

    U: Array
    weights: Array
    signal: Array
    noise: Array


class ExpectationState(NamedTuple):
    """State at the parameters: mean negative log-likelihood in nats per token, its last fall, membership (n, K)."""

    objective: Array
    residual: Array
    membership: Array


@dataclass(frozen=True, eq=False)
class MixtureLikelihood:
    r"""Negative log-likelihood of tokens under a mixture of low-rank Gaussians, per token.

    .. math:: -\frac1n \sum_i \log \sum_k \pi_k N\bigl(z_i \mid 0,\ \sigma^2 I + s^2 U_k U_k^\top\bigr)

    Args:
        Z: tokens of shape (n, d), in the precision the fit should have.

    Source: [CRATE] (5), the model of the tokens; with p directions of one variance per class.
    """

    Z: Array

    def start(self, parameters: MixtureParameters) -> MixtureParameters:
        """The parameters themselves: every value of their type is feasible."""
        return parameters

    def expectation(self, parameters: MixtureParameters) -> tuple[Array, Array]:
        """Posterior membership (n, K), and the negative log-likelihood in nats per token."""
        return expectation(self.Z, parameters)


def mixture_scores(Z: Array, parameters: MixtureParameters, xp: Namespace) -> Array:
    """Scores log π_k + log N(z | 0, σ²I + s²U_kU_kᵀ) for every token and class, shape (n, K), in nats."""
    U, weights, signal, noise = parameters
    d, p = U.shape[-2:]
    on, off = _energies(Z, U, xp)
    spread = p * xp.log(noise + signal) + (d - p) * xp.log(noise) + d * math.log(2.0 * math.pi)
    tiny = xp.finfo(weights.dtype).smallest_normal
    return xp.log(xp.clip(weights, min=tiny)) - 0.5 * (on / (noise + signal) + off / noise + spread)


def _energies(Z: Array, U: Array, xp: Namespace) -> tuple[Array, Array]:
    """Squared norms of tokens on and off every subspace, both (n, K), a chunk of tokens at a time.

    What lies off is summed up coordinate by coordinate: a difference of norms has no digits where the noise is small.
    """
    parts = []
    for start in range(0, Z.shape[0], _CHUNK):
        rows = Z[start : min(start + _CHUNK, Z.shape[0]), :]
        V = project(rows, U, xp=xp)  # (K, c, p)
        parts.append((xp.sum(V**2, axis=-1).mT, xp.sum((rows - V @ U.mT) ** 2, axis=-1).mT))
    on, off = zip(*parts, strict=True)
    return xp.concat(on, axis=0), xp.concat(off, axis=0)


def expectation(Z: Array, parameters: MixtureParameters) -> tuple[Array, Array]:
    r"""Posterior membership of tokens, the softmax of their energies, and the negative log-likelihood per token.

    .. math:: r_{ik} = \operatorname{softmax}_k\Bigl(\log\pi_k
              + \frac{s^2 \lVert U_k^\top z_i \rVert^2}{2\sigma^2(\sigma^2 + s^2)}\Bigr)

    Args:
        Z: tokens of shape (n, d).
        parameters: of the mixture.

    Returns:
        Membership of shape (n, K), and a number in nats per token.

    Source: [CRATE] (5)-(6), Proposition 1, with t = σ/s and unequal class probabilities.
    """
    xp = namespace(Z, parameters.U)
    scores = mixture_scores(Z, parameters, xp)
    top = xp.max(scores, axis=-1, keepdims=True)
    total = top[:, 0] + xp.log(xp.sum(xp.exp(scores - top), axis=-1))
    return softmax(scores, axis=-1, xp=xp), -xp.mean(total)


def maximization(Z: Array, membership: Array, p: int) -> MixtureParameters:
    r"""Parameters that maximise the expected log-likelihood for a given membership, in closed form.

    The bases are the p leading eigenvectors of :math:`\sum_i r_{ik} z_i z_i^\top`; the two variances share out the
    energy that lies on and off them.

    Args:
        Z: tokens of shape (n, d).
        membership: r of shape (n, K), rows summing to one.
        p: dimension of every subspace, below d.

    Returns:
        The parameters.

    Source: Tipping and Bishop (1999), mixtures of probabilistic principal component analysers, with variances
        shared by directions and classes.
    """
    xp = namespace(Z, membership)
    n, d = Z.shape
    grams = _weighted_grams(Z, membership, xp)
    values, vectors = xp.linalg.eigh(grams)  # rising
    U = xp.flip(vectors[:, :, d - p :], axis=-1)
    on, total = xp.sum(values[:, d - p :]), xp.sum(Z**2)
    floor = _FLOOR * total / (n * d) + xp.finfo(Z.dtype).smallest_normal ** 0.4  # squared it is still normal
    noise = xp.maximum((total - on) / (n * (d - p)), floor)
    signal = xp.clip(on / (n * p) - noise, min=0.0)
    return MixtureParameters(U, xp.mean(membership, axis=0), signal, noise)


def _weighted_grams(Z: Array, membership: Array, xp: Namespace) -> Array:
    """Σ_i r_ik z_i z_iᵀ of shape (K, d, d), a chunk of tokens at a time."""
    total = 0.0
    for start in range(0, Z.shape[0], _CHUNK):
        end = min(start + _CHUNK, Z.shape[0])
        rows = Z[start:end, :]
        weighted = membership[start:end, :].mT[..., None] * rows  # (K, c, d)
        total = total + weighted.mT @ rows
    return total


@dataclass(frozen=True)
class ExpectationMaximization:
    """EM as a solver: a step is one maximisation and one expectation; the likelihood never falls.

    Args:
        p: dimension of every subspace.

    Source: Dempster, Laird and Rubin (1977); Tipping and Bishop (1999).
    """

    p: int

    def init(self, problem: MixtureLikelihood, parameters: MixtureParameters) -> ExpectationState:
        """State at the first parameters."""
        membership, objective = problem.expectation(parameters)
        return ExpectationState(objective, 1.0 + 0.0 * objective, membership)

    def step(
        self, problem: MixtureLikelihood, parameters: MixtureParameters, state: ExpectationState
    ) -> tuple[MixtureParameters, ExpectationState]:
        """Parameters from the membership, and the membership from them; the residual is the gain per token."""
        parameters = maximization(problem.Z, state.membership, self.p)
        membership, objective = problem.expectation(parameters)
        return parameters, ExpectationState(objective, abs(state.objective - objective), membership)
