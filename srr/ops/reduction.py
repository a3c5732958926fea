"""Rate reduction, the objective of MCR²: the rate of the whole less the rate of its parts."""

from __future__ import annotations

from srr._array import Array, DType, Namespace, namespace
from srr.ops.partition import partition_coding_rate, partition_coding_rate_value_and_grad
from srr.ops.rates import coding_rate, coding_rate_value_and_grad
from srr.ops.shared_reduction import shared_reduction


def rate_reduction(Z: Array, Pi: Array, *, eps: float, core_dtype: DType = None, xp: Namespace = None) -> Array:
    r"""Rate reduction, the objective of MCR², in nats.

    .. math:: \Delta R(Z \mid \Pi) = R(Z) - R^c(Z \mid \Pi) \ge 0

    Args:
        Z: tokens of shape (..., n, d).
        Pi: membership weights ≥ 0 of shape (..., n, K), tokens being weighted by their row sums; or integer labels
            ≥ 0 of shape (..., n) or (n,).
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        Reduction of shape (...), in nats, in the dtype of Z.

    Raises:
        TypeError: as :func:`partition_coding_rate`.
        ValueError: as :func:`partition_coding_rate`.

    Source: [MCR2] (9).

    Example:
        >>> import numpy as np, srr
        >>> Z = np.asarray([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> bool(srr.rate_reduction(Z, np.asarray([0, 0, 1, 1]), eps=0.5) > 0)
        True
        >>> float(srr.rate_reduction(Z, np.zeros(4, dtype=int), eps=0.5))
        0.0
    """
    xp = namespace(Z, Pi, xp=xp)
    compressed = partition_coding_rate(Z, Pi, eps=eps, core_dtype=core_dtype, xp=xp)
    return coding_rate(Z, eps=eps, weights=_token_weights(Pi, xp), core_dtype=core_dtype, xp=xp) - compressed


def rate_reduction_grad(Z: Array, Pi: Array, *, eps: float, core_dtype: DType = None, xp: Namespace = None) -> Array:
    r"""Gradient of :func:`rate_reduction`: :math:`\nabla R - \nabla R^c`, expansion less compression.

    Args:
        Z: tokens of shape (..., n, d).
        Pi: membership weights of shape (..., n, K) or integer labels.
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        Gradient of shape (..., n, d), nats per unit of Z.

    Raises:
        TypeError: as :func:`partition_coding_rate`.
        ValueError: as :func:`partition_coding_rate`.

    Source: gradient of [MCR2] (9); [REDU], E and C_k.
    """
    return rate_reduction_value_and_grad(Z, Pi, eps=eps, core_dtype=core_dtype, xp=xp)[1]


def rate_reduction_value_and_grad(
    Z: Array, Pi: Array, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> tuple[Array, Array]:
    """Value and gradient of :func:`rate_reduction` from one factorisation per class and one of the whole.

    Args:
        Z: tokens of shape (..., n, d).
        Pi: membership weights of shape (..., n, K) or integer labels.
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        The pair (reduction of shape (...), gradient of shape (..., n, d)), in nats.

    Raises:
        TypeError: as :func:`partition_coding_rate`.
        ValueError: as :func:`partition_coding_rate`.

    Source: [MCR2] (9) and its gradient.
    """
    xp = namespace(Z, Pi, xp=xp)
    shared = shared_reduction(Z, Pi, eps=eps, core_dtype=core_dtype, xp=xp)
    if shared is not None:
        return shared
    compressed, compress = partition_coding_rate_value_and_grad(Z, Pi, eps=eps, core_dtype=core_dtype, xp=xp)
    weights = _token_weights(Pi, xp)
    expanded, expand = coding_rate_value_and_grad(Z, eps=eps, weights=weights, core_dtype=core_dtype, xp=xp)
    return expanded - compressed, expand - compress


def _token_weights(Pi: Array, xp: Namespace) -> Array | None:
    """Total membership of every token; None for labels, where it is one."""
    return None if xp.isdtype(Pi.dtype, "integral") else xp.sum(Pi, axis=-1)
