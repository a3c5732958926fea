"""Unknown subspaces: a mixture of low-rank Gaussians fitted by expectation maximization.

From top to bottom: the parameters and their likelihood, the two halves of a step, first guesses of the subspaces,
and the fit, with K and p known or chosen by coding length.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, product
from typing import Any, NamedTuple

import numpy as np

from srr._array.checks import check_count, check_nonnegative, check_tokens
from srr._array.namespace import Array, Namespace, asarray_like, core_cast, namespace, softmax, to_numpy
from srr.fits.choices import Progress, run_all
from srr.ops.subspaces import lift, project
from srr.solvers.driver import Solution, minimize

Matrix = np.ndarray[Any, np.dtype[Any]]
_TRIES = 4  # neighborhoods tried for every subspace; the one that explains most is kept
_TRIAL = 2  # steps that every restart is given before the best one goes on
_TRIAL_POINTS = 20  # the same where subspaces are points, which are found later and cost less
_SURVEY, _SURVEY_TOL = 30, 1e-6  # steps, and nats per token, after which candidates are compared
_CANDIDATES = 10_000  # values of K or p that may compete
_CHUNK = 4096  # tokens whose K weighted copies are held at once
_FLOOR = 1e-12  # smallest noise variance, relative to the mean squared coordinate of the tokens


class MixtureParameters(NamedTuple):
    r"""Parameters of a mixture of K low-rank Gaussians :math:`N(\mu_k, \sigma^2 I + s^2 U_k U_k^\top)`.

    Args:
        U: orthonormal bases of shape (K, d, p).
        weights: class probabilities of shape (K,), which sum to one.
        signal: variance s² of every coefficient on its subspace, shape ().
        noise: variance σ² of the noise in every coordinate, shape ().
        means: points μ of shape (K, d) that the subspaces pass through; None for the origin.
    """

    U: Array
    weights: Array
    signal: Array
    noise: Array
    means: Array | None = None


class ExpectationState(NamedTuple):
    """State at the parameters: mean negative log-likelihood in nats per token, its last fall, membership (n, K)."""

    objective: Array
    residual: Array
    membership: Array


@dataclass(frozen=True, eq=False)
class MixtureLikelihood:
    r"""Negative log-likelihood of tokens under a mixture of low-rank Gaussians, per token.

    .. math:: -\frac1n \sum_i \log \sum_k \pi_k N\bigl(z_i \mid \mu_k,\ \sigma^2 I + s^2 U_k U_k^\top\bigr)

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
    """Scores log π_k + log N(z | μ_k, σ²I + s²U_kU_kᵀ) for every token and class, shape (n, K), in nats."""
    U, weights, signal, noise, means = parameters
    d, p = U.shape[-2:]
    on, off = _energies(Z, U, means, xp)
    spread = p * xp.log(noise + signal) + (d - p) * xp.log(noise) + d * math.log(2.0 * math.pi)
    tiny = xp.finfo(weights.dtype).smallest_normal
    return xp.log(xp.clip(weights, min=tiny)) - 0.5 * (on / (noise + signal) + off / noise + spread)


def _energies(Z: Array, U: Array, means: Array | None, xp: Namespace) -> tuple[Array, Array]:
    """Squared norms of tokens along and off every subspace, both (n, K), a chunk of tokens at a time.

    What lies off is summed up coordinate by coordinate: a difference of norms has no digits where the noise is small.
    """
    parts = []
    for start in range(0, Z.shape[0], _CHUNK):
        rows = Z[start : min(start + _CHUNK, Z.shape[0]), :]
        rows = rows if means is None else rows - means[:, None, :]  # (K, c, d)
        V = rows @ U  # (K, c, p)
        parts.append((xp.sum(V**2, axis=-1).mT, xp.sum((rows - V @ U.mT) ** 2, axis=-1).mT))
    on, off = zip(*parts, strict=True)
    return xp.concat(on, axis=0), xp.concat(off, axis=0)


