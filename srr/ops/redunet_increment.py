"""One ReduNet increment: expand every token, compress it in its class; and the membership it estimates."""

from __future__ import annotations

import numpy as np

from srr._array import Array, Namespace, asarray_like, namespace, softmax
from srr._checks import check_nonnegative
from srr.ops.partition import check_partition
from srr.ops.redunet import ReduNetOperators
from srr.ops.segments import Segments
from srr.ops.shifts import (
    check_signals,
    energy,
    from_spectrum,
    move_axis,
    signal_sizes,
    spectrum_weights,
    to_spectrum,
)

_CHUNK = 512  # rows whose (K + 1)·d responses are held at once, so that they stay in the cache


def redunet_increment(
    Z: Array,
    operators: ReduNetOperators,
    Pi: Array | None = None,
    *,
    sharpness: float = 100.0,
    shift_axes: int = 0,
    xp: Namespace = None,
) -> Array:
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
    if Pi is not None and check_partition(Pi, V, xp):
        moved = V @ E - _compress_labelled(V, C, operators.proportions, Pi, xp)
        return from_spectrum(moved, signal_sizes(Z, shift_axes), xp=xp)
    stack = _side_by_side(E, C, xp)
    weights = spectrum_weights(signal_sizes(Z, shift_axes), Z, xp=xp)
    moved = []
    for rows in _chunks(V.shape[-2]):
        P = _responses(V[..., rows, :], stack, xp)
        pi = _membership(P, weights, sharpness, xp) if Pi is None else xp.astype(Pi[..., rows, :], Z.dtype)
        pi = (operators.proportions[..., None, :] * pi)[..., None, :, :, None]  # (..., 1, c, K, 1)
        moved.append(P[..., 0, :] - xp.sum(pi * P[..., 1:, :], axis=-2))
    return from_spectrum(xp.concat(moved, axis=-2), signal_sizes(Z, shift_axes), xp=xp)


def compression_norms(Z: Array, C: Array, *, shift_axes: int = 0, xp: Namespace = None) -> Array:
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
    Z: Array, C: Array, *, sharpness: float = 100.0, shift_axes: int = 0, xp: Namespace = None
) -> Array:
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


def _spectrum(Z: Array, C: Array, shift_axes: int, xp: Namespace) -> Array:
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


def _flat_columns(C: Array, xp: Namespace) -> Array:
    """Operators (..., K, d, d) side by side as (..., d, K·d), so that one product serves them all."""
    C = move_axis(C, -3, -2, xp)
    return xp.reshape(C, (*C.shape[:-2], -1))


def _side_by_side(E: Array, C: Array, xp: Namespace) -> Array:
    return xp.concat([E, _flat_columns(C, xp)], axis=-1)


def _responses(V: Array, stack: Array, xp: Namespace) -> Array:
    """Rows under every operator of the stack, (..., F, c, K, C)."""
    P = V @ stack
    return xp.reshape(P, (*P.shape[:-1], -1, V.shape[-1]))


def _norms(P: Array, weights: Array, xp: Namespace) -> Array:
    """Norms (..., c, K) of responses, by Parseval over the frequencies."""
    return xp.sqrt(xp.sum(weights[:, None, None] * xp.sum(energy(P, xp), axis=-1), axis=-3))


def _membership(P: Array, weights: Array, sharpness: float, xp: Namespace) -> Array:
    return softmax(-sharpness * _norms(P[..., 1:, :], weights, xp), axis=-1, xp=xp)


def _compress_labelled(V: Array, C: Array, proportions: Array, labels: Array, xp: Namespace) -> Array:
    """γ_k C_k z for the class k of every token: one product per class, and never one for another class."""
    segments = Segments.of(labels[..., None, :], V, xp)
    K, d = segments.table.shape[-1], V.shape[-1]
    if C.shape[-3] < K:
        raise ValueError(f"Pi must have labels below K={C.shape[-3]}; got {K - 1}")
    scaled = proportions[..., None, :K, None, None] * C[..., :K, :, :]
    scaled = xp.reshape(xp.broadcast_to(scaled, (*V.shape[:-2], K, d, d)), (-1, d, d))
    order, rows, first = np.argsort(segments.table.ravel(), kind="stable"), [], 0
    for tokens, count in segments.buckets(V, xp):
        chosen = asarray_like(order[first : first + count.shape[0]], V, dtype=xp.int64, xp=xp)
        rows.append(tokens @ xp.take(scaled, chosen, axis=0))
        first += count.shape[0]
    return segments.restore(rows, xp)
