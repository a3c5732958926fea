"""The only factorizations below the operators: log-determinants, resolvents and inverses of I + s·AᴴWA.

One factorization serves the value, the gradient and the Hessian products of every rate. The fast one is a Cholesky
factor on the smaller side of A. It squares the condition of A, so its own pivots are asked how many digits they lost;
where they lost too many (rank-deficient tokens at a tiny distortion, tokens near zero) the singular values of A take
over, and products with twice the digits repair what a resolvent loses in directions that hold no token.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from srr._array.exact import Pair, add, exact_sum, matmul, scaled, times
from srr._array.namespace import (
    Namespace,
    any_true,
    device,
    epsilon,
    eye,
    is_cupy,
    is_differentiated,
    is_floating,
    is_jax,
    is_numpy,
    is_readable,
    is_torch,
)

_PANELS = 4  # column panels of a blocked symmetric Gram matrix: 10 of its 16 blocks are computed
_BLOCKED_FROM = 512  # columns from which the blocked form wins on a CPU; it loses at 128
_REPAIRS = 4
_REPAIRABLE = 1e3  # u·s·σ_max² up to which these repairs leave a resolvent with at least ten digits, as measured


# Cholesky


def cholesky(M: Any, xp: Namespace) -> Any:
    """Lower Cholesky factor of a batch of Hermitian matrices; None where the library finds one of them not positive."""
    try:
        return xp.linalg.cholesky(M)
    except (np.linalg.LinAlgError, RuntimeError):
        if not is_readable(M):
            raise
        return None


def has_cholesky(M: Any) -> Any:
    """Whether symmetric torch matrices have a Cholesky factor, (...): decided without waiting for the values.

    The factor of fl(M) exists only if M + E ≥ 0 for an E with ‖E‖₂ ≤ (d + 1)u·tr M to first order (Demmel): a rigorous
    lower bound of the smallest eigenvalue.
    """
    return sys.modules["torch"].linalg.cholesky_ex(M).info == 0


def cholesky_solve(L: Any, B: Any, xp: Namespace) -> Any:
    """X with L Lᴴ X = B, by the triangular solver of the library where the standard has none."""
    if is_torch(L):
        return sys.modules["torch"].cholesky_solve(B, L)
    if is_jax(L):
        return sys.modules["jax"].scipy.linalg.cho_solve((L, True), B)
    if is_numpy(L):
        return _cholesky_solve_numpy(L, B) if 0 not in B.shape else B
    if is_cupy(L) and L.ndim == B.ndim == 2:
        from cupyx.scipy.linalg import solve_triangular

        half = solve_triangular(L, B, lower=True)
        return solve_triangular(L, half, lower=True, trans="C")
    return xp.linalg.solve(L @ adjoint(L, xp), B)


def _cholesky_solve_numpy(L: Any, B: Any) -> Any:
    """One factor after the other by LAPACK itself: SciPy's function costs five times as much for small ones."""
    from scipy.linalg import get_lapack_funcs

    (solve,) = get_lapack_funcs(("potrs",), (L, B))
    upper = L.conj().mT if np.iscomplexobj(L) else L.mT  # in the order of Fortran
    if L.ndim == B.ndim == 2:
        return solve(upper, B, lower=False)[0]
    batch = np.broadcast_shapes(L.shape[:-2], B.shape[:-2])
    factors = upper if L.shape[:-2] == batch else np.broadcast_to(upper, (*batch, *L.shape[-2:]))
    sides = B if B.shape[:-2] == batch or B.ndim == 2 else np.broadcast_to(B, (*batch, *B.shape[-2:]))
    X = np.empty((*batch, *B.shape[-2:]), dtype=solve.dtype)
    for item in np.ndindex(batch):
        X[item] = solve(factors[item], B if B.ndim == 2 else sides[item], lower=False)[0]
    return X


