"""Rate losses for training: values and gradients in closed form from one factorization."""

from srr.nn.losses.objectives import mcr2_loss, total_coding_rate_regularizer
from srr.nn.losses.rates import coding_rate, rate_reduction, subspace_coding_rate
from srr.nn.losses.regularizer import srr_regularizer

__all__ = [
    "coding_rate",
    "mcr2_loss",
    "rate_reduction",
    "srr_regularizer",
    "subspace_coding_rate",
    "total_coding_rate_regularizer",
]
