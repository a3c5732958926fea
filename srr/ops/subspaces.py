"""Subspaces: coordinates of tokens in them, bases from data, and how tokens and subspaces lie to each other."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from scipy.linalg import blas

from srr._array.checks import (
    check_array,
    check_bases,
    check_count,
    check_labels,
    check_positive,
    check_same_dtype,
    check_tokens,
)
from srr._array.namespace import (
    Array,
    ArrayT,
    Namespace,
    cast_like,
    device,
    eye,
    index_like,
    is_numpy,
    namespace,
    softmax,
    to_numpy,
    widen,
)

_SWAPPED = tuple((*range(last - 2), last - 1, last - 2, last) for last in range(2, 64))
"""Axes −3 and −2 exchanged, for 3, 4, ... axes: heads before tokens, tokens before heads."""


_COPIED = 1 << 24  # multiplications from which a sum of products beats one product with a copy of U


def merge_heads(V: ArrayT, xp: Namespace) -> ArrayT:
    """Coordinates (..., K, n, p) or bases (..., K, d, p) of all heads side by side, so that one product serves them."""
    *batch, K, n, p = V.shape
    return xp.reshape(xp.permute_dims(V, _SWAPPED[V.ndim - 3]), (*batch, n, K * p))


def split_heads(wide: ArrayT, K: int, p: int, xp: Namespace) -> ArrayT:
    """Coordinates (..., K, n, p) from those of all heads side by side, (..., n, K·p)."""
    rows = xp.reshape(wide, (*wide.shape[:-1], K, p))
    return xp.permute_dims(rows, _SWAPPED[rows.ndim - 3])


def project(Z: ArrayT, U: ArrayT, *, xp: Namespace = None) -> ArrayT:
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
    return cast_like(bare_project(widen(Z, xp), widen(U, xp), xp), Z, xp)


def bare_project(Z: ArrayT, U: ArrayT, xp: Namespace) -> ArrayT:
    """Formula of :func:`project`: one product for all heads; NumPy takes them as they lie, without a copy of U."""
    if is_numpy(Z) and Z.ndim == 2:
        return Z @ U
    return split_heads(Z @ merge_heads(U, xp), U.shape[-3], U.shape[-1], xp)


def lift(V: ArrayT, U: ArrayT, *, xp: Namespace = None) -> ArrayT:
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
    return cast_like(bare_lift(widen(V, xp), widen(U, xp), xp), V, xp)


def bare_lift(V: ArrayT, U: ArrayT, xp: Namespace) -> ArrayT:
    """Formula of :func:`lift`: one product for all heads, or a sum of products where a copy of U would cost more."""
    if is_numpy(V) and V.ndim == U.ndim == 3 and V.size * U.shape[-2] > _COPIED and V.dtype == U.dtype:
        return _lift_by_blas(V, U)
    return merge_heads(V, xp) @ merge_heads(U, xp).mT


def _lift_by_blas(V: Any, U: Any) -> Any:
    """One BLAS call for each head, which adds to the sum of the others."""
    multiply = blas.sgemm if V.dtype == np.float32 else blas.dgemm
    total = np.zeros((V.shape[-2], U.shape[-2]), dtype=V.dtype)
    for rows, base in zip(V, U, strict=True):  # transposes are in the order of Fortran
        multiply(1.0, base.T, rows.T, beta=1.0, c=total.T, trans_a=True, overwrite_c=True)
    return total


def orthonormalize(U: ArrayT, *, xp: Namespace = None) -> ArrayT:
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
        >>> srr.ops.orthonormalize(np.asarray([[2.0], [0.0]])).ravel().tolist()
        [1.0, 0.0]
    """
    xp = namespace(U, xp=xp)
    check_array(U, "U", xp=xp)
    if U.shape[-1] > U.shape[-2]:
        raise ValueError(f"U must have at most d={U.shape[-2]} columns; got shape {tuple(U.shape)}")
    Q, R = xp.linalg.qr(widen(U, xp))
    flip = xp.linalg.diagonal(R) < 0
    return cast_like(xp.where(flip[..., None, :], -Q, Q), U, xp)


