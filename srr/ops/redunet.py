r"""ReduNet: expansion and compression operators and one increment; vectors, and 1-D or 2-D signals by FFT.

With ``shift_axes=0`` tokens are vectors, ``Z`` of shape (..., n, d). With ``shift_axes`` = 1 or 2 they are
signals of shape (..., n, C, T) or (..., n, C, H, W), and every circular shift of a signal belongs to its class:
the operators are then block-circulant, each frequency has its own C×C block, and nothing larger is factorized.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from srr._array.checks import check_array, check_count, check_nonnegative
from srr._array.derivatives import gram_factor
from srr._array.linalg import (
    bare_gram,
    cholesky,
    inverse_of_factor,
    logdet_of_factor,
    pivots_keep,
    shifted,
    weighted_gram,
)
from srr._array.namespace import (
    Array,
    ArrayT,
    DType,
    Namespace,
    any_true,
    asarray_like,
    core_cast,
    index_like,
    is_differentiated,
    is_floating,
    namespace,
    softmax,
)
from srr.ops.rates import Segments, check_distortion, check_partition, core_tolerance, labels_on_host, rate_scale


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


_MOST = 10_000  # classes that labels may name without a word about how many there are


def redunet_operators(
    Z: ArrayT,
    Pi: Array,
    *,
    eps: float,
    classes: int | None = None,
    shift_axes: int = 0,
    core_dtype: DType = None,
    xp: Namespace = None,
) -> ReduNetOperators:
    r"""Expansion and compression operators of tokens with their classes, from one factorization each.

    .. math:: E = \alpha \bigl(I + \alpha Z^\top Z\bigr)^{-1},\quad
              C_k = \alpha_k \bigl(I + \alpha_k Z^\top \Pi_k Z\bigr)^{-1},\quad
              \alpha = \frac{d}{n \varepsilon^2},\ \alpha_k = \frac{d}{\varepsilon^2 \operatorname{tr}\Pi_k}

    Args:
        Z: tokens of shape (..., n, d), or signals of shape (..., n, C, T) or (..., n, C, H, W).
        Pi: integer labels ≥ 0 of shape (..., n) or (n,), or membership weights ≥ 0 of shape (..., n, K).
        eps: distortion ε > 0.
        classes: number K of classes; by default the number of columns of Pi, or one more than the largest label,
            which must then be below 10,000.
        shift_axes: number of trailing axes along which the circular shifts of a token belong to its class.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        The operators: symmetric for vectors, complex Hermitian per frequency for signals, where C stands for
        d above. Class k is row k of ``C``; an empty class has C_k = 0 and share 0.

    Raises:
        TypeError: Z is not a real floating array, Pi neither floating nor integer, or labels being traced.
        ValueError: too few axes, NaN or infinity, eps not positive, Pi of another length, negative, or of more
            classes than ``classes``.

    Source: [REDU] (16)-(17); (35)-(36) for signals.

    Example:
        >>> import numpy as np, srr
        >>> made = srr.ops.redunet_operators(np.eye(4), np.asarray([0, 0, 1, 1]), eps=1.0)
        >>> np.diag(made.E).tolist(), np.diag(made.C[0]).round(3).tolist()
        ([0.5, 0.5, 0.5, 0.5], [0.667, 0.667, 2.0, 2.0])
    """
    xp = namespace(Z, Pi, xp=xp)
    check_signals(Z, shift_axes, xp=xp)
    eps = check_distortion(eps)
    if classes is not None:
        check_count(classes, "classes")
    core = core_cast(Z, core_dtype, xp)
    V = to_spectrum(core, shift_axes, xp=xp)  # (..., F, n, C)
    labeled = check_partition(Pi, V, xp, classes)
    parts: Any = _segments(Pi, V, classes) if labeled else xp.astype(Pi, core.dtype, copy=False)
    rtol = core_tolerance(Z, core, xp)
    found = None if is_differentiated(V, Pi) else _from_grams(V, parts, eps, rtol, xp)
    E, C, counts, expanded, compressed = found or _from_rows(V, parts, eps, rtol, xp)
    total = xp.sum(counts, axis=-1)
    share = counts / xp.where(total > 0, total, xp.ones_like(total))[..., None]
    weights = spectrum_weights(signal_sizes(Z, shift_axes), core, xp=xp)
    within = xp.sum(share * xp.sum(weights[:, None] * compressed, axis=-2), axis=-1)
    gained = 0.5 * (xp.sum(weights * expanded, axis=-1) - within)
    if shift_axes == 0:
        E, C = E[..., 0, :, :], C[..., 0, :, :, :]
    E, C = (_cast(A, Z, xp) for A in (E, C))
    return ReduNetOperators(E, C, _cast(share, Z, xp), gained)


def expansion_operator(
    Z: ArrayT, *, eps: float, shift_axes: int = 0, core_dtype: DType = None, xp: Namespace = None
) -> ArrayT:
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
    core = core_cast(Z, core_dtype, xp)
    V = to_spectrum(core, shift_axes, xp=xp)
    scale = rate_scale(*V.shape[-2:], eps=eps)
    E = scale * gram_factor(V, scale, rtol=core_tolerance(Z, core, xp), xp=xp).inverse()
    return _cast(E if shift_axes else E[..., 0, :, :], Z, xp)


def compression_operators(
    Z: ArrayT,
    Pi: Array,
    *,
    eps: float,
    classes: int | None = None,
    shift_axes: int = 0,
    core_dtype: DType = None,
    xp: Namespace = None,
) -> ArrayT:
    r"""Compression operators :math:`C_k` of every class, the ``C`` of :func:`redunet_operators`.

    Args:
        Z: tokens of shape (..., n, d), or signals (..., n, C, T) or (..., n, C, H, W).
        Pi: integer labels of shape (..., n) or (n,), or membership weights of shape (..., n, K).
        eps: distortion ε > 0.
        classes: number K of classes; by default read from Pi.
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
    options: dict[str, Any] = {"classes": classes, "shift_axes": shift_axes, "core_dtype": core_dtype, "xp": xp}
    C: Any = redunet_operators(Z, Pi, eps=eps, **options).C
    return C


