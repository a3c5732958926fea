"""Shrinkage: proximal operators of sparsity penalties, as plain functions."""

from __future__ import annotations

from srr._array import Array, Namespace, any_true, device, is_concrete, namespace, positive_part, root
from srr._checks import check_array, check_nonnegative


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
    threshold, xp = _checked(Z, threshold, 0, xp)
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
    threshold, xp = _checked(Z, threshold, 0, xp)
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
    threshold, xp = _checked(Z, threshold, 0, xp)
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
    threshold, xp = _checked(Z, threshold, 1, xp)
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
    threshold, xp = _checked(Z, threshold, 1, xp)
    if is_concrete(Z) and 0 not in Z.shape and (easy := _unit_without_corners(Z, threshold, xp)) is not None:
        return easy
    size = xp.abs(Z)
    largest = xp.argmax(size, axis=-1, keepdims=True)
    sign = xp.where(Z < 0, -xp.ones_like(Z), xp.ones_like(Z))
    positions = xp.arange(Z.shape[-1], dtype=largest.dtype, device=device(Z))
    corner = xp.where(positions == largest, sign, xp.zeros_like(Z))
    shrunk = sign * positive_part(size - threshold, xp)
    lengths = row_norms(shrunk, xp)
    return xp.where(lengths > 0, shrunk / xp.where(lengths > 0, lengths, xp.ones_like(lengths)), corner)


def _unit_without_corners(Z: Array, threshold: Array | float, xp: Namespace) -> Array | None:
    """Soft-thresholded rows at unit length in a few passes; None where a row vanishes or its square is out of range."""
    limits = xp.finfo(Z.dtype)
    if max(float(xp.max(Z)), -float(xp.min(Z))) >= (limits.max / Z.shape[-1]) ** 0.5:
        return None
    shrunk = Z - xp.clip(Z, -threshold, threshold)
    square = xp.vecdot(shrunk, shrunk, axis=-1)[..., None]
    if any_true(square <= limits.smallest_normal / limits.eps**2, xp):
        return None
    return shrunk / root(square, xp)


def row_norms(Z: Array, xp: Namespace) -> Array:
    """Length of every row, kept as an axis of one, free of overflow and underflow."""
    top = xp.max(xp.abs(Z), axis=-1, keepdims=True)
    top = xp.where(top > 0, top, xp.ones_like(top))
    return top * root(xp.sum((Z / top) ** 2, axis=-1, keepdims=True), xp)


def _checked(Z: Array, threshold: Array | float, ndim: int, xp: Namespace) -> tuple[Array | float, Namespace]:
    """Threshold as a number or in the dtype of Z, and the namespace."""
    xp = namespace(Z, xp=xp)
    check_array(Z, "Z", ndim=ndim, xp=xp)
    if getattr(threshold, "ndim", 0) == 0:
        return check_nonnegative(threshold, "threshold"), xp
    check_array(threshold, "threshold", ndim=1, xp=xp)
    if is_concrete(threshold) and any_true(threshold < 0, xp):
        raise ValueError("threshold must be >= 0; got a negative entry")
    return xp.astype(threshold, Z.dtype, copy=False), xp
