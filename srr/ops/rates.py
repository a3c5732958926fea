"""Coding rates with their closed-form gradients and curvature, the scale and the precision that every rate shares.

``eps`` is the distortion ε; rates are in nats. Values and gradients of float32 (and lower) tokens are computed in a
mixed core unless ``core_dtype`` says otherwise: Gram matrices, factors and inverses in float64, products with the
tokens in float32 where they keep their digits and in float64 where not. The float32 core is faster and can be trusted
where 6e-8 · α · λ_max(ZᵀZ) ≪ 1.

A public function checks its arguments once and calls the formula of the same name that starts with ``bare_``: arrays
in the dtype of the core in, arrays in the dtype of the core out. ``rtol`` is the relative error such a value may
carry, from ``core_tolerance``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, overload

import numpy as np

from srr._array.checks import (
    check_array,
    check_bases,
    check_batch,
    check_nonnegative,
    check_positive,
    check_same_dtype,
    check_tokens,
    check_weights,
)
from srr._array.derivatives import gram_factor
from srr._array.exact import Pair, matmul
from srr._array.linalg import (
    CholeskyFactor,
    GramFactor,
    as_column,
    bare_gram,
    core_rtol,
    inverse_of_factor,
    product_keeps,
    shifted,
    sum_of_squares,
    trusted_cholesky,
)
from srr._array.namespace import (
    NUMPY,
    Array,
    ArrayT,
    DType,
    Host,
    Namespace,
    Number,
    any_true,
    asarray_like,
    cast_like,
    core_cast,
    epsilon,
    from_host,
    has_float64,
    host_view,
    index_like,
    is_compiling,
    is_concrete,
    is_differentiated,
    is_floating,
    is_numpy,
    is_readable,
    is_torch,
    namespace,
    to_numpy,
    unwrapped,
    widen,
)
from srr.ops.subspaces import bare_lift, bare_project, merge_heads

_SMALLEST = 1e-150  # its square, and that of its inverse, are ordinary float64 numbers


# Scale, precision, Gram matrices: what every rate shares


def check_distortion(eps: Any) -> Any:
    """Refuse an ε that is not a finite number > 0 whose square is one too; the number as a Python float."""
    eps = check_positive(eps, "eps")
    if isinstance(eps, float) and not _SMALLEST <= eps <= 1.0 / _SMALLEST:
        raise ValueError(f"eps must lie between {_SMALLEST} and {1.0 / _SMALLEST}: its square is needed; got {eps}")
    return eps


@overload
def rate_scale(n: float, p: int, *, eps: float) -> float: ...
@overload
def rate_scale(n: ArrayT, p: int, *, eps: float) -> ArrayT: ...
def rate_scale(n: ArrayT | float, p: int, *, eps: float) -> ArrayT | float:
    r"""Scale :math:`p / (n \varepsilon^2)` of a rate: the one place that squares ε.

    Args:
        n: number of tokens, or effective numbers ≥ 0 as an array; where one is zero the scale is zero.
        p: number of coordinates: the full dimension d for α, that of a subspace for β.
        eps: distortion ε > 0.

    Returns:
        A number, or an array of the shape of ``n``.

    Raises:
        ValueError: eps is not a finite number > 0 whose square is one too.

    Source: α and β of [CRATE] (7)-(8).

    Example:
        >>> import srr
        >>> srr.ops.rate_scale(10, 5, eps=0.5)
        2.0
    """
    scale: ArrayT | float = bare_rate_scale(n, p, check_distortion(eps))
    return scale


@overload
def bare_rate_scale(n: float, p: int, eps: float) -> float: ...
@overload
def bare_rate_scale(n: ArrayT, p: int, eps: float) -> ArrayT: ...
@overload
def bare_rate_scale(n: float, p: int, eps: ArrayT) -> ArrayT: ...
@overload
def bare_rate_scale(n: float, p: int, eps: Number) -> Any: ...
def bare_rate_scale(n: ArrayT | float, p: int, eps: ArrayT | float) -> ArrayT | float:
    """Formula of :func:`rate_scale`; ε may be an array, one for each head, where n is a number."""
    if not hasattr(n, "ndim"):
        return p / (n * eps**2)
    count: Any = n
    xp = namespace(count)
    some = count > 0
    return xp.where(some, p / eps**2 / xp.where(some, count, xp.ones_like(count)), xp.zeros_like(count))


def core_tolerance(Z: Array, A: Array, xp: Namespace) -> float:
    """Relative error a rate may carry: rounding of the core, or of the result where that is coarser."""
    return max(core_rtol(A.dtype, xp), epsilon(Z.dtype, xp))


class Core(NamedTuple):
    """How the rates of given tokens are computed: in which precision, and by which library."""

    rtol: float  # relative error a rate may carry
    wide: DType  # float64 where Gram matrices, factors and inverses have it and the tokens stay float32; else None
    xp: Namespace


def core_of(
    Z: Array, core_dtype: DType, xp: Namespace, second: Array | None = None, *, mixed: bool = True
) -> tuple[Any, Any, Core]:
    """Tokens (..., n, d), and weights, bases or memberships beside them, as the bare formulas take them; and `Core`.

    Float32 (and lower) tokens stay float32 in the mixed core, the default; with ``core_dtype``, with weights, while a
    derivative may be taken and where values cannot be read, all arrays get the dtype of the core. One set of tokens in
    the memory of a CPU is given to NumPy as it lies.
    """
    A = widen(Z, xp)
    given = (A,) if second is None else (A, second)
    if core_dtype is not None or not mixed or not _may_mix(given, xp):
        A, wide = core_cast(Z, core_dtype, xp), None
        rtol = core_tolerance(Z, A, xp)
    else:
        wide = xp.float64
        rtol = max(core_rtol(wide, xp), epsilon(Z.dtype, xp))
    if second is not None:
        second = xp.astype(second, A.dtype, copy=False)
    if Z.ndim == 2:
        host = [None if X is None else host_view(X) for X in (A, second)]
        if host[0] is not None and (host[1] is None) == (second is None):
            return host[0], host[1], Core(rtol, None if wide is None else np.float64, NUMPY)
    return A, second, Core(rtol, wide, xp)


def _may_mix(arrays: tuple[Array, ...], xp: Namespace) -> bool:
    A = arrays[0]
    return A.dtype == xp.float32 and has_float64(A, xp) and is_readable(A) and not is_differentiated(*arrays)


@overload
def _column(scale: float) -> float: ...
@overload
def _column(scale: ArrayT) -> ArrayT: ...
def _column(scale: ArrayT | float) -> ArrayT | float:
    """Per-item scale, shaped to multiply (..., n, d)."""
    given: Any = scale
    return given[..., None, None] if hasattr(scale, "ndim") else given


def _like(Z: ArrayT, value: Any) -> ArrayT:
    """A result of the core in the dtype and library of the tokens."""
    value = from_host(value, Z)
    if value.dtype == Z.dtype:
        return value
    if is_torch(value):
        return value.to(Z.dtype)
    return namespace(Z).astype(value, Z.dtype, copy=False)


def gram(A: ArrayT, *, xp: Namespace = None) -> ArrayT:
    r"""Gram matrix :math:`A^\top A` of the columns of A.

    Wide torch matrices on a CPU are multiplied in column panels and mirrored, which skips 6 of 16 blocks;
    NumPy recognizes the product as symmetric by itself.

    Args:
        A: matrices of shape (..., n, d).
        xp: array namespace; looked up when None.

    Returns:
        Symmetric matrices of shape (..., d, d).

    Raises:
        TypeError: A is not a real floating array.
        ValueError: A has fewer than two axes or an empty one.

    Source: the matrix of [CRATE] (7).
    """
    xp = namespace(A, xp=xp)
    check_array(A, "A", finite=False, xp=xp)
    return bare_gram(A, xp)


def gram_logdet(A: ArrayT, scale: ArrayT | float, *, xp: Namespace = None) -> ArrayT:
    r"""Log-determinant :math:`\log\det(I + s A^\top A)`, on the smaller side of A.

    Args:
        A: matrices of shape (..., n, d).
        scale: s ≥ 0, a number or an array of shape (...).
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (...), in nats.

    Raises:
        TypeError: A is not a real floating array, scale neither a number nor a real array.
        ValueError: A has fewer than two axes or an empty one; scale negative, not finite or of another shape.

    Source: the determinant of [CRATE] (7) and (8), without its ½.

    Example:
        >>> import numpy as np, srr
        >>> srr.ops.gram_logdet(np.eye(3), 1.0) / np.log(2.0)
        np.float64(3.0)
    """
    xp = namespace(A, xp=xp)
    return cast_like(_checked_factor(A, scale, xp).logdet(), A, xp)


def gram_resolvent(A: ArrayT, scale: ArrayT | float, *, xp: Namespace = None) -> ArrayT:
    r"""Resolvent product :math:`A (I + s A^\top A)^{-1} = (I + s A A^\top)^{-1} A`.

    Args:
        A: matrices of shape (..., n, d).
        scale: s ≥ 0, a number or an array of shape (...).
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (..., n, d).

    Raises:
        TypeError: as :func:`gram_logdet`.
        ValueError: as :func:`gram_logdet`.

    Source: [CRATE] (9), one head of the gradient; s times it is half the gradient of the log-determinant.
    """
    xp = namespace(A, xp=xp)
    return cast_like(_checked_factor(A, scale, xp).resolvent(), A, xp)


def _checked_factor(A: ArrayT, scale: Any, xp: Namespace) -> GramFactor[ArrayT]:
    check_array(A, "A", finite=False, xp=xp)
    if getattr(scale, "ndim", 0) == 0:
        scale = check_nonnegative(scale, "scale")
    else:
        check_array(scale, "scale", ndim=0, xp=namespace(A, scale, xp=xp))
        check_batch(scale, tuple(A.shape[:-2]), 0, "scale")
        if is_concrete(scale) and any_true(scale < 0, xp):
            raise ValueError("scale must be >= 0; got a negative entry")
    A = widen(A, xp)
    return gram_factor(A, scale, rtol=64 * epsilon(A.dtype, xp), xp=xp)


# Rate of all tokens


def coding_rate(
    Z: ArrayT, *, eps: float, weights: ArrayT | None = None, core_dtype: DType = None, xp: Namespace = None
) -> ArrayT:
    r"""Coding rate of tokens up to distortion ε, in nats.

    .. math:: R(Z) = \tfrac12 \log\det\bigl(I + \alpha Z^\top W Z\bigr),\quad
              \alpha = \frac{d}{\varepsilon^2 \sum_i w_i},\ W = \operatorname{diag}(w)

    Args:
        Z: tokens of shape (..., n, d).
        eps: distortion ε > 0.
        weights: token weights w ≥ 0 of shape (..., n), all one by default; zero masks a token.
        core_dtype: dtype of all arithmetic; by default the mixed core, float64 but for safe products.
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
    check_tokens(Z, xp=xp)
    if weights is not None:
        check_weights(weights, Z, xp=xp)
    return _like(Z, core_coding_rate(Z, weights, check_distortion(eps), core_dtype, xp))


