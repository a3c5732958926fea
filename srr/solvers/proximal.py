"""Proximal gradient methods: one gradient step on the smooth part, one prox of the penalty; plain or accelerated.

The step rule says how long a step is. With `FixedStep` a step reads no value of an array, so that it also runs
traced, under autograd, ``torch.compile``, ``vmap`` and ``jax.jit``; the other rules search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from srr._array.checks import check_count, check_positive
from srr._array.namespace import Array, Namespace, core_cast, epsilon, is_concrete, namespace
from srr.penalties import Penalty
from srr.problems import Problem

SUFFICIENT = 1e-4  # share of the model's decrease ‖ΔZ‖²/(2·step) that a searched step must achieve
LONGEST = 1e3  # a searched step is at most this many times the safe step 1/L
ROUNDING = 8.0  # rounding errors of the objective, in machine epsilons, that a search forgives
OVERFLOW_MARGIN = 0.25  # tokens above the largest float to this power count as lost: their Grams would overflow


class Smooth(Protocol):
    """A problem that knows the Lipschitz constant of its gradient."""

    def smoothness(self, Z: Array) -> Array | float:
        """L."""


class StepRule(Protocol):
    """How long a step is tried first, and what it must achieve."""

    @property
    def memory(self) -> int:
        """Objectives the search compares with; 1 makes it monotone, 0 takes every step as proposed."""

    @property
    def shrink(self) -> float:
        """Factor of a rejected step."""

    def first(self, safe: Array) -> Array | float:
        """Length of the first step, where `safe` always descends."""

    def propose(self, step: Array, moved: Array, curvature: Array, xp: Namespace) -> Array:
        """Length to try after a step that moved Z by `moved` = ‖ΔZ‖² and had `curvature` = ⟨ΔZ, Δ∇f⟩."""


@dataclass(frozen=True)
class FixedStep:
    """The same step every time: `step`, or 1/L from the problem's smoothness constant.

    Args:
        step: length of the step, in squared units of Z per nat, a number or an array of shape (...); None for 1/L.
        memory: no last objectives are compared with.
        shrink: a step is never made shorter.

    Raises:
        ValueError: step is not positive.

    Source: theory of the proximal gradient method: f(Z) + g(Z) never rises for a step of at most 1/L.
    """

    step: Array | float | None = None
    memory: int = 0
    shrink: float = 1.0

    def __post_init__(self) -> None:
        check_step(self.step)

    def first(self, safe: Array) -> Array | float:
        """The fixed step."""
        return safe if self.step is None else self.step

    def length(self, problem: Smooth, Z: Array) -> Array | float:
        """The step for a problem: 1/L is worked out only where no other was given."""
        return 1.0 / problem.smoothness(Z) if self.step is None else self.step

    def propose(self, step: Array, moved: Array, curvature: Array, xp: Namespace) -> Array:
        """The same step again."""
        return step


@dataclass(frozen=True)
class Backtracking:
    """Try a longer step than the last, halve it until the objective falls enough; monotone.

    Args:
        grow: factor of an accepted step.
        shrink: factor of a rejected one.
        memory: the objective may not rise above the largest of this many last ones.

    Raises:
        ValueError: grow is below 1, or shrink not between 0 and 1.

    Source: Beck and Teboulle (2009), section 4, with the decrease test of Wright et al. (2009), SpaRSA.
    """

    grow: float = 1.5
    shrink: float = 0.5
    memory: int = 1

    def __post_init__(self) -> None:
        _check_factors(self.grow, self.shrink, self.memory)

    def first(self, safe: Array) -> Array | float:
        """The safe step."""
        return safe

    def propose(self, step: Array, moved: Array, curvature: Array, xp: Namespace) -> Array:
        """A step `grow` times as long."""
        return self.grow * step


@dataclass(frozen=True)
class BarzilaiBorwein:
    """The inverse of the curvature met on the last step, safeguarded by a nonmonotone search.

    Args:
        grow: factor of the last step where the curvature was not positive.
        shrink: factor of a rejected step.
        memory: the objective may not rise above the largest of this many last ones.

    Raises:
        ValueError: grow is below 1, shrink not between 0 and 1, or memory below 1.

    Source: Barzilai and Borwein (1988), (5); safeguard of Wright et al. (2009), SpaRSA.
    """

    grow: float = 1.5
    shrink: float = 0.5
    memory: int = 10

    def __post_init__(self) -> None:
        _check_factors(self.grow, self.shrink, self.memory)

    def first(self, safe: Array) -> Array | float:
        """The safe step."""
        return safe

    def propose(self, step: Array, moved: Array, curvature: Array, xp: Namespace) -> Array:
        """‖ΔZ‖² / ⟨ΔZ, Δ∇f⟩."""
        convex = curvature > 0
        return xp.where(convex, moved / xp.where(convex, curvature, xp.ones_like(curvature)), self.grow * step)


def check_step(step: Array | float | None) -> None:
    """Refuse a step that is neither None, nor a positive number, nor an array of them."""
    if step is None:
        return
    if isinstance(step, int | float) or step.ndim == 0:
        check_positive(step, "step")
    elif is_concrete(step) and not bool(namespace(step).all(step > 0)):
        raise ValueError("step must be > 0 for every item")


def _check_factors(grow: float, shrink: float, memory: int) -> None:
    check_count(memory, "memory")
    if not grow >= 1:
        raise ValueError(f"grow must be >= 1; got {grow!r}")
    if not 0 < shrink < 1:
        raise ValueError(f"shrink must be between 0 and 1; got {shrink!r}")


class ProximalState(NamedTuple):
    """State at Z: objective and residual, the gradient of the smooth part, and what the step rule remembers.

    Args:
        objective: f(Z) + g(Z), shape (...).
        residual: distance of -∇f(Z) to ∂g(Z), shape (...).
        grad: ∇f(Z), shape (..., n, d).
        step: length of the last step, shape (...).
        proposal: length the next step tries first, shape (...).
        recent: the last objectives a search compares with, shape (..., memory).
        safe: (1 - σ)/L, a step that always descends, shape (...).
    """

    objective: Array
    residual: Array
    grad: Array
    step: Array
    proposal: Array
    recent: Array
    safe: Array


Trial = tuple[Array, Array, Array, Array, Array]  # iterate, objective, gradient, length, next proposal


@dataclass(frozen=True)
class ProximalGradient:
    r"""Proximal gradient method with a fixed, backtracked or Barzilai-Borwein step.

    .. math:: Z^+ = \operatorname{prox}_{t g}(Z - t \nabla f(Z))

    A step costs one value and gradient of f, one prox, and one more of each per rejected trial. A searched
    step never has to be shorter than the safe step (1 - σ)/L, so every search ends.

    Args:
        rule: `FixedStep`, `Backtracking` or `BarzilaiBorwein`.

    Source: [CRATE] (13)-(17), the layer's two half-steps on one objective; Beck and Teboulle (2009).
    """

    rule: StepRule = Backtracking()

    def init(self, problem: Problem[Penalty], Z: Array) -> ProximalState:
        """State at Z."""
        value, grad = problem.value_and_grad(Z)
        objective = value + problem.regularizer.value(Z)
        residual = problem.regularizer.distance(Z, grad)
        xp = namespace(objective)
        safe = (1.0 - SUFFICIENT if self.rule.memory else 1.0) / problem.smoothness(Z) * xp.ones_like(objective)
        first = self.rule.first(safe) * xp.ones_like(objective)
        recent = xp.stack([objective] * max(self.rule.memory, 1), axis=-1)
        return ProximalState(objective, residual, grad, first, first, recent, safe)

    def step(self, problem: Problem[Penalty], Z: Array, state: ProximalState) -> tuple[Array, ProximalState]:
        """Next iterate: the proposed step as it is, or the first trial that lowers the objective enough."""
        search = self._search if self.rule.memory else self._as_proposed
        Z_new, objective, grad, length, proposal = search(problem, Z, state, namespace(Z))
        residual = problem.regularizer.distance(Z_new, grad)
        recent = namespace(Z).concat([state.recent[..., 1:], objective[..., None]], axis=-1)
        return Z_new, ProximalState(objective, residual, grad, length, proposal, recent, state.safe)

    def layer(self, problem: Problem[Penalty], Z: Array, memory: None = None) -> tuple[Array, None]:
        """A fixed step by itself: the gradient is taken at Z, nothing is measured, nothing is remembered.

        Raises:
            ValueError: the rule searches, which depends on values.
        """
        length, grad = fixed_length(self.rule, problem, Z), problem.value_and_grad(Z)[1]
        return move(problem, Z, grad, length, namespace(Z))[0], None

    def _as_proposed(self, problem: Problem[Penalty], Z: Array, state: ProximalState, xp: Namespace) -> Trial:
        return (*_trial(problem, Z, state.grad, state.proposal, xp), state.proposal, state.proposal)

    def _search(self, problem: Problem[Penalty], Z: Array, state: ProximalState, xp: Namespace) -> Trial:
        length = state.proposal
        while True:
            Z_new, objective, grad = _trial(problem, Z, state.grad, length, xp)
            change = Z_new - Z
            moved, curvature = inner(change, change, xp), inner(change, grad - state.grad, xp)
            accepted = self._accepted(state, objective, moved, curvature, length)
            if bool(xp.all(accepted)):
                break
            length = xp.where(accepted, length, xp.clip(self.rule.shrink * length, min=state.safe))
        proposal = self.rule.propose(length, moved, curvature, xp)
        return Z_new, objective, grad, length, xp.clip(proposal, min=state.safe, max=LONGEST * state.safe)

    def _accepted(self, state: ProximalState, objective: Array, moved: Array, curvature: Array, length: Array) -> Array:
        """Whether the objective fell enough; where only rounding is left of it, a monotone rule asks the gradient."""
        xp = namespace(objective)
        reference = xp.max(state.recent, axis=-1)
        slack = ROUNDING * epsilon(objective.dtype, xp) * xp.abs(reference)
        target = reference - SUFFICIENT * moved / (2.0 * length)
        enough = objective + slack <= target
        level = objective <= target + slack
        if self.rule.memory == 1:
            level = level & (curvature <= moved / length)
        return enough | level | (length <= state.safe)


def fixed_length(rule: StepRule, problem: Smooth, Z: Array) -> Array | float:
    """Length of a step that is not searched for."""
    if not isinstance(rule, FixedStep):
        raise ValueError(f"rule must be FixedStep for a layer, since a search depends on values; got {rule!r}")
    return rule.length(problem, Z)


def move(problem: Problem[Penalty], Z: Array, grad: Array, length: Array | float, xp: Namespace) -> tuple[Array, Array]:
    """Gradient step from Z and prox; items that overflowed are put back to Z, and which those are, shape (...)."""
    t = as_factor(length, Z, xp)
    return keep_finite(problem.regularizer.prox(Z - t * grad, step=t), Z, xp)


def _trial(
    problem: Problem[Penalty], Z: Array, grad: Array, length: Array, xp: Namespace
) -> tuple[Array, Array, Array]:
    """Trial iterate with its objective and gradient."""
    Z_new, lost = move(problem, Z, grad, length, xp)
    value, grad_new = problem.value_and_grad(Z_new)
    objective = value + problem.regularizer.value(Z_new)
    return Z_new, xp.where(lost, xp.full_like(objective, float("inf")), objective), grad_new


def as_factor(length: Array | float, Z: Array, xp: Namespace) -> Array | float:
    """A step of shape (...) in the dtype of Z and with its axes; a number as it is."""
    if isinstance(length, int | float):
        return float(length)
    return xp.astype(length, Z.dtype, copy=False)[..., None, None]


def keep_finite(Z_new: Array, Z: Array, xp: Namespace) -> tuple[Array, Array]:
    """New tokens, with the items that overflowed put back to Z, and which those are, shape (...)."""
    bound = float(xp.finfo(Z.dtype).max) ** OVERFLOW_MARGIN
    kept = xp.maximum(xp.max(Z_new, axis=(-2, -1)), -xp.min(Z_new, axis=(-2, -1))) < bound
    if is_concrete(kept) and bool(xp.all(kept)):
        return Z_new, ~kept
    return xp.where(kept[..., None, None], Z_new, Z), ~kept


def inner(A: Array, B: Array, xp: Namespace) -> Array:
    """Inner product ⟨A, B⟩ of each batch item."""
    return xp.sum(xp.vecdot(A, B, axis=-1), axis=-1)


class Momentum(NamedTuple):
    """Where the next gradient is taken, and Nesterov's t.

    Args:
        ahead: extrapolated point, shape (..., n, d).
        t: 1 right after a restart, shape (...).
    """

    ahead: Array
    t: Array


class AcceleratedState(NamedTuple):
    """State at Z.

    Args:
        objective: f(Z) + g(Z), shape (...).
        residual: distance of -∇f(Z) to ∂g(Z), shape (...).
        momentum: where the next gradient is taken.
        step: length of the step, shape (...).
    """

    objective: Array
    residual: Array
    momentum: Momentum
    step: Array


@dataclass(frozen=True)
class Accelerated:
    r"""FISTA with function-value restart: O(1/k²) on convex problems, never a rise of the objective.

    .. math:: Z^+ = \operatorname{prox}_{t g}(Y - t \nabla f(Y)), \quad
              Y^+ = Z^+ + \tfrac{m - 1}{m^+} (Z^+ - Z), \quad m^+ = \tfrac12 (1 + \sqrt{1 + 4 m^2})

    Where F(Z⁺) > F(Z), the iterate stays and the momentum starts again from Z.

    Args:
        rule: `FixedStep`.
        restart: False for plain FISTA, whose objective may rise.

    Raises:
        ValueError: the rule is another one.

    Source: Beck and Teboulle (2009), (4.1)-(4.3); O'Donoghue and Candès (2015), function scheme.
    """

    rule: FixedStep = FixedStep()
    restart: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.rule, FixedStep):
            raise ValueError(f"rule must be a FixedStep; got {self.rule!r}")

    def init(self, problem: Problem[Penalty], Z: Array) -> AcceleratedState:
        """State at Z, without momentum."""
        value, grad = problem.value_and_grad(Z)
        objective = value + problem.regularizer.value(Z)
        ones = namespace(objective).ones_like(objective)
        step = self.rule.length(problem, Z) * ones
        return AcceleratedState(objective, problem.regularizer.distance(Z, grad), Momentum(Z, ones), step)

    def step(self, problem: Problem[Penalty], Z: Array, state: AcceleratedState) -> tuple[Array, AcceleratedState]:
        """Next iterate, or the same one with its momentum gone."""
        xp = namespace(Z)
        ahead = state.momentum.ahead
        trial, lost = self._trial(problem, Z, ahead, state.step, xp)
        value, grad = problem.value_and_grad(trial)
        objective = value + problem.regularizer.value(trial)
        objective = xp.where(lost, xp.full_like(objective, float("inf")), objective)
        residual = problem.regularizer.distance(trial, grad)
        rose = self._rose(state.objective, objective, state.momentum, xp)
        Z_new, momentum = _extrapolate(Z, trial, rose, state.momentum, xp)
        objective, residual = xp.where(rose, state.objective, objective), xp.where(rose, state.residual, residual)
        return Z_new, AcceleratedState(objective, residual, momentum, state.step)

    def layer(self, problem: Problem[Penalty], Z: Array, memory: Momentum | None = None) -> tuple[Array, Momentum]:
        """The step with what it remembers, the momentum alone; objectives are worked out where a restart asks."""
        xp = namespace(Z)
        length = self.rule.length(problem, Z)
        if memory is None:
            memory = Momentum(Z, xp.ones_like(core_cast(Z[..., 0, 0], None, xp)))
        trial, lost = self._trial(problem, Z, memory.ahead, length, xp)
        if not self.restart:
            return _extrapolate(Z, trial, xp.zeros_like(lost), memory, xp)
        before, after = (problem.value_and_grad(A)[0] + problem.regularizer.value(A) for A in (Z, trial))
        after = xp.where(lost, xp.full_like(after, float("inf")), after)
        return _extrapolate(Z, trial, self._rose(before, after, memory, xp), memory, xp)

    def _trial(
        self, problem: Problem[Penalty], Z: Array, ahead: Array, length: Array | float, xp: Namespace
    ) -> tuple[Array, Array]:
        """Gradient step and prox from the extrapolated point; Z where that overflowed."""
        t = as_factor(length, Z, xp)
        return keep_finite(problem.regularizer.prox(ahead - t * problem.value_and_grad(ahead)[1], step=t), Z, xp)

    def _rose(self, before: Array, after: Array, momentum: Momentum, xp: Namespace) -> Array:
        """Items whose objective rose by more than rounding while they had momentum."""
        slack = ROUNDING * epsilon(before.dtype, xp) * xp.abs(before)
        return (after > before + slack) & (momentum.t > 1.0) & self.restart


def _extrapolate(Z: Array, trial: Array, rose: Array, momentum: Momentum, xp: Namespace) -> tuple[Array, Momentum]:
    """Iterate and momentum after a trial: the old iterate without momentum where the objective rose."""
    Z_new = xp.where(rose[..., None, None], Z, trial)
    t = 0.5 * (1.0 + xp.sqrt(1.0 + 4.0 * momentum.t**2))
    gain = as_factor(xp.where(rose, xp.zeros_like(t), (momentum.t - 1.0) / t), Z, xp)
    ahead, _ = keep_finite(Z_new + gain * (Z_new - Z), Z_new, xp)
    return Z_new, Momentum(ahead, xp.where(rose, xp.ones_like(t), t))
