"""The only factorizations below the operators: log-determinants, resolvents and inverses of I + s·AᴴWA.

One factorization serves the value, the gradient and the Hessian products of every rate. The fast one is a Cholesky
factor on the smaller side of A. It squares the condition of A, so its own pivots are asked how many digits they lost;
where they lost too many (rank-deficient tokens at a tiny distortion, tokens near zero) the singular values of A take
over, and products with twice the digits repair what a resolvent loses in directions that hold no token.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol

import numpy as np
from scipy.linalg import lapack

from srr._array.exact import Pair, add, exact_sum, matmul, scaled, times
from srr._array.namespace import (
    Array,
    ArrayT,
    DType,
    Host,
    Namespace,
    Number,
    any_true,
    device,
    epsilon,
    eye,
    from_host,
    host_view,
    is_cupy,
    is_differentiated,
    is_floating,
    is_jax,
    is_numpy,
    is_readable,
    is_torch,
)

_REPAIRS = 4
_LAPACK_FROM = 48  # size from which one LAPACK call for each matrix of a batch beats what the libraries do with batches
_POTRF = {"f": lapack.spotrf, "d": lapack.dpotrf}
_POTRI = {"f": lapack.spotri, "d": lapack.dpotri}
_KEPT = 16.0  # roundings of float32 that a product of the mixed core may lose before float64 takes over
_REPAIRABLE = 1e3  # u·s·σ_max² up to which these repairs leave a resolvent with at least ten digits, as measured


# Cholesky


def cholesky(M: ArrayT, xp: Namespace) -> ArrayT | None:
    """Lower Cholesky factor of a batch of Hermitian matrices; None where the library finds one of them not positive."""
    host = _for_lapack(M)
    if host is not None:
        L = _cholesky_lapack(host)
        return None if L is None else from_host(L, M)
    if is_torch(M) and is_readable(M):
        L, broken = sys.modules["torch"].linalg.cholesky_ex(M)
        return None if any_true(broken > 0, xp) else L
    try:
        return xp.linalg.cholesky(M)
    except (np.linalg.LinAlgError, RuntimeError):
        if not is_readable(M):
            raise
        return None


def sure_cholesky(M: ArrayT, xp: Namespace) -> ArrayT:
    """Lower Cholesky factor of matrices that have one, as I + s·G does, in a form that a tracer can follow."""
    return xp.linalg.cholesky(M)


def has_cholesky(M: ArrayT) -> ArrayT:
    """Whether symmetric torch matrices have a Cholesky factor, (...): decided without waiting for the values.

    The factor of fl(M) exists only if M + E ≥ 0 for an E with ‖E‖₂ ≤ (d + 1)u·tr M to first order (Demmel): a rigorous
    lower bound of the smallest eigenvalue.
    """
    return sys.modules["torch"].linalg.cholesky_ex(M).info == 0


def _for_lapack(M: Array) -> Host | None:
    """The matrices as NumPy sees them, where SciPy's LAPACK is the fastest way to their factors."""
    if 0 in M.shape or (M.ndim > 2 and M.shape[-1] < _LAPACK_FROM):
        return None
    return host_view(M)


def _cholesky_lapack(M: Host) -> Host | None:
    """Lower factors in one LAPACK call each; None where one does not exist."""
    factor = _POTRF[M.dtype.char]
    if M.ndim == 2:
        upper, info = factor(M.T, lower=False, clean=True)  # the transpose is in the order of Fortran
        return None if info else upper.T
    L = np.array(M, order="C")
    for item in L.reshape(-1, *L.shape[-2:]):
        if factor(item.T, lower=False, clean=True, overwrite_a=True)[1]:
            return None
    return L


def cholesky_solve(L: ArrayT, B: ArrayT, xp: Namespace) -> ArrayT:
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


def inverse_of_factor(L: ArrayT, xp: Namespace) -> ArrayT:
    """(L Lᴴ)⁻¹, to be multiplied with many tokens at once.

    A product runs at five to ten times the speed of triangular solves with as many right sides, and the factor keeps
    it as accurate: both forms lose the condition of L Lᴴ in the same directions. ``torch.cholesky_inverse`` is
    used for values only, since its forward-mode derivative is wrong.
    """
    if is_numpy(L) and L.dtype.char in "fd" and L.size:
        return _inverse_lapack(L)
    host = _for_lapack(L)
    if host is not None:
        return from_host(_inverse_lapack(host), L)
    if is_torch(L) and not L.requires_grad and is_readable(L):
        return sys.modules["torch"].cholesky_inverse(L)
    identity = eye(L.shape[-1], L, xp)
    return cholesky_solve(L, identity if L.ndim == 2 or is_numpy(L) else xp.broadcast_to(identity, L.shape), xp)