def _segments(labels: Array, V: Array, classes: int | None) -> Segments:
    """Labels sorted once for every frequency of a spectrum (..., F, n, C); the width of the table is K."""
    host = labels_on_host(labels)
    if classes is None:
        classes = int(host.max(initial=0)) + 1
        if classes > _MOST:
            raise ValueError(
                f"Pi as labels must lie below {_MOST:,}, or classes= must say how many there are; got {classes - 1}"
            )
    return Segments.of(host[..., None, :], V, classes)


def _from_grams(V: Any, parts: Any, eps: float, rtol: float, xp: Namespace) -> Any:
    """E, C, counts and both log-determinants from the Gram matrices of the classes, whose sum is that of the whole.

    None where a Gram matrix has lost the digits.
    """
    grams, counts = _class_grams(V, parts, xp)  # (..., F, K, C, C), (..., K)
    d = V.shape[-1]
    whole = rate_scale(xp.sum(counts, axis=-1), d, eps=eps)[..., None, None, None]
    each = rate_scale(counts, d, eps=eps)[..., None, :, None, None]
    some = shifted(xp.sum(grams, axis=-3), whole, xp), shifted(grams, each, xp)
    factors = [L for M in some if (L := cholesky(M, xp)) is not None]
    if len(factors) < len(some):
        return None
    if any_true(~pivots_keep(some[0], factors[0], rtol, xp), xp):
        return None
    empty = (counts == 0.0)[..., None, :]  # their log-determinant is zero, and nothing of it is lost
    if any_true(~(pivots_keep(some[1], factors[1], rtol, xp) | empty), xp):
        return None
    E, C = (s * inverse_of_factor(L, xp) for s, L in zip((whole, each), factors, strict=True))
    return E, C, counts, *(logdet_of_factor(L, xp) for L in factors)


def _class_grams(V: Any, parts: Any, xp: Namespace) -> tuple[Any, Any]:
    """Gram matrices (..., F, K, C, C) and token counts (..., K) of the classes of a spectrum (..., F, n, C)."""
    if not isinstance(parts, Segments):
        weights = parts.mT[..., None, :, :]  # (..., 1, K, n)
        return weighted_gram(V[..., None, :, :], weights, xp), xp.sum(parts, axis=-2)
    made = [(bare_gram(rows, xp), count) for rows, count in parts.buckets(V, xp)]  # padded by zero rows
    return _spread(parts, V, [G for G, _ in made], xp), _spread(parts, V, [c for _, c in made], xp)[..., 0, :]


