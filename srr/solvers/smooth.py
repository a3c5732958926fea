"""Quasi-Newton steps for problems without a kink: SciPy's L-BFGS under the library's own driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from srr._array.checks import check_count
from srr._array.namespace import Array, asarray_like, namespace, to_numpy
from srr.penalties import Penalty, SmoothPenalty
from srr.problems import Problem

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]


class SmoothState(NamedTuple):
    """State at Z.

    Args:
        objective: f(Z) + g(Z), a number.
        residual: norm of its gradient, a number.
    """

    objective: Array
    residual: Array


@dataclass(frozen=True)
class LBFGS:
    r"""Limited-memory BFGS for :math:`f + g` with a differentiable g such as `Ridge`.

    One step is one call of SciPy's L-BFGS-B of at most `inner` iterations, so that the driver can look in between
    and each step starts with a fresh memory. The search stops where the objective has no digits left, near a
    relative error of 1e-8 in Z; a `ProximalGradient` with `BarzilaiBorwein` started from the solution goes on from
    there, because it trusts the gradient.

    Args:
        memory: pairs of differences that model the curvature.
        inner: iterations of one step.

    Raises:
        ValueError: memory or inner is below 1.
        TypeError: the problem's penalty has no gradient.

    Source: Liu and Nocedal (1989); used on the regularized MCR² objective by [GEOM].
    """

    memory: int = 20
    inner: int = 50

    def __post_init__(self) -> None:
        check_count(self.memory, "memory")
        check_count(self.inner, "inner")

    def init(self, problem: Problem[SmoothPenalty], Z: Array) -> SmoothState:
        """State at Z."""
        if Z.ndim != 2:
            raise ValueError(f"LBFGS solves one problem at a time; Z must have shape (n, d), got {tuple(Z.shape)}")
        value, grad = _value_and_grad(problem, Z)
        return SmoothState(value, _norm(grad))

    def step(self, problem: Problem[SmoothPenalty], Z: Array, state: SmoothState) -> tuple[Array, SmoothState]:
        """Where SciPy arrives after at most `inner` iterations."""
        from scipy.optimize import minimize as scipy_minimize

        def fun(x: Vector) -> tuple[float, Vector]:
            value, grad = _value_and_grad(problem, asarray_like(x.reshape(shape), Z))
            return float(value), to_numpy(grad).astype(float).ravel()

        shape = tuple(Z.shape)
        options = {"maxiter": self.inner, "maxcor": self.memory, "ftol": 0.0, "gtol": 0.0, "maxls": 40}
        x0 = to_numpy(Z).astype(float).ravel()
        found = scipy_minimize(fun, x0, jac=True, method="L-BFGS-B", options=options)
        Z_new = asarray_like(found.x.reshape(shape), Z)
        value, grad = _value_and_grad(problem, Z_new)
        return Z_new, SmoothState(value, _norm(grad))


def _value_and_grad(problem: Problem[SmoothPenalty], Z: Array) -> tuple[Array, Array]:
    penalty: Penalty = problem.regularizer  # whoever checks no types gets a sentence
    if not isinstance(penalty, SmoothPenalty):
        name = type(penalty).__name__
        raise TypeError(f"LBFGS needs a penalty with a gradient, such as Ridge; got {name}")
    value, grad = problem.value_and_grad(Z)
    return value + penalty.value(Z), grad + penalty.grad(Z)


def _norm(grad: Array) -> Array:
    xp = namespace(grad)
    return xp.sqrt(xp.sum(grad * grad))
