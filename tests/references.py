"""Independent truths for the operator tests: slow, plain, and sharing no code with ``srr``.

Three kinds: multi-precision rates (``mp_*``), the definitions of the theory written as NumPy loops
(``naive_*``), and derivatives by complex step or central differences. Every function takes one
unbatched problem; `over_batch` lifts it to leading batch axes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import mpmath
import numpy as np
import scipy.linalg
from mpmath import mp

Function = Callable[..., Any]
DIGITS = 60


def over_batch(function: Function, core_ndims: tuple[int, ...]) -> Function:
    """Apply `function` to each item of the leading batch axes of its array arguments."""

    def lifted(*arrays: np.ndarray) -> Any:
        batches = [a.shape[: a.ndim - k] for a, k in zip(arrays, core_ndims, strict=True)]
        batch = np.broadcast_shapes(*batches)
        full = [np.broadcast_to(a, batch + a.shape[a.ndim - k :]) for a, k in zip(arrays, core_ndims, strict=True)]
        items = [function(*(a[index] for a in full)) for index in np.ndindex(*batch)]
        return np.asarray(items).reshape(batch + np.shape(items[0]))

    return lifted


# --------------------------------------------------------------------------- multi-precision


def _mp_gram(A: np.ndarray, weights: np.ndarray | None = None) -> mpmath.matrix:
    exact = mp.matrix(np.asarray(A, dtype=np.float64).tolist())
    if weights is None:
        return exact.T * exact
    diagonal = mp.diag(np.asarray(weights, dtype=np.float64).tolist())
    return exact.T * diagonal * exact


def mp_logdet(A: np.ndarray, scale: Any, weights: np.ndarray | None = None) -> mpmath.mpf:
    """log det(I + scale Aᵀ diag(weights) A) of exactly these floating-point numbers."""
    with mp.workdps(DIGITS):
        G = _mp_gram(A, weights)
        return mp.log(mp.det(mp.eye(G.rows) + scale * G))


def _mp_scale(d: int, n: Any, eps: float) -> mpmath.mpf:
    return mp.mpf(d) / (n * mp.mpf(eps) ** 2)


def mp_coding_rate(Z: np.ndarray, eps: float, weights: np.ndarray | None = None) -> mpmath.mpf:
    """R(Z) in nats, with sixty digits."""
    with mp.workdps(DIGITS):
        n = len(Z) if weights is None else mp.fsum(weights.tolist())
        return mp_logdet(Z, _mp_scale(Z.shape[-1], n, eps), weights) / 2


def _mp_project(Z: np.ndarray, B: np.ndarray) -> mpmath.matrix:
    return mp.matrix(Z.tolist()) * mp.matrix(B.tolist())


def mp_subspace_coding_rate(Z: np.ndarray, U: np.ndarray, eps: float) -> mpmath.mpf:
    """R^c(Z; U) in nats: the heads are projected exactly, then each determinant is taken."""
    with mp.workdps(DIGITS):
        beta = _mp_scale(U.shape[-1], len(Z), eps)
        total = mp.mpf(0)
        for basis in U:
            V = _mp_project(Z, basis)
            total += mp.log(mp.det(mp.eye(V.cols) + beta * V.T * V)) / 2
        return total


def mp_partition_coding_rate(Z: np.ndarray, Pi: np.ndarray, eps: float) -> mpmath.mpf:
    """R^c(Z | Π) in nats for memberships (n, K); classes of zero mass count zero."""
    with mp.workdps(DIGITS):
        total = mp.mpf(0)
        for weights in Pi.T:
            mass = mp.fsum(weights.tolist())
            if mass > 0:
                total += mass / len(Z) * mp_coding_rate(Z, eps, weights)
        return total


def mp_coding_rate_grad(Z: np.ndarray, eps: float) -> np.ndarray:
    """∇R = α (I + α Z Zᵀ)⁻¹ Z by a multi-precision solve, rounded at the end."""
    with mp.workdps(DIGITS):
        exact = mp.matrix(Z.tolist())
        alpha = _mp_scale(Z.shape[-1], len(Z), eps)
        solved = mp.inverse(mp.eye(exact.rows) + alpha * exact * exact.T) * exact * alpha
        return np.array(solved.tolist(), dtype=np.float64)


# --------------------------------------------------------------------------- rates by definition


def half_logdet(A: np.ndarray, scale: float) -> float:
    """½ Σ log(1 + s σ_i(A)²): the rate from its definition, null directions costing nothing."""
    return 0.5 * float(np.sum(np.log1p(scale * np.linalg.svd(A, compute_uv=False) ** 2)))


def naive_coding_rate(Z: np.ndarray, eps: float, weights: np.ndarray | None = None) -> float:
    """½ Σ log(1 + α λ_i(Zᵀ W Z)) with the eigenvalues λ of the weighted Gram matrix, squared singular values."""
    w = np.ones(len(Z)) if weights is None else weights
    if w.sum() == 0:
        return 0.0
    return half_logdet(np.sqrt(w)[:, None] * Z, Z.shape[-1] / (w.sum() * eps**2))


def naive_subspace_coding_rate(Z: np.ndarray, U: np.ndarray, eps: float, weights: np.ndarray | None = None) -> float:
    """Σ_k ½ logdet(I + β U_kᵀ Zᵀ W Z U_k), one head after another."""
    w = np.ones(len(Z)) if weights is None else weights
    beta = U.shape[-1] / (w.sum() * eps**2)
    return sum(half_logdet(np.sqrt(w)[:, None] * Z @ B, beta) for B in U)


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """Hard memberships (n, K) of integer labels."""
    return (labels[:, None] == np.arange(classes)).astype(np.float64)


def naive_partition_coding_rate(Z: np.ndarray, Pi: np.ndarray, eps: float) -> float:
    """Σ_k (tr Π_k / n) R(Z; weights = Π_k), a dense product for each class."""
    return sum(w.sum() / len(Z) * naive_coding_rate(Z, eps, w) for w in Pi.T)


def naive_rate_reduction(Z: np.ndarray, Pi: np.ndarray, eps: float) -> float:
    """ΔR = R − R^c(·|Π)."""
    return naive_coding_rate(Z, eps) - naive_partition_coding_rate(Z, Pi, eps)


def naive_sparse_rate_reduction(Z: np.ndarray, U: np.ndarray, eps: float, lam: float) -> float:
    """R − R^c(·;U) − λ‖Z‖₁."""
    return naive_coding_rate(Z, eps) - naive_subspace_coding_rate(Z, U, eps) - lam * np.abs(Z).sum()


# --------------------------------------------------------------------------- analytic rates for complex steps


def analytic_logdet(matrix: np.ndarray) -> complex:
    """log det of a complex symmetric matrix, continued analytically from the positive definite reals."""
    sign, logabs = np.linalg.slogdet(matrix)
    return complex(logabs, np.arctan2(sign.imag, sign.real))


def analytic_coding_rate(Z: np.ndarray, eps: float, weights: np.ndarray | None = None) -> complex:
    """R as a holomorphic function of Z (transposes, no conjugates)."""
    w = np.ones(len(Z)) if weights is None else weights
    alpha = Z.shape[-1] / (w.sum() * eps**2)
    return 0.5 * analytic_logdet(np.eye(Z.shape[-1]) + alpha * (Z.T * w) @ Z)


def analytic_subspace_coding_rate(
    Z: np.ndarray, U: np.ndarray, eps: float, weights: np.ndarray | None = None
) -> complex:
    """R^c(·;U) as a holomorphic function of Z."""
    w = np.ones(len(Z)) if weights is None else weights
    beta = U.shape[-1] / (w.sum() * eps**2)
    eye = np.eye(U.shape[-1])
    return 0.5 * sum(analytic_logdet(eye + beta * ((Z @ B).T * w) @ (Z @ B)) for B in U)


def analytic_partition_coding_rate(Z: np.ndarray, Pi: np.ndarray, eps: float) -> complex:
    """R^c(·|Π) as a holomorphic function of Z."""
    return sum(w.sum() / len(Z) * analytic_coding_rate(Z, eps, w) for w in Pi.T if w.sum() > 0)


def complex_step_gradient(function: Function, Z: np.ndarray, step: float = 1e-30) -> np.ndarray:
    """Im f(Z + ihE) / h in every coordinate: no cancellation, so exact to rounding."""
    gradient = np.empty(Z.shape)
    for index in np.ndindex(*Z.shape):
        moved = Z.astype(np.complex128)
        moved[index] += 1j * step
        gradient[index] = function(moved).imag / step
    return gradient


def central_gradient(function: Function, Z: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """(f(Z + hE) − f(Z − hE)) / 2h in every coordinate."""
    gradient = np.empty(Z.shape)
    for index in np.ndindex(*Z.shape):
        shift = np.zeros(Z.shape)
        shift[index] = step
        gradient[index] = (float(function(Z + shift)) - float(function(Z - shift))) / (2 * step)
    return gradient


# --------------------------------------------------------------------------- attention by loops


def naive_softmax(scores: list[float]) -> np.ndarray:
    """Softmax of a list of scores; an empty list (nothing to attend to) gives no weights."""
    shifted = np.exp(np.asarray(scores) - max(scores))
    return shifted / shifted.sum()


def naive_ssa(V: np.ndarray, scale: float = 1.0, causal: bool = False, mask: np.ndarray | None = None) -> np.ndarray:
    """softmax_rows(V Vᵀ · scale) V, token by token; a token that may see nothing returns zero."""
    n = len(V)
    out = np.zeros_like(V)
    for i in range(n):
        seen = [j for j in range(n) if (not causal or j <= i) and (mask is None or mask[i, j])]
        if seen:
            weights = naive_softmax([scale * float(V[i] @ V[j]) for j in seen])
            out[i] = sum(w * V[j] for w, j in zip(weights, seen, strict=True))
    return out


def naive_mssa(Z: np.ndarray, U: np.ndarray, out: np.ndarray | None = None, **options: Any) -> np.ndarray:
    """[SSA_1 … SSA_K] times the stacked transposes of the output bases, head by head."""
    lift = U if out is None else out
    return sum(naive_ssa(Z @ B, **options) @ C.T for B, C in zip(U, lift, strict=True))


def naive_thresholded_ssa(V: np.ndarray, threshold: float, scale: float = 1.0) -> np.ndarray:
    """h_τ of the softmax weights (τ above τ, zero elsewhere), then the weighted sum."""
    out = np.zeros_like(V)
    for i in range(len(V)):
        weights = naive_softmax([scale * float(V[i] @ v) for v in V])
        out[i] = sum((threshold * v for w, v in zip(weights, V, strict=True) if w > threshold), start=0 * out[i])
    return out


def naive_neumann_grad(Z: np.ndarray, U: np.ndarray, eps: float, terms: int) -> np.ndarray:
    """β Σ_k Σ_{j≤terms} (−β)^j V_k (V_kᵀV_k)^j U_kᵀ."""
    beta = U.shape[-1] / (len(Z) * eps**2)
    total = np.zeros_like(Z)
    for B in U:
        V = Z @ B
        for j in range(terms + 1):
            total = total + beta * (-beta) ** j * V @ np.linalg.matrix_power(V.T @ V, j) @ B.T
    return total


def naive_subspace_grad(Z: np.ndarray, U: np.ndarray, eps: float) -> np.ndarray:
    """β Σ_k U_k U_kᵀ-form of the gradient through the n×n inverse of each head."""
    beta = U.shape[-1] / (len(Z) * eps**2)
    eye = np.eye(len(Z))
    return sum(beta * np.linalg.inv(eye + beta * (Z @ B) @ (Z @ B).T) @ (Z @ B) @ B.T for B in U)


def naive_tssa(Z: np.ndarray, U: np.ndarray, temperature: float) -> np.ndarray:
    """−(1/n) Σ_k diag(π_k) V_k D_k U_kᵀ with f′(x) = 1/(1 + x), coordinate by coordinate."""
    n = len(Z)
    energies = [[np.sum((z @ B) ** 2) / (2 * temperature) for B in U] for z in Z]
    Pi = np.array([naive_softmax(row) for row in energies])
    total = np.zeros_like(Z)
    for k, B in enumerate(U):
        V = Z @ B
        moments = [sum(Pi[i, k] * V[i, j] ** 2 for i in range(n)) / Pi[:, k].sum() for j in range(B.shape[1])]
        for i in range(n):
            total[i] -= Pi[i, k] / n * B @ (V[i] / (1 + np.array(moments)))
    return total


def naive_tssa_heads(
    V: np.ndarray, temperature: np.ndarray, causal: bool = False, offset: np.ndarray | None = None
) -> np.ndarray:
    """The released form for V (K, n, p), from its facts: token i sees rows ≤ i when causal, all rows otherwise."""
    K, n, p = V.shape
    Pi = np.empty((K, n))
    for i in range(n):
        scores = []
        for k in range(K):
            share = 0.0
            for j in range(p):
                last = i + 1 if causal else n
                share += V[k, i, j] ** 2 / max(np.sum(V[k, :last, j] ** 2), 1e-12)
                share += 0.0 if offset is None else offset[k, i, 0]
            scores.append(share * temperature[k, 0])
        Pi[:, i] = naive_softmax(scores)
    out = np.empty_like(V)
    for k, i, j in np.ndindex(K, n, p):
        last = i + 1 if causal else n
        dots = np.sum(Pi[k, :last] * V[k, :last, j] ** 2) / (np.sum(Pi[k, :last]) + 1e-8)
        out[k, i, j] = -Pi[k, i] * V[k, i, j] / (1 + dots)
    return out


# --------------------------------------------------------------------------- sparse coding by definition


def naive_lasso(A: np.ndarray, Z: np.ndarray, D: np.ndarray, lam: float) -> float:
    """½‖Z − A Dᵀ‖² + λ‖A‖₁, token by token."""
    return sum(0.5 * np.sum((z - D @ a) ** 2) + lam * np.sum(np.abs(a)) for a, z in zip(A, Z, strict=True))


def naive_soft(x: np.ndarray, threshold: float) -> np.ndarray:
    """Soft threshold by three cases."""
    return np.where(x > threshold, x - threshold, np.where(x < -threshold, x + threshold, 0.0))


def naive_ista(
    A: np.ndarray, Z: np.ndarray, D: np.ndarray, step: float, lam: float, nonnegative: bool = True
) -> np.ndarray:
    """The printed three-product form: A + η Z D − η A Dᵀ D, shifted, clipped."""
    moved = A + step * (Z @ D) - step * ((A @ D.T) @ D)
    return np.maximum(moved - step * lam, 0.0) if nonnegative else naive_soft(moved, step * lam)


# --------------------------------------------------------------------------- proximal maps by brute force


def sphere_grid(d: int, size: int) -> np.ndarray:
    """Many points on the unit sphere of R², R³, axes and coordinate planes included."""
    angles = np.linspace(0.0, 2.0 * np.pi, size, endpoint=False)
    if d == 2:
        return np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    heights = np.linspace(0.0, np.pi, size // 2 + 1)
    theta, phi = np.meshgrid(heights, angles, indexing="ij")
    points = [np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)]
    return np.stack(points, axis=-1).reshape(-1, 3)


def prox_objective(points: np.ndarray, v: np.ndarray, penalty: Function) -> np.ndarray:
    """½‖y − v‖² + g(y) for rows y of `points`."""
    return 0.5 * np.sum((points - v) ** 2, axis=-1) + penalty(points)


# --------------------------------------------------------------------------- subspaces


def random_bases(rng: np.random.Generator, heads: int, d: int, p: int, *, orthogonal: bool) -> np.ndarray:
    """K bases with orthonormal columns, mutually orthogonal when asked (then K p ≤ d)."""
    if orthogonal:
        Q = np.linalg.qr(rng.standard_normal((d, d)))[0][:, : heads * p]
        return np.ascontiguousarray(Q.reshape(d, heads, p).transpose(1, 0, 2))
    return np.stack([np.linalg.qr(rng.standard_normal((d, p)))[0] for _ in range(heads)])


def scipy_angles(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """SciPy's principal angles, ascending."""
    return np.sort(scipy.linalg.subspace_angles(A, B))


