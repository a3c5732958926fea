"""Layer normalisation, the map that keeps tokens on a sphere between the layers of a network."""

from __future__ import annotations

from srr._array import Array, Namespace, namespace
from srr._checks import check_nonnegative, check_tokens


def layer_norm(Z: Array, *, offset: float = 1e-5, xp: Namespace = None) -> Array:
    r"""Tokens with their mean removed and divided by their standard deviation.

    .. math:: \frac{z - \bar z}{\sqrt{\overline{(z - \bar z)^2} + \delta}}

    Args:
        Z: tokens of shape (..., n, d).
        offset: δ ≥ 0 added to the variance, in squared units of Z.
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (..., n, d): the normalisation of torch's LayerNorm without its weight and bias. Rows have
        norm √d, not 1, as far as δ is small; a constant token becomes zero.

    Raises:
        TypeError: Z is not a real floating array.
        ValueError: offset negative, NaN or infinity in Z.

    Source: Ba, Kiros and Hinton (2016), (4); the LN of [CRATE] (18).

    Example:
        >>> import numpy as np, srr
        >>> srr.layer_norm(np.asarray([[1.0, 3.0]]), offset=0.0).tolist()
        [[-1.0, 1.0]]
    """
    xp = namespace(Z, xp=xp)
    check_tokens(Z, xp=xp)
    offset = check_nonnegative(offset, "offset")
    centred = Z - xp.mean(Z, axis=-1, keepdims=True)
    variance = xp.mean(centred**2, axis=-1, keepdims=True) + offset
    return centred / xp.sqrt(xp.where(variance > 0, variance, xp.ones_like(variance)))
