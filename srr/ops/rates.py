"""Coding rates with their closed-form gradients and curvature, the scale and the precision that every rate shares.

``eps`` is the distortion ε; rates are in nats. Values and gradients of float32 (and lower) tokens are computed in a
float64 core unless ``core_dtype`` says otherwise: the float32 core is faster and can be trusted where
6e-8 · α · λ_max(ZᵀZ) ≪ 1.

A public function checks its arguments once and calls the formula of the same name that starts with ``bare_``: arrays
in the dtype of the core in, arrays in the dtype of the core out. ``rtol`` is the relative error such a value may
carry, from ``core_tolerance``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, overload

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
    GramFactor,
    as_column,
    bare_gram,
    inverse_of_factor,
    shifted,
    trusted_cholesky,
)
from srr._array.namespace import (
    Array,
    ArrayT,
    DType,
    Namespace,
    any_true,
    asarray_like,
    cast_like,
    core_cast,
    epsilon,
    index_like,
    is_compiling,
    is_concrete,
    is_differentiated,
    is_floating,
    is_readable,
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


def bare_rate_scale(n: Any, p: int, eps: Any) -> Any:
    """Formula of :func:`rate_scale`; ε may be an array, one for each head, where n is a number."""
    if not hasattr(n, "ndim"):
        return p / (n * eps**2)
    xp = namespace(n)
    some = n > 0
    return xp.where(some, p / eps**2 / xp.where(some, n, xp.ones_like(n)), xp.zeros_like(n))


def core_tolerance(Z: Array, A: Array, xp: Namespace) -> float:
    """Relative error a rate may carry: rounding of the core, or of the result where that is coarser."""
    return max(64 * epsilon(A.dtype, xp), epsilon(Z.dtype, xp))


def _column(scale: Any) -> Any:
    """Per-item scale, shaped to multiply (..., n, d)."""
    return scale[..., None, None] if hasattr(scale, "ndim") else scale


def _like(Z: ArrayT, value: Any, xp: Namespace) -> ArrayT:
    """A result of the core in the dtype of the tokens."""
    return xp.astype(value, Z.dtype, copy=False)


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


def _checked_factor(A: Array, scale: Any, xp: Namespace) -> GramFactor:
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
    A, w, rtol = _core(Z, weights, core_dtype, xp)
    return _like(Z, bare_coding_rate(A, w, check_distortion(eps), rtol, xp), xp)


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
    A, w, rtol = _core(Z, weights, core_dtype, xp)
    value, grad = bare_coding_rate_value_and_grad(A, w, check_distortion(eps), rtol, xp)
    return _like(Z, value, xp), _like(Z, grad, xp)


def _core(Z: ArrayT, weights: ArrayT | None, core_dtype: DType, xp: Namespace) -> tuple[ArrayT, ArrayT | None, float]:
    """Tokens and weights, checked and in the dtype of the core, and the error a rate of them may carry."""
    check_tokens(Z, xp=xp)
    if weights is not None:
        check_weights(weights, Z, xp=xp)
    A = core_cast(Z, core_dtype, xp)
    return A, None if weights is None else xp.astype(weights, A.dtype, copy=False), core_tolerance(Z, A, xp)


def bare_coding_rate(A: Any, weights: Any, eps: float, rtol: float, xp: Namespace) -> Any:
    """R of core tokens."""
    return 0.5 * _factor(A, weights, eps, rtol, xp)[0].logdet()


def bare_coding_rate_value_and_grad(A: Any, weights: Any, eps: float, rtol: float, xp: Namespace) -> tuple[Any, Any]:
    """R of core tokens, and ∇R."""
    factor, scale = _factor(A, weights, eps, rtol, xp)
    return 0.5 * factor.logdet(), _column(scale) * factor.resolvent()


def _factor(A: Any, weights: Any, eps: float, rtol: float, xp: Namespace) -> tuple[GramFactor, Any]:
    """Factor of I + α ZᵀWZ, and α."""
    n, d = A.shape[-2:]
    scale = bare_rate_scale(n if weights is None else xp.sum(weights, axis=-1), d, eps)
    return gram_factor(A, scale, weights=weights, rtol=rtol, xp=xp), scale


# Rate under subspace codebooks, and the sparse rate reduction that CRATE ascends


def subspace_coding_rate(Z: ArrayT, U: ArrayT, *, eps: float, core_dtype: DType = None, xp: Namespace = None) -> ArrayT:
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
    A, bases, rtol = _core_with_bases(Z, U, core_dtype, xp)
    return _like(Z, bare_subspace_coding_rate(A, bases, check_distortion(eps), rtol, xp), xp)


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
    A, bases, rtol = _core_with_bases(Z, U, core_dtype, xp)
    value, grad = bare_subspace_coding_rate_value_and_grad(A, bases, check_distortion(eps), rtol, xp)
    return _like(Z, value, xp), _like(Z, grad, xp)


def _core_with_bases(Z: ArrayT, U: ArrayT, core_dtype: DType, xp: Namespace) -> tuple[ArrayT, ArrayT, float]:
    """Tokens and bases, checked and in the dtype of the core, and the error a rate of them may carry."""
    check_tokens(Z, xp=xp)
    check_bases(U, Z.shape[-1], xp=xp)
    check_same_dtype(Z=Z, U=U)
    A = core_cast(Z, core_dtype, xp)
    return A, core_cast(U, core_dtype, xp), core_tolerance(Z, A, xp)


def bare_subspace_coding_rate(A: Any, U: Any, eps: Any, rtol: float, xp: Namespace) -> Any:
    """R^c(·; U) of core tokens; ε is a number, or one for each head, (..., K)."""
    return 0.5 * xp.sum(_subspace_factor(A, U, eps, rtol, xp)[0].logdet(), axis=-1)


def bare_subspace_coding_rate_value_and_grad(A: Any, U: Any, eps: Any, rtol: float, xp: Namespace) -> tuple[Any, Any]:
    """R^c(·; U) of core tokens, and ∇R^c; ε is a number, or one for each head, (..., K)."""
    factor, scale = _subspace_factor(A, U, eps, rtol, xp)
    grad = bare_lift(_column(scale) * factor.resolvent(), U, xp)
    return 0.5 * xp.sum(factor.logdet(), axis=-1), grad


def _subspace_factor(A: Any, U: Any, eps: Any, rtol: float, xp: Namespace) -> tuple[GramFactor, Any]:
    """Factors of I + β VₖᵀVₖ for every head, and β."""
    V = bare_project(A, U, xp)  # (..., K, n, p)

    def low() -> Any:  # what rounding took from the projections
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
    lam, eps = check_nonnegative(lam, "lam"), check_distortion(eps)
    A, bases, rtol = _core_with_bases(Z, U, core_dtype, xp)
    smooth = bare_coding_rate(A, None, eps, rtol, xp) - bare_subspace_coding_rate(A, bases, eps, rtol, xp)
    return _like(Z, smooth - lam * xp.sum(xp.abs(A), axis=(-2, -1)), xp)


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
    A, bases, rtol = _core_with_bases(Z, U, core_dtype, xp)
    smooth, grad = bare_sparse_rate_reduction_value_and_grad(A, bases, eps, rtol, xp)
    return _like(Z, smooth - lam * xp.sum(xp.abs(A), axis=(-2, -1)), xp), _like(Z, grad, xp)


def bare_sparse_rate_reduction_value_and_grad(
    A: Any, U: Any, eps: float, rtol: float, xp: Namespace
) -> tuple[Any, Any]:
    """R − R^c(·; U) of core tokens, and its gradient."""
    compressed, compress = bare_subspace_coding_rate_value_and_grad(A, U, eps, rtol, xp)
    expanded, expand = bare_coding_rate_value_and_grad(A, None, eps, rtol, xp)
    return expanded - compressed, expand - compress


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
        return cls._sorted((host + K * np.arange(len(host))[:, None]).ravel(), batch, len(host), K)

    @classmethod
    def _sorted(cls, segment: Index, batch: tuple[int, ...], items: int, K: int) -> Segments:
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

    def buckets(self, A: Array, xp: Namespace) -> Iterator[tuple[Array, Array]]:
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

    def sum_by_item(self, terms: list[Array], xp: Namespace) -> Array:
        """Add per-segment terms, one array (S,) per bucket, into one number per batch item."""
        flat = xp.concat([*terms, xp.zeros_like(terms[0][:1])])
        chosen = xp.take(flat, index_like(self.table.ravel(), flat, xp), axis=0)
        return xp.reshape(xp.sum(xp.reshape(chosen, self.table.shape), axis=-1), self.batch)

    def restore(self, rows: list[Array], xp: Namespace) -> Array:
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
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
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
    A, parts, rtol = _core_with_parts(Z, Pi, core_dtype, xp)
    return _like(Z, bare_partition_coding_rate(A, parts, check_distortion(eps), rtol, xp), xp)


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
    A, parts, rtol = _core_with_parts(Z, Pi, core_dtype, xp)
    value, grad = bare_partition_coding_rate_value_and_grad(A, parts, check_distortion(eps), rtol, xp)
    return _like(Z, value, xp), _like(Z, grad, xp)


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


def _core_with_parts(Z: ArrayT, Pi: Array, core_dtype: DType, xp: Namespace) -> tuple[ArrayT, Any, float]:
    """Tokens in the dtype of the core, their classes, and the error a rate may carry."""
    check_tokens(Z, xp=xp)
    labeled = check_partition(Pi, Z, xp)
    A = core_cast(Z, core_dtype, xp)
    parts = parts_of(Pi, A) if labeled else xp.astype(Pi, A.dtype, copy=False)
    return A, parts, core_tolerance(Z, A, xp)


_FEW = 1 << 14  # numbers in all copies of the tokens up to which masks beat segments


class Masks(NamedTuple):
    """Labels of few tokens, where calls cost more than arithmetic: one copy of all tokens, then one for each class.

    Zero rows leave logdet(I + s·AᵀA) unchanged, so a copy of a class is all tokens with the others set to zero.
    """

    mask: np.ndarray[Any, np.dtype[np.float64]]  # (1 + K, n) of zeros and ones

    def factor(self, A: Any, eps: float, rtol: float, xp: Namespace, *, whole: bool) -> tuple[GramFactor, Any, float]:
        """Factors of I + α_k Z_kᵀZ_k, the shares n_k/n, and α, the product of α_k and the share of every class."""
        mask = self.mask if whole else self.mask[1:]
        alpha = bare_rate_scale(A.shape[-2], A.shape[-1], eps)
        share = asarray_like(mask.mean(axis=-1), A, xp=xp)
        return gram_factor(asarray_like(mask[..., None], A, xp=xp) * A, alpha / share, rtol=rtol, xp=xp), share, alpha


def parts_of(labels: Array, A: Array) -> Masks | Segments:
    """Classes of tokens from their labels, in the form that is the faster for as many; only the shape of A matters."""
    n, d = A.shape[-2:]
    if A.ndim == 2 and 2 * n * d <= _FEW:
        host, _ = checked_labels(labels, (), n)
        present = np.flatnonzero(np.bincount(host[0]))
        if (1 + len(present)) * n * d <= _FEW:
            mask = np.ones((1 + len(present), n))
            mask[1:] = host == present[:, None]
            return Masks(mask)
    return Segments.of(labels, A)


def bare_partition_coding_rate(A: Any, parts: Any, eps: float, rtol: float, xp: Namespace) -> Any:
    """R^c(·|Π) of core tokens, from `Segments`, `Masks` or memberships (..., n, K)."""
    if isinstance(parts, Masks):
        factor, share, _ = parts.factor(A, eps, rtol, xp, whole=False)
        return 0.5 * xp.sum(share * factor.logdet())
    if not isinstance(parts, Segments):
        factor, _, share = _membership_factor(A, parts.mT, eps, rtol, xp)
        return 0.5 * xp.sum(share * factor.logdet(), axis=-1)
    logdets = [count / A.shape[-2] * factor.logdet() for factor, count in _segment_factors(A, parts, eps, rtol, xp)]
    return 0.5 * parts.sum_by_item(logdets, xp) if logdets else xp.sum(A, axis=(-2, -1))


def bare_partition_coding_rate_value_and_grad(
    A: Any, parts: Any, eps: float, rtol: float, xp: Namespace
) -> tuple[Any, Any]:
    """R^c(·|Π) of core tokens, and its gradient; share · α_k = α for every class."""
    n, d = A.shape[-2:]
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
    for factor, count in _segment_factors(A, parts, eps, rtol, xp):
        logdets.append(count / n * factor.logdet())
        rows.append(factor.resolvent())
    return 0.5 * parts.sum_by_item(logdets, xp), bare_rate_scale(n, d, eps) * parts.restore(rows, xp)


def _membership_factor(
    A: Any, weights: Any, eps: float, rtol: float, xp: Namespace, whole: bool = False
) -> tuple[GramFactor, Any, Any]:
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
    A: Any, segments: Segments, eps: float, rtol: float, xp: Namespace
) -> Iterator[tuple[GramFactor, Any]]:
    """Factors of I + α_k Z_kᵀZ_k and token counts, for classes of similar size at once."""
    for tokens, count in segments.buckets(A, xp):
        yield gram_factor(tokens, bare_rate_scale(count, A.shape[-1], eps), rtol=rtol, xp=xp), count


# Rate reduction, the objective of MCR²: the rate of the whole less the rate of its parts


def rate_reduction(Z: ArrayT, Pi: Array, *, eps: float, core_dtype: DType = None, xp: Namespace = None) -> ArrayT:
    r"""Rate reduction, the objective of MCR², in nats.

    .. math:: \Delta R(Z \mid \Pi) = R(Z) - R^c(Z \mid \Pi) \ge 0

    Args:
        Z: tokens of shape (..., n, d).
        Pi: membership weights ≥ 0 of shape (..., n, K), tokens being weighted by their row sums; or integer labels
            ≥ 0 of shape (..., n) or (n,).
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
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
    A, parts, rtol = _core_with_parts(Z, Pi, core_dtype, xp)
    return _like(Z, bare_rate_reduction(A, parts, check_distortion(eps), rtol, xp), xp)


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
    A, parts, rtol = _core_with_parts(Z, Pi, core_dtype, xp)
    value, grad = bare_rate_reduction_value_and_grad(A, parts, check_distortion(eps), rtol, xp)
    return _like(Z, value, xp), _like(Z, grad, xp)


