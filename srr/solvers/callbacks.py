"""Callbacks: they observe a run, and may ask it to stop; they never change it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from srr._array import to_numpy
from srr._checks import check_count, check_nonnegative
from srr.solvers.base import Observation
from srr.solvers.files import write_atomically

__all__ = ["Checkpoint", "EarlyStop", "Report"]


class Report:
    """Hand every so many steps to a function, for a progress display or a log.

    Args:
        show: Called with the `Observation`.
        every: Steps between two calls; the first iterate and the step that ends the last item are always shown.

    Raises:
        ValueError: `every` is below 1.

    Example:
        >>> import numpy as np, srr
        >>> lines = []
        >>> report = Report(lambda seen: lines.append(seen.step), every=10)
        >>> problem = srr.SparseCoding(np.ones((1, 2)), np.eye(2), srr.L1(0.1))
        >>> _ = srr.minimize(problem, np.zeros((1, 2)), srr.Accelerated(), callbacks=[report])
        >>> lines
        [0, 1]
    """

    def __init__(self, show: Callable[[Observation], object], *, every: int = 1) -> None:
        check_count(every, "every")
        self.show, self.every = show, every

    def __call__(self, seen: Observation) -> None:
        """Show the step when it is its turn."""
        if seen.step % self.every == 0 or not seen.active.any():
            self.show(seen)


class EarlyStop:
    """Ask for a stop when the objective has not fallen enough for a while on any item that still runs.

    Args:
        patience: Steps to wait for a gain.
        gain: How much lower, in nats, the objective must become to count.

    Raises:
        ValueError: `patience` is below 1 or `gain` negative.
    """

    def __init__(self, *, patience: int, gain: float = 0.0) -> None:
        check_count(patience, "patience")
        check_nonnegative(gain, "gain")
        self.patience, self.gain = patience, gain
        self._best: np.ndarray[Any, Any] | None = None
        self._since = 0

    def __call__(self, seen: Observation) -> bool:
        """True when the wait is over."""
        if self._best is None or seen.step == 0:
            self._best, self._since = seen.objective.copy(), seen.step
            return False
        if ((seen.objective < self._best - self.gain) & seen.active).any():
            self._since = seen.step
        self._best = np.minimum(self._best, seen.objective)
        return seen.step - self._since >= self.patience


class Checkpoint:
    """Save the current iterate every so many steps: written to a temporary name, synced, renamed.

    The file holds ``Z``, ``step``, ``objective`` and ``residual`` and loads with ``numpy.load``; handing its
    ``Z`` to `minimize` goes on from there.

    Args:
        path: File to write, ending in ``.npz``.
        every: Steps between two saves; the step that ends the last item is always saved.

    Raises:
        ValueError: `path` does not end in ``.npz``, or `every` is below 1.
    """

    def __init__(self, path: str | Path, *, every: int = 100) -> None:
        check_count(every, "every")
        self.path, self.every = Path(path), every
        if self.path.suffix != ".npz":
            raise ValueError(f"path must end in .npz; got {str(path)!r}")

    def __call__(self, seen: Observation) -> None:
        """Write the iterate when it is its turn."""
        if seen.step % self.every and seen.active.any():
            return
        Z, objective, residual = to_numpy(seen.Z), seen.objective, seen.residual
        write_atomically(
            self.path, lambda file: np.savez(file, Z=Z, step=seen.step, objective=objective, residual=residual)
        )