def coding_rate_grad(
    Z: ArrayT, *, eps: float, weights: ArrayT | None = None, core_dtype: DType = None, xp: Namespace = None
) -> ArrayT:
    r"""Gradient of :func:`coding_rate` in the tokens; same arguments.

    .. math:: \nabla R = \alpha W Z \bigl(I + \alpha Z^\top W Z\bigr)^{-1}

    Returns:
        Gradient of shape (..., n, d), nats per unit of Z. Row by row it is α(z − ẑ) with ẑ the ridge
        reconstruction of z from all tokens: the expansion operator of ReduNet.

    Source: gradient of [CRATE] (7); [REDU], expansion operator E.
    """
    return coding_rate_value_and_grad(Z, eps=eps, weights=weights, core_dtype=core_dtype, xp=xp)[1]


def coding_rate_value_and_grad(
    Z: ArrayT, *, eps: float, weights: ArrayT | None = None, core_dtype: DType = None, xp: Namespace = None
) -> tuple[ArrayT, ArrayT]:
    """Value and gradient of :func:`coding_rate` from one factorization; same arguments.

    Returns:
        The pair (rate of shape (...), gradient of shape (..., n, d)), in nats.

    Source: [CRATE] (7) and its gradient.
    """
    xp = namespace(Z, weights, xp=xp)
    check_tokens(Z, xp=xp)
    if weights is not None:
        check_weights(weights, Z, xp=xp)
    value, grad = core_coding_rate_value_and_grad(Z, weights, check_distortion(eps), core_dtype, xp)
    return _like(Z, value), _like(Z, grad)


def core_coding_rate(Z: Array, weights: Array | None, eps: float, core_dtype: DType, xp: Namespace) -> Any:
    """R of checked tokens, in the dtype and library of their core."""
    A, w, core = core_of(Z, core_dtype, xp, weights, mixed=weights is None)
    return bare_coding_rate(A, w, eps, core.rtol, core.xp, core.wide)


def core_coding_rate_value_and_grad(
    Z: Array, weights: Array | None, eps: float, core_dtype: DType, xp: Namespace
) -> tuple[Any, Any]:
    """R of checked tokens, and ∇R, in the library of their core."""
    A, w, core = core_of(Z, core_dtype, xp, weights, mixed=weights is None)
    return bare_coding_rate_value_and_grad(A, w, eps, core.rtol, core.xp, core.wide)


def bare_coding_rate(
    A: ArrayT, weights: ArrayT | None, eps: float, rtol: float, xp: Namespace, wide: DType = None
) -> ArrayT:
    """R of core tokens; ``wide`` as in `Core`."""
    return 0.5 * _factor(A, weights, eps, rtol, xp, wide)[0].logdet()


def bare_coding_rate_value_and_grad(
    A: ArrayT, weights: ArrayT | None, eps: float, rtol: float, xp: Namespace, wide: DType = None
) -> tuple[ArrayT, ArrayT]:
    """R of core tokens, and ∇R; ``wide`` as in `Core`."""
    factor, scale = _factor(A, weights, eps, rtol, xp, wide)
    return 0.5 * factor.logdet(), _column(scale) * factor.resolvent()


def _factor(
    A: ArrayT, weights: ArrayT | None, eps: float, rtol: float, xp: Namespace, wide: DType
) -> tuple[GramFactor[ArrayT], float | ArrayT]:
    """Factor of I + α ZᵀWZ, and α."""
    n, d = A.shape[-2:]
    scale = bare_rate_scale(n if weights is None else xp.sum(weights, axis=-1), d, eps)
    return gram_factor(A, scale, weights=weights, rtol=rtol, xp=xp, core=wide), scale


# Rate under subspace codebooks, and the sparse rate reduction that CRATE ascends