def bare_rate_reduction(A: Any, parts: Any, eps: float, rtol: float, xp: Namespace) -> Any:
    """ΔR of core tokens, from `Segments`, `Masks` or memberships (..., n, K)."""
    if isinstance(parts, Masks):
        factor, share, _ = parts.factor(A, eps, rtol, xp, whole=True)
        logdet = factor.logdet()
        return logdet[0] - 0.5 * xp.sum(share * logdet)
    if not isinstance(parts, Segments):
        factor, _, share = _membership_factor(A, parts.mT, eps, rtol, xp, whole=True)
        return 0.5 * _first_less_others(share * factor.logdet(), -1, xp)
    return bare_coding_rate(A, None, eps, rtol, xp) - bare_partition_coding_rate(A, parts, eps, rtol, xp)


def bare_rate_reduction_value_and_grad(A: Any, parts: Any, eps: float, rtol: float, xp: Namespace) -> tuple[Any, Any]:
    """ΔR of core tokens, and its gradient."""
    if isinstance(parts, Masks):
        factor, share, alpha = parts.factor(A, eps, rtol, xp, whole=True)
        logdet, rows = factor.logdet(), factor.resolvent()
        return logdet[0] - 0.5 * xp.sum(share * logdet), alpha * (rows[0, ...] - xp.sum(rows[1:, ...], axis=0))
    if not isinstance(parts, Segments):
        factor, total, share = _membership_factor(A, parts.mT, eps, rtol, xp, whole=True)
        grad = _column(bare_rate_scale(total, A.shape[-1], eps)) * _first_less_others(factor.resolvent(), -3, xp)
        return 0.5 * _first_less_others(share * factor.logdet(), -1, xp), grad
    shared = shared_reduction(A, parts, eps, rtol, xp)
    if shared is not None:
        return shared
    compressed, compress = bare_partition_coding_rate_value_and_grad(A, parts, eps, rtol, xp)
    expanded, expand = bare_coding_rate_value_and_grad(A, None, eps, rtol, xp)
    return expanded - compressed, expand - compress


