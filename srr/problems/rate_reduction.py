"""Maximal coding rate reduction with known classes."""

from __future__ import annotations

from dataclasses import dataclass

from srr._array import Array, DType, core_cast, is_floating, namespace
from srr._checks import check_positive
from srr.ops import rate_reduction_value_and_grad, rate_scale
from srr.penalties import Penalty
from srr.problems.protocol import Problem


@dataclass(frozen=True, eq=False)
class RateReduction(Problem):
    r"""Minimise the negative coding rate reduction of tokens with known membership (MCR²).

    .. math:: \min_Z \; R^c(Z \mid \Pi) - R(Z) + g(Z)

    The rates grow with the tokens, so g has to bound them: ``ClassSpheres(labels)`` is the Frobenius
    constraint ‖Z_k‖² = n_k, ``UnitL1()`` the unit sphere for every token, ``Ridge(lam)`` the regularised
    form, whose maximisers are known in closed form.

    Args:
        Pi: membership weights of shape (..., n, K) whose rows sum to one, or integer labels (..., n).
        eps: distortion ε > 0.
        penalty: g.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.

    Raises:
        ValueError: eps is not positive.

    Source: [MCR2] (8) and (11), [GEOM] (5).

    Example:
        >>> import numpy as np, srr
        >>> problem = srr.RateReduction(np.asarray([0, 1]), eps=0.5, penalty=srr.Ridge(0.1))
        >>> round(float(problem.value(np.eye(2))), 6)
        -0.510826
    """

    Pi: Array
    eps: float
    penalty: Penalty
    core_dtype: DType = None

    def __post_init__(self) -> None:
        check_positive(self.eps, "eps")

    @property
    def regularizer(self) -> Penalty:
        """The penalty."""
        return self.penalty

    def value_and_grad(self, Z: Array) -> tuple[Array, Array]:
        """R^c - R and its gradient."""
        xp = namespace(Z)
        A = core_cast(Z, self.core_dtype, xp)
        Pi = core_cast(self.Pi, self.core_dtype, xp) if is_floating(self.Pi, namespace(self.Pi)) else self.Pi
        value, grad = rate_reduction_value_and_grad(A, Pi, eps=self.eps, core_dtype=self.core_dtype, xp=xp)
        return -value, xp.astype(-grad, Z.dtype, copy=False)

    def smoothness(self, Z: Array) -> float:
        """The constant 9α/8, since the compressed rate has curvature at most α and -R at most α/8."""
        return 9.0 / 8.0 * float(rate_scale(Z, eps=self.eps))
