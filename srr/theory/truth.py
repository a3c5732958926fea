"""Independent truths: definitions written out naively in NumPy and mpmath, and derivatives of those.

Nothing here imports the operators. Every function of tokens also accepts complex tokens (transposes, never
conjugates), so that the complex step gives derivatives to the last digit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import mpmath
import numpy as np

Matrix = Any
Rate = Callable[[Matrix], Any]


def error(got: Any, want: Any, size: Any = None) -> float:
    """Largest deviation relative to the largest entry of ``size``, by default what is wanted (absolute where zero)."""
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape:
        return float("inf")
    top = float(np.max(np.abs(want if size is None else size), initial=0.0))
    return float(np.max(np.abs(got - want), initial=0.0)) / (top if top > 0 else 1.0)


def alpha(Z: Matrix, eps: float) -> float:
    """α = d/(nε²)."""
    n, d = Z.shape
    return float(d / (n * eps**2))


def beta(Z: Matrix, U: Matrix, eps: float) -> float:
    """β = p/(nε²)."""
    return float(U.shape[2] / (len(Z) * eps**2))


def logdet(M: Matrix) -> Any:
    """Log-determinant by LU; complex matrices give the complex logarithm near the real axis."""
    sign, size = np.linalg.slogdet(M)
    return size + 1j * np.angle(sign) if np.iscomplexobj(M) else size


def precise_logdet(A: Matrix, scale: float, *, digits: int = 60) -> float:
    """logdet(I + s·AᵀA) with mpmath on the d side, whatever the shape."""
    with mpmath.workdps(digits):
        high = mpmath.matrix(np.asarray(A).tolist())
        return float(mpmath.log(mpmath.det(mpmath.eye(high.cols) + mpmath.mpf(float(scale)) * high.T * high)))


def rate(Z: Matrix, eps: float, weights: Matrix | None = None) -> Any:
    """R(Z) on the d side, from its definition."""
    n, d = Z.shape
    w = np.ones(n) if weights is None else weights
    alpha = d / (w.sum() * eps**2)
    return 0.5 * logdet(np.eye(d) + alpha * Z.T @ (w[:, None] * Z))


def subspace_rate(Z: Matrix, U: Matrix, eps: float) -> Any:
    """R^c(Z; U), head by head."""
    scale = beta(Z, U, eps)
    return sum(0.5 * logdet(np.eye(V.shape[1]) + scale * V.T @ V) for V in Z @ U)


def sparse_reduction(Z: Matrix, U: Matrix, eps: float, lam: float = 0.0) -> Any:
    """R − R^c − λ‖Z‖₁, term by term."""
    return rate(Z, eps) - subspace_rate(Z, U, eps) - lam * np.abs(Z).sum()


def partition_rate(Z: Matrix, Pi: Matrix, eps: float) -> Any:
    """R^c(Z | Π), class by class; an empty class counts zero."""
    n = Z.shape[0]
    return sum(w.sum() / n * rate(Z, eps, w) for w in Pi.T if w.sum() > 0)


def gradient(f: Rate, Z: Matrix, *, step: float = 1e-30) -> Matrix:
    """Gradient of a real function by the complex step: no cancellation, so exact to rounding."""
    slope = np.zeros(Z.shape)
    for index in np.ndindex(*Z.shape):
        shifted = Z.astype(complex)
        shifted[index] += 1j * step
        slope[index] = np.imag(f(shifted)) / step
    return slope


def hessian(f: Rate, Z: Matrix, *, step: float = 1e-5) -> Matrix:
    """Hessian over the flattened tokens: central differences of complex-step gradients, about nine digits."""
    size = step * max(float(np.max(np.abs(Z))), step)
    rows = []
    for index in np.ndindex(*Z.shape):
        shift = np.zeros(Z.shape)
        shift[index] = size
        rows.append(((gradient(f, Z + shift) - gradient(f, Z - shift)) / (2 * size)).ravel())
    H = np.array(rows)
    return (H + H.T) / 2


def softmax(scores: Matrix) -> Matrix:
    """Softmax of a vector, entry by entry with mpmath."""
    with mpmath.workdps(40):
        powers = [mpmath.exp(mpmath.mpf(float(s))) for s in scores]
        total = mpmath.fsum(powers)
        return np.array([float(power / total) for power in powers])


def attend(V: Matrix, *, scale: float = 1.0, visible: Callable[[int, int], bool] | None = None) -> Matrix:
    """Softmax attention with query = key = value = V, token by token."""
    out = np.zeros(V.shape)
    for i, query in enumerate(V):
        seen = [j for j in range(len(V)) if visible is None or visible(i, j)]
        for weight, j in zip(softmax([scale * (query @ V[j]) for j in seen]), seen, strict=True):
            out[i] += weight * V[j]
    return out


def softmax_attention(V: Matrix) -> Matrix:
    """The same with whole matrices in double precision, for tokens too many for loops."""
    weights = np.exp(V @ V.T - np.max(V @ V.T, axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ V


def lasso(A: Matrix, Z: Matrix, D: Matrix, lam: float = 0.0) -> Any:
    """½‖Z − ADᵀ‖² + λ‖A‖₁; without λ the codes may be complex."""
    fit = 0.5 * np.sum((Z - A @ D.T) ** 2)
    return fit if lam == 0 else fit + lam * np.abs(A).sum()


def minimum_on(grid: Iterable[Matrix], f: Callable[[Matrix], float]) -> tuple[float, Matrix]:
    """Brute-force minimum over a list of points."""
    best = min(grid, key=f)
    return f(best), best
