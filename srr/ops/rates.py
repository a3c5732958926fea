"""Coding rate of tokens with its closed-form gradient, the scale and the precision that every rate shares.

``eps`` is the distortion ε; rates are in nats. Values and gradients of float32 (and lower) tokens are computed in a
float64 core unless ``core_dtype`` says otherwise: the float32 core is faster and can be trusted where
6e-8 · α · λ_max(ZᵀZ) ≪ 1.
"""

from __future__ import annotations

from srr._array import Array, DType, Namespace, core_cast, epsilon, namespace, root
from srr._checks import check_positive, check_tokens, check_weights
from srr.ops.gram import GramFactor, gram_factor

_SMALLEST = 1e-150  # its square, and that of its inverse, are ordinary float64 numbers


def rate_scale(V: Array, *, eps: float, count: Array | None = None) -> Array | float:
    r"""Scale :math:`d / (n \varepsilon^2)` of a rate: the one place that squares ε.

    Args:
        V: coordinates of shape (..., n, d); with d = p this is β, with the full dimension it is α.
        eps: distortion ε > 0.
        count: effective number of tokens, shape (...), in place of n; where it is zero the scale is zero.

    Returns:
        A number, or an array of the shape of ``count``.

    Raises:
        ValueError: eps is not a finite number > 0 whose square is one too.

    Source: α and β of [CRATE] (7)-(8).

    Example:
        >>> import numpy as np, srr
        >>> srr.rate_scale(np.ones((10, 5)), eps=0.5)
        2.0
    """
    eps = check_positive(eps, "eps")
    if isinstance(eps, float) and not _SMALLEST <= eps <= 1.0 / _SMALLEST:
        raise ValueError(f"eps must lie between {_SMALLEST} and {1.0 / _SMALLEST}: its square is needed; got {eps}")
    n, d = V.shape[-2:]
    if count is None:
        return d / (n * eps**2)
    xp = namespace(count)
    return xp.where(count > 0, d / eps**2 / xp.where(count > 0, count, xp.ones_like(count)), xp.zeros_like(count))


def coding_rate(
    Z: Array, *, eps: float, weights: Array | None = None, core_dtype: DType = None, xp: Namespace = None
) -> Array:
    r"""Coding rate of tokens up to distortion ε, in nats.

    .. math:: R(Z) = \tfrac12 \log\det\bigl(I + \alpha Z^\top W Z\bigr),\quad
              \alpha = \frac{d}{\varepsilon^2 \sum_i w_i},\ W = \operatorname{diag}(w)

    Args:
        Z: tokens of shape (..., n, d).
        eps: distortion ε > 0.
        weights: token weights w ≥ 0 of shape (..., n), all one by default; zero masks a token.
        core_dtype: dtype of the Gram matrix and its factor; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        Rate of shape (...), in nats, in the dtype of Z; zero where every weight is zero.

    Raises:
        TypeError: Z or weights is not a real floating array.
        ValueError: fewer than two axes, NaN or infinity, eps not positive, weights negative or of another shape.

    Source: [CRATE] (7), [MCR2] (1); with weights it is one class of [MCR2] (8).

    Example:
        >>> import numpy as np, srr
        >>> float(srr.coding_rate(np.eye(4), eps=1.0) / np.log(2.0))
        2.0
    """
    xp = namespace(Z, weights, xp=xp)
    factor, _ = _coding_factor(Z, eps, weights, core_dtype, xp)
    return xp.astype(0.5 * factor.logdet(), Z.dtype, copy=False)


def coding_rate_grad(
    Z: Array, *, eps: float, weights: Array | None = None, core_dtype: DType = None, xp: Namespace = None
) -> Array:
    r"""Gradient of :func:`coding_rate` with respect to the tokens.

    .. math:: \nabla R = \alpha W Z \bigl(I + \alpha Z^\top W Z\bigr)^{-1}

    Args:
        Z: tokens of shape (..., n, d).
        eps: distortion ε > 0.
        weights: token weights w ≥ 0 of shape (..., n), all one by default.
        core_dtype: dtype of the Gram matrix and its factor; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        Gradient of shape (..., n, d), nats per unit of Z. Row by row it is α(z − ẑ) with ẑ the ridge
        reconstruction of z from all tokens: the expansion operator of ReduNet.

    Raises:
        TypeError: Z or weights is not a real floating array.
        ValueError: as :func:`coding_rate`.

    Source: gradient of [CRATE] (7); [REDU], expansion operator E.
    """
    return coding_rate_value_and_grad(Z, eps=eps, weights=weights, core_dtype=core_dtype, xp=xp)[1]


def coding_rate_value_and_grad(
    Z: Array, *, eps: float, weights: Array | None = None, core_dtype: DType = None, xp: Namespace = None
) -> tuple[Array, Array]:
    """Value and gradient of :func:`coding_rate` from one Gram matrix and one factorisation.

    Args:
        Z: tokens of shape (..., n, d).
        eps: distortion ε > 0.
        weights: token weights w ≥ 0 of shape (..., n), all one by default.
        core_dtype: dtype of the Gram matrix and its factor; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        The pair (rate of shape (...), gradient of shape (..., n, d)), in nats.

    Raises:
        TypeError: Z or weights is not a real floating array.
        ValueError: as :func:`coding_rate`.

    Source: [CRATE] (7) and its gradient.
    """
    xp = namespace(Z, weights, xp=xp)
    factor, scale = _coding_factor(Z, eps, weights, core_dtype, xp)
    grad = as_column(scale) * factor.resolvent()
    if weights is not None:
        grad = _root(weights, grad.dtype, xp) * grad
    return xp.astype(0.5 * factor.logdet(), Z.dtype, copy=False), xp.astype(grad, Z.dtype, copy=False)


def _coding_factor(
    Z: Array, eps: float, weights: Array | None, core_dtype: DType, xp: Namespace
) -> tuple[GramFactor, Array | float]:
    """Factor of I + α ZᵀWZ, and α."""
    check_tokens(Z, xp=xp)
    eps = check_positive(eps, "eps")
    A = core_cast(Z, core_dtype, xp)
    count = None
    if weights is not None:
        check_weights(weights, Z, xp=xp)
        count = xp.sum(xp.astype(weights, A.dtype), axis=-1)
        A = _root(weights, A.dtype, xp) * A
    scale = rate_scale(A, eps=eps, count=count)
    return gram_factor(A, scale, rtol=core_tolerance(Z, A, xp), xp=xp), scale


def _root(weights: Array, dtype: DType, xp: Namespace) -> Array:
    return root(xp.astype(weights, dtype), xp)[..., None]


def core_tolerance(Z: Array, A: Array, xp: Namespace) -> float:
    """Relative error a rate may carry: rounding of the core, or of the result where that is coarser."""
    return max(64 * epsilon(A.dtype, xp), epsilon(Z.dtype, xp))


def as_column(scale: Array | float) -> Array | float:
    """Per-item scale, shaped to multiply (..., n, d)."""
    return scale[..., None, None] if hasattr(scale, "ndim") else scale  # type: ignore[index]