def _from_rows(V: Any, parts: Any, eps: float, rtol: float, xp: Namespace) -> Any:
    """The same from the rows themselves: every digit, and every derivative."""
    n, d = V.shape[-2:]
    if isinstance(parts, Segments):
        made = []
        for rows, count in parts.buckets(V, xp):
            scale = rate_scale(count, d, eps=eps)
            factor = gram_factor(rows, scale, rtol=rtol, xp=xp)
            made.append((scale[..., None, None] * factor.inverse(), count, factor.logdet()))
        C, counts, compressed = (_spread(parts, V, list(column), xp) for column in zip(*made, strict=True))
        counts, alpha, weights = counts[..., 0, :], rate_scale(n, d, eps=eps), None
        whole, lead = gram_factor(V, alpha, rtol=rtol, xp=xp), alpha
    else:
        counts = xp.sum(parts, axis=-2)
        each = rate_scale(counts, d, eps=eps)[..., None, :]
        factor = gram_factor(V[..., None, :, :], each, weights=parts.mT[..., None, :, :], rtol=rtol, xp=xp)
        C, compressed = each[..., None, None] * factor.inverse(), factor.logdet()
        weights = xp.sum(parts, axis=-1)[..., None, :]
        alpha = rate_scale(xp.sum(counts, axis=-1), d, eps=eps)[..., None]
        whole, lead = gram_factor(V, alpha, weights=weights, rtol=rtol, xp=xp), alpha[..., None, None]
    return lead * whole.inverse(), C, counts, whole.logdet(), compressed


def _spread(segments: Segments, V: Any, made: list[Any], xp: Namespace) -> Any:
    """What was made of the segments, bucket by bucket, as (..., F, K, ...) with zeros for empty classes."""
    table = index_like(segments.table.ravel(), V, xp)
    flat = xp.concat([*made, xp.zeros_like(made[0][:1, ...])])
    return xp.reshape(xp.take(flat, table, axis=0), (*V.shape[:-2], segments.table.shape[-1], *flat.shape[1:]))


def _cast(A: ArrayT, Z: ArrayT, xp: Namespace) -> ArrayT:
    """Result in the dtype of the tokens, or in the complex dtype of their spectrum."""
    if is_floating(A, xp):
        return xp.astype(A, Z.dtype, copy=False)
    return xp.astype(A, xp.complex128 if Z.dtype == xp.float64 else xp.complex64, copy=False)


# One ReduNet increment: expand every token, compress it in its class; and the membership it estimates


_CHUNK = 512  # rows whose (K + 1)·d responses are held at once, so that they stay in the cache


def redunet_increment(
    Z: ArrayT,
    operators: ReduNetOperators,
    Pi: ArrayT | None = None,
    *,
    sharpness: float = 100.0,
    shift_axes: int = 0,
    xp: Namespace = None,
) -> ArrayT:
    r"""Direction in which a ReduNet layer moves tokens: expansion of all, compression of each class.

    .. math:: E z - \sum_k \gamma_k \pi_k C_k z

    With the labels that made the operators this is the gradient of :func:`srr.rate_reduction`. Without ``Pi``
    the membership is :func:`estimated_membership`, which needs no label.

    Args:
        Z: tokens of shape (..., n, d), or signals (..., n, C, T) or (..., n, C, H, W).
        operators: E, C and γ from :func:`redunet_operators`.
        Pi: integer labels of shape (..., n) or (n,), membership weights of shape (..., n, K), or None.
        sharpness: λ ≥ 0 of the estimated membership, per unit of ‖C_k z‖.
        shift_axes: number of trailing shift axes; the same as for the operators.
        xp: array namespace; looked up when None.

    Returns:
        Array of the shape of Z, in nats per unit of Z.

    Raises:
        TypeError: Z is not a real floating array, Pi neither floating nor integer, or labels being traced.
        ValueError: sizes that do not fit the operators, NaN or infinity, sharpness negative.

    Source: [REDU] (20)-(22); (39) for signals.
    """
    xp = namespace(Z, Pi, xp=xp)
    V = _spectrum(Z, operators.C, shift_axes, xp)
    check_nonnegative(sharpness, "sharpness")
    E, C = _per_frequency(operators, shift_axes)
    if Pi is not None and check_partition(Pi, V, xp, operators.C.shape[-3]):
        labeled: Any = V @ E - _compress_labeled(V, C, operators.proportions, Pi, xp)
        return from_spectrum(labeled, signal_sizes(Z, shift_axes), xp=xp)
    stack = _side_by_side(E, C, xp)
    weights = spectrum_weights(signal_sizes(Z, shift_axes), Z, xp=xp)
    moved = []
    for rows in _chunks(V.shape[-2]):
        P = _responses(V[..., rows, :], stack, xp)
        pi = _membership(P, weights, sharpness, xp) if Pi is None else xp.astype(Pi[..., rows, :], Z.dtype)
        pi = (operators.proportions[..., None, :] * pi)[..., None, :, :, None]  # (..., 1, c, K, 1)
        moved.append(P[..., 0, :] - xp.sum(pi * P[..., 1:, :], axis=-2))
    return from_spectrum(xp.concat(moved, axis=-2), signal_sizes(Z, shift_axes), xp=xp)


