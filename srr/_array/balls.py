"""Ball arithmetic: python-flint's numbers with proved error bounds, and the formulas that several files need."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np

Ball = Any
"""An ``arb`` or ``arb_mat`` of python-flint, which has no types."""
FIRST, MOST = 128, 1 << 14  # bits of the first attempt and of the last


def load() -> Any:
    """The module flint.

    Raises:
        ImportError: python-flint is missing.
    """
    try:
        return importlib.import_module("flint")
    except ImportError as missing:
        raise ImportError("enclosures need python-flint; install it with: pip install 'srr[verify]'") from missing


def ends_of(f: Any, ball: Ball) -> tuple[float, float]:
    """Lower and upper end of a ball, rounded outward to float64."""
    low, high = ball.lower(), ball.upper()
    a, b = float(low), float(high)
    if not f.arb(a) <= low:
        a = float(np.nextafter(a, -np.inf))
    if not f.arb(b) >= high:
        b = float(np.nextafter(b, np.inf))
    return a, b


def matrix(f: Any, x: Any) -> Ball:
    """A matrix of float64 numbers, each as the exact binary number it is."""
    return f.arb_mat(np.asarray(x, dtype=np.float64).tolist())


def gram(f: Any, A: Ball, scale: Ball) -> tuple[Ball, bool]:
    """I + s·AᵀA or I + s·AAᵀ, whichever is smaller, and whether it is the first."""
    wide = A.ncols() > A.nrows()
    G = (A * A.transpose() if wide else A.transpose() * A) * scale
    return matrix(f, np.eye(G.nrows())) + G, not wide


def rate_of(f: Any, A: Ball, scale: Ball) -> Ball:
    """½ logdet(I + s·AᵀA)."""
    return gram(f, A, scale)[0].det().log() / 2


def rate_slope(f: Any, A: Ball, scale: Ball) -> Ball:
    """s·A (I + s·AᵀA)⁻¹."""
    M, tall = gram(f, A, scale)
    return (M.solve(A.transpose()).transpose() if tall else M.solve(A)) * scale


def total(parts: Iterable[Ball]) -> Ball:
    """Sum of matrices."""
    first, *rest = parts
    for part in rest:
        first = first + part
    return first


def inner(A: Ball, B: Ball) -> Ball:
    """tr(AᵀB), the sum over all entries."""
    pairs = zip(A.tolist(), B.tolist(), strict=True)
    products = [x * y for a, b in pairs for x, y in zip(a, b, strict=True)]
    return sum(products[1:], products[0])


def spectral_bound(M: Ball, squarings: int = 7) -> Ball:
    """(tr M^{2^{s+1}})^{2^{−s−1}}, at least the spectral norm of a symmetric positive semidefinite matrix.

    Seven squarings are within d^{1/256} of it, less than the 3 % that the bounds of layers leave, up to d = 1,900.
    """
    for _ in range(squarings):
        M = M * M
    power = inner(M, M)
    for _ in range(squarings + 1):
        power = power.sqrt()
    return power