def principal_bases(Z: ArrayT, labels: Array, *, rank: int, xp: Namespace = None) -> ArrayT:
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
        ValueError: Z is not a matrix, labels negative, of another length or at least n, a class with fewer than
            ``rank`` tokens, rank > d, NaN or infinity.

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
    K, n = int(y.max()) + 1, len(y)
    if n < K:
        raise ValueError(f"labels must be classes 0 to K-1 that all have tokens; got class {K - 1} with n={n} tokens")
    order = y.argsort(kind="stable")
    ends = y[order].searchsorted(range(K + 1)).tolist()
    members = [order[a:b] for a, b in itertools.pairwise(ends)]
    if short := [k for k, index in enumerate(members) if len(index) < rank]:
        raise ValueError(f"every class must have at least rank={rank} tokens; classes {short[:9]} have fewer")
    A = widen(Z, xp)
    classes = (xp.take(A, index_like(i, Z, xp), axis=0) for i in members)
    return cast_like(xp.stack([xp.linalg.svd(C, full_matrices=False)[2][:rank, :].mT for C in classes]), Z, xp)


def subspace_membership(Z: ArrayT, U: ArrayT, *, temperature: float = 1.0, xp: Namespace = None) -> ArrayT:
    r"""Soft assignment of tokens to subspaces by the energy they have in each.

    .. math:: \pi_{ik} = \operatorname{softmax}_k \bigl(\lVert U_k^\top z_i \rVert^2 / (2 t)\bigr)

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        temperature: t > 0, in squared units of Z; with noise of standard deviation σ and unit coefficients it is
            σ²(1 + σ²), and the result is then the posterior membership.
        xp: array namespace; looked up when None.

    Returns:
        Membership of shape (..., n, K); rows sum to one.

    Raises:
        TypeError: Z or U is not a real floating array.
        ValueError: U does not have the d of Z, temperature not positive, NaN or infinity.

    Source: [CRATE] (5)-(6), Proposition 1; [TOST] with temperature η.
    """
    xp = namespace(Z, U, xp=xp)
    check_tokens(Z, xp=xp)
    check_bases(U, Z.shape[-1], xp=xp)
    temperature = check_positive(temperature, "temperature")
    V = bare_project(widen(Z, xp), widen(U, xp), xp)
    return cast_like(bare_membership(V, temperature, xp).mT, Z, xp)


def bare_membership(V: ArrayT, temperature: float, xp: Namespace) -> ArrayT:
    """Formula of :func:`subspace_membership` from coordinates (..., K, n, p): one number per head and token."""
    return softmax(xp.sum(V**2, axis=-1) / (2.0 * temperature), axis=-2, xp=xp)  # (..., K, n)


def coherence(U: ArrayT, *, xp: Namespace = None) -> ArrayT:
    r"""Largest cosine between two subspaces, :math:`\max_{k \ne l} \lVert U_k^\top U_l \rVert_2`.

    Args:
        U: bases of shape (K, d, p) with orthonormal columns.
        xp: array namespace; looked up when None.

    Returns:
        A number in [0, 1]: 0 for mutually orthogonal subspaces (and for K = 1), 1 where two share a direction.

    Raises:
        TypeError: U is not a real floating array.
        ValueError: U does not have three axes, NaN or infinity.

    Source: the incoherence assumption of [CRATE] §2.2.
    """
    xp = namespace(U, xp=xp)
    check_bases(U, xp=xp)
    if U.ndim != 3:
        raise ValueError(f"U must have shape (K, d, p); got {tuple(U.shape)}")
    bases = widen(U, xp)
    cosines = xp.max(xp.linalg.svdvals(bases.mT[:, None, ...] @ bases[None, ...]), axis=-1)  # (K, K)
    return cast_like(xp.max(cosines - cosines * eye(U.shape[0], cosines, xp)), U, xp)


