"""A classifier built forward from labelled samples: ReduNet, on vectors or on signals with circular shifts."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from srr._array import softmax
from srr.estimators.checks import FLOATS, Matrix, affine_constant, extended, other_samples, seed_of
from srr.ops.shifts import circular_convolution
from srr.solvers.redunet import build_redunet


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
        network_: the `srr.ReduNetwork`.
        rate_reduction_: ΔR of the training features before the first layer and after each, in nats.
        filters_: the filters, or None.
        constant_: the constant coordinate, 0 where there is none.
        n_features_in_: number of features.

    Source: [REDU] Algorithms 1 and 2; see :func:`srr.build_redunet`.

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
        random_state: Any = None,
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

    def fit(self, X: Any, y: Any) -> Self:
        """Build the network from labelled samples.

        Args:
            X: samples of shape (n_samples, n_features).
            y: class labels of shape (n_samples,).

        Returns:
            The estimator.

        Raises:
            ValueError: labels that are not classes, a signal shape of another size, NaN or infinity.
        """
        X, y = validate_data(self, X, y, dtype=FLOATS)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self.constant_ = affine_constant(X, self.affine and self.signal_shape is None)
        self.filters_ = self._draw_filters(X.dtype)
        self.network_ = build_redunet(
            self._tokens(X),
            labels,
            eps=self.eps,
            depth=self.n_layers,
            step_size=self.step,
            sharpness=self.sharpness,
            shift_axes=self._shift_axes,
        )
        self.rate_reduction_ = self.network_.rate_reduction
        return self

    def transform(self, X: Any) -> Matrix:
        """Features of samples after the last layer, one row each."""
        check_is_fitted(self)
        tokens = self._tokens(other_samples(self, X))
        return np.reshape(np.asarray(self.network_(tokens)), (len(tokens), -1))

    def residuals(self, X: Any) -> Matrix:
        """What each class leaves unexplained of the features, in [0, 1], shape (n_samples, K)."""
        check_is_fitted(self)
        return np.asarray(self.network_.class_residuals(self._tokens(other_samples(self, X))))

    def decision_function(self, X: Any) -> Matrix:
        """Negative residuals, shape (n_samples, K); for two classes their difference, shape (n_samples,)."""
        scores = -self.residuals(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict_proba(self, X: Any) -> Matrix:
        """Softmax of the negative residuals times the sharpness, shape (n_samples, K); not calibrated."""
        return np.asarray(softmax(-self.sharpness * self.residuals(X), axis=-1, xp=np))

    def predict(self, X: Any) -> Matrix:
        """Class with the smallest residual, shape (n_samples,)."""
        nearest = np.argmin(self.residuals(X), axis=1)
        return np.asarray(self.classes_[nearest])

    @property
    def _shift_axes(self) -> int:
        return 0 if self.signal_shape is None else len(self.signal_shape) - 1

    def _draw_filters(self, dtype: Any) -> Matrix | None:
        if self.signal_shape is None or not self.n_filters:
            return None
        rng = np.random.default_rng(seed_of(self.random_state))
        shape = (self.n_filters, self.signal_shape[0], *[self.filter_size] * self._shift_axes)
        return rng.standard_normal(shape).astype(dtype)

    def _tokens(self, X: Matrix) -> Matrix:
        """Vectors with their constant, or lifted signals."""
        if self.signal_shape is None:
            return extended(X, self.constant_)
        if int(np.prod(self.signal_shape)) != X.shape[1]:
            raise ValueError(f"signal_shape must have {X.shape[1]} entries in all; got {self.signal_shape}")
        signals = X.reshape(len(X), *self.signal_shape)
        if self.filters_ is None:
            return signals
        return np.asarray(np.maximum(circular_convolution(signals, self.filters_.astype(X.dtype)), 0.0))
