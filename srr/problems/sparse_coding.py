"""Sparse codes of given tokens in a given dictionary."""

from __future__ import annotations

from dataclasses import dataclass

from srr._array import Array, core_cast, namespace
from srr._checks import check_array, check_same_dtype, check_tokens
from srr.penalties import Penalty
from srr.problems.protocol import Problem


@dataclass(frozen=True, eq=False)
class SparseCoding(Problem):
    r"""Minimise the lasso over the codes A of shape (..., n, m).

    .. math:: \min_A \; \tfrac12 \lVert Z - A D^\top \rVert_F^2 + g(A)

    Args:
        Z: tokens of shape (..., n, d).
        D: dictionary of shape (d, m), atoms in columns; overcomplete when m > d.
        penalty: g, `NonnegativeL1` for the codes of a CRATE layer, `L1` for the ordinary lasso.

    Raises:
        TypeError: Z or D is not a real floating array, or their dtypes differ.
        ValueError: D does not have the d of Z, NaN or infinity.

    Source: [CRATE] (17), with the ½ that (15)-(16) leave out.

    Example:
        >>> import numpy as np, srr
        >>> problem = srr.SparseCoding(np.asarray([[3.0, 0.5]]), np.eye(2), srr.NonnegativeL1(1.0))
        >>> srr.minimize(problem, np.zeros((1, 2)), srr.ProximalGradient()).Z.tolist()
        [[2.0, 0.0]]
    """

    Z: Array
    D: Array
    penalty: Penalty

    def __post_init__(self) -> None:
        check_tokens(self.Z)
        check_array(self.D, "D")
        check_same_dtype(Z=self.Z, D=self.D)
        if self.D.ndim != 2 or self.D.shape[0] != self.Z.shape[-1]:
            raise ValueError(f"D must have shape (d, m) with d={self.Z.shape[-1]}; got {tuple(self.D.shape)}")

    @property
    def regularizer(self) -> Penalty:
        """The penalty."""
        return self.penalty

    def value_and_grad(self, A: Array) -> tuple[Array, Array]:
        """Half the squared residual, shape (...), and (A Dᵀ - Z) D."""
        xp = namespace(A, self.Z, self.D)
        error = A @ self.D.mT - self.Z
        value = 0.5 * xp.sum(core_cast(error, None, xp) ** 2, axis=(-2, -1))
        return value, error @ self.D

    def smoothness(self, A: Array) -> float:
        """‖D‖₂², the same for every A."""
        xp = namespace(A, self.D)
        return float(xp.max(xp.linalg.svdvals(core_cast(self.D, None, xp))) ** 2)
