"""Faces of the library for scikit-learn: a transformer, a classifier, and two ways to cluster by subspaces.

`SparseRateReductionTransformer` and `ReduNetClassifier` are unrolled networks built forward from the samples;
`SubspaceMixtureClustering` and `CodingLengthClustering` wrap what :mod:`srr.fits` fits. Samples are validated by
scikit-learn, so that its own checks hold.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from srr._array.extras import need

need("sklearn", by="srr.estimators")

from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from srr._array.linalg import value_factor
from srr._array.namespace import softmax
from srr.fits.coding_length import CodingLengthSegmentation
from srr.fits.mixture import SubspaceMixture, candidates, expectation
from srr.fits.redunet import build_redunet, lift_signals, random_filters
from srr.ops.rates import rate_scale, sparse_rate_reduction_smoothness
from srr.ops.redunet import expansion_operator, to_sphere
from srr.ops.sparse import unit_soft_threshold

__all__ = [
    "SparseRateReductionTransformer",
    "ReduNetClassifier",
    "SubspaceMixtureClustering",
    "CodingLengthClustering",
]

Matrix = np.ndarray[Any, np.dtype[Any]]
Samples = ArrayLike
RandomState = int | np.random.RandomState | None
FLOATS = [np.float64, np.float32]


def fitted_samples(estimator: BaseEstimator, X: Samples) -> Matrix:
    """Samples to fit on: a finite floating matrix; records the number and the names of the features."""
    return np.asarray(validate_data(estimator, X, dtype=FLOATS))


def other_samples(estimator: BaseEstimator, X: Samples) -> Matrix:
    """Samples with the features that the estimator was fitted on."""
    return np.asarray(validate_data(estimator, X, dtype=FLOATS, reset=False))


def check_sizes(X: Matrix, clusters: Iterable[int], ranks: Iterable[int]) -> None:
    """Refuse fewer samples than subspaces, or features that do not exceed the dimension of the subspaces."""
    if len(X) < max(clusters):
        raise ValueError(f"X must have at least {max(clusters)} samples, one a subspace; got n_samples={len(X)}")
    if X.shape[1] <= max(ranks):
        raise ValueError(f"X must have more features than rank={max(ranks)}; got n_features={X.shape[1]}")


def affine_constant(X: Matrix, affine: bool) -> float:
    """Constant coordinate that makes subspaces affine, as large as the other coordinates are; 0 for none."""
    if not affine:
        return 0.0
    largest = float(np.max(np.abs(X)))
    return largest * float(np.sqrt(np.mean((X / largest) ** 2))) if largest > 0 else 1.0


def extended(X: Matrix, constant: float) -> Matrix:
    """Samples with the constant appended, or as they are where it is zero."""
    return np.hstack([X, np.full((len(X), 1), constant, dtype=X.dtype)]) if constant else X


def seed_of(random_state: RandomState) -> int:
    """A seed for NumPy's generators from whatever scikit-learn takes as a random state."""
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


class FitsSamples(BaseEstimator):
    """``fit`` of an estimator without labels: the samples are validated, then learned from."""

    def fit(self, X: Samples, y: object = None) -> Self:
        """Fit to samples.

        Args:
            X: samples of shape (n_samples, n_features).
            y: ignored.

        Returns:
            The estimator.

        Raises:
            ValueError: too few samples or features for what is fitted, a parameter outside its range, NaN or infinity.
        """
        self._learn(fitted_samples(self, X))
        return self

    @abstractmethod
    def _learn(self, X: Matrix) -> None:
        """Set the attributes from valid samples."""


class SparseRateReductionTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, FitsSamples):
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

    Source: [CRATE] (1), with the sphere in the place of layer normalization; layers after [REDU].

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
        n_subspaces: int | Iterable[int] = 2,
        rank: int | Iterable[int] = 1,
        *,
        eps: float = 0.5,
        lam: float = 0.5,
        n_layers: int = 50,
        random_state: RandomState = None,
    ) -> None:
        self.n_subspaces = n_subspaces
        self.rank = rank
        self.eps = eps
        self.lam = lam
        self.n_layers = n_layers
        self.random_state = random_state

    def _learn(self, X: Matrix) -> None:
        check_sizes(X, candidates(self.n_subspaces), candidates(self.rank))
        solver = SubspaceMixture(self.n_subspaces, self.rank)
        self.bases_ = np.asarray(solver.fit(X, seed=seed_of(self.random_state)).U)
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

    def transform(self, X: Samples) -> Matrix:
        """Sparse codes of samples in the frame, on the unit sphere, shape (n_samples, n_features)."""
        check_is_fitted(self)
        Z = to_sphere(other_samples(self, X).astype(self.frame_.dtype) @ self.frame_)
        for layer in self.layers_:
            Z = unit_soft_threshold(Z @ layer, threshold=self.threshold_)
        return np.asarray(Z)

    def inverse_transform(self, X: Samples) -> Matrix:
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
    beta = rate_scale(*V.shape[-2:], eps=eps)
    inverse = value_factor(V, None, beta, 64 * np.finfo(V.dtype).eps, np).inverse()  # of I + β VᵀV
    compression = beta * np.sum(U @ inverse @ U.mT, axis=0)
    return np.asarray(expansion_operator(Z, eps=eps) - compression)


