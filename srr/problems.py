"""What is solved: f(Z) + g(Z), a smooth part with its gradient and a penalty with its prox.

The sparse rate reduction that CRATE's layers unroll, maximal coding rate reduction with known classes, and what
single halves of a layer are steps on: compression under subspaces, an energy of softmax attention, sparse coding.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, cast

from srr._array.checks import (
    check_array,
    check_bases,
    check_nonnegative,
    check_positive,
    check_same_dtype,
    check_tokens,
)
from srr._array.linalg import bare_gram, inverse_of_factor, shifted, trusted_cholesky
from srr._array.namespace import (
    Array,
    DType,
    Namespace,
    core_cast,
    epsilon,
    eye,
    from_host,
    is_compiling,
    is_concrete,
    is_differentiated,
    is_floating,
    namespace,
)
from srr.ops.energies import bare_softmax_energy, bare_softmax_energy_grad
from srr.ops.rates import (
    bare_rate_reduction_value_and_grad,
    bare_rate_scale,
    bare_sparse_rate_reduction_value_and_grad,
    bare_subspace_coding_rate_smoothness,
    bare_subspace_coding_rate_value_and_grad,
    check_distortion,
    check_partition,
    core_of,
    core_subspace_coding_rate_value_and_grad,
    core_tolerance,
    parts_of,
)
from srr.ops.subspaces import merge_heads
from srr.penalties import Penalty, RotatedPenalty, UnitL1

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # with a default, which typing has from Python 3.13

    G_co = TypeVar("G_co", bound=Penalty, covariant=True, default=UnitL1)
else:
    from typing import TypeVar

    G_co = TypeVar("G_co", bound=Penalty, covariant=True)

__all__ = [
    "Problem",
    "SparseRateReduction",
    "RateReduction",
    "SparseCoding",
    "SubspaceCompression",
    "SoftmaxEnergy",
]

_RTOL = 1e-12  # relative error of a log-determinant above which the second moment is left for the tokens


class Problem(ABC, Generic[G_co]):
    """Minimize f(Z) + g(Z): a smooth part f with its gradient, and a penalty g with its prox.

    A subclass gives ``regularizer``, ``value_and_grad`` and ``smoothness``: the formulas that a step calls, without
    checks, so that they also run traced. Everything else is built on them, and checks its tokens first.

    Values are one number per batch item, shape (...), in the precision of the core (float64 where the library
    has it), so that a line search sees more digits than the tokens carry.
    """

    @property
    @abstractmethod
    def regularizer(self) -> G_co:
        """The penalty g."""

    @abstractmethod
    def value_and_grad(self, Z: Array) -> tuple[Array, Array]:
        """f(Z) of shape (...) and its gradient of shape (..., n, d)."""

    @abstractmethod
    def smoothness(self, Z: Array) -> Array:
        """L such that the gradient of f is L-Lipschitz, an array that broadcasts against (...).

        Depends on Z through its shape only, and on the problem's parameters so that a derivative can be taken.
        """

    def check(self, Z: Array) -> None:
        """Refuse tokens that this problem cannot take."""
        check_tokens(Z)

    def value(self, Z: Array) -> Array:
        """f(Z), shape (...)."""
        self.check(Z)
        return self.value_and_grad(Z)[0]

    def grad(self, Z: Array) -> Array:
        """Gradient of f, shape of Z."""
        self.check(Z)
        return self.value_and_grad(Z)[1]

    def objective(self, Z: Array) -> Array:
        """f(Z) + g(Z), shape (...)."""
        return self.value(Z) + self.regularizer.value(Z)

    def distance(self, Z: Array) -> Array:
        """Distance of Z to first-order optimality, shape (...): that of -∇f(Z) to ∂g(Z)."""
        return self.regularizer.distance(Z, self.grad(Z))

    def start(self, Z: Array) -> Array:
        """The point of the domain of g nearest to Z."""
        self.check(Z)
        return self.regularizer.prox(Z, step=0.0)


class _Penalized(Problem[G_co]):
    """A problem whose penalty is a field."""

    penalty: G_co

    @property
    def regularizer(self) -> G_co:
        """The penalty."""
        return self.penalty


class _OnSubspaces(_Penalized[G_co]):
    """A problem with bases."""

    U: Array

    def check(self, Z: Array) -> None:
        """Refuse tokens that are not real, finite and of the bases' dimension."""
        check_tokens(Z)
        check_bases(self.U, Z.shape[-1])


