"""Shrinkage: proximal operators of sparsity penalties, as plain functions."""

from __future__ import annotations

from srr._array import Array, Namespace, check_array, check_nonnegative, device, namespace, positive_part


def soft_threshold(Z: Array, *, threshold: Array | float, xp: Namespace = None) -> Array:
    r"""Proximal operator of :math:`t \lVert \cdot \rVert_1`: shrink every entry towards zero by t.

    .. math:: \operatorname{sign}(z) \max(|z| - t, 0)

    Args:
        Z: array of any shape.
        threshold: t ≥ 0, in units of Z: a number, or an array that broadcasts against Z.
        xp: array namespace; looked up when None.

    Returns:
        Array of the shape of Z.

    Raises:
        TypeError: Z is not a real floating array.
        ValueError: threshold negative, NaN or infinity in Z.

    Source: the proximal step of [CRATE] (15).

    Example:
        >>> import numpy as np, srr
        >>> srr.soft_threshold(np.asarray([-3.0, 0.5, 2.0]), threshold=1.0).tolist()
        [-2.0, 0.0, 1.0]
    """
    xp = _checked(Z, threshold, 0, xp)
    return positive_part(Z - threshold, xp) - positive_part(-Z - threshold, xp)


def relu_threshold(Z: Array, *, threshold: Array | float, xp: Namespace = None) -> Array:
    r"""Proximal operator of :math:`t \lVert \cdot \rVert_1` on the non-negative orthant: :math:`\max(z - t, 0)`.

    Args:
        Z: array of any shape.
        threshold: t ≥ 0, in units of Z: a number, or an array that broadcasts against Z.
        xp: array namespace; looked up when None.

    Returns:
        Array of the shape of Z, non-negative.

    Raises:
        TypeError: Z is not a real floating array.
        ValueError: threshold negative, NaN or infinity in Z.

    Source: the ReLU of [CRATE] (17).
    """
    xp = _checked(Z, threshold, 0, xp)
    return positive_part(Z - threshold, xp)


def hard_threshold(Z: Array, *, threshold: Array | float, xp: Namespace = None) -> Array:
    r"""Proximal operator of :math:`\tfrac12 t^2 \lVert \cdot \rVert_0`: keep entries larger than t in size.

    Args:
        Z: array of any shape.
        threshold: t ≥ 0, in units of Z: a number, or an array that broadcasts against Z.
        xp: array namespace; looked up when None.

    Returns:
        Array of the shape of Z.

    Raises:
        TypeError: Z is not a real floating array.
        ValueError: threshold negative, NaN or infinity in Z.

    Source: proximal operator of the ℓ0 term of [CRATE] (1).
    """
    xp = _checked(Z, threshold, 0, xp)
    return xp.where(xp.abs(Z) > threshold, Z, xp.zeros_like(Z))


def group_soft_threshold(Z: Array, *, threshold: Array | float, xp: Namespace = None) -> Array:
    r"""Proximal operator of :math:`t \sum_i \lVert z_i \rVert_2`: shorten every row by t, or drop it.

    Args:
        Z: rows of shape (..., d).
        threshold: t ≥ 0, in units of Z: a number, or an array that broadcasts against Z.
        xp: array namespace; looked up when None.

    Returns:
        Array of the shape of Z.

    Raises:
        TypeError: Z is not a real floating array.
        ValueError: threshold negative, Z without axes, NaN or infinity.

    Source: Yuan and Lin (2006), group lasso, the row-sparse counterpart of [CRATE] (15).
    """
    xp = _checked(Z, threshold, 1, xp)
    lengths = row_norms(Z, xp)
    kept = positive_part(lengths - threshold, xp)
    return Z * (kept / xp.where(lengths > 0, lengths, xp.ones_like(lengths)))


def unit_soft_threshold(Z: Array, *, threshold: Array | float, xp: Namespace = None) -> Array:
    r"""Proximal operator of :math:`t \lVert \cdot \rVert_1` on the unit sphere, row by row.

    It is the soft-thresholded row put back to unit length, or, where nothing survives the threshold, the
    signed unit vector of the row's largest entry. Both are exact minimisers of
    :math:`\tfrac12 \lVert x - z \rVert^2 + t \lVert x \rVert_1` over :math:`\lVert x \rVert_2 = 1`.

    Args:
        Z: rows of shape (..., d).
        threshold: t ≥ 0, in units of Z: a number, or an array that broadcasts against Z.
        xp: array namespace; looked up when None.

    Returns:
        Array of the shape of Z with rows of unit length. Of several largest entries the first is taken; a zero row
        becomes the first unit vector.

    Raises:
        TypeError: Z is not a real floating array.
        ValueError: threshold negative, Z without axes, NaN or infinity.

    Source: first-order conditions on the sphere; the normalisation of [MCR2] with the ℓ1 term of [CRATE] (1).

    Example:
        >>> import numpy as np, srr
        >>> srr.unit_soft_threshold(np.asarray([[4.0, 5.0], [-0.3, 0.2]]), threshold=1.0).tolist()
        [[0.6, 0.8], [-1.0, 0.0]]
    """
    xp = _checked(Z, threshold, 1, xp)
    size = xp.abs(Z)
    largest = xp.argmax(size, axis=-1, keepdims=True)
    sign = xp.where(Z < 0, -xp.ones_like(Z), xp.ones_like(Z))
    positions = xp.arange(Z.shape[-1], dtype=largest.dtype, device=device(Z))
    corner = xp.where(positions == largest, sign, xp.zeros_like(Z))
    shrunk = sign * positive_part(size - threshold, xp)
    lengths = row_norms(shrunk, xp)
    return xp.where(lengths > 0, shrunk / xp.where(lengths > 0, lengths, xp.ones_like(lengths)), corner)


def row_norms(Z: Array, xp: Namespace) -> Array:
    """Length of every row, kept as an axis of one, free of overflow and underflow."""
    top = xp.max(xp.abs(Z), axis=-1, keepdims=True)
    top = xp.where(top > 0, top, xp.ones_like(top))
    return top * xp.sqrt(xp.sum((Z / top) ** 2, axis=-1, keepdims=True))


def _checked(Z: Array, threshold: Array | float, ndim: int, xp: Namespace) -> Namespace:
    xp = namespace(Z, xp=xp)
    check_array(Z, "Z", ndim=ndim, xp=xp)
    if getattr(threshold, "ndim", 0) == 0:
        check_nonnegative(threshold, "threshold")
    return xp
