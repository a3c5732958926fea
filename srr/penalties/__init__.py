"""Floor 2: penalties and constraints g(Z), each with its value, its prox and its distance to optimality.

``value(Z)`` and ``distance(Z, grad)`` return one number per batch item, shape (...); ``prox(V, step=t)``
returns an array of the shape of V. The distance is that of -grad to the subdifferential of g at Z in the
Frobenius norm: zero exactly at first-order points of f + g.
"""

from srr.penalties.constraints import ClassSpheres, Ridge
from srr.penalties.protocol import Penalty, SmoothPenalty
from srr.penalties.sparsity import L1, NonnegativeL1, RotatedPenalty, UnitL1

__all__ = [
    "L1",
    "ClassSpheres",
    "NonnegativeL1",
    "Penalty",
    "Ridge",
    "RotatedPenalty",
    "SmoothPenalty",
    "UnitL1",
]