def _first_less_others(x: Any, axis: int, xp: Namespace) -> Any:
    """The first entry along an axis less the sum of the others."""
    rest = (slice(None),) * (-axis - 1)
    return x[(..., 0, *rest)] - xp.sum(x[(..., slice(1, None), *rest)], axis=axis)


# Rate reduction of large classes: the parts give the Gram matrix of the whole, and one product serves both gradients.
#
# With labels the scales satisfy α = (n_k/n) α_k for every class, so that
#
#     I + α ZᵀZ = Σ_k (n_k/n) (I + α_k Z_kᵀZ_k),
#     rows k of the gradient = α Z_k [(I + α ZᵀZ)⁻¹ − (I + α_k Z_kᵀZ_k)⁻¹].
#
# This saves the Gram matrix of the whole and its product with all tokens: half of the work where classes hold about as
# many tokens as dimensions, or more.


_LEAST = 0.75  # tokens a class for every dimension from which sharing won, measured for d = 64 to 512


class _Part(NamedTuple):
    """Classes of similar size: padded tokens (S, m, d), counts (S,), factors of I + α_k Z_kᵀZ_k, log-determinants."""

    tokens: Any
    count: Any
    L: Any
    logdet: Any


def shared_reduction(A: Any, parts: Any, eps: float, rtol: float, xp: Namespace) -> tuple[Any, Any] | None:
    """ΔR of core tokens (n, d) and its gradient, or None where the general form is the better or the safer one.

    That is: memberships instead of labels, a batch of token sets, classes of fewer than 3d/4 tokens on average,
    tokens whose values cannot be read or that are differentiated, and factors whose pivots lost digits.
    """
    if A.ndim != 2 or not isinstance(parts, Segments) or is_differentiated(A) or not is_readable(A):
        return None
    n, d = A.shape
    if n < _LEAST * d * sum(len(bucket) for bucket in parts.counts):
        return None
    whole: Any = 0.0
    made = []
    for tokens, count in parts.buckets(A, xp):
        M = shifted(bare_gram(tokens, xp), as_column(bare_rate_scale(count, d, eps), tokens, xp), xp)
        found = trusted_cholesky(M, rtol, xp)
        if found is None:
            return None
        whole = whole + xp.tensordot(count / n, M, axes=1)
        made.append(_Part(tokens, count, *found))
    found = trusted_cholesky(whole, rtol, xp)
    if found is None:
        return None
    L, logdet = found
    compressed = xp.sum(xp.concat([part.count / n * part.logdet for part in made]))
    slopes = _slopes(L, made, bare_rate_scale(n, d, eps), xp)
    return 0.5 * (logdet - compressed), parts.restore(slopes, xp)


