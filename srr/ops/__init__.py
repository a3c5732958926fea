"""Pure functions on (..., n, d) arrays of any backend: the mathematics, one formula each."""

from srr.ops.attention import (
    attention_weights,
    mssa,
    ssa,
    thresholded_mssa,
    thresholded_ssa,
)
from srr.ops.broadcast import contract_broadcast, stretch_means
from srr.ops.compression import compression_step, neumann_grad, neumann_step, neumann_validity
from srr.ops.curvature import (
    coding_rate_hvp,
    coding_rate_smoothness,
    sparse_rate_reduction_smoothness,
    subspace_coding_rate_hvp,
    subspace_coding_rate_smoothness,
)
from srr.ops.decoding import ssa_newest
from srr.ops.geometry import coherence, principal_angles, snr, subspace_membership
from srr.ops.gram import gram, gram_logdet, gram_resolvent
from srr.ops.normalization import layer_norm
from srr.ops.partition import (
    partition_coding_rate,
    partition_coding_rate_grad,
    partition_coding_rate_value_and_grad,
)
from srr.ops.rates import coding_rate, coding_rate_grad, coding_rate_value_and_grad, rate_scale
from srr.ops.reduction import rate_reduction, rate_reduction_grad, rate_reduction_value_and_grad
from srr.ops.redunet import (
    ReduNetOperators,
    compression_operators,
    expansion_operator,
    redunet_operators,
)
from srr.ops.redunet_increment import compression_norms, estimated_membership, redunet_increment
from srr.ops.shifts import circular_convolution
from srr.ops.shrinkage import (
    group_soft_threshold,
    hard_threshold,
    relu_threshold,
    soft_threshold,
    unit_soft_threshold,
)
from srr.ops.sparse_coding import fista_step, folded_ista_step, ista_matrix, ista_step, lasso, prox_mm_step
from srr.ops.streaming import SecondMoment
from srr.ops.subspace_rates import (
    sparse_rate_reduction,
    sparse_rate_reduction_grad,
    sparse_rate_reduction_value_and_grad,
    subspace_coding_rate,
    subspace_coding_rate_grad,
    subspace_coding_rate_value_and_grad,
)
from srr.ops.subspaces import lift, orthonormalize, principal_bases, project
from srr.ops.tssa import tssa, tssa_heads

__all__ = [
    "ReduNetOperators",
    "SecondMoment",
    "attention_weights",
    "circular_convolution",
    "coding_rate",
    "coding_rate_grad",
    "coding_rate_hvp",
    "coding_rate_smoothness",
    "coding_rate_value_and_grad",
    "coherence",
    "compression_norms",
    "compression_operators",
    "compression_step",
    "contract_broadcast",
    "estimated_membership",
    "expansion_operator",
    "fista_step",
    "folded_ista_step",
    "gram",
    "gram_logdet",
    "gram_resolvent",
    "group_soft_threshold",
    "hard_threshold",
    "ista_matrix",
    "ista_step",
    "lasso",
    "layer_norm",
    "lift",
    "mssa",
    "neumann_grad",
    "neumann_step",
    "neumann_validity",
    "orthonormalize",
    "partition_coding_rate",
    "partition_coding_rate_grad",
    "partition_coding_rate_value_and_grad",
    "principal_angles",
    "principal_bases",
    "project",
    "prox_mm_step",
    "rate_reduction",
    "rate_reduction_grad",
    "rate_reduction_value_and_grad",
    "rate_scale",
    "redunet_increment",
    "redunet_operators",
    "relu_threshold",
    "snr",
    "soft_threshold",
    "sparse_rate_reduction",
    "sparse_rate_reduction_grad",
    "sparse_rate_reduction_smoothness",
    "sparse_rate_reduction_value_and_grad",
    "ssa",
    "ssa_newest",
    "stretch_means",
    "subspace_coding_rate",
    "subspace_coding_rate_grad",
    "subspace_coding_rate_hvp",
    "subspace_coding_rate_smoothness",
    "subspace_coding_rate_value_and_grad",
    "subspace_membership",
    "thresholded_mssa",
    "thresholded_ssa",
    "tssa",
    "tssa_heads",
    "unit_soft_threshold",
]
