"""Compression of tokens: the exact gradient step on R^c, and its Neumann series."""

from __future__ import annotations

from srr._array import Array, Namespace, namespace
from srr._checks import check_count, check_nonnegative, check_positive
from srr.ops.rates import rate_scale
from srr.ops.subspace_rates import subspace_coding_rate_grad
from srr.ops.subspaces import lift, project


def compression_step(Z: Array, U: Array, *, step: float, eps: float, xp: Namespace = None) -> Array:
    r"""Exact gradient step that compresses tokens: :math:`Z - \kappa \nabla R^c(Z; U)`.

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        step: step size κ ≥ 0; up to 1/L_c it lowers R^c by at least κ‖∇R^c‖²/2.
        eps: distortion ε > 0.
        xp: array namespace; looked up when None.

    Returns:
        Tokens of shape (..., n, d).

    Raises:
        TypeError: Z or U is not a real floating array, or their dtypes differ.
        ValueError: U without the d of Z, step negative, eps not positive, NaN or infinity.

    Source: [CRATE] (9)-(10), before any approximation.
    """
    step = check_nonnegative(step, "step")
    return Z - step * subspace_coding_rate_grad(Z, U, eps=eps, xp=xp)


def neumann_grad(Z: Array, U: Array, *, eps: float, terms: int = 1, xp: Namespace = None) -> Array:
    r"""Gradient of R^c with the inverse replaced by its Neumann series.

    .. math:: \beta \sum_k \sum_{j=0}^{J} V_k (-\beta V_k^\top V_k)^j U_k^\top

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        eps: distortion ε > 0.
        terms: J ≥ 0, terms beyond the identity; the paper has 1.
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (..., n, d), nats per unit of Z.

    Raises:
        TypeError: Z or U is not a real floating array, or terms not an integer.
        ValueError: U without the d of Z, eps not positive, terms negative, NaN or infinity.

    Source: [CRATE] (10); the error is at most β³ (Σ‖V_k‖₂⁸‖V_k‖_F²)^½ for J = 1 and mutually orthogonal heads.

    Notes: of use only where :func:`neumann_validity` is below one; beyond, more terms make it worse and the
        first-order form need not even be a descent direction.
    """
    xp = namespace(Z, U, xp=xp)
    check_count(terms, "terms", least=0)
    eps = check_positive(eps, "eps")
    V = project(Z, U, xp=xp)
    beta = rate_scale(V, eps=eps)
    contraction = -beta * (V.mT @ V)  # (..., K, p, p)
    term = total = V
    for _ in range(terms):
        term = term @ contraction
        total = total + term
    return beta * lift(total, U, xp=xp)


def neumann_step(Z: Array, U: Array, *, step: float, eps: float, terms: int = 1, xp: Namespace = None) -> Array:
    r"""Compression step with the Neumann gradient, :math:`Z - \kappa \widehat{\nabla R^c}`.

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        step: step size κ ≥ 0.
        eps: distortion ε > 0.
        terms: terms of the series beyond the identity.
        xp: array namespace; looked up when None.

    Returns:
        Tokens of shape (..., n, d).

    Raises:
        TypeError: as :func:`neumann_grad`.
        ValueError: as :func:`neumann_grad`, or step negative.

    Source: [CRATE] (10), first two lines.
    """
    step = check_nonnegative(step, "step")
    return Z - step * neumann_grad(Z, U, eps=eps, terms=terms, xp=xp)


def neumann_validity(Z: Array, U: Array, *, eps: float, xp: Namespace = None) -> Array:
    r"""Number that must be below one for the Neumann series to converge: :math:`\beta \max_k \lVert V_k \rVert_2^2`.

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        eps: distortion ε > 0.
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (...).

    Raises:
        TypeError: Z or U is not a real floating array.
        ValueError: U without the d of Z, eps not positive, NaN or infinity.

    Source: the radius of convergence of the series in [CRATE] (10).
    """
    xp = namespace(Z, U, xp=xp)
    eps = check_positive(eps, "eps")
    V = project(Z, U, xp=xp)
    return rate_scale(V, eps=eps) * xp.max(xp.linalg.svdvals(V)[..., 0], axis=-1) ** 2
