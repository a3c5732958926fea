"""Floor 3: algorithms with ``init`` and ``step``, and the one driver that stops them."""

from srr.solvers.driver import (
    Callback,
    Checkpoint,
    EarlyStop,
    History,
    NotConvergedError,
    Observation,
    Progress,
    Solution,
    Solver,
    Startable,
    State,
    Status,
    minimize,
    unroll,
)
from srr.solvers.layers import (
    Alternating,
    ExactCompression,
    HalfStep,
    IstaSparsification,
    MajorizedSparsification,
    NeumannCompression,
    ProximalSparsification,
    ResidualAttention,
    SoftmaxCompression,
)
from srr.solvers.proximal import (
    Accelerated,
    Backtracking,
    BarzilaiBorwein,
    FixedStep,
    ProximalGradient,
    StepRule,
)
from srr.solvers.smooth import LBFGS

__all__ = [
    # the driver, and what it returns and calls
    "Status",
    "History",
    "Solution",
    "NotConvergedError",
    "Startable",
    "State",
    "Solver",
    "Observation",
    "Callback",
    "unroll",
    "minimize",
    "Progress",
    "EarlyStop",
    "Checkpoint",
    # proximal gradient and its step rules
    "StepRule",
    "FixedStep",
    "Backtracking",
    "BarzilaiBorwein",
    "ProximalGradient",
    "Accelerated",
    # smooth problems
    "LBFGS",
    # a layer's half-steps
    "HalfStep",
    "ExactCompression",
    "NeumannCompression",
    "SoftmaxCompression",
    "ResidualAttention",
    "IstaSparsification",
    "MajorizedSparsification",
    "ProximalSparsification",
    "Alternating",
]
