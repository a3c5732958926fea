"""Floor 4: synthetic mixtures of subspaces with their truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from srr._array.cards import LARGEST_GRID, card, grid
from srr._array.checks import check_count, check_nonnegative
from srr._array.namespace import Array, DType, Namespace, to_numpy

__all__ = ["Mixture", "subspace_mixture"]

Matrix = np.ndarray[Any, Any]


class Mixture(NamedTuple):
    """Tokens drawn near K subspaces, and everything they were drawn from.

    Args:
        Z: tokens, clean plus noise, shape (n, d).
        labels: class of each token, integers of shape (n,).
        U: bases of shape (K, d, p); a class of smaller dimension has zero columns at its end.
        clean: tokens without noise, shape (n, d).
        D: orthogonal frame of shape (d, d) whose axes build the subspaces; the identity unless rotated.
        dims: dimension of each subspace, integers of shape (K,).
    """

    Z: Array
    labels: Array
    U: Array
    clean: Array
    D: Array
    dims: Array

    def __repr__(self) -> str:
        return f"Mixture({', '.join(f'{name} {value}' for name, value in self._summary().items())})"

    def _repr_html_(self) -> str:
        """The same for a notebook, with the energy that every class has in every subspace."""
        Z, U, labels = (to_numpy(a) for a in (self.Z, self.U, self.labels))
        total = np.maximum(np.sum(Z**2, axis=1), np.finfo(float).tiny)
        shares = (np.sum((Z @ U) ** 2, axis=-1) / total).T  # (n, K)
        means = [shares[labels == k].mean(axis=0) for k in range(min(len(U), LARGEST_GRID))]
        return card("Mixture", self._summary(), grid(np.asarray(means), "energy of class (row) in subspace (column)"))

    def _summary(self) -> dict[str, str]:
        dims = sorted({int(p) for p in to_numpy(self.dims)})
        ends = " to ".join(map(str, (dims[0], dims[-1])[: len(dims)]))
        return {
            "tokens": f"{self.Z.shape[0]} of dimension {self.Z.shape[1]}",
            "subspaces": f"{self.U.shape[0]} of dimension {ends}",
            "dtype": str(self.Z.dtype),
        }


def subspace_mixture(
    *,
    n: int | Sequence[int],
    d: int,
    K: int,
    p: int | Sequence[int],
    noise: float = 0.0,
    coherence: float | None = 0.0,
    rotated: bool = False,
    seed: int | np.random.Generator,
    dtype: DType = None,
    xp: Namespace = None,
) -> Mixture:
    r"""Draw tokens from a noisy mixture of K subspaces with Gaussian coefficients.

    .. math:: z_i = U_{k_i} a_i + \sigma w_i, \quad a_i \sim N(0, I_p),\ w_i \sim N(0, I_d)

    Args:
        n: number of tokens, shared out evenly, or one number for each class.
        d: dimension of the tokens.
        K: number of subspaces.
        p: dimension of every subspace, or one for each.
        noise: standard deviation σ ≥ 0 of the noise in every coordinate.
        coherence: cosine c in [0, 1) of every principal angle between two subspaces: 0 for mutually
            orthogonal ones; None draws them independently, which any K and p allow.
        rotated: turn everything by one random rotation; otherwise coordinate axes span the subspaces
            (where ``coherence`` is 0).
        seed: seed or generator; the same seed gives the same mixture on every backend.
        dtype: dtype of the arrays, the library's float64 by default.
        xp: array namespace of the result, NumPy by default.

    Returns:
        The `Mixture`; tokens come in random order.

    Raises:
        ValueError: a size is below 1, ``n`` or ``p`` does not have K entries, a dimension is above d, the
            subspaces do not fit into d dimensions at this coherence, noise is negative.
        TypeError: a size is not an integer.

    Source: [CRATE] §2.2, the mixture of low-dimensional Gaussians that the tokens are modeled by.

    Example:
        >>> mix = subspace_mixture(n=[30, 10], d=6, K=2, p=[2, 3], noise=0.1, seed=0)
        >>> mix.Z.shape, mix.U.shape, mix.dims.tolist()
        ((40, 6), (2, 6, 3), [2, 3])
    """
    sizes, dims = _sizes(n, d, K, p, noise, coherence)
    rng = np.random.default_rng(seed)
    D = _rotation(d, rng) if rotated else np.eye(d)
    U = _independent(d, dims, rng) if coherence is None else D @ _coherent(d, dims, coherence)
    labels = rng.permutation(np.repeat(np.arange(K), sizes))
    coefficients = rng.standard_normal((labels.size, U.shape[-1]))
    clean = np.empty((labels.size, d))
    order, ends = np.argsort(labels, kind="stable"), np.cumsum(sizes)
    for k in range(K):
        rows = order[ends[k] - sizes[k] : ends[k]]
        clean[rows] = coefficients[rows] @ U[k].T
    Z = clean + noise * rng.standard_normal(clean.shape)
    xp = np if xp is None else xp
    floats = [xp.asarray(a, dtype=xp.float64 if dtype is None else dtype) for a in (Z, U, clean, D)]
    return Mixture(floats[0], xp.asarray(labels), floats[1], floats[2], floats[3], xp.asarray(dims))


def _sizes(
    n: int | Sequence[int], d: int, K: int, p: int | Sequence[int], noise: float, coherence: float | None
) -> tuple[Matrix, Matrix]:
    """Class sizes and subspace dimensions, after every check."""
    check_count(d, "d")
    check_count(K, "K")
    check_nonnegative(noise, "noise")
    sizes = list(n) if isinstance(n, Sequence) else _shares(n, K)  # n >= K, before anything of K entries is made
    dims = list(p) if isinstance(p, Sequence) else [p] * len(sizes)
    for name, values in (("n", sizes), ("p", dims)):
        if len(values) != K:
            raise ValueError(f"{name} must have K={K} entries; got {len(values)}")
        for value in values:
            check_count(value, name)
    if coherence is not None and not 0 <= coherence < 1:
        raise ValueError(f"coherence must be None or in [0, 1); got {coherence!r}")
    shared = max(dims) if coherence else 0
    needed = max(dims) if coherence is None else sum(dims) + shared
    if needed > d:
        raise ValueError(f"d must be at least {needed} for dimensions {dims} at coherence {coherence}; got {d}")
    return np.asarray(sizes), np.asarray(dims)


def _shares(n: int, K: int) -> list[int]:
    check_count(n, "n", least=K)
    return [n // K + (k < n % K) for k in range(K)]


def _rotation(d: int, rng: np.random.Generator) -> Matrix:
    Q, R = np.linalg.qr(rng.standard_normal((d, d)))
    return np.asarray(Q * np.sign(np.diag(R)))


def _independent(d: int, dims: Matrix, rng: np.random.Generator) -> Matrix:
    """Uniformly drawn subspaces."""
    U = np.zeros((dims.size, d, dims.max()))
    for k, p in enumerate(dims):
        U[k, :, :p] = _rotation(d, rng)[:, :p]
    return U


def _coherent(d: int, dims: Matrix, coherence: float) -> Matrix:
    """Axes of their own, tilted by arccos(√c) toward shared axes: U_kᵀU_l = c·I."""
    U = np.zeros((dims.size, d, dims.max()))
    ends = np.cumsum(dims)
    for k, (end, p) in enumerate(zip(ends, dims, strict=True)):
        own, shared, columns = np.arange(end - p, end), ends[-1] + np.arange(p), np.arange(p)
        U[k, own, columns] = np.sqrt(1.0 - coherence)
        if coherence:
            U[k, shared, columns] = np.sqrt(coherence)
    return U
