"""Random problems inside the assumptions of the statements."""

from __future__ import annotations

from typing import Any

import numpy as np

from srr.theory.statement import Sample

Matrix = Any


def spread(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between low and high, uniform in its logarithm."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def orthonormal(rng: np.random.Generator, d: int, p: int) -> Matrix:
    """Orthonormal columns, p of them, in R^d, uniformly random."""
    Q, R = np.linalg.qr(rng.standard_normal((d, p)))
    return Q * np.sign(np.diag(R))


def bases(rng: np.random.Generator, K: int, d: int, p: int) -> Matrix:
    """K orthonormal bases of shape (K, d, p), at random angles to each other."""
    return np.stack([orthonormal(rng, d, p) for _ in range(K)])


def orthogonal_bases(rng: np.random.Generator, K: int, d: int, p: int) -> Matrix:
    """K mutually orthogonal bases of shape (K, d, p), Kp ≤ d; complete when Kp = d."""
    return np.stack(np.split(orthonormal(rng, d, K * p), K, axis=1))


def membership(rng: np.random.Generator, n: int, K: int) -> Matrix:
    """Soft memberships of shape (n, K), rows on the simplex."""
    return rng.dirichlet(np.full(K, 0.7), size=n)


def unit_rows(Z: Matrix) -> Matrix:
    """Every token divided by its norm."""
    return Z / np.linalg.norm(Z, axis=-1, keepdims=True)


def tokens(rng: np.random.Generator) -> Sample:
    """Tokens of any small shape, scale and rank, duplicated rows included, with a distortion."""
    n, d = (int(size) for size in rng.integers(1, 7, size=2))
    Z = rng.standard_normal((n, d))
    form = rng.integers(4)
    if form == 1:
        Z = np.outer(rng.standard_normal(n), rng.standard_normal(d))
    if form == 2:
        Z = Z[rng.integers(0, n, size=n)]
    return Sample(Z=spread(rng, 0.1, 10.0) * Z, eps=spread(rng, 0.1, 2.0))


def weighted_tokens(rng: np.random.Generator) -> Sample:
    """Tokens with non-negative weights, some of them zero."""
    p = tokens(rng)
    w = rng.uniform(0.1, 2.0, len(p.Z)) * (rng.random(len(p.Z)) < 0.7)
    w[rng.integers(len(w))] = 1.0
    return p.but(w=w)


def subspaces(rng: np.random.Generator) -> Sample:
    """Tokens and orthonormal bases at random angles."""
    n, d = int(rng.integers(1, 7)), int(rng.integers(2, 7))
    U = bases(rng, int(rng.integers(1, 4)), d, int(rng.integers(1, d)))
    return Sample(Z=spread(rng, 0.1, 5.0) * rng.standard_normal((n, d)), U=U, eps=spread(rng, 0.2, 2.0))


def free_subspaces(rng: np.random.Generator) -> Sample:
    """Tokens and bases that need not be orthonormal, as in a trained network."""
    p = subspaces(rng)
    return p.but(U=rng.standard_normal(p.U.shape))


def orthogonal_subspaces(rng: np.random.Generator) -> Sample:
    """Tokens and mutually orthogonal bases that fill the space."""
    K, p = int(rng.integers(2, 4)), int(rng.integers(1, 4))
    n, d = int(rng.integers(2, 9)), K * p
    U = orthogonal_bases(rng, K, d, p)
    return Sample(Z=spread(rng, 0.1, 5.0) * rng.standard_normal((n, d)), U=U, eps=spread(rng, 0.2, 2.0))


def partition(rng: np.random.Generator, least: int = 1) -> Sample:
    """Tokens and soft memberships of up to three classes."""
    n, d, K = int(rng.integers(2, 8)), int(rng.integers(1, 6)), int(rng.integers(least, 4))
    Z = spread(rng, 0.1, 5.0) * rng.standard_normal((n, d))
    return Sample(Z=Z, Pi=membership(rng, n, K), eps=spread(rng, 0.2, 2.0))


def mixture(rng: np.random.Generator, n: int = 64, K: int = 6, p: int = 8) -> Sample:
    """Unit tokens near K orthogonal subspaces of dimension p that fill the space; 64 tokens in 48 dimensions."""
    U = orthogonal_bases(rng, K, K * p, p)
    labels = rng.integers(K, size=n)
    Z = (U[labels] @ rng.standard_normal((n, p, 1)))[:, :, 0] + 0.2 * rng.standard_normal((n, K * p))
    return Sample(Z=unit_rows(Z), U=U, labels=labels, eps=0.1)


def codes(rng: np.random.Generator) -> Sample:
    """Non-negative codes A, tokens Z, a dictionary D (complete or overcomplete), a safe step and a weight."""
    n, d = int(rng.integers(1, 6)), int(rng.integers(2, 6))
    D = rng.standard_normal((d, d if rng.random() < 0.5 else 2 * d)) / np.sqrt(d)
    A = np.maximum(rng.standard_normal((n, D.shape[1])), 0.0)
    step = float(rng.uniform(0.2, 1.0)) / float(np.linalg.norm(D, 2) ** 2)
    return Sample(A=A, Z=rng.standard_normal((n, d)), D=D, step=step, lam=spread(rng, 0.01, 0.5))


def curved_tokens(rng: np.random.Generator) -> Sample:
    """Few tokens with singular values around √(3/α), where R is most concave."""
    n, d = (int(size) for size in rng.integers(1, 4, size=2))
    eps = spread(rng, 0.3, 2.0)
    size = spread(rng, 0.1, 4.0) / np.sqrt(d / n) * eps  # singular values around √(3/α)
    return Sample(Z=size * rng.standard_normal((n, d)), eps=eps)


def curved_subspaces(rng: np.random.Generator) -> Sample:
    """The same under three orthonormal bases at random angles."""
    p = curved_tokens(rng)
    Z = rng.standard_normal((len(p.Z), 3)) * np.max(np.abs(p.Z))
    return Sample(Z=Z, U=bases(rng, 3, 3, int(rng.integers(1, 3))), eps=p.eps)
