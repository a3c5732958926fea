"""Sparse rate reduction as a transformer: an unrolled network built forward from unlabelled samples."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from srr.estimators.checks import Matrix, check_sizes, fitted_samples, other_samples, seed_of
from srr.ops.curvature import sparse_rate_reduction_smoothness
from srr.ops.rates import rate_scale
from srr.ops.redunet import expansion_operator
from srr.ops.shifts import to_sphere
from srr.ops.shrinkage import unit_soft_threshold
from srr.solvers.subspace_mixture import SubspaceMixture, candidates


class SparseRateReductionTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""Represent samples by sparse codes on the unit sphere that reduce the sparse rate.

    .. math:: \max_Z \; R(Z) - R^c(Z; U) - \frac{\lambda}{n} \lVert Z \rVert_1
              \quad\text{subject to}\quad \lVert z_i \rVert = 1

    ``fit`` finds the subspaces U, turns the samples into an orthogonal frame in which coordinate axes span the
    subspaces as far as they can, and solves the problem for the training samples by proximal gradient steps. Each
    step is one matrix for all samples, so it is kept as a layer; ``transform`` sends any sample through the
    layers, independently of the others.

    Args:
        n_subspaces: number of subspaces K, or a sequence of candidates of which the smallest coding length wins.
        rank: dimension p of every subspace, below the number of features, or a sequence of candidates.
        eps: distortion ε > 0, to be compared with samples of unit norm.
        lam: sparsity weight λ ≥ 0 of the mean ℓ1 norm of the n training samples, in nats.
        n_layers: number of steps.
        random_state: seed or generator of the subspaces' first guesses.

    Attributes:
        bases_: orthonormal bases U of shape (K, n_features, p).
        frame_: orthogonal frame D of shape (n_features, n_features); codes are coordinates in it.
        layers_: matrices of shape (n_layers, n_features, n_features).
        threshold_: soft threshold of every layer.
        n_features_in_: number of features.

    Source: [CRATE] (1), with the sphere in the place of layer normalisation; layers after [REDU].

    Example:
        >>> import numpy as np, srr
        >>> from srr.estimators import SparseRateReductionTransformer
        >>> mix = srr.subspace_mixture(n=200, d=8, K=2, p=2, noise=0.2, rotated=True, seed=0)
        >>> codes = SparseRateReductionTransformer(2, 2, random_state=0).fit_transform(mix.Z)
        >>> codes.shape, bool((codes == 0).mean() > 0.5)
        ((200, 8), True)
    """

    def __init__(
        self,
        n_subspaces: Any = 2,
        rank: Any = 1,
        *,
        eps: float = 0.5,
        lam: float = 0.5,
        n_layers: int = 50,
        random_state: Any = None,
    ) -> None:
        self.n_subspaces = n_subspaces
        self.rank = rank
        self.eps = eps
        self.lam = lam
        self.n_layers = n_layers
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Find the subspaces and build the layers.

        Args:
            X: samples of shape (n_samples, n_features).
            y: ignored.

        Returns:
            The estimator.

        Raises:
            ValueError: fewer samples than subspaces, no more features than the rank, NaN or infinity.
        """
        X = fitted_samples(self, X)
        check_sizes(X, candidates(self.n_subspaces), candidates(self.rank))
        solver = SubspaceMixture(self.n_subspaces, self.rank)
        self.bases_ = solver.fit(X, seed=seed_of(self.random_state)).U
        self.frame_ = aligned_frame(self.bases_)
        U = self.frame_.T @ self.bases_
        Z = to_sphere(X @ self.frame_)
        step = 1.0 / float(sparse_rate_reduction_smoothness(Z, U, eps=self.eps))
        self.threshold_ = step * self.lam / len(Z)
        layers = []
        for _ in range(self.n_layers):
            layers.append(np.eye(Z.shape[1], dtype=Z.dtype) + step * _ascent(Z, U, self.eps))
            Z = unit_soft_threshold(Z @ layers[-1], threshold=self.threshold_)
        self.layers_ = np.asarray(layers, dtype=Z.dtype).reshape(-1, Z.shape[1], Z.shape[1])
        self._n_features_out = Z.shape[1]
        return self

    def transform(self, X: Any) -> Matrix:
        """Sparse codes of samples in the frame, on the unit sphere, shape (n_samples, n_features)."""
        check_is_fitted(self)
        Z = to_sphere(other_samples(self, X).astype(self.frame_.dtype) @ self.frame_)
        for layer in self.layers_:
            Z = unit_soft_threshold(Z @ layer, threshold=self.threshold_)
        return np.asarray(Z)

    def inverse_transform(self, X: Any) -> Matrix:
        """Directions of codes in the space of the samples, shape of X."""
        check_is_fitted(self)
        return np.asarray(X) @ self.frame_.T


def aligned_frame(U: Matrix) -> Matrix:
    """Orthogonal frame nearest to the columns of all bases; the identity where they are more than d.

    Args:
        U: bases of shape (K, d, p).

    Returns:
        Orthogonal matrix of shape (d, d): first the polar factor of [U_1 … U_K], then its complement.
    """
    K, d, p = U.shape
    if K * p > d:
        return np.eye(d, dtype=U.dtype)
    left, _, right = np.linalg.svd(np.moveaxis(U, 0, 1).reshape(d, K * p))
    return np.hstack([left[:, : K * p] @ right, left[:, K * p :]])


def _ascent(Z: Matrix, U: Matrix, eps: float) -> Matrix:
    """Matrix G with ∇R - ∇R^c = Z G: expansion of everything, compression in every subspace."""
    V = Z @ U  # (K, n, p)
    beta = rate_scale(V, eps=eps)
    inner = np.eye(V.shape[-1], dtype=Z.dtype) + beta * V.swapaxes(-1, -2) @ V
    compression = beta * np.sum(U @ np.linalg.solve(inner, U.swapaxes(-1, -2)), axis=0)
    return np.asarray(expansion_operator(Z, eps=eps) - compression)