def compression_norms(Z: ArrayT, C: ArrayT, *, shift_axes: int = 0, xp: Namespace = None) -> ArrayT:
    r"""How little of each token the classes explain, :math:`\lVert C_k z \rVert_2`.

    Args:
        Z: tokens of shape (..., n, d), or signals (..., n, C, T) or (..., n, C, H, W).
        C: compression operators of :func:`compression_operators`.
        shift_axes: number of trailing shift axes; circular shifts of a signal leave the result unchanged.
        xp: array namespace; looked up when None.

    Returns:
        Norms of shape (..., n, K): small for the class a token belongs to.

    Raises:
        TypeError: Z is not a real floating array.
        ValueError: sizes that do not fit, NaN or infinity.

    Source: [REDU] (19).
    """
    xp = namespace(Z, xp=xp)
    V = _spectrum(Z, C, shift_axes, xp)
    C = C if shift_axes else C[..., None, :, :, :]
    weights = spectrum_weights(signal_sizes(Z, shift_axes), Z, xp=xp)
    stack = _flat_columns(C, xp)
    norms = [_norms(_responses(V[..., rows, :], stack, xp), weights, xp) for rows in _chunks(V.shape[-2])]
    return xp.concat(norms, axis=-2)


def estimated_membership(
    Z: ArrayT, C: ArrayT, *, sharpness: float = 100.0, shift_axes: int = 0, xp: Namespace = None
) -> ArrayT:
    r"""Membership that needs no label: tokens belong to the class whose operator suppresses them most.

    .. math:: \hat\pi_k = \operatorname{softmax}_k\bigl(-\lambda \lVert C_k z \rVert_2\bigr)

    Args:
        Z: tokens of shape (..., n, d), or signals (..., n, C, T) or (..., n, C, H, W).
        C: compression operators of :func:`compression_operators`.
        sharpness: λ ≥ 0, per unit of ‖C_k z‖.
        shift_axes: number of trailing shift axes.
        xp: array namespace; looked up when None.

    Returns:
        Membership of shape (..., n, K); rows sum to one.

    Raises:
        TypeError: Z is not a real floating array.
        ValueError: sizes that do not fit, NaN or infinity, sharpness negative.

    Source: [REDU] (19).
    """
    check_nonnegative(sharpness, "sharpness")
    xp = namespace(Z, xp=xp)
    return softmax(-sharpness * compression_norms(Z, C, shift_axes=shift_axes, xp=xp), axis=-1, xp=xp)


def _chunks(n: int) -> list[slice]:
    return [slice(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK)]


def _spectrum(Z: ArrayT, C: ArrayT, shift_axes: int, xp: Namespace) -> ArrayT:
    """Spectrum of the tokens once their size is known to fit the operators."""
    check_signals(Z, shift_axes, xp=xp)
    if C.ndim < 3 + (shift_axes > 0) or C.shape[-1] != Z.shape[Z.ndim - shift_axes - 1]:
        raise ValueError(f"Z must fit operators C of shape {tuple(C.shape)}; got {tuple(Z.shape)}")
    V = to_spectrum(Z, shift_axes, xp=xp)
    if shift_axes and C.shape[-4] != V.shape[-3]:
        raise ValueError(f"Z must have the signal size of C of shape {tuple(C.shape)}; got {tuple(Z.shape)}")
    return V


def _per_frequency(operators: ReduNetOperators, shift_axes: int) -> tuple[Array, Array]:
    """E (..., F, C, C) and C (..., F, K, C, C), vectors having one frequency."""
    if shift_axes:
        return operators.E, operators.C
    return operators.E[..., None, :, :], operators.C[..., None, :, :, :]


