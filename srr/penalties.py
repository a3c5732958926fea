"""What keeps a solution sparse or of bounded size: the penalty g of a problem f(Z) + g(Z), with its prox.

Sparsity is an ℓ1 norm: on the whole space, on the orthant, on the sphere and in a rotated frame. Size is bounded by
a ridge, or by a sphere for every class. Checks are made when a penalty is built; its methods are formulas, which
solvers call with tokens that were checked once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from srr._array.checks import check_array, check_nonnegative
from srr._array.namespace import Array, asarray_like, core_cast, device, epsilon, eye, is_concrete, namespace, to_numpy
from srr.ops.energies import bare_centered_sphere
from srr.ops.sparse import bare_relu_threshold, bare_soft_threshold, bare_unit_soft_threshold

__all__ = [
    "Penalty",
    "SmoothPenalty",
    "UnitL1",
    "L1",
    "NonnegativeL1",
    "ElasticNet",
    "Ridge",
    "ClassSpheres",
    "CenteredSpheres",
    "RotatedPenalty",
]

Step = Array | float
"""A number, or an array that broadcasts against (..., n, d)."""


class Penalty(Protocol):
    """What a proximal solver needs of g."""

    def value(self, Z: Array) -> Array:
        """g(Z) per batch item, shape (...), +inf outside the domain."""

    def prox(self, V: Array, *, step: Step) -> Array:
        """Minimizer of ‖Z - V‖²/2 + step·g(Z), shape of V; with step 0 the projection onto the domain."""

    def distance(self, Z: Array, grad: Array) -> Array:
        """Distance of -grad to the subdifferential of g at Z, per batch item."""


@runtime_checkable
class SmoothPenalty(Penalty, Protocol):
    """A penalty with a gradient, as solvers for smooth problems ask for."""

    def grad(self, Z: Array) -> Array:
        """Gradient of g, shape of Z."""


@dataclass(frozen=True)
class L1:
    r"""Sparsity :math:`\lambda \lVert Z \rVert_1`.

    Args:
        lam: λ ≥ 0, in nats per unit of Z.

    Raises:
        ValueError: lam is negative or not finite.

    Source: [CRATE] (1) with ‖Z‖₀ relaxed to ‖Z‖₁.

    Example:
        >>> import numpy as np
        >>> L1(0.5).prox(np.asarray([[2.0, -0.1]]), step=1.0).tolist()
        [[1.5, 0.0]]
    """

    lam: Step

    def __post_init__(self) -> None:
        check_nonnegative(self.lam, "lam")

    def value(self, Z: Array) -> Array:
        """λ‖Z‖₁ per batch item, shape (...)."""
        return self.lam * absolute_sum(Z)

    def prox(self, V: Array, *, step: Step) -> Array:
        """Soft threshold at step·λ."""
        return bare_soft_threshold(V, _threshold(step, self.lam), namespace(V))

    def distance(self, Z: Array, grad: Array) -> Array:
        """‖grad + λ sign(Z)‖ on the support, what exceeds λ off it."""
        return frobenius_norm(l1_gap(Z, grad, self.lam))


@dataclass(frozen=True, eq=False)
class ElasticNet:
    r"""Sparsity and size, :math:`\sum_{ij} \lambda_i |Z_{ij}| + \tfrac{\rho}{2} \lVert Z \rVert_F^2`.

    With ``off_diagonal`` no entry Z_ii is allowed: the penalty of self-expression, where row i says how token i is
    made of the others.

    Args:
        lam: λ ≥ 0, a number or one for each row, of shape (n, 1).
        ridge: ρ ≥ 0.
        off_diagonal: whether the diagonal of a square Z is kept at zero.

    Raises:
        ValueError: lam or ridge is negative or not finite.

    Source: Zou and Hastie (2005), (3); Elhamifar and Vidal (2013), (5), for the diagonal.

    Example:
        >>> import numpy as np
        >>> ElasticNet(1.0, 1.0).prox(np.asarray([[3.0, -0.5]]), step=1.0).tolist()
        [[1.0, -0.0]]
    """

    lam: Step
    ridge: float = 0.0
    off_diagonal: bool = False

    def __post_init__(self) -> None:
        check_nonnegative(float(self.lam if isinstance(self.lam, int | float) else np.min(to_numpy(self.lam))), "lam")
        check_nonnegative(self.ridge, "ridge")

    def value(self, Z: Array) -> Array:
        """The penalty per batch item, shape (...); +inf where a diagonal entry is not zero and may not be."""
        xp = namespace(Z)
        wide = core_cast(Z, None, xp)
        total = xp.sum(self.lam * xp.abs(wide) + 0.5 * self.ridge * wide**2, axis=(-2, -1))
        if not self.off_diagonal:
            return total
        held = xp.any(xp.linalg.diagonal(Z) != 0, axis=-1)
        return xp.where(held, xp.full_like(total, float("inf")), total)

    def prox(self, V: Array, *, step: Step) -> Array:
        """Soft threshold at step·λ, shrunk by 1 + step·ρ, the diagonal set to zero where it must be."""
        xp = namespace(V)
        return self._masked(bare_soft_threshold(V, _threshold(step, self.lam), xp) / (1.0 + step * self.ridge))

    def distance(self, Z: Array, grad: Array) -> Array:
        """The gap of `L1` for grad + ρZ; any slope will do on a diagonal that is held."""
        return frobenius_norm(self._masked(l1_gap(Z, grad + self.ridge * Z, self.lam)))

    def _masked(self, Z: Array) -> Array:
        xp = namespace(Z)
        return Z * (1.0 - eye(Z.shape[-1], Z, xp)) if self.off_diagonal else Z


@dataclass(frozen=True)
class NonnegativeL1:
    r"""Sparsity of non-negative entries, :math:`\lambda \sum_{ij} Z_{ij}` with :math:`Z \ge 0`.

    Args:
        lam: λ ≥ 0, in nats per unit of Z.

    Raises:
        ValueError: lam is negative or not finite.

    Source: [CRATE] (17), the constraint A ≥ 0 that makes the step a ReLU.
    """

    lam: Step

    def __post_init__(self) -> None:
        check_nonnegative(self.lam, "lam")

    def value(self, Z: Array) -> Array:
        """λ‖Z‖₁, +inf where an entry is negative, shape (...)."""
        xp = namespace(Z)
        total = self.lam * absolute_sum(Z)
        return xp.where(xp.any(Z < 0, axis=(-2, -1)), xp.full_like(total, float("inf")), total)

    def prox(self, V: Array, *, step: Step) -> Array:
        """ReLU of V - step·λ."""
        return bare_relu_threshold(V, _threshold(step, self.lam), namespace(V))

    def distance(self, Z: Array, grad: Array) -> Array:
        """Size of grad + λ where an entry is positive, of its negative part where it is zero."""
        xp = namespace(Z, grad)
        slope = grad + self.lam
        return frobenius_norm(xp.where(Z > 0, slope, xp.minimum(slope, xp.zeros_like(slope))))


@dataclass(frozen=True)
class UnitL1:
    r"""Sparsity on the unit sphere, :math:`\lambda \lVert Z \rVert_1` with :math:`\lVert z_i \rVert_2 = 1`.

    Not convex, yet its prox is exact. With λ = 0 it is the sphere constraint of [MCR2]. The sphere is what
    keeps the sparse rate reduction from running away to a few enormous tokens.

    Args:
        lam: λ ≥ 0, in nats per unit of Z.

    Raises:
        ValueError: lam is negative or not finite.

    Source: [MCR2] (11) for the sphere, [CRATE] (1) for the sparsity; LayerNorm plays its part in the network.
    """

    lam: Step = 0.0

    def __post_init__(self) -> None:
        check_nonnegative(self.lam, "lam")

    def value(self, Z: Array) -> Array:
        """λ‖Z‖₁, +inf where a row is off the sphere by more than √machine epsilon, shape (...)."""
        xp = namespace(Z)
        total = self.lam * absolute_sum(Z)
        off = xp.abs(xp.sum(Z * Z, axis=-1) - 1.0) > 2.0 * epsilon(Z.dtype, xp) ** 0.5
        return xp.where(xp.any(off, axis=-1), xp.full_like(total, float("inf")), total)

    def prox(self, V: Array, *, step: Step) -> Array:
        """Soft threshold at step·λ, then unit length; the signed largest coordinate where nothing is left."""
        return bare_unit_soft_threshold(V, _threshold(step, self.lam), namespace(V))

    def distance(self, Z: Array, grad: Array) -> Array:
        """The same gap as `L1`, with the part along each token removed: that is normal to the sphere."""
        xp = namespace(Z, grad)
        gap = l1_gap(Z, grad, self.lam)
        return frobenius_norm(gap - Z * xp.sum(Z * gap, axis=-1, keepdims=True))


@dataclass(frozen=True, eq=False)
class RotatedPenalty:
    r"""A penalty measured in the frame D, :math:`g(Z D)` with D orthogonal.

    Sparsity in the standard basis fights subspaces that are rotated against it; D aligned with U makes peace.

    Args:
        penalty: g.
        D: orthogonal matrix of shape (d, d), the frame's axes in columns.

    Raises:
        TypeError: D is not a real floating array.
        ValueError: D is not square, or its columns are not orthonormal.

    Source: prox of g∘D for orthogonal D, D·prox(Dᵀz): Parikh and Boyd (2014), (2.2).
    """

    penalty: Penalty
    D: Array

    def __post_init__(self) -> None:
        check_array(self.D, "D", ndim=2)
        if self.D.shape[-1] != self.D.shape[-2]:
            raise ValueError(f"D must be square; got shape {tuple(self.D.shape)}")
        if not is_concrete(self.D):
            return
        xp = namespace(self.D)
        D = core_cast(self.D, None, xp)
        gap = float(xp.max(xp.abs(D.mT @ D - eye(D.shape[-1], D, xp))))
        if gap > 100 * epsilon(self.D.dtype, xp):
            raise ValueError(f"D must have orthonormal columns; got |DᵀD - I| up to {gap:.1e}")

    def value(self, Z: Array) -> Array:
        """g(Z D), shape (...)."""
        return self.penalty.value(self._coordinates(Z))

    def prox(self, V: Array, *, step: Step) -> Array:
        """Prox of g at V D, rotated back."""
        return self.penalty.prox(V @ self.D, step=step) @ self.D.mT

    def distance(self, Z: Array, grad: Array) -> Array:
        """Distance of g at Z D for the rotated gradient."""
        return self.penalty.distance(self._coordinates(Z), grad @ self.D)

    def _coordinates(self, Z: Array) -> Array:
        """Z D, with what only rounding keeps from zero set to zero: a support must survive the way there and back."""
        xp = namespace(Z, self.D)
        Y = Z @ self.D
        rounding = Z.shape[-1] * epsilon(Z.dtype, xp) * xp.linalg.vector_norm(Z, axis=-1, keepdims=True)
        return xp.where(xp.abs(Y) <= rounding, xp.zeros_like(Y), Y)


@dataclass(frozen=True)
class Ridge:
    r"""Energy :math:`\tfrac{\lambda}{2} \lVert Z \rVert_F^2`, a smooth stand-in for a constraint on size.

    Args:
        lam: λ ≥ 0, in nats per squared unit of Z; 0 is no penalty at all.

    Raises:
        ValueError: lam is negative or not finite.

    Source: [GEOM] (5), the regularized MCR² objective.
    """

    lam: Step = 0.0

    def __post_init__(self) -> None:
        check_nonnegative(self.lam, "lam")

    def value(self, Z: Array) -> Array:
        """λ‖Z‖²/2, shape (...)."""
        xp = namespace(Z)
        return 0.5 * self.lam * xp.sum(core_cast(Z, None, xp) ** 2, axis=(-2, -1))

    def grad(self, Z: Array) -> Array:
        """λZ."""
        return self.lam * Z

    def prox(self, V: Array, *, step: Step) -> Array:
        """V / (1 + step·λ)."""
        return V / (1.0 + step * self.lam)

    def distance(self, Z: Array, grad: Array) -> Array:
        """‖grad + λZ‖."""
        return frobenius_norm(grad + self.lam * Z)


@dataclass(frozen=True, eq=False)
class ClassSpheres:
    r"""Every class on its own sphere, :math:`\lVert Z_k \rVert_F^2 = n_k`: the Frobenius constraint of MCR².

    Args:
        labels: integer classes of shape (n,).

    Raises:
        ValueError: labels is not a non-empty vector of integers ≥ 0.

    Source: [MCR2] (11), theorem 2.1.
    """

    labels: Array
    _member: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        y = to_numpy(self.labels)
        xp = namespace(self.labels)
        if y.ndim != 1 or y.size == 0 or y.dtype.kind not in "iu" or y.min() < 0:
            raise ValueError(f"labels must be a vector of integers >= 0; got shape {y.shape}, dtype {y.dtype}")
        member = y[:, None] == to_numpy(
            sorted(set(y.tolist()))
        )  # in the labels' library: a traced step converts nothing
        object.__setattr__(self, "_member", xp.asarray(member.astype(np.float64), device=device(self.labels)))

    def value(self, Z: Array) -> Array:
        """0 on the spheres, +inf where a class is off by more than √machine epsilon, shape (...)."""
        xp = namespace(Z)
        energy, count = self._per_class(xp.sum(Z * Z, axis=-1)), self._per_class(xp.ones_like(Z[..., 0]))
        total = xp.sum(xp.zeros_like(core_cast(Z[..., 0], None, xp)), axis=-1)
        off = xp.abs(energy - count) > 2.0 * epsilon(Z.dtype, xp) ** 0.5 * count
        return xp.where(xp.any(off, axis=-1), xp.full_like(total, float("inf")), total)

    def prox(self, V: Array, *, step: Step) -> Array:
        """Each class scaled to its sphere, whatever the step; a class of zeros goes to equal entries."""
        xp = namespace(V)
        empty = self._per_token(self._per_class(xp.sum(V * V, axis=-1))) == 0
        V = xp.where(empty, xp.ones_like(V), V)
        energy, count = self._per_class(xp.sum(V * V, axis=-1)), self._per_class(xp.ones_like(V[..., 0]))
        return V * self._per_token(xp.sqrt(count / energy))

    def distance(self, Z: Array, grad: Array) -> Array:
        """‖grad‖ with the part along each class removed: that is normal to its sphere."""
        xp = namespace(Z, grad)
        along = self._per_class(xp.sum(Z * grad, axis=-1)) / self._per_class(xp.sum(Z * Z, axis=-1))
        return frobenius_norm(grad - Z * self._per_token(along))

    def _per_class(self, x: Array) -> Array:
        """Sums over the classes: (..., n) to (..., K)."""
        return (x[..., None, :] @ asarray_like(self._member, x))[..., 0, :]

    def _per_token(self, x: Array) -> Array:
        """Each token's class value: (..., K) to (..., n, 1)."""
        return asarray_like(self._member, x) @ x[..., :, None]


