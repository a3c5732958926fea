"""Second moments of tokens that come in pieces: batches, Dask blocks, or the shards of many processes.

Every rate sees its tokens only through ZᵀZ, so a d×d matrix and a count are all that has to be kept, whatever n is.
Moments are summed in the float64 core and logdet(I + α ZᵀZ) is taken on the side of d. That side squares the
condition of Z: eigenvalues of ZᵀZ below 1e-16 of the largest are lost. A rate that this would change by more than
1e-11 of its value is refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from srr._array.checks import check_array, check_bases, check_count, check_tokens, check_weights
from srr._array.extras import need
from srr._array.linalg import bare_gram, moment_logdet, weighted_gram
from srr._array.namespace import Array, DType, Namespace, core_cast, device, epsilon, namespace, to_numpy
from srr.ops.rates import rate_scale

_RTOL = 1e-11  # relative error of a log-determinant above which a moment has lost the digits


@dataclass(frozen=True)
class SecondMoment:
    r"""Sums :math:`\sum_i w_i z_i z_i^\top` and :math:`\sum_i w_i` of tokens, per class when there are classes.

    A value: :meth:`update` and :meth:`merge` return a new one. Merging is associative and commutative, so
    pieces may be added in any order, on any number of machines.

    Args:
        moment: (d, d), or (K, d, d) with classes.
        count: (), or (K,) with classes.

    Source: R of [CRATE] (7) and [MCR2] (8) written in ZᵀZ.

    Example:
        >>> import numpy as np, srr
        >>> Z = np.random.default_rng(0).normal(size=(1000, 8))
        >>> moment = srr.ops.SecondMoment.zeros(8, like=Z)
        >>> for batch in np.split(Z, 10):
        ...     moment = moment.update(batch)
        >>> bool(np.isclose(moment.coding_rate(eps=0.5), srr.coding_rate(Z, eps=0.5), rtol=1e-12))
        True
    """

    moment: Array
    count: Array

    @classmethod
    def zeros(cls, d: int, *, like: Array, classes: int | None = None, core_dtype: DType = None) -> SecondMoment:
        """The moment of no tokens.

        Args:
            d: dimension of the tokens.
            like: an array of the library and on the device to use.
            classes: number K of classes, or None for one moment of all tokens.
            core_dtype: dtype of the sums; float64 by default.

        Returns:
            Zeros of shape (d, d) and (), or (K, d, d) and (K,).
        """
        check_count(d, "d")
        xp = namespace(like)
        lead = () if classes is None else (classes,)
        dtype = core_cast(xp.zeros((1,), dtype=like.dtype, device=device(like)), core_dtype, xp).dtype
        make = {"dtype": dtype, "device": device(like)}
        return cls(xp.zeros((*lead, d, d), **make), xp.zeros(lead, **make))

    @property
    def classes(self) -> int | None:
        """Number K of classes, or None."""
        return None if self.moment.ndim == 2 else int(self.moment.shape[0])

    def update(self, Z: Array, weights: Array | None = None, labels: Array | None = None) -> SecondMoment:
        """Add tokens.

        Args:
            Z: (n, d), n may differ from call to call.
            weights: (n,), ≥ 0; all one by default.
            labels: integers (n,) in [0, K), needed when there are classes and refused otherwise.

        Returns:
            The moment with these tokens.

        Raises:
            TypeError: Z or weights is not a real floating array.
            ValueError: another dimension, labels missing, unexpected or outside [0, K), negative weights.
        """
        xp = namespace(Z, weights)
        check_tokens(Z, xp=xp)
        if Z.ndim != 2 or Z.shape[-1] != self.moment.shape[-1]:
            raise ValueError(f"Z must have shape (n, d) with d={self.moment.shape[-1]}; got {tuple(Z.shape)}")
        if weights is not None:
            check_weights(weights, Z, xp=xp)
            weights = xp.astype(weights, self.moment.dtype, copy=False)
        A = xp.astype(Z, self.moment.dtype, copy=False)
        if (self.classes is None) != (labels is None):
            wanted = "no labels" if self.classes is None else f"labels in [0, {self.classes})"
            raise ValueError(f"this moment wants {wanted}; got {'none' if labels is None else 'labels'}")
        add = _whole(A, weights, xp) if labels is None else _by_class(A, weights, labels, self.moment.shape[0], xp)
        return self.merge(add)

    def merge(self, other: SecondMoment) -> SecondMoment:
        """The moment of both token sets together.

        Raises:
            ValueError: another dimension or number of classes.
        """
        if self.moment.shape != other.moment.shape:
            raise ValueError(f"moments must have one shape; got {self.moment.shape} and {other.moment.shape}")
        return SecondMoment(self.moment + other.moment, self.count + other.count)

    def map(self, function: Callable[[Array], Array]) -> SecondMoment:
        """Apply a function to both sums: a sum over ranks, a move to another device."""
        return SecondMoment(function(self.moment), function(self.count))

    def total(self) -> SecondMoment:
        """The moment of all classes together."""
        if self.classes is None:
            return self
        xp = namespace(self.moment)
        return SecondMoment(xp.sum(self.moment, axis=0), xp.sum(self.count, axis=0))

    def coding_rate(self, *, eps: float) -> Array:
        """R of all tokens, in nats, shape (); see :func:`srr.coding_rate`."""
        whole = self.total()
        xp = namespace(whole.moment)
        return 0.5 * _logdet(whole.moment, whole.count, eps, xp)

    def subspace_coding_rate(self, U: Array, *, eps: float) -> Array:
        """R^c of all tokens under bases U (K, d, p), in nats, shape (); see :func:`srr.subspace_coding_rate`."""
        whole = self.total()
        xp = namespace(whole.moment, U)
        check_bases(U, whole.moment.shape[-1], xp=xp)
        U = xp.astype(U, whole.moment.dtype, copy=False)
        heads = U.mT @ (whole.moment @ U)  # (K, p, p)
        return 0.5 * xp.sum(_logdet(heads, whole.count, eps, xp), axis=-1)

    def partition_coding_rate(self, *, eps: float) -> Array:
        """R^c of the tokens given their classes, in nats, shape (); empty classes count zero; see
        :func:`srr.partition_coding_rate`.

        Raises:
            ValueError: the moment has no classes.
        """
        if self.classes is None:
            raise ValueError("this moment has no classes; make it with SecondMoment.zeros(d, like=..., classes=K)")
        xp = namespace(self.moment)
        n = xp.sum(self.count, axis=-1)
        share = self.count / xp.where(n > 0, n, xp.ones_like(n))
        return 0.5 * xp.sum(share * _logdet(self.moment, self.count, eps, xp), axis=-1)

    def rate_reduction(self, *, eps: float) -> Array:
        """ΔR of the tokens given their classes, in nats, shape (); see :func:`srr.rate_reduction`."""
        return self.coding_rate(eps=eps) - self.partition_coding_rate(eps=eps)

    @classmethod
    def from_dask(
        cls, Z: Any, weights: Any = None, labels: Any = None, *, classes: int | None = None, fan_in: int = 8
    ) -> SecondMoment:
        """The moment of a Dask array on whatever cluster is active: blocks become moments, moments are merged
        in a tree.

        Args:
            Z: Dask array (n, d), chunked along its rows only.
            weights: Dask array (n,) with the same row chunks.
            labels: Dask array (n,) with the same row chunks.
            classes: number K of classes.
            fan_in: moments merged by one task.

        Returns:
            A moment of NumPy arrays.

        Raises:
            ValueError: Z is chunked along its columns, or the row chunks differ.
        """
        need("dask", by="SecondMoment.from_dask")
        from dask.delayed import delayed

        if Z.ndim != 2 or len(Z.chunks[1]) != 1:
            raise ValueError(f"Z must be (n, d) in chunks of whole rows; got shape {Z.shape}, chunks {Z.chunks}")
        parts = [Z, weights, labels]
        if any(part is not None and part.chunks[0] != Z.chunks[0] for part in parts):
            raise ValueError("Z, weights and labels must have the same row chunks")
        blocks = [[None] * len(Z.chunks[0]) if p is None else p.to_delayed().ravel().tolist() for p in parts]
        tree = [delayed(_of_block)(*b, classes, Z.shape[1]) for b in zip(*blocks, strict=True)]
        while len(tree) > 1:
            tree = [delayed(_merge_all)(tree[i : i + fan_in]) for i in range(0, len(tree), fan_in)]
        return cls(*tree[0].compute())


def _of_block(Z: Any, weights: Any, labels: Any, classes: int | None, d: int) -> tuple[Any, Any]:
    moment = SecondMoment.zeros(d, like=Z, classes=classes).update(Z, weights, labels)
    return to_numpy(moment.moment), to_numpy(moment.count)


def _merge_all(pairs: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    return sum(p[0] for p in pairs), sum(p[1] for p in pairs)


def _whole(A: Array, weights: Array | None, xp: Namespace) -> SecondMoment:
    if weights is None:
        return SecondMoment(bare_gram(A, xp), xp.full((), A.shape[0], dtype=A.dtype, device=device(A)))
    return SecondMoment(weighted_gram(A, weights, xp), xp.sum(weights))


def _by_class(A: Array, weights: Array | None, labels: Array, K: int, xp: Namespace) -> SecondMoment:
    """Tokens sorted by label once, then one Gram matrix for each class that is present."""
    if tuple(labels.shape) != tuple(A.shape[:1]) or not xp.isdtype(labels.dtype, "integral"):
        raise ValueError(f"labels must be integers of shape ({A.shape[0]},); got {labels.dtype} {tuple(labels.shape)}")
    host = to_numpy(labels)
    if host.size and (host.min() < 0 or host.max() >= K):
        raise ValueError(f"labels must lie in [0, {K}); got {host.min()}..{host.max()}")
    order = host.argsort(kind="stable")
    ends = host[order].searchsorted(range(K + 1)).tolist()
    at = xp.asarray(order, device=device(A))
    A = xp.take(A, at, axis=0)
    weights = None if weights is None else xp.take(weights, at, axis=0)
    d = A.shape[-1]
    empty = xp.zeros((d, d), dtype=A.dtype, device=device(A)), xp.zeros((), dtype=A.dtype, device=device(A))
    parts = []
    for a, b in itertools.pairwise(ends):  # one segment a class: their lengths differ
        part = _whole(A[a:b, :], None if weights is None else weights[a:b], xp) if b > a else None
        parts.append(empty if part is None else (part.moment, part.count))
    return SecondMoment(xp.stack([p[0] for p in parts]), xp.stack([p[1] for p in parts]))


def _logdet(M: Any, count: Any, eps: float, xp: Namespace) -> Any:
    """logdet(I + s·M) of moments (..., d, d), s = d/(n ε²) and zero where there is no token."""
    check_array(M, "moment", xp=xp)
    scale = rate_scale(count, M.shape[-1], eps=eps)
    found = moment_logdet(M, scale[..., None, None], max(_RTOL, 64 * epsilon(M.dtype, xp)), xp)
    if found is None:
        raise ValueError(
            f"eps must be larger for rates from a moment, whose rounding is as large as eps² here; got {eps}: "
            "take the rate of the tokens themselves (srr.coding_rate), or a larger eps"
        )
    return found
