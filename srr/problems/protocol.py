"""What a solver may ask of a problem f(Z) + g(Z)."""

from __future__ import annotations

from abc import ABC, abstractmethod

from srr._array import Array
from srr.penalties import Penalty


class Problem(ABC):
    """Minimise f(Z) + g(Z): a smooth part f with its gradient, and a penalty g with its prox.

    Values are one number per batch item, shape (...), in the precision of the core (float64 where the library
    has it), so that a line search sees more digits than the tokens carry.
    """

    @property
    @abstractmethod
    def regularizer(self) -> Penalty:
        """The penalty g."""

    @abstractmethod
    def value_and_grad(self, Z: Array) -> tuple[Array, Array]:
        """f(Z) of shape (...) and its gradient of shape (..., n, d)."""

    @abstractmethod
    def smoothness(self, Z: Array) -> float:
        """L such that the gradient of f is L-Lipschitz; depends on Z through its shape only."""

    def value(self, Z: Array) -> Array:
        """f(Z), shape (...)."""
        return self.value_and_grad(Z)[0]

    def grad(self, Z: Array) -> Array:
        """Gradient of f, shape of Z."""
        return self.value_and_grad(Z)[1]

    def objective(self, Z: Array) -> Array:
        """f(Z) + g(Z), shape (...)."""
        return self.value(Z) + self.regularizer.value(Z)

    def distance(self, Z: Array) -> Array:
        """Distance of Z to first-order optimality, shape (...): that of -∇f(Z) to ∂g(Z)."""
        return self.regularizer.distance(Z, self.grad(Z))

    def start(self, Z: Array) -> Array:
        """The point of the domain of g nearest to Z."""
        return self.regularizer.prox(Z, step=0.0)
