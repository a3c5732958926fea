"""Faces of the library for scikit-learn: a transformer, a classifier, and three ways to cluster by subspaces.

`SparseRateReductionTransformer` and `ReduNetClassifier` are unrolled networks built forward from the samples;
`SubspaceMixtureClustering` and `CodingLengthClustering` wrap what :mod:`srr.fits` fits; `SparseSubspaceClustering` is
the baseline of the field. Samples are validated by scikit-learn, so that its own checks hold; all estimators center and
scale the features of a table as they need it.
"""

from __future__ import annotations

import sys
import warnings
from abc import abstractmethod
from collections.abc import Iterable
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from srr._array.extras import need

need("sklearn", by="srr.estimators")

from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.cluster import KMeans, SpectralClustering
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import StratifiedKFold
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from srr._array.checks import check_count, check_nonnegative, check_positive
from srr._array.linalg import value_factor
from srr._array.namespace import softmax
from srr.fits.choices import Progress, choose_eps, run_all
from srr.fits.coding_length import CodingLengthFit, CodingLengthSegmentation, coding_length
from srr.fits.mixture import SubspaceMixture, SubspaceMixtureFit, candidates, expectation
from srr.fits.redunet import ReduNetwork, build_redunet, lift_signals, random_filters
from srr.ops.rates import rate_scale
from srr.ops.redunet import expansion_operator, to_sphere
from srr.ops.sparse import unit_soft_threshold
from srr.penalties import ElasticNet
from srr.problems import SparseCoding, SparseRateReduction, outside_of
from srr.solvers import Accelerated, minimize

__all__ = [
    "SparseRateReductionTransformer",
    "ReduNetClassifier",
    "SubspaceMixtureClustering",
    "CodingLengthClustering",
    "SparseSubspaceClustering",
]

Matrix = np.ndarray[Any, np.dtype[Any]]
Samples = ArrayLike
RandomState = int | np.random.RandomState | None
FLOATS = [np.float64, np.float32]
_UNITS = 10.0  # largest standard deviation over the median one from which features are in different units
_EPS = (0.5, 1.0, 0.2, 2.0, 0.1)  # distortions tried for a classifier, the first of equals is kept
_FOLDS = 3  # folds that eps and the number of layers are chosen on
_LAYERS = 20  # layers tried at most
_NUMBERS = 25_000_000  # numbers that the operators of all layers tried may have
_KEPT = 0.99  # share of the variance that codes must give back for one more layer
_MOST = 50  # layers of codes at most
_CUT = 0.1  # share of the first layer's entries that the threshold sets to zero
_RANKS = (0, 1, 2, 4, 8)  # ranks tried
_SPLITS = 3  # times the samples are halved
_LIMIT = 1000  # samples that are halved
_CLOSE = 0.2  # ranks that agree less than the best of the first split by this much are dropped
_POOR = 0.5  # agreement below which clusters are not to be trusted
_SAVING = 0.05  # share of one cluster's nats that several must save


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


def check_scale(scale: bool | str) -> None:
    """Refuse anything but True, False and "auto"."""
    if not isinstance(scale, bool | np.bool_) and scale != "auto":
        raise ValueError(f'scale must be True, False or "auto"; got {scale!r}')


def center_and_scale(X: Matrix, scale: bool | str, center: bool) -> tuple[Matrix, Matrix]:
    """Point and units of the features that samples are seen in: mean (or zero), and standard deviations (or ones).

    Units are changed where ``scale`` is True, and where it is "auto" and the largest standard deviation exceeds ten
    times the median one: the features then are measured in different units. Constant features keep theirs.
    """
    check_scale(scale)
    middle = X.mean(axis=0)
    deviations = np.asarray(np.max(np.abs(X - middle), axis=0))
    deviations = deviations * np.sqrt(np.mean(((X - middle) / np.where(deviations > 0, deviations, 1.0)) ** 2, axis=0))
    top, most = float(deviations.max()), float(np.finfo(X.dtype).max) ** 0.25
    if top > 0 and not 1.0 / most < top < most:  # squares would leave the range of floats
        return center_and_scale(X / top, scale, center)[0] * X.dtype.type(top), np.full_like(middle, top)
    varies = deviations > 64 * np.finfo(X.dtype).eps * np.max(np.abs(X), axis=0)
    differ = bool(np.max(deviations) > _UNITS * np.median(deviations[varies])) if varies.any() else False
    wanted = differ if scale == "auto" else bool(scale)
    units = np.where(varies & wanted, deviations, 1.0)
    return (middle if center else np.zeros_like(middle)).astype(X.dtype), units.astype(X.dtype)


