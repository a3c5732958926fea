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


def error(got: Any, want: Any) -> float:
    """Largest deviation relative to the largest wanted value (absolute where everything wanted is zero)."""
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape:
        return float("inf")
    size = float(np.max(np.abs(want), initial=0.0))
    return float(np.max(np.abs(got - want), initial=0.0)) / (size if size > 0 else 1.0)


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
    beta = U.shape[2] / (Z.shape[0] * eps**2)
    total = 0.0
    for basis in U:
        V = Z @ basis
        total = total + 0.5 * logdet(np.eye(V.shape[1]) + beta * V.T @ V)
    return total


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


def minimum_on(grid: Iterable[Matrix], f: Callable[[Matrix], float]) -> tuple[float, Matrix]:
    """Brute-force minimum over a list of points."""
    best = min(grid, key=f)
    return f(best), best