def random_rotation(rng: np.random.Generator, d: int) -> np.ndarray:
    """An orthogonal d×d matrix."""
    return np.linalg.qr(rng.standard_normal((d, d)))[0]


# --------------------------------------------------------------------------- random problems

KINDS = ("wide", "tall", "square", "one token", "one dimension", "rank deficient", "duplicated rows", "zero rows")


def problem_of_kind(rng: np.random.Generator, kind: str) -> np.ndarray:
    """Tokens of order one, of one of the shapes in `KINDS`."""
    small, large = int(rng.integers(2, 6)), int(rng.integers(6, 12))
    shapes = {"wide": (small, large), "tall": (large, small), "one token": (1, large), "one dimension": (large, 1)}
    if kind == "rank deficient":
        rank = int(rng.integers(1, small))
        return rng.standard_normal((large, rank)) @ rng.standard_normal((rank, large - 1))
    Z = rng.standard_normal(shapes.get(kind, (large, large)))
    if kind == "duplicated rows":
        Z = Z[rng.integers(0, 3, size=large)]
    if kind == "zero rows":
        Z[rng.integers(0, large, size=2)] = 0.0
    return Z


def random_problems(count: int, seed: int = 0) -> Iterator[tuple[str, np.ndarray, float]]:
    """`count` problems (kind, Z, eps): every kind in turn, scales 1e-8 … 1e8, eps 0.05 … 2."""
    rng = np.random.default_rng(seed)
    for kind in itertools.islice(itertools.cycle(KINDS), count):
        Z = problem_of_kind(rng, kind) * 10.0 ** rng.uniform(-8.0, 8.0)
        yield kind, Z, float(10.0 ** rng.uniform(np.log10(0.05), np.log10(2.0)))


def naive_centered_sphere(Z: np.ndarray, radius: float | None = None) -> np.ndarray:
    """Each row with its mean taken away, at length r."""
    rows = [row - sum(row) / len(row) for row in Z]
    return np.stack([row * (len(row) ** 0.5 if radius is None else radius) / math.hypot(*row) for row in rows])


def naive_softmax_energy(
    Z: np.ndarray,
    U: np.ndarray,
    Y: np.ndarray,
    sigma: np.ndarray,
    scales: np.ndarray,
    causal: bool = False,
    mask: np.ndarray | None = None,
) -> Any:
    """Σ over heads and tokens of σ/s · log Σ exp(s ⟨Uᵀz, y⟩), term by term; complex tokens are allowed."""
    total: Any = 0.0
    for B, keys, weight, scale in zip(U, Y, sigma, scales, strict=True):
        for i, z in enumerate(Z):
            seen = [j for j in range(len(keys)) if not (causal and j > i) and (mask is None or mask[i, j])]
            if seen:
                total += weight / scale * np.log(sum(np.exp(scale * np.dot(z @ B, keys[j])) for j in seen))
    return total
