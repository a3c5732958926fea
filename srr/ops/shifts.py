"""Signals and their circular shifts: spectra as one small matrix per frequency, circular convolution."""

from __future__ import annotations

import math

from srr._array import Array, Namespace, asarray_like, is_floating, namespace
from srr._checks import check_array

LARGEST = 2  # signals of one (time) or two (image) shift axes


def check_signals(Z: Array, shift_axes: int, name: str = "Z", *, xp: Namespace = None) -> None:
    """Refuse anything but finite real tokens (..., n, C) followed by 0, 1 or 2 shift axes."""
    if isinstance(shift_axes, bool) or shift_axes not in range(LARGEST + 1):
        raise ValueError(f"shift_axes must be 0, 1 or 2; got {shift_axes!r}")
    check_array(Z, name, ndim=2 + shift_axes, xp=xp)


def to_spectrum(Z: Array, shift_axes: int, *, xp: Namespace = None) -> Array:
    """Signals (..., n, C, *S) as (..., F, n, C): rows of channels at every frequency of the half spectrum.

    Vectors (``shift_axes`` = 0) have one frequency and stay real.
    """
    xp = namespace(Z, xp=xp)
    if shift_axes == 0:
        return Z[..., None, :, :]
    V = xp.fft.rfftn(Z, axes=tuple(range(-shift_axes, 0)))
    V = xp.reshape(V, (*V.shape[: V.ndim - shift_axes], -1))  # (..., n, C, F)
    return move_axis(V, -1, -3, xp)


def from_spectrum(V: Array, sizes: tuple[int, ...], *, xp: Namespace = None) -> Array:
    """Signals (..., n, C, *S) from their spectrum, S being ``sizes``: the inverse of :func:`to_spectrum`."""
    xp = namespace(V, xp=xp)
    if not sizes:
        return V[..., 0, :, :]
    V = move_axis(V, -3, -1, xp)
    V = xp.reshape(V, (*V.shape[:-1], *sizes[:-1], sizes[-1] // 2 + 1))
    return xp.fft.irfftn(V, s=sizes, axes=tuple(range(-len(sizes), 0)))


def spectrum_weights(sizes: tuple[int, ...], like: Array, *, xp: Namespace = None) -> Array:
    """Weights (F,) with which a sum over the half spectrum is the mean over the whole one; they sum to one.

    By Parseval they also give the squared norm of a signal from the squared moduli of its spectrum.
    """
    xp = namespace(like, xp=xp)
    if not sizes:
        return asarray_like([1.0], like, xp=xp)
    last = sizes[-1]
    half = [1.0 if j == 0 or 2 * j == last else 2.0 for j in range(last // 2 + 1)]
    return asarray_like(half * math.prod(sizes[:-1]), like, xp=xp) / math.prod(sizes)


def move_axis(A: Array, source: int, target: int, xp: Namespace) -> Array:
    """Move one axis, as a permutation: torch can trace and batch that."""
    order = list(range(A.ndim))
    order.insert(target % A.ndim, order.pop(source % A.ndim))
    return xp.permute_dims(A, tuple(order))


def signal_sizes(Z: Array, shift_axes: int) -> tuple[int, ...]:
    """Lengths S of the shift axes of signals (..., n, C, *S)."""
    return tuple(Z.shape[Z.ndim - shift_axes :])


def adjoint(V: Array, xp: Namespace) -> Array:
    """Conjugate transpose of the last two axes of a real or complex array."""
    return V.mT if is_floating(V, xp) else xp.conj(V).mT


def energy(V: Array, xp: Namespace) -> Array:
    """Squared moduli of a real or complex array."""
    return V**2 if is_floating(V, xp) else xp.real(V) ** 2 + xp.imag(V) ** 2


def to_sphere(Z: Array, *, shift_axes: int = 0, xp: Namespace = None) -> Array:
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


def circular_convolution(Z: Array, filters: Array, *, xp: Namespace = None) -> Array:
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
        >>> delayed = srr.circular_convolution(np.asarray([[[1.0, 2.0, 3.0]]]), np.asarray([[[0.0, 1.0]]]))
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
