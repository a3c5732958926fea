"""All estimators and their plain baselines on small real tables: the page docs/tables.md is written from this.

Constants of the defaults (half the norm for the affine coordinate, the grids of ε and ranks, 99 % of the variance, …)
were chosen on one half of each data set; everything here is measured on the other half. Classifiers and codes: accuracy
of ten folds (5, twice). Clusterings: share of samples in the right cluster under the best matching, given the number of
classes.

    python examples/results/real_tables.py docs/tables.md
"""

import sys
import time
import warnings
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.cluster import contingency_matrix
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import srr
from srr.estimators import (
    CodingLengthClustering,
    ReduNetClassifier,
    SparseRateReductionTransformer,
    SparseSubspaceClustering,
    SubspaceMixtureClustering,
)

FOLDS = RepeatedStratifiedKFold(n_splits=5, n_repeats=2, random_state=1)
MARKS = ("<!-- table -->", "<!-- end of table -->")


class NearestSubspace(ClassifierMixin, BaseEstimator):
    """The class whose principal subspace through the origin leaves least of a sample."""

    def __init__(self, rank=4):
        self.rank = rank

    def fit(self, X, y):
        self.classes_, labels = np.unique(y, return_inverse=True)
        rank = min(self.rank, X.shape[1] - 1, int(np.bincount(labels).min()))
        self.bases_ = srr.ops.principal_bases(X, labels, rank=rank)
        return self

    def predict(self, X):
        return self.classes_[np.sum((X @ self.bases_) ** 2, axis=-1).argmax(axis=0)]


def made_up_faces(people=15, pictures=20, side=10, seed=1):
    """Bumpy half-spheres with spots, lit from random sides, noise of 2 %."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    round_part = np.sqrt(np.maximum(1.4 - x**2 - y**2, 0.05))
    images = []
    for _ in range(people):
        height = round_part + 1.5 * gaussian_filter(rng.standard_normal((side, side)), 2.0)
        albedo = 1 + 1.5 * gaussian_filter(rng.standard_normal((side, side)), 1.0)
        slopes = np.gradient(height, 2 / side)
        normals = np.stack([-slopes[1], -slopes[0], np.ones_like(height)], axis=-1)
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        for _ in range(pictures):
            light = np.asarray([*rng.normal(0, 0.6, 2), 1.0])
            shade = np.maximum(normals @ light / np.linalg.norm(light), 0)
            images.append((shade * albedo * rng.uniform(0.7, 1) * 255 + rng.normal(0, 5, shade.shape)).ravel())
    return np.clip(images, 0, 255), np.repeat(np.arange(people), pictures)


DATA = {
    "breast cancer": lambda: load_breast_cancer(return_X_y=True),
    "wine": lambda: load_wine(return_X_y=True),
    "iris": lambda: load_iris(return_X_y=True),
    "digits": lambda: load_digits(return_X_y=True),
    "made-up faces": made_up_faces,
}


def logistic():
    return LogisticRegression(max_iter=3000)


CLASSIFIERS = {
    "**logistic regression**": lambda: make_pipeline(StandardScaler(), logistic()),
    "**nearest subspace, rank 4**": NearestSubspace,
    "`SparseRateReductionTransformer`, then logistic regression": lambda: make_pipeline(
        SparseRateReductionTransformer(random_state=0), logistic()
    ),
    "`ReduNetClassifier`": lambda: ReduNetClassifier(random_state=0),
}
CLUSTERERS = {
    "**k-means, standardized**": lambda K: make_pipeline(StandardScaler(), KMeans(K, n_init=10, random_state=0)),
    "**k-means**": lambda K: KMeans(K, n_init=10, random_state=0),
    "Gaussian mixture, standardized": lambda K: make_pipeline(StandardScaler(), GaussianMixture(K, random_state=0)),
    "`SubspaceMixtureClustering`": lambda K: SubspaceMixtureClustering(K, random_state=0),
    "`SparseSubspaceClustering`": lambda K: SparseSubspaceClustering(K, random_state=0),
    "`CodingLengthClustering`": lambda K: CodingLengthClustering(n_clusters=K),
}


def matched(labels, truth):
    counts = contingency_matrix(truth, labels)
    return counts[linear_sum_assignment(-counts)].sum() / len(truth)


def measure(X, y):
    """Accuracy and whether there was a warning, for every row."""
    found = {}
    for name, make in CLASSIFIERS.items():
        found[name] = f"{cross_val_score(make(), X, y, cv=FOLDS).mean():.3f}"
    for name, make in CLUSTERERS.items():
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            labels = make(len(np.unique(y))).fit_predict(X)
        warned = any("samples" in str(w.message) for w in said)
        found[name] = f"{matched(labels, y):.3f}{' (warns)' if warned else ''}"
    return found


def table():
    columns = {}
    for name, load in DATA.items():
        X, y = load()
        _, X, _, y = train_test_split(X, y, train_size=0.5, random_state=0, stratify=y)
        start = time.process_time()
        columns[f"{name}, {X.shape[0]}×{X.shape[1]}"] = measure(X, y)
        found = columns[f"{name}, {X.shape[0]}×{X.shape[1]}"]
        print(f"{name}: {time.process_time() - start:.0f} s, {found}", flush=True)
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    rows = (*CLASSIFIERS, *CLUSTERERS)
    lines += [f"| {row} | " + " | ".join(column[row] for column in columns.values()) + " |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    text = table()
    print(text)
    for page in map(Path, sys.argv[1:]):
        before, _, rest = page.read_text().partition(MARKS[0])
        page.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{rest.partition(MARKS[1])[2]}")
