"""Sparse coding: the lasso, its proximal gradient steps, and the one-matrix form a network runs."""

from __future__ import annotations

from srr._array import Array, Namespace, eye, namespace, positive_part
from srr._checks import check_array, check_nonnegative, check_positive, check_tokens
from srr.ops.shrinkage import relu_threshold, soft_threshold


def lasso(A: Array, Z: Array, D: Array, *, lam: float, xp: Namespace = None) -> Array:
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
        >>> float(srr.lasso(np.zeros((1, 2)), np.asarray([[3.0, 4.0]]), np.eye(2), lam=1.0))
        12.5
    """
    xp = namespace(A, Z, D, xp=xp)
    _check_code(A, Z, D, xp)
    lam = check_nonnegative(lam, "lam")
    residual = Z - A @ D.mT
    return 0.5 * xp.sum(residual**2, axis=(-2, -1)) + lam * xp.sum(xp.abs(A), axis=(-2, -1))


def ista_step(
    A: Array, Z: Array, D: Array, *, step: float, lam: float, nonnegative: bool = True, xp: Namespace = None
) -> Array:
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
    moved = A + step * ((Z - A @ D.mT) @ D)
    shrink = relu_threshold if nonnegative else soft_threshold
    return shrink(moved, threshold=step * lam, xp=xp)


def ista_matrix(D: Array, *, step: float, xp: Namespace = None) -> Array:
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
    return eye(D.shape[-1], D, xp) + step * (D - D.mT @ D)


def folded_ista_step(Z: Array, M: Array, *, step: float, lam: float, xp: Namespace = None) -> Array:
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
    moved = Z @ M
    moved -= step * lam  # in place: the product is ours, and large arrays are dear to allocate
    return positive_part(moved, xp)


def fista_step(
    A: Array,
    A_previous: Array,
    Z: Array,
    D: Array,
    *,
    step: float,
    lam: float,
    momentum: float,
    nonnegative: bool = True,
    xp: Namespace = None,
) -> Array:
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
    ahead = A + momentum * (A - A_previous)
    return ista_step(ahead, Z, D, step=step, lam=lam, nonnegative=nonnegative, xp=xp)


def prox_mm_step(
    Z: Array,
    D: Array | None = None,
    *,
    alpha: float,
    lam: float,
    curvature: float = 2.25,
    xp: Namespace = None,
) -> Array:
    r"""Sparsify step that majorises −R instead of fitting a dictionary.

    .. math:: \max\Bigl(\bigl(1 + \tfrac{1}{c(1+\alpha)}\bigr) Z D - \tfrac{\lambda}{c\,\alpha},\ 0\Bigr)

    Args:
        Z: tokens of shape (..., n, d).
        D: orthogonal frame of shape (d, m) in which codes are sparse; the standard basis by default.
        alpha: α = d/(n ε²) > 0.
        lam: sparsity weight λ ≥ 0.
        curvature: c > 0, the curvature bound of −R in units of α: 9/4 in the paper; 1/8 already majorises −R, whose
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
        Z = Z @ D
    grown = (1.0 + 1.0 / (curvature * (1.0 + alpha))) * Z
    return relu_threshold(grown, threshold=lam / (curvature * alpha), xp=xp)


def _check_code(A: Array, Z: Array, D: Array, xp: Namespace) -> None:
    check_array(A, "A", xp=xp)
    check_tokens(Z, xp=xp)
    check_array(D, "D", xp=xp)
    if D.shape[-2] != Z.shape[-1] or D.shape[-1] != A.shape[-1] or A.shape[-2] != Z.shape[-2]:
        raise ValueError(
            "A, Z, D must have shapes (..., n, m), (..., n, d), (d, m); "
            f"got {tuple(A.shape)}, {tuple(Z.shape)}, {tuple(D.shape)}"
        )
