"""Floor 3: algorithms with ``init`` and ``step``, and the one driver that stops them."""

from srr.solvers.base import Callback, Observation, Solver, State, minimize, unroll
from srr.solvers.solution import History, NotConvergedError, Solution, Status

__all__ = [
    "Callback",
    "History",
    "NotConvergedError",
    "Observation",
    "Solution",
    "Solver",
    "State",
    "Status",
    "minimize",
    "unroll",
]