def _check_heads(x: Array, name: str) -> None:
    if is_concrete(x) and not bool(namespace(x).all(x > 0)):
        raise ValueError(f"{name} must be > 0 for every head")


@dataclass(frozen=True, eq=False)
class SparseRateReduction(_OnSubspaces[G_co]):
    r"""Minimize the negative sparse rate reduction of tokens under known subspaces.

    .. math:: \min_Z \; R^c(Z; U) - R(Z) + g(Z)

    Without a bound on the tokens' size and with λ > 0 the problem is degenerate: its solutions are a few
    enormous tokens. `UnitL1`, the default, keeps every token on the unit sphere.

    Where the subspaces do not fill the space, K·p < d, the solutions leave them: energy outside raises R and costs
    nothing in R^c. ``outside`` charges for it, with P the projector onto the span of all subspaces:

    .. math:: + \; \mu \tfrac{\alpha}{2} \lVert Z (I - P) \rVert_F^2, \quad \alpha = d / (n \varepsilon^2)

    With μ ≥ 1 it never pays to go outside, since R(Z) ≤ R(ZP) + α/2 ‖Z(I - P)‖². `minimize` warns where μ = 0 and
    K·p < d.

    Args:
        U: bases of shape (K, d, p).
        eps: distortion ε > 0.
        penalty: g, for example ``UnitL1(lam)``.
        D: orthogonal frame of shape (d, d) in which g is measured, the standard basis by default.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.
        outside: weight μ ≥ 0 of the energy outside the subspaces; 0 is the problem as published, 1 the least
            that keeps tokens inside.

    Raises:
        TypeError: U or D is not a real floating array.
        ValueError: U does not have three axes, eps is not positive, D is not orthogonal, outside is negative.

    Source: [CRATE] (1); the step 1/L with L = L_c + α/8 + μα follows from the Hessians of its parts. The bound on R
    is Fischer's inequality and log(1 + x) ≤ x.

    Example:
        >>> import numpy as np, srr
        >>> problem = srr.SparseRateReduction(np.eye(4).reshape(4, 2, 2).swapaxes(0, 1), eps=0.5)
        >>> round(float(problem.objective(np.eye(4))), 6)
        -1.021651
    """

    U: Array
    eps: float
    penalty: G_co = field(default_factory=cast("Callable[[], G_co]", UnitL1))
    D: Array | None = None
    core_dtype: DType = None
    outside: float = 0.0
    _measured: G_co = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_bases(self.U)
        object.__setattr__(self, "eps", check_distortion(self.eps))
        check_nonnegative(self.outside, "outside")
        measured = self.penalty if self.D is None else RotatedPenalty(self.penalty, self.D)
        object.__setattr__(self, "_measured", measured)  # in a frame it keeps value, prox and distance, not a gradient

    @property
    def regularizer(self) -> G_co:
        """The penalty, in the frame D when there is one."""
        return self._measured

    def start(self, Z: Array) -> Array:
        """The point of the domain of g nearest to Z; warns where solutions leave the subspaces."""
        nearest = super().start(Z)
        K, d, p = self.U.shape[-3:]
        if self.outside == 0 and K * p < d and not is_compiling(Z):
            warnings.warn(
                f"Solutions leave the subspaces, since K*p={K * p} is less than d={d} and energy outside is free: "
                "give SparseRateReduction outside=1.",
                stacklevel=3,  # the line that called minimize
            )
        return nearest

    def value_and_grad(self, Z: Array) -> tuple[Array, Array]:
        """R^c - R, with what lies outside, and its gradient; with n > d the second moment is enough."""
        xp = namespace(Z, self.U)
        A, U = core_cast(Z, self.core_dtype, xp), core_cast(self.U, self.core_dtype, xp)
        rtol = core_tolerance(A, A, xp)
        found = _from_moment(A, U, self.eps, max(_RTOL, rtol), xp) if A.shape[-2] > A.shape[-1] else None
        if found is None:
            value, grad = bare_sparse_rate_reduction_value_and_grad(A, U, self.eps, rtol, xp)
            found = -value, -grad
        value, grad = found
        if self.outside > 0:
            weight = self.outside * bare_rate_scale(A.shape[-2], A.shape[-1], self.eps)
            off = outside_of(A, U, xp)
            value, grad = value + 0.5 * weight * xp.sum(off * off, axis=(-2, -1)), grad + weight * off
        return value, xp.astype(grad, Z.dtype, copy=False)

    def smoothness(self, Z: Array) -> Array:
        """L_c + α/8 + μα with L_c = β‖Σ U_kU_kᵀ‖₂."""
        xp = namespace(Z, self.U)
        alpha = bare_rate_scale(Z.shape[-2], Z.shape[-1], self.eps)
        compressed = bare_subspace_coding_rate_smoothness(Z.shape[-2], self.U, self.eps, xp)
        return compressed + (0.125 + self.outside) * alpha


