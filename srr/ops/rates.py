"""Coding rate of tokens with its closed-form gradient, the scale and the precision that every rate shares.

``eps`` is the distortion ε; rates are in nats. Values and gradients of float32 (and lower) tokens are computed in a
float64 core unless ``core_dtype`` says otherwise: the float32 core is faster and can be trusted where
6e-8 · α · λ_max(ZᵀZ) ≪ 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

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
from srr._array.linalg import cholesky
from srr._array.namespace import (
    Array,
    ArrayT,
    DType,
    Namespace,
    any_true,
    asarray_like,
    core_cast,
    epsilon,
    is_concrete,
    namespace,
    root,
    to_numpy,
)
from srr.ops.gram import GramFactor, gram_factor, inverse_of_factor, logdet_of_factor, pivots_are_trusted, shifted_gram
from srr.ops.subspaces import flatten_heads, lift, project

_SMALLEST = 1e-150  # its square, and that of its inverse, are ordinary float64 numbers


def rate_scale(V: ArrayT, *, eps: float, count: ArrayT | None = None) -> ArrayT | float:
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
        >>> srr.ops.rate_scale(np.ones((10, 5)), eps=0.5)
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
    factor, _ = _coding_factor(Z, eps, weights, core_dtype, xp)
    return xp.astype(0.5 * factor.logdet(), Z.dtype, copy=False)


def coding_rate_grad(
    Z: ArrayT, *, eps: float, weights: ArrayT | None = None, core_dtype: DType = None, xp: Namespace = None
) -> ArrayT:
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
    Z: ArrayT, *, eps: float, weights: ArrayT | None = None, core_dtype: DType = None, xp: Namespace = None
) -> tuple[ArrayT, ArrayT]:
    """Value and gradient of :func:`coding_rate` from one Gram matrix and one factorization.

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
    Z: ArrayT, eps: float, weights: ArrayT | None, core_dtype: DType, xp: Namespace
) -> tuple[GramFactor, ArrayT | float]:
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


def _root(weights: ArrayT, dtype: DType, xp: Namespace) -> ArrayT:
    return root(xp.astype(weights, dtype), xp)[..., None]


def core_tolerance(Z: Array, A: Array, xp: Namespace) -> float:
    """Relative error a rate may carry: rounding of the core, or of the result where that is coarser."""
    return max(64 * epsilon(A.dtype, xp), epsilon(Z.dtype, xp))


def as_column(scale: Array | float) -> Array | float:
    """Per-item scale, shaped to multiply (..., n, d)."""
    return scale[..., None, None] if hasattr(scale, "ndim") else scale  # type: ignore[index]


# --- srr.ops.rates
# Coding rate under subspace codebooks, and the sparse rate reduction that CRATE ascends, with their gradients.


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
    factor, _, _ = _subspace_factor(Z, U, eps, core_dtype, xp)
    return xp.astype(0.5 * xp.sum(factor.logdet(), axis=-1), Z.dtype, copy=False)


