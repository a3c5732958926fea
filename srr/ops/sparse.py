"""Sparsity: shrinkage, the proximal operators of its penalties, and sparse coding, the steps that use them."""

from __future__ import annotations

from srr._array.checks import check_array, check_nonnegative, check_positive, check_tokens
from srr._array.namespace import (
    Array,
    ArrayT,
    Namespace,
    any_true,
    cast_like,
    device,
    eye,
    is_concrete,
    namespace,
    positive_part,
    root,
    widen,
)


def soft_threshold(Z: ArrayT, *, threshold: ArrayT | float, xp: Namespace = None) -> ArrayT:
    r"""Proximal operator of :math:`t \lVert \cdot \rVert_1`: shrink every entry toward zero by t.

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
        >>> srr.ops.soft_threshold(np.asarray([-3.0, 0.5, 2.0]), threshold=1.0).tolist()
        [-2.0, 0.0, 1.0]
    """
    threshold, xp = _checked(Z, threshold, 0, xp)
    return bare_soft_threshold(Z, threshold, xp)


def bare_soft_threshold(Z: ArrayT, threshold: ArrayT | float, xp: Namespace) -> ArrayT:
    """Formula of :func:`soft_threshold`."""
    return positive_part(Z - threshold, xp) - positive_part(-Z - threshold, xp)


def relu_threshold(Z: ArrayT, *, threshold: ArrayT | float, xp: Namespace = None) -> ArrayT:
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
    return bare_relu_threshold(Z, threshold, xp)


def bare_relu_threshold(Z: ArrayT, threshold: ArrayT | float, xp: Namespace) -> ArrayT:
    """Formula of :func:`relu_threshold`."""
    return positive_part(Z - threshold, xp)


def hard_threshold(Z: ArrayT, *, threshold: ArrayT | float, xp: Namespace = None) -> ArrayT:
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


def group_soft_threshold(Z: ArrayT, *, threshold: ArrayT | float, xp: Namespace = None) -> ArrayT:
    r"""Proximal operator of :math:`t \sum_i \lVert z_i \rVert_2`: shorten every row by t, or drop it.

    Args:
        Z: rows of shape (..., d).
        threshold: t ≥ 0, in units of Z: a number, or one for each row in the shape (..., 1).
        xp: array namespace; looked up when None.

    Returns:
        Array of the shape of Z.

    Raises:
        TypeError: Z is not a real floating array.
        ValueError: threshold negative or of another shape, Z without axes, NaN or infinity.

    Source: Yuan and Lin (2006), group lasso, the row-sparse counterpart of [CRATE] (15).
    """
    threshold, xp = _checked(Z, threshold, 1, xp)
    if not isinstance(threshold, float) and threshold.shape[-1:] not in ((), (1,)):
        raise ValueError(
            f"threshold must be one number for each row, of shape (..., 1) as in {(*Z.shape[:-1], 1)}; "
            f"got {tuple(threshold.shape)}"
        )
    A = widen(Z, xp)
    lengths = row_norms(A, xp)
    kept = positive_part(lengths - threshold, xp)
    return cast_like(A * (kept / xp.where(lengths > 0, lengths, xp.ones_like(lengths))), Z, xp)


