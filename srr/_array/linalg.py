"""The only linear algebra below the operators: factors and what is solved with them."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from srr._array.namespace import ArrayT, Namespace, is_concrete, is_cupy, is_floating, is_jax, is_numpy, is_torch


def cholesky(M: ArrayT, xp: Namespace) -> ArrayT | None:
    """Lower Cholesky factor of a batch of symmetric matrices; None where the library finds one of them not positive."""
    try:
        return xp.linalg.cholesky(M)
    except (np.linalg.LinAlgError, RuntimeError):
        if not is_concrete(M):
            raise
        return None


def cholesky_solve(L: ArrayT, B: ArrayT, xp: Namespace) -> ArrayT:
    """X with L Lᵀ X = B, by the triangular solver of the library where the standard has none."""
    if is_torch(L):
        return sys.modules["torch"].cholesky_solve(B, L)
    if is_jax(L):
        return sys.modules["jax"].scipy.linalg.cho_solve((L, True), B)
    if is_numpy(L):
        return _cholesky_solve_numpy(L, B) if 0 not in B.shape else B
    if is_cupy(L) and L.ndim == B.ndim == 2:
        from cupyx.scipy.linalg import solve_triangular

        half = solve_triangular(L, B, lower=True)
        return solve_triangular(L, half, lower=True, trans="T")
    adjoint = L.mT if is_floating(L, xp) else xp.conj(L).mT
    return xp.linalg.solve(L @ adjoint, B)


def _cholesky_solve_numpy(L: Any, B: Any) -> Any:
    """One factor after the other: SciPy before 1.16 knows no batches here, and later ones run the same loop."""
    from scipy.linalg import cho_solve

    if L.ndim == B.ndim == 2:
        return cho_solve((L, True), B, check_finite=False)
    batch = np.broadcast_shapes(L.shape[:-2], B.shape[:-2])
    factors, sides = np.broadcast_to(L, (*batch, *L.shape[-2:])), np.broadcast_to(B, (*batch, *B.shape[-2:]))
    X = np.empty(sides.shape, dtype=np.result_type(factors, sides))
    for item in np.ndindex(batch):
        X[item] = cho_solve((factors[item], True), sides[item], check_finite=False)
    return X
