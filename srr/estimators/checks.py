"""What the estimators share: input validation by scikit-learn, seeds, and sizes that a subspace needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

Matrix = np.ndarray[Any, Any]
FLOATS = [np.float64, np.float32]


def fitted_samples(estimator: Any, X: Any, **options: Any) -> Matrix:
    """Samples to fit on: a finite floating matrix; records the number and the names of the features."""
    return np.asarray(validate_data(estimator, X, dtype=FLOATS, **options))


def other_samples(estimator: Any, X: Any) -> Matrix:
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


def seed_of(random_state: Any) -> int:
    """A seed for NumPy's generators from whatever scikit-learn takes as a random state."""
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
