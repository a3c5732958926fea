"""Floor 3: algorithms with ``init`` and ``step``, and the one driver that stops them."""

from srr.solvers.accelerated import Accelerated
from srr.solvers.alternating import Alternating
from srr.solvers.base import Callback, Observation, Solver, State, minimize, unroll
from srr.solvers.callbacks import Checkpoint, EarlyStop, Report
from srr.solvers.coding_length import CodingLengthClustering, CodingLengthFit, coding_length
from srr.solvers.expectation import ExpectationMaximization, MixtureLikelihood, MixtureParameters
from srr.solvers.half_steps import (
    ExactCompression,
    HalfStep,
    IstaSparsification,
    MajorizedSparsification,
    NeumannCompression,
    ProximalSparsification,
    ResidualAttention,
    SoftmaxCompression,
)
from srr.solvers.proximal import Backtracking, BarzilaiBorwein, FixedStep, ProximalGradient, StepRule
from srr.solvers.redunet import ReduNet, ReduNetLayer, ReduNetwork, SphereRateReduction, build_redunet
from srr.solvers.smooth import LBFGS
from srr.solvers.solution import History, NotConvergedError, Solution, Status
from srr.solvers.subspace_mixture import SubspaceMixture, SubspaceMixtureFit

__all__ = [
    "LBFGS",
    "Accelerated",
    "Alternating",
    "Backtracking",
    "BarzilaiBorwein",
    "Callback",
    "Checkpoint",
    "CodingLengthClustering",
    "CodingLengthFit",
    "EarlyStop",
    "ExactCompression",
    "ExpectationMaximization",
    "FixedStep",
    "HalfStep",
    "History",
    "IstaSparsification",
    "MajorizedSparsification",
    "MixtureLikelihood",
    "MixtureParameters",
    "NeumannCompression",
    "NotConvergedError",
    "Observation",
    "ProximalGradient",
    "ProximalSparsification",
    "ReduNet",
    "ReduNetLayer",
    "ReduNetwork",
    "Report",
    "ResidualAttention",
    "SoftmaxCompression",
    "Solution",
    "Solver",
    "SphereRateReduction",
    "State",
    "Status",
    "StepRule",
    "SubspaceMixture",
    "SubspaceMixtureFit",
    "build_redunet",
    "coding_length",
    "minimize",
    "unroll",
]