def inverse_of_factor(L: Any, xp: Namespace) -> Any:
    """(L Lᴴ)⁻¹ by triangular solves with the identity, to be multiplied with many tokens at once.

    A product runs at five to ten times the speed of triangular solves with as many right sides, and the factor keeps
    it as accurate: both forms lose the condition of L Lᴴ in the same directions. ``torch.cholesky_inverse`` would be
    as fast, but its forward-mode derivative is wrong.
    """
    if is_torch(L) and not L.requires_grad and is_readable(L):
        return sys.modules["torch"].cholesky_inverse(L)
    identity = eye(L.shape[-1], L, xp)
    return cholesky_solve(L, identity if L.ndim == 2 or is_numpy(L) else xp.broadcast_to(identity, L.shape), xp)


def logdet_of_factor(L: Any, xp: Namespace) -> Any:
    """Log-determinant of L Lᴴ, shape (...)."""
    return 2.0 * xp.sum(xp.log(_real_diagonal(L, xp)), axis=-1)


def pivots_keep(M: Any, L: Any, rtol: float, xp: Namespace) -> Any:
    """Whether rounding in the pivots of M = L Lᴴ, u·Σ M_ii/L_ii², stays under ``rtol`` of each log-determinant."""
    return _keeps(M, L, logdet_of_factor(L, xp), rtol, xp)


def _keeps(M: Any, L: Any, logdet: Any, rtol: float, xp: Namespace) -> Any:
    pivots = _real_diagonal(L, xp)
    lost = xp.sum(_real_diagonal(M, xp) / (pivots * pivots), axis=-1)
    return lost <= (rtol / epsilon(pivots.dtype, xp)) * logdet


def trusted_cholesky(M: Any, rtol: float, xp: Namespace, scale: Any = None) -> tuple[Any, Any] | None:
    """Cholesky factor of M and its log-determinant, or None where it does not exist or its pivots lost digits.

    While a program is traced no value can be asked, and the factor is what the library gives. Where the scale s of
    shape (..., 1, 1) in M = I + s·G is zero, as for a class without tokens, nothing can be lost.
    """
    L = cholesky(M, xp)
    if L is None:
        return None
    logdet = logdet_of_factor(L, xp)
    if is_readable(M):
        asked = (M.detach(), L.detach(), logdet.detach()) if is_torch(M) else (M, L, logdet)
        lost = ~_keeps(*asked, rtol, xp)
        if any_true(lost, xp) and (scale is None or any_true(lost & (scale[..., 0, 0] != 0.0), xp)):
            return None
    return L, logdet


def _real_diagonal(M: Any, xp: Namespace) -> Any:
    # The method of NumPy and torch costs a fifth of the function of the standard.
    diagonal = M.diagonal(0, -2, -1) if is_numpy(M) or is_torch(M) else xp.linalg.diagonal(M)
    return diagonal if is_floating(M, xp) else xp.real(diagonal)


def adjoint(A: Any, xp: Namespace) -> Any:
    """Conjugate transpose of the last two axes of a real or complex array."""
    return A.mT if is_floating(A, xp) else xp.conj(A).mT


# Gram matrices