def unit_soft_threshold(Z: ArrayT, *, threshold: ArrayT | float, xp: Namespace = None) -> ArrayT:
    r"""Proximal operator of :math:`t \lVert \cdot \rVert_1` on the unit sphere, row by row.

    It is the soft-thresholded row put back to unit length, or, where nothing survives the threshold, the signed unit
    vector of the entry with the largest :math:`|z_i| - t_i`. Both are exact minimizers of
    :math:`\tfrac12 \lVert x - z \rVert^2 + \sum_i t_i |x_i|` over :math:`\lVert x \rVert_2 = 1`: with the signs of z
    this is the smallest :math:`\sum_i (t_i - |z_i|)\, |x_i|`, linear on the positive part of the sphere.

    Args:
        Z: rows of shape (..., d).
        threshold: t ≥ 0, in units of Z: a number, or an array that broadcasts against Z.
        xp: array namespace; looked up when None.

    Returns:
        Array of the shape of Z with rows of unit length. Of several largest entries the first is taken; with one
        threshold for the row, a zero row becomes the first unit vector.

    Raises:
        TypeError: Z is not a real floating array.
        ValueError: threshold negative, Z without axes, NaN or infinity.

    Source: first-order conditions on the sphere; the normalization of [MCR2] with the ℓ1 term of [CRATE] (1).

    Example:
        >>> import numpy as np, srr
        >>> srr.ops.unit_soft_threshold(np.asarray([[4.0, 5.0], [-0.3, 0.2]]), threshold=1.0).tolist()
        [[0.6, 0.8], [-1.0, 0.0]]
    """
    threshold, xp = _checked(Z, threshold, 1, xp)
    return cast_like(bare_unit_soft_threshold(widen(Z, xp), threshold, xp), Z, xp)


def bare_unit_soft_threshold(Z: ArrayT, threshold: ArrayT | float, xp: Namespace) -> ArrayT:
    """Formula of :func:`unit_soft_threshold`."""
    if is_concrete(Z) and 0 not in Z.shape and (easy := _unit_without_corners(Z, threshold, xp)) is not None:
        return easy
    size = xp.abs(Z)
    same = isinstance(threshold, float) or threshold.shape[-1:] in ((), (1,))
    gain = size if same else size - threshold  # the same order where all thresholds are the same, and no rounding
    largest = xp.argmax(gain, axis=-1, keepdims=True)
    sign = xp.where(Z < 0, -xp.ones_like(Z), xp.ones_like(Z))
    positions = xp.arange(Z.shape[-1], dtype=largest.dtype, device=device(Z))
    corner = xp.where(positions == largest, sign, xp.zeros_like(Z))
    shrunk = sign * positive_part(size - threshold, xp)
    lengths = row_norms(shrunk, xp)
    return xp.where(lengths > 0, shrunk / xp.where(lengths > 0, lengths, xp.ones_like(lengths)), corner)


def _unit_without_corners(Z: ArrayT, threshold: ArrayT | float, xp: Namespace) -> ArrayT | None:
    """Soft-thresholded rows at unit length in a few passes; None where a row vanishes or its square is out of range."""
    limits = xp.finfo(Z.dtype)
    if max(float(xp.max(Z)), -float(xp.min(Z))) >= (limits.max / Z.shape[-1]) ** 0.5:
        return None
    shrunk = Z - xp.clip(Z, -threshold, threshold)
    square = xp.vecdot(shrunk, shrunk, axis=-1)[..., None]
    if any_true(square <= limits.smallest_normal / limits.eps**2, xp):
        return None
    return shrunk / root(square, xp)


def row_norms(Z: ArrayT, xp: Namespace) -> ArrayT:
    """Length of every row, kept as an axis of one, free of overflow and underflow."""
    top = xp.max(xp.abs(Z), axis=-1, keepdims=True)
    top = xp.where(top > 0, top, xp.ones_like(top))
    return top * root(xp.sum((Z / top) ** 2, axis=-1, keepdims=True), xp)


def _checked(Z: ArrayT, threshold: ArrayT | float, ndim: int, xp: Namespace) -> tuple[ArrayT | float, Namespace]:
    """Threshold as a number or in the dtype that Z is shrunk in, and the namespace."""
    xp = namespace(Z, xp=xp)
    check_array(Z, "Z", ndim=ndim, xp=xp)
    if isinstance(threshold, (int, float)) or getattr(threshold, "ndim", 0) == 0:
        return check_nonnegative(threshold, "threshold"), xp
    check_array(threshold, "threshold", ndim=1, xp=xp)
    if threshold.ndim > Z.ndim or any(
        a not in (1, b) for a, b in zip(reversed(threshold.shape), reversed(Z.shape), strict=False)
    ):
        raise ValueError(f"threshold must broadcast to the shape of Z, {tuple(Z.shape)}; got {tuple(threshold.shape)}")
    if is_concrete(threshold) and any_true(threshold < 0, xp):
        raise ValueError("threshold must be >= 0; got a negative entry")
    return cast_like(threshold, widen(Z, xp) if ndim else Z, xp), xp