def subspace_coding_rate_grad(
    Z: ArrayT, U: ArrayT, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> ArrayT:
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
    Z: ArrayT, U: ArrayT, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> tuple[ArrayT, ArrayT]:
    """Value and gradient of :func:`subspace_coding_rate` from one factorization per head.

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
    Z: ArrayT, U: ArrayT, eps: float, core_dtype: DType, xp: Namespace
) -> tuple[GramFactor, ArrayT | float, ArrayT]:
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
    lam = check_nonnegative(lam, "lam")
    compressed = subspace_coding_rate(Z, U, eps=eps, core_dtype=core_dtype, xp=xp)
    expanded = coding_rate(Z, eps=eps, core_dtype=core_dtype, xp=xp)
    return expanded - compressed - lam * xp.sum(xp.abs(Z), axis=(-2, -1))


def sparse_rate_reduction_grad(
    Z: ArrayT, U: ArrayT, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> ArrayT:
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
    Z: ArrayT, U: ArrayT, *, eps: float, lam: float, core_dtype: DType = None, xp: Namespace = None
) -> tuple[ArrayT, ArrayT]:
    """Value of :func:`sparse_rate_reduction` and gradient of its smooth part, from one factorization of each rate.

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


# --- srr.ops.rates
# Tokens sorted by label once: classes as padded batches of similar size, and the way back.


Index = np.ndarray[Any, np.dtype[np.int64]]


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
    def of(cls, labels: Array, Z: Array, xp: Namespace) -> Segments:
        """Sort labels of shape (..., n) or (n,) for tokens of shape (..., n, d).

        Raises:
            TypeError: the labels are being traced.
            ValueError: a negative label, or a shape that does not broadcast to the tokens.
        """
        if not is_concrete(labels) and not hasattr(labels, "requires_grad"):
            raise TypeError("Pi as labels needs concrete values; under jit or vmap pass a membership matrix")
        batch, n = tuple(Z.shape[:-2]), Z.shape[-2]
        host = to_numpy(labels)
        if host.ndim > len(batch) + 1 or any(
            a not in (1, b) for a, b in zip(host.shape[-2::-1], batch[::-1], strict=False)
        ):
            raise ValueError(f"Pi as labels must broadcast to {(*batch, n)}; got shape {host.shape}")
        host = np.broadcast_to(host, (*batch, n)).reshape(-1, n).astype(np.int64)
        if host.min(initial=0) < 0:
            raise ValueError(f"Pi as labels must be >= 0; got {host.min()}")
        if host.max(initial=0) >= host.size > 0:  # few classes with large names: number them anew
            host = np.unique(host, return_inverse=True)[1].reshape(host.shape)
        K = int(host.max(initial=0)) + 1
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
            tokens = xp.take(flat, asarray_like(index.ravel(), A, dtype=xp.int64, xp=xp), axis=0)
            tokens = xp.reshape(tokens, (*index.shape, A.shape[-1]))
            if (size < index.shape[1]).any():
                valid = np.arange(index.shape[1]) < size[:, None]
                tokens = tokens * asarray_like(valid.astype(np.float64)[..., None], A, xp=xp)
            yield tokens, asarray_like(size.astype(np.float64), A, xp=xp)

    def sum_by_item(self, terms: list[Array], xp: Namespace) -> Array:
        """Add per-segment terms, one array (S,) per bucket, into one number per batch item."""
        flat = xp.concat([*terms, xp.zeros_like(terms[0][:1])])
        chosen = xp.take(flat, asarray_like(self.table.ravel(), flat, dtype=xp.int64, xp=xp), axis=0)
        return xp.reshape(xp.sum(xp.reshape(chosen, self.table.shape), axis=-1), self.batch)

    def restore(self, rows: list[Array], xp: Namespace) -> Array:
        """Bring padded rows, one array (S, m, d) per bucket, back to the order of the tokens."""
        d = rows[0].shape[-1]
        flat = xp.concat([xp.reshape(r, (-1, d)) for r in rows], axis=0)
        tokens = xp.take(flat, asarray_like(self.positions, flat, dtype=xp.int64, xp=xp), axis=0)
        return xp.reshape(tokens, (*self.batch, -1, d))


# --- srr.ops.rates
# Coding rate of a partition, from soft memberships or from labels.


def partition_coding_rate(
    Z: ArrayT, Pi: ArrayT, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> ArrayT:
    r"""Coding rate of tokens class by class, in nats.

    .. math:: R^c(Z \mid \Pi) = \sum_k \frac{\operatorname{tr}\Pi_k}{2n}
              \log\det\Bigl(I + \frac{d}{\varepsilon^2 \operatorname{tr}\Pi_k} Z^\top \Pi_k Z\Bigr)

    Args:
        Z: tokens of shape (..., n, d).
        Pi: membership weights ≥ 0 of shape (..., n, K), n being their total; or integer labels ≥ 0 of shape
            (..., n) or (n,), which are sorted into segments and need concrete values (no tracing).
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        Rate of shape (...), in nats, in the dtype of Z; empty classes count zero.

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
    return _partition(Z, Pi, eps, core_dtype, xp, grad=False)[0]


def partition_coding_rate_grad(
    Z: ArrayT, Pi: ArrayT, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> ArrayT:
    r"""Gradient of :func:`partition_coding_rate` with respect to the tokens.

    .. math:: \sum_k \frac{\operatorname{tr}\Pi_k}{n} \alpha_k \Pi_k Z (I + \alpha_k Z^\top \Pi_k Z)^{-1},\quad
              \alpha_k = \frac{d}{\varepsilon^2 \operatorname{tr}\Pi_k}

    Args:
        Z: tokens of shape (..., n, d).
        Pi: membership weights of shape (..., n, K) or integer labels.
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        Gradient of shape (..., n, d), nats per unit of Z.

    Raises:
        TypeError: as :func:`partition_coding_rate`.
        ValueError: as :func:`partition_coding_rate`.

    Source: gradient of [MCR2] (8); [REDU], compression operators C_k.
    """
    return partition_coding_rate_value_and_grad(Z, Pi, eps=eps, core_dtype=core_dtype, xp=xp)[1]


def partition_coding_rate_value_and_grad(
    Z: ArrayT, Pi: ArrayT, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> tuple[ArrayT, ArrayT]:
    """Value and gradient of :func:`partition_coding_rate` from one factorization per class.

    Args:
        Z: tokens of shape (..., n, d).
        Pi: membership weights of shape (..., n, K) or integer labels.
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        The pair (rate of shape (...), gradient of shape (..., n, d)), in nats.

    Raises:
        TypeError: as :func:`partition_coding_rate`.
        ValueError: as :func:`partition_coding_rate`.

    Source: [MCR2] (8) and its gradient.
    """
    return _partition(Z, Pi, eps, core_dtype, namespace(Z, Pi, xp=xp), grad=True)


def _partition(
    Z: ArrayT, Pi: ArrayT, eps: float, core_dtype: DType, xp: Namespace, *, grad: bool
) -> tuple[ArrayT, ArrayT]:
    """Value, and gradient when asked for (None otherwise)."""
    check_tokens(Z, xp=xp)
    eps = check_positive(eps, "eps")
    labeled = check_partition(Pi, Z, xp)
    A = core_cast(Z, core_dtype, xp)
    form = _from_labels if labeled else _from_membership
    value, slope = form(A, Pi, eps, core_tolerance(Z, A, xp), xp, grad)
    return xp.astype(value, Z.dtype, copy=False), xp.astype(slope, Z.dtype, copy=False) if grad else None


def check_partition(Pi: Array, Z: Array, xp: Namespace) -> bool:
    """Refuse what is neither labels nor memberships of the tokens; True for labels."""
    n = Z.shape[-2]
    if xp.isdtype(Pi.dtype, "integral"):
        if Pi.ndim < 1 or Pi.shape[-1] != n:
            raise ValueError(f"Pi as labels must have shape (..., n) with n={n}; got {tuple(Pi.shape)}")
        return True
    check_array(Pi, "Pi", xp=xp)
    if Pi.shape[-2] != n:
        raise ValueError(f"Pi as membership must have shape (..., n, K) with n={n}; got {tuple(Pi.shape)}")
    check_batch(Pi, tuple(Z.shape[:-2]), 2, "Pi")
    if is_concrete(Pi) and any_true(Pi < 0, xp):
        raise ValueError("Pi must be >= 0; got a negative entry")
    return False


def _from_membership(
    A: ArrayT, Pi: ArrayT, eps: float, rtol: float, xp: Namespace, grad: bool
) -> tuple[ArrayT, ArrayT]:
    weights = xp.astype(Pi, A.dtype, copy=False).mT  # (..., K, n)
    count = xp.sum(weights, axis=-1)  # (..., K)
    total = xp.sum(count, axis=-1)
    half = root(weights, xp)[..., None]
    factor = gram_factor(half * A[..., None, :, :], rate_scale(A, eps=eps, count=count), rtol=rtol, xp=xp)
    share = count / xp.where(total > 0, total, xp.ones_like(total))[..., None]
    value = 0.5 * xp.sum(share * factor.logdet(), axis=-1)
    if not grad:
        return value, None
    slope = xp.sum(half * factor.resolvent(), axis=-3)  # share · α_k = α for every class
    return value, as_column(rate_scale(A, eps=eps, count=total)) * slope


def _from_labels(
    A: ArrayT, labels: ArrayT, eps: float, rtol: float, xp: Namespace, grad: bool
) -> tuple[ArrayT, ArrayT]:
    segments = Segments.of(labels, A, xp)
    n = A.shape[-2]
    if not segments.members:  # a batch of no token sets
        return xp.sum(A, axis=(-2, -1)), A if grad else None
    logdets, rows = [], []
    for tokens, count in segments.buckets(A, xp):  # (S, m, d), (S,): classes of similar size
        factor = gram_factor(tokens, rate_scale(A, eps=eps, count=count), rtol=rtol, xp=xp)
        logdets.append(count / n * factor.logdet())
        if grad:
            rows.append(factor.resolvent())
    value = 0.5 * segments.sum_by_item(logdets, xp)
    return value, rate_scale(A, eps=eps) * segments.restore(rows, xp) if grad else None


# --- srr.ops.rates
# Rate reduction, the objective of MCR²: the rate of the whole less the rate of its parts.


def rate_reduction(Z: ArrayT, Pi: ArrayT, *, eps: float, core_dtype: DType = None, xp: Namespace = None) -> ArrayT:
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
        Reduction of shape (...), in nats, in the dtype of Z.

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
    compressed = partition_coding_rate(Z, Pi, eps=eps, core_dtype=core_dtype, xp=xp)
    return coding_rate(Z, eps=eps, weights=_token_weights(Pi, xp), core_dtype=core_dtype, xp=xp) - compressed


def rate_reduction_grad(Z: ArrayT, Pi: ArrayT, *, eps: float, core_dtype: DType = None, xp: Namespace = None) -> ArrayT:
    r"""Gradient of :func:`rate_reduction`: :math:`\nabla R - \nabla R^c`, expansion less compression.

    Args:
        Z: tokens of shape (..., n, d).
        Pi: membership weights of shape (..., n, K) or integer labels.
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        Gradient of shape (..., n, d), nats per unit of Z.

    Raises:
        TypeError: as :func:`partition_coding_rate`.
        ValueError: as :func:`partition_coding_rate`.

    Source: gradient of [MCR2] (9); [REDU], E and C_k.
    """
    return rate_reduction_value_and_grad(Z, Pi, eps=eps, core_dtype=core_dtype, xp=xp)[1]


def rate_reduction_value_and_grad(
    Z: ArrayT, Pi: ArrayT, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> tuple[ArrayT, ArrayT]:
    """Value and gradient of :func:`rate_reduction` from one factorization per class and one of the whole.

    Args:
        Z: tokens of shape (..., n, d).
        Pi: membership weights of shape (..., n, K) or integer labels.
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        The pair (reduction of shape (...), gradient of shape (..., n, d)), in nats.

    Raises:
        TypeError: as :func:`partition_coding_rate`.
        ValueError: as :func:`partition_coding_rate`.

    Source: [MCR2] (9) and its gradient.
    """
    xp = namespace(Z, Pi, xp=xp)
    shared = shared_reduction(Z, Pi, eps=eps, core_dtype=core_dtype, xp=xp)
    if shared is not None:
        return shared
    compressed, compress = partition_coding_rate_value_and_grad(Z, Pi, eps=eps, core_dtype=core_dtype, xp=xp)
    weights = _token_weights(Pi, xp)
    expanded, expand = coding_rate_value_and_grad(Z, eps=eps, weights=weights, core_dtype=core_dtype, xp=xp)
    return expanded - compressed, expand - compress


def _token_weights(Pi: ArrayT, xp: Namespace) -> ArrayT | None:
    """Total membership of every token; None for labels, where it is one."""
    return None if xp.isdtype(Pi.dtype, "integral") else xp.sum(Pi, axis=-1)


# --- srr.ops.rates
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
    """Classes of similar size: padded tokens (S, m, d), counts (S,), factors of I + α_k Z_kᵀZ_k (S, d, d)."""

    tokens: Array
    count: Array
    L: Array


def shared_reduction(
    Z: ArrayT, Pi: ArrayT, *, eps: float, core_dtype: DType = None, xp: Namespace
) -> tuple[ArrayT, ArrayT] | None:
    """Value and gradient of the rate reduction, or None where the general form is the better or the safer one.

    That is: memberships instead of labels, a batch of token sets, classes of fewer than 3d/4 tokens on average, and
    factors whose pivots lost digits. Where values cannot be read, every class must hold d tokens.

    Args:
        Z: tokens of shape (..., n, d).
        Pi: membership weights or integer labels.
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace.

    Returns:
        The pair (reduction, gradient of shape (n, d)) in nats, or None.

    Raises:
        TypeError: as :func:`srr.rate_reduction`.
        ValueError: as :func:`srr.rate_reduction`.

    Source: [MCR2] (9) and its gradient, rearranged.
    """
    if Z.ndim != 2 or Z.shape[0] < _LEAST * Z.shape[1] or not xp.isdtype(Pi.dtype, "integral"):
        return None
    check_tokens(Z, xp=xp)
    eps = check_positive(eps, "eps")
    check_partition(Pi, Z, xp)
    n, d = Z.shape
    A = core_cast(Z, core_dtype, xp)
    segments = Segments.of(Pi, A, xp)
    sizes = [int(size) for bucket in segments.counts for size in bucket]
    if n < _LEAST * d * len(sizes) or not (is_concrete(A) or min(sizes) >= d):
        return None
    return _reduce(Z, A, segments, eps, xp)


def _reduce(Z: ArrayT, A: ArrayT, segments: Segments, eps: float, xp: Namespace) -> tuple[ArrayT, ArrayT] | None:
    n, rtol = A.shape[-2], core_tolerance(Z, A, xp)
    whole, parts = xp.zeros_like(A[:1, :1]), []
    for tokens, count in segments.buckets(A, xp):
        M = shifted_gram(tokens, rate_scale(A, eps=eps, count=count), xp=xp)
        L = _trusted_factor(M, rtol, xp)
        if L is None:
            return None
        whole = whole + xp.tensordot(count / n, M, axes=1)
        parts.append(_Part(tokens, count, L))
    L = _trusted_factor(whole, rtol, xp)
    if L is None:
        return None
    compressed = xp.sum(xp.concat([part.count / n * logdet_of_factor(part.L, xp) for part in parts]))
    value = 0.5 * (logdet_of_factor(L, xp) - compressed)
    grad = segments.restore(_slopes(L, parts, rate_scale(A, eps=eps), xp), xp)
    return xp.astype(value, Z.dtype, copy=False), xp.astype(grad, Z.dtype, copy=False)


def _trusted_factor(M: ArrayT, rtol: float, xp: Namespace) -> ArrayT | None:
    L = cholesky(M, xp)
    if L is None or (is_concrete(M) and not pivots_are_trusted(M, L, rtol, xp)):
        return None
    return L


def _slopes(L: ArrayT, parts: list[_Part], alpha: float, xp: Namespace) -> list[ArrayT]:
    """Gradient at the padded tokens of every part; parts are used up so that their memory can go."""
    expand, rows = alpha * inverse_of_factor(L, xp), []
    while parts:
        part = parts.pop(0)
        rows.append(part.tokens @ (expand - alpha * inverse_of_factor(part.L, xp)))
    return rows


# --- srr.ops.rates
# Second-order facts of the rates: smoothness constants and Hessian-vector products.


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
    return float(rate_scale(Z, eps=eps))


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
    eps = check_positive(eps, "eps")
    wide = flatten_heads(U, xp)  # (d, K·p): Σ U_kU_kᵀ is its Gram matrix of rows
    beta = U.shape[-1] / Z.shape[-1] * rate_scale(Z, eps=eps)
    return beta * xp.linalg.svdvals(wide)[..., 0] ** 2


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
    scale = float(rate_scale(A, eps=eps))
    return xp.astype(_hvp(A, dA, scale, core_tolerance(Z, A, xp), xp), Z.dtype, copy=False)


def subspace_coding_rate_hvp(
    Z: ArrayT, V: ArrayT, U: ArrayT, *, eps: float, core_dtype: DType = None, xp: Namespace = None
) -> ArrayT:
    r"""Hessian of :math:`R^c(\cdot; U)` at Z applied to a direction V: head by head, in the coordinates of the heads.

    Args:
        Z: tokens of shape (..., n, d).
        V: direction of shape (..., n, d).
        U: bases of shape (K, d, p).
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (..., n, d), nats per squared unit of Z times units of V.

    Raises:
        TypeError: an argument is not a real floating array, or the dtypes differ.
        ValueError: V of another shape, U without the d of Z, NaN or infinity, eps not positive.

    Source: second derivative of [CRATE] (8).
    """
    xp = namespace(Z, V, U, xp=xp)
    check_tokens(Z, xp=xp)
    check_bases(U, Z.shape[-1], xp=xp)
    check_same_dtype(Z=Z, U=U)
    _check_direction(Z, V, xp)
    bases = core_cast(U, core_dtype, xp)
    A = project(core_cast(Z, core_dtype, xp), bases, xp=xp)
    dA = project(core_cast(V, core_dtype, xp), bases, xp=xp)
    scale = float(rate_scale(A, eps=eps))
    heads = _hvp(A, dA, scale, core_tolerance(Z, A, xp), xp)
    return xp.astype(lift(heads, bases, xp=xp), Z.dtype, copy=False)


def _check_direction(Z: Array, V: Array, xp: Namespace) -> None:
    check_tokens(V, "V", xp=xp)
    check_same_dtype(Z=Z, V=V)
    if tuple(V.shape) != tuple(Z.shape):
        raise ValueError(f"V must have the shape of Z, {tuple(Z.shape)}; got {tuple(V.shape)}")


def _hvp(A: ArrayT, dA: ArrayT, scale: float, rtol: float, xp: Namespace) -> ArrayT:
    """Hessian of ½ logdet(I + s·AᵀA) applied to dA, with n×n products where n < d."""
    factor = gram_factor(A, scale, rtol=rtol, xp=xp)
    P = factor.resolvent()  # A S
    change = P @ dA.mT @ A + P @ A.mT @ dA if A.shape[-2] < A.shape[-1] else P @ (dA.mT @ A + A.mT @ dA)
    return scale * factor.apply(dA - scale * change)