def subspace_coding_rate(Z: ArrayT, U: ArrayT, *, eps: float, core_dtype: DType = None, xp: Namespace = None) -> ArrayT:
    r"""Coding rate of tokens under K subspace codebooks, in nats.

    .. math:: R^c(Z; U) = \tfrac12 \sum_k \log\det\bigl(I_p + \beta V_k^\top V_k\bigr),\quad
              V_k = Z U_k,\ \beta = \frac{p}{n \varepsilon^2}

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p), one subspace each.
        eps: distortion ε > 0.
        core_dtype: dtype of all arithmetic; by default the mixed core, float64 but for safe products.
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
    _check_bases_of(Z, U, xp)
    A, bases, core = core_of(Z, core_dtype, xp, U)
    return _like(Z, bare_subspace_coding_rate(A, bases, check_distortion(eps), core.rtol, core.xp, core.wide))


def subspace_coding_rate_grad(
    Z: ArrayT, U: ArrayT, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> ArrayT:
    r"""Gradient of :func:`subspace_coding_rate` in the tokens, one p×p solve per head; same arguments.

    .. math:: \nabla R^c = \beta \sum_k V_k \bigl(I_p + \beta V_k^\top V_k\bigr)^{-1} U_k^\top

    Returns:
        Gradient of shape (..., n, d), nats per unit of Z.

    Source: [CRATE] (9).
    """
    return subspace_coding_rate_value_and_grad(Z, U, eps=eps, core_dtype=core_dtype, xp=xp)[1]


def subspace_coding_rate_value_and_grad(
    Z: ArrayT, U: ArrayT, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> tuple[ArrayT, ArrayT]:
    """Value and gradient of :func:`subspace_coding_rate` from one factorization per head; same arguments.

    Returns:
        The pair (rate of shape (...), gradient of shape (..., n, d)), in nats.

    Source: [CRATE] (8)-(9).
    """
    xp = namespace(Z, U, xp=xp)
    _check_bases_of(Z, U, xp)
    value, grad = core_subspace_coding_rate_value_and_grad(Z, U, check_distortion(eps), core_dtype, xp)
    return _like(Z, value), _like(Z, grad)


def _check_bases_of(Z: Array, U: Array, xp: Namespace) -> None:
    check_tokens(Z, xp=xp)
    check_bases(U, Z.shape[-1], xp=xp)
    check_same_dtype(Z=Z, U=U)


def core_subspace_coding_rate_value_and_grad(
    Z: Array, U: Array, eps: Number, core_dtype: DType, xp: Namespace
) -> tuple[Any, Any]:
    """R^c(·; U) of checked tokens, and ∇R^c, in the library of their core."""
    A, bases, core = core_of(Z, core_dtype, xp, U)
    return bare_subspace_coding_rate_value_and_grad(A, bases, eps, core.rtol, core.xp, core.wide)


def bare_subspace_coding_rate(
    A: ArrayT, U: ArrayT, eps: Number, rtol: float, xp: Namespace, wide: DType = None
) -> ArrayT:
    """R^c(·; U) of core tokens; ε is a number, or one for each head, (..., K); ``wide`` as in `Core`."""
    if wide is not None:
        found = _mixed_heads(A, U, eps, rtol, xp, wide)
        if found is not None:
            return 0.5 * found.logdet
        (A, U), rtol = (xp.astype(X, wide) for X in (A, U)), core_rtol(wide, xp)
    return 0.5 * xp.sum(_subspace_factor(A, U, eps, rtol, xp)[0].logdet(), axis=-1)


def bare_subspace_coding_rate_value_and_grad(
    A: ArrayT, U: ArrayT, eps: Number, rtol: float, xp: Namespace, wide: DType = None
) -> tuple[ArrayT, ArrayT]:
    """R^c(·; U) of core tokens, and ∇R^c; ε is a number, or one for each head, (..., K); ``wide`` as in `Core`."""
    if wide is not None:
        found = _mixed_heads(A, U, eps, rtol, xp, wide)
        rows = None if found is None else _mixed_rows(found, xp)
        if found is not None and rows is not None:
            return 0.5 * found.logdet, bare_lift(rows, U, xp)
        (A, U), rtol = (xp.astype(X, wide) for X in (A, U)), core_rtol(wide, xp)
    factor, scale = _subspace_factor(A, U, eps, rtol, xp)
    grad = bare_lift(_column(scale) * factor.resolvent(), U, xp)
    return 0.5 * xp.sum(factor.logdet(), axis=-1), grad


class _Heads(NamedTuple, Generic[ArrayT]):
    """Factors of all heads in the mixed core, and the sum of their log-determinants (...)."""

    factor: CholeskyFactor[ArrayT]
    logdet: ArrayT
    noise: ArrayT  # (...): ‖Z‖² ‖U‖²/(d K p), the square of what one coordinate answers for the rounding of a product


def _mixed_heads(A: ArrayT, U: ArrayT, eps: Number, rtol: float, xp: Namespace, wide: DType) -> _Heads[ArrayT] | None:
    """Projections in float32, their Gram matrices and factors in float64; None where the value may lose digits.

    Rounding of V = ZU changes log-determinants by 2β⟨V(I + βVᵀV)⁻¹, δV⟩. The first factor is at most the smaller of
    (β tr βVᵀV)^½ and (βp)^½/2, the second in the mean u‖Z‖‖U‖/√d: together they may be 16 roundings of the value.
    """
    V = bare_project(A, U, xp)
    scale = as_column(bare_rate_scale(A.shape[-2], U.shape[-1], eps), xp.astype(V[..., :1, :1], wide), xp)
    factor = gram_factor(V, scale[..., 0, 0], rtol=rtol, xp=xp, core=wide)
    if not isinstance(factor, CholeskyFactor):
        return None
    K, d, p = U.shape[-3:]
    logdet, beta = xp.sum(factor.logdet(), axis=-1), scale[..., 0, 0]
    energy = xp.sum(factor.L * factor.L, axis=(-2, -1)) - factor.L.shape[-1]  # tr βVᵀV, (..., K)
    steep = xp.sum(beta * xp.where(energy < 0.25 * p, energy, xp.full_like(energy, 0.25 * p)), axis=-1)
    noise = xp.astype(sum_of_squares(A, xp), wide) * xp.astype(sum_of_squares(U, xp, axes=3), wide) / d
    if any_true(~(4.0 * steep * noise <= (16.0 * logdet) ** 2), xp):
        return None
    return _Heads(factor, logdet, noise / (K * p))


def _mixed_rows(heads: _Heads[ArrayT], xp: Namespace) -> ArrayT | None:
    """β V (I + βVᵀV)⁻¹ in float32, (..., K, n, p); None where rounding of V or of the inverses may take digits."""
    factor = heads.factor
    S = factor.scale * inverse_of_factor(factor.L, xp)
    rows, lost = factor.narrow(S)
    # (I + βVᵀV)⁻¹ has the eigenvalues of (I + βVVᵀ)⁻¹, and ones
    spare = factor.scale[..., 0, 0] ** 2 * max(factor.A.shape[-1] - S.shape[-1], 0)
    lost = lost + heads.noise[..., None] * (xp.sum(S * S, axis=(-2, -1)) + spare)
    return rows if product_keeps(xp.sum(lost, axis=-1), sum_of_squares(rows, xp, axes=3), xp) else None


def _subspace_factor(A: ArrayT, U: ArrayT, eps: Number, rtol: float, xp: Namespace) -> tuple[GramFactor[ArrayT], Any]:
    """Factors of I + β VₖᵀVₖ for every head, and β."""
    V = bare_project(A, U, xp)  # (..., K, n, p)

    def low() -> ArrayT:  # what rounding took from the projections
        rows, bases = A[..., None, :, :], U
        exact = matmul(Pair(rows, xp.zeros_like(rows)), Pair(bases, xp.zeros_like(bases)), xp)
        return (exact.high - V) + exact.low

    scale = bare_rate_scale(A.shape[-2], U.shape[-1], eps)
    return gram_factor(V, scale, rtol=rtol, xp=xp, low=low), scale


def sparse_rate_reduction(
    Z: ArrayT, U: ArrayT, *, eps: float, lam: float, core_dtype: DType = None, xp: Namespace = None
) -> ArrayT:
    r"""Sparse rate reduction, the objective that CRATE's layers ascend, in nats.

    .. math:: R(Z) - R^c(Z; U) - \lambda \lVert Z \rVert_1

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        eps: distortion ε > 0.
        lam: sparsity weight λ ≥ 0, in nats per unit of Z.
        core_dtype: dtype of all arithmetic; by default the mixed core, float64 but for safe products.
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
    lam, eps = check_nonnegative(lam, "lam"), check_distortion(eps)
    _check_bases_of(Z, U, xp)
    A, bases, (rtol, wide, xp) = core_of(Z, core_dtype, xp, U)
    expanded = bare_coding_rate(A, None, eps, rtol, xp, wide)
    smooth = expanded - bare_subspace_coding_rate(A, bases, eps, rtol, xp, wide)
    return _like(Z, smooth - lam * _l1(A, wide, xp))


