"""Contract-and-broadcast attention: compress a few representatives, then tell every token what came of it."""

from __future__ import annotations

from srr._array import Array, Namespace, device, namespace, softmax
from srr._checks import check_array, check_count, check_nonnegative
from srr.ops.attention import ssa


def stretch_means(V: Array, *, count: int, mask: Array | None = None, xp: Namespace = None) -> Array:
    r"""Means of ``count`` equal stretches of a sequence of tokens.

    Token i of n falls into stretch ⌊i · count / n⌋; padding tokens do not count. A stretch without tokens is zero.

    Args:
        V: coordinates of shape (..., n, p).
        count: number of stretches, ≥ 1.
        mask: boolean of shape (..., n), broadcastable over the leading axes of V; False leaves a token out.
        xp: array namespace; looked up when None.

    Returns:
        Means of shape (..., count, p).

    Raises:
        TypeError: V is not a real floating array, count not an integer.
        ValueError: count below one, a mask of another length, NaN or infinity.

    Source: the pooled representatives of [CBSA], along the sequence instead of over an image grid.

    Example:
        >>> import numpy as np, srr
        >>> srr.stretch_means(np.asarray([[1.0], [3.0], [5.0], [7.0]]), count=2).ravel().tolist()
        [2.0, 6.0]
    """
    xp = namespace(V, mask, xp=xp)
    check_array(V, "V", xp=xp)
    check_count(count, "count")
    n = V.shape[-2]
    place = xp.arange(n, device=device(V))
    stretch = place * count // n  # (n,)
    if mask is not None:
        if mask.shape[-1] != n:
            raise ValueError(f"mask must have shape (..., n) with n={n}; got {tuple(mask.shape)}")
        real = xp.astype(mask, place.dtype)
        total = xp.sum(real, axis=-1, keepdims=True)
        rank = (xp.cumulative_sum(real, axis=-1) - 1) * count // xp.where(total > 0, total, xp.ones_like(total))
        stretch = xp.where(mask, rank, xp.full_like(rank, -1))  # (..., n)
    member = stretch[..., None, :] == xp.arange(count, device=device(V))[:, None]  # (..., count, n)
    weights = xp.astype(member, V.dtype)
    size = xp.sum(weights, axis=-1, keepdims=True)
    return (weights / xp.where(size > 0, size, xp.ones_like(size))) @ V


def contract_broadcast(
    V: Array,
    representatives: Array,
    *,
    step: Array | float = 1.0,
    scale: float = 1.0,
    mask: Array | None = None,
    xp: Namespace = None,
) -> Array:
    r"""Contract-and-broadcast attention inside the heads, linear in the number of tokens.

    .. math:: A = \operatorname{softmax}_{\text{rows}}(s\, Q V^\top), \qquad
              Q' = Q + \rho\, A V, \qquad \text{out} = A^\top\, \mathrm{SSA}(Q')

    Args:
        V: coordinates of shape (..., n, p).
        representatives: Q of shape (..., m, p), such as :func:`stretch_means`.
        step: ρ, a number or an array that broadcasts over Q.
        scale: s ≥ 0 of both softmaxes.
        mask: boolean, broadcastable to (..., m, n); False hides a token from the representatives and them from it.
        xp: array namespace; looked up when None.

    Returns:
        Coordinates of shape (..., n, p).

    Raises:
        TypeError: V or Q is not a real floating array.
        ValueError: scale negative, Q without the p of V, NaN or infinity.

    Source: [CBSA]: representatives are extracted and contracted, the contraction is broadcast.
    """
    xp = namespace(V, representatives, mask, xp=xp)
    check_array(V, "V", xp=xp)
    check_array(representatives, "representatives", xp=xp)
    check_nonnegative(scale, "scale")
    if representatives.shape[-1] != V.shape[-1]:
        raise ValueError(
            f"representatives must have shape (..., m, p) with p={V.shape[-1]}; got {tuple(representatives.shape)}"
        )
    scores = (representatives @ V.mT) * scale
    if mask is not None:
        scores = xp.where(mask, scores, xp.full_like(scores, -float("inf")))
    A = softmax(scores, axis=-1, xp=xp)  # (..., m, n)
    return A.mT @ ssa(representatives + step * (A @ V), scale=scale, xp=xp)
