"""Rates and their gradients with proved error bounds: enclosures [low, high] that hold the true value.

Arrays and ε are read as the exact binary numbers they are, every operation runs in ball arithmetic (python-flint), and
the working precision doubles until the enclosure is as narrow as asked for. What comes out is a theorem about these
inputs, not an estimate; it needs the extra ``verify``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from srr._array.balls import FIRST, MOST, Ball, ends_of, inner, load, matrix, rate_of, rate_slope, total
from srr._array.checks import check_bases, check_nonnegative, check_positive, check_tokens
from srr._array.namespace import Array, namespace, to_numpy
from srr.ops.rates import check_partition

__all__ = [
    # the result
    "Enclosure",
    # values
    "coding_rate",
    "subspace_coding_rate",
    "partition_coding_rate",
    "rate_reduction",
    "sparse_rate_reduction",
    # curvature
    "coding_rate_curvature",
    "coding_rate_quadratic",
    "subspace_coding_rate_quadratic",
    # steps
    "proximal_step",
    "proximal_increase",
    # gradients
    "coding_rate_grad",
    "subspace_coding_rate_grad",
    "partition_coding_rate_grad",
    "rate_reduction_grad",
]

Numbers = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Enclosure:
    """Two float64 arrays (or numbers, as arrays without axes) between which the true value lies, entry by entry.

    Attributes:
        low: lower ends.
        high: upper ends.
        bits: working precision that was enough.

    Example:
        >>> import numpy as np
        >>> from srr import enclose
        >>> found = enclose.coding_rate(np.eye(2), eps=1.0)
        >>> found.contains(np.log(2.0)), float(found.high - found.low) < 1e-15
        (True, True)
    """

    low: Numbers
    high: Numbers
    bits: int

    def contains(self, value: Array | float) -> bool:
        """Whether every entry lies between the ends."""
        x = _host(value)
        return bool(np.all((self.low <= x) & (x <= self.high)))

    def distance(self, value: Array | float) -> float:
        """The most by which an entry can be off, relative to the largest end: an upper bound on its error."""
        x = _host(value)
        off = np.maximum(np.abs(x - self.low), np.abs(x - self.high))
        size = float(np.max(np.maximum(np.abs(self.low), np.abs(self.high)), initial=0.0))
        return float(np.max(off, initial=0.0)) / (size if size > 0 else 1.0)


def _host(value: Array | float) -> Numbers:
    return np.asarray(value if isinstance(value, float) else to_numpy(value), dtype=np.float64)


def coding_rate(Z: Array, *, eps: float, rtol: float = 1e-14) -> Enclosure:
    r"""Enclosure of R(Z), :math:`\tfrac12 \log\det(I + \tfrac{d}{n\varepsilon^2} Z^\top Z)`.

    Args:
        Z: tokens of shape (n, d), of any backend and floating dtype.
        eps: distortion ε.
        rtol: widest enclosure accepted, relative to its largest entry.

    Returns:
        An :class:`Enclosure`.

    Raises:
        ImportError: python-flint is missing.
        ValueError: tokens that are not one finite matrix, eps or rtol not positive, or rtol below what float64 ends
            can say.
        ArithmeticError: rtol not met at 16,384 bits.

    Source: [CRATE] (7); ball arithmetic of Johansson (2017), "Arb".
    """
    return _enclose(lambda f: [[rate_of(f, _tokens(f, Z), _alpha(f, Z, eps))]], Z, eps, rtol, ())


def coding_rate_grad(Z: Array, *, eps: float, rtol: float = 1e-14) -> Enclosure:
    """Enclosure of the gradient of :func:`coding_rate`, α Z (I + α ZᵀZ)⁻¹, shape (n, d); same arguments.

    Source: [CRATE] (7).
    """
    return _enclose(lambda f: rate_slope(f, _tokens(f, Z), _alpha(f, Z, eps)).tolist(), Z, eps, rtol, Z.shape)


def subspace_coding_rate(Z: Array, U: Array, *, eps: float, rtol: float = 1e-14) -> Enclosure:
    r"""Enclosure of R^c(Z; U), :math:`\tfrac12\sum_k \log\det(I + \tfrac{p}{n\varepsilon^2} V_k^\top V_k)`.

    Args:
        Z: tokens of shape (n, d).
        U: bases of shape (K, d, p), orthonormal or not.
        eps: distortion ε.
        rtol: as for :func:`coding_rate`.

    Returns:
        An :class:`Enclosure`.

    Raises:
        ValueError: bases that do not fit the tokens; else as for :func:`coding_rate`.

    Source: [CRATE] (8).
    """
    heads = _heads(Z, U)

    def value(f: Any) -> list[list[Ball]]:
        A, beta = _tokens(f, Z), _alpha(f, Z, eps, U.shape[-1])
        return [[sum((rate_of(f, A * matrix(f, basis), beta) for basis in heads), f.arb(0))]]

    return _enclose(value, Z, eps, rtol, ())


def subspace_coding_rate_grad(Z: Array, U: Array, *, eps: float, rtol: float = 1e-14) -> Enclosure:
    """Enclosure of the gradient of :func:`subspace_coding_rate` in the tokens, shape (n, d); same arguments.

    Source: [CRATE] (9).
    """
    heads = _heads(Z, U)

    def slope(f: Any) -> Any:
        A, beta = _tokens(f, Z), _alpha(f, Z, eps, U.shape[-1])
        bases = [matrix(f, basis) for basis in heads]
        return total(rate_slope(f, A * B, beta) * B.transpose() for B in bases).tolist()

    return _enclose(slope, Z, eps, rtol, Z.shape)


def partition_coding_rate(Z: Array, Pi: Array, *, eps: float, rtol: float = 1e-14) -> Enclosure:
    r"""Enclosure of R^c(Z | Π), the rate of a partition.

    .. math:: \sum_k \frac{m_k}{2n} \log\det\Bigl(I + \frac{d}{m_k \varepsilon^2} Z^\top \Pi_k Z\Bigr),
              \quad m_k = \mathrm{tr}\,\Pi_k

    Args:
        Z: tokens of shape (n, d).
        Pi: memberships of shape (n, K), rows on the simplex, or integer labels of shape (n,).
        eps: distortion ε.
        rtol: as for :func:`coding_rate`.

    Returns:
        An :class:`Enclosure`.

    Raises:
        ValueError: memberships that do not fit the tokens; else as for :func:`coding_rate`.

    Source: [MCR2] (8).
    """
    weights = _weights(Z, Pi)
    return _enclose(lambda f: [[_partition(f, Z, weights, eps)]], Z, eps, rtol, ())


def partition_coding_rate_grad(Z: Array, Pi: Array, *, eps: float, rtol: float = 1e-14) -> Enclosure:
    """Enclosure of the gradient of :func:`partition_coding_rate` in the tokens, shape (n, d); same arguments.

    Source: [MCR2] (8).
    """
    weights = _weights(Z, Pi)
    return _enclose(lambda f: _partition_grad(f, Z, weights, eps).tolist(), Z, eps, rtol, Z.shape)


def rate_reduction(Z: Array, Pi: Array, *, eps: float, rtol: float = 1e-14) -> Enclosure:
    """Enclosure of ΔR(Z | Π) = R(Z) − R^c(Z | Π).

    Args:
        Z: tokens of shape (n, d).
        Pi: memberships of shape (n, K), rows on the simplex, or integer labels of shape (n,).
        eps: distortion ε.
        rtol: as for :func:`coding_rate`.

    Returns:
        An :class:`Enclosure`.

    Raises:
        ValueError: as for :func:`partition_coding_rate`.

    Source: [MCR2] (10).
    """
    weights = _weights(Z, Pi)

    def value(f: Any) -> list[list[Ball]]:
        return [[rate_of(f, _tokens(f, Z), _alpha(f, Z, eps)) - _partition(f, Z, weights, eps)]]

    return _enclose(value, Z, eps, rtol, ())


def rate_reduction_grad(Z: Array, Pi: Array, *, eps: float, rtol: float = 1e-14) -> Enclosure:
    """Enclosure of the gradient of :func:`rate_reduction` in the tokens, shape (n, d); same arguments.

    Source: [MCR2] (10).
    """
    weights = _weights(Z, Pi)

    def slope(f: Any) -> Any:
        whole = rate_slope(f, _tokens(f, Z), _alpha(f, Z, eps))
        return (whole - _partition_grad(f, Z, weights, eps)).tolist()

    return _enclose(slope, Z, eps, rtol, Z.shape)


def sparse_rate_reduction(Z: Array, U: Array, *, eps: float, lam: float, rtol: float = 1e-14) -> Enclosure:
    """Enclosure of R(Z) − R^c(Z; U) − λ‖Z‖₁.

    Args:
        Z: tokens of shape (n, d).
        U: bases of shape (K, d, p), orthonormal or not.
        eps: distortion ε.
        lam: weight λ of the ℓ1 norm, at least 0.
        rtol: as for :func:`coding_rate`.

    Returns:
        An :class:`Enclosure`.

    Raises:
        ValueError: a negative weight; else as for :func:`subspace_coding_rate`.

    Source: [CRATE] (1).
    """
    heads = _heads(Z, U)
    check_nonnegative(lam, "lam")
    return _enclose(lambda f: [[_sparse(f, _tokens(f, Z), heads, eps, lam)]], Z, eps, rtol, ())


def coding_rate_curvature(Z: Array, *, eps: float, rtol: float = 1e-14) -> Enclosure:
    r"""Enclosure of the smallest and the largest eigenvalue of the Hessian of R at Z, shape (2,).

    With the singular values s of √α Z they are the extremes of α (1 − st)/((1 + s²)(1 + t²)) over t = s, over t = ±s′
    for two different singular values, and over t = 0 where Z is not square; the singular values are enclosed.

    Args:
        Z: tokens of shape (n, d).
        eps: distortion ε.
        rtol: as for :func:`coding_rate`.

    Returns:
        An :class:`Enclosure` of [smallest, largest], in nats per squared unit of a token.

    Raises:
        ValueError: as for :func:`coding_rate`.

    Source: statement 2.4 of the theory pages.

    Example:
        >>> import numpy as np
        >>> from srr import enclose
        >>> enclose.coding_rate_curvature(np.zeros((2, 2)), eps=1.0).contains(np.array([1.0, 1.0]))
        True
    """

    def extremes(f: Any) -> list[list[Ball]]:
        alpha, (n, d) = _alpha(f, Z, eps), Z.shape
        A = _tokens(f, Z)
        G = (A.transpose() * A if n >= d else A * A.transpose()) * alpha
        one, zero = f.arb(1), f.arb(0)
        values = [_root(f, value.real) for value in f.acb_mat(G).eig(multiple=True)]
        pairs = [(s, s) for s in values]
        pairs += [(s, sign * t) for i, s in enumerate(values) for t in values[:i] for sign in (1, -1)]
        pairs += [(s, zero) for s in values if n != d]
        found = [(one - s * t) / ((one + s * s) * (one + t * t)) for s, t in pairs]
        low = high = found[0]
        for value in found[1:]:
            low, high = low.min(value), high.max(value)
        return [[alpha * low], [alpha * high]]

    return _enclose(extremes, Z, eps, rtol, (2,))


def coding_rate_quadratic(Z: Array, V: Array, *, eps: float, rtol: float = 1e-14) -> Enclosure:
    """Enclosure of the curvature ⟨V, ∇²R(Z)[V]⟩ along one direction.

    Args:
        Z: tokens of shape (n, d).
        V: direction of shape (n, d).
        eps: distortion ε.
        rtol: as for :func:`coding_rate`.

    Returns:
        An :class:`Enclosure`.

    Raises:
        ValueError: a direction of another shape; else as for :func:`coding_rate`.

    Source: second differential of [CRATE] (7).
    """
    _check_direction(V, Z)
    return _enclose(lambda f: [[_quadratic(f, _tokens(f, Z), _tokens(f, V), _alpha(f, Z, eps))]], Z, eps, rtol, ())


def subspace_coding_rate_quadratic(Z: Array, V: Array, U: Array, *, eps: float, rtol: float = 1e-14) -> Enclosure:
    """Enclosure of the curvature ⟨V, ∇²R^c(Z; U)[V]⟩ along one direction.

    Args:
        Z: tokens of shape (n, d).
        V: direction of shape (n, d).
        U: bases of shape (K, d, p), orthonormal or not.
        eps: distortion ε.
        rtol: as for :func:`coding_rate`.

    Returns:
        An :class:`Enclosure`.

    Raises:
        ValueError: a direction of another shape; else as for :func:`subspace_coding_rate`.

    Source: second differential of [CRATE] (8).
    """
    heads = _heads(Z, U)
    _check_direction(V, Z)

    def value(f: Any) -> list[list[Ball]]:
        A, E, beta = _tokens(f, Z), _tokens(f, V), _alpha(f, Z, eps, U.shape[-1])
        return [[sum((_quadratic(f, A * B, E * B, beta) for B in (matrix(f, basis) for basis in heads)), f.arb(0))]]

    return _enclose(value, Z, eps, rtol, ())


def proximal_step(
    Z: Array, U: Array, *, eps: float, lam: float, step: float, unit: bool = False, rtol: float = 1e-14
) -> Enclosure:
    """Enclosure of one proximal gradient step on the sparse rate reduction, shape (n, d).

    The prox of ηλ‖·‖₁ at Z + η∇(R − R^c): soft thresholding, and over unit tokens soft thresholding followed by a
    return to norm one.

    Args:
        Z: tokens of shape (n, d).
        U: bases of shape (K, d, p), orthonormal or not.
        eps: distortion ε.
        lam: weight λ of the ℓ1 norm, at least 0.
        step: length η of the step.
        unit: whether tokens stay on the unit sphere.
        rtol: as for :func:`coding_rate`.

    Returns:
        An :class:`Enclosure`.

    Raises:
        ValueError: a negative weight or step; else as for :func:`subspace_coding_rate`.
        ArithmeticError: on the sphere, two coordinates of a token that is thresholded whole are largest.

    Source: [CRATE] (1); statements 2.6b and 4.20 of the theory pages.
    """
    heads = _heads(Z, U)
    check_nonnegative(lam, "lam")
    check_nonnegative(step, "step")
    return _enclose(lambda f: _proximal(f, Z, heads, eps, lam, step, unit)[1].tolist(), Z, eps, rtol, Z.shape)


def proximal_increase(
    Z: Array, U: Array, *, eps: float, lam: float, step: float, unit: bool = False, rtol: float = 1e-14
) -> Enclosure:
    """Enclosure of what :func:`proximal_step` adds to R − R^c − λ‖·‖₁, in nats.

    A lower end above zero is a proof that the step ascends (that the cost, its negative, falls).

    Args:
        Z: tokens of shape (n, d), taken as they are; the theorem for ``unit`` speaks of tokens of norm one.
        U: bases of shape (K, d, p), orthonormal or not.
        eps: distortion ε.
        lam: weight λ of the ℓ1 norm, at least 0.
        step: length η of the step.
        unit: whether tokens return to the unit sphere.
        rtol: as for :func:`coding_rate`.

    Returns:
        An :class:`Enclosure`.

    Raises:
        ValueError: a negative weight or step; else as for :func:`subspace_coding_rate`.

    Source: [CRATE] (1).
    """
    heads = _heads(Z, U)
    check_nonnegative(lam, "lam")
    check_nonnegative(step, "step")

    def increase(f: Any) -> list[list[Ball]]:
        before, after = _proximal(f, Z, heads, eps, lam, step, unit)
        return [[_sparse(f, after, heads, eps, lam) - _sparse(f, before, heads, eps, lam)]]

    return _enclose(increase, Z, eps, rtol, ())


def _enclose(
    formula: Callable[[Any], Sequence[Sequence[Ball]]], Z: Array, eps: float, rtol: float, shape: tuple[int, ...]
) -> Enclosure:
    """Run a formula of balls at doubled precision until its float64 ends are near enough."""
    check_tokens(Z)
    if Z.ndim != 2:
        raise ValueError(f"Z must be one matrix of tokens (n, d); got shape {tuple(Z.shape)}")
    check_positive(eps, "eps")
    check_positive(rtol, "rtol")
    if rtol < 4 * np.finfo(float).eps:
        raise ValueError(f"rtol must be at least 4 units of float64, {4 * np.finfo(float).eps:.1e}; got {rtol:.1e}")
    flint, bits = load(), FIRST
    while bits <= MOST:
        with flint.ctx.workprec(bits):
            ends = np.array([[ends_of(flint, ball) for ball in row] for row in formula(flint)])
        low, high = ends[..., 0].reshape(shape), ends[..., 1].reshape(shape)
        size = np.max(np.abs(ends))
        if np.isfinite(size) and np.max(high - low) <= max(rtol * size, np.finfo(float).tiny):
            return Enclosure(low, high, bits)
        bits *= 2
    raise ArithmeticError(f"an enclosure of relative width {rtol:.1e} needs more than {MOST} bits")


def _tokens(f: Any, Z: Array) -> Ball:
    return matrix(f, to_numpy(Z))


def _alpha(f: Any, Z: Array, eps: float, width: int | None = None) -> Ball:
    """Width/(n ε²), with ε as the exact binary number it is."""
    n, d = Z.shape
    return f.arb(d if width is None else width) / (n * f.arb(float(eps)) ** 2)


def _root(f: Any, x: Ball) -> Ball:
    """√max(x, 0), also where a ball holds zero."""
    return x.sqrt() if x > 0 else f.arb(0).union(f.arb(x.abs_upper()).sqrt())


def _quadratic(f: Any, A: Ball, E: Ball, scale: Ball) -> Ball:
    """The form s tr(EᵀE M) − s² tr(EᵀA M (EᵀA + AᵀE) M) with M = (I + s·AᵀA)⁻¹."""
    G = matrix(f, np.eye(A.ncols())) + A.transpose() * A * scale
    M = G.inv()
    cross = A.transpose() * E
    return inner(E, E * M) * scale - inner(cross, M * (cross + cross.transpose()) * M) * scale**2


def _sparse(f: Any, A: Ball, heads: Numbers, eps: float, lam: float) -> Ball:
    """R − R^c − λ‖·‖₁."""
    n, d = A.nrows(), A.ncols()
    unit = n * f.arb(float(eps)) ** 2
    rate = rate_of(f, A, d / unit)
    parts = sum((rate_of(f, A * matrix(f, B), B.shape[1] / unit) for B in heads), f.arb(0))
    return rate - parts - f.arb(float(lam)) * sum((abs(x) for row in A.tolist() for x in row), f.arb(0))


def _proximal(f: Any, Z: Array, heads: Numbers, eps: float, lam: float, step: float, unit: bool) -> tuple[Ball, Ball]:
    """The tokens, and the tokens after one proximal gradient step."""
    A, eta = _tokens(f, Z), f.arb(float(step))
    alpha, beta = _alpha(f, Z, eps), _alpha(f, Z, eps, heads.shape[-1])
    bases = [matrix(f, B) for B in heads]
    slope = rate_slope(f, A, alpha) - total(rate_slope(f, A * B, beta) * B.transpose() for B in bases)
    rows = (A + slope * eta).tolist()
    threshold = eta * f.arb(float(lam))
    shrunk = [[(x - threshold).max(0) - (-x - threshold).max(0) for x in row] for row in rows]
    return A, f.arb_mat([_unit(f, s, row) for s, row in zip(shrunk, rows, strict=True)] if unit else shrunk)


def _unit(f: Any, shrunk: list[Ball], row: list[Ball]) -> list[Ball]:
    """A shrunk token at norm one; where nothing is left of it, the signed axis of its largest coordinate."""
    square = sum((x * x for x in shrunk), f.arb(0))
    if square > 0:
        return [x / square.sqrt() for x in shrunk]
    j = max(range(len(row)), key=lambda i: float(abs(row[i]).mid()))
    if not all(x == 0 for x in shrunk) or not all(abs(row[j]) > abs(x) for i, x in enumerate(row) if i != j):
        return [f.arb("nan")] * len(row)  # undecided at this precision
    return [f.arb((1 if row[j] > 0 else -1) if i == j else 0) for i in range(len(row))]


def _check_direction(V: Array, Z: Array) -> None:
    if tuple(V.shape) != tuple(Z.shape):
        raise ValueError(f"V must have the shape of Z, {tuple(Z.shape)}; got {tuple(V.shape)}")


def _heads(Z: Array, U: Array) -> Numbers:
    check_bases(U, Z.shape[-1])
    if U.ndim != 3:
        raise ValueError(f"U must have shape (K, {Z.shape[-1]}, p); got {tuple(U.shape)}")
    return np.asarray(to_numpy(U), dtype=np.float64)


def _weights(Z: Array, Pi: Array) -> list[Numbers]:
    """Membership weights of each class that has any."""
    check_partition(Pi, Z, namespace(Z))
    held = to_numpy(Pi)
    if held.ndim == 1:
        held = (held[:, None] == np.unique(held)).astype(np.float64)
    return [np.asarray(w, dtype=np.float64) for w in held.T if np.any(w > 0)]


def _class(f: Any, Z: Array, w: Numbers, eps: float) -> tuple[Ball, Ball, Ball]:
    """√Π_k Z without its zero rows, its scale d/(m_k ε²), and the class's share m_k/n."""
    rows = np.flatnonzero(w)
    mass = sum((f.arb(float(x)) for x in w[rows]), f.arb(0))
    roots = [f.arb(float(x)).sqrt() for x in w[rows]]
    tokens = np.asarray(to_numpy(Z), dtype=np.float64)[rows].tolist()
    A = f.arb_mat([[root * x for x in row] for root, row in zip(roots, tokens, strict=True)])
    return A, Z.shape[1] / (mass * f.arb(float(eps)) ** 2), mass / Z.shape[0]


def _partition(f: Any, Z: Array, weights: list[Numbers], eps: float) -> Ball:
    classes = [_class(f, Z, w, eps) for w in weights]
    return sum((share * rate_of(f, A, scale) for A, scale, share in classes), f.arb(0))


def _partition_grad(f: Any, Z: Array, weights: list[Numbers], eps: float) -> Ball:
    """Every class's gradient in √Π_k Z, sent back through the root of its weights."""
    n, d = Z.shape
    total = [[f.arb(0)] * d for _ in range(n)]
    for w in weights:
        A, scale, share = _class(f, Z, w, eps)
        slope = (rate_slope(f, A, scale) * share).tolist()
        for row, part in zip(np.flatnonzero(w), slope, strict=True):
            root = f.arb(float(w[row])).sqrt()
            total[row] = [old + root * new for old, new in zip(total[row], part, strict=True)]
    return f.arb_mat(total)
