"""First guesses of subspaces: neighbours of a token, one subspace after another where the others explain least."""

from __future__ import annotations

from typing import Any

import numpy as np

Matrix = np.ndarray[Any, Any]
_TRIES = 4  # neighbourhoods tried for every subspace; the one that explains most is kept


def seeded_bases(Z: Matrix, K: int, p: int, rng: np.random.Generator) -> Matrix:
    """K bases of dimension p: each spans the tokens most aligned with one that is badly explained so far.

    Args:
        Z: tokens of shape (n, d).
        K: number of subspaces.
        p: their dimension.
        rng: where the tokens and the sizes of their neighbourhoods are drawn from.

    Returns:
        Orthonormal bases of shape (K, d, p).

    Source: the spreading of k-means++ (Arthur and Vassilvitskii, 2007), with distances to subspaces.
    """
    norms = np.sqrt(np.sum(Z**2, axis=1))
    directions = Z / np.where(norms > 0, norms, 1.0)[:, None]
    left = norms**2
    bases = []
    for _ in range(K):
        tried = [_neighbourhood(Z, directions, left, K, p, rng) for _ in range(_TRIES)]
        rests = [np.minimum(left, np.maximum(norms**2 - np.sum((Z @ U) ** 2, axis=1), 0.0)) for U in tried]
        best = int(np.argmin([rest.sum() for rest in rests]))
        bases.append(tried[best])
        left = rests[best]
    return np.stack(bases)


def _neighbourhood(Z: Matrix, directions: Matrix, left: Matrix, K: int, p: int, rng: np.random.Generator) -> Matrix:
    """Basis of the tokens most aligned with one drawn by the energy that is left."""
    n, d = Z.shape
    total = left.sum()
    centre = rng.choice(n, p=left / total if total > 0 else None)
    size = int(rng.integers(p, max(p, min(4 * p, n // K)) + 1))
    aligned = np.abs(directions @ directions[centre])
    chosen = np.argpartition(-aligned, min(size, n - 1))[: size + 1]
    basis = np.linalg.svd(Z[chosen], full_matrices=False)[2][:p].T
    if basis.shape[1] < p:  # fewer tokens than dimensions: any further directions will do
        basis = np.linalg.qr(np.hstack([basis, rng.standard_normal((d, p - basis.shape[1]))]))[0]
    return np.asarray(basis)