def outside_of(A: Any, U: Any, xp: Namespace) -> Any:
    """Part of the tokens orthogonal to all subspaces, Z(I - P) with P = W(WᵀW)⁻¹Wᵀ and W = [U_1 … U_K].

    The Gram matrix is shifted by its rounding error, so that subspaces may share directions and have zero columns.
    """
    W = merge_heads(U, xp)
    inner = bare_gram(W, xp)
    tiny = epsilon(W.dtype, xp) * xp.sum(W * W, axis=(-2, -1))[..., None, None]
    return A - (A @ W) @ xp.linalg.solve(inner + tiny * eye(inner.shape[-1], inner, xp), W.mT)


def _from_moment(A: Any, U: Any, eps: float, rtol: float, xp: Namespace) -> tuple[Any, Any] | None:
    """Everything from G = ZᵀZ: V_kᵀV_k = U_kᵀGU_k, and both gradients are Z times one symmetric d×d matrix.

    One Gram and one product with the tokens, instead of one Gram, K projections and n triangular solves. None
    where G has lost the digits, and where a derivative may be asked for.
    """
    if is_differentiated(A, U) and not is_compiling(A):
        return None
    n, d = A.shape[-2:]
    alpha, beta = (bare_rate_scale(n, p, eps) for p in (d, U.shape[-1]))
    G = bare_gram(A, xp)
    whole = trusted_cholesky(shifted(G, alpha, xp), rtol, xp)
    heads = None if whole is None else trusted_cholesky(shifted(U.mT @ (G[..., None, :, :] @ U), beta, xp), rtol, xp)
    if whole is None or heads is None:
        return None
    compress = beta * xp.sum(U @ (inverse_of_factor(heads[0], xp) @ U.mT), axis=-3)
    value = 0.5 * (xp.sum(heads[1], axis=-1) - whole[1])
    return value, A @ (compress - alpha * inverse_of_factor(whole[0], xp))


