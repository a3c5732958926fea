"""A CRATE layer as a solver: compress against subspaces, then sparsify, again and again.

The half-steps are plain maps of tokens, for a given problem; `Alternating` makes a solver of two of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from srr._array.checks import check_count, check_nonnegative, check_positive
from srr._array.namespace import Array, core_cast, from_host, namespace
from srr.ops.attention import bare_mssa, bare_neumann_grad
from srr.ops.rates import (
    core_coding_rate_value_and_grad,
    core_subspace_coding_rate_value_and_grad,
    rate_scale,
)
from srr.ops.sparse import bare_ista_step, bare_prox_mm_step
from srr.penalties import Penalty
from srr.problems import SparseRateReduction, SubspaceCompression
from srr.solvers.proximal import as_factor, check_step

TokenMap = Callable[[Array], Array]


class HalfStep(Protocol):
    """Half of a layer: tokens to tokens, for a given problem."""

    def __call__(self, problem: SparseRateReduction[Penalty], Z: Array) -> Array:
        """Tokens after the half-step, shape (..., n, d)."""


@dataclass(frozen=True)
class ExactCompression:
    r"""Gradient step on the compression term, :math:`Z - \kappa \nabla R^c(Z; U)`.

    Args:
        step: κ > 0, in squared units of Z per nat; None for 1/L of the whole problem. Up to 1/L_c it
            lowers R^c by at least κ‖∇R^c‖²/2.

    Raises:
        ValueError: step is not positive.

    Source: [CRATE] (9)-(10).
    """

    step: Array | float | None = None

    def __post_init__(self) -> None:
        check_step(self.step)

    def __call__(self, problem: SparseRateReduction[Penalty], Z: Array) -> Array:
        """Tokens after the half-step."""
        xp = namespace(Z)
        grad = core_subspace_coding_rate_value_and_grad(Z, problem.U, problem.eps, problem.core_dtype, xp)[1]
        return Z - _safe(self.step, problem, Z) * xp.astype(from_host(grad, Z), Z.dtype, copy=False)


@dataclass(frozen=True)
class NeumannCompression:
    r"""The same with the inverse replaced by the first terms of its Neumann series.

    Args:
        terms: terms beyond the identity; the paper has 1. A descent direction only where `neumann_validity` is
            below one.
        step: κ > 0, in squared units of Z per nat; None for 1/L of the whole problem.

    Raises:
        ValueError: terms is negative or step is not positive.

    Source: [CRATE] (10), first line.
    """

    terms: int = 1
    step: Array | float | None = None

    def __post_init__(self) -> None:
        check_count(self.terms, "terms", least=0)
        check_step(self.step)

    def __call__(self, problem: SparseRateReduction[Penalty], Z: Array) -> Array:
        """Tokens after the half-step."""
        beta = rate_scale(Z.shape[-2], problem.U.shape[-1], eps=problem.eps)
        grad = bare_neumann_grad(Z, problem.U, beta, self.terms, namespace(Z))
        return Z - _safe(self.step, problem, Z) * grad


@dataclass(frozen=True)
class SoftmaxCompression:
    r"""The attention form with its shrinkage, :math:`(1 - \kappa\beta) Z + \kappa\beta\, \mathrm{MSSA}(Z)`.

    Args:
        step: κ > 0, in squared units of Z per nat; None for 1/L of the whole problem. β is counted once.
        scale: factor of the attention scores; 1 in the theory.

    Raises:
        ValueError: step is not positive or scale is negative.

    Source: [CRATE] (10), last line; the softmax in place of the Gram matrix is a heuristic without an error bound.
    """

    step: Array | float | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_step(self.step)
        check_nonnegative(self.scale, "scale")

    def __call__(self, problem: SparseRateReduction[Penalty], Z: Array) -> Array:
        """Tokens after the half-step."""
        share = _safe(self.step, problem, Z) * rate_scale(Z.shape[-2], problem.U.shape[-1], eps=problem.eps)
        return (1.0 - share) * Z + share * bare_mssa(
            Z, problem.U, None, None, self.scale, False, None, None, namespace(Z)
        )


@dataclass(frozen=True, eq=False)
class ResidualAttention:
    r"""What the networks run, :math:`Z + \mathrm{MSSA}(\mathrm{norm}(Z))`.

    Args:
        scale: factor of the attention scores; 1 in the theory, p^{-1/2} in the released networks.
        norm: map of tokens before the attention, such as a LayerNorm; none by default.
        out: free output maps of shape (K, d, p), U itself by default.
        bias: added to the result, shape (d,).

    Raises:
        ValueError: scale is negative.

    Source: [CRATE] (18). R^c rises on the raw scale and falls once tokens are back at unit length.
    """

    scale: float = 1.0
    norm: TokenMap | None = None
    out: Array | None = None
    bias: Array | None = None

    def __post_init__(self) -> None:
        check_nonnegative(self.scale, "scale")

    def __call__(self, problem: SparseRateReduction[Penalty] | SubspaceCompression[Penalty], Z: Array) -> Array:
        """Tokens after the half-step."""
        X = Z if self.norm is None else self.norm(Z)
        return Z + bare_mssa(X, problem.U, self.out, self.bias, self.scale, False, None, None, namespace(Z))


@dataclass(frozen=True, eq=False)
class IstaSparsification:
    r"""Codes of the tokens in a complete dictionary, by ISTA steps from the tokens themselves.

    Args:
        D: dictionary of shape (d, d), atoms in columns.
        lam: sparsity weight λ ≥ 0.
        step: η > 0; the networks have 0.1.
        iterations: number T ≥ 1 of steps.
        norm: map of tokens before the first, such as a LayerNorm; none by default.

    Raises:
        ValueError: lam is negative, step not positive or iterations below 1.

    Source: [CRATE] (17).
    """

    D: Array
    lam: float = 0.1
    step: float = 0.1
    iterations: int = 1
    norm: TokenMap | None = None

    def __post_init__(self) -> None:
        check_nonnegative(self.lam, "lam")
        check_positive(self.step, "step")
        check_count(self.iterations, "iterations")

    def __call__(self, problem: SparseRateReduction[Penalty], Z: Array) -> Array:
        """Codes in place of the tokens."""
        Z = Z if self.norm is None else self.norm(Z)
        A = Z
        for _ in range(self.iterations):
            A = bare_ista_step(A, Z, self.D, self.step, self.lam, True, namespace(Z))
        return A


@dataclass(frozen=True, eq=False)
class MajorizedSparsification:
    r"""Sparsify by majorizing -R: a scaled soft threshold, without a dictionary to fit.

    Args:
        lam: sparsity weight λ ≥ 0, in nats per unit of Z.
        D: orthogonal frame of shape (d, d), the standard basis by default.
        curvature: curvature bound of -R in units of α: 9/4 in the paper, 1/8 suffices.

    Raises:
        ValueError: lam is negative or curvature not positive.

    Source: [CRATE] Appendix A.3, (92).
    """

    lam: float
    D: Array | None = None
    curvature: float = 2.25

    def __post_init__(self) -> None:
        check_nonnegative(self.lam, "lam")
        check_positive(self.curvature, "curvature")

    def __call__(self, problem: SparseRateReduction[Penalty], Z: Array) -> Array:
        """Codes in place of the tokens."""
        alpha = rate_scale(*Z.shape[-2:], eps=problem.eps)
        return bare_prox_mm_step(Z, self.D, alpha, self.lam, self.curvature, namespace(Z))


@dataclass(frozen=True)
class ProximalSparsification:
    r"""Ascend R, then the prox of the problem's own penalty: :math:`\operatorname{prox}_{t g}(Z + t \nabla R(Z))`.

    With `UnitL1` this keeps every token on the unit sphere.

    Args:
        step: t > 0, in squared units of Z per nat; None for 1/L of the whole problem.

    Raises:
        ValueError: step is not positive.

    Source: the proximal half of [CRATE] (13), with the exact gradient of R.
    """

    step: Array | float | None = None

    def __post_init__(self) -> None:
        check_step(self.step)

    def __call__(self, problem: SparseRateReduction[Penalty], Z: Array) -> Array:
        """Tokens after the half-step."""
        xp, t = namespace(Z), _safe(self.step, problem, Z)
        grad = core_coding_rate_value_and_grad(Z, None, problem.eps, problem.core_dtype, xp)[1]
        return problem.regularizer.prox(Z + t * xp.astype(from_host(grad, Z), Z.dtype, copy=False), step=t)


def _safe(step: Array | float | None, problem: SparseRateReduction[Penalty], Z: Array) -> Array | float:
    """The step asked for, or 1/L: both halves then move as far as the proximal gradient method would."""
    length = 1.0 / problem.smoothness(Z) if step is None else step
    return as_factor(length, Z, namespace(Z))


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

    compress: HalfStep = ExactCompression()
    sparsify: HalfStep = ProximalSparsification()

    def init(self, problem: SparseRateReduction[Penalty], Z: Array) -> AlternatingState:
        """State at Z."""
        if not isinstance(problem, SparseRateReduction):
            name = type(problem).__name__
            raise TypeError(f"Alternating needs a problem with subspaces, SparseRateReduction; got {name}")
        objective = _objective(problem, Z)
        return AlternatingState(objective, namespace(Z).ones_like(objective))

    def step(
        self, problem: SparseRateReduction[Penalty], Z: Array, state: AlternatingState
    ) -> tuple[Array, AlternatingState]:
        """One layer."""
        xp = namespace(Z)
        Z_new, _ = self.layer(problem, Z)
        moved, size = (xp.sum(core_cast(A, None, xp) ** 2, axis=(-2, -1)) for A in (Z_new - Z, Z))
        residual = xp.sqrt(moved / xp.where(size > 0, size, xp.ones_like(size)))
        return Z_new, AlternatingState(_objective(problem, Z_new), residual)

    def layer(self, problem: SparseRateReduction[Penalty], Z: Array, memory: None = None) -> tuple[Array, None]:
        """The step by itself: nothing is measured, nothing is remembered."""
        return self.sparsify(problem, self.compress(problem, Z)), None


def _objective(problem: SparseRateReduction[Penalty], Z: Array) -> Array:
    """Objective at the feasible point nearest to Z."""
    penalty = problem.regularizer
    feasible = penalty.prox(Z, step=0.0)
    return problem.value_and_grad(feasible)[0] + penalty.value(feasible)
