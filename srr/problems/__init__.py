"""Floor 2: what is solved. A problem knows its smooth part, gradient, smoothness constant and penalty."""

from srr.problems.protocol import Problem
from srr.problems.rate_reduction import RateReduction
from srr.problems.sparse_coding import SparseCoding
from srr.problems.sparse_rate_reduction import SparseRateReduction

__all__ = ["Problem", "RateReduction", "SparseCoding", "SparseRateReduction"]