def sparse_rate_reduction_grad(
    Z: ArrayT, U: ArrayT, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> ArrayT:
    r"""Gradient of the smooth part of :func:`sparse_rate_reduction`, :math:`\nabla R - \nabla R^c`; no ``lam``.

    Returns:
        Gradient of shape (..., n, d), nats per unit of Z.

    Source: gradient of [CRATE] (1) without its sparsity term.
    """
    return sparse_rate_reduction_value_and_grad(Z, U, eps=eps, lam=0.0, core_dtype=core_dtype, xp=xp)[1]


def sparse_rate_reduction_value_and_grad(
    Z: ArrayT, U: ArrayT, *, eps: float, lam: float, core_dtype: DType = None, xp: Namespace = None
) -> tuple[ArrayT, ArrayT]:
    """Value of :func:`sparse_rate_reduction` and gradient of its smooth part; same arguments.

    Returns:
        The pair (objective of shape (...), gradient of R − R^c of shape (..., n, d)), in nats; λ enters the value
        only.

    Source: [CRATE] (1) and the gradient of its smooth part.
    """
    xp = namespace(Z, U, xp=xp)
    lam, eps = check_nonnegative(lam, "lam"), check_distortion(eps)
    _check_bases_of(Z, U, xp)
    A, bases, (rtol, wide, xp) = core_of(Z, core_dtype, xp, U)
    smooth, grad = bare_sparse_rate_reduction_value_and_grad(A, bases, eps, rtol, xp, wide)
    return _like(Z, smooth - lam * _l1(A, wide, xp)), _like(Z, grad)


def _l1(A: ArrayT, wide: DType, xp: Namespace) -> ArrayT:
    """‖Z‖₁, summed in the dtype of the core."""
    return xp.sum(xp.abs(A if wide is None else xp.astype(A, wide)), axis=(-2, -1))


def bare_sparse_rate_reduction_value_and_grad(
    A: ArrayT, U: ArrayT, eps: float, rtol: float, xp: Namespace, wide: DType = None
) -> tuple[ArrayT, ArrayT]:
    """R − R^c(·; U) of core tokens, and its gradient; ``wide`` as in `Core`."""
    compressed, compress = bare_subspace_coding_rate_value_and_grad(A, U, eps, rtol, xp, wide)
    expanded, expand = bare_coding_rate_value_and_grad(A, None, eps, rtol, xp, wide)
    return _difference(
        (expanded, expand), (compressed, compress), wide, xp
    ) or bare_sparse_rate_reduction_value_and_grad(xp.astype(A, wide), xp.astype(U, wide), eps, rtol, xp)


def _difference(
    first: tuple[ArrayT, ArrayT], second: tuple[ArrayT, ArrayT], wide: DType, xp: Namespace
) -> tuple[ArrayT, ArrayT] | None:
    """Value and gradient of a difference; None where two gradients of the mixed core cancel more than four bits."""
    grad = first[1] - second[1]
    if wide is not None and not product_keeps(
        sum_of_squares(first[1], xp) + sum_of_squares(second[1], xp), sum_of_squares(grad, xp), xp
    ):
        return None
    return first[0] - second[0], grad


# Tokens sorted by label once: classes as padded batches of similar size, and the way back


Index: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]


def labels_on_host(labels: Array) -> Index:
    """Labels as NumPy integers.

    Raises:
        TypeError: they are being traced.
    """
    labels = unwrapped(labels)
    if is_readable(labels) or is_compiling(labels):  # torch compiles around what it cannot follow
        return to_numpy(labels)
    raise TypeError("Pi as labels needs concrete values; under jit or vmap pass a membership matrix")


def checked_labels(labels: Array, batch: tuple[int, ...], n: int, classes: int | None = None) -> tuple[Index, int]:
    """Labels of tokens (..., n, d) as integers (items, n), and the number of classes; see `Segments.of`."""
    host = labels_on_host(labels)
    if host.ndim > len(batch) + 1 or any(
        a not in (1, b) for a, b in zip(host.shape[-2::-1], batch[::-1], strict=False)
    ):
        raise ValueError(f"Pi as labels must broadcast to {(*batch, n)}; got shape {host.shape}")
    largest = int(host.max(initial=0))
    if host.min(initial=0) < 0:
        raise ValueError(f"Pi as labels must be >= 0; got {host.min()}")
    if classes is not None and largest >= classes:
        raise ValueError(f"Pi must have labels below K={classes}; got {largest}")
    host = (host if host.shape == (*batch, n) else np.broadcast_to(host, (*batch, n))).reshape(-1, n)
    if classes is None and largest >= host.size > 0:
        host = np.unique(host, return_inverse=True)[1].reshape(host.shape)
        largest = int(host.max())
    return host.astype(np.int64), largest + 1 if classes is None else classes


@dataclass(frozen=True)
class Segments:
    """Where the tokens of every class lie, for all batch items at once.

    Zero rows leave logdet(I + s·AᵀA) unchanged, so classes whose sizes differ by less than a factor of two are
    padded into one batch. Everything is a gather, so the way back is one too and gradients can pass.
    """

    batch: tuple[int, ...]
    positions: Index  # (tokens,) place of every token among the padded rows of all buckets
    table: Index  # (items, K) place of every class among the segments, the last place for an empty one
    members: tuple[Index, ...]  # per bucket (S, m): token of every padded row
    counts: tuple[Index, ...]  # per bucket (S,): tokens of every segment

    @classmethod
    def of(cls, labels: Array, Z: Array, classes: int | None = None) -> Segments:
        """Sort labels of shape (..., n) or (n,) for tokens of shape (..., n, d).

        Args:
            labels: integers ≥ 0.
            Z: tokens; only the shape matters.
            classes: number K of classes, which labels must stay below and the table is as wide as. By default the
                labels are names without an order: those that occur are numbered anew, and memory does not grow with
                the largest.

        Raises:
            TypeError: the labels are being traced.
            ValueError: a negative label, one of at least ``classes``, or a shape that does not broadcast to the tokens.
        """
        batch, n = tuple(Z.shape[:-2]), Z.shape[-2]
        host, K = checked_labels(labels, batch, n, classes)
        return cls.sorted(batch, (host + K * np.arange(len(host))[:, None]).ravel(), len(host), K)

    @classmethod
    def sorted(cls, batch: tuple[int, ...], segment: Index, items: int, K: int) -> Segments:
        """Sort tokens by the number of their segment, which is that of the class plus K times that of the item."""
        order = np.argsort(segment, kind="stable")
        size = np.bincount(segment, minlength=items * K)
        start = np.concatenate([[0], np.cumsum(size)])[:-1]
        positions, table = np.empty_like(segment), np.full(items * K, (size > 0).sum())
        members, counts, rows, place = [], [], 0, 0
        bucket = np.frexp(np.maximum(size, 1))[1]  # sizes in [2^(b-1), 2^b) share bucket b
        for b in np.unique(bucket[size > 0]):
            chosen = np.flatnonzero((bucket == b) & (size > 0))
            width = size[chosen].max()
            column = np.arange(width)
            valid = column < size[chosen][:, None]
            index = order[np.where(valid, start[chosen][:, None] + column, 0)]
            padded = rows + np.arange(index.size).reshape(index.shape)
            positions[index[valid]] = padded[valid]
            table[chosen] = place + np.arange(len(chosen))
            members.append(index)
            counts.append(size[chosen])
            rows, place = rows + index.size, place + len(chosen)
        return cls(batch, positions, table.reshape(items, K), tuple(members), tuple(counts))

    def buckets(self, A: ArrayT, xp: Namespace) -> Iterator[tuple[ArrayT, ArrayT]]:
        """Padded tokens (S, m, d) and token counts (S,) of each batch of classes of similar size."""
        flat = xp.reshape(A, (-1, A.shape[-1]))
        for index, size in zip(self.members, self.counts, strict=True):
            tokens = xp.take(flat, index_like(index.ravel(), A, xp), axis=0)
            tokens = xp.reshape(tokens, (*index.shape, A.shape[-1]))
            if (size < index.shape[1]).any():
                valid = np.arange(index.shape[1]) < size[:, None]
                tokens = tokens * asarray_like(valid.astype(np.float64)[..., None], A, xp=xp)
            real = A.dtype if is_floating(A, xp) else xp.real(flat[:1, :1]).dtype
            yield tokens, asarray_like(size.astype(np.float64), A, dtype=real, xp=xp)

    def sum_by_item(self, terms: list[ArrayT], xp: Namespace) -> ArrayT:
        """Add per-segment terms, one array (S,) per bucket, into one number per batch item."""
        flat = xp.concat([*terms, xp.zeros_like(terms[0][:1])])
        chosen = xp.take(flat, index_like(self.table.ravel(), flat, xp), axis=0)
        return xp.reshape(xp.sum(xp.reshape(chosen, self.table.shape), axis=-1), self.batch)

    def restore(self, rows: list[ArrayT], xp: Namespace) -> ArrayT:
        """Bring padded rows, one array (S, m, d) per bucket, back to the order of the tokens."""
        d = rows[0].shape[-1]
        flat = xp.concat([xp.reshape(r, (-1, d)) for r in rows], axis=0)
        tokens = xp.take(flat, index_like(self.positions, flat, xp), axis=0)
        return xp.reshape(tokens, (*self.batch, -1, d))