def _flat_columns(C: ArrayT, xp: Namespace) -> ArrayT:
    """Operators (..., K, d, d) side by side as (..., d, K·d), so that one product serves them all."""
    C = move_axis(C, -3, -2, xp)
    return xp.reshape(C, (*C.shape[:-2], -1))


def _side_by_side(E: ArrayT, C: ArrayT, xp: Namespace) -> ArrayT:
    return xp.concat([E, _flat_columns(C, xp)], axis=-1)


def _responses(V: ArrayT, stack: ArrayT, xp: Namespace) -> ArrayT:
    """Rows under every operator of the stack, (..., F, c, K, C)."""
    P = V @ stack
    return xp.reshape(P, (*P.shape[:-1], -1, V.shape[-1]))


def _norms(P: ArrayT, weights: ArrayT, xp: Namespace) -> ArrayT:
    """Norms (..., c, K) of responses, by Parseval over the frequencies."""
    return xp.sqrt(xp.sum(weights[:, None, None] * xp.sum(energy(P, xp), axis=-1), axis=-3))


def _membership(P: ArrayT, weights: ArrayT, sharpness: float, xp: Namespace) -> ArrayT:
    return softmax(-sharpness * _norms(P[..., 1:, :], weights, xp), axis=-1, xp=xp)


def _compress_labeled(V: Any, C: Any, proportions: Any, labels: Any, xp: Namespace) -> Any:
    """γ_k C_k z for the class k of every token: one product per class, and never one for another class."""
    K, d = C.shape[-3], V.shape[-1]
    segments = Segments.of(labels[..., None, :], V, K)
    scaled = proportions[..., None, :, None, None] * C
    scaled = xp.reshape(xp.broadcast_to(scaled, (*V.shape[:-2], K, d, d)), (-1, d, d))
    order, rows, first = np.argsort(segments.table.ravel(), kind="stable"), [], 0
    for tokens, count in segments.buckets(V, xp):
        chosen = index_like(order[first : first + count.shape[0]], V, xp)
        rows.append(tokens @ xp.take(scaled, chosen, axis=0))
        first += count.shape[0]
    return segments.restore(rows, xp)


# Signals and their circular shifts: spectra as one small matrix per frequency, circular convolution


LARGEST = 2  # signals of one (time) or two (image) shift axes


def check_signals(Z: Array, shift_axes: int, name: str = "Z", *, xp: Namespace = None) -> None:
    """Refuse anything but finite real tokens (..., n, C) followed by 0, 1 or 2 shift axes."""
    if isinstance(shift_axes, bool) or shift_axes not in range(LARGEST + 1):
        raise ValueError(f"shift_axes must be 0, 1 or 2; got {shift_axes!r}")
    check_array(Z, name, ndim=2 + shift_axes, xp=xp)


def to_spectrum(Z: ArrayT, shift_axes: int, *, xp: Namespace = None) -> ArrayT:
    """Signals (..., n, C, *S) as (..., F, n, C): rows of channels at every frequency of the half spectrum.

    Vectors (``shift_axes`` = 0) have one frequency and stay real.
    """
    xp = namespace(Z, xp=xp)
    if shift_axes == 0:
        return Z[..., None, :, :]
    V = xp.fft.rfftn(Z, axes=tuple(range(-shift_axes, 0)))
    V = xp.reshape(V, (*V.shape[: V.ndim - shift_axes], -1))  # (..., n, C, F)
    return move_axis(V, -1, -3, xp)


