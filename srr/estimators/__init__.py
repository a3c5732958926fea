"""Floor 4: scikit-learn faces of the solvers, for pipelines, grid searches and pickles."""

from srr.estimators.classifier import ReduNetClassifier
from srr.estimators.clustering import CodingLengthClustering, SubspaceMixtureClustering
from srr.estimators.transformer import SparseRateReductionTransformer

__all__ = [
    "CodingLengthClustering",
    "ReduNetClassifier",
    "SparseRateReductionTransformer",
    "SubspaceMixtureClustering",
]
