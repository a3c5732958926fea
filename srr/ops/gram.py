"""logdet(I + s·AᵀA) and the resolvent (I + s·AᵀA)⁻¹, always on the smaller side of A.

One factorization serves the value, the gradient and the Hessian products of every rate. The fast one is a Cholesky
factor of the smaller Gram matrix. It squares the condition of A, so its own pivots are asked how many digits they
lost; where they lost too many (rank-deficient tokens at a tiny distortion, tokens near zero) the singular values of
A take over, which keep full relative accuracy.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from typing import Protocol

from srr._array.checks import check_array
from srr._array.linalg import cholesky, cholesky_solve
from srr._array.namespace import (
    Array,
    ArrayT,
    Namespace,
    any_true,
    asarray_like,
    device,
    epsilon,
    eye,
    is_concrete,
    is_torch,
    namespace,
)

_PANELS = 4  # column panels of a blocked symmetric Gram matrix: 10 of its 16 blocks are computed
_BLOCKED_FROM = 512  # columns from which the blocked form wins on a CPU; it loses at 128


class GramFactor(Protocol):
    """A factorization of I + s·AᵀA: what every rate needs of it."""

    def logdet(self) -> Array:
        """Log-determinant, shape (...)."""

    def resolvent(self) -> Array:
        """A (I + s·AᵀA)⁻¹, shape (..., n, d)."""

    def apply(self, X: Array) -> Array:
        """X (I + s·AᵀA)⁻¹ for rows X of shape (..., k, d)."""


def gram(A: ArrayT, *, xp: Namespace = None) -> ArrayT:
    r"""Gram matrix :math:`A^\top A` of the columns of A.

    Wide torch matrices on a CPU are multiplied in column panels and mirrored, which skips 6 of 16 blocks;
    NumPy recognizes the product as symmetric by itself.

    Args:
        A: matrices of shape (..., n, d).
        xp: array namespace; looked up when None.

    Returns:
        Symmetric matrices of shape (..., d, d).

    Raises:
        TypeError: A is not a real floating array.
        ValueError: A has fewer than two axes or an empty one.
    """
    xp = namespace(A, xp=xp)
    check_array(A, "A", finite=False, xp=xp)
    d = A.shape[-1]
    if d < _BLOCKED_FROM or not (is_torch(A) and A.device.type == "cpu"):
        return A.mT @ A
    edges = [d * i // _PANELS for i in range(_PANELS + 1)]
    upper = [A[..., a:b].mT @ A[..., a:] for a, b in itertools.pairwise(edges)]
    rows = []
    for i, (a, b) in enumerate(itertools.pairwise(edges)):
        left = [upper[j][..., a - edges[j] : b - edges[j]].mT for j in range(i)]
        rows.append(xp.concat([*left, upper[i]], axis=-1))
    return xp.concat(rows, axis=-2)


@dataclass(frozen=True)
class _CholeskyFactor:
    """Lower factor L of I + s·AᵀA (tall A) or I + s·AAᵀ (wide A); scale has shape (..., 1, 1)."""

    A: Array
    scale: Array
    L: Array
    xp: Namespace

    @property
    def tall(self) -> bool:
        return bool(self.A.shape[-2] >= self.A.shape[-1])

    def logdet(self) -> Array:
        return logdet_of_factor(self.L, self.xp)

    def resolvent(self) -> Array:
        inverse = inverse_of_factor(self.L, self.xp)
        return self.A @ inverse if self.tall else inverse @ self.A

    def apply(self, X: Array) -> Array:
        if self.tall:
            return X @ inverse_of_factor(self.L, self.xp)
        return X - self.scale * ((X @ self.A.mT) @ self.resolvent())


@dataclass(frozen=True)
class _SpectralFactor:
    """The same from the singular value decomposition of A: slower, with every digit; scale has shape (..., 1, 1)."""

    A: Array
    scale: Array
    xp: Namespace

    def logdet(self) -> Array:
        sigma = self.xp.linalg.svdvals(self.A)
        return self.xp.sum(self.xp.log1p(self.scale[..., 0] * sigma**2), axis=-1)

    def resolvent(self) -> Array:
        W, sigma, Vh = self.xp.linalg.svd(self.A, full_matrices=False)
        return (W * (sigma / (1.0 + self.scale[..., 0] * sigma**2))[..., None, :]) @ Vh

    def apply(self, X: Array) -> Array:
        _, sigma, Vh = self.xp.linalg.svd(self.A, full_matrices=False)
        gain = self.scale[..., 0] * sigma**2
        return X - ((X @ Vh.mT) * (gain / (1.0 + gain))[..., None, :]) @ Vh


def logdet_of_factor(L: ArrayT, xp: Namespace) -> ArrayT:
    """Log-determinant of L Lᵀ, shape (...)."""
    return 2.0 * xp.sum(xp.log(xp.linalg.diagonal(L)), axis=-1)


def inverse_of_factor(L: ArrayT, xp: Namespace) -> ArrayT:
    """(L Lᵀ)⁻¹ by triangular solves with the identity, to be multiplied with many tokens at once.

    A product runs at five to ten times the speed of triangular solves with as many right sides, and the factor keeps
    it as accurate: both forms lose the condition of L Lᵀ in the same directions.
    """
    if is_torch(L):
        return sys.modules["torch"].cholesky_inverse(L)
    return cholesky_solve(L, xp.broadcast_to(eye(L.shape[-1], L, xp), L.shape), xp)


def pivots_are_trusted(M: Array, L: Array, rtol: float, xp: Namespace) -> bool:
    """Whether rounding in the pivots of M = L Lᵀ, u·Σ M_ii/L_ii², stays under ``rtol`` of the log-determinant."""
    lost = xp.sum(xp.linalg.diagonal(M) / xp.linalg.diagonal(L) ** 2, axis=-1)
    return not any_true(~(epsilon(M.dtype, xp) * lost <= rtol * logdet_of_factor(L, xp)), xp)


def shifted_gram(A: ArrayT, scale: ArrayT | float, *, xp: Namespace) -> ArrayT:
    """I + s·AᵀA of shape (..., d, d), whichever side is smaller."""
    return eye(A.shape[-1], A, xp) + _column(scale, A, xp) * gram(A, xp=xp)


def gram_factor(A: Array, scale: Array | float, *, rtol: float | None = None, xp: Namespace = None) -> GramFactor:
    r"""Factorize :math:`I + s A^\top A` on the smaller side of A.

    Args:
        A: matrices of shape (..., n, d).
        scale: s ≥ 0, a number or an array of shape (...).
        rtol: relative error of the log-determinant above which the singular values take over from Cholesky; by
            default 64 machine epsilons of A. While a program is being traced or differentiated the choice
            cannot depend on values, and Cholesky is used.
        xp: array namespace; looked up when None.

    Returns:
        An object with ``logdet()``, ``resolvent()`` and ``apply(X)``.

    Raises:
        TypeError: A is not a real floating array.
        ValueError: A has fewer than two axes or an empty one.

    Source: the smaller side by Sylvester's identity, logdet(I + sAᵀA) = logdet(I + sAAᵀ) [MCR2, Appendix].
    """
    xp = namespace(A, xp=xp)
    check_array(A, "A", finite=False, xp=xp)
    M = shifted_gram(A if A.shape[-2] >= A.shape[-1] else A.mT, scale, xp=xp)
    L = cholesky(M, xp)
    rtol = 64 * epsilon(A.dtype, xp) if rtol is None else rtol
    if L is None or (is_concrete(M) and not pivots_are_trusted(M, L, rtol, xp)):
        return _SpectralFactor(A, _column(scale, A, xp), xp)
    return _CholeskyFactor(A, _column(scale, A, xp), L, xp)


def _column(scale: ArrayT | float, A: ArrayT, xp: Namespace) -> ArrayT:
    """Scale as an array that broadcasts against (..., n, d)."""
    if not hasattr(scale, "ndim"):
        return xp.full((1, 1), scale, dtype=A.dtype, device=device(A))
    return asarray_like(scale, A, xp=xp)[..., None, None]


def gram_logdet(A: ArrayT, scale: ArrayT | float, *, xp: Namespace = None) -> ArrayT:
    r"""Log-determinant :math:`\log\det(I + s A^\top A)`.

    Args:
        A: matrices of shape (..., n, d).
        scale: s ≥ 0, a number or an array of shape (...).
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (...), in nats.

    Raises:
        TypeError: A is not a real floating array.
        ValueError: A has fewer than two axes or an empty one.

    Source: the determinant of [CRATE] (7) and (8), without its ½.

    Example:
        >>> import numpy as np, srr
        >>> srr.ops.gram_logdet(np.eye(3), 1.0) / np.log(2.0)
        np.float64(3.0)
    """
    return gram_factor(A, scale, xp=xp).logdet()


def gram_resolvent(A: ArrayT, scale: ArrayT | float, *, xp: Namespace = None) -> ArrayT:
    r"""Resolvent product :math:`A (I + s A^\top A)^{-1} = (I + s A A^\top)^{-1} A`.

    Args:
        A: matrices of shape (..., n, d).
        scale: s ≥ 0, a number or an array of shape (...).
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (..., n, d).

    Raises:
        TypeError: A is not a real floating array.
        ValueError: A has fewer than two axes or an empty one.

    Source: [CRATE] (9), one head of the gradient; s times it is half the gradient of the log-determinant.
    """
    return gram_factor(A, scale, xp=xp).resolvent()