def _inverse_lapack(L: Host) -> Any:
    """Inverses from lower factors in one LAPACK call each, which fills one triangle."""
    invert = _POTRI[L.dtype.char]
    if L.ndim == 2:
        half = invert(L.T, lower=False)[0].T
        X = half + half.T
    else:
        half = np.array(L, order="C")
        for item in half.reshape(-1, *half.shape[-2:]):
            invert(item.T, lower=False, overwrite_c=True)
        X = half + half.mT
    X.reshape((*X.shape[:-2], -1))[..., :: X.shape[-1] + 1] *= 0.5
    return X


def logdet_of_factor(L: ArrayT, xp: Namespace) -> ArrayT:
    """Log-determinant of L Lᴴ, shape (...)."""
    return 2.0 * xp.sum(xp.log(_real_diagonal(L, xp)), axis=-1)


def pivots_keep(M: ArrayT, L: ArrayT, rtol: float, xp: Namespace) -> ArrayT:
    """Whether rounding in the pivots of M = L Lᴴ, u·Σ M_ii/L_ii², stays under ``rtol`` of each log-determinant."""
    return _keeps(M, L, logdet_of_factor(L, xp), rtol, xp)


def _keeps(M: ArrayT, L: ArrayT, logdet: ArrayT, rtol: float, xp: Namespace) -> ArrayT:
    pivots = _real_diagonal(L, xp)
    lost = xp.sum(_real_diagonal(M, xp) / (pivots * pivots), axis=-1)
    return lost <= (rtol / epsilon(pivots.dtype, xp)) * logdet


def trusted_cholesky(M: ArrayT, rtol: float, xp: Namespace, scale: Array | None = None) -> tuple[ArrayT, ArrayT] | None:
    """Cholesky factor of M and its log-determinant, or None where it does not exist or its pivots lost digits.

    While a program is traced no value can be asked, and the factor is what the library gives. Where the scale s of
    shape (..., 1, 1) in M = I + s·G is zero, as for a class without tokens, nothing can be lost.
    """
    if is_numpy(M) and M.ndim == 2 and M.dtype.char in "fd" and M.size:
        return _trusted_by_lapack(M, rtol, scale)
    L = cholesky(M, xp)
    if L is None:
        return None
    logdet = logdet_of_factor(L, xp)
    if is_readable(M):
        asked: list[Any] = [M, L, logdet]
        if is_torch(M):
            asked = [X.detach() for X in asked]
        lost = ~_keeps(asked[0], asked[1], asked[2], rtol, xp)
        if any_true(lost, xp) and (scale is None or any_true(lost & (scale[..., 0, 0] != 0.0), xp)):
            return None
    return L, logdet


def _trusted_by_lapack(M: Host, rtol: float, scale: Any) -> tuple[Any, Any] | None:
    """The same for one matrix of NumPy, with as few calls as it takes."""
    L = _cholesky_lapack(M)
    if L is None:
        return None
    pivots = L.diagonal()
    logdet = 2.0 * np.log(pivots).sum()
    lost = (M.diagonal() / (pivots * pivots)).sum()
    if not lost <= rtol / np.finfo(M.dtype).eps * logdet and (scale is None or scale.item() != 0.0):
        return None
    return L, logdet


def _real_diagonal(M: ArrayT, xp: Namespace) -> ArrayT:
    # The method of NumPy and torch costs a fifth of the function of the standard.
    diagonal = M.diagonal(0, -2, -1) if is_numpy(M) or is_torch(M) else xp.linalg.diagonal(M)
    return diagonal if is_floating(M, xp) else xp.real(diagonal)


def adjoint(A: ArrayT, xp: Namespace) -> ArrayT:
    """Conjugate transpose of the last two axes of a real or complex array."""
    return A.mT if is_floating(A, xp) else xp.conj(A).mT


# Gram matrices