@dataclass(frozen=True, eq=False)
class RateReduction(_Penalized[G_co]):
    r"""Minimize the negative coding rate reduction of tokens with known membership (MCR²).

    .. math:: \min_Z \; R^c(Z \mid \Pi) - R(Z) + g(Z)

    The rates grow with the tokens, so g has to bound them: ``ClassSpheres(labels)`` is the Frobenius
    constraint ‖Z_k‖² = n_k, ``UnitL1()`` the unit sphere for every token, ``Ridge(lam)`` the regularized
    form, whose maximizers are known in closed form.

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
    penalty: G_co
    core_dtype: DType = None
    _parts: dict[tuple[Any, ...], Any] = field(init=False, repr=False, default_factory=dict)  # by the kind of tokens

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", check_distortion(self.eps))

    def check(self, Z: Array) -> None:
        """Refuse tokens that are not real and finite, or not as many as the memberships."""
        check_tokens(Z)
        check_partition(self.Pi, Z, namespace(Z, self.Pi))

    def value_and_grad(self, Z: Array) -> tuple[Array, Array]:
        """R^c - R and its gradient."""
        xp = namespace(Z)
        soft = self.Pi if is_floating(self.Pi, namespace(self.Pi)) else None
        A, parts, (rtol, wide, core) = core_of(Z, self.core_dtype, xp, soft, mixed=soft is None)
        parts = self._parts_of(A) if parts is None else parts
        value, grad = bare_rate_reduction_value_and_grad(A, parts, self.eps, rtol, core, wide)
        return from_host(-value, Z), xp.astype(from_host(-grad, Z), Z.dtype, copy=False)

    def _parts_of(self, A: Array) -> Any:
        """The labels, which are sorted once for all tokens of one shape in one library."""
        key = (type(A), *A.shape)
        if key not in self._parts:
            self._parts[key] = parts_of(self.Pi, A)
        return self._parts[key]

    def smoothness(self, Z: Array) -> Array:
        """The constant 9α/8, since the compressed rate has curvature at most α and -R at most α/8."""
        xp = namespace(Z)
        return (
            9.0
            / 8.0
            * bare_rate_scale(Z.shape[-2], Z.shape[-1], self.eps)
            * xp.ones_like(core_cast(Z[..., 0, 0], self.core_dtype, xp))
        )


@dataclass(frozen=True, eq=False)
class SparseCoding(_Penalized[G_co]):
    r"""Minimize the lasso over the codes A of shape (..., n, m).

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
    penalty: G_co

    def __post_init__(self) -> None:
        check_tokens(self.Z)
        check_array(self.D, "D")
        check_same_dtype(Z=self.Z, D=self.D)
        if self.D.ndim != 2 or self.D.shape[0] != self.Z.shape[-1]:
            raise ValueError(f"D must have shape (d, m) with d={self.Z.shape[-1]}; got {tuple(self.D.shape)}")

    def check(self, A: Array) -> None:
        """Refuse codes that are not real and finite, or not one of m numbers for every token."""
        check_array(A, "A")
        if A.shape[-2] != self.Z.shape[-2] or A.shape[-1] != self.D.shape[-1]:
            wanted = f"(..., n, m) with n={self.Z.shape[-2]}, m={self.D.shape[-1]}"
            raise ValueError(f"A must have shape {wanted}; got {tuple(A.shape)}")

    def value_and_grad(self, A: Array) -> tuple[Array, Array]:
        """Half the squared residual, shape (...), and (A Dᵀ - Z) D."""
        xp = namespace(A, self.Z, self.D)
        error = A @ self.D.mT - self.Z
        value = 0.5 * xp.sum(core_cast(error, None, xp) ** 2, axis=(-2, -1))
        return value, error @ self.D

    def smoothness(self, A: Array) -> Array:
        """‖D‖₂², the same for every A."""
        xp = namespace(A, self.D)
        return xp.linalg.svdvals(core_cast(self.D, None, xp))[..., 0] ** 2


@dataclass(frozen=True, eq=False)
class SubspaceCompression(_OnSubspaces[G_co]):
    r"""Minimize the coding rate of tokens under known subspaces, without the expansion.

    .. math:: \min_Z \; R^c(Z; U) + g(Z)

    Without a constraint on the tokens' size the solution is zero: with :class:`srr.penalties.CenteredSpheres` this is
    what the compressing half of ``block="crate_descent"`` is a step on.

    Args:
        U: bases of shape (K, d, p).
        eps: distortion ε > 0, a number or one for each head, (K,).
        penalty: g.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.

    Raises:
        TypeError: U is not a real floating array.
        ValueError: U does not have three axes, an eps is not positive.

    Source: [CRATE] (8)-(10), the compressing half of the objective.

    Example:
        >>> import numpy as np, srr
        >>> U = np.eye(4).reshape(4, 2, 2).swapaxes(0, 1)
        >>> problem = srr.problems.SubspaceCompression(U, 0.5, srr.penalties.CenteredSpheres(1.0))
        >>> Z = problem.start(np.eye(4))
        >>> found = srr.minimize(problem, Z, srr.ProximalGradient(srr.FixedStep()), max_steps=9)
        >>> bool(problem.objective(found.Z) < problem.objective(Z))
        True
    """

    U: Array
    eps: Array | float
    penalty: G_co
    core_dtype: DType = None

    def __post_init__(self) -> None:
        check_bases(self.U)
        if isinstance(self.eps, int | float) or self.eps.ndim == 0:
            check_positive(self.eps, "eps")
            return
        check_array(self.eps, "eps", ndim=1)
        if self.eps.shape[-1] != self.U.shape[-3]:
            raise ValueError(f"eps must have one number for each of {self.U.shape[-3]} heads; got {self.eps.shape}")
        _check_heads(self.eps, "eps")

    def value_and_grad(self, Z: Array) -> tuple[Array, Array]:
        """R^c and its gradient."""
        xp = namespace(Z, self.U)
        eps = self._distortion(xp)
        if isinstance(eps, int | float):
            value, grad = core_subspace_coding_rate_value_and_grad(Z, self.U, eps, self.core_dtype, xp)
            return from_host(value, Z), xp.astype(from_host(grad, Z), Z.dtype, copy=False)
        A, U = (core_cast(X, self.core_dtype, xp) for X in (Z, self.U))
        value, grad = bare_subspace_coding_rate_value_and_grad(A, U, eps, core_tolerance(Z, A, xp), xp)
        return value, xp.astype(grad, Z.dtype, copy=False)

    def smoothness(self, Z: Array) -> Array:
        """‖Σ β_k U_kU_kᵀ‖₂ with β_k = p/(n ε_k²), the same for every Z of one shape."""
        xp = namespace(Z, self.U)
        scale = bare_rate_scale(Z.shape[-2], self.U.shape[-1], self._distortion(xp))
        return _weighted_norm(core_cast(self.U, self.core_dtype, xp), scale, xp)

    def _distortion(self, xp: Namespace) -> Array | float:
        eps = self.eps
        return eps if isinstance(eps, int | float) else core_cast(eps, self.core_dtype, xp)


