"""What a solver returns: the iterate, why each batch item ended, and how it got there."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

import numpy as np

__all__ = ["History", "NotConvergedError", "Solution", "Status"]


class Status(Enum):
    """Why a solver stopped on one batch item; the value is a sentence for people."""

    RUNNING = "The item is still being solved."
    CONVERGED = "The distance to optimality fell to tol or below."
    MAX_STEPS = "The step limit was reached before the distance to optimality fell to tol."
    DIVERGED = "The objective kept rising or stopped being finite; the last finite iterate is returned."
    STALLED = "No further step lowered the objective or the distance to optimality at this precision."
    STOPPED = "A callback asked for an early stop."


class History(NamedTuple):
    """What a run measured at every iterate, the first one included.

    Args:
        objective: Objective, shape (steps + 1, ...).
        residual: Distance to optimality, shape (steps + 1, ...).
    """

    objective: np.ndarray[Any, Any]
    residual: np.ndarray[Any, Any]


class Solution(NamedTuple):
    """Result of `minimize`. Numbers about the run live on the host, `Z` stays on its backend and device.

    Args:
        Z: Last iterate, or the last finite one of an item that diverged.
        status: A `Status`; an object array of shape (...) for a batched problem.
        steps: Steps taken, per batch item.
        objective: Objective at `Z`, per batch item.
        residual: Distance to optimality at `Z`, per batch item.
        history: Objective and residual at every step.
    """

    Z: Any
    status: Any
    steps: Any
    objective: Any
    residual: Any
    history: History

    @property
    def converged(self) -> bool:
        """True where every batch item converged."""
        return all(status is Status.CONVERGED for status in np.ravel(np.asarray(self.status, dtype=object)))


class NotConvergedError(RuntimeError):
    """Raised by ``minimize(..., throw=True)`` when an item did not converge; carries the `solution`."""

    def __init__(self, solution: Solution) -> None:
        """Keep the solution and put the sentence of the first item that failed into the message."""
        self.solution = solution
        statuses = np.ravel(np.asarray(solution.status, dtype=object))
        failed = [status for status in statuses if status is not Status.CONVERGED]
        super().__init__(f"{len(failed)} of {len(statuses)} items did not converge: {failed[0].value}")