def bare_gram(A: ArrayT, xp: Namespace) -> ArrayT:
    """AᴴA; by NumPy on a CPU, whose product of an array with itself computes one triangle and mirrors it."""
    if A.ndim == 2 or A.shape[-1] >= _LAPACK_FROM:
        host = host_view(A)
        if host is not None:
            return from_host(host.mT @ host, A)
    return adjoint(A, xp) @ A


def weighted_gram(A: ArrayT, weights: ArrayT | None, xp: Namespace) -> ArrayT:
    """AᴴWA for weights ≥ 0; linear in them where a derivative may be taken, which a root has not at zero."""
    if weights is None:
        return bare_gram(A, xp)
    if is_differentiated(weights):
        return adjoint(A, xp) @ (weights[..., None] * A)
    return bare_gram(xp.sqrt(weights)[..., None] * A, xp)


def shifted(G: ArrayT, scale: Number, xp: Namespace) -> ArrayT:
    """I + s·G, with s a number or an array that broadcasts to G."""
    n = G.shape[-1]
    if is_numpy(G):
        M: Any = np.ascontiguousarray(scale * G)
        M.reshape((*M.shape[:-2], n * n))[..., :: n + 1] += 1.0
        return M
    if is_torch(G) and is_readable(G) and not is_differentiated(G, scale):
        M = scale * G
        M.diagonal(0, -2, -1).add_(1.0)
        return M
    return eye(n, G, xp) + scale * G


def as_column(scale: Number, A: ArrayT, xp: Namespace) -> ArrayT:
    """Scale s of shape (...) as a real array that broadcasts against A of shape (..., n, d)."""
    dtype = A.dtype if is_floating(A, xp) else xp.real(A[..., :1, :1]).dtype
    if not hasattr(scale, "ndim"):
        return xp.full((1, 1), scale, dtype=dtype, device=device(A))
    return xp.astype(scale, dtype, copy=False)[..., None, None]


def moment_logdet(G: ArrayT, scale: Number, rtol: float, xp: Namespace) -> ArrayT | None:
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


class GramFactor(Protocol[ArrayT]):
    """A factorization of I + s·AᴴWA: what every rate needs of it."""

    def logdet(self) -> ArrayT:
        """Log-determinant, shape (...)."""

    def resolvent(self) -> ArrayT:
        """W A (I + s·AᴴWA)⁻¹, shape (..., n, d): the derivative of logdet/2s in A."""

    def apply(self, X: ArrayT) -> ArrayT:
        """X (I + s·AᴴWA)⁻¹ for rows X of shape (..., k, d)."""

    def inverse(self) -> ArrayT:
        """(I + s·AᴴWA)⁻¹, shape (..., d, d)."""


@dataclass(frozen=True)
class CholeskyFactor(Generic[ArrayT]):
    """Lower factor L of I + s·AᴴA (tall A) or I + s·AAᴴ (wide A); scale has shape (..., 1, 1).

    In the mixed core A is float32 and everything else float64: products with A are then taken in float32.
    """

    A: ArrayT
    scale: ArrayT
    L: ArrayT
    xp: Namespace
    known: ArrayT | None = None  # the log-determinant, where the test of the pivots took it

    @property
    def tall(self) -> bool:
        """Whether L is on the side of the columns."""
        return bool(self.A.shape[-2] >= self.A.shape[-1])

    def logdet(self) -> ArrayT:
        """See `GramFactor`."""
        return logdet_of_factor(self.L, self.xp) if self.known is None else self.known

    def resolvent(self) -> ArrayT:
        """See `GramFactor`."""
        if self.A.dtype != self.L.dtype:
            return self._mixed_resolvent()
        inverse = inverse_of_factor(self.L, self.xp)
        return self.A @ inverse if self.tall else inverse @ self.A

    def _mixed_resolvent(self) -> ArrayT:
        xp, inverse = self.xp, inverse_of_factor(self.L, self.xp)
        P, lost = self.narrow(inverse)
        if product_keeps(lost, sum_of_squares(P, xp), xp):
            return P
        A, rtol = xp.astype(self.A, self.L.dtype), core_rtol(self.L.dtype, xp)
        return value_factor(A, None, self.scale[..., 0, 0], rtol, xp).resolvent()

    def narrow(self, inverse: ArrayT) -> tuple[ArrayT, ArrayT]:
        """The resolvent in the dtype of A, and what rounding of the inverse does to it: see :func:`product_keeps`."""
        xp, S = self.xp, self.xp.astype(inverse, self.A.dtype)
        squares = (xp.sum(self.L * self.L, axis=-1) - 1.0) / self.scale[..., 0]  # of the columns of A, or of its rows
        lost = xp.sum(squares * xp.sum(inverse * inverse, axis=-1), axis=-1)
        return (self.A @ S if self.tall else S @ self.A), lost

    def apply(self, X: ArrayT) -> ArrayT:
        """See `GramFactor`."""
        if self.tall:
            return X @ inverse_of_factor(self.L, self.xp)
        return X - self.scale * ((X @ adjoint(self.A, self.xp)) @ self.resolvent())

    def inverse(self) -> ArrayT:
        """See `GramFactor`."""
        if self.tall:
            return inverse_of_factor(self.L, self.xp)
        taken = self.scale * (adjoint(self.A, self.xp) @ self.resolvent())
        return eye(self.A.shape[-1], self.A, self.xp) - taken