def affine_constant(X: Matrix, affine: bool) -> float:
    """Constant coordinate that makes subspaces affine, half as large as the samples are; 0 for none."""
    if not affine:
        return 0.0
    largest = float(np.max(np.abs(X)))
    return 0.5 * largest * float(np.sqrt(np.mean(np.sum((X / largest) ** 2, axis=1)))) if largest > 0 else 1.0


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
    r"""Represent samples by sparse codes on a sphere that reduce the sparse rate.

    .. math:: \max_Z \; R(Z) - R^c(Z; U) - \lambda \lVert Z \rVert_1
              \quad\text{subject to}\quad \lVert z_i \rVert = 1

    ``fit`` centers the samples, gives them a constant coordinate and unit length, finds the subspaces U, turns the
    tokens into an orthogonal frame in which coordinate axes span the subspaces as far as they can, and takes proximal
    gradient steps on the problem. Each step is one matrix for all samples, so it is kept as a layer; ``transform``
    sends any sample through the layers, independently of the others, and scales its code to length √m, as layer norm
    does.

    The steps forget: at the end of a long run few coordinates of each sample are left, and with them its cluster, but
    not its class. By default layers are added only while a linear map gives back 99 % of the samples' variance.

    Args:
        n_subspaces: number of subspaces K, or a sequence of candidates of which the smallest coding length wins.
        rank: dimension p of every subspace, or a sequence of candidates; "auto" for 1, 2, 4 and 8, up to m/K.
        eps: distortion ε > 0, to be compared with tokens of unit norm.
        lam: sparsity weight λ ≥ 0 of the summed ℓ1 norm of the training tokens, the one of `srr.UnitL1`, in nats;
            "auto" for the λ whose first layer sets a tenth of all entries to zero.
        n_layers: number of steps; "auto" for as many as keep 99 % of the variance, at least one and at most 50; one
            where there are fewer than two samples to a coordinate, since then a linear map proves nothing.
        outside: weight μ ≥ 0 of the energy outside the subspaces, see `srr.SparseRateReduction`.
        affine: whether the subspaces may miss the origin: samples are centered and get a constant coordinate.
        scale: True divides every feature by its standard deviation, "auto" does so where the largest exceeds ten
            times the median one, False leaves the units.
        random_state: seed or generator of the subspaces' first guesses.

    Attributes:
        bases_: orthonormal bases U of shape (K, m, p), with m = n_features + 1 for affine subspaces.
        frame_: orthogonal frame D of shape (m, m); codes are coordinates in it.
        layers_: one matrix of shape (m, m) a layer, stacked.
        n_layers_: number of layers.
        lam_: the weight λ.
        threshold_: soft threshold of every layer.
        recovered_: share of the samples' variance that the best linear map of the codes gives back.
        center_: mean of the features, 0 where the subspaces are not affine.
        scale_: what every feature is divided by.
        constant_: the constant coordinate, 0 where there is none.
        n_features_in_: number of features.

    Source: [CRATE] (1), with the sphere in the place of layer normalization; layers after [REDU].

    Example:
        >>> import numpy as np, srr
        >>> from srr.estimators import SparseRateReductionTransformer
        >>> mix = srr.subspace_mixture(n=200, d=8, K=2, p=2, noise=0.2, rotated=True, seed=0)
        >>> model = SparseRateReductionTransformer(2, 2, n_layers=50, lam=0.0025, affine=False, random_state=0)
        >>> codes = model.fit_transform(mix.Z)
        >>> codes.shape, bool((codes == 0).mean() > 0.5)
        ((200, 8), True)
    """

    def __init__(
        self,
        n_subspaces: int | Iterable[int] = 2,
        rank: int | Iterable[int] | str = "auto",
        *,
        eps: float = 0.5,
        lam: float | str = "auto",
        n_layers: int | str = "auto",
        outside: float = 0.0,
        affine: bool = True,
        scale: bool | str = "auto",
        random_state: RandomState = None,
    ) -> None:
        self.n_subspaces = n_subspaces
        self.rank = rank
        self.eps = eps
        self.lam = lam
        self.n_layers = n_layers
        self.outside = outside
        self.affine = affine
        self.scale = scale
        self.random_state = random_state

    def _learn(self, X: Matrix) -> None:
        self.center_, self.scale_ = center_and_scale(X, self.scale, self.affine)
        scaled = (X - self.center_) / self.scale_
        self.constant_ = affine_constant(scaled, self.affine)
        tokens, clusters = extended(scaled, self.constant_), candidates(self.n_subspaces)
        ranks = self._ranks(tokens, max(clusters))
        check_sizes(tokens, clusters, ranks)
        solver = SubspaceMixture(clusters, ranks)
        self.bases_ = np.asarray(solver.fit(tokens, seed=seed_of(self.random_state)).U)
        self.frame_ = aligned_frame(self.bases_)
        self._build(to_sphere(tokens @ self.frame_), scaled)
        self._n_features_out = self.frame_.shape[0]

    def _ranks(self, tokens: Matrix, K: int) -> tuple[int, ...]:
        if isinstance(self.rank, str):
            check_word(self.rank, "rank")
            return tuple(p for p in _RANKS if p and (p == 1 or p * K <= tokens.shape[1]))
        return candidates(self.rank)

    def _build(self, Z: Matrix, wanted: Matrix) -> None:
        """Layers of tokens on the sphere, as many as asked for or as keep what is wanted."""
        problem = SparseRateReduction(self.frame_.T @ self.bases_, self.eps, outside=self.outside)
        step = 1.0 / float(problem.smoothness(Z))
        automatic = check_word_or_count(self.n_layers, "n_layers", least=0)
        most = (_MOST if len(Z) >= 2 * Z.shape[1] else 1) if automatic else int(self.n_layers)
        self.lam_: float | None = None if check_word_or_number(self.lam, "lam") else float(self.lam)
        layers: list[Matrix] = []
        self.recovered_, decoder = _recovered(Z, wanted)
        while len(layers) < most:
            layer = np.eye(Z.shape[1], dtype=Z.dtype) - step * _descent(Z, problem)
            moved = Z @ layer
            if self.lam_ is None:
                self.lam_ = float(np.quantile(np.abs(moved), _CUT)) / step
            codes = unit_soft_threshold(moved, threshold=step * self.lam_)
            recovered, decoded = _recovered(codes, wanted)
            if automatic and layers and recovered < _KEPT:
                break
            Z, self.recovered_, decoder = codes, recovered, decoded
            layers.append(layer)
        self.lam_ = 0.0 if self.lam_ is None else self.lam_
        self.threshold_, self.n_layers_ = step * self.lam_, len(layers)
        self.layers_ = np.asarray(layers, dtype=Z.dtype).reshape(-1, Z.shape[1], Z.shape[1])
        self._decoder = decoder

    def transform(self, X: Samples) -> Matrix:
        """Sparse codes of samples in the frame, of length √m each, shape (n_samples, m)."""
        check_is_fitted(self)
        samples = (other_samples(self, X).astype(self.frame_.dtype) - self.center_) / self.scale_
        Z = to_sphere(extended(samples, self.constant_) @ self.frame_)
        for layer in self.layers_:
            Z = unit_soft_threshold(Z @ layer, threshold=self.threshold_)
        return np.asarray(Z) * Z.dtype.type(Z.shape[1] ** 0.5)

    def inverse_transform(self, X: Samples) -> Matrix:
        """Samples from codes, by the linear map that gave back most of the training samples, (n_samples, n_features).

        What it misses on average is the share 1 - ``recovered_`` of the variance.
        """
        check_is_fitted(self)
        codes = np.asarray(X) / self.frame_.shape[0] ** 0.5
        coefficients, middle, offset = self._decoder
        return np.asarray(((codes - middle) @ coefficients + offset) * self.scale_ + self.center_)


