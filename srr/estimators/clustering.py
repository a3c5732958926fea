"""Subspace clustering: by a mixture of low-rank Gaussians, and by coding length."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted

from srr.estimators.checks import (
    Matrix,
    affine_constant,
    check_sizes,
    extended,
    fitted_samples,
    other_samples,
    seed_of,
)
from srr.solvers.coding_length import CodingLengthClustering as CodingLengthSolver
from srr.solvers.expectation import expectation
from srr.solvers.subspace_mixture import SubspaceMixture, candidates


class SubspaceMixtureClustering(ClusterMixin, BaseEstimator):
    r"""Cluster samples by the subspace they lie near: a mixture of low-rank Gaussians fitted by EM.

    .. math:: x \sim \sum_k \pi_k N\bigl(0,\ \sigma^2 I + s^2 U_k U_k^\top\bigr)

    Args:
        n_clusters: number of subspaces K, or a sequence of candidates of which the smallest coding length wins.
        rank: dimension of every subspace, below the number of features, or a sequence of candidates.
        affine: whether the subspaces may miss the origin. They then are subspaces of one dimension more of the
            samples with a constant coordinate appended; False is the model as written.
        n_init: first guesses; the most likely one is carried to the end.
        tol: gain of log-likelihood, in nats per sample, at which the fit counts as converged.
        max_iter: largest number of EM steps.
        random_state: seed or generator of the first guesses.

    Attributes:
        labels_: cluster of each training sample, shape (n_samples,).
        bases_: orthonormal bases U of shape (K, n_features, rank), or (K, n_features + 1, rank + 1) of the
            samples with their constant for affine subspaces.
        weights_: probabilities of the clusters, shape (K,).
        signal_variance_: variance s² along the subspaces.
        noise_variance_: variance σ² of every coordinate's noise.
        coding_length_: nats of samples and parameters together.
        coding_lengths_: the same for every candidate (n_clusters, rank).
        constant_: the constant coordinate, 0 where there is none.
        n_iter_: EM steps of the final run.
        n_features_in_: number of features.

    Source: [CRATE] (5)-(6); see :class:`srr.SubspaceMixture`.

    Example:
        >>> import srr
        >>> from srr.estimators import SubspaceMixtureClustering
        >>> mix = srr.subspace_mixture(n=200, d=8, K=2, p=2, noise=0.1, seed=0)
        >>> model = SubspaceMixtureClustering(n_clusters=2, rank=2, random_state=0).fit(mix.Z)
        >>> agreement = (model.labels_ == mix.labels).mean()
        >>> float(max(agreement, 1 - agreement))
        1.0
    """

    def __init__(
        self,
        n_clusters: int | Iterable[int] = 2,
        rank: int | Iterable[int] = 1,
        *,
        affine: bool = True,
        n_init: int = 8,
        tol: float = 1e-9,
        max_iter: int = 500,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.rank = rank
        self.affine = affine
        self.n_init = n_init
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit the mixture.

        Args:
            X: samples of shape (n_samples, n_features).
            y: ignored.

        Returns:
            The estimator.

        Raises:
            ValueError: fewer samples than clusters, no more features than the rank, NaN or infinity.
        """
        X = fitted_samples(self, X)
        clusters, ranks = candidates(self.n_clusters), candidates(self.rank)
        check_sizes(X, clusters, ranks)
        self.constant_ = affine_constant(X, self.affine)
        extra = int(self.constant_ > 0)
        p = [rank + extra for rank in ranks]
        solver = SubspaceMixture(clusters, p, self.n_init, self.tol, self.max_iter)
        fit = solver.fit(extended(X, self.constant_), seed=seed_of(self.random_state))
        self.labels_, self.bases_, self.weights_ = fit.labels, fit.U, fit.parameters.weights
        self.signal_variance_ = float(fit.parameters.signal)
        self.noise_variance_ = float(fit.parameters.noise)
        self.coding_length_, self.coding_lengths_ = (
            fit.coding_length,
            {(K, p - extra): length for (K, p), length in fit.coding_lengths.items()},
        )
        self.n_iter_ = int(fit.solution.steps)
        self._fit = fit
        return self

    def predict_proba(self, X: Any) -> Matrix:
        """Posterior membership of samples, shape (n_samples, K); rows sum to one."""
        X = self._extended(X)
        return np.asarray(self._fit.posterior(X))

    def predict(self, X: Any) -> Matrix:
        """Most probable cluster of samples, shape (n_samples,)."""
        return np.asarray(np.argmax(self.predict_proba(X), axis=1))

    def denoise(self, X: Any) -> Matrix:
        """Posterior mean of what lies on the subspaces, shape of X."""
        X = self._extended(X)
        return np.asarray(self._fit.denoise(X)[:, : self.n_features_in_])

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-likelihood of samples, in nats each."""
        X = self._extended(X)
        return -float(expectation(X, self._fit.parameters)[1])

    def _extended(self, X: Any) -> Matrix:
        check_is_fitted(self)
        return extended(other_samples(self, X).astype(self.bases_.dtype), self.constant_)


class CodingLengthClustering(ClusterMixin, BaseEstimator):
    r"""Cluster samples by merging as long as that shortens their code; only the distortion is given.

    .. math:: \sum_k \tfrac{n_k + d}{2} \log\det\Bigl(I + \tfrac{d}{n_k \varepsilon^2} X_k^\top X_k\Bigr)
              + n_k \log\frac{n}{n_k}

    The number of clusters and the dimension of each come out. Needs O(n²) memory: fit on a sample of a large data
    set and ``predict`` the rest.

    Args:
        eps: distortion ε > 0 in units of the norm of a sample, of the order of the noise.
        n_clusters: number of clusters to stop at; None to stop where the code is shortest.
        affine: whether the subspaces may miss the origin; they then are subspaces of the samples with a constant
            coordinate appended. False is the code as written.

    Attributes:
        labels_: cluster of each training sample, largest cluster first, shape (n_samples,).
        n_clusters_: number of clusters found.
        coding_length_: nats of the training samples in these clusters.
        history_: coding length before the first merge and after each.
        constant_: the constant coordinate, 0 where there is none.
        n_features_in_: number of features.

    Source: Ma, Derksen, Hong and Wright (2007); see :class:`srr.CodingLengthClustering`.

    Example:
        >>> import srr
        >>> from srr.estimators import CodingLengthClustering
        >>> mix = srr.subspace_mixture(n=120, d=12, K=3, p=2, noise=0.05, seed=0)
        >>> CodingLengthClustering(eps=0.2).fit(mix.Z).n_clusters_
        3
    """

    def __init__(self, eps: float = 0.5, *, n_clusters: int | None = None, affine: bool = True) -> None:
        self.eps = eps
        self.n_clusters = n_clusters
        self.affine = affine

    def fit(self, X: Any, y: Any = None) -> Self:
        """Merge clusters of samples.

        Args:
            X: samples of shape (n_samples, n_features).
            y: ignored.

        Returns:
            The estimator.

        Raises:
            ValueError: eps not positive, fewer samples than clusters, NaN or infinity.
        """
        X = fitted_samples(self, X)
        self.constant_ = affine_constant(X, self.affine)
        fit = CodingLengthSolver(self.eps, self.n_clusters).fit(extended(X, self.constant_))
        self.labels_, self.n_clusters_ = fit.labels, fit.K
        self.coding_length_, self.history_ = fit.coding_length, fit.history
        self._fit = fit
        return self

    def predict(self, X: Any) -> Matrix:
        """Cluster of samples: the one that codes each with the fewest additional nats, shape (n_samples,)."""
        check_is_fitted(self)
        return self._fit.assign(extended(other_samples(self, X), self.constant_))
