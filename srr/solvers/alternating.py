"""Compress, then sparsify, again and again: a CRATE layer as a solver, and a solver as a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from srr._array import Array, core_cast, namespace
from srr.problems import Problem, SparseRateReduction
from srr.solvers.half_steps import ExactCompression, HalfStep, ProximalSparsification


class AlternatingState(NamedTuple):
    """State at Z.

    Args:
        objective: objective at the feasible point nearest to Z, shape (...).
        residual: ‖ΔZ‖/‖Z‖ of the last layer, shape (...); 1 before the first.
    """

    objective: Array
    residual: Array


@dataclass(frozen=True)
class Alternating:
    r"""Alternate a compress and a sparsify half-step: one step is one CRATE layer with shared weights.

    .. math:: Z^{+} = \mathrm{sparsify}\bigl(\mathrm{compress}(Z)\bigr)

    The halves look at one term each, so a fixed point need not be optimal for their sum: the residual is the
    relative change by a layer, and the objective is read at the feasible point nearest to Z.

    Args:
        compress: `ExactCompression`, `NeumannCompression`, `SoftmaxCompression` or `ResidualAttention`.
        sparsify: `IstaSparsification`, `MajorizedSparsification` or `ProximalSparsification`.

    Raises:
        TypeError: the problem is not a `SparseRateReduction`.

    Source: [CRATE] (13)-(18).
    """

    compress: HalfStep = field(default_factory=ExactCompression)
    sparsify: HalfStep = field(default_factory=ProximalSparsification)

    def layer(self, problem: SparseRateReduction) -> Callable[[Array], Array]:
        """The step as a map of tokens, for `unroll`."""
        return lambda Z: self.sparsify(problem, self.compress(problem, Z))

    def init(self, problem: Problem, Z: Array) -> AlternatingState:
        """State at Z."""
        if not isinstance(problem, SparseRateReduction):
            name = type(problem).__name__
            raise TypeError(f"Alternating needs a problem with subspaces, SparseRateReduction; got {name}")
        objective = problem.objective(problem.start(Z))
        return AlternatingState(objective, namespace(Z).ones_like(objective))

    def step(self, problem: SparseRateReduction, Z: Array, state: AlternatingState) -> tuple[Array, AlternatingState]:
        """One layer."""
        xp = namespace(Z)
        Z_new = self.layer(problem)(Z)
        moved, size = (xp.sum(core_cast(A, None, xp) ** 2, axis=(-2, -1)) for A in (Z_new - Z, Z))
        residual = xp.sqrt(moved / xp.where(size > 0, size, xp.ones_like(size)))
        return Z_new, AlternatingState(problem.objective(problem.start(Z_new)), residual)