def check_word(value: object, name: str) -> bool:
    """Whether a parameter is left to its rule; any other string is refused."""
    if isinstance(value, str) and value != "auto":
        raise ValueError(f'{name} must be "auto" or a number; got {value!r}')
    return isinstance(value, str)


def check_word_or_count(value: int | str, name: str, *, least: int) -> bool:
    """The same for an integer."""
    if check_word(value, name):
        return True
    check_count(value, name, least=least)
    return False


def check_word_or_number(value: float | str, name: str) -> bool:
    """The same for a number that is not negative."""
    if check_word(value, name):
        return True
    check_nonnegative(value, name)
    return False


def _recovered(Z: Matrix, wanted: Matrix) -> tuple[float, tuple[Matrix, Matrix, Matrix]]:
    """Share of the variance of what is wanted that a linear map of the codes explains, and the map."""
    middle, offset = Z.mean(axis=0), wanted.mean(axis=0)
    codes, targets = Z - middle, wanted - offset
    coefficients = np.linalg.lstsq(codes, targets, rcond=None)[0]
    total = float(np.sum(targets**2))
    left = float(np.sum((targets - codes @ coefficients) ** 2))
    return (1.0 - left / total if total > 0 else 1.0), (coefficients, middle, offset)


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


def _descent(Z: Matrix, problem: SparseRateReduction[Any]) -> Matrix:
    """Matrix G with ∇f = Z G: compression in every subspace, expansion of everything, and a charge for the outside."""
    U, eps = problem.U, problem.eps
    V = Z @ U  # (K, n, p)
    beta = rate_scale(*V.shape[-2:], eps=eps)
    inverse = value_factor(V, None, beta, 64 * np.finfo(V.dtype).eps, np).inverse()  # of I + β VᵀV
    compression = beta * np.sum(U @ inverse @ U.mT, axis=0)
    off = 0.0
    if problem.outside > 0:
        off = problem.outside * rate_scale(*Z.shape, eps=eps) * outside_of(np.eye(Z.shape[1], dtype=Z.dtype), U, np)
    return np.asarray(compression + off - expansion_operator(Z, eps=eps), dtype=Z.dtype)


