"""Subspaces: coordinates of tokens in them, and bases from data."""

from __future__ import annotations

from srr._array import Array, Namespace, asarray_like, namespace, to_numpy
from srr._checks import check_array, check_bases, check_count, check_labels, check_tokens


def swap_heads(x: Array, xp: Namespace) -> Array:
    """Exchange axes −3 and −2: heads before tokens (..., K, n, p), or tokens before heads (..., n, K, p)."""
    last = x.ndim - 1
    return xp.permute_dims(x, (*range(last - 2), last - 1, last - 2, last))


def flatten_heads(U: Array, *, xp: Namespace = None) -> Array:
    """Bases (..., K, d, p) side by side as one matrix (..., d, K·p), so that one product serves all heads."""
    xp = namespace(U, xp=xp)
    wide = swap_heads(U, xp)  # (..., d, K, p)
    return xp.reshape(wide, (*wide.shape[:-2], wide.shape[-2] * wide.shape[-1]))


def project(Z: Array, U: Array, *, xp: Namespace = None) -> Array:
    r"""Coordinates of tokens in every subspace, :math:`V_k = Z U_k`.

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        xp: array namespace; looked up when None.

    Returns:
        Coordinates of shape (..., K, n, p).

    Raises:
        TypeError: Z or U is not a real floating array.
        ValueError: U does not have shape (K, d, p) with the d of Z, NaN or infinity.

    Source: [CRATE] (8)-(11), the projections U_kᵀZ in rows.
    """
    xp = namespace(Z, U, xp=xp)
    check_tokens(Z, xp=xp)
    check_bases(U, Z.shape[-1], xp=xp)
    V = Z @ flatten_heads(U, xp=xp)  # (..., n, K·p)
    return swap_heads(xp.reshape(V, (*V.shape[:-1], U.shape[-3], U.shape[-1])), xp)


def lift(V: Array, U: Array, *, xp: Namespace = None) -> Array:
    r"""Tokens from their coordinates in every subspace, :math:`\sum_k V_k U_k^\top`.

    Args:
        V: coordinates of shape (..., K, n, p).
        U: bases of shape (K, d, p).
        xp: array namespace; looked up when None.

    Returns:
        Tokens of shape (..., n, d).

    Raises:
        TypeError: V or U is not a real floating array.
        ValueError: the K or p of V and U differ, NaN or infinity.

    Source: [CRATE] (12), the output map [U_1 … U_K].
    """
    xp = namespace(V, U, xp=xp)
    check_array(V, "V", ndim=3, xp=xp)
    check_bases(U, xp=xp)
    if (V.shape[-3], V.shape[-1]) != (U.shape[-3], U.shape[-1]):
        raise ValueError(
            f"V must have shape (..., K, n, p) with K={U.shape[-3]}, p={U.shape[-1]}; got {tuple(V.shape)}"
        )
    return lift_unchecked(V, U, xp)


def lift_unchecked(V: Array, U: Array, xp: Namespace) -> Array:
    """:func:`lift` of coordinates that were made from checked tokens."""
    rows = swap_heads(V, xp)  # (..., n, K, p)
    rows = xp.reshape(rows, (*rows.shape[:-2], rows.shape[-2] * rows.shape[-1]))
    return rows @ flatten_heads(U, xp=xp).mT


def orthonormalize(U: Array, *, xp: Namespace = None) -> Array:
    """Orthonormal columns that span the same subspaces, by QR with a positive diagonal of R.

    Args:
        U: bases of shape (..., d, p) with p ≤ d and independent columns.
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (..., d, p) with orthonormal columns; a basis that already is orthonormal returns unchanged
        up to rounding.

    Raises:
        TypeError: U is not a real floating array.
        ValueError: p > d, fewer than two axes, NaN or infinity.

    Source: the assumption U_kᵀU_k = I of [CRATE] §2.2.

    Example:
        >>> import numpy as np, srr
        >>> srr.orthonormalize(np.asarray([[2.0], [0.0]])).ravel().tolist()
        [1.0, 0.0]
    """
    xp = namespace(U, xp=xp)
    check_array(U, "U", xp=xp)
    if U.shape[-1] > U.shape[-2]:
        raise ValueError(f"U must have at most d={U.shape[-2]} columns; got shape {tuple(U.shape)}")
    Q, R = xp.linalg.qr(U)
    flip = xp.linalg.diagonal(R) < 0
    return xp.where(flip[..., None, :], -Q, Q)


def principal_bases(Z: Array, labels: Array, *, rank: int, xp: Namespace = None) -> Array:
    r"""Leading right singular vectors of each class: the best rank-p subspace for its tokens.

    Args:
        Z: tokens of shape (n, d).
        labels: integer classes 0 … K−1 of shape (n,), each with at least ``rank`` tokens.
        rank: dimension p of every subspace.
        xp: array namespace; looked up when None.

    Returns:
        Bases of shape (K, d, p) with orthonormal columns, by falling singular value.

    Raises:
        TypeError: Z is not a real floating array, labels or rank not integers.
        ValueError: Z is not a matrix, labels negative or of another length, a class with fewer than ``rank`` tokens,
            rank > d, NaN or infinity.

    Source: [MCR2] §2.3: each class spans its principal subspace at the optimum.
    """
    xp = namespace(Z, xp=xp)
    check_tokens(Z, xp=xp)
    check_count(rank, "rank")
    y = to_numpy(labels)
    check_labels(y, "labels")
    if Z.ndim != 2 or y.shape != tuple(Z.shape[:1]):
        raise ValueError(f"Z and labels must have shapes (n, d) and (n,); got {tuple(Z.shape)} and {y.shape}")
    if rank > Z.shape[1]:
        raise ValueError(f"rank must be at most d={Z.shape[1]}; got {rank}")
    members = [(y == k).nonzero()[0] for k in range(int(y.max()) + 1)]
    if short := [k for k, index in enumerate(members) if len(index) < rank]:
        raise ValueError(f"every class must have at least rank={rank} tokens; classes {short} have fewer")
    classes = (xp.take(Z, asarray_like(i, Z, dtype=xp.int64, xp=xp), axis=0) for i in members)
    return xp.stack([xp.linalg.svd(C, full_matrices=False)[2][:rank, :].mT for C in classes])
