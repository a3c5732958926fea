"""Floor 3: algorithms with ``init`` and ``step``, and the one driver that stops them."""

from srr.solvers.accelerated import Accelerated
from srr.solvers.base import Callback, Observation, Solver, State, minimize, unroll
from srr.solvers.callbacks import Checkpoint, EarlyStop, Report
from srr.solvers.proximal import Backtracking, BarzilaiBorwein, FixedStep, ProximalGradient, StepRule
from srr.solvers.solution import History, NotConvergedError, Solution, Status

__all__ = [
    "Accelerated",
    "Backtracking",
    "BarzilaiBorwein",
    "Callback",
    "Checkpoint",
    "EarlyStop",
    "FixedStep",
    "History",
    "NotConvergedError",
    "Observation",
    "ProximalGradient",
    "Report",
    "Solution",
    "Solver",
    "State",
    "Status",
    "StepRule",
    "minimize",
    "unroll",
]