class ReduNetClassifier(ClassifierMixin, TransformerMixin, BaseEstimator):
    r"""Classify by a ReduNet: layers of rate-reduction ascent, then the class that explains the features best.

    Nothing is back-propagated: each layer's operators are computed from the training features that reach it. The
    decision is the smallest residual ‖C_k z‖/α_k of the final features, a soft distance to the subspace of each
    class that needs no rank.

    More layers raise the rate reduction of the training samples, not always the accuracy on others: on tables they
    mostly lower it. By default ε and the number of layers are those that classify best on three folds of the training
    samples, the fewest layers of equals; ``fit`` then costs some ten times as much.

    Args:
        eps: distortion ε > 0, to be compared with samples of unit norm; "auto" for the best of 0.1, 0.2, 0.5, 1, 2.
        n_layers: number of layers; 0 is the soft nearest-subspace rule on the samples themselves; "auto" for the best
            of 0 to 20, as far as the operators tried have at most 25 million numbers.
        step: length η > 0 of every layer's step; None for the longest one that surely raises the rate reduction.
        sharpness: λ ≥ 0 of the estimated membership and of the probabilities.
        affine: whether the classes' subspaces may miss the origin: vectors are centered and get a constant coordinate
            appended, half as large as they are. Signals stay.
        scale: True divides every feature by its standard deviation, "auto" does so where the largest exceeds ten
            times the median one, False leaves the units. Signals stay.
        signal_shape: (channels, length) or (channels, height, width) to read every row as a signal whose circular
            shifts belong to its class; None for vectors.
        n_filters: random filters that lift a signal to as many channels, followed by ReLU; 0 leaves it as it is.
        filter_size: length of the filters along every shift axis.
        random_state: seed or generator of the filters, and of the folds.

    Attributes:
        classes_: class labels, shape (K,).
        eps_: the distortion.
        n_layers_: the number of layers.
        network_: the `srr.fits.ReduNetwork`.
        rate_reduction_: ΔR of the training features before the first layer and after each, in nats.
        filters_: the filters, or None.
        center_: mean of the features, 0 where the subspaces are not affine.
        scale_: what every feature is divided by.
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
        eps: float | str = "auto",
        n_layers: int | str = "auto",
        *,
        step: float | None = None,
        sharpness: float = 100.0,
        affine: bool = True,
        scale: bool | str = "auto",
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
        self.scale = scale
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
        vectors = self.signal_shape is None
        self.center_, self.scale_ = center_and_scale(samples, self.scale and vectors, self.affine and vectors)
        self.constant_ = affine_constant((samples - self.center_) / self.scale_, self.affine and vectors)
        self.filters_ = self._draw_filters(samples.dtype)
        tokens = self._tokens(samples)
        self.eps_, self.n_layers_ = self._choose(tokens, labels)
        self.network_ = self._network(tokens, labels, self.eps_, self.n_layers_)
        self.rate_reduction_ = self.network_.rate_reduction
        return self

    def _network(self, tokens: Matrix, labels: Matrix, eps: float, depth: int) -> ReduNetwork:
        return build_redunet(
            tokens,
            labels,
            eps=eps,
            depth=depth,
            step=self.step,
            sharpness=self.sharpness,
            shift_axes=self._shift_axes,
        )

    def _choose(self, tokens: Matrix, labels: Matrix) -> tuple[float, int]:
        """ε and the number of layers, as given or by accuracy on folds."""
        automatic = check_word(self.eps, "eps"), check_word_or_count(self.n_layers, "n_layers", least=0)
        eps, depth = (_EPS[0] if automatic[0] else self.eps), (0 if automatic[1] else self.n_layers)
        if not any(automatic) or min(np.bincount(labels)) < 2 or len(self.classes_) < 2:
            return float(eps), int(depth)
        folds = min(_FOLDS, int(min(np.bincount(labels))))
        splitter = StratifiedKFold(folds, shuffle=True, random_state=seed_of(self.random_state))
        splits = list(splitter.split(labels, labels))

        def accuracies(eps: float, depth: int) -> Matrix:
            """Mean accuracy on the folds after 0 to depth layers."""
            found = []
            for train, test in splits:
                network = self._network(tokens[train], labels[train], eps, depth)
                residuals = np.asarray([*network.residuals_by_layer(tokens[test])])  # (depth + 1, n, K)
                found.append(np.mean(residuals.argmin(-1) == labels[test], axis=-1))
            return np.mean(found, axis=0)

        if automatic[0]:
            eps = max(_EPS, key=lambda value: accuracies(value, int(depth))[-1])
        if automatic[1]:
            width = tokens.shape[1] ** 2 * int(np.prod(tokens.shape[2:])) * (len(self.classes_) + 1)
            depth = int(np.argmax(np.round(accuracies(float(eps), min(_LAYERS, _NUMBERS // width)), 12)))
        return float(eps), int(depth)

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
            return extended((X - self.center_.astype(X.dtype)) / self.scale_.astype(X.dtype), self.constant_)
        if int(np.prod(self.signal_shape)) != X.shape[1]:
            raise ValueError(f"signal_shape must have {X.shape[1]} entries in all; got {self.signal_shape}")
        signals = X.reshape(len(X), *self.signal_shape)
        if self.filters_ is None:
            return signals
        return lift_signals(signals, self.filters_.astype(X.dtype))


class SubspaceMixtureClustering(ClusterMixin, FitsSamples):
    r"""Cluster samples by the subspace they lie near: a mixture of low-rank Gaussians fitted by EM.

    .. math:: x \sim \sum_k \pi_k N\bigl(\mu_k,\ \sigma^2 I + s^2 U_k U_k^\top\bigr)

    Of several ranks the one is kept whose clusters agree best when each half of the samples finds them by itself: a
    likelihood would choose what describes the samples, which need not be what tells them apart. Rank 0 is k-means with
    soft edges.

    Args:
        n_clusters: number of subspaces K, or a sequence of candidates of which the smallest coding length wins.
        rank: dimension of every subspace, below the number of features, or a sequence of candidates; "auto" for 0, 1,
            2, 4 and 8 (from 1 where the subspaces are not affine).
        affine: whether the subspaces may miss the origin; False is the model with μ = 0.
        scale: True divides every feature by its standard deviation, "auto" does so where the largest exceeds ten
            times the median one, False leaves the units.
        n_init: first guesses, beside that of k-means where subspaces are affine; the most likely one is carried to
            the end.
        tol: gain of log-likelihood, in nats per sample, at which the fit counts as converged.
        max_iter: largest number of EM steps.
        n_jobs: threads that candidates are shared out to; -1 for one a core.
        verbose: whether every candidate is printed.
        random_state: seed or generator of the first guesses.

    Attributes:
        labels_: cluster of each training sample, shape (n_samples,).
        bases_: orthonormal bases U of shape (K, n_features, rank), of the samples in their units.
        means_: points of the subspaces, shape (K, n_features), in the features' own units.
        weights_: probabilities of the clusters, shape (K,).
        signal_variance_: variance s² along the subspaces.
        noise_variance_: variance σ² of every coordinate's noise.
        coding_length_: nats of samples and parameters together.
        coding_lengths_: the same for every candidate (n_clusters, rank).
        agreement_: for every candidate that was compared, the mean adjusted Rand index of clusters found in halves.
        scale_: what every feature is divided by.
        n_iter_: EM steps of the final run.
        n_features_in_: number of features.

    Source: [CRATE] (5)-(6); see :class:`srr.SubspaceMixture`. Ranks by agreement: Lange, Roth, Braun
        and Buhmann (2004).

    Example:
        >>> import srr
        >>> from srr.estimators import SubspaceMixtureClustering
        >>> mix = srr.subspace_mixture(n=200, d=8, K=2, p=2, noise=0.1, seed=0)
        >>> model = SubspaceMixtureClustering(n_clusters=2, rank=2, random_state=0).fit(mix.Z)
        >>> agreement = (model.labels_ == mix.labels).mean()
        >>> float(max(agreement, 1 - agreement)) > 0.98
        True
    """

    def __init__(
        self,
        n_clusters: int | Iterable[int] = 2,
        rank: int | Iterable[int] | str = "auto",
        *,
        affine: bool = True,
        scale: bool | str = "auto",
        n_init: int = 8,
        tol: float = 1e-9,
        max_iter: int = 500,
        n_jobs: int | None = None,
        verbose: bool = False,
        random_state: RandomState = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.rank = rank
        self.affine = affine
        self.scale = scale
        self.n_init = n_init
        self.tol = tol
        self.max_iter = max_iter
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.random_state = random_state

    def _learn(self, X: Matrix) -> None:
        clusters, ranks = candidates(self.n_clusters), self._ranks(X)
        check_sizes(X, clusters, ranks)
        self._center, self.scale_ = center_and_scale(X, self.scale, self.affine)
        samples, seed = (X - self._center) / self.scale_, seed_of(self.random_state)
        progress = _Printed() if self.verbose else None
        self.agreement_: dict[tuple[int, int], float] = {}
        fits = []
        for K in clusters:
            rank = self._agreeing(samples, K, ranks, seed, progress) if len(ranks) > 1 else ranks[0]
            solver = SubspaceMixture(K, rank, self.n_init, self.tol, self.max_iter, self.affine)
            fits.append(((K, rank), partial(self._fit_from, solver, samples, seed)))
        found = run_all([(f"final fit of {pair}", job) for pair, job in fits], self.n_jobs, progress)
        self.coding_lengths_ = {pair: length for fit in found for pair, length in fit.coding_lengths.items()}
        fit = min(found, key=lambda fit: fit.coding_length)
        self.labels_, self.bases_, self.weights_ = fit.labels, fit.U, fit.parameters.weights
        self.signal_variance_ = float(fit.parameters.signal)
        self.noise_variance_ = float(fit.parameters.noise)
        middle = fit.parameters.means if self.affine else np.zeros((len(fit.U), X.shape[1]), dtype=X.dtype)
        self.means_ = middle * self.scale_ + self._center
        self.coding_length_, self.n_iter_ = fit.coding_length, int(fit.solution.steps)
        self._fit = fit
        chosen = (len(fit.U), int(fit.U.shape[-1]))
        if self.agreement_.get(chosen, 1.0) < _POOR:
            warnings.warn(
                f"Clusters that halves of the samples find agree to {self.agreement_[chosen]:.2f} only (1 is the same, "
                f"0 is chance): {chosen[0]} subspaces of {'these ranks' if len(ranks) > 1 else 'this rank'} are not "
                "what these samples fall into.",
                stacklevel=3,
            )

    def _fit_from(self, solver: SubspaceMixture, X: Matrix, seed: int) -> SubspaceMixtureFit:
        """Fit from drawn guesses, and from k-means where clusters have means."""
        K = candidates(solver.K)[0]
        guess = None
        if self.affine and K > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct samples than clusters
                guess = KMeans(K, n_init=10, random_state=seed).fit_predict(X)
        return solver.fit(X, seed=seed, guess=guess)

    def _ranks(self, X: Matrix) -> tuple[int, ...]:
        if not isinstance(self.rank, str):
            return candidates(self.rank)
        check_word(self.rank, "rank")
        fitting = [p for p in _RANKS if p < X.shape[1] and p >= (not self.affine)]
        K = max(candidates(self.n_clusters))
        return tuple(p for p in fitting if 4 * K * (p + 1) <= len(X)) or tuple(fitting[:1]) or (1,)

    def _agreeing(self, X: Matrix, K: int, ranks: tuple[int, ...], seed: int, progress: Progress | None) -> int:
        """Rank whose clusters, found in either half of the samples, agree best on all; the lowest of equals."""
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(X))[:_LIMIT]
        halves = [np.array_split(rng.permutation(order), 2) for _ in range(_SPLITS)]
        found: dict[int, list[float]] = {rank: [] for rank in ranks}

        def agreement(rank: int, split: int) -> float:
            solver = SubspaceMixture(K, rank, max(self.n_init // 2, 1), 1e-5, 50, self.affine)
            fits = [self._fit_from(solver, X[half], seed) for half in halves[split]]
            labels = [np.asarray(fit.posterior(X[order])).argmax(axis=1) for fit in fits]
            return float(adjusted_rand_score(*labels))

        if len(halves[0][1]) < max(K, 2):
            return ranks[0]
        for split in range(_SPLITS):
            best = max(float(np.mean(values or [1.0])) for values in found.values())
            left = [rank for rank in ranks if np.mean(found[rank] or [1.0]) >= best - _CLOSE]
            work = [(f"K={K}, rank={rank}, split {split}", partial(agreement, rank, split)) for rank in left]
            for rank, value in zip(left, run_all(work, self.n_jobs, progress), strict=True):
                found[rank].append(value)
        self.agreement_.update({(K, rank): float(np.mean(values)) for rank, values in found.items()})
        return max(left, key=lambda rank: (np.round(np.mean(found[rank]), 2), -rank))

    def predict_proba(self, X: Samples) -> Matrix:
        """Posterior membership of samples, shape (n_samples, K); rows sum to one."""
        samples = self._scaled(X)
        return np.asarray(self._fit.posterior(samples))

    def predict(self, X: Samples) -> Matrix:
        """Most probable cluster of samples, shape (n_samples,)."""
        return np.asarray(np.argmax(self.predict_proba(X), axis=1))

    def denoise(self, X: Samples) -> Matrix:
        """Posterior mean of what lies on the subspaces, shape of X."""
        samples = self._scaled(X)
        return np.asarray(self._fit.denoise(samples) * self.scale_ + self._center)

    def score(self, X: Samples, y: object = None) -> float:
        """Mean log-likelihood of samples, in nats each."""
        X = self._scaled(X)
        return -float(expectation(X, self._fit.parameters)[1]) - float(np.sum(np.log(self.scale_)))

    def _scaled(self, X: Samples) -> Matrix:
        check_is_fitted(self)
        return np.asarray((other_samples(self, X).astype(self.bases_.dtype) - self._center) / self.scale_)


class _Printed:
    """Progress as lines on standard output."""

    def __call__(self, done: int, total: int, line: str) -> None:
        sys.stdout.write(f"{done}/{total} {line}\n")


class CodingLengthClustering(ClusterMixin, FitsSamples):
    r"""Cluster samples by merging as long as that shortens their code; only the distortion is given.

    .. math:: \sum_k \tfrac{n_k + d}{2} \log\det\Bigl(I + \tfrac{d}{n_k \varepsilon^2} X_k^\top X_k\Bigr)
              + n_k \log\frac{n}{n_k}

    The number of clusters and the dimension of each come out. Needs O(n²) memory: fit on a sample of a large data
    set and ``predict`` the rest.

    It is for samples near *low-dimensional* subspaces with little noise. Elsewhere the shortest code has one cluster,
    or far too many, or saves less than 5 % of one cluster's nats; ``fit`` then warns, and also where other than the
    ``n_clusters`` asked for have the shortest code.

    Args:
        eps: distortion ε > 0 in units of the norm of a sample (after scaling), of the order of the noise; "auto" for
            the length of the noise that :func:`srr.fits.estimate_noise` finds.
        n_clusters: number of clusters to stop at; None to stop where the code is shortest.
        affine: whether the subspaces may miss the origin; they then are subspaces of the centered samples with a
            constant coordinate appended. False is the code as written.
        scale: True divides every feature by its standard deviation, "auto" does so where the largest exceeds ten
            times the median one, False leaves the units.

    Attributes:
        labels_: cluster of each training sample, largest cluster first, shape (n_samples,).
        n_clusters_: number of clusters found.
        coding_length_: nats of the training samples in these clusters.
        history_: coding length before the first merge and after each.
        eps_: the distortion.
        center_: mean of the features, 0 where the subspaces are not affine.
        scale_: what every feature is divided by.
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

    def __init__(
        self,
        eps: float | str = "auto",
        *,
        n_clusters: int | None = None,
        affine: bool = True,
        scale: bool | str = "auto",
    ) -> None:
        self.eps = eps
        self.n_clusters = n_clusters
        self.affine = affine
        self.scale = scale

    def _learn(self, X: Matrix) -> None:
        self.center_, self.scale_ = center_and_scale(X, self.scale, self.affine)
        scaled = (X - self.center_) / self.scale_
        self.constant_ = affine_constant(scaled, self.affine)
        tokens = extended(scaled, self.constant_)
        self._size = float(np.max(np.abs(tokens))) or 1.0  # lengths have square roots of the range of floats
        tokens = tokens / self._size
        eps = self._distortion(tokens) if check_word(self.eps, "eps") else float(self.eps) / self._size
        self.eps_ = eps * self._size
        fit = CodingLengthSegmentation(eps, self.n_clusters).fit(tokens)
        self.labels_, self.n_clusters_ = fit.labels, fit.K
        self.coding_length_, self.history_ = fit.coding_length, fit.history
        self._fit = fit
        if len(X) > 1:
            shortest = fit if self.n_clusters is None else CodingLengthSegmentation(eps).fit(tokens)
            self._judge(shortest, coding_length(tokens, np.zeros(len(X), dtype=np.int64), eps=eps))

    def _judge(self, shortest: CodingLengthFit, one: float) -> None:
        """Warn where the shortest code hardly has clusters, or other ones than were asked for."""
        nats, K = shortest.coding_length, shortest.K
        if K == 1:
            found = "One cluster has the shortest code"
        elif nats > (1.0 - _SAVING) * one:
            found = f"{K} clusters take {nats:.4g} nats where one takes {one:.4g}"
        elif len(self.labels_) < 5 * K:
            found = f"The shortest code of {len(self.labels_)} samples has {K} clusters"
        elif self.n_clusters not in (None, K):
            found = f"{self.n_clusters} clusters take {self.coding_length_:.4g} nats where {K} take {nats:.4g}"
        else:
            return
        several = "several" if self.n_clusters is None else str(self.n_clusters)
        warnings.warn(
            f"{found} at eps={self.eps_:.3g}: these samples do not lie near {several} low-dimensional subspaces with "
            "noise of that size.",
            stacklevel=4,
        )

    @staticmethod
    def _distortion(tokens: Matrix) -> float:
        """Length of the noise, at least a thousandth of the largest entry."""
        return max(choose_eps(tokens), 1e-3) if min(tokens.shape) > 1 else 1.0

    def predict(self, X: Samples) -> Matrix:
        """Cluster of samples: the one that codes each with the fewest additional nats, shape (n_samples,)."""
        check_is_fitted(self)
        samples = (other_samples(self, X).astype(self.scale_.dtype) - self.center_) / self.scale_
        return self._fit.assign(extended(samples, self.constant_) / self._size)