def lasso(A: ArrayT, Z: ArrayT, D: ArrayT, *, lam: float, xp: Namespace = None) -> ArrayT:
    r"""Lasso objective :math:`\tfrac12 \lVert Z - A D^\top \rVert_F^2 + \lambda \lVert A \rVert_1`.

    Args:
        A: codes of shape (..., n, m).
        Z: tokens of shape (..., n, d).
        D: dictionary of shape (d, m), atoms in columns.
        lam: sparsity weight λ ≥ 0.
        xp: array namespace; looked up when None.

    Returns:
        Objective of shape (...).

    Raises:
        TypeError: an argument is not a real floating array.
        ValueError: sizes that do not fit, lam negative, NaN or infinity.

    Source: [CRATE] (17), with the ½ that (15)-(16) omit.

    Example:
        >>> import numpy as np, srr
        >>> float(srr.ops.lasso(np.zeros((1, 2)), np.asarray([[3.0, 4.0]]), np.eye(2), lam=1.0))
        12.5
    """
    xp = namespace(A, Z, D, xp=xp)
    _check_code(A, Z, D, xp)
    lam = check_nonnegative(lam, "lam")
    return cast_like(bare_lasso(widen(A, xp), widen(Z, xp), widen(D, xp), lam, xp), Z, xp)


def bare_lasso(A: ArrayT, Z: ArrayT, D: ArrayT, lam: float, xp: Namespace) -> ArrayT:
    """Formula of :func:`lasso`."""
    residual = Z - A @ D.mT
    return 0.5 * xp.sum(residual**2, axis=(-2, -1)) + lam * xp.sum(xp.abs(A), axis=(-2, -1))


def ista_step(
    A: ArrayT, Z: ArrayT, D: ArrayT, *, step: float, lam: float, nonnegative: bool = True, xp: Namespace = None
) -> ArrayT:
    r"""One proximal gradient step on the lasso.

    .. math:: A^+ = \operatorname{prox}_{\eta\lambda}\bigl(A - \eta (A D^\top - Z) D\bigr)

    Args:
        A: codes of shape (..., n, m).
        Z: tokens of shape (..., n, d).
        D: dictionary of shape (d, m), atoms in columns.
        step: η ≥ 0; up to 1/‖D‖₂² the lasso never rises, from codes that satisfy the constraint.
        lam: sparsity weight λ ≥ 0.
        nonnegative: constrain codes to A ≥ 0 (ReLU) instead of shrinking both signs.
        xp: array namespace; looked up when None.

    Returns:
        Codes of shape (..., n, m).

    Raises:
        TypeError: an argument is not a real floating array.
        ValueError: sizes that do not fit, step or lam negative, NaN or infinity.

    Source: [CRATE] (17); the sign of λ is −, later texts print +.
    """
    xp = namespace(A, Z, D, xp=xp)
    _check_code(A, Z, D, xp)
    step = check_nonnegative(step, "step")
    lam = check_nonnegative(lam, "lam")
    codes, tokens, atoms = widen(A, xp), widen(Z, xp), widen(D, xp)
    return cast_like(bare_ista_step(codes, tokens, atoms, step, lam, nonnegative, xp), A, xp)


def bare_ista_step(
    A: ArrayT, Z: ArrayT, D: ArrayT, step: ArrayT | float, lam: float, nonnegative: bool, xp: Namespace
) -> ArrayT:
    """Formula of :func:`ista_step`."""
    moved = A + step * ((Z - A @ D.mT) @ D)
    shrink = bare_relu_threshold if nonnegative else bare_soft_threshold
    return shrink(moved, step * lam, xp)