def bare_gram(A: Any, xp: Namespace) -> Any:
    """AᴴA; wide torch matrices on a CPU in column panels that are mirrored, which skips 6 of 16 blocks."""
    d = A.shape[-1]
    if d < _BLOCKED_FROM or not (is_torch(A) and A.device.type == "cpu" and is_floating(A, xp)):
        return adjoint(A, xp) @ A
    edges = [d * i // _PANELS for i in range(_PANELS + 1)]
    upper = [A[..., a:b].mT @ A[..., a:] for a, b in itertools.pairwise(edges)]
    rows = []
    for i, (a, b) in enumerate(itertools.pairwise(edges)):
        left = [upper[j][..., a - edges[j] : b - edges[j]].mT for j in range(i)]
        rows.append(xp.concat([*left, upper[i]], axis=-1))
    return xp.concat(rows, axis=-2)


def weighted_gram(A: Any, weights: Any, xp: Namespace) -> Any:
    """AᴴWA for weights ≥ 0; linear in them where a derivative may be taken, which a root has not at zero."""
    if weights is None:
        return bare_gram(A, xp)
    if is_differentiated(weights):
        return adjoint(A, xp) @ (weights[..., None] * A)
    return bare_gram(xp.sqrt(weights)[..., None] * A, xp)


def shifted(G: Any, scale: Any, xp: Namespace) -> Any:
    """I + s·G, with s a number or an array that broadcasts to G."""
    n = G.shape[-1]
    if is_numpy(G):
        M = np.ascontiguousarray(scale * G)
        M.reshape((*M.shape[:-2], n * n))[..., :: n + 1] += 1.0
        return M
    if is_torch(G) and is_readable(G) and not is_differentiated(G, scale):
        M = scale * G
        M.diagonal(0, -2, -1).add_(1.0)
        return M
    return eye(n, G, xp) + scale * G


def as_column(scale: Any, A: Any, xp: Namespace) -> Any:
    """Scale s of shape (...) as a real array that broadcasts against A of shape (..., n, d)."""
    dtype = A.dtype if is_floating(A, xp) else xp.real(A[..., :1, :1]).dtype
    if not hasattr(scale, "ndim"):
        return xp.full((1, 1), scale, dtype=dtype, device=device(A))
    return xp.astype(scale, dtype, copy=False)[..., None, None]


def moment_logdet(G: Any, scale: Any, rtol: float, xp: Namespace) -> Any:
    """Log-determinant (...) of I + s·G where only G ≥ 0 is left of the rows; None where rounding of G took the digits.

    The eigenvalues of G carry u·λ_max each: enough for small s·G, where the pivots of I + s·G lose what is added to 1.
    """
    M = shifted(G, scale, xp)
    found = trusted_cholesky(M, rtol, xp)
    if found is not None:
        return found[1]
    values = xp.linalg.eigvalsh(scale * G)
    values = xp.where(values > 0, values, xp.zeros_like(values))
    logdet = xp.sum(xp.log1p(values), axis=-1)
    lost = epsilon(values.dtype, xp) * values[..., -1] * xp.sum(1.0 / (1.0 + values), axis=-1)
    return None if any_true(~(lost <= rtol * logdet), xp) else logdet


# Factors of I + s·AᴴA


class GramFactor(Protocol):
    """A factorization of I + s·AᴴWA: what every rate needs of it."""

    def logdet(self) -> Any:
        """Log-determinant, shape (...)."""

    def resolvent(self) -> Any:
        """W A (I + s·AᴴWA)⁻¹, shape (..., n, d): the derivative of logdet/2s in A."""

    def apply(self, X: Any) -> Any:
        """X (I + s·AᴴWA)⁻¹ for rows X of shape (..., k, d)."""

    def inverse(self) -> Any:
        """(I + s·AᴴWA)⁻¹, shape (..., d, d)."""


@dataclass(frozen=True)
class CholeskyFactor:
    """Lower factor L of I + s·AᴴA (tall A) or I + s·AAᴴ (wide A); scale has shape (..., 1, 1)."""

    A: Any
    scale: Any
    L: Any
    xp: Namespace
    known: Any = None  # the log-determinant, where the test of the pivots took it

    @property
    def tall(self) -> bool:
        """Whether L is on the side of the columns."""
        return bool(self.A.shape[-2] >= self.A.shape[-1])

    def logdet(self) -> Any:
        """See `GramFactor`."""
        return logdet_of_factor(self.L, self.xp) if self.known is None else self.known

    def resolvent(self) -> Any:
        """See `GramFactor`."""
        inverse = inverse_of_factor(self.L, self.xp)
        return self.A @ inverse if self.tall else inverse @ self.A

    def apply(self, X: Any) -> Any:
        """See `GramFactor`."""
        if self.tall:
            return X @ inverse_of_factor(self.L, self.xp)
        return X - self.scale * ((X @ adjoint(self.A, self.xp)) @ self.resolvent())

    def inverse(self) -> Any:
        """See `GramFactor`."""
        if self.tall:
            return inverse_of_factor(self.L, self.xp)
        taken: Any = self.scale * (adjoint(self.A, self.xp) @ self.resolvent())
        return eye(self.A.shape[-1], self.A, self.xp) - taken


@dataclass(frozen=True)
class SpectralFactor:
    """The same from the singular values of A: slower, with every digit; scale has shape (..., 1, 1).

    ``low`` computes what rounding took from A, where A is itself a product of tokens.
    """

    A: Any
    scale: Any
    xp: Namespace
    low: Callable[[], Any] | None = None

    def logdet(self) -> Any:
        """See `GramFactor`."""
        sigma = self.xp.linalg.svdvals(self.A)
        return self.xp.sum(self.xp.log1p(self.scale[..., 0] * sigma**2), axis=-1)

    def resolvent(self) -> Any:
        """See `GramFactor`."""
        W, sigma, Vh = self.xp.linalg.svd(self.A, full_matrices=False)
        grown = 1.0 + self.scale[..., 0] * sigma**2
        rough = (W * (sigma / grown)[..., None, :]) @ Vh
        if self.A.dtype != self.xp.float64:
            return rough
        share = ((grown - 1.0) / grown)[..., None, :]
        if self.A.shape[-2] >= self.A.shape[-1]:
            return self._repaired(rough, lambda X: X - ((X @ Vh.mT) * share) @ Vh, grown[..., :1, None])
        return self._repaired(rough, lambda X: X - (W * share) @ (W.mT @ X), grown[..., :1, None])

    def _repaired(self, P: Any, apply: Callable[[Any], Any], grown: Any) -> Any:
        """P less its error: rounding of σ ≈ 0 is u·σ_max, which s·σ_max² enlarges.

        What is left of P (I + s·AᵀA) = A, or (I + s·AAᵀ) P = A, cancels all but that, so it is computed with twice the
        digits. A traced program does without: it would be a long one.
        """
        xp, zero = self.xp, self.xp.zeros_like(self.A)
        A = Pair(self.A, zero if self.low is None else self.low())
        good = epsilon(self.A.dtype, xp) * grown < _REPAIRABLE
        if not is_readable(P) or not any_true(good & (grown > 2.0), xp):
            return P
        tall = self.A.shape[-2] >= self.A.shape[-1]
        G = matmul(A.mT, A, xp) if tall else matmul(A, A.mT, xp)
        found = Pair(P, xp.zeros_like(P))
        for _ in range(_REPAIRS):
            product = scaled(self.scale, matmul(found, G, xp) if tall else matmul(G, found, xp), xp)
            left = add(A, add(Pair(-product.high, -product.low), Pair(-found.high, -found.low)))
            found = exact_sum(found.high, found.low + xp.where(good, apply(left.high), xp.zeros_like(P)))
        return found.high

    def apply(self, X: Any) -> Any:
        """See `GramFactor`."""
        Vh, share = self._directions()
        return X - ((X @ adjoint(Vh, self.xp)) * share[..., None, :]) @ Vh

    def inverse(self) -> Any:
        """See `GramFactor`."""
        Vh, share = self._directions()
        return eye(self.A.shape[-1], self.A, self.xp) - (adjoint(Vh, self.xp) * share[..., None, :]) @ Vh

    def _directions(self) -> tuple[Any, Any]:
        """Right singular vectors, and the share sσ²/(1 + sσ²) that the inverse takes from each."""
        _, sigma, Vh = self.xp.linalg.svd(self.A, full_matrices=False)
        gain = self.scale[..., 0] * sigma**2
        return Vh, gain / (1.0 + gain)


@dataclass(frozen=True)
class WeightedFactor:
    """The factor of weighted rows, from that of √w A: only the resolvent differs."""

    root: Any
    inner: GramFactor

    def logdet(self) -> Any:
        """See `GramFactor`."""
        return self.inner.logdet()

    def resolvent(self) -> Any:
        """See `GramFactor`."""
        return self.root * self.inner.resolvent()

    def apply(self, X: Any) -> Any:
        """See `GramFactor`."""
        return self.inner.apply(X)

    def inverse(self) -> Any:
        """See `GramFactor`."""
        return self.inner.inverse()


@dataclass(frozen=True)
class ChosenFactor:
    """One of two factors by a flag that JAX knows only when the program runs."""

    trusted: Any
    fast: GramFactor
    safe: GramFactor

    def _either(self, name: str, *arguments: Any) -> Any:
        fast, safe = getattr(self.fast, name), getattr(self.safe, name)
        return sys.modules["jax"].lax.cond(self.trusted, lambda: fast(*arguments), lambda: safe(*arguments))

    def logdet(self) -> Any:
        """See `GramFactor`."""
        return self._either("logdet")

    def resolvent(self) -> Any:
        """See `GramFactor`."""
        return self._either("resolvent")

    def apply(self, X: Any) -> Any:
        """See `GramFactor`."""
        return self._either("apply", X)

    def inverse(self) -> Any:
        """See `GramFactor`."""
        return self._either("inverse")


@dataclass(frozen=True)
class LinearFactor:
    """The factor on the side of d of rows whose weights are differentiated while a program is traced."""

    A: Any
    weights: Any
    L: Any
    xp: Namespace

    def logdet(self) -> Any:
        """See `GramFactor`."""
        return logdet_of_factor(self.L, self.xp)

    def resolvent(self) -> Any:
        """See `GramFactor`."""
        return self.weights[..., None] * (self.A @ self.inverse())

    def apply(self, X: Any) -> Any:
        """See `GramFactor`."""
        return X @ self.inverse()

    def inverse(self) -> Any:
        """See `GramFactor`."""
        return inverse_of_factor(self.L, self.xp)


def value_factor(
    A: Any, weights: Any, scale: Any, rtol: float, xp: Namespace, low: Callable[[], Any] | None = None
) -> GramFactor:
    """Factor of I + s·AᴴWA for its values: no derivative should be taken through it.

    Args:
        A: rows of shape (..., n, d).
        weights: weights ≥ 0 of shape (..., n), or None.
        scale: s ≥ 0, a number or an array of shape (...).
        rtol: relative error of the log-determinant above which the singular values take over from Cholesky.
        xp: array namespace.
        low: computes what rounding took from A, where A is a product.
    """
    if weights is not None:
        root = xp.sqrt(weights)[..., None]

        def rest() -> Any:  # what rounding took from √w A
            product = times(root + xp.zeros_like(A), A + xp.zeros_like(root), xp).low
            return product if low is None else product + root * low()

        return WeightedFactor(root, value_factor(root * A, None, scale, rtol, xp, rest))
    column = as_column(scale, A, xp)
    M = shifted(bare_gram(A if A.shape[-2] >= A.shape[-1] else adjoint(A, xp), xp), column, xp)
    if is_jax(A) and not is_readable(M):
        L = cholesky(M, xp)
        safe = SpectralFactor(A, column, xp, low)
        kept = xp.all(pivots_keep(M, L, rtol, xp) | (column[..., 0, 0] == 0.0))
        return ChosenFactor(kept, CholeskyFactor(A, column, L, xp), safe)
    found = trusted_cholesky(M, rtol, xp, column)
    return SpectralFactor(A, column, xp, low) if found is None else CholeskyFactor(A, column, found[0], xp, found[1])


def traced_factor(A: Any, weights: Any, scale: Any, xp: Namespace) -> GramFactor:
    """Cholesky factor of I + s·AᴴWA as a program that a tracer can follow and differentiate."""
    column = as_column(scale, A, xp)
    if weights is not None:
        L = cholesky(shifted(weighted_gram(A, weights, xp), column, xp), xp)
        return LinearFactor(A, weights, L, xp)
    M = shifted(bare_gram(A if A.shape[-2] >= A.shape[-1] else adjoint(A, xp), xp), column, xp)
    return CholeskyFactor(A, column, cholesky(M, xp), xp)
