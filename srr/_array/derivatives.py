r"""Derivatives of log-determinants and resolvents in closed form: those of the formula, not of the factorization.

With M = I + s·AᵀWA and Y = X M⁻¹,

.. math:: d \log\det M = \langle M^{-1}, dM \rangle,\qquad dY = (dX - Y\,dM)\,M^{-1}

and dM is linear in dW, so that nothing happens where a weight is zero. Every derivative calls the same two functions
again: derivatives of any order, forward or backward, in torch and in JAX, choose Cholesky or singular values by the
numbers, as the value does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np

from srr._array.linalg import GramFactor, as_column, traced_factor, value_factor
from srr._array.namespace import (
    ArrayT,
    DType,
    Namespace,
    Number,
    is_compiling,
    is_differentiated,
    is_floating,
    is_jax,
    is_torch,
)


def gram_factor(
    A: ArrayT,
    scale: Number,
    *,
    rtol: float,
    xp: Namespace,
    weights: ArrayT | None = None,
    low: Callable[[], ArrayT] | None = None,
    core: DType = None,
) -> GramFactor[ArrayT]:
    """Factor of I + s·AᴴWA: for its values alone, or with its derivatives where they may be asked for.

    Args:
        A: rows of shape (..., n, d).
        scale: s ≥ 0, a number or an array of shape (...).
        rtol: relative error of the log-determinant above which the singular values take over from Cholesky. Only
            ``torch.compile``, which cannot choose by values, and derivatives of complex rows always use Cholesky.
        xp: array namespace.
        weights: weights ≥ 0 of shape (..., n), or None.
        low: computes what rounding took from A, where A is a product; derivatives do without.
        core: dtype of the Gram matrix and its factor where it is not that of A; no derivative may be asked for then.
    """
    if not is_differentiated(A, weights, scale):
        return value_factor(A, weights, scale, rtol, xp, low, core)
    if is_compiling(A) or not is_floating(A, xp) or not (is_torch(A) or is_jax(A)):
        return traced_factor(A, weights, scale, xp)
    batch = np.broadcast_shapes(
        tuple(A.shape[:-2]),
        () if weights is None else tuple(weights.shape[:-1]),
        tuple(getattr(scale, "shape", ())),
    )
    A = xp.broadcast_to(A, (*batch, *A.shape[-2:]))
    weights = None if weights is None else xp.broadcast_to(weights, (*batch, weights.shape[-1]))
    scale = xp.broadcast_to(as_column(scale, A, xp)[..., 0, 0], batch)
    return DifferentiableFactor(A, weights, scale, Options(rtol), xp)


@dataclass
class Options:
    """What a factorization needs besides arrays, and the factor of these arrays once it is made."""

    rtol: float
    made: GramFactor[Any] | None = None

    def factor(self, A: Any, weights: Any, scale: Any, xp: Namespace) -> GramFactor[Any]:
        if self.made is None:
            self.made = value_factor(A, weights, scale, self.rtol, xp)
        return self.made


@dataclass(frozen=True)
class DifferentiableFactor(Generic[ArrayT]):
    """A factor whose results carry derivatives in A, weights, scale and what it is applied to; one batch shape."""

    A: ArrayT
    weights: ArrayT | None
    scale: ArrayT
    options: Options
    xp: Namespace

    def logdet(self) -> ArrayT:
        """See `GramFactor`."""
        return _rules(self.A).logdet(self.A, self.weights, self.scale, self.options)

    def resolvent(self) -> ArrayT:
        """See `GramFactor`."""
        rows = self.A if self.weights is None else self.weights[..., None] * self.A
        return self._solve(rows, own=True)

    def apply(self, X: ArrayT) -> ArrayT:
        """See `GramFactor`."""
        shape = np.broadcast_shapes(tuple(self.scale.shape), tuple(X.shape[:-2]))
        return self._solve(self.xp.broadcast_to(X, (*shape, *X.shape[-2:])), own=False)

    def inverse(self) -> ArrayT:
        """See `GramFactor`."""
        d = self.A.shape[-1]
        identity = self.xp.eye(d, dtype=self.A.dtype, device=getattr(self.A, "device", None))
        return self.apply(identity)

    def _solve(self, X: ArrayT, *, own: bool) -> ArrayT:
        return _rules(self.A).solve(self.A, self.weights, self.scale, X, own, self.options)


def _rules(A: Any) -> Any:
    """The module of rules for the library of A."""
    if is_torch(A):
        from srr._array import torch_rules

        return torch_rules
    from srr._array import jax_rules

    return jax_rules


def weighted(A: ArrayT, weights: ArrayT | None) -> ArrayT:
    """WA."""
    return A if weights is None else weights[..., None] * A


def logdet_slopes(A: Any, weights: Any, scale: Any, R: Any, Q: Any) -> tuple[Any, Any, Any]:
    """Derivatives of logdet M in A, weights and scale, from R = WAM⁻¹ and Q = AM⁻¹."""
    slope = None if weights is None else scale[..., None] * (Q * A).sum(-1)
    return 2.0 * scale[..., None, None] * R, slope, (R * A).sum((-2, -1))


def change_of(Y: Any, A: Any, weights: Any, scale: Any, moves: tuple[Any, Any, Any]) -> Any:
    """Y dM for the moves (dA, dW, ds); products of rows with rows where there are fewer rows than columns."""
    dA, dW, ds = moves
    WA, s = weighted(A, weights), scale[..., None, None]
    wide = A.shape[-2] < A.shape[-1]

    def through(left: Any, right: Any) -> Any:
        return (Y @ left.mT) @ right if wide else Y @ (left.mT @ right)

    total: Any = 0.0
    if dA is not None:
        total = s * (through(dA, WA) + through(WA, dA))
    if dW is not None:
        total = total + s * through(A, weighted(A, dW))
    if ds is not None:
        total = total + ds[..., None, None] * through(A, WA)
    return total


def solve_slopes(
    A: Any, weights: Any, scale: Any, Y: Any, B: Any, needed: tuple[bool, bool, bool]
) -> tuple[Any, Any, Any]:
    """Derivatives of ⟨C, XM⁻¹⟩ in A, weights and scale, from Y = XM⁻¹ and B = CM⁻¹."""
    wide = A.shape[-2] < A.shape[-1]
    AN = (A @ Y.mT) @ B if wide else A @ (Y.mT @ B)
    slope_A = slope_w = slope_s = None
    if needed[0]:
        both = AN + ((A @ B.mT) @ Y if wide else A @ (B.mT @ Y))
        slope_A = -scale[..., None, None] * weighted(both, weights)
    rows = (AN * A).sum(-1)
    if needed[1]:
        slope_w = -scale[..., None] * rows
    if needed[2]:
        slope_s = -(rows if weights is None else rows * weights).sum(-1)
    return slope_A, slope_w, slope_s
