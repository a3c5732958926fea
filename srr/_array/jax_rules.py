"""The derivatives of `srr._array.derivatives` as JAX functions: of any order, in both directions, under ``jit``."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as xp

from srr._array.derivatives import Options, change_of, logdet_slopes, weighted
from srr._array.linalg import value_factor


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _logdet(A: Any, weights: Any, scale: Any, rtol: float) -> Any:
    return value_factor(A, weights, scale, rtol, xp).logdet()


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5))
def _solve(A: Any, weights: Any, scale: Any, X: Any, own: bool, rtol: float) -> Any:
    factor = value_factor(A, weights, scale, rtol, xp)
    return factor.resolvent() if own else factor.apply(X)


@_logdet.defjvp
def _logdet_jvp(rtol: float, primals: Any, moves: Any) -> Any:
    A, weights, scale = primals
    R = _solve(A, weights, scale, weighted(A, weights), True, rtol)
    Q = R if weights is None else _solve(A, weights, scale, A, False, rtol)
    total: Any = xp.zeros_like(scale)
    for move, slope in zip(moves, logdet_slopes(A, weights, scale, R, Q), strict=True):
        if move is not None:
            total = total + xp.sum(move * slope, axis=tuple(range(scale.ndim, move.ndim)))
    return _logdet(A, weights, scale, rtol), total


@_solve.defjvp
def _solve_jvp(own: bool, rtol: float, primals: Any, moves: Any) -> Any:
    A, weights, scale, X = primals
    Y = _solve(A, weights, scale, X, own, rtol)
    change = moves[3] - change_of(Y, A, weights, scale, moves[:3])
    return Y, _solve(A, weights, scale, change, False, rtol)


def logdet(A: Any, weights: Any, scale: Any, options: Options) -> Any:
    """Log-determinant (...) of I + s·AᵀWA."""
    return _logdet(A, weights, scale, options.rtol)


def solve(A: Any, weights: Any, scale: Any, X: Any, own: bool, options: Options) -> Any:
    """X (I + s·AᵀWA)⁻¹; ``own`` promises X = WA."""
    return _solve(A, weights, scale, X, own, options.rtol)