def expectation(Z: Array, parameters: MixtureParameters) -> tuple[Array, Array]:
    r"""Posterior membership of tokens, the softmax of their energies, and the negative log-likelihood per token.

    .. math:: r_{ik} = \operatorname{softmax}_k\Bigl(\log\pi_k
              + \frac{s^2 \lVert U_k^\top z_i \rVert^2}{2\sigma^2(\sigma^2 + s^2)}\Bigr)

    With means, :math:`z_i - \mu_k` stands for :math:`z_i`, and its squared norm counts too.

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


def maximization(Z: Array, membership: Array, p: int, *, affine: bool = False) -> MixtureParameters:
    r"""Parameters that maximize the expected log-likelihood for a given membership, in closed form.

    The bases are the p leading eigenvectors of :math:`\sum_i r_{ik} (z_i - \mu_k)(z_i - \mu_k)^\top`; the two
    variances share out the energy that lies on and off them. The means are those of the classes, or zero.

    Args:
        Z: tokens of shape (n, d).
        membership: r of shape (n, K), rows summing to one.
        p: dimension of every subspace, below d; 0 is a mixture of points.
        affine: whether the subspaces pass through the means of their classes, or through the origin.

    Returns:
        The parameters.

    Source: Tipping and Bishop (1999), mixtures of probabilistic principal component analyzers, with variances
        shared by directions and classes.
    """
    xp = namespace(Z, membership)
    n, d = Z.shape
    means = _weighted_means(Z, membership, xp) if affine else None
    if p == 0:
        U = xp.zeros_like(Z[: membership.shape[1], :])[:, :, None][:, :, :0]
        total = xp.sum(membership * _energies(Z, U, means, xp)[1])
        on = 0.0 * total
    else:
        grams = _weighted_grams(Z, membership, means, xp)
        values, vectors = xp.linalg.eigh(grams)  # rising
        U = xp.flip(vectors[:, :, d - p :], axis=-1)
        on, total = xp.sum(values[:, d - p :]), xp.sum(xp.linalg.diagonal(grams))
    floor = _FLOOR * xp.sum(Z**2) / (n * d) + xp.finfo(Z.dtype).smallest_normal ** 0.4  # squared it is still normal
    noise = xp.maximum((total - on) / (n * (d - p)), floor)
    signal = xp.clip(on / (n * max(p, 1)) - noise, min=0.0)
    return MixtureParameters(U, xp.mean(membership, axis=0), signal, noise, means)


def _weighted_means(Z: Array, membership: Array, xp: Namespace) -> Array:
    """Means of the classes, shape (K, d)."""
    count = xp.sum(membership, axis=0)[:, None]
    return (membership.mT @ Z) / xp.clip(count, min=xp.finfo(Z.dtype).smallest_normal)


def _weighted_grams(Z: Array, membership: Array, means: Array | None, xp: Namespace) -> Array:
    """Σ_i r_ik (z_i - μ_k)(z_i - μ_k)ᵀ of shape (K, d, d), a chunk of tokens at a time."""
    total: Any = 0.0
    for start in range(0, Z.shape[0], _CHUNK):
        end = min(start + _CHUNK, Z.shape[0])
        rows = Z[start:end, :]
        rows = rows if means is None else rows - means[:, None, :]
        weighted = membership[start:end, :].mT[..., None] * rows  # (K, c, d)
        total = total + weighted.mT @ rows
    return total


@dataclass(frozen=True)
class ExpectationMaximization:
    """EM as a solver: a step is one maximization and one expectation; the likelihood never falls.

    Args:
        p: dimension of every subspace.
        affine: whether the subspaces pass through the means of their classes, or through the origin.

    Source: Dempster, Laird and Rubin (1977); Tipping and Bishop (1999).
    """

    p: int
    affine: bool = False

    def init(self, problem: MixtureLikelihood, parameters: MixtureParameters) -> ExpectationState:
        """State at the first parameters."""
        membership, objective = problem.expectation(parameters)
        return ExpectationState(objective, 1.0 + 0.0 * objective, membership)

    def step(
        self, problem: MixtureLikelihood, parameters: MixtureParameters, state: ExpectationState
    ) -> tuple[MixtureParameters, ExpectationState]:
        """Parameters from the membership, and the membership from them; the residual is the gain per token."""
        parameters = maximization(problem.Z, state.membership, self.p, affine=self.affine)
        membership, objective = problem.expectation(parameters)
        return parameters, ExpectationState(objective, abs(state.objective - objective), membership)


def seeded_subspaces(
    Z: Matrix, K: int, p: int, rng: np.random.Generator, *, affine: bool = False
) -> tuple[Matrix, Matrix]:
    """K subspaces of dimension p: each runs along the tokens nearest to one that is badly explained so far.

    Args:
        Z: tokens of shape (n, d).
        K: number of subspaces.
        p: their dimension.
        rng: where the tokens and the sizes of their neighborhoods are drawn from.
        affine: whether nearest means in distance, or in angle.

    Returns:
        Orthonormal bases of shape (K, d, p), and means of shape (K, d): zero unless affine.

    Source: the spreading of k-means++ (Arthur and Vassilvitskii, 2007), with distances to subspaces.
    """
    left = np.sum((Z - affine * Z.mean(axis=0)) ** 2, axis=1)
    found = []
    for _ in range(K):
        tried = [_neighborhood(Z, left, K, p, rng, affine) for _ in range(_TRIES)]
        rests = [np.minimum(left, _squares_off(Z - mean, U)) for U, mean in tried]
        best = int(np.argmin([rest.sum() for rest in rests]))
        found.append(tried[best])
        left = rests[best]
    bases, means = zip(*found, strict=True)
    return np.stack(bases), np.stack(means)


def _squares_off(Z: Matrix, U: Matrix) -> Matrix:
    """Squared distances of tokens from a subspace through the origin, up to rounding."""
    return np.asarray(np.maximum(np.sum(Z**2, axis=1) - np.sum((Z @ U) ** 2, axis=1), 0.0))


def _neighborhood(
    Z: Matrix, left: Matrix, K: int, p: int, rng: np.random.Generator, affine: bool
) -> tuple[Matrix, Matrix]:
    """Basis and mean of the tokens nearest to one drawn by the energy that is left."""
    n, d = Z.shape
    total = left.sum()
    center = rng.choice(n, p=left / total if total > 0 else None)
    least = p + affine
    size = int(rng.integers(least, max(least, min(4 * least, n // K)) + 1))
    far = np.sum((Z - Z[center]) ** 2, axis=1) if affine else -np.abs(_directions(Z) @ _directions(Z[center]))
    chosen = Z[np.argpartition(far, min(size, n - 1))[: size + 1]]
    mean = chosen.mean(axis=0) if affine else np.zeros(d, dtype=Z.dtype)
    basis = np.linalg.svd(chosen - mean, full_matrices=False)[2][:p].T
    if basis.shape[1] < p:  # fewer tokens than dimensions: any further directions will do
        basis = np.linalg.qr(np.hstack([basis, rng.standard_normal((d, p - basis.shape[1]))]))[0]
    return np.asarray(basis), mean


def _directions(Z: Matrix) -> Matrix:
    """Tokens at unit norm; zeros stay."""
    norms = np.linalg.norm(Z, axis=-1, keepdims=True)
    return np.asarray(Z / np.where(norms > 0, norms, 1.0))


def first_guess(Z: Array, K: int, p: int, rng: np.random.Generator, *, affine: bool = False) -> MixtureParameters:
    """Parameters from tokens assigned to the nearest of K seeded subspaces, on the backend of the tokens."""
    xp = namespace(Z)
    U, means = (asarray_like(a, Z, xp=xp) for a in seeded_subspaces(to_numpy(Z), K, p, rng, affine=affine))
    off = _energies(Z, U, means if affine else None, xp)[1]  # (n, K)
    classes = asarray_like(np.arange(K)[None, :], Z, dtype=xp.int64, xp=xp)
    nearest = xp.argmin(off, axis=-1)[:, None] == classes
    return maximization(Z, xp.astype(nearest, Z.dtype), p, affine=affine)


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
    solution: Solution[MixtureParameters]

    @property
    def U(self) -> Array:
        """Orthonormal bases of shape (K, d, p)."""
        return self.parameters.U

    def posterior(self, Z: Array) -> Array:
        """Membership (n, K) of other tokens (n, d)."""
        return expectation(Z, self.parameters)[0]

    def denoise(self, Z: Array) -> Array:
        r"""Posterior mean of the signal on the subspaces.

        .. math:: \sum_k r_k \Bigl(\mu_k + \frac{s^2}{s^2 + \sigma^2} U_k U_k^\top (z - \mu_k)\Bigr)

        Args:
            Z: tokens of shape (n, d).

        Returns:
            Array of shape (n, d).

        Source: [CRATE] (5)-(6), Tweedie's formula for this mixture.
        """
        U, _, signal, noise, means = self.parameters
        shrink, membership = signal / (signal + noise), self.posterior(Z)
        if means is None:
            return shrink * lift(project(Z, U) * membership.mT[..., None], U)
        xp = namespace(Z, U)
        along = shrink * ((Z - means[:, None, :]) @ U) @ U.mT + means[:, None, :]  # (K, n, d)
        return xp.sum(membership.mT[..., None] * along, axis=0)


@dataclass(frozen=True)
class SubspaceMixture:
    r"""Mixture of K Gaussians :math:`N(\mu_k, \sigma^2 I + s^2 U_k U_k^\top)` fitted to tokens by EM.

    The expectation is the softmax membership that CRATE's attention is derived from; the maximization is in closed
    form. Several first guesses are given a few steps each, and the most likely one is carried to the end.

    Args:
        K: number of subspaces, or candidates to choose from.
        p: dimension of every subspace, below d, or candidates to choose from. The candidate pair with the smallest
            coding length is kept: nats of the tokens plus ½ log n nats for each free parameter.
        affine: whether the subspaces pass through points μ_k of their own, and p may be 0, for round clusters; False
            for subspaces through the origin, the model as published.
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
        >>> fit.U.shape, bool(srr.ops.principal_angles(mix.U[0], fit.U[fit.labels[mix.labels == 0][0]]).max() < 0.1)
        ((3, 12, 2), True)
    """

    K: int | Iterable[int]
    p: int | Iterable[int]
    restarts: int = 8
    tol: float = 1e-9
    max_steps: int = 500
    affine: bool = False

    def __post_init__(self) -> None:
        for name in ("K", "p"):
            values = candidates(getattr(self, name))
            if not values:
                raise ValueError(f"{name} must name at least one candidate; got none")
            for value in values:
                check_count(value, name, least=int(name == "K" or not self.affine))
            object.__setattr__(self, name, values)
        check_count(self.restarts, "restarts")
        check_count(self.max_steps, "max_steps")
        check_nonnegative(self.tol, "tol")

    def fit(
        self,
        Z: Array,
        *,
        seed: int | np.random.Generator,
        guess: Array | None = None,
        n_jobs: int | None = 1,
        progress: Progress | None = None,
    ) -> SubspaceMixtureFit:
        """Fit the mixture to tokens.

        Args:
            Z: tokens of shape (n, d) with d ≥ 2; the fit runs in float64 where the library has it.
            seed: of the first guesses; the same seed gives the same fit, whatever the number of threads.
            guess: integer labels (n,) below every K, one more first guess beside those that are drawn, and the only one
                where p = 0.
            n_jobs: threads that the candidates are shared out to; -1 for one a core.
            progress: called after each candidate with the number done, the number of all, and a line about it.

        Returns:
            The `SubspaceMixtureFit`.

        Raises:
            TypeError: Z is not a real floating array.
            ValueError: Z is not a matrix with n ≥ K and d > p for every candidate, NaN or infinity; guess is not one
                label for every token.
        """
        xp = namespace(Z)
        check_tokens(Z, xp=xp)
        pairs = list(product(candidates(self.K), candidates(self.p)))
        _check_sizes(Z, pairs)
        labels = None if guess is None else _check_guess(to_numpy(guess), Z.shape[0], min(K for K, _ in pairs))
        core, rng = core_cast(Z, None, xp), np.random.default_rng(seed)
        several = len(pairs) > 1
        streams = rng.spawn(len(pairs)) if several else [rng]
        work = [
            (f"K={pair[0]}, p={pair[1]}", partial(self._survey, core, *pair, stream, labels, long=several))
            for pair, stream in zip(pairs, streams, strict=True)
        ]
        surveys = dict(zip(pairs, run_all(work, n_jobs, progress), strict=True))
        lengths = {pair: _coding_length(core, solution, *pair) for pair, solution in surveys.items()}
        chosen = min(lengths, key=lengths.__getitem__)
        solution = minimize(
            MixtureLikelihood(core),
            surveys[chosen],
            ExpectationMaximization(chosen[1], self.affine),
            tol=self.tol,
            max_steps=self.max_steps,
        )
        lengths[chosen] = _coding_length(core, solution, *chosen)
        membership = expectation(core, solution.Z)[0]
        return SubspaceMixtureFit(
            _cast(solution.Z, Z),
            xp.astype(membership, Z.dtype, copy=False),
            xp.argmax(membership, axis=-1),
            lengths[chosen],
            lengths,
            solution,
        )

    def _survey(
        self, Z: Array, K: int, p: int, rng: np.random.Generator, labels: Matrix | None, *, long: bool
    ) -> Solution[MixtureParameters]:
        """The most likely of the first guesses after a few steps, and some more where candidates compete."""
        problem, solver = MixtureLikelihood(Z), ExpectationMaximization(p, self.affine)
        steps = min(_TRIAL if p else _TRIAL_POINTS, self.max_steps)
        starts: Iterable[MixtureParameters] = (
            first_guess(Z, K, p, rng, affine=self.affine) for _ in range(self.restarts)
        )
        if labels is not None:
            member = asarray_like((labels[:, None] == np.arange(K)).astype(np.float64), Z)
            drawn = starts if p else []  # a likelier mixture of points often splits a cluster
            starts = chain(drawn, [maximization(Z, member, p, affine=self.affine)])
        trials = [minimize(problem, start, solver, tol=self.tol, max_steps=steps) for start in starts]
        best = min(trials, key=lambda trial: float(trial.objective))
        return minimize(problem, best, solver, tol=_SURVEY_TOL, max_steps=_SURVEY) if long else best


def candidates(values: int | Iterable[int]) -> tuple[int, ...]:
    """One value or several, as a tuple; more than 10,000 are refused before they are made."""
    if not isinstance(values, Iterable):
        return (values,)
    found = tuple(islice(values, _CANDIDATES + 1))
    if len(found) > _CANDIDATES:
        raise ValueError(f"candidates must be at most {_CANDIDATES:,}; got more")
    return found


def _cast(parameters: MixtureParameters, Z: Array) -> MixtureParameters:
    """Parameters in the dtype of the tokens."""
    xp = namespace(Z)
    U, weights, signal, noise = (xp.astype(a, Z.dtype, copy=False) for a in parameters[:4])
    means = None if parameters.means is None else xp.astype(parameters.means, Z.dtype, copy=False)
    return MixtureParameters(U, weights, signal, noise, means)


def _check_guess(labels: Matrix, n: int, K: int) -> Matrix:
    if labels.shape != (n,) or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= K:
        raise ValueError(
            f"guess must be integer labels of shape ({n},) from 0 to {K - 1}; got {labels.dtype}, shape {labels.shape}"
        )
    return labels


def _check_sizes(Z: Array, pairs: list[tuple[int, int]]) -> None:
    K, p = (max(values) for values in zip(*pairs, strict=True))
    if Z.ndim != 2 or Z.shape[0] < K or Z.shape[1] <= p:
        raise ValueError(
            f"Z must have shape (n, d) with n >= K={K} tokens and d > p={p} features; got {tuple(Z.shape)}"
        )


def _coding_length(Z: Array, solution: Solution[MixtureParameters], K: int, p: int) -> float:
    """Nats of the tokens, and half the logarithm of their number for each free parameter."""
    n, d = Z.shape
    free = K * p * (d - p) + (K - 1) + (2 if p else 1)  # a point of the Grassmannian per class, weights, variances
    free += 0 if solution.Z.means is None else K * d
    return float(n * solution.objective + 0.5 * free * math.log(n))