# Rate of a partition, from soft memberships or from labels


def partition_coding_rate(
    Z: ArrayT, Pi: Array, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> ArrayT:
    r"""Coding rate of tokens class by class, in nats.

    .. math:: R^c(Z \mid \Pi) = \sum_k \frac{\operatorname{tr}\Pi_k}{2n}
              \log\det\Bigl(I + \frac{d}{\varepsilon^2 \operatorname{tr}\Pi_k} Z^\top \Pi_k Z\Bigr)

    Args:
        Z: tokens of shape (..., n, d).
        Pi: membership weights ≥ 0 of shape (..., n, K), n being their total; or integer labels ≥ 0 of shape
            (..., n) or (n,), names without an order, which are sorted into segments and need concrete values (no
            tracing).
        eps: distortion ε > 0.
        core_dtype: dtype of all arithmetic; by default the mixed core, float64 but for safe products.
        xp: array namespace; looked up when None.

    Returns:
        Rate of shape (...), in nats, in the dtype of Z; empty classes count zero, and so does their derivative in Pi,
        where there is none (the rate has a corner at Π_k = 0).

    Raises:
        TypeError: Z is not a real floating array, Pi neither floating nor integer, or labels being traced.
        ValueError: another length, negative entries, NaN or infinity, eps not positive.

    Source: [MCR2] (8).

    Example:
        >>> import numpy as np, srr
        >>> Z, labels = np.eye(4), np.asarray([0, 0, 1, 1])
        >>> float(srr.partition_coding_rate(Z, labels, eps=1.0) / np.log(3.0))
        1.0
    """
    xp = namespace(Z, Pi, xp=xp)
    A, parts, core = _core_with_parts(Z, Pi, core_dtype, xp)
    return _like(Z, bare_partition_coding_rate(A, parts, check_distortion(eps), core.rtol, core.xp, core.wide))


def partition_coding_rate_grad(
    Z: ArrayT, Pi: Array, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> ArrayT:
    r"""Gradient of :func:`partition_coding_rate` in the tokens; same arguments.

    .. math:: \sum_k \frac{\operatorname{tr}\Pi_k}{n} \alpha_k \Pi_k Z (I + \alpha_k Z^\top \Pi_k Z)^{-1},\quad
              \alpha_k = \frac{d}{\varepsilon^2 \operatorname{tr}\Pi_k}

    Returns:
        Gradient of shape (..., n, d), nats per unit of Z.

    Source: gradient of [MCR2] (8); [REDU], compression operators C_k.
    """
    return partition_coding_rate_value_and_grad(Z, Pi, eps=eps, core_dtype=core_dtype, xp=xp)[1]


def partition_coding_rate_value_and_grad(
    Z: ArrayT, Pi: Array, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> tuple[ArrayT, ArrayT]:
    """Value and gradient of :func:`partition_coding_rate` from one factorization per class; same arguments.

    Returns:
        The pair (rate of shape (...), gradient of shape (..., n, d)), in nats.

    Source: [MCR2] (8) and its gradient.
    """
    xp = namespace(Z, Pi, xp=xp)
    A, parts, (rtol, wide, xp) = _core_with_parts(Z, Pi, core_dtype, xp)
    value, grad = bare_partition_coding_rate_value_and_grad(A, parts, check_distortion(eps), rtol, xp, wide)
    return _like(Z, value), _like(Z, grad)


def check_partition(Pi: Array, Z: Array, xp: Namespace, classes: int | None = None) -> bool:
    """Refuse what is neither labels nor memberships of the tokens, or of another number of classes; True for labels."""
    n = Z.shape[-2]
    if xp.isdtype(Pi.dtype, "integral"):
        if Pi.ndim < 1 or Pi.shape[-1] != n:
            raise ValueError(f"Pi as labels must have shape (..., n) with n={n}; got {tuple(Pi.shape)}")
        return True
    check_array(Pi, "Pi", xp=xp)
    if Pi.shape[-2] != n or classes not in (None, Pi.shape[-1]):
        size = f"n={n}" if classes is None else f"n={n}, K={classes}"
        raise ValueError(f"Pi as membership must have shape (..., n, K) with {size}; got {tuple(Pi.shape)}")
    check_batch(Pi, tuple(Z.shape[:-2]), 2, "Pi")
    if is_concrete(Pi) and any_true(Pi < 0, xp):
        raise ValueError("Pi must be >= 0; got a negative entry")
    return False


def _core_with_parts(Z: ArrayT, Pi: Array, core_dtype: DType, xp: Namespace) -> tuple[Any, Any, Core]:
    """Checked tokens as their core takes them, and their classes."""
    check_tokens(Z, xp=xp)
    if not check_partition(Pi, Z, xp):
        A, memberships, core = core_of(Z, core_dtype, xp, Pi, mixed=False)
        return A, memberships, core
    A, _, core = core_of(Z, core_dtype, xp)
    return A, parts_of(Pi, A), core


_FEW = 1 << 14  # numbers in all copies of the tokens up to which masks beat segments
_CROWD = 8  # tokens a class from which a loop over classes in the memory of a CPU beats padded batches


class Masks(NamedTuple):
    """Labels of few tokens, where calls cost more than arithmetic: one copy of all tokens, then one for each class.

    Zero rows leave logdet(I + s·AᵀA) unchanged, so a copy of a class is all tokens with the others set to zero.
    """

    mask: np.ndarray[Any, np.dtype[np.float64]]  # (1 + K, n) of zeros and ones

    def factor(
        self, A: ArrayT, eps: float, rtol: float, xp: Namespace, *, whole: bool
    ) -> tuple[GramFactor[ArrayT], ArrayT, float]:
        """Factors of I + α_k Z_kᵀZ_k, the shares n_k/n, and α, the product of α_k and the share of every class."""
        mask = self.mask if whole else self.mask[1:]
        alpha = bare_rate_scale(A.shape[-2], A.shape[-1], eps)
        share = asarray_like(mask.mean(axis=-1), A, xp=xp)
        return gram_factor(asarray_like(mask[..., None], A, xp=xp) * A, alpha / share, rtol=rtol, xp=xp), share, alpha


class Slices(NamedTuple):
    """Labels of one set of tokens in the memory of a CPU: a loop over the classes, without padding."""

    order: Index  # tokens, class by class
    places: Index  # of the tokens among the sorted ones
    edges: tuple[int, ...]  # where the classes begin, and the number of tokens

    def spans(self) -> Iterator[slice]:
        """Place of every class among the sorted tokens."""
        return itertools.starmap(slice, itertools.pairwise(self.edges))

    def segments(self) -> Segments:
        """The same classes for the general form."""
        segment = np.repeat(np.arange(len(self.edges) - 1), np.diff(self.edges))
        return Segments.sorted((), segment[self.places], 1, len(self.edges) - 1)


def parts_of(labels: Array, A: Array) -> Masks | Slices | Segments:
    """Classes of tokens from their labels, in the form that is the fastest for as many; of A shape and kind matter."""
    if A.ndim != 2:
        return Segments.of(labels, A)
    n, d = A.shape[-2:]
    host, K = checked_labels(labels, (), n)
    sizes = np.bincount(host[0])
    sizes = sizes[sizes > 0]
    if is_numpy(A) and is_floating(A, np) and n >= _CROWD * len(sizes):
        names = host[0].astype(np.uint16) if K <= 1 << 16 else host[0]  # NumPy sorts short integers by counting
        order, places = np.argsort(names, kind="stable"), np.empty(n, dtype=np.int64)
        places[order] = np.arange(n)
        return Slices(order, places, (0, *np.cumsum(sizes).tolist()))
    if (1 + len(sizes)) * n * d <= _FEW:
        mask = np.ones((1 + len(sizes), n))
        mask[1:] = host == np.unique(host)[:, None]
        return Masks(mask)
    return Segments.of(labels, A)


Parts: TypeAlias = Masks | Slices | Segments | ArrayT
"""Classes as the bare formulas take them; memberships are (..., n, K)."""


def bare_partition_coding_rate(
    A: ArrayT, parts: Parts[ArrayT], eps: float, rtol: float, xp: Namespace, wide: DType = None
) -> ArrayT:
    """R^c(·|Π) of core tokens, from `Slices`, `Segments`, `Masks` or memberships (..., n, K)."""
    if isinstance(parts, Slices):
        total: Any = sum(share * factor.logdet() for _, share, factor in _class_factors(A, parts, eps, rtol, xp, wide))
        return 0.5 * total
    A = A if wide is None else xp.astype(A, wide)
    if isinstance(parts, Masks):
        factor, share, _ = parts.factor(A, eps, rtol, xp, whole=False)
        return 0.5 * xp.sum(share * factor.logdet())
    if not isinstance(parts, Segments):
        factor, _, share = _membership_factor(A, parts.mT, eps, rtol, xp)
        return 0.5 * xp.sum(share * factor.logdet(), axis=-1)
    logdets = [count / A.shape[-2] * factor.logdet() for factor, count in _segment_factors(A, parts, eps, rtol, xp)]
    return 0.5 * parts.sum_by_item(logdets, xp) if logdets else xp.sum(A, axis=(-2, -1))


def bare_partition_coding_rate_value_and_grad(
    A: ArrayT, parts: Parts[ArrayT], eps: float, rtol: float, xp: Namespace, wide: DType = None
) -> tuple[ArrayT, ArrayT]:
    """R^c(·|Π) of core tokens, and its gradient; share · α_k = α for every class."""
    n, d = A.shape[-2:]
    if isinstance(parts, Slices):
        value: Any = 0.0
        sorted_rows: Any = np.empty_like(A)
        for span, part, inner in _class_factors(A, parts, eps, rtol, xp, wide):
            value = value + 0.5 * part * inner.logdet()
            sorted_rows[parts.order[span]] = inner.resolvent()
        sorted_rows *= bare_rate_scale(n, d, eps)
        return value, sorted_rows
    if wide is not None and not isinstance(parts, Segments):
        A, wide = xp.astype(A, wide), None
    if isinstance(parts, Masks):
        factor, share, alpha = parts.factor(A, eps, rtol, xp, whole=False)
        return 0.5 * xp.sum(share * factor.logdet()), alpha * xp.sum(factor.resolvent(), axis=0)
    if not isinstance(parts, Segments):
        factor, total, share = _membership_factor(A, parts.mT, eps, rtol, xp)
        grad = _column(bare_rate_scale(total, d, eps)) * xp.sum(factor.resolvent(), axis=-3)
        return 0.5 * xp.sum(share * factor.logdet(), axis=-1), grad
    if not parts.members:  # a batch of no token sets
        return xp.sum(A, axis=(-2, -1)), A
    logdets, rows = [], []
    for factor, count in _segment_factors(A, parts, eps, rtol, xp, wide):
        logdets.append(count / n * factor.logdet())
        rows.append(factor.resolvent())
    return 0.5 * parts.sum_by_item(logdets, xp), bare_rate_scale(n, d, eps) * parts.restore(rows, xp)


def _class_factors(
    A: ArrayT, parts: Slices, eps: float, rtol: float, xp: Namespace, wide: DType
) -> Iterator[tuple[slice, float, GramFactor[ArrayT]]]:
    """Place, share and factor of I + α_k Z_kᵀZ_k of every class."""
    n, d = A.shape
    for span in parts.spans():
        rows = A[parts.order[span]]
        yield span, len(rows) / n, gram_factor(rows, bare_rate_scale(len(rows), d, eps), rtol=rtol, xp=xp, core=wide)


def _membership_factor(
    A: ArrayT, weights: ArrayT, eps: float, rtol: float, xp: Namespace, whole: bool = False
) -> tuple[GramFactor[ArrayT], ArrayT, ArrayT]:
    """Factors of I + α_k ZᵀΠ_kZ for weights (..., K, n), Σ tr Π_k, and the shares of the classes.

    With ``whole`` the total weights come first, as a class of share one.
    """
    count = xp.sum(weights, axis=-1)  # (..., K)
    total = xp.sum(count, axis=-1, keepdims=True)
    if whole:
        weights = xp.concat([xp.sum(weights, axis=-2, keepdims=True), weights], axis=-2)
        count = xp.concat([total, count], axis=-1)
    scale = bare_rate_scale(count, A.shape[-1], eps)
    share = count / xp.where(total > 0, total, xp.ones_like(total))
    return gram_factor(A[..., None, :, :], scale, weights=weights, rtol=rtol, xp=xp), total[..., 0], share


def _segment_factors(
    A: ArrayT, segments: Segments, eps: float, rtol: float, xp: Namespace, wide: DType = None
) -> Iterator[tuple[GramFactor[ArrayT], ArrayT]]:
    """Factors of I + α_k Z_kᵀZ_k and token counts, for classes of similar size at once."""
    for tokens, count in segments.buckets(A, xp):
        count = count if wide is None else xp.astype(count, wide)
        yield gram_factor(tokens, bare_rate_scale(count, A.shape[-1], eps), rtol=rtol, xp=xp, core=wide), count


# Rate reduction, the objective of MCR²: the rate of the whole less the rate of its parts


def rate_reduction(Z: ArrayT, Pi: Array, *, eps: float, core_dtype: DType = None, xp: Namespace = None) -> ArrayT:
    r"""Rate reduction, the objective of MCR², in nats.

    .. math:: \Delta R(Z \mid \Pi) = R(Z) - R^c(Z \mid \Pi) \ge 0

    Args:
        Z: tokens of shape (..., n, d).
        Pi: membership weights ≥ 0 of shape (..., n, K), tokens being weighted by their row sums; or integer labels
            ≥ 0 of shape (..., n) or (n,).
        eps: distortion ε > 0.
        core_dtype: dtype of all arithmetic; by default the mixed core, float64 but for safe products.
        xp: array namespace; looked up when None.

    Returns:
        Reduction of shape (...), in nats, in the dtype of Z. It is a difference and keeps the digits of R: for tokens
        so small that only terms of second order are left of it, few of its own.

    Raises:
        TypeError: as :func:`partition_coding_rate`.
        ValueError: as :func:`partition_coding_rate`.

    Source: [MCR2] (9).

    Example:
        >>> import numpy as np, srr
        >>> Z = np.asarray([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> bool(srr.rate_reduction(Z, np.asarray([0, 0, 1, 1]), eps=0.5) > 0)
        True
        >>> float(srr.rate_reduction(Z, np.zeros(4, dtype=int), eps=0.5))
        0.0
    """
    xp = namespace(Z, Pi, xp=xp)
    A, parts, core = _core_with_parts(Z, Pi, core_dtype, xp)
    return _like(Z, bare_rate_reduction(A, parts, check_distortion(eps), core.rtol, core.xp, core.wide))


def rate_reduction_grad(Z: ArrayT, Pi: Array, *, eps: float, core_dtype: DType = None, xp: Namespace = None) -> ArrayT:
    r"""Gradient of :func:`rate_reduction` in the tokens, :math:`\nabla R - \nabla R^c`; same arguments.

    Returns:
        Gradient of shape (..., n, d), nats per unit of Z: expansion less compression.

    Source: gradient of [MCR2] (9); [REDU], E and C_k.
    """
    return rate_reduction_value_and_grad(Z, Pi, eps=eps, core_dtype=core_dtype, xp=xp)[1]


def rate_reduction_value_and_grad(
    Z: ArrayT, Pi: Array, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> tuple[ArrayT, ArrayT]:
    """Value and gradient of :func:`rate_reduction` from one factorization per class and one of the whole.

    Same arguments.

    Returns:
        The pair (reduction of shape (...), gradient of shape (..., n, d)), in nats.

    Source: [MCR2] (9) and its gradient.
    """
    xp = namespace(Z, Pi, xp=xp)
    A, parts, (rtol, wide, xp) = _core_with_parts(Z, Pi, core_dtype, xp)
    value, grad = bare_rate_reduction_value_and_grad(A, parts, check_distortion(eps), rtol, xp, wide)
    return _like(Z, value), _like(Z, grad)


def bare_rate_reduction(
    A: ArrayT, parts: Parts[ArrayT], eps: float, rtol: float, xp: Namespace, wide: DType = None
) -> ArrayT:
    """ΔR of core tokens, from `Slices`, `Segments`, `Masks` or memberships (..., n, K)."""
    A = A if wide is None else xp.astype(A, wide)
    if isinstance(parts, Slices):
        found = _sliced_reduction(A, parts, eps, rtol, xp, None, slopes=False)
        if found is not None:
            return found[0]
        parts = parts.segments()
    if isinstance(parts, Masks):
        factor, share, _ = parts.factor(A, eps, rtol, xp, whole=True)
        logdet = factor.logdet()
        return logdet[0] - 0.5 * xp.sum(share * logdet)
    if not isinstance(parts, Segments):
        factor, _, share = _membership_factor(A, parts.mT, eps, rtol, xp, whole=True)
        return 0.5 * _first_less_others(share * factor.logdet(), -1, xp)
    return bare_coding_rate(A, None, eps, rtol, xp) - bare_partition_coding_rate(A, parts, eps, rtol, xp)


def bare_rate_reduction_value_and_grad(
    A: ArrayT, parts: Parts[ArrayT], eps: float, rtol: float, xp: Namespace, wide: DType = None
) -> tuple[ArrayT, ArrayT]:
    """ΔR of core tokens, and its gradient; ``wide`` as in `Core`."""
    found = None
    if isinstance(parts, Slices):
        found = _sliced_reduction(A, parts, eps, rtol, xp, wide, slopes=True)
    elif isinstance(parts, Segments):
        found = shared_reduction(A, parts, eps, rtol, xp, wide)
        if found is None and wide is not None:
            compressed = bare_partition_coding_rate_value_and_grad(A, parts, eps, rtol, xp, wide)
            found = _difference(bare_coding_rate_value_and_grad(A, None, eps, rtol, xp, wide), compressed, wide, xp)
    if found is not None:
        return found
    if wide is not None:
        return bare_rate_reduction_value_and_grad(xp.astype(A, wide), parts, eps, core_rtol(wide, xp), xp)
    if isinstance(parts, Slices):
        parts = parts.segments()
    if isinstance(parts, Masks):
        factor, share, alpha = parts.factor(A, eps, rtol, xp, whole=True)
        logdet, rows = factor.logdet(), factor.resolvent()
        return logdet[0] - 0.5 * xp.sum(share * logdet), alpha * (rows[0, ...] - xp.sum(rows[1:, ...], axis=0))
    if not isinstance(parts, Segments):
        factor, total, share = _membership_factor(A, parts.mT, eps, rtol, xp, whole=True)
        grad = _column(bare_rate_scale(total, A.shape[-1], eps)) * _first_less_others(factor.resolvent(), -3, xp)
        return 0.5 * _first_less_others(share * factor.logdet(), -1, xp), grad
    compressed = bare_partition_coding_rate_value_and_grad(A, parts, eps, rtol, xp)
    expanded = bare_coding_rate_value_and_grad(A, None, eps, rtol, xp)
    return expanded[0] - compressed[0], expanded[1] - compressed[1]


def _first_less_others(x: ArrayT, axis: int, xp: Namespace) -> ArrayT:
    """The first entry along an axis less the sum of the others."""
    rest = (slice(None),) * (-axis - 1)
    return x[(..., 0, *rest)] - xp.sum(x[(..., slice(1, None), *rest)], axis=axis)


# Rate reduction with labels: Gram matrices serve the whole and its parts, and one product serves both gradients.
#
# With labels the scales satisfy α = (n_k/n) α_k for every class. For n > d therefore
#
#     I + α ZᵀZ = Σ_k (n_k/n) (I + α_k Z_kᵀZ_k),
#     rows k of the gradient = α Z_k [(I + α ZᵀZ)⁻¹ − (I + α_k Z_kᵀZ_k)⁻¹]:
#
# no Gram matrix of the whole and no product of its own with all tokens, which is half of the work where classes hold
# about as many tokens as dimensions, or more. For n ≤ d the blocks of ZZᵀ are the Gram matrices of the classes,
#
#     gradient = α [(I + α ZZᵀ)⁻¹ − the block diagonal of the (I + α_k Z_kZ_kᵀ)⁻¹] Z.


_LEAST = 0.75  # tokens a class for every dimension from which sharing won, measured for d = 64 to 512


def _sliced_reduction(
    A: Any, parts: Slices, eps: float, rtol: float, xp: Namespace, wide: DType, *, slopes: bool
) -> tuple[Any, Any] | None:
    """ΔR of core tokens (n, d) of NumPy and its gradient; None where pivots or products lost digits."""
    n, d = A.shape
    if n <= d:
        return _one_gram(A, parts, eps, rtol, xp, wide, slopes=slopes)
    if n >= _LEAST * d * (len(parts.edges) - 1):
        return _one_product(A, parts, eps, rtol, xp, wide, slopes=slopes)
    if not slopes:
        expanded = bare_coding_rate(A, None, eps, rtol, xp, wide)
        return expanded - bare_partition_coding_rate(A, parts, eps, rtol, xp, wide), None
    compressed = bare_partition_coding_rate_value_and_grad(A, parts, eps, rtol, xp, wide)
    return _difference(bare_coding_rate_value_and_grad(A, None, eps, rtol, xp, wide), compressed, wide, xp)


def _one_gram(
    A: Host, parts: Slices, eps: float, rtol: float, xp: Namespace, wide: DType, *, slopes: bool
) -> tuple[Any, Any] | None:
    """For n ≤ d: the Gram matrix of all tokens holds those of the classes as blocks."""
    n, d = A.shape
    alpha = bare_rate_scale(n, d, eps)
    tokens = A if wide is None else A.astype(wide)
    G = bare_gram(tokens.T, xp)
    found = trusted_cholesky(shifted(G, alpha, xp), rtol, xp)
    if found is None:
        return None
    logdet = found[1]
    S = inverse_of_factor(found[0], xp) if slopes else None
    for span in parts.spans():
        block = np.ix_(parts.order[span], parts.order[span])
        share = len(block[0]) / n
        part = trusted_cholesky(shifted(G[block], alpha / share, xp), rtol, xp)
        if part is None:
            return None
        logdet = logdet - share * part[1]
        if S is not None:
            S[block] -= inverse_of_factor(part[0], xp)
    if S is None:
        return 0.5 * logdet, None
    S *= alpha
    if wide is None:
        return 0.5 * logdet, S @ A
    grad = S.astype(A.dtype) @ A
    lost = np.dot(G.diagonal(), np.einsum("ij,ij->j", S, S))
    return (0.5 * logdet, grad) if product_keeps(lost, sum_of_squares(grad, xp), xp) else None


def _one_product(
    A: Host, parts: Slices, eps: float, rtol: float, xp: Namespace, wide: DType, *, slopes: bool
) -> tuple[Any, Any] | None:
    """For n > d and classes of about d tokens or more: the mean of their matrices is that of the whole."""
    n, d = A.shape
    alpha = bare_rate_scale(n, d, eps)
    rows = np.take(A, parts.order, axis=0)
    whole, compressed, made = np.zeros((d, d), wide or A.dtype), 0.0, []
    for span in parts.spans():
        tokens = rows[span] if wide is None else rows[span].astype(wide)
        share = len(tokens) / n
        G = bare_gram(tokens, xp)
        whole += alpha * G
        part = trusted_cholesky(shifted(G, alpha / share, xp), rtol, xp)
        if part is None:
            return None
        compressed += share * part[1]
        made.append((span, part[0], G.diagonal()))
    found = trusted_cholesky(shifted(whole, 1.0, xp), rtol, xp)
    if found is None:
        return None
    value = 0.5 * (found[1] - compressed)
    if not slopes:
        return value, None
    expand, lost, size = inverse_of_factor(found[0], xp), 0.0, 0.0
    while made:  # factors are used up so that their memory can go
        span, L, energy = made.pop()
        S = expand - inverse_of_factor(L, xp)
        S *= alpha
        rows[span] = product = rows[span] @ S.astype(A.dtype, copy=False)
        if wide is not None:
            lost += np.dot(energy, np.einsum("ij,ij->i", S, S))
            size += sum_of_squares(product, xp)
    if wide is not None and not product_keeps(lost, size, xp):
        return None
    return value, np.take(rows, parts.places, axis=0)


class _Part(NamedTuple, Generic[ArrayT]):
    """Classes of similar size: padded tokens (S, m, d), shares (S,), M = I + α_k Z_kᵀZ_k, factors, log-determinants."""

    tokens: ArrayT
    share: ArrayT
    M: ArrayT
    L: ArrayT
    logdet: ArrayT


def shared_reduction(
    A: ArrayT, parts: Parts[ArrayT], eps: float, rtol: float, xp: Namespace, wide: DType = None
) -> tuple[ArrayT, ArrayT] | None:
    """ΔR of core tokens (n, d) and its gradient, or None where the general form is the better or the safer one.

    That is: memberships instead of labels, a batch of token sets, classes of fewer than 3d/4 tokens on average,
    tokens whose values cannot be read or that are differentiated, and factors or products that lost digits.
    """
    if A.ndim != 2 or not isinstance(parts, Segments) or is_differentiated(A) or not is_readable(A):
        return None
    n, d = A.shape
    if n < _LEAST * d * sum(len(bucket) for bucket in parts.counts):
        return None
    whole: Any = 0.0
    made = []
    for narrow, count in parts.buckets(A, xp):
        tokens, count = (X if wide is None else xp.astype(X, wide) for X in (narrow, count))
        M = shifted(bare_gram(tokens, xp), as_column(bare_rate_scale(count, d, eps), tokens, xp), xp)
        found = trusted_cholesky(M, rtol, xp)
        if found is None:
            return None
        share = count / n
        whole = whole + xp.tensordot(share, M, axes=1)
        made.append(_Part(narrow, share, M, *found))
    found = trusted_cholesky(whole, rtol, xp)
    if found is None:
        return None
    L, logdet = found
    compressed = xp.sum(xp.concat([part.share * part.logdet for part in made]))
    slopes = _slopes(L, made, bare_rate_scale(n, d, eps), xp)
    return None if slopes is None else (0.5 * (logdet - compressed), parts.restore(slopes, xp))


def _slopes(L: ArrayT, parts: list[_Part[ArrayT]], alpha: float, xp: Namespace) -> list[ArrayT] | None:
    """Gradient at the padded tokens of every part; parts are used up so that their memory can go."""
    expand, rows = alpha * inverse_of_factor(L, xp), []
    lost, size = 0.0, 0.0
    while parts:
        tokens, share, M, factor, _ = parts.pop(0)
        S = expand - alpha * inverse_of_factor(factor, xp)
        rows.append(tokens @ xp.astype(S, tokens.dtype, copy=False))
        energy = share[:, None] / alpha * (xp.linalg.diagonal(M) - 1.0)
        lost = lost + xp.sum(energy * xp.sum(S * S, axis=-1))
        size = size + xp.sum(sum_of_squares(rows[-1], xp))
    return rows if rows[0].dtype == L.dtype or product_keeps(lost, size, xp) else None


# Second-order facts of the rates: smoothness constants and Hessian-vector products


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
        >>> srr.ops.coding_rate_smoothness(np.ones((10, 5)), eps=0.5)
        2.0
    """
    check_tokens(Z, xp=namespace(Z, xp=xp))
    return float(rate_scale(*Z.shape[-2:], eps=eps))


def subspace_coding_rate_smoothness(Z: ArrayT, U: ArrayT, *, eps: float, xp: Namespace = None) -> ArrayT:
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
    return bare_subspace_coding_rate_smoothness(Z.shape[-2], U, check_distortion(eps), xp)


def bare_subspace_coding_rate_smoothness(n: int, U: ArrayT, eps: Number, xp: Namespace) -> ArrayT:
    """Formula of :func:`subspace_coding_rate_smoothness` for n tokens."""
    wide = merge_heads(U, xp)  # (d, K·p): Σ U_kU_kᵀ is its Gram matrix of rows
    beta = bare_rate_scale(n, U.shape[-1], eps)
    return cast_like(beta * xp.linalg.svdvals(widen(wide, xp))[..., 0] ** 2, U, xp)


def sparse_rate_reduction_smoothness(Z: ArrayT, U: ArrayT, *, eps: float, xp: Namespace = None) -> ArrayT:
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


def coding_rate_hvp(Z: ArrayT, V: ArrayT, *, eps: float, core_dtype: DType = None, xp: Namespace = None) -> ArrayT:
    r"""Hessian of R at Z applied to a direction V.

    .. math:: \alpha V S - \alpha^2 Z S (V^\top Z + Z^\top V) S,\quad S = (I + \alpha Z^\top Z)^{-1}

    Args:
        Z: tokens of shape (..., n, d).
        V: direction of shape (..., n, d).
        eps: distortion ε > 0.
        core_dtype: dtype of all arithmetic; by default the mixed core, float64 but for safe products.
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
    scale = rate_scale(*A.shape[-2:], eps=eps)
    return _like(Z, _hvp(A, dA, scale, core_tolerance(Z, A, xp), xp))


def subspace_coding_rate_hvp(
    Z: ArrayT, V: ArrayT, U: ArrayT, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> ArrayT:
    r"""Hessian of :func:`subspace_coding_rate` in the tokens applied to a direction V of their shape, head by head.

    Returns:
        Array of shape (..., n, d), nats per squared unit of Z times units of V.

    Source: second derivative of [CRATE] (8).
    """
    xp = namespace(Z, V, U, xp=xp)
    _check_bases_of(Z, U, xp)
    _check_direction(Z, V, xp)
    scale = rate_scale(Z.shape[-2], U.shape[-1], eps=eps)
    A, dA, bases = (core_cast(X, core_dtype, xp) for X in (Z, V, U))
    heads = _hvp(bare_project(A, bases, xp), bare_project(dA, bases, xp), scale, core_tolerance(Z, A, xp), xp)
    return _like(Z, bare_lift(heads, bases, xp))


def _check_direction(Z: Array, V: Array, xp: Namespace) -> None:
    check_tokens(V, "V", xp=xp)
    check_same_dtype(Z=Z, V=V)
    if tuple(V.shape) != tuple(Z.shape):
        raise ValueError(f"V must have the shape of Z, {tuple(Z.shape)}; got {tuple(V.shape)}")


def _hvp(A: ArrayT, dA: ArrayT, scale: Number, rtol: float, xp: Namespace) -> ArrayT:
    """Hessian of ½ logdet(I + s·AᵀA) applied to dA, with n×n products where n < d."""
    factor = gram_factor(A, scale, rtol=rtol, xp=xp)
    P = factor.resolvent()  # A S
    change = P @ dA.mT @ A + P @ A.mT @ dA if A.shape[-2] < A.shape[-1] else P @ (dA.mT @ A + A.mT @ dA)
    return _column(scale) * factor.apply(dA - _column(scale) * change)
