"""The problem that CRATE's layers unroll: many bits for all tokens, few for each subspace, few non-zeros."""

from __future__ import annotations

from dataclasses import dataclass, field

from srr._array import Array, DType, Namespace, cholesky, cholesky_solve, core_cast, eye, namespace
from srr._checks import check_bases, check_positive, check_tokens
from srr.ops import (
    coding_rate_value_and_grad,
    gram,
    rate_scale,
    sparse_rate_reduction_smoothness,
    subspace_coding_rate_value_and_grad,
)
from srr.penalties import Penalty, RotatedPenalty, UnitL1
from srr.problems.protocol import Problem


@dataclass(frozen=True, eq=False)
class SparseRateReduction(Problem):
    r"""Minimise the negative sparse rate reduction of tokens under known subspaces.

    .. math:: \min_Z \; R^c(Z; U) - R(Z) + g(Z)

    Without a bound on the tokens' size and with λ > 0 the problem is degenerate: its solutions are a few
    enormous tokens. `UnitL1`, the default, keeps every token on the unit sphere.

    Args:
        U: bases of shape (K, d, p).
        eps: distortion ε > 0.
        penalty: g, for example ``UnitL1(lam)``.
        D: orthogonal frame of shape (d, d) in which g is measured, the standard basis by default.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.

    Raises:
        TypeError: U or D is not a real floating array.
        ValueError: U does not have three axes, eps is not positive, D is not orthogonal.

    Source: [CRATE] (1); the step 1/L with L = L_c + α/8 follows from the Hessians of its two rates.

    Example:
        >>> import numpy as np, srr
        >>> problem = srr.SparseRateReduction(np.eye(4).reshape(4, 2, 2).swapaxes(0, 1), eps=0.5)
        >>> round(float(problem.objective(np.eye(4))), 6)
        -1.021651
    """

    U: Array
    eps: float
    penalty: Penalty = field(default_factory=UnitL1)
    D: Array | None = None
    core_dtype: DType = None
    _measured: Penalty = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_bases(self.U)
        check_positive(self.eps, "eps")
        measured = self.penalty if self.D is None else RotatedPenalty(self.penalty, self.D)
        object.__setattr__(self, "_measured", measured)

    @property
    def regularizer(self) -> Penalty:
        """The penalty, in the frame D when there is one."""
        return self._measured

    def value_and_grad(self, Z: Array) -> tuple[Array, Array]:
        """R^c - R and its gradient; more tokens than dimensions go through the second moment alone."""
        xp = namespace(Z, self.U)
        check_tokens(Z, xp=xp)
        check_bases(self.U, Z.shape[-1], xp=xp)
        A, U = core_cast(Z, self.core_dtype, xp), core_cast(self.U, self.core_dtype, xp)
        found = _from_moment(A, U, self.eps, xp) if A.shape[-2] > A.shape[-1] else None
        value, grad = found or _from_tokens(A, U, self.eps, self.core_dtype, xp)
        return value, xp.astype(grad, Z.dtype, copy=False)

    def smoothness(self, Z: Array) -> float:
        """L_c + α/8 with L_c = β‖Σ U_kU_kᵀ‖₂."""
        xp = namespace(Z, self.U)
        return float(xp.max(sparse_rate_reduction_smoothness(Z, self.U, eps=self.eps, xp=xp)))


def _from_tokens(A: Array, U: Array, eps: float, core_dtype: DType, xp: Namespace) -> tuple[Array, Array]:
    """The reference path: the two operators of the library, one after the other."""
    compress, compress_grad = subspace_coding_rate_value_and_grad(A, U, eps=eps, core_dtype=core_dtype, xp=xp)
    expand, expand_grad = coding_rate_value_and_grad(A, eps=eps, core_dtype=core_dtype, xp=xp)
    return compress - expand, compress_grad - expand_grad


def _from_moment(A: Array, U: Array, eps: float, xp: Namespace) -> tuple[Array, Array] | None:
    """Everything from G = ZᵀZ: V_kᵀV_k = U_kᵀGU_k, and both gradients are Z times one symmetric d×d matrix.

    One Gram and one product with the tokens, instead of one Gram, K projections and n triangular solves. None
    where a Cholesky factor does not exist at this precision.
    """
    d, p = U.shape[-2:]
    alpha = rate_scale(A, eps=eps)
    beta = alpha * p / d
    G = gram(A, xp=xp)
    whole = cholesky(eye(d, A, xp) + alpha * G, xp)
    heads = cholesky(eye(p, A, xp) + beta * (U.mT @ (G[..., None, :, :] @ U)), xp)
    if whole is None or heads is None:
        return None
    compress = beta * xp.sum(U @ cholesky_solve(heads, xp.broadcast_to(U.mT, (*heads.shape[:-1], d)), xp), axis=-3)
    expand = alpha * cholesky_solve(whole, xp.broadcast_to(eye(d, A, xp), whole.shape), xp)
    value = xp.sum(_half_logdet(heads, xp), axis=-1) - _half_logdet(whole, xp)
    return value, A @ (compress - expand)


def _half_logdet(L: Array, xp: Namespace) -> Array:
    return xp.sum(xp.log(xp.linalg.diagonal(L)), axis=-1)
