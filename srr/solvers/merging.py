"""Clusters of tokens as eigenvectors and eigenvalues of their Gram matrices, and the coding length of every union."""

from __future__ import annotations

from typing import Any

import numpy as np

Matrix = np.ndarray[Any, Any]
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

    With A = QΛQᵀ factorised by its eigenvalues, what is left is r_B×r_B: I + s·B seen through (I + sA)⁻¹.
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
    try:
        pivots = np.diagonal(np.linalg.cholesky(M), axis1=-2, axis2=-1)
        return np.asarray(2.0 * np.sum(np.log(pivots), axis=-1))
    except np.linalg.LinAlgError:  # rounding of a tiny distortion
        return np.asarray(np.sum(np.log(np.maximum(np.linalg.eigvalsh(M), 1.0)), axis=-1))


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
