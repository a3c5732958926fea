"""Rate reduction of large classes: the parts give the Gram matrix of the whole, and one product serves both gradients.

With labels the scales satisfy α = (n_k/n) α_k for every class, so that

    I + α ZᵀZ = Σ_k (n_k/n) (I + α_k Z_kᵀZ_k),
    rows k of the gradient = α Z_k [(I + α ZᵀZ)⁻¹ − (I + α_k Z_kᵀZ_k)⁻¹].

This saves the Gram matrix of the whole and its product with all tokens: half of the work where classes hold about as
many tokens as dimensions, or more.
"""

from __future__ import annotations

from typing import NamedTuple

from srr._array import Array, DType, Namespace, cholesky, core_cast, is_concrete
from srr._checks import check_positive, check_tokens
from srr.ops.gram import inverse_of_factor, logdet_of_factor, pivots_are_trusted, shifted_gram
from srr.ops.partition import check_partition
from srr.ops.rates import core_tolerance, rate_scale
from srr.ops.segments import Segments

_LEAST = 0.75  # tokens a class for every dimension from which sharing won, measured for d = 64 to 512


class _Part(NamedTuple):
    """Classes of similar size: padded tokens (S, m, d), counts (S,), factors of I + α_k Z_kᵀZ_k (S, d, d)."""

    tokens: Array
    count: Array
    L: Array


def shared_reduction(
    Z: Array, Pi: Array, *, eps: float, core_dtype: DType = None, xp: Namespace
) -> tuple[Array, Array] | None:
    """Value and gradient of the rate reduction, or None where the general form is the better or the safer one.

    That is: memberships instead of labels, a batch of token sets, classes of fewer than 3d/4 tokens on average, and
    factors whose pivots lost digits. Where values cannot be read, every class must hold d tokens.

    Args:
        Z: tokens of shape (..., n, d).
        Pi: membership weights or integer labels.
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace.

    Returns:
        The pair (reduction, gradient of shape (n, d)) in nats, or None.

    Raises:
        TypeError: as :func:`srr.rate_reduction`.
        ValueError: as :func:`srr.rate_reduction`.

    Source: [MCR2] (9) and its gradient, rearranged.
    """
    if Z.ndim != 2 or Z.shape[0] < _LEAST * Z.shape[1] or not xp.isdtype(Pi.dtype, "integral"):
        return None
    check_tokens(Z, xp=xp)
    eps = check_positive(eps, "eps")
    check_partition(Pi, Z, xp)
    n, d = Z.shape
    A = core_cast(Z, core_dtype, xp)
    segments = Segments.of(Pi, A, xp)
    sizes = [int(size) for bucket in segments.counts for size in bucket]
    if n < _LEAST * d * len(sizes) or not (is_concrete(A) or min(sizes) >= d):
        return None
    return _reduce(Z, A, segments, eps, xp)


def _reduce(Z: Array, A: Array, segments: Segments, eps: float, xp: Namespace) -> tuple[Array, Array] | None:
    n, rtol = A.shape[-2], core_tolerance(Z, A, xp)
    whole, parts = xp.zeros_like(A[:1, :1]), []
    for tokens, count in segments.buckets(A, xp):
        M = shifted_gram(tokens, rate_scale(A, eps=eps, count=count), xp=xp)
        L = _trusted_factor(M, rtol, xp)
        if L is None:
            return None
        whole = whole + xp.tensordot(count / n, M, axes=1)
        parts.append(_Part(tokens, count, L))
    L = _trusted_factor(whole, rtol, xp)
    if L is None:
        return None
    compressed = xp.sum(xp.concat([part.count / n * logdet_of_factor(part.L, xp) for part in parts]))
    value = 0.5 * (logdet_of_factor(L, xp) - compressed)
    grad = segments.restore(_slopes(L, parts, rate_scale(A, eps=eps), xp), xp)
    return xp.astype(value, Z.dtype, copy=False), xp.astype(grad, Z.dtype, copy=False)


def _trusted_factor(M: Array, rtol: float, xp: Namespace) -> Array | None:
    L = cholesky(M, xp)
    if L is None or (is_concrete(M) and not pivots_are_trusted(M, L, rtol, xp)):
        return None
    return L


def _slopes(L: Array, parts: list[_Part], alpha: float, xp: Namespace) -> list[Array]:
    """Gradient at the padded tokens of every part; parts are used up so that their memory can go."""
    expand, rows = alpha * inverse_of_factor(L, xp), []
    while parts:
        part = parts.pop(0)
        rows.append(part.tokens @ (expand - alpha * inverse_of_factor(part.L, xp)))
    return rows
