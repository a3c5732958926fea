"""What keeps tokens at a finite size: a ridge, or a sphere for every class."""

from __future__ import annotations

from dataclasses import dataclass, field

from srr._array import Array, asarray_like, core_cast, epsilon, namespace, to_numpy
from srr._checks import check_nonnegative
from srr.penalties.protocol import Step, frobenius_norm


@dataclass(frozen=True)
class Ridge:
    r"""Energy :math:`\tfrac{\lambda}{2} \lVert Z \rVert_F^2`, a smooth stand-in for a constraint on size.

    Args:
        lam: λ ≥ 0, in nats per squared unit of Z; 0 is no penalty at all.

    Raises:
        ValueError: lam is negative or not finite.

    Source: [GEOM] (5), the regularised MCR² objective.
    """

    lam: float = 0.0

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
        if y.ndim != 1 or y.size == 0 or y.dtype.kind not in "iu" or y.min() < 0:
            raise ValueError(f"labels must be a vector of integers >= 0; got shape {y.shape}, dtype {y.dtype}")
        object.__setattr__(self, "_member", (y[:, None] == to_numpy(sorted(set(y.tolist())))).astype(float))

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