@dataclass(frozen=True, eq=False)
class SoftmaxEnergy(_OnSubspaces[G_co]):
    r"""Minimize an energy whose gradient is softmax attention over given keys.

    .. math:: \min_Z \; \sum_k \frac{\sigma_k}{s_k} \sum_i \log \sum_j \exp(s_k \langle U_k^\top z_i, y_{kj} \rangle)
              + g(Z)

    What the compressing half of ``block="crate_energy"`` is a step on, with the keys of its input.

    Args:
        U: bases of shape (K, d, p).
        Y: keys of every head, shape (..., K, m, p).
        weights: σ of either sign, shape (K,).
        scales: s > 0, shape (K,).
        penalty: g.
        mask: boolean, broadcasts against (..., K, n, m), True where a token sees a key.

    Raises:
        TypeError: U or Y is not a real floating array.
        ValueError: shapes that do not fit, a scale that is not positive.

    Source: :func:`srr.ops.softmax_energy`.
    """

    U: Array
    Y: Array
    weights: Array
    scales: Array
    penalty: G_co
    mask: Array | None = None

    def __post_init__(self) -> None:
        check_bases(self.U)
        check_array(self.Y, "Y", ndim=3)
        check_same_dtype(U=self.U, Y=self.Y, weights=self.weights, scales=self.scales)
        if tuple(self.weights.shape) != tuple(self.scales.shape) or self.weights.shape[-1] != self.U.shape[-3]:
            raise ValueError(f"weights and scales must have shape ({self.U.shape[-3]},), one number for each head")
        _check_heads(self.scales, "scales")

    def value_and_grad(self, Z: Array) -> tuple[Array, Array]:
        """The energy, shape (...), and Σ σ_k softmax(s_k V_k Y_kᵀ) Y_k U_kᵀ."""
        xp = namespace(Z, self.U)
        given = (Z, self.U, self.Y, self.weights, self.scales, self.mask)
        return core_cast(bare_softmax_energy(*given, xp), None, xp), bare_softmax_energy_grad(*given, xp)

    def smoothness(self, Z: Array) -> Array:
        """‖Σ abs(σ_k) s_k r_k² U_kU_kᵀ‖₂ with r_k the largest norm of a key: no softmax has a covariance above r_k²."""
        xp = namespace(Z, self.U)
        reach = xp.max(xp.sum(self.Y * self.Y, axis=-1), axis=-1)  # (..., K)
        return _weighted_norm(self.U, xp.abs(self.weights) * self.scales * reach, xp)


def _weighted_norm(U: Array, weights: Array | float, xp: Namespace) -> Array:
    """‖Σ w_k U_kU_kᵀ‖₂ for weights w_k ≥ 0, a number or of shape (..., K)."""
    if not isinstance(weights, int | float) and weights.ndim:
        weights = weights[..., None, None]
    total = xp.sum(weights * (U @ U.mT), axis=-3)
    return xp.max(xp.linalg.eigvalsh(total), axis=-1)
