"""Unknown subspaces: fit a mixture of low-rank Gaussians, with K and p known or chosen by coding length."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from srr._array import Array, asarray_like, core_cast, namespace, to_numpy
from srr._checks import check_count, check_nonnegative, check_tokens
from srr.ops.subspaces import lift, project
from srr.solvers.base import minimize
from srr.solvers.expectation import (
    ExpectationMaximization,
    MixtureLikelihood,
    MixtureParameters,
    expectation,
    maximization,
)
from srr.solvers.solution import Solution
from srr.solvers.subspace_seeds import seeded_bases

_TRIAL = 2  # steps that every restart is given before the best one goes on
_SURVEY, _SURVEY_TOL = 30, 1e-6  # steps, and nats per token, after which candidates are compared


@dataclass(frozen=True, eq=False)
class SubspaceMixtureFit:
    """A fitted mixture: its parameters, what it says about the tokens, and how the fit ended.

    Args:
        parameters: bases U (K, d, p), class probabilities, signal and noise variance, in the dtype of the tokens.
        membership: posterior membership of the tokens, shape (n, K).
        labels: most probable class of each token, integers of shape (n,).
        coding_length: nats that describe tokens and parameters together, up to the precision of the tokens,
            which is the same for all fits.
        coding_lengths: coding length of every candidate (K, p), to within 1e-6 nats per token or as it was after
            32 steps for those that were not chosen.
        solution: of the driver; its objective is the negative log-likelihood in nats per token.
    """

    parameters: MixtureParameters
    membership: Array
    labels: Array
    coding_length: float
    coding_lengths: Mapping[tuple[int, int], float]
    solution: Solution

    @property
    def U(self) -> Array:
        """Orthonormal bases of shape (K, d, p)."""
        return self.parameters.U

    def posterior(self, Z: Array) -> Array:
        """Membership (n, K) of other tokens (n, d)."""
        return expectation(Z, self.parameters)[0]

    def denoise(self, Z: Array) -> Array:
        r"""Posterior mean of the signal: :math:`\sum_k r_k \frac{s^2}{s^2 + \sigma^2} U_k U_k^\top z`.

        Args:
            Z: tokens of shape (n, d).

        Returns:
            Array of shape (n, d).

        Source: [CRATE] (5)-(6), Tweedie's formula for this mixture.
        """
        shrink = self.parameters.signal / (self.parameters.signal + self.parameters.noise)
        V = project(Z, self.U) * self.posterior(Z).mT[..., None]
        return shrink * lift(V, self.U)


@dataclass(frozen=True)
class SubspaceMixture:
    r"""Mixture of K Gaussians :math:`N(0, \sigma^2 I + s^2 U_k U_k^\top)` fitted to tokens by EM.

    The expectation is the softmax membership that CRATE's attention is derived from; the maximisation is in closed
    form. Several first guesses are given a few steps each, and the most likely one is carried to the end.

    Args:
        K: number of subspaces, or candidates to choose from.
        p: dimension of every subspace, below d, or candidates to choose from. The candidate pair with the smallest
            coding length is kept: nats of the tokens plus ½ log n nats for each free parameter.
        restarts: first guesses.
        tol: gain of log-likelihood, in nats per token, at which the fit counts as converged.
        max_steps: largest number of steps.

    Raises:
        TypeError: K, p, restarts or max_steps is not an integer.
        ValueError: one of them is below 1, or tol is negative.

    Source: [CRATE] (5)-(6) for the model; Rissanen (1978) for the choice of K and p.

    Example:
        >>> import srr
        >>> mix = srr.subspace_mixture(n=300, d=12, K=3, p=2, noise=0.1, seed=0)
        >>> fit = srr.SubspaceMixture(K=range(1, 6), p=(1, 2, 3)).fit(mix.Z, seed=0)
        >>> fit.U.shape, bool(srr.principal_angles(mix.U[0], fit.U[fit.labels[mix.labels == 0][0]]).max() < 0.1)
        ((3, 12, 2), True)
    """

    K: int | Iterable[int]
    p: int | Iterable[int]
    restarts: int = 8
    tol: float = 1e-9
    max_steps: int = 500

    def __post_init__(self) -> None:
        for name in ("K", "p"):
            values = candidates(getattr(self, name))
            if not values:
                raise ValueError(f"{name} must name at least one candidate; got none")
            for value in values:
                check_count(value, name)
            object.__setattr__(self, name, values)
        check_count(self.restarts, "restarts")
        check_count(self.max_steps, "max_steps")
        check_nonnegative(self.tol, "tol")

    def fit(self, Z: Array, *, seed: int | np.random.Generator) -> SubspaceMixtureFit:
        """Fit the mixture to tokens.

        Args:
            Z: tokens of shape (n, d) with d ≥ 2; the fit runs in float64 where the library has it.
            seed: of the first guesses; the same seed gives the same fit.

        Returns:
            The `SubspaceMixtureFit`.

        Raises:
            TypeError: Z is not a real floating array.
            ValueError: Z is not a matrix with n ≥ K and d > p for every candidate, NaN or infinity.
        """
        xp = namespace(Z)
        check_tokens(Z, xp=xp)
        pairs = list(product(candidates(self.K), candidates(self.p)))
        _check_sizes(Z, pairs)
        core, rng = core_cast(Z, None, xp), np.random.default_rng(seed)
        surveys = {pair: self._survey(core, *pair, rng, long=len(pairs) > 1) for pair in pairs}
        lengths = {pair: _coding_length(core, solution, *pair) for pair, solution in surveys.items()}
        chosen = min(lengths, key=lengths.__getitem__)
        solution = minimize(
            MixtureLikelihood(core),
            surveys[chosen],
            ExpectationMaximization(chosen[1]),
            tol=self.tol,
            max_steps=self.max_steps,
        )
        lengths[chosen] = _coding_length(core, solution, *chosen)
        membership = expectation(core, solution.Z)[0]
        return SubspaceMixtureFit(
            MixtureParameters(*(xp.astype(a, Z.dtype, copy=False) for a in solution.Z)),
            xp.astype(membership, Z.dtype, copy=False),
            xp.argmax(membership, axis=-1),
            lengths[chosen],
            lengths,
            solution,
        )

    def _survey(self, Z: Array, K: int, p: int, rng: np.random.Generator, *, long: bool) -> Solution:
        """The most likely of the first guesses after a few steps, and some more where candidates compete."""
        problem, solver = MixtureLikelihood(Z), ExpectationMaximization(p)
        steps = min(_TRIAL, self.max_steps)
        trials = [
            minimize(problem, first_guess(Z, K, p, rng), solver, tol=self.tol, max_steps=steps)
            for _ in range(self.restarts)
        ]
        best = min(trials, key=lambda trial: float(trial.objective))
        return minimize(problem, best, solver, tol=_SURVEY_TOL, max_steps=_SURVEY) if long else best


def first_guess(Z: Array, K: int, p: int, rng: np.random.Generator) -> MixtureParameters:
    """Parameters from tokens assigned to the nearest of K seeded subspaces, on the backend of the tokens."""
    xp = namespace(Z)
    U = asarray_like(seeded_bases(to_numpy(Z), K, p, rng), Z, xp=xp)
    energy = xp.sum(project(Z, U, xp=xp) ** 2, axis=-1)  # (K, n)
    classes = asarray_like(np.arange(K)[:, None], Z, dtype=xp.int64, xp=xp)
    nearest = xp.argmax(energy, axis=0)[None, :] == classes
    return maximization(Z, xp.astype(nearest, Z.dtype).mT, p)


def candidates(values: int | Iterable[int]) -> tuple[int, ...]:
    """One value or several, as a tuple."""
    return tuple(values) if isinstance(values, Iterable) else (values,)


def _check_sizes(Z: Array, pairs: list[tuple[int, int]]) -> None:
    K, p = (max(values) for values in zip(*pairs, strict=True))
    if Z.ndim != 2 or Z.shape[0] < K or Z.shape[1] <= p:
        raise ValueError(
            f"Z must have shape (n, d) with n >= K={K} tokens and d > p={p} features; got {tuple(Z.shape)}"
        )


def _coding_length(Z: Array, solution: Solution, K: int, p: int) -> float:
    """Nats of the tokens, and half the logarithm of their number for each free parameter."""
    n, d = Z.shape
    free = K * p * (d - p) + (K - 1) + 2  # a point of the Grassmannian per class, probabilities, two variances
    return float(n * solution.objective + 0.5 * free * math.log(n))
