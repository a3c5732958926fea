r"""ReduNet: expansion and compression operators and one increment; vectors, and 1-D or 2-D signals by FFT.

With ``shift_axes=0`` tokens are vectors, ``Z`` of shape (..., n, d). With ``shift_axes`` = 1 or 2 they are
signals of shape (..., n, C, T) or (..., n, C, H, W), and every circular shift of a signal belongs to its class:
the operators are then block-circulant, each frequency has its own C×C block, and nothing larger is factorised.
"""

from __future__ import annotations

from typing import NamedTuple

from srr._array import Array, DType, Namespace, asarray_like, cholesky_solve, core_cast, eye, is_floating, namespace
from srr._checks import check_positive
from srr.ops.partition import check_partition
from srr.ops.rates import rate_scale
from srr.ops.segments import Segments
from srr.ops.shifts import adjoint, check_signals, signal_sizes, spectrum_weights, to_spectrum


class ReduNetOperators(NamedTuple):
    r"""Operators of one ReduNet layer, and the rate reduction of the tokens they were made from.

    Args:
        E: expansion operator of shape (..., d, d), or (..., F, C, C) with F frequencies.
        C: compression operators of shape (..., K, d, d), or (..., F, K, C, C).
        proportions: share γ of each class, shape (..., K).
        rate_reduction: ΔR of the tokens in nats, shape (...), in the precision of the core; for signals, per
            circular shift.
    """

    E: Array
    C: Array
    proportions: Array
    rate_reduction: Array


def redunet_operators(
    Z: Array, Pi: Array, *, eps: float, shift_axes: int = 0, core_dtype: DType = None, xp: Namespace = None
) -> ReduNetOperators:
    r"""Expansion and compression operators of tokens with their classes, from one factorisation each.

    .. math:: E = \alpha \bigl(I + \alpha Z^\top Z\bigr)^{-1},\quad
              C_k = \alpha_k \bigl(I + \alpha_k Z^\top \Pi_k Z\bigr)^{-1},\quad
              \alpha = \frac{d}{n \varepsilon^2},\ \alpha_k = \frac{d}{\varepsilon^2 \operatorname{tr}\Pi_k}

    Args:
        Z: tokens of shape (..., n, d), or signals of shape (..., n, C, T) or (..., n, C, H, W).
        Pi: integer labels ≥ 0 of shape (..., n) or (n,), or membership weights ≥ 0 of shape (..., n, K).
        eps: distortion ε > 0.
        shift_axes: number of trailing axes along which the circular shifts of a token belong to its class.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        The operators: symmetric for vectors, complex Hermitian per frequency for signals, where C stands for
        d above. An empty class has C_k = 0 and share 0.

    Raises:
        TypeError: Z is not a real floating array, Pi neither floating nor integer, or labels being traced.
        ValueError: too few axes, NaN or infinity, eps not positive, Pi of another length or negative.

    Source: [REDU] (16)-(17); (35)-(36) for signals.

    Example:
        >>> import numpy as np, srr
        >>> made = srr.redunet_operators(np.eye(4), np.asarray([0, 0, 1, 1]), eps=1.0)
        >>> np.diag(made.E).tolist(), np.diag(made.C[0]).round(3).tolist()
        ([0.5, 0.5, 0.5, 0.5], [0.667, 0.667, 2.0, 2.0])
    """
    xp = namespace(Z, Pi, xp=xp)
    check_signals(Z, shift_axes, xp=xp)
    check_positive(eps, "eps")
    core = core_cast(Z, core_dtype, xp)
    V = to_spectrum(core, shift_axes, xp=xp)  # (..., F, n, C)
    grams, counts = _class_grams(V, Pi, core, xp)  # (..., F, K, C, C), (..., K)
    total = xp.sum(counts, axis=-1)
    whole: Array = rate_scale(V, eps=eps, count=total)
    parts: Array = rate_scale(V, eps=eps, count=counts)
    E, expanded = _scaled_resolvent(xp.sum(grams, axis=-3), whole[..., None, None, None], xp)
    C, compressed = _scaled_resolvent(grams, parts[..., None, :, None, None], xp)
    weights = spectrum_weights(signal_sizes(Z, shift_axes), core, xp=xp)
    share = counts / total[..., None]
    compressed = xp.sum(share * xp.sum(weights[:, None] * compressed, axis=-2), axis=-1)
    gained = 0.5 * (xp.sum(weights * expanded, axis=-1) - compressed)
    if shift_axes == 0:
        E, C = E[..., 0, :, :], C[..., 0, :, :, :]
    E, C = (_cast(A, Z, xp) for A in (E, C))
    return ReduNetOperators(E, C, _cast(share, Z, xp), gained)


