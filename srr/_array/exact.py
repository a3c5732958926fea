"""Products with twice the digits, from matrix products that round nothing.

A number is cut into slices of so few bits that a product of two slices, summed over the inner axis, fits into a
float64 (Ozaki, Ogita, Oishi and Rump, 2012). What the slices give is added up as a pair: a float64 and what it rounds
away. Any library that multiplies float64 matrices can do this.
"""

from __future__ import annotations

import math
from typing import Generic, NamedTuple

from srr._array.namespace import Array, ArrayT, Namespace

_MANTISSA = 53
_SLICES = 3


class Pair(NamedTuple, Generic[ArrayT]):
    """A number as the unevaluated sum of a float64 and a remainder."""

    high: ArrayT
    low: ArrayT

    @property
    def mT(self) -> Pair[ArrayT]:
        """The transposed pair."""
        return Pair(self.high.mT, self.low.mT)


def exact_sum(a: ArrayT, b: ArrayT) -> Pair[ArrayT]:
    """A + b and what float64 rounds away of it, exactly."""
    total = a + b
    shifted = total - a
    return Pair(total, (a - (total - shifted)) + (b - shifted))


def add(a: Pair[ArrayT], b: Pair[ArrayT]) -> Pair[ArrayT]:
    """Sum of two pairs."""
    total = exact_sum(a.high, b.high)
    return exact_sum(total.high, total.low + a.low + b.low)


def times(x: ArrayT, y: ArrayT, xp: Namespace) -> Pair[ArrayT]:
    """Entrywise product and what float64 rounds away of it."""
    (a, b), (c, e) = _halves(x, xp), _halves(y, xp)
    product = x * y
    return Pair(product, ((a * c - product) + a * e + b * c) + b * e)


def scaled(factor: ArrayT, pair: Pair[ArrayT], xp: Namespace) -> Pair[ArrayT]:
    """A pair times a float64 factor that broadcasts to it."""
    product = times(factor, pair.high, xp)
    return exact_sum(product.high, product.low + factor * pair.low)


def _halves(x: ArrayT, xp: Namespace) -> tuple[ArrayT, ArrayT]:
    """X as a sum of two numbers of 26 bits each."""
    shift = _unit(xp.abs(x), xp) * 2.0 ** (_MANTISSA - 26)
    high = (x + shift) - shift
    return high, x - high


def _unit(size: ArrayT, xp: Namespace) -> ArrayT:
    """A power of two at least as large as a size, within a factor of four; one where the size is zero."""
    return 2.0 ** xp.ceil(xp.log2(xp.where(size > 0, size, xp.ones_like(size))) + 0.5)


def matmul(X: Pair[ArrayT], Y: Pair[ArrayT], xp: Namespace) -> Pair[ArrayT]:
    """X Y to about 2⁻⁸⁰ of the largest entries of the rows of X times those of the columns of Y."""
    bits = (_MANTISSA - math.ceil(math.log2(X.high.shape[-1] + 1))) // 2
    rows, columns = _slices(X.high, -1, bits, xp), _slices(Y.high, -2, bits, xp)
    total: Pair[ArrayT] = Pair(rows[0] @ columns[0], X.low @ Y.high + X.high @ Y.low)
    for i, j in sorted(((i, j) for i in range(_SLICES) for j in range(_SLICES)), key=sum)[1:]:
        part = exact_sum(total.high, rows[i] @ columns[j])
        total = Pair(part.high, total.low + part.low)
    return exact_sum(total.high, total.low)


def _slices(X: ArrayT, axis: int, bits: int, xp: Namespace) -> list[ArrayT]:
    """X as a sum of matrices, all but the last of ``bits`` bits below the largest entry along the axis."""
    size: Array = _unit(xp.max(xp.abs(X), axis=axis, keepdims=True), xp)
    slices = []
    for _ in range(_SLICES - 1):
        shift = size * 2.0 ** (_MANTISSA - bits)
        part = (X + shift) - shift
        slices.append(part)
        X, size = X - part, size * 2.0**-bits
    return [*slices, X]