def core_rtol(dtype: DType, xp: Namespace) -> float:
    """Relative error of a log-determinant that rounding alone may cause in this dtype."""
    return 64.0 * epsilon(dtype, xp)


def sum_of_squares(X: ArrayT, xp: Namespace, *, axes: int = 2) -> ArrayT:
    """‖X‖² over the last axes."""
    if is_numpy(X) and X.ndim == axes:
        flat = X.ravel(order="K")
        return np.vdot(flat, flat)
    return xp.sum(X * X, axis=tuple(range(-axes, 0)))


def product_keeps(lost: Number, size: Number, xp: Namespace) -> bool:
    """Whether the product of tokens A with a matrix S that was rounded keeps its digits, for every item of a batch.

    Independent roundings u·S_ij change A S by u·(Σ_i ‖a_i‖² ‖S_i‖²)^½ in the mean of squares, with the columns a_i of
    A and the rows S_i of S: ``lost`` is that sum and ``size`` is ‖A S‖². They may be 16 roundings of the product.
    """
    kept: Any = lost <= _KEPT**2 * size
    return not any_true(~kept, xp)


@dataclass(frozen=True)
class SpectralFactor(Generic[ArrayT]):
    """The same from the singular values of A: slower, with every digit; scale has shape (..., 1, 1).

    ``low`` computes what rounding took from A, where A is itself a product of tokens.
    """

    A: ArrayT
    scale: ArrayT
    xp: Namespace
    low: Callable[[], ArrayT] | None = None

    def logdet(self) -> ArrayT:
        """See `GramFactor`."""
        sigma = self.xp.linalg.svdvals(self.A)
        return self.xp.sum(self.xp.log1p(self.scale[..., 0] * sigma**2), axis=-1)

    def resolvent(self) -> ArrayT:
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

    def _repaired(self, P: ArrayT, apply: Callable[[ArrayT], ArrayT], grown: ArrayT) -> ArrayT:
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

    def apply(self, X: ArrayT) -> ArrayT:
        """See `GramFactor`."""
        Vh, share = self._directions()
        return X - ((X @ adjoint(Vh, self.xp)) * share[..., None, :]) @ Vh

    def inverse(self) -> ArrayT:
        """See `GramFactor`."""
        Vh, share = self._directions()
        return eye(self.A.shape[-1], self.A, self.xp) - (adjoint(Vh, self.xp) * share[..., None, :]) @ Vh

    def _directions(self) -> tuple[ArrayT, ArrayT]:
        """Right singular vectors, and the share sσ²/(1 + sσ²) that the inverse takes from each."""
        _, sigma, Vh = self.xp.linalg.svd(self.A, full_matrices=False)
        gain = self.scale[..., 0] * sigma**2
        return Vh, gain / (1.0 + gain)


@dataclass(frozen=True)
class WeightedFactor(Generic[ArrayT]):
    """The factor of weighted rows, from that of √w A: only the resolvent differs."""

    root: ArrayT
    inner: GramFactor[ArrayT]

    def logdet(self) -> ArrayT:
        """See `GramFactor`."""
        return self.inner.logdet()

    def resolvent(self) -> ArrayT:
        """See `GramFactor`."""
        return self.root * self.inner.resolvent()

    def apply(self, X: ArrayT) -> ArrayT:
        """See `GramFactor`."""
        return self.inner.apply(X)

    def inverse(self) -> ArrayT:
        """See `GramFactor`."""
        return self.inner.inverse()


