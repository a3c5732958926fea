"""Rates and their gradients with proved error bounds: enclosures [low, high] that hold the true value.

Arrays and ε are read as the exact binary numbers they are, every operation runs in ball arithmetic (python-flint), and
the working precision doubles until the enclosure is as narrow as asked for. What comes out is a theorem about these
inputs, not an estimate; it needs the extra ``verify``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from srr._array.checks import check_bases, check_positive, check_tokens
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
    # gradients
    "coding_rate_grad",
    "subspace_coding_rate_grad",
    "partition_coding_rate_grad",
    "rate_reduction_grad",
]

Numbers = np.ndarray[Any, np.dtype[np.float64]]
Ball = Any
"""An ``arb`` or ``arb_mat`` of python-flint, which has no types."""
FIRST, MOST = 128, 1 << 14  # bits of the first attempt and of the last


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
    return _enclose(lambda f: [[_rate(f, _tokens(f, Z), _alpha(f, Z, eps))]], Z, eps, rtol, ())


def coding_rate_grad(Z: Array, *, eps: float, rtol: float = 1e-14) -> Enclosure:
    """Enclosure of the gradient of :func:`coding_rate`, α Z (I + α ZᵀZ)⁻¹, shape (n, d); same arguments.

    Source: [CRATE] (7).
    """
    return _enclose(lambda f: _rate_grad(f, _tokens(f, Z), _alpha(f, Z, eps)).tolist(), Z, eps, rtol, Z.shape)


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
        return [[sum((_rate(f, A * _matrix(f, basis), beta) for basis in heads), f.arb(0))]]

    return _enclose(value, Z, eps, rtol, ())


def subspace_coding_rate_grad(Z: Array, U: Array, *, eps: float, rtol: float = 1e-14) -> Enclosure:
    """Enclosure of the gradient of :func:`subspace_coding_rate` in the tokens, shape (n, d); same arguments.

    Source: [CRATE] (9).
    """
    heads = _heads(Z, U)

    def slope(f: Any) -> Any:
        A, beta = _tokens(f, Z), _alpha(f, Z, eps, U.shape[-1])
        bases = [_matrix(f, basis) for basis in heads]
        return _total(_rate_grad(f, A * B, beta) * B.transpose() for B in bases).tolist()

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
        return [[_rate(f, _tokens(f, Z), _alpha(f, Z, eps)) - _partition(f, Z, weights, eps)]]

    return _enclose(value, Z, eps, rtol, ())


def rate_reduction_grad(Z: Array, Pi: Array, *, eps: float, rtol: float = 1e-14) -> Enclosure:
    """Enclosure of the gradient of :func:`rate_reduction` in the tokens, shape (n, d); same arguments.

    Source: [MCR2] (10).
    """
    weights = _weights(Z, Pi)

    def slope(f: Any) -> Any:
        whole = _rate_grad(f, _tokens(f, Z), _alpha(f, Z, eps))
        return (whole - _partition_grad(f, Z, weights, eps)).tolist()

    return _enclose(slope, Z, eps, rtol, Z.shape)


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
    try:
        flint = importlib.import_module("flint")
    except ImportError as missing:
        raise ImportError("enclosures need python-flint; install it with: pip install 'srr[verify]'") from missing
    bits = FIRST
    while bits <= MOST:
        with flint.ctx.workprec(bits):
            ends = np.array([[_ends(flint, ball) for ball in row] for row in formula(flint)])
        low, high = ends[..., 0].reshape(shape), ends[..., 1].reshape(shape)
        size = np.max(np.abs(ends))
        if np.isfinite(size) and np.max(high - low) <= max(rtol * size, np.finfo(float).tiny):
            return Enclosure(low, high, bits)
        bits *= 2
    raise ArithmeticError(f"an enclosure of relative width {rtol:.1e} needs more than {MOST} bits")


def _ends(f: Any, ball: Ball) -> tuple[float, float]:
    """Lower and upper end of a ball, rounded outward to float64."""
    low, high = ball.lower(), ball.upper()
    a, b = float(low), float(high)
    if not f.arb(a) <= low:
        a = float(np.nextafter(a, -np.inf))
    if not f.arb(b) >= high:
        b = float(np.nextafter(b, np.inf))
    return a, b


def _matrix(f: Any, x: Any) -> Ball:
    return f.arb_mat(np.asarray(x, dtype=np.float64).tolist())


def _tokens(f: Any, Z: Array) -> Ball:
    return _matrix(f, to_numpy(Z))


def _alpha(f: Any, Z: Array, eps: float, width: int | None = None) -> Ball:
    """Width/(n ε²), with ε as the exact binary number it is."""
    n, d = Z.shape
    return f.arb(d if width is None else width) / (n * f.arb(float(eps)) ** 2)


def _gram(f: Any, A: Ball, scale: Ball) -> tuple[Ball, bool]:
    """I + s·AᵀA or I + s·AAᵀ, whichever is smaller, and whether it is the first."""
    wide = A.ncols() > A.nrows()
    G = (A * A.transpose() if wide else A.transpose() * A) * scale
    return _matrix(f, np.eye(G.nrows())) + G, not wide


def _rate(f: Any, A: Ball, scale: Ball) -> Ball:
    """½ logdet(I + s·AᵀA)."""
    return _gram(f, A, scale)[0].det().log() / 2


def _rate_grad(f: Any, A: Ball, scale: Ball) -> Ball:
    """s·A (I + s·AᵀA)⁻¹."""
    M, tall = _gram(f, A, scale)
    return (M.solve(A.transpose()).transpose() if tall else M.solve(A)) * scale


def _total(parts: Any) -> Ball:
    first, *rest = parts
    for part in rest:
        first = first + part
    return first


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
    return sum((share * _rate(f, A, scale) for A, scale, share in classes), f.arb(0))


def _partition_grad(f: Any, Z: Array, weights: list[Numbers], eps: float) -> Ball:
    """Every class's gradient in √Π_k Z, sent back through the root of its weights."""
    n, d = Z.shape
    total = [[f.arb(0)] * d for _ in range(n)]
    for w in weights:
        A, scale, share = _class(f, Z, w, eps)
        slope = (_rate_grad(f, A, scale) * share).tolist()
        for row, part in zip(np.flatnonzero(w), slope, strict=True):
            root = f.arb(float(w[row])).sqrt()
            total[row] = [old + root * new for old, new in zip(total[row], part, strict=True)]
    return f.arb_mat(total)
