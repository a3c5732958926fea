"""Unknown number of subspaces: merge clusters as long as that shortens the code of the tokens.

`Clusters` keeps every cluster as eigenvectors and eigenvalues of its Gram matrix, which give the coding length of
every union; :func:`coding_length` measures a given segmentation, `CodingLengthSegmentation` looks for the shortest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from srr._array.checks import check_array, check_count, check_positive, check_tokens
from srr._array.linalg import cholesky, logdet_of_factor
from srr._array.namespace import Array, to_numpy

Matrix = np.ndarray[Any, np.dtype[Any]]
_FINEST = 1e-6  # smallest distortion relative to the tokens: rounding then costs about 1e-4 d nats a cluster
_RANK = 1e-14  # eigenvalues below this share of the largest carry no digit
_CHUNK = 2**22  # pairs of tokens whose gains are computed at once


def cluster_length(count: Matrix | int, logdet: Matrix | float, n: int, d: int) -> Any:
    r"""Nats of clusters of ``count`` tokens: :math:`\tfrac12 (n_k + d)\log\det + n_k \log (n / n_k)`."""
    return 0.5 * (count + d) * logdet + count * np.log(n / count)


class Clusters:
    """Active clusters of tokens, merged two at a time.

    A cluster keeps the eigenvectors of its Gram matrix in the slots of its own tokens: at most as many as it has
    tokens, and at most d. Slot n is empty and pads.

    Args:
        Z: tokens of shape (n, d).
        eps: distortion ε > 0.
    """

    def __init__(self, Z: Matrix, eps: float) -> None:
        self.n, self.d = Z.shape
        self.unit = self.d / eps**2  # scale of a single token
        self.values = np.append(np.sum(Z**2, axis=1), 0.0)
        norms = np.sqrt(self.values)
        self.axes = np.vstack([Z, np.zeros(self.d)]) / np.where(norms > 0, norms, 1.0)[:, None]
        self.first = np.arange(self.n)  # slot of the first eigenvector
        self.slots = {i: np.asarray([i]) for i in range(self.n)}
        self.members = {i: np.asarray([i]) for i in range(self.n)}
        self.size = np.ones(self.n, dtype=np.int64)
        self.rank = np.ones(self.n, dtype=np.int64)
        self.active = np.ones(self.n, dtype=bool)
        self.length = cluster_length(1, np.log1p(self.unit * self.values[:-1]), self.n, self.d)

    def pair_gains(self) -> Matrix:
        """Nats saved by merging any two tokens, shape (n, n); -inf on the diagonal."""
        gains = np.empty((self.n, self.n))
        norms = np.sqrt(self.values[:-1])
        Z = norms[:, None] * self.axes[:-1]
        scale, energy = 0.5 * self.unit, self.values[:-1]
        for start in range(0, self.n, max(1, _CHUNK // self.n)):
            rows = slice(start, start + max(1, _CHUNK // self.n))
            inner = Z[rows] @ Z.T
            independent = (1.0 + scale * energy[rows, None]) * (1.0 + scale * energy)
            logdet = np.log(np.maximum(independent - (scale * inner) ** 2, 1.0))
            gains[rows] = self.length[rows, None] + self.length - cluster_length(2, logdet, self.n, self.d)
        np.fill_diagonal(gains, -np.inf)
        return gains

    def merge(self, a: int, b: int) -> None:
        """Put cluster b into cluster a."""
        slots = np.concatenate([self.slots[a], self.slots[b]])
        values, axes = _eigen(np.sqrt(self.values[slots])[:, None] * self.axes[slots])
        self.values[slots], self.axes[slots] = 0.0, 0.0
        slots = slots[: len(values)]
        self.values[slots], self.axes[slots] = values, axes
        self.slots[a], self.first[a], self.rank[a] = slots, slots[0], len(slots)
        self.members[a] = np.concatenate([self.members[a], self.members[b]])
        self.size[a] += self.size[b]
        self.active[b] = False
        del self.slots[b], self.members[b]
        logdet = np.sum(np.log1p(self.unit / self.size[a] * values))
        self.length[a] = cluster_length(self.size[a], logdet, self.n, self.d)

    def gains(self, a: int) -> Matrix:
        """Nats saved by merging cluster a with every other one, shape (n,); -inf where there is none."""
        gains = np.full(self.n, -np.inf)
        others = np.flatnonzero(self.active)
        others = others[others != a]
        bucket = np.frexp(self.rank[others])[1] * (self.rank[others] > 1)  # ranks within a factor of two
        for index in (others[bucket == b] for b in np.unique(bucket)):
            size = self.size[a] + self.size[index]
            logdet = self._union_logdet(a, index, self.unit / size)
            gains[index] = self.length[a] + self.length[index] - cluster_length(size, logdet, self.n, self.d)
        return gains

    def _union_logdet(self, a: int, index: Matrix, scale: Matrix) -> Matrix:
        """Log-determinants of the unions of a with clusters of similar rank, on the smaller side."""
        if self.rank[index[0]] == 1:
            slots = self.first[index][:, None]
        else:
            slots = np.full((len(index), int(self.rank[index].max())), self.n)
            for row, other in zip(slots, index, strict=True):
                row[: self.rank[other]] = self.slots[other]
        own, their = self.values[self.slots[a]], self.values[slots]  # (r_a,), (m, r)
        cosines = self.axes[slots.ravel()] @ self.axes[self.slots[a]].T  # one product for all clusters
        cosines = cosines.reshape(*slots.shape, len(own))
        if slots.shape[1] <= len(own):
            return _joint_logdet(own, their, cosines, scale)
        return _joint_logdet(their, own, np.swapaxes(cosines, -1, -2), scale)


def _joint_logdet(large: Matrix, small: Matrix, cosines: Matrix, scale: Matrix) -> Matrix:
    """Logdet(I + s(A + B)) from the eigenvalues of A and B and the cosines (m, r_B, r_A) of their eigenvectors.

    With A = QΛQᵀ factorized by its eigenvalues, what is left is r_B×r_B: I + s·B seen through (I + sA)⁻¹.
    """
    scale = scale[:, None]
    gain = scale * large / (1.0 + scale * large)  # (m, r_A)
    root = np.broadcast_to(np.sqrt(scale * small), cosines.shape[:2])
    seen = -(cosines * gain[:, None, :]) @ np.swapaxes(cosines, -1, -2)
    diagonal = np.arange(seen.shape[-1])
    seen[:, diagonal, diagonal] += 1.0
    rest = root[:, :, None] * seen * root[:, None, :]
    known = np.sum(np.log1p(scale * large), axis=-1)
    if rest.shape[-1] == 1:
        return np.asarray(known + np.log1p(np.maximum(rest[:, 0, 0], 0.0)))
    rest[:, diagonal, diagonal] += 1.0
    return np.asarray(known + _logdet(rest))


def _logdet(M: Matrix) -> Matrix:
    """Log-determinants of matrices that are at least the identity, up to rounding."""
    L = cholesky(M, np)
    if L is None:  # rounding of a tiny distortion
        return np.asarray(np.sum(np.log(np.maximum(np.linalg.eigvalsh(M), 1.0)), axis=-1))
    return np.asarray(logdet_of_factor(L, np))


def _eigen(A: Matrix) -> tuple[Matrix, Matrix]:
    """Eigenvalues of AᵀA and its eigenvectors as rows, those that carry digits, by the smaller side of A."""
    if A.shape[0] > A.shape[1]:
        values, vectors = np.linalg.eigh(A.T @ A)
        axes = vectors.T
    else:
        _, sigma, axes = np.linalg.svd(A, full_matrices=False)
        values = sigma**2
    keep = values > _RANK * values.max()
    keep[np.argmax(values)] = True  # a cluster of zero tokens keeps one axis
    return values[keep], axes[keep]


def coding_length(Z: Array, labels: Array, *, eps: float) -> float:
    r"""Nats that code tokens cluster by cluster up to distortion ε, and which cluster each belongs to.

    .. math:: L = \sum_k \tfrac{n_k + d}{2} \log\det\Bigl(I + \tfrac{d}{n_k \varepsilon^2} Z_k^\top Z_k\Bigr)
              + n_k \log\frac{n}{n_k}

    Args:
        Z: tokens of shape (n, d).
        labels: integer cluster of each token, shape (n,).
        eps: distortion ε > 0, in units of the norm of a token.

    Returns:
        Coding length in nats.

    Raises:
        TypeError: Z is not a real floating array.
        ValueError: Z is not a matrix, labels of another length, NaN or infinity, eps not positive.

    Source: Ma, Derksen, Hong and Wright (2007), equations (10)-(11), for tokens of zero mean and in nats.

    Example:
        >>> import numpy as np, srr
        >>> Z = np.asarray([[3.0, 0.0], [4.0, 0.0], [0.0, 3.0], [0.0, 4.0]])
        >>> [round(srr.coding_length(Z, np.asarray(y), eps=0.1), 1) for y in ([0, 0, 1, 1], [0, 0, 0, 0])]
        [34.1, 42.8]
    """
    tokens = _tokens(Z)
    check_positive(eps, "eps")
    y = to_numpy(labels)
    if y.shape != tokens.shape[:1]:
        raise ValueError(f"labels must have shape (n,) with n={len(tokens)}; got {y.shape}")
    n, d = tokens.shape
    total = 0.0
    for k in np.unique(y):
        sigma = np.linalg.svd(tokens[y == k], compute_uv=False)
        count = int(np.sum(y == k))
        total += float(cluster_length(count, np.sum(np.log1p(d / (count * eps**2) * sigma**2)), n, d))
    return total


@dataclass(frozen=True, eq=False)
class CodingLengthFit:
    """Clusters found by merging.

    Args:
        labels: cluster of each token, integers of shape (n,), largest cluster first.
        coding_length: of the tokens in these clusters, in nats.
        history: coding length before the first merge and after each, in nats.
        clusters: the clusters' spectra, which code further tokens.
        order: internal names of the clusters, in the order of the labels.
    """

    labels: Matrix
    coding_length: float
    history: Matrix
    clusters: Clusters
    order: tuple[int, ...]

    @property
    def K(self) -> int:
        """Number of clusters."""
        return len(self.order)

    def incremental_lengths(self, Z: Array) -> Matrix:
        """Nats that one more token costs in every cluster, shape (m, K), for tokens of shape (m, d).

        Raises:
            TypeError: Z is not a real floating array.
            ValueError: Z does not have the d of the fitted tokens, NaN or infinity.

        Source: Wright, Ma, Tao, Lin and Shum (2009), classification by minimum incremental coding length.
        """
        tokens, c = _tokens(Z), self.clusters
        if tokens.shape[1] != c.d:
            raise ValueError(f"Z must have shape (m, d) with d={c.d}; got {tokens.shape}")
        energy, columns = np.sum(tokens**2, axis=1), []
        for k in self.order:
            size, slots = int(c.size[k]), c.slots[k]
            values, scale = c.values[slots], c.unit / (size + 1)
            gain = scale * values / (1.0 + scale * values)
            left = np.maximum(energy - (tokens @ c.axes[slots].T) ** 2 @ gain, 0.0)
            logdet = np.sum(np.log1p(scale * values)) + np.log1p(scale * left)
            longer = 0.5 * (size + 1 + c.d) * logdet + np.log(c.n / size)
            columns.append(longer - 0.5 * (size + c.d) * np.sum(np.log1p(c.unit / size * values)))
        return np.stack(columns, axis=1)

    def assign(self, Z: Array) -> Matrix:
        """Cluster of other tokens (m, d): the one that codes each with the fewest additional nats."""
        return np.asarray(np.argmin(self.incremental_lengths(Z), axis=1))


@dataclass(frozen=True)
class CodingLengthSegmentation:
    r"""Agglomerative clustering by coding length: the number of subspaces and their dimensions come out.

    Every token starts as a cluster; the two whose union saves most nats of :func:`coding_length` are merged, until
    no union saves any. Runs in float64 on the host, for tokens of any backend, in O(n²) memory and about
    O(n² d) time. Merging is greedy: on mixtures that overlap much it can end at a longer code than another
    segmentation has, which :func:`coding_length` shows.

    Args:
        eps: distortion ε > 0, in units of the norm of a token: of the order of the noise.
        K: number of clusters to stop at; None to stop where the code is shortest.

    Raises:
        TypeError: K is not an integer.
        ValueError: eps is not positive, K below 1.

    Source: Ma, Derksen, Hong and Wright (2007), Algorithm 1.

    Example:
        >>> import srr
        >>> mix = srr.subspace_mixture(n=[60, 40, 20], d=12, K=3, p=[3, 2, 1], noise=0.05, seed=0)
        >>> fit = srr.CodingLengthSegmentation(eps=0.2).fit(mix.Z)
        >>> [int((fit.labels == k).sum()) for k in range(fit.K)]
        [60, 40, 20]
    """

    eps: float
    K: int | None = None

    def __post_init__(self) -> None:
        check_positive(self.eps, "eps")
        if self.K is not None:
            check_count(self.K, "K")

    def fit(self, Z: Array) -> CodingLengthFit:
        """Cluster tokens.

        Args:
            Z: tokens of shape (n, d).

        Returns:
            The `CodingLengthFit`.

        Raises:
            TypeError: Z is not a real floating array.
            ValueError: Z is not a matrix of at least K tokens, NaN or infinity; eps below 1e-6 of the largest
                entry of Z, where float64 has no digits left for the difference of two lengths.
        """
        tokens = _tokens(Z)
        if self.K is not None and len(tokens) < self.K:
            raise ValueError(f"Z must have at least K={self.K} tokens; got shape {tokens.shape}")
        largest = float(np.max(np.abs(tokens)))
        if self.eps < _FINEST * largest:
            raise ValueError(
                f"eps must be at least {_FINEST} of the largest entry of Z, which is {largest}; got {self.eps}"
            )
        clusters = Clusters(tokens, self.eps)
        history = _merge_all(clusters, self.K)
        order = sorted(clusters.members, key=lambda k: (-clusters.size[k], clusters.members[k].min()))
        labels = np.empty(clusters.n, dtype=np.int64)
        for label, k in enumerate(order):
            labels[clusters.members[k]] = label
        total = float(sum(clusters.length[k] for k in order))
        return CodingLengthFit(labels, total, history, clusters, tuple(order))


def _merge_all(clusters: Clusters, K: int | None) -> Matrix:
    """Merge the best pair until none saves nats, or K clusters are left; coding length after every merge."""
    gains = clusters.pair_gains()
    partner = np.argmax(gains, axis=1)
    best = gains[np.arange(clusters.n), partner]
    history = [float(np.sum(clusters.length))]
    while len(clusters.members) > (1 if K is None else K):
        a = int(np.argmax(best))
        if K is None and best[a] <= 0.0:
            break
        b = int(partner[a])
        history.append(history[-1] - float(best[a]))
        clusters.merge(a, b)
        row = clusters.gains(a)
        gains[a], gains[:, a], gains[b], gains[:, b] = row, row, -np.inf, -np.inf
        stale = clusters.active & ((partner == a) | (partner == b))
        stale[a] = True
        better = clusters.active & ~stale & (row > best)
        partner[better], best[better], best[b] = a, row[better], -np.inf
        index = np.flatnonzero(stale)
        partner[index] = np.argmax(gains[index], axis=1)
        best[index] = gains[index, partner[index]]
    return np.asarray(history)


def _tokens(Z: Array) -> Matrix:
    """Tokens as a float64 matrix on the host."""
    check_array(Z, "Z", finite=False)
    check_tokens(Z)
    if Z.ndim != 2:
        raise ValueError(f"Z must have shape (n, d); got {tuple(Z.shape)}")
    return to_numpy(Z).astype(np.float64)