def ista_matrix(D: ArrayT, *, step: float, xp: Namespace = None) -> ArrayT:
    r"""The one matrix of an ISTA step that starts from A = Z: :math:`M = I + \eta (D - D^\top D)`.

    Args:
        D: complete dictionary of shape (..., d, d).
        step: η ≥ 0.
        xp: array namespace; looked up when None.

    Returns:
        Matrix of shape (..., d, d); z M = z + η(z D − z DᵀD) row by row.

    Raises:
        TypeError: D is not a real floating array.
        ValueError: D is not square, step negative, NaN or infinity.

    Source: [CRATE] (17) at A = Z, collected in Z.
    """
    xp = namespace(D, xp=xp)
    check_array(D, "D", xp=xp)
    step = check_nonnegative(step, "step")
    if D.shape[-1] != D.shape[-2]:
        raise ValueError(f"D must be square to start from A = Z; got shape {tuple(D.shape)}")
    return cast_like(bare_ista_matrix(widen(D, xp), step, xp), D, xp)


def bare_ista_matrix(D: ArrayT, step: float, xp: Namespace) -> ArrayT:
    """Formula of :func:`ista_matrix`."""
    return eye(D.shape[-1], D, xp) + step * (D - D.mT @ D)


def folded_ista_step(Z: ArrayT, M: ArrayT, *, step: float, lam: float, xp: Namespace = None) -> ArrayT:
    r"""ISTA step from A = Z through its one matrix: :math:`\max(Z M - \eta\lambda, 0)`.

    Args:
        Z: tokens of shape (..., n, d).
        M: matrix of :func:`ista_matrix`, shape (d, d).
        step: η ≥ 0 that M was made with.
        lam: sparsity weight λ ≥ 0.
        xp: array namespace; looked up when None.

    Returns:
        Codes of shape (..., n, d): those of ``ista_step(Z, Z, D, step=step, lam=lam)`` with one product for three.

    Raises:
        TypeError: Z or M is not a real floating array.
        ValueError: M not of shape (d, d) with the d of Z, step or lam negative, NaN or infinity.

    Source: [CRATE] (17) at A = Z.
    """
    xp = namespace(Z, M, xp=xp)
    check_tokens(Z, xp=xp)
    check_array(M, "M", finite=False, xp=xp)
    step = check_nonnegative(step, "step")
    lam = check_nonnegative(lam, "lam")
    if M.shape[-2] != Z.shape[-1]:
        raise ValueError(f"M must have shape (d, d) with d={Z.shape[-1]}; got {tuple(M.shape)}")
    return cast_like(bare_folded_ista_step(widen(Z, xp), widen(M, xp), step, lam, xp), Z, xp)


def bare_folded_ista_step(Z: ArrayT, M: ArrayT, step: float, lam: float, xp: Namespace) -> ArrayT:
    """Formula of :func:`folded_ista_step`."""
    moved = Z @ M
    moved -= step * lam  # in place: the product is ours, and large arrays are expensive to allocate
    return positive_part(moved, xp)


