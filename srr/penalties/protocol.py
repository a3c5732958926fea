"""What a solver may ask of a penalty."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from srr._array import Array, core_cast, namespace

Step = Any
"""A number, or an array that broadcasts against (..., n, d)."""


class Penalty(Protocol):
    """What a proximal solver needs of g."""

    def value(self, Z: Array) -> Array:
        """g(Z) per batch item, shape (...), +inf outside the domain."""

    def prox(self, V: Array, *, step: Step) -> Array:
        """Minimiser of ‖Z - V‖²/2 + step·g(Z), shape of V; with step 0 the projection onto the domain."""

    def distance(self, Z: Array, grad: Array) -> Array:
        """Distance of -grad to the subdifferential of g at Z, per batch item."""


@runtime_checkable
class SmoothPenalty(Protocol):
    """A penalty with a gradient, as solvers for smooth problems ask for."""

    def value(self, Z: Array) -> Array:
        """g(Z) per batch item."""

    def grad(self, Z: Array) -> Array:
        """Gradient of g, shape of Z."""


def frobenius_norm(gap: Array) -> Array:
    """Frobenius norm of each batch item."""
    xp = namespace(gap)
    gap = core_cast(gap, None, xp)
    return xp.sqrt(xp.sum(xp.vecdot(gap, gap, axis=-1), axis=-1))