class ReduNetClassifier(ClassifierMixin, TransformerMixin, BaseEstimator):
    r"""Classify by a ReduNet: layers of rate-reduction ascent, then the class that explains the features best.

    Nothing is back-propagated: each layer's operators are computed from the training features that reach it. The
    decision is the smallest residual ‖C_k z‖/α_k of the final features, a soft distance to the subspace of each
    class that needs no rank.

    Args:
        eps: distortion ε > 0, to be compared with samples of unit norm.
        n_layers: number of layers; 0 is the soft nearest-subspace rule on the samples themselves.
        step: length η > 0 of every layer's step; None for the longest one that surely raises the rate reduction.
        sharpness: λ ≥ 0 of the estimated membership and of the probabilities.
        affine: whether the classes' subspaces may miss the origin: vectors get a constant coordinate appended, as
            large as the others are. Signals take none.
        signal_shape: (channels, length) or (channels, height, width) to read every row as a signal whose circular
            shifts belong to its class; None for vectors.
        n_filters: random filters that lift a signal to as many channels, followed by ReLU; 0 leaves it as it is.
        filter_size: length of the filters along every shift axis.
        random_state: seed or generator of the filters.

    Attributes:
        classes_: class labels, shape (K,).
        network_: the `srr.fits.ReduNetwork`.
        rate_reduction_: ΔR of the training features before the first layer and after each, in nats.
        filters_: the filters, or None.
        constant_: the constant coordinate, 0 where there is none.
        n_features_in_: number of features.

    Source: [REDU] Algorithms 1 and 2; see :func:`srr.fits.build_redunet`.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> from srr.estimators import ReduNetClassifier
        >>> X, y = load_digits(return_X_y=True)
        >>> model = ReduNetClassifier(n_layers=5).fit(X[:1000], y[:1000])
        >>> model.score(X[1000:], y[1000:]) > 0.93
        True
    """

    def __init__(
        self,
        eps: float = 0.5,
        n_layers: int = 20,
        *,
        step: float | None = None,
        sharpness: float = 100.0,
        affine: bool = True,
        signal_shape: tuple[int, ...] | None = None,
        n_filters: int = 0,
        filter_size: int = 3,
        random_state: RandomState = None,
    ) -> None:
        self.eps = eps
        self.n_layers = n_layers
        self.step = step
        self.sharpness = sharpness
        self.affine = affine
        self.signal_shape = signal_shape
        self.n_filters = n_filters
        self.filter_size = filter_size
        self.random_state = random_state

    def fit(self, X: Samples, y: ArrayLike) -> Self:
        """Build the network from labeled samples.

        Args:
            X: samples of shape (n_samples, n_features).
            y: class labels of shape (n_samples,).

        Returns:
            The estimator.

        Raises:
            ValueError: labels that are not classes, a signal shape of another size, NaN or infinity.
        """
        samples, y = validate_data(self, X, y, dtype=FLOATS)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self.constant_ = affine_constant(samples, self.affine and self.signal_shape is None)
        self.filters_ = self._draw_filters(samples.dtype)
        self.network_ = build_redunet(
            self._tokens(samples),
            labels,
            eps=self.eps,
            depth=self.n_layers,
            step=self.step,
            sharpness=self.sharpness,
            shift_axes=self._shift_axes,
        )
        self.rate_reduction_ = self.network_.rate_reduction
        return self

    def transform(self, X: Samples) -> Matrix:
        """Features of samples after the last layer, one row each."""
        check_is_fitted(self)
        tokens = self._tokens(other_samples(self, X))
        return np.reshape(np.asarray(self.network_(tokens)), (len(tokens), -1))

    def residuals(self, X: Samples) -> Matrix:
        """What each class leaves unexplained of the features, in [0, 1], shape (n_samples, K)."""
        check_is_fitted(self)
        return np.asarray(self.network_.class_residuals(self._tokens(other_samples(self, X))))

    def decision_function(self, X: Samples) -> Matrix:
        """Negative residuals, shape (n_samples, K); for two classes their difference, shape (n_samples,)."""
        scores = -self.residuals(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict_proba(self, X: Samples) -> Matrix:
        """Softmax of the negative residuals times the sharpness, shape (n_samples, K); not calibrated."""
        return np.asarray(softmax(-self.sharpness * self.residuals(X), axis=-1, xp=np))

    def predict(self, X: Samples) -> Matrix:
        """Class with the smallest residual, shape (n_samples,)."""
        nearest = np.argmin(self.residuals(X), axis=1)
        return np.asarray(self.classes_[nearest])

    @property
    def _shift_axes(self) -> int:
        return 0 if self.signal_shape is None else len(self.signal_shape) - 1

    def _draw_filters(self, dtype: np.dtype[Any]) -> Matrix | None:
        if self.signal_shape is None or not self.n_filters:
            return None
        size, seed = (self.filter_size,) * self._shift_axes, seed_of(self.random_state)
        return random_filters(self.n_filters, channels=self.signal_shape[0], size=size, seed=seed).astype(dtype)

    def _tokens(self, X: Matrix) -> Matrix:
        """Vectors with their constant, or lifted signals."""
        if self.signal_shape is None:
            return extended(X, self.constant_)
        if int(np.prod(self.signal_shape)) != X.shape[1]:
            raise ValueError(f"signal_shape must have {X.shape[1]} entries in all; got {self.signal_shape}")
        signals = X.reshape(len(X), *self.signal_shape)
        if self.filters_ is None:
            return signals
        return lift_signals(signals, self.filters_.astype(X.dtype))


class SubspaceMixtureClustering(ClusterMixin, FitsSamples):
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
        random_state: RandomState = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.rank = rank
        self.affine = affine
        self.n_init = n_init
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def _learn(self, X: Matrix) -> None:
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

    def predict_proba(self, X: Samples) -> Matrix:
        """Posterior membership of samples, shape (n_samples, K); rows sum to one."""
        X = self._extended(X)
        return np.asarray(self._fit.posterior(X))

    def predict(self, X: Samples) -> Matrix:
        """Most probable cluster of samples, shape (n_samples,)."""
        return np.asarray(np.argmax(self.predict_proba(X), axis=1))

    def denoise(self, X: Samples) -> Matrix:
        """Posterior mean of what lies on the subspaces, shape of X."""
        X = self._extended(X)
        return np.asarray(self._fit.denoise(X)[:, : self.n_features_in_])

    def score(self, X: Samples, y: object = None) -> float:
        """Mean log-likelihood of samples, in nats each."""
        X = self._extended(X)
        return -float(expectation(X, self._fit.parameters)[1])

    def _extended(self, X: Samples) -> Matrix:
        check_is_fitted(self)
        return extended(other_samples(self, X).astype(self.bases_.dtype), self.constant_)


class CodingLengthClustering(ClusterMixin, FitsSamples):
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

    Source: Ma, Derksen, Hong and Wright (2007); see :class:`srr.CodingLengthSegmentation`.

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

    def _learn(self, X: Matrix) -> None:
        self.constant_ = affine_constant(X, self.affine)
        fit = CodingLengthSegmentation(self.eps, self.n_clusters).fit(extended(X, self.constant_))
        self.labels_, self.n_clusters_ = fit.labels, fit.K
        self.coding_length_, self.history_ = fit.coding_length, fit.history
        self._fit = fit

    def predict(self, X: Samples) -> Matrix:
        """Cluster of samples: the one that codes each with the fewest additional nats, shape (n_samples,)."""
        check_is_fitted(self)
        return self._fit.assign(extended(other_samples(self, X), self.constant_))