@dataclass(frozen=True)
class ChosenFactor(Generic[ArrayT]):
    """One of two factors by a flag that JAX knows only when the program runs."""

    trusted: ArrayT
    fast: GramFactor[ArrayT]
    safe: GramFactor[ArrayT]

    def _either(self, name: str, *arguments: Any) -> Any:
        fast, safe = getattr(self.fast, name), getattr(self.safe, name)
        return sys.modules["jax"].lax.cond(self.trusted, lambda: fast(*arguments), lambda: safe(*arguments))

    def logdet(self) -> ArrayT:
        """See `GramFactor`."""
        return self._either("logdet")

    def resolvent(self) -> ArrayT:
        """See `GramFactor`."""
        return self._either("resolvent")

    def apply(self, X: ArrayT) -> ArrayT:
        """See `GramFactor`."""
        return self._either("apply", X)

    def inverse(self) -> ArrayT:
        """See `GramFactor`."""
        return self._either("inverse")


@dataclass(frozen=True)
class LinearFactor(Generic[ArrayT]):
    """The factor on the side of d of rows whose weights are differentiated while a program is traced."""

    A: ArrayT
    weights: ArrayT
    L: ArrayT
    xp: Namespace

    def logdet(self) -> ArrayT:
        """See `GramFactor`."""
        return logdet_of_factor(self.L, self.xp)

    def resolvent(self) -> ArrayT:
        """See `GramFactor`."""
        return self.weights[..., None] * (self.A @ self.inverse())

    def apply(self, X: ArrayT) -> ArrayT:
        """See `GramFactor`."""
        return X @ self.inverse()

    def inverse(self) -> ArrayT:
        """See `GramFactor`."""
        return inverse_of_factor(self.L, self.xp)


def value_factor(
    A: ArrayT,
    weights: ArrayT | None,
    scale: Number,
    rtol: float,
    xp: Namespace,
    low: Callable[[], ArrayT] | None = None,
    core: DType = None,
) -> GramFactor[ArrayT]:
    """Factor of I + s·AᴴWA for its values: no derivative should be taken through it.

    Args:
        A: rows of shape (..., n, d).
        weights: weights ≥ 0 of shape (..., n), or None.
        scale: s ≥ 0, a number or an array of shape (...).
        rtol: relative error of the log-determinant above which the singular values take over from Cholesky.
        xp: array namespace.
        low: computes what rounding took from A, where A is a product.
        core: dtype of the Gram matrix, its factor and inverse where it is not that of A, which has no weights then.
    """
    narrow, A = A, A if core is None else xp.astype(A, core)
    if weights is not None:
        root = xp.sqrt(weights)[..., None]

        def rest() -> ArrayT:  # what rounding took from √w A
            product = times(root + xp.zeros_like(A), A + xp.zeros_like(root), xp).low
            return product if low is None else product + root * low()

        return WeightedFactor(root, value_factor(root * A, None, scale, rtol, xp, rest))
    column = as_column(scale, A, xp)
    M = shifted(bare_gram(A if A.shape[-2] >= A.shape[-1] else adjoint(A, xp), xp), column, xp)
    if is_jax(A) and not is_readable(M):
        L = sure_cholesky(M, xp)
        safe = SpectralFactor(A, column, xp, low)
        kept = xp.all(pivots_keep(M, L, rtol, xp) | (column[..., 0, 0] == 0.0))
        return ChosenFactor(kept, CholeskyFactor(A, column, L, xp), safe)
    found = trusted_cholesky(M, rtol, xp, column)
    return (
        SpectralFactor(A, column, xp, low) if found is None else CholeskyFactor(narrow, column, found[0], xp, found[1])
    )


def traced_factor(A: Any, weights: Any, scale: Any, xp: Namespace) -> GramFactor[ArrayT]:
    """Cholesky factor of I + s·AᴴWA as a program that a tracer can follow and differentiate."""
    column = as_column(scale, A, xp)
    if weights is not None:
        L = sure_cholesky(shifted(weighted_gram(A, weights, xp), column, xp), xp)
        return LinearFactor(A, weights, L, xp)
    M = shifted(bare_gram(A if A.shape[-2] >= A.shape[-1] else adjoint(A, xp), xp), column, xp)
    return CholeskyFactor(A, column, sure_cholesky(M, xp), xp)