def expansion_operator(
    Z: Array, *, eps: float, shift_axes: int = 0, core_dtype: DType = None, xp: Namespace = None
) -> Array:
    r"""Expansion operator :math:`E = \alpha (I + \alpha Z^\top Z)^{-1}`; ``Z @ E`` is the gradient of R.

    Args:
        Z: tokens of shape (..., n, d), or signals (..., n, C, T) or (..., n, C, H, W).
        eps: distortion ε > 0.
        shift_axes: number of trailing shift axes.
        core_dtype: dtype of the Gram matrix and its factor; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (..., d, d), or complex (..., F, C, C) for signals.

    Raises:
        TypeError: Z is not a real floating array.
        ValueError: as :func:`redunet_operators`.

    Source: [REDU] (16), (35).
    """
    xp = namespace(Z, xp=xp)
    check_signals(Z, shift_axes, xp=xp)
    check_positive(eps, "eps")
    V = to_spectrum(core_cast(Z, core_dtype, xp), shift_axes, xp=xp)
    E, _ = _scaled_resolvent(adjoint(V, xp) @ V, rate_scale(V, eps=eps), xp)
    return _cast(E if shift_axes else E[..., 0, :, :], Z, xp)


def compression_operators(
    Z: Array, Pi: Array, *, eps: float, shift_axes: int = 0, core_dtype: DType = None, xp: Namespace = None
) -> Array:
    r"""Compression operators :math:`C_k = \alpha_k (I + \alpha_k Z^\top \Pi_k Z)^{-1}` of every class.

    Args:
        Z: tokens of shape (..., n, d), or signals (..., n, C, T) or (..., n, C, H, W).
        Pi: integer labels of shape (..., n) or (n,), or membership weights of shape (..., n, K).
        eps: distortion ε > 0.
        shift_axes: number of trailing shift axes.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (..., K, d, d), or complex (..., F, K, C, C) for signals.

    Raises:
        TypeError: as :func:`redunet_operators`.
        ValueError: as :func:`redunet_operators`.

    Source: [REDU] (17), (36).
    """
    return redunet_operators(Z, Pi, eps=eps, shift_axes=shift_axes, core_dtype=core_dtype, xp=xp).C


def _class_grams(V: Array, Pi: Array, core: Array, xp: Namespace) -> tuple[Array, Array]:
    """Gram matrices (..., F, K, C, C) and token counts (..., K) of the classes of a spectrum (..., F, n, C)."""
    if check_partition(Pi, V, xp):
        return _labelled_grams(V, Pi, core, xp)
    weights = xp.astype(Pi, core.dtype, copy=False).mT  # (..., K, n)
    rows = xp.sqrt(weights)[..., None, :, :, None] * V[..., None, :, :]  # (..., F, K, n, C)
    return adjoint(rows, xp) @ rows, xp.sum(weights, axis=-1)


def _labelled_grams(V: Array, labels: Array, core: Array, xp: Namespace) -> tuple[Array, Array]:
    segments = Segments.of(labels[..., None, :], V, xp)  # one batch item per frequency
    grams, counts = [], []
    for rows, count in segments.buckets(V, xp):  # classes of similar size, padded by zero rows
        grams.append(adjoint(rows, xp) @ rows)
        counts.append(count)
    table = asarray_like(segments.table.ravel(), V, dtype=xp.int64, xp=xp)
    K, C = segments.table.shape[-1], V.shape[-1]
    flat = xp.concat([*grams, xp.zeros_like(grams[0][:1, ...])])
    sizes = xp.concat([*counts, xp.zeros_like(counts[0][:1])])
    sizes = xp.reshape(xp.take(sizes, table, axis=0), (*V.shape[:-2], K))[..., 0, :]
    sizes = sizes if is_floating(sizes, xp) else xp.real(sizes)
    return xp.reshape(xp.take(flat, table, axis=0), (*V.shape[:-2], K, C, C)), sizes


def _scaled_resolvent(gram: Array, scale: Array | float, xp: Namespace) -> tuple[Array, Array]:
    """Operator s (I + s·G)⁻¹ of a Hermitian G, formed because it is applied to other tokens; logdet(I + s·G)."""
    identity = eye(gram.shape[-1], gram, xp)
    M = identity + scale * gram
    L = xp.linalg.cholesky(M)
    diagonal = xp.linalg.diagonal(L)
    diagonal = diagonal if is_floating(diagonal, xp) else xp.real(diagonal)
    inverse = cholesky_solve(L, xp.broadcast_to(identity, M.shape), xp)
    return scale * inverse, 2.0 * xp.sum(xp.log(diagonal), axis=-1)


def _cast(A: Array, Z: Array, xp: Namespace) -> Array:
    """Result in the dtype of the tokens, or in the complex dtype of their spectrum."""
    if is_floating(A, xp):
        return xp.astype(A, Z.dtype, copy=False)
    return xp.astype(A, xp.complex128 if Z.dtype == xp.float64 else xp.complex64, copy=False)
