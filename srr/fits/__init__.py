"""Floor 4: what is fitted to data: mixtures of subspaces, coding-length clusters, ReduNet.

Their scikit-learn faces live in :mod:`srr.estimators`.
"""

from srr.fits.choices import choose_eps, choose_lam, estimate_noise
from srr.fits.coding_length import CodingLengthFit, CodingLengthSegmentation, coding_length
from srr.fits.mixture import (
    ExpectationMaximization,
    MixtureLikelihood,
    MixtureParameters,
    SubspaceMixture,
    SubspaceMixtureFit,
)
from srr.fits.redunet import (
    ReduNet,
    ReduNetLayer,
    ReduNetwork,
    SphereRateReduction,
    build_redunet,
    lift_signals,
    random_filters,
)

__all__ = [
    # mixtures of subspaces
    "MixtureParameters",
    "MixtureLikelihood",
    "ExpectationMaximization",
    "SubspaceMixtureFit",
    "SubspaceMixture",
    # choosing ε and λ
    "choose_eps",
    "estimate_noise",
    "choose_lam",
    # clusters by coding length
    "coding_length",
    "CodingLengthFit",
    "CodingLengthSegmentation",
    # ReduNet
    "SphereRateReduction",
    "ReduNet",
    "ReduNetLayer",
    "ReduNetwork",
    "build_redunet",
    "random_filters",
    "lift_signals",
]
