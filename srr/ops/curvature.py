"""Second-order facts of the rates: smoothness constants and Hessian-vector products."""

from __future__ import annotations

from srr._array import Array, DType, Namespace, core_cast, namespace
from srr._checks import check_bases, check_positive, check_same_dtype, check_tokens
from srr.ops.gram import gram_factor
from srr.ops.rates import core_tolerance, rate_scale
from srr.ops.subspaces import flatten_heads, lift, project


def coding_rate_smoothness(Z: Array, *, eps: float, xp: Namespace = None) -> float:
    r"""Smallest Lipschitz constant of the gradient of R: the Hessian lies in :math:`[-\alpha/8,\ \alpha]`.

    Args:
        Z: tokens of shape (..., n, d); only the shape matters.
        eps: distortion ε > 0.
        xp: array namespace; looked up when None.

    Returns:
        α = d/(n ε²), attained at Z = 0; the lower end −α/8 at a singular value √(3/α).

    Raises:
        TypeError: Z is not a real floating array.
        ValueError: eps not positive, Z with fewer than two axes.

    Source: tightens [CRATE] Lemma 6, which has 9α/4.

    Example:
        >>> import numpy as np, srr
        >>> srr.coding_rate_smoothness(np.ones((10, 5)), eps=0.5)
        2.0
    """
    check_tokens(Z, xp=namespace(Z, xp=xp))
    return float(rate_scale(Z, eps=eps))


def subspace_coding_rate_smoothness(Z: Array, U: Array, *, eps: float, xp: Namespace = None) -> Array:
    r"""Lipschitz constant of the gradient of :math:`R^c(\cdot; U)`.

    .. math:: L_c = \beta \Bigl\lVert \sum_k U_k U_k^\top \Bigr\rVert_2

    Args:
        Z: tokens of shape (..., n, d); only the shape matters.
        U: bases of shape (K, d, p).
        eps: distortion ε > 0.
        xp: array namespace; looked up when None.

    Returns:
        A number: β = p/(n ε²) for orthonormal, mutually orthogonal heads. A gradient step of size κ ≤ 1/L_c lowers
        R^c by at least κ‖∇R^c‖²/2.

    Raises:
        TypeError: Z or U is not a real floating array.
        ValueError: U does not have shape (K, d, p) with the d of Z, eps not positive.

    Source: the step-size analysis of [CRATE] (10).
    """
    xp = namespace(Z, U, xp=xp)
    check_tokens(Z, xp=xp)
    check_bases(U, Z.shape[-1], xp=xp)
    eps = check_positive(eps, "eps")
    wide = flatten_heads(U, xp=xp)  # (d, K·p): Σ U_kU_kᵀ is its Gram matrix of rows
    beta = U.shape[-1] / Z.shape[-1] * rate_scale(Z, eps=eps)
    return beta * xp.linalg.svdvals(wide)[..., 0] ** 2


def sparse_rate_reduction_smoothness(Z: Array, U: Array, *, eps: float, xp: Namespace = None) -> Array:
    r"""Upper curvature of the smooth SRR cost :math:`R^c - R`: :math:`L = L_c + \alpha/8`.

    Args:
        Z: tokens of shape (..., n, d); only the shape matters.
        U: bases of shape (K, d, p).
        eps: distortion ε > 0.
        xp: array namespace; looked up when None.

    Returns:
        A number; proximal gradient with step 1/L never raises the cost.

    Raises:
        TypeError: Z or U is not a real floating array.
        ValueError: as :func:`subspace_coding_rate_smoothness`.

    Source: the sum of :func:`subspace_coding_rate_smoothness` and the lower Hessian bound of R.
    """
    expansion = coding_rate_smoothness(Z, eps=eps, xp=xp) / 8.0
    return subspace_coding_rate_smoothness(Z, U, eps=eps, xp=xp) + expansion


def coding_rate_hvp(Z: Array, V: Array, *, eps: float, core_dtype: DType = None, xp: Namespace = None) -> Array:
    r"""Hessian of R at Z applied to a direction V.

    .. math:: \alpha V S - \alpha^2 Z S (V^\top Z + Z^\top V) S,\quad S = (I + \alpha Z^\top Z)^{-1}

    Args:
        Z: tokens of shape (..., n, d).
        V: direction of shape (..., n, d).
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrix and its factor; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (..., n, d), nats per squared unit of Z times units of V.

    Raises:
        TypeError: Z or V is not a real floating array, or their dtypes differ.
        ValueError: V of another shape, NaN or infinity, eps not positive.

    Source: second derivative of [CRATE] (7).
    """
    xp = namespace(Z, V, xp=xp)
    check_tokens(Z, xp=xp)
    _check_direction(Z, V, xp)
    A, dA = core_cast(Z, core_dtype, xp), core_cast(V, core_dtype, xp)
    scale = float(rate_scale(A, eps=eps))
    return xp.astype(_hvp(A, dA, scale, core_tolerance(Z, A, xp), xp), Z.dtype, copy=False)


def subspace_coding_rate_hvp(
    Z: Array, V: Array, U: Array, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> Array:
    r"""Hessian of :math:`R^c(\cdot; U)` at Z applied to a direction V: head by head, in the coordinates of the heads.

    Args:
        Z: tokens of shape (..., n, d).
        V: direction of shape (..., n, d).
        U: bases of shape (K, d, p).
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (..., n, d), nats per squared unit of Z times units of V.

    Raises:
        TypeError: an argument is not a real floating array, or the dtypes differ.
        ValueError: V of another shape, U without the d of Z, NaN or infinity, eps not positive.

    Source: second derivative of [CRATE] (8).
    """
    xp = namespace(Z, V, U, xp=xp)
    check_tokens(Z, xp=xp)
    check_bases(U, Z.shape[-1], xp=xp)
    check_same_dtype(Z=Z, U=U)
    _check_direction(Z, V, xp)
    bases = core_cast(U, core_dtype, xp)
    A = project(core_cast(Z, core_dtype, xp), bases, xp=xp)
    dA = project(core_cast(V, core_dtype, xp), bases, xp=xp)
    scale = float(rate_scale(A, eps=eps))
    heads = _hvp(A, dA, scale, core_tolerance(Z, A, xp), xp)
    return xp.astype(lift(heads, bases, xp=xp), Z.dtype, copy=False)


def _check_direction(Z: Array, V: Array, xp: Namespace) -> None:
    check_tokens(V, "V", xp=xp)
    check_same_dtype(Z=Z, V=V)
    if tuple(V.shape) != tuple(Z.shape):
        raise ValueError(f"V must have the shape of Z, {tuple(Z.shape)}; got {tuple(V.shape)}")


def _hvp(A: Array, dA: Array, scale: float, rtol: float, xp: Namespace) -> Array:
    """Hessian of ½ logdet(I + s·AᵀA) applied to dA, with n×n products where n < d."""
    factor = gram_factor(A, scale, rtol=rtol, xp=xp)
    P = factor.resolvent()  # A S
    change = P @ dA.mT @ A + P @ A.mT @ dA if A.shape[-2] < A.shape[-1] else P @ (dA.mT @ A + A.mT @ dA)
    return scale * factor.apply(dA - scale * change)
