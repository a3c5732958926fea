"""Coding rate of a partition, from soft memberships or from labels."""

from __future__ import annotations

from srr._array import Array, DType, Namespace, any_true, core_cast, is_concrete, namespace, root
from srr._checks import check_array, check_batch, check_positive, check_tokens
from srr.ops.gram import gram_factor
from srr.ops.rates import as_column, core_tolerance, rate_scale
from srr.ops.segments import Segments


def partition_coding_rate(Z: Array, Pi: Array, *, eps: float, core_dtype: DType = None, xp: Namespace = None) -> Array:
    r"""Coding rate of tokens class by class, in nats.

    .. math:: R^c(Z \mid \Pi) = \sum_k \frac{\operatorname{tr}\Pi_k}{2n}
              \log\det\Bigl(I + \frac{d}{\varepsilon^2 \operatorname{tr}\Pi_k} Z^\top \Pi_k Z\Bigr)

    Args:
        Z: tokens of shape (..., n, d).
        Pi: membership weights ≥ 0 of shape (..., n, K), n being their total; or integer labels ≥ 0 of shape
            (..., n) or (n,), which are sorted into segments and need concrete values (no tracing).
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        Rate of shape (...), in nats, in the dtype of Z; empty classes count zero.

    Raises:
        TypeError: Z is not a real floating array, Pi neither floating nor integer, or labels being traced.
        ValueError: another length, negative entries, NaN or infinity, eps not positive.

    Source: [MCR2] (8).

    Example:
        >>> import numpy as np, srr
        >>> Z, labels = np.eye(4), np.asarray([0, 0, 1, 1])
        >>> float(srr.partition_coding_rate(Z, labels, eps=1.0) / np.log(3.0))
        1.0
    """
    xp = namespace(Z, Pi, xp=xp)
    return _partition(Z, Pi, eps, core_dtype, xp, grad=False)[0]


def partition_coding_rate_grad(
    Z: Array, Pi: Array, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> Array:
    r"""Gradient of :func:`partition_coding_rate` with respect to the tokens.

    .. math:: \sum_k \frac{\operatorname{tr}\Pi_k}{n} \alpha_k \Pi_k Z (I + \alpha_k Z^\top \Pi_k Z)^{-1},\quad
              \alpha_k = \frac{d}{\varepsilon^2 \operatorname{tr}\Pi_k}

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

    Source: gradient of [MCR2] (8); [REDU], compression operators C_k.
    """
    return partition_coding_rate_value_and_grad(Z, Pi, eps=eps, core_dtype=core_dtype, xp=xp)[1]


def partition_coding_rate_value_and_grad(
    Z: Array, Pi: Array, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> tuple[Array, Array]:
    """Value and gradient of :func:`partition_coding_rate` from one factorisation per class.

    Args:
        Z: tokens of shape (..., n, d).
        Pi: membership weights of shape (..., n, K) or integer labels.
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        The pair (rate of shape (...), gradient of shape (..., n, d)), in nats.

    Raises:
        TypeError: as :func:`partition_coding_rate`.
        ValueError: as :func:`partition_coding_rate`.

    Source: [MCR2] (8) and its gradient.
    """
    return _partition(Z, Pi, eps, core_dtype, namespace(Z, Pi, xp=xp), grad=True)


def _partition(Z: Array, Pi: Array, eps: float, core_dtype: DType, xp: Namespace, *, grad: bool) -> tuple[Array, Array]:
    """Value, and gradient when asked for (None otherwise)."""
    check_tokens(Z, xp=xp)
    eps = check_positive(eps, "eps")
    labelled = check_partition(Pi, Z, xp)
    A = core_cast(Z, core_dtype, xp)
    form = _from_labels if labelled else _from_membership
    value, slope = form(A, Pi, eps, core_tolerance(Z, A, xp), xp, grad)
    return xp.astype(value, Z.dtype, copy=False), xp.astype(slope, Z.dtype, copy=False) if grad else None


def check_partition(Pi: Array, Z: Array, xp: Namespace) -> bool:
    """Refuse what is neither labels nor memberships of the tokens; True for labels."""
    n = Z.shape[-2]
    if xp.isdtype(Pi.dtype, "integral"):
        if Pi.ndim < 1 or Pi.shape[-1] != n:
            raise ValueError(f"Pi as labels must have shape (..., n) with n={n}; got {tuple(Pi.shape)}")
        return True
    check_array(Pi, "Pi", xp=xp)
    if Pi.shape[-2] != n:
        raise ValueError(f"Pi as membership must have shape (..., n, K) with n={n}; got {tuple(Pi.shape)}")
    check_batch(Pi, tuple(Z.shape[:-2]), 2, "Pi")
    if is_concrete(Pi) and any_true(Pi < 0, xp):
        raise ValueError("Pi must be >= 0; got a negative entry")
    return False


def _from_membership(A: Array, Pi: Array, eps: float, rtol: float, xp: Namespace, grad: bool) -> tuple[Array, Array]:
    weights = xp.astype(Pi, A.dtype, copy=False).mT  # (..., K, n)
    count = xp.sum(weights, axis=-1)  # (..., K)
    total = xp.sum(count, axis=-1)
    half = root(weights, xp)[..., None]
    factor = gram_factor(half * A[..., None, :, :], rate_scale(A, eps=eps, count=count), rtol=rtol, xp=xp)
    share = count / xp.where(total > 0, total, xp.ones_like(total))[..., None]
    value = 0.5 * xp.sum(share * factor.logdet(), axis=-1)
    if not grad:
        return value, None
    slope = xp.sum(half * factor.resolvent(), axis=-3)  # share · α_k = α for every class
    return value, as_column(rate_scale(A, eps=eps, count=total)) * slope


def _from_labels(A: Array, labels: Array, eps: float, rtol: float, xp: Namespace, grad: bool) -> tuple[Array, Array]:
    segments = Segments.of(labels, A, xp)
    n = A.shape[-2]
    if not segments.members:  # a batch of no token sets
        return xp.sum(A, axis=(-2, -1)), A if grad else None
    logdets, rows = [], []
    for tokens, count in segments.buckets(A, xp):  # (S, m, d), (S,): classes of similar size
        factor = gram_factor(tokens, rate_scale(A, eps=eps, count=count), rtol=rtol, xp=xp)
        logdets.append(count / n * factor.logdet())
        if grad:
            rows.append(factor.resolvent())
    value = 0.5 * segments.sum_by_item(logdets, xp)
    return value, rate_scale(A, eps=eps) * segments.restore(rows, xp) if grad else None