class SparseSubspaceClustering(ClusterMixin, FitsSamples):
    r"""Cluster samples by which others each one is made of: self-expression, then a spectral step.

    .. math:: \min_C \; \tfrac12 \lVert X - C X \rVert_F^2 + \sum_{ij} \lambda_i |C_{ij}|
              + \tfrac{\rho}{2} \lVert C \rVert_F^2 \quad\text{subject to}\quad C_{ii} = 0

    Samples are put to unit norm first. λ_i is such that sample i has a code: the fraction 1/α of its largest inner
    product with another one. The graph abs(C) + abs(C)ᵀ is cut by scikit-learn's spectral clustering. This is the
    baseline that subspace clustering is compared with; it needs O(n²) memory, and labels no other samples.

    Args:
        n_clusters: number of clusters K.
        alpha: α > 1; the larger, the more samples each one is made of.
        l1_ratio: share in (0, 1] of the ℓ1 norm: λ_i = l1_ratio·m_i/α and ρ = (1 - l1_ratio)·mean(m)/α, with m_i the
            largest inner product of sample i. 1 is sparse subspace clustering, less its elastic-net form.
        affine: whether the subspaces may miss the origin; samples are centered and get a constant coordinate.
        scale: True divides every feature by its standard deviation, "auto" does so where the largest exceeds ten
            times the median one, False leaves the units.
        tol: distance to optimality, for each sample on average, at which the codes count as found.
        max_iter: largest number of steps.
        random_state: seed or generator of the spectral step.

    Attributes:
        labels_: cluster of each sample, shape (n_samples,).
        codes_: C of shape (n_samples, n_samples).
        solution_: the `srr.Solution` of the codes.
        n_iter_: steps taken.
        center_: mean of the features, 0 where the subspaces are not affine.
        scale_: what every feature is divided by.
        constant_: the constant coordinate, 0 where there is none.
        n_features_in_: number of features.

    Source: Elhamifar and Vidal (2013), (13) and Algorithm 1; You, Li, Robinson and Vidal (2016) for the elastic net.

    Example:
        >>> import srr
        >>> from srr.estimators import SparseSubspaceClustering
        >>> mix = srr.subspace_mixture(n=60, d=12, K=3, p=2, noise=0.01, seed=0)
        >>> labels = SparseSubspaceClustering(3, affine=False, random_state=0).fit_predict(mix.Z)
        >>> len(set(zip(labels.tolist(), mix.labels.tolist())))
        3
    """

    def __init__(
        self,
        n_clusters: int = 2,
        *,
        alpha: float = 20.0,
        l1_ratio: float = 0.9,
        affine: bool = True,
        scale: bool | str = "auto",
        tol: float = 1e-4,
        max_iter: int = 300,
        random_state: RandomState = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.affine = affine
        self.scale = scale
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def _learn(self, X: Matrix) -> None:
        check_positive(self.alpha, "alpha")
        if not 0 < self.l1_ratio <= 1:
            raise ValueError(f"l1_ratio must be in (0, 1]; got {self.l1_ratio}")
        if len(X) < max(self.n_clusters, 2):
            raise ValueError(f"X must have at least {max(self.n_clusters, 2)} samples; got n_samples={len(X)}")
        self.center_, self.scale_ = center_and_scale(X, self.scale, self.affine)
        scaled = (X - self.center_) / self.scale_
        self.constant_ = affine_constant(scaled, self.affine)
        Z = to_sphere(extended(scaled, self.constant_))
        nearest = np.abs(Z @ Z.T - np.eye(len(Z), dtype=Z.dtype) * np.sum(Z**2, axis=1)).max(axis=1, keepdims=True)
        penalty = ElasticNet(
            self.l1_ratio / self.alpha * nearest,
            float((1.0 - self.l1_ratio) / self.alpha * nearest.mean()),
            off_diagonal=True,
        )
        start, tol = np.zeros((len(Z), len(Z)), dtype=Z.dtype), self.tol * float(np.sqrt(len(Z)))
        self.solution_ = minimize(SparseCoding(Z, Z.T, penalty), start, Accelerated(), tol=tol, max_steps=self.max_iter)
        self.codes_, self.n_iter_ = np.asarray(self.solution_.Z), int(self.solution_.steps)
        graph = np.abs(self.codes_) + np.abs(self.codes_).T
        self.labels_ = self._cut(graph, Z)

    def _cut(self, graph: Matrix, Z: Matrix) -> Matrix:
        if self.n_clusters == 1 or not graph.any():
            return np.zeros(len(Z), dtype=np.int64)
        spectral = SpectralClustering(
            self.n_clusters, affinity="precomputed", random_state=seed_of(self.random_state), assign_labels="kmeans"
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Graph is not fully connected")  # as it should be here
            return np.asarray(spectral.fit_predict(graph.astype(np.float64) + 1e-12))