def principal_angles(A: ArrayT, B: ArrayT, *, xp: Namespace = None) -> ArrayT:
    """Principal angles between two subspaces, in radians, accurate for small and large angles alike.

    Args:
        A: bases of shape (..., d, p) with orthonormal columns.
        B: bases of shape (..., d, q) with orthonormal columns, q ≤ p.
        xp: array namespace; looked up when None.

    Returns:
        Angles of shape (..., q), rising, in [0, π/2].

    Raises:
        TypeError: A or B is not a real floating array, or their dtypes differ.
        ValueError: other sizes, NaN or infinity.

    Source: Björck and Golub (1973): sines from the part of B outside A, cosines from AᵀB.
    """
    xp = namespace(A, B, xp=xp)
    check_array(A, "A", xp=xp)
    check_array(B, "B", xp=xp)
    check_same_dtype(A=A, B=B)
    if A.shape[-2] != B.shape[-2] or B.shape[-1] > A.shape[-1]:
        raise ValueError(f"B must have shape (d, q) with d={A.shape[-2]}, q <= {A.shape[-1]}; got {tuple(B.shape)}")
    first, second = widen(A, xp), widen(B, xp)
    inner = first.mT @ second
    cosines = xp.linalg.svdvals(inner)
    sines = xp.flip(xp.linalg.svdvals(second - first @ inner), axis=-1)[..., : B.shape[-1]]
    return cast_like(xp.atan2(sines, cosines), A, xp)


def snr(Z: ArrayT, U: ArrayT, labels: Array, *, xp: Namespace = None) -> ArrayT:
    r"""Signal-to-noise ratio of each class: what lies on its subspace over what lies off it.

    .. math:: \mathrm{SNR}_k = \lVert Z_k U_k \rVert_F \,/\, \lVert Z_k (I - U_k U_k^\top) \rVert_F

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p) with orthonormal columns.
        labels: integer classes 0 … K−1 of shape (..., n).
        xp: array namespace; looked up when None.

    Returns:
        Ratios of shape (..., K); infinite where nothing lies off the subspace, NaN for an empty class.

    Raises:
        TypeError: Z or U is not a real floating array, their dtypes differ, or labels are not integers.
        ValueError: U does not have the d of Z, labels of another shape or out of range, NaN or infinity.

    Source: [AOT] Definition of SNR.
    """
    xp = namespace(Z, U, labels, xp=xp)
    check_tokens(Z, xp=xp)
    check_bases(U, Z.shape[-1], xp=xp)
    check_same_dtype(Z=Z, U=U)
    if tuple(labels.shape) != tuple(Z.shape[:-1]):
        raise ValueError(f"labels must have shape {tuple(Z.shape[:-1])}; got {tuple(labels.shape)}")
    check_labels(labels, "labels", classes=U.shape[-3], xp=xp)
    A, bases = widen(Z, xp), widen(U, xp)
    V = bare_project(A, bases, xp)
    classes = xp.arange(U.shape[-3], dtype=labels.dtype, device=device(Z))
    own = xp.astype(labels[..., None, :] == classes[:, None], A.dtype)  # (..., K, n)
    on = xp.sum(V**2, axis=-1)
    residual = A[..., None, :, :] - V @ bases.mT  # (..., K, n, d)
    off = xp.sum(residual**2, axis=-1)
    on, off = xp.sum(own * on, axis=-1), xp.sum(own * off, axis=-1)
    edge = xp.where(on > 0, xp.full_like(on, float("inf")), xp.full_like(on, float("nan")))
    return cast_like(xp.where(off > 0, xp.sqrt(on / xp.where(off > 0, off, xp.ones_like(off))), edge), Z, xp)