def from_spectrum(V: ArrayT, sizes: tuple[int, ...], *, xp: Namespace = None) -> ArrayT:
    """Signals (..., n, C, *S) from their spectrum, S being ``sizes``: the inverse of :func:`to_spectrum`."""
    xp = namespace(V, xp=xp)
    if not sizes:
        return V[..., 0, :, :]
    V = move_axis(V, -3, -1, xp)
    V = xp.reshape(V, (*V.shape[:-1], *sizes[:-1], sizes[-1] // 2 + 1))
    return xp.fft.irfftn(V, s=sizes, axes=tuple(range(-len(sizes), 0)))


def spectrum_weights(sizes: tuple[int, ...], like: ArrayT, *, xp: Namespace = None) -> ArrayT:
    """Weights (F,) with which a sum over the half spectrum is the mean over the whole one; they sum to one.

    By Parseval they also give the squared norm of a signal from the squared moduli of its spectrum.
    """
    xp = namespace(like, xp=xp)
    if not sizes:
        return asarray_like([1.0], like, xp=xp)
    last = sizes[-1]
    half = [1.0 if j == 0 or 2 * j == last else 2.0 for j in range(last // 2 + 1)]
    return asarray_like(half * math.prod(sizes[:-1]), like, xp=xp) / math.prod(sizes)


def move_axis(A: ArrayT, source: int, target: int, xp: Namespace) -> ArrayT:
    """Move one axis, as a permutation: torch can trace and batch that."""
    order = list(range(A.ndim))
    order.insert(target % A.ndim, order.pop(source % A.ndim))
    return xp.permute_dims(A, tuple(order))


def signal_sizes(Z: Array, shift_axes: int) -> tuple[int, ...]:
    """Lengths S of the shift axes of signals (..., n, C, *S)."""
    return tuple(Z.shape[Z.ndim - shift_axes :])


def energy(V: ArrayT, xp: Namespace) -> ArrayT:
    """Squared moduli of a real or complex array."""
    return V**2 if is_floating(V, xp) else xp.real(V) ** 2 + xp.imag(V) ** 2


def to_sphere(Z: ArrayT, *, shift_axes: int = 0, xp: Namespace = None) -> ArrayT:
    """Tokens (or signals) scaled to unit norm; a zero token stays zero.

    Args:
        Z: tokens of shape (..., n, d), or signals (..., n, C, T) or (..., n, C, H, W).
        shift_axes: number of trailing shift axes.
        xp: array namespace; looked up when None.

    Returns:
        Array of the shape of Z.

    Raises:
        TypeError: Z is not a real floating array.
        ValueError: too few axes, NaN or infinity.
    """
    xp = namespace(Z, xp=xp)
    check_signals(Z, shift_axes, xp=xp)
    axes = tuple(range(-1 - shift_axes, 0))
    size = xp.max(xp.abs(Z), axis=axes, keepdims=True)  # norms of tiny and huge tokens neither vanish nor overflow
    Z = Z / xp.where(size > 0, size, xp.ones_like(size))
    norm = xp.sqrt(xp.sum(Z * Z, axis=axes, keepdims=True))
    return Z / xp.where(norm > 0, norm, xp.ones_like(norm))


def circular_convolution(Z: ArrayT, filters: ArrayT, *, xp: Namespace = None) -> ArrayT:
    r"""Lift signals to more channels by circular convolution, through the Fourier transform.

    .. math:: (Z * f)_{c}(t) = \sum_{b} \sum_{s} f_{cb}(s)\, Z_b(t - s)

    Circular shifts of the signal shift the result by the same amount.

    Args:
        Z: signals of shape (..., n, B, T) or (..., n, B, H, W).
        filters: filters of shape (C, B, t) or (C, B, h, w), not larger than the signals.
        xp: array namespace; looked up when None.

    Returns:
        Signals of shape (..., n, C, T) or (..., n, C, H, W).

    Raises:
        TypeError: Z or filters is not a real floating array.
        ValueError: filters with other axes or channels, or larger than the signals; NaN or infinity.

    Source: [REDU] §4.1, lifting by random or designed kernels before a shift-invariant ReduNet.

    Example:
        >>> import numpy as np, srr
        >>> delayed = srr.ops.circular_convolution(np.asarray([[[1.0, 2.0, 3.0]]]), np.asarray([[[0.0, 1.0]]]))
        >>> delayed.round(12).ravel().tolist()
        [3.0, 1.0, 2.0]
    """
    xp = namespace(Z, filters, xp=xp)
    check_array(filters, "filters", ndim=3, xp=xp)
    axes = filters.ndim - 2
    check_signals(Z, axes, xp=xp)
    sizes = signal_sizes(Z, axes)
    larger = any(k > s for k, s in zip(filters.shape[2:], sizes, strict=True))
    if filters.shape[1] != Z.shape[-axes - 1] or larger:
        raise ValueError(f"filters must fit signals of shape {tuple(Z.shape)}; got {tuple(filters.shape)}")
    around = tuple(range(-axes, 0))
    V = to_spectrum(Z, axes, xp=xp)  # (..., F, n, B)
    G = xp.fft.rfftn(filters, s=sizes, axes=around)
    G = move_axis(xp.reshape(G, (*filters.shape[:2], -1)), -1, 0, xp).mT  # (F, B, C)
    return from_spectrum(V @ G, sizes, xp=xp)
