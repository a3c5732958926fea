"""Accelerated proximal gradient that restarts whenever the objective would rise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from srr._array import Array, asarray_like, epsilon, namespace
from srr._checks import check_positive
from srr.problems import Problem
from srr.solvers.proximal import ROUNDING, keep_finite


class AcceleratedState(NamedTuple):
    """State at Z: objective and residual, where the next gradient is taken, and the momentum.

    Args:
        objective: f(Z) + g(Z), shape (...).
        residual: distance of -∇f(Z) to ∂g(Z), shape (...).
        ahead: extrapolated point of the next gradient, shape (..., n, d).
        momentum: Nesterov's t, shape (...); 1 right after a restart.
        step: length of the step.
    """

    objective: Array
    residual: Array
    ahead: Array
    momentum: Array
    step: float


@dataclass(frozen=True)
class Accelerated:
    r"""FISTA with function-value restart: O(1/k²) on convex problems, never a rise of the objective.

    .. math:: Z^+ = \operatorname{prox}_{t g}(Y - t \nabla f(Y)), \quad
              Y^+ = Z^+ + \tfrac{m - 1}{m^+} (Z^+ - Z), \quad m^+ = \tfrac12 (1 + \sqrt{1 + 4 m^2})

    Where F(Z⁺) > F(Z), the iterate stays and the momentum starts again from Z.

    Args:
        step_size: length of the step, in squared units of Z per nat; None for 1/L.
        restart: False for plain FISTA, whose objective may rise.

    Raises:
        ValueError: step_size is not positive.

    Source: Beck and Teboulle (2009), (4.1)-(4.3); O'Donoghue and Candès (2015), function scheme.
    """

    step_size: float | None = None
    restart: bool = True

    def __post_init__(self) -> None:
        if self.step_size is not None:
            check_positive(self.step_size, "step_size")

    def init(self, problem: Problem, Z: Array) -> AcceleratedState:
        """State at Z, without momentum."""
        xp = namespace(Z)
        value, grad = problem.value_and_grad(Z)
        objective = value + problem.regularizer.value(Z)
        step = 1.0 / problem.smoothness(Z) if self.step_size is None else self.step_size
        residual = problem.regularizer.distance(Z, grad)
        return AcceleratedState(objective, residual, Z, xp.ones_like(objective), step)

    def step(self, problem: Problem, Z: Array, state: AcceleratedState) -> tuple[Array, AcceleratedState]:
        """Next iterate, or the same one with its momentum gone."""
        xp = namespace(Z)
        trial = problem.regularizer.prox(state.ahead - state.step * problem.grad(state.ahead), step=state.step)
        trial, lost = keep_finite(trial, Z, xp)
        value, grad = problem.value_and_grad(trial)
        objective = value + problem.regularizer.value(trial)
        objective = xp.where(lost, xp.full_like(objective, float("inf")), objective)
        residual = problem.regularizer.distance(trial, grad)
        slack = ROUNDING * epsilon(objective.dtype, xp) * xp.abs(state.objective)
        rose = (objective > state.objective + slack) & (state.momentum > 1.0) & self.restart
        Z_new = xp.where(rose[..., None, None], Z, trial)
        momentum = 0.5 * (1.0 + xp.sqrt(1.0 + 4.0 * state.momentum**2))
        gain = asarray_like((state.momentum - 1.0) / momentum, Z, xp=xp)[..., None, None]
        ahead, _ = keep_finite(Z_new + xp.where(rose[..., None, None], 0.0 * gain, gain) * (Z_new - Z), Z_new, xp)
        return Z_new, AcceleratedState(
            xp.where(rose, state.objective, objective),
            xp.where(rose, state.residual, residual),
            ahead,
            xp.where(rose, xp.ones_like(momentum), momentum),
            state.step,
        )