def _slopes(L: Any, parts: list[_Part], alpha: float, xp: Namespace) -> list[Any]:
    """Gradient at the padded tokens of every part; parts are used up so that their memory can go."""
    expand, rows = alpha * inverse_of_factor(L, xp), []
    while parts:
        part = parts.pop(0)
        rows.append(part.tokens @ (expand - alpha * inverse_of_factor(part.L, xp)))
    return rows


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


def bare_subspace_coding_rate_smoothness(n: int, U: ArrayT, eps: Any, xp: Namespace) -> ArrayT:
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
    scale = rate_scale(*A.shape[-2:], eps=eps)
    return _like(Z, _hvp(A, dA, scale, core_tolerance(Z, A, xp), xp), xp)


def subspace_coding_rate_hvp(
    Z: ArrayT, V: ArrayT, U: ArrayT, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> ArrayT:
    r"""Hessian of :func:`subspace_coding_rate` in the tokens applied to a direction V of their shape, head by head.

    Returns:
        Array of shape (..., n, d), nats per squared unit of Z times units of V.

    Source: second derivative of [CRATE] (8).
    """
    xp = namespace(Z, V, U, xp=xp)
    A, bases, rtol = _core_with_bases(Z, U, core_dtype, xp)
    _check_direction(Z, V, xp)
    scale = rate_scale(Z.shape[-2], U.shape[-1], eps=eps)
    dA = bare_project(core_cast(V, core_dtype, xp), bases, xp)
    heads = _hvp(bare_project(A, bases, xp), dA, scale, rtol, xp)
    return _like(Z, bare_lift(heads, bases, xp), xp)


def _check_direction(Z: Array, V: Array, xp: Namespace) -> None:
    check_tokens(V, "V", xp=xp)
    check_same_dtype(Z=Z, V=V)
    if tuple(V.shape) != tuple(Z.shape):
        raise ValueError(f"V must have the shape of Z, {tuple(Z.shape)}; got {tuple(V.shape)}")


def _hvp(A: Any, dA: Any, scale: Any, rtol: float, xp: Namespace) -> Any:
    """Hessian of ½ logdet(I + s·AᵀA) applied to dA, with n×n products where n < d."""
    factor = gram_factor(A, scale, rtol=rtol, xp=xp)
    P = factor.resolvent()  # A S
    change = P @ dA.mT @ A + P @ A.mT @ dA if A.shape[-2] < A.shape[-1] else P @ (dA.mT @ A + A.mT @ dA)
    return _column(scale) * factor.apply(dA - _column(scale) * change)