@dataclass(frozen=True, eq=False)
class CenteredSpheres:
    r"""Tokens of mean zero and given norms: the set that layer norm maps to, as a constraint.

    A proximal gradient step on it is a gradient step followed by layer norm without scale and shift, and with a step
    of at most 1/L it never raises f: all points of the set have one norm.

    Args:
        radius: r ≥ 0, a number or an array that broadcasts against (..., n, 1).

    Raises:
        ValueError: a number that is negative or not finite.

    Source: the projection onto a sphere within a subspace through its center, :func:`srr.ops.centered_sphere`.

    Example:
        >>> import numpy as np
        >>> CenteredSpheres(1.0).prox(np.asarray([[5.0, 1.0]]), step=1.0).round(4).tolist()
        [[0.7071, -0.7071]]
    """

    radius: Step

    def __post_init__(self) -> None:
        if isinstance(self.radius, int | float):
            check_nonnegative(self.radius, "radius")
        else:
            check_array(self.radius, "radius")

    def value(self, Z: Array) -> Array:
        """0 on the set, +inf where a token is off it by more than √machine epsilon, shape (...)."""
        xp = namespace(Z)
        total = xp.sum(xp.zeros_like(core_cast(Z[..., 0], None, xp)), axis=-1)
        gap = xp.linalg.vector_norm(Z - self.prox(Z, step=0.0), axis=-1, keepdims=True)
        off = gap > epsilon(Z.dtype, xp) ** 0.5 * self.radius
        return xp.where(xp.any(off, axis=(-2, -1)), xp.full_like(total, float("inf")), total)

    def prox(self, V: Array, *, step: Step) -> Array:
        """Nearest point of the set, whatever the step."""
        return bare_centered_sphere(V, self.radius, namespace(V))

    def distance(self, Z: Array, grad: Array) -> Array:
        """‖grad‖ with the mean of each token and the part along it removed: they are normal to the set."""
        xp = namespace(Z, grad)
        gap = grad - xp.mean(grad, axis=-1, keepdims=True)
        size = xp.sum(Z * Z, axis=-1, keepdims=True)
        along = xp.sum(Z * gap, axis=-1, keepdims=True) / xp.where(size > 0, size, xp.ones_like(size))
        return frobenius_norm(gap - Z * along)


def frobenius_norm(gap: Array) -> Array:
    """Frobenius norm of each batch item."""
    xp = namespace(gap)
    gap = core_cast(gap, None, xp)
    return xp.sqrt(xp.sum(gap * gap, axis=(-2, -1)))


def _threshold(step: Step, lam: Step) -> Step:
    """The threshold step·λ; a host number as a float, which promotes no array."""
    threshold = step * lam
    return float(threshold) if isinstance(threshold, int) else threshold


def absolute_sum(Z: Array) -> Array:
    """‖Z‖₁ of each batch item, in the precision of the core."""
    xp = namespace(Z)
    return xp.sum(core_cast(xp.abs(Z), None, xp), axis=(-2, -1))


def l1_gap(Z: Array, grad: Array, lam: Step) -> Array:
    """Smallest element of grad + λ∂‖Z‖₁, entry by entry."""
    xp = namespace(Z, grad)
    return xp.where(
        Z == 0, bare_soft_threshold(grad, _threshold(1.0, lam), xp), xp.where(Z > 0, grad + lam, grad - lam)
    )
