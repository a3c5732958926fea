"""The outcome of a check, and what all checks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from srr._array.namespace import Array, to_numpy

Matrix = Any


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        check: name of the check.
        passed: whether it holds.
        measured: the worst value found.
        bound: what it was held against.
        message: one or two sentences: where, how much, and what the error looks like.
    """

    check: str
    passed: bool
    measured: float
    bound: float | tuple[float, float]
    message: str

    def __str__(self) -> str:
        return f"{self.check} {'holds' if self.passed else 'FAILS'}: {self.message}"


def assert_close(got: Array, want: Array, *, rtol: float = 1e-7, atol: float = 0.0) -> None:
    """Raise unless two arrays of any backend agree, and name the worst entry.

    Args:
        got: array of any shape.
        want: array of the same shape.
        rtol: tolerance relative to the largest entry of ``want``.
        atol: absolute tolerance, added.

    Raises:
        AssertionError: if the shapes differ or an entry is off by more than ``atol + rtol·max|want|``.

    Example:
        >>> import numpy as np
        >>> from srr.testing import assert_close
        >>> assert_close(np.asarray([1.0, 2.0]), np.asarray([1.0, 2.0]))
    """
    left, right = host(got), host(want)
    if left.shape != right.shape:
        raise AssertionError(f"shapes differ: got {left.shape}, wanted {right.shape}")
    bound = atol + rtol * float(np.max(np.abs(right), initial=0.0))
    gap = np.abs(left - right)
    if not np.all(gap <= bound):
        index = worst_index(gap)
        raise AssertionError(
            f"entry {index} is {left[index]:.10g}, wanted {right[index]:.10g}: "
            f"off by {gap[index]:.3g}, allowed {bound:.3g}"
        )


def worst_index(gap: Matrix) -> tuple[int, ...]:
    """Index of the largest entry; a NaN counts as largest."""
    flat = int(np.argmax(np.where(np.isnan(gap), np.inf, gap)))
    return tuple(int(i) for i in np.unravel_index(flat, gap.shape))


def host(x: Any) -> Matrix:
    """The value as a float64 NumPy array."""
    return np.asarray(to_numpy(x) if hasattr(x, "dtype") else x, dtype=np.float64)


def finish(report: Report, throw: bool) -> Report:
    """Give the report back, or raise it when it failed and was to be thrown."""
    if throw and not report.passed:
        raise AssertionError(str(report))
    return report