def fista_step(
    A: ArrayT,
    A_previous: ArrayT,
    Z: ArrayT,
    D: ArrayT,
    *,
    step: float,
    lam: float,
    momentum: float,
    nonnegative: bool = True,
    xp: Namespace = None,
) -> ArrayT:
    r"""Accelerated step: an ISTA step from the extrapolated point :math:`A + \mu (A - A_{\text{previous}})`.

    Args:
        A: codes of shape (..., n, m).
        A_previous: codes of the step before, of the same shape.
        Z: tokens of shape (..., n, d).
        D: dictionary of shape (d, m).
        step: η ≥ 0, up to 1/‖D‖₂².
        lam: sparsity weight λ ≥ 0.
        momentum: μ ≥ 0; (k − 1)/(k + 2) at step k gives the O(1/k²) rate.
        nonnegative: constrain codes to A ≥ 0.
        xp: array namespace; looked up when None.

    Returns:
        Codes of shape (..., n, m).

    Raises:
        TypeError: an argument is not a real floating array.
        ValueError: as :func:`ista_step`, or momentum negative.

    Source: Beck and Teboulle (2009), FISTA.
    """
    xp = namespace(A, A_previous, Z, D, xp=xp)
    momentum = check_nonnegative(momentum, "momentum")
    check_array(A, "A", xp=xp)
    check_array(A_previous, "A_previous", xp=xp)
    if tuple(A_previous.shape) != tuple(A.shape):
        raise ValueError(f"A_previous must have the shape of A, {tuple(A.shape)}; got {tuple(A_previous.shape)}")
    codes = widen(A, xp)
    ahead = codes + momentum * (codes - widen(A_previous, xp))
    return cast_like(ista_step(ahead, Z, D, step=step, lam=lam, nonnegative=nonnegative, xp=xp), A, xp)


def prox_mm_step(
    Z: ArrayT,
    D: ArrayT | None = None,
    *,
    alpha: float,
    lam: float,
    curvature: float = 2.25,
    xp: Namespace = None,
) -> ArrayT:
    r"""Sparsify step that majorizes −R instead of fitting a dictionary.

    .. math:: \max\Bigl(\bigl(1 + \tfrac{1}{c(1+\alpha)}\bigr) Z D - \tfrac{\lambda}{c\,\alpha},\ 0\Bigr)

    Args:
        Z: tokens of shape (..., n, d).
        D: orthogonal frame of shape (d, m) in which codes are sparse; the standard basis by default.
        alpha: α = d/(n ε²) > 0.
        lam: sparsity weight λ ≥ 0.
        curvature: c > 0, the curvature bound of −R in units of α: 9/4 in the paper; 1/8 already majorizes −R, whose
            Hessian is at most α/8.
        xp: array namespace; looked up when None.

    Returns:
        Codes of shape (..., n, m), non-negative.

    Raises:
        TypeError: Z or D is not a real floating array.
        ValueError: alpha or curvature not positive, lam negative, sizes that do not fit, NaN or infinity.

    Source: [CRATE] Appendix A.3, (92), where tokens are nearly orthonormal: ∇R ≈ α/(1+α) Z.
    """
    xp = namespace(Z, D, xp=xp)
    check_tokens(Z, xp=xp)
    alpha = check_positive(alpha, "alpha")
    curvature = check_positive(curvature, "curvature")
    lam = check_nonnegative(lam, "lam")
    if D is not None:
        check_array(D, "D", xp=xp)
        if D.shape[-2] != Z.shape[-1]:
            raise ValueError(f"D must have shape (d, m) with d={Z.shape[-1]}; got {tuple(D.shape)}")
    frame = None if D is None else widen(D, xp)
    return cast_like(bare_prox_mm_step(widen(Z, xp), frame, alpha, lam, curvature, xp), Z, xp)


def bare_prox_mm_step(Z: ArrayT, D: ArrayT | None, alpha: float, lam: float, curvature: float, xp: Namespace) -> ArrayT:
    """Formula of :func:`prox_mm_step`."""
    coordinates = Z if D is None else Z @ D
    grown = (1.0 + 1.0 / (curvature * (1.0 + alpha))) * coordinates
    return bare_relu_threshold(grown, lam / (curvature * alpha), xp)


def _check_code(A: Array, Z: Array, D: Array, xp: Namespace) -> None:
    check_array(A, "A", xp=xp)
    check_tokens(Z, xp=xp)
    check_array(D, "D", xp=xp)
    if D.shape[-2] != Z.shape[-1] or D.shape[-1] != A.shape[-1] or A.shape[-2] != Z.shape[-2]:
        raise ValueError(
            "A, Z, D must have shapes (..., n, m), (..., n, d), (d, m); "
            f"got {tuple(A.shape)}, {tuple(Z.shape)}, {tuple(D.shape)}"
        )
