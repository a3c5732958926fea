"""Tokens sorted by label once: classes as padded batches of similar size, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from srr._array import Array, Namespace, asarray_like, is_concrete, to_numpy

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
