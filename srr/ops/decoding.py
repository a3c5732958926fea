"""Attention of the newest tokens of a sequence: what a causal network computes one symbol at a time."""

from __future__ import annotations

from srr._array import Array, Namespace, device, namespace, softmax
from srr._checks import check_array, check_count, check_nonnegative


def ssa_newest(V: Array, *, count: int, scale: float = 1.0, mask: Array | None = None, xp: Namespace = None) -> Array:
    r"""Last rows of causal subspace self-attention, at the cost of those rows alone.

    .. math:: \operatorname{softmax}(s\, V_{\text{new}} V^\top)\, V, \qquad V_{\text{new}} = \text{last rows of } V

    with every row seeing the tokens up to its own.

    Args:
        V: coordinates of the whole sequence, of shape (..., n, p).
        count: number of newest tokens, 1 ≤ count ≤ n.
        scale: s ≥ 0.
        mask: boolean, broadcastable to (..., n); True at tokens that may be seen. A row that may see nothing gives
            zeros.
        xp: array namespace; looked up when None.

    Returns:
        Coordinates of shape (..., count, p), the last rows of ``ssa(V, scale=s, causal=True)`` with that mask.

    Raises:
        TypeError: V is not a real floating array, mask not boolean.
        ValueError: count outside 1 … n, mask of another length, scale negative, NaN or infinity.

    Source: [CRATE] (11) under a causal mask; queries, keys and values are one array, so V is the whole memory.

    Example:
        >>> import numpy as np, srr
        >>> V = np.asarray([[1.0], [3.0], [5.0]])
        >>> srr.ssa_newest(V, count=2, scale=0.0).ravel().tolist()
        [2.0, 3.0]
    """
    xp = namespace(V, mask, xp=xp)
    check_array(V, "V", xp=xp)
    check_count(count, "count")
    scale = check_nonnegative(scale, "scale")
    n = V.shape[-2]
    if count > n:
        raise ValueError(f"count must be at most the number of tokens {n}; got {count}")
    if mask is not None:
        _check_seen(mask, n, xp)
    newest = V[..., n - count :, :]
    place = xp.arange(n, device=device(V))
    seen = place[None, :] <= place[n - count :, None]  # (count, n)
    if mask is not None:
        seen = seen & mask[..., None, :]  # (..., count, n)
    scores = (newest @ V.mT) * scale
    return softmax(xp.where(seen, scores, xp.full_like(scores, -float("inf"))), axis=-1, xp=xp) @ V


def _check_seen(mask: Array, n: int, xp: Namespace) -> None:
    if not xp.isdtype(mask.dtype, "bool"):
        raise TypeError(f"mask must be boolean, True at tokens that may be seen; got {mask.dtype}")
    if mask.ndim < 1 or mask.shape[-1] != n:
        raise ValueError(f"mask must have shape (..., {n}); got {tuple(mask.shape)}")
