"""Coding rate under subspace codebooks, and the sparse rate reduction that CRATE ascends, with their gradients."""

from __future__ import annotations

from srr._array import Array, DType, Namespace, core_cast, namespace
from srr._checks import check_bases, check_nonnegative, check_positive, check_same_dtype, check_tokens
from srr.ops.gram import GramFactor, gram_factor
from srr.ops.rates import coding_rate, coding_rate_grad, coding_rate_value_and_grad, core_tolerance, rate_scale
from srr.ops.subspaces import lift, project


def subspace_coding_rate(Z: Array, U: Array, *, eps: float, core_dtype: DType = None, xp: Namespace = None) -> Array:
    r"""Coding rate of tokens under K subspace codebooks, in nats.

    .. math:: R^c(Z; U) = \tfrac12 \sum_k \log\det\bigl(I_p + \beta V_k^\top V_k\bigr),\quad
              V_k = Z U_k,\ \beta = \frac{p}{n \varepsilon^2}

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p), one subspace each.
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        Rate of shape (...), in nats, in the dtype of Z.

    Raises:
        TypeError: Z or U is not a real floating array, or their dtypes differ.
        ValueError: U does not have shape (K, d, p) with the d of Z, NaN or infinity, eps not positive.

    Source: [CRATE] (8).

    Example:
        >>> import numpy as np, srr
        >>> U = np.eye(4).reshape(4, 2, 2).transpose(1, 0, 2)      # two coordinate planes of R⁴
        >>> float(srr.subspace_coding_rate(np.eye(4), U, eps=1.0) / np.log(1.5))
        2.0
    """
    xp = namespace(Z, U, xp=xp)
    factor, _, _ = _subspace_factor(Z, U, eps, core_dtype, xp)
    return xp.astype(0.5 * xp.sum(factor.logdet(), axis=-1), Z.dtype, copy=False)


def subspace_coding_rate_grad(
    Z: Array, U: Array, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> Array:
    r"""Gradient of :func:`subspace_coding_rate` with respect to the tokens: one p×p solve per head.

    .. math:: \nabla R^c = \beta \sum_k V_k \bigl(I_p + \beta V_k^\top V_k\bigr)^{-1} U_k^\top

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        Gradient of shape (..., n, d), nats per unit of Z.

    Raises:
        TypeError: Z or U is not a real floating array, or their dtypes differ.
        ValueError: as :func:`subspace_coding_rate`.

    Source: [CRATE] (9).
    """
    return subspace_coding_rate_value_and_grad(Z, U, eps=eps, core_dtype=core_dtype, xp=xp)[1]


def subspace_coding_rate_value_and_grad(
    Z: Array, U: Array, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> tuple[Array, Array]:
    """Value and gradient of :func:`subspace_coding_rate` from one factorisation per head.

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        The pair (rate of shape (...), gradient of shape (..., n, d)), in nats.

    Raises:
        TypeError: Z or U is not a real floating array, or their dtypes differ.
        ValueError: as :func:`subspace_coding_rate`.

    Source: [CRATE] (8)-(9).
    """
    xp = namespace(Z, U, xp=xp)
    factor, scale, bases = _subspace_factor(Z, U, eps, core_dtype, xp)
    value = 0.5 * xp.sum(factor.logdet(), axis=-1)
    grad = scale * lift(factor.resolvent(), bases, xp=xp)
    return xp.astype(value, Z.dtype, copy=False), xp.astype(grad, Z.dtype, copy=False)


def _subspace_factor(
    Z: Array, U: Array, eps: float, core_dtype: DType, xp: Namespace
) -> tuple[GramFactor, Array | float, Array]:
    """Factors of I + β VₖᵀVₖ for every head, β, and the bases in the dtype of the core."""
    check_tokens(Z, xp=xp)
    check_bases(U, Z.shape[-1], xp=xp)
    check_same_dtype(Z=Z, U=U)
    eps = check_positive(eps, "eps")
    bases = core_cast(U, core_dtype, xp)
    V = project(core_cast(Z, core_dtype, xp), bases, xp=xp)  # (..., K, n, p)
    scale = rate_scale(V, eps=eps)
    return gram_factor(V, scale, rtol=core_tolerance(Z, V, xp), xp=xp), scale, bases


def sparse_rate_reduction(
    Z: Array, U: Array, *, eps: float, lam: float, core_dtype: DType = None, xp: Namespace = None
) -> Array:
    r"""Sparse rate reduction, the objective that CRATE's layers ascend, in nats.

    .. math:: R(Z) - R^c(Z; U) - \lambda \lVert Z \rVert_1

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        eps: distortion ε > 0.
        lam: sparsity weight λ ≥ 0, in nats per unit of Z.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        Objective of shape (...), in nats.

    Raises:
        TypeError: Z or U is not a real floating array, or their dtypes differ.
        ValueError: as :func:`subspace_coding_rate`, or lam negative.

    Source: [CRATE] (1), with ‖Z‖₀ relaxed to ‖Z‖₁.

    Example:
        >>> import numpy as np, srr
        >>> srr.sparse_rate_reduction(np.zeros((3, 4)), np.ones((1, 4, 2)), eps=0.5, lam=0.1)
        np.float64(0.0)
    """
    xp = namespace(Z, U, xp=xp)
    lam = check_nonnegative(lam, "lam")
    compressed = subspace_coding_rate(Z, U, eps=eps, core_dtype=core_dtype, xp=xp)
    expanded = coding_rate(Z, eps=eps, core_dtype=core_dtype, xp=xp)
    return expanded - compressed - lam * xp.sum(xp.abs(Z), axis=(-2, -1))


def sparse_rate_reduction_grad(
    Z: Array, U: Array, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> Array:
    r"""Gradient of the smooth part of :func:`sparse_rate_reduction`: :math:`\nabla R - \nabla R^c`.

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        Gradient of shape (..., n, d), nats per unit of Z.

    Raises:
        TypeError: Z or U is not a real floating array, or their dtypes differ.
        ValueError: as :func:`subspace_coding_rate`.

    Source: gradient of [CRATE] (1) without its sparsity term.
    """
    compress = subspace_coding_rate_grad(Z, U, eps=eps, core_dtype=core_dtype, xp=xp)
    return coding_rate_grad(Z, eps=eps, core_dtype=core_dtype, xp=xp) - compress


def sparse_rate_reduction_value_and_grad(
    Z: Array, U: Array, *, eps: float, lam: float, core_dtype: DType = None, xp: Namespace = None
) -> tuple[Array, Array]:
    """Value of :func:`sparse_rate_reduction` and gradient of its smooth part, from one factorisation of each rate.

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        eps: distortion ε > 0.
        lam: sparsity weight λ ≥ 0, in nats per unit of Z; it enters the value only.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        The pair (objective of shape (...), gradient of R − R^c of shape (..., n, d)), in nats.

    Raises:
        TypeError: Z or U is not a real floating array, or their dtypes differ.
        ValueError: as :func:`sparse_rate_reduction`.

    Source: [CRATE] (1) and the gradient of its smooth part.
    """
    xp = namespace(Z, U, xp=xp)
    lam = check_nonnegative(lam, "lam")
    compressed, compress = subspace_coding_rate_value_and_grad(Z, U, eps=eps, core_dtype=core_dtype, xp=xp)
    expanded, expand = coding_rate_value_and_grad(Z, eps=eps, core_dtype=core_dtype, xp=xp)
    return expanded - compressed - lam * xp.sum(xp.abs(Z), axis=(-2, -1)), expand - compress
