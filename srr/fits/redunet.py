"""ReduNet: projected gradient ascent on the rate reduction of labeled tokens, kept as a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from srr._array.checks import check_count, check_nonnegative, check_positive
from srr._array.namespace import Array, ArrayT, DType, Namespace, namespace
from srr.ops.rates import rate_scale
from srr.ops.redunet import (
    ReduNetOperators,
    circular_convolution,
    compression_norms,
    redunet_increment,
    redunet_operators,
    to_sphere,
)
from srr.solvers.driver import Observation, Solution, minimize, unroll
from srr.solvers.proximal import FixedStep

FloatArray = np.ndarray[Any, np.dtype[np.float64]]
MEMBERSHIPS = ("labels", "estimated")


@dataclass(frozen=True, eq=False)
class SphereRateReduction:
    r"""Rate reduction of labeled tokens on the unit sphere, the problem that a ReduNet is unrolled from.

    .. math:: \min_Z \; R^c(Z \mid \Pi) - R(Z) \quad\text{subject to}\quad \lVert z_i \rVert = 1

    Args:
        Pi: integer labels of shape (n,), or membership weights of shape (..., n, K) whose rows sum to one.
        eps: distortion ε > 0.
        shift_axes: 0 for vectors; 1 or 2 for signals whose circular shifts belong to their class.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.

    Raises:
        ValueError: eps is not positive.

    Source: [REDU] (9), (34).
    """

    Pi: Array
    eps: float
    shift_axes: int = 0
    core_dtype: DType = None

    def __post_init__(self) -> None:
        check_positive(self.eps, "eps")

    def start(self, Z: Array) -> Array:
        """Tokens on the sphere."""
        return to_sphere(Z, shift_axes=self.shift_axes)

    def operators(self, Z: Array) -> ReduNetOperators:
        """E, C_k and the rate reduction at Z."""
        return redunet_operators(Z, self.Pi, eps=self.eps, shift_axes=self.shift_axes, core_dtype=self.core_dtype)

    def alpha(self, Z: Array) -> float:
        """α = d/(n ε²), with d the channels of signals."""
        n, d = Z.shape[Z.ndim - self.shift_axes - 2 :][:2]
        return float(rate_scale(n, d, eps=self.eps))

    def smoothness(self, Z: Array) -> float:
        """The constant 9α/8, since the compressed rate has curvature at most α and -R at most α/8."""
        return 9.0 / 8.0 * self.alpha(Z)


class ReduNetState(NamedTuple):
    """State at Z: objective -ΔR, norm of the gradient along the sphere, the operators and the increment at Z."""

    objective: Array
    residual: Array
    operators: ReduNetOperators
    increment: Array


@dataclass(frozen=True)
class ReduNet:
    r"""Ascent on the rate reduction along the sphere; every step is a layer.

    .. math:: Z \leftarrow \operatorname{normalize}\Bigl(Z + \eta \bigl(Z E - \sum_k \gamma_k \Pi_k Z C_k\bigr)\Bigr)

    On the sphere the normalized step maximizes the gradient's linear model less ‖ΔZ‖²/(2η), so it never lowers
    ΔR as long as 1/η is at least the curvature 9α/8: that η = 8nε²/(9d) is the default.

    With ``membership="estimated"`` the operators are those of the labels, but the tokens move by the membership that
    the operators give them, as tokens without labels do and as the released code moves its training tokens; ΔR may
    then fall.

    Args:
        rule: `FixedStep` of length η, 8/(9α) by default.
        membership: ``"labels"`` or ``"estimated"``.
        sharpness: λ ≥ 0 of the estimated membership.

    Raises:
        ValueError: another membership, or sharpness negative.

    Source: [REDU] (13)-(15); (19) for the estimate.
    """

    rule: FixedStep = field(default_factory=FixedStep)
    membership: str = "labels"
    sharpness: float = 100.0

    def __post_init__(self) -> None:
        if self.membership not in MEMBERSHIPS:
            raise ValueError(f"membership must be one of {MEMBERSHIPS}; got {self.membership!r}")
        check_nonnegative(self.sharpness, "sharpness")

    def init(self, problem: SphereRateReduction, Z: Array) -> ReduNetState:
        """State at the first tokens."""
        xp = namespace(Z)
        made = problem.operators(Z)
        known = problem.Pi if self.membership == "labels" else None
        move = redunet_increment(Z, made, known, sharpness=self.sharpness, shift_axes=problem.shift_axes, xp=xp)
        axes = tuple(range(-1 - problem.shift_axes, 0))
        along = move - xp.sum(move * Z, axis=axes, keepdims=True) * Z
        residual = xp.sqrt(xp.sum(along**2, axis=(axes[0] - 1, *axes)))
        return ReduNetState(-made.rate_reduction, residual, made, move)

    def step(self, problem: SphereRateReduction, Z: Array, state: ReduNetState) -> tuple[Array, ReduNetState]:
        """Tokens after one layer, and their state."""
        Z = to_sphere(Z + self.rule.length(problem, Z) * state.increment, shift_axes=problem.shift_axes)
        return Z, self.init(problem, Z)


@dataclass(frozen=True, eq=False)
class ReduNetLayer:
    """One layer on tokens without labels: their membership is estimated from the operators.

    Args:
        operators: E, C and γ of the training tokens at this depth.
        step: η > 0.
        sharpness: λ ≥ 0 of the estimated membership.
        shift_axes: number of trailing shift axes.
    """

    operators: ReduNetOperators
    step: Array | float
    sharpness: float
    shift_axes: int

    def __call__(self, Z: Array) -> Array:
        """Tokens after the layer, on the sphere."""
        move = redunet_increment(Z, self.operators, sharpness=self.sharpness, shift_axes=self.shift_axes)
        return to_sphere(Z + self.step * move, shift_axes=self.shift_axes)


@dataclass(frozen=True, eq=False)
class ReduNetwork:
    """A built ReduNet: layers, and the operators of the final training tokens for the decision.

    Args:
        layers: one `ReduNetLayer` a step.
        readout: operators of the training tokens after the last layer.
        alpha: d/(n ε²) of the training tokens.
        shift_axes: number of trailing shift axes.
        solution: the training tokens after the last layer, and -ΔR by layer in its history.
    """

    layers: tuple[ReduNetLayer, ...]
    readout: ReduNetOperators
    alpha: float
    shift_axes: int
    solution: Solution[Array]

    @property
    def rate_reduction(self) -> Array:
        """ΔR of the training tokens before the first layer and after each, shape (depth + 1, ...), in nats."""
        return -self.solution.history.objective

    def __call__(self, Z: Array) -> Array:
        """Features of tokens that have no label: onto the sphere, then layer by layer."""
        return unroll(self.layers, to_sphere(Z, shift_axes=self.shift_axes))

    def class_residuals(self, Z: Array) -> Array:
        r"""What each class leaves unexplained of each token's features, :math:`\lVert C_k z \rVert / \alpha_k`.

        A soft nearest-subspace distance in [0, 1] that needs no rank; unchanged by circular shifts of signals.

        Args:
            Z: tokens of shape (..., n, d), or signals, of the size the network was built on.

        Returns:
            Array of shape (..., n, K); infinite for a class without tokens.
        """
        xp = namespace(Z)
        return self._residuals(self(Z), self.readout, xp)

    def residuals_by_layer(self, Z: Array) -> Iterator[Array]:
        """`class_residuals` of the network cut off after 0, 1, … layers, from one pass of the tokens.

        Args:
            Z: tokens of shape (..., n, d), or signals, of the size the network was built on.

        Yields:
            Arrays of shape (..., n, K), depth + 1 of them.
        """
        xp = namespace(Z)
        Z = to_sphere(Z, shift_axes=self.shift_axes)
        for layer in self.layers:
            yield self._residuals(Z, layer.operators, xp)
            Z = layer(Z)
        yield self._residuals(Z, self.readout, xp)

    def _residuals(self, features: Array, operators: ReduNetOperators, xp: Namespace) -> Array:
        norms = compression_norms(features, operators.C, shift_axes=self.shift_axes, xp=xp)
        share = operators.proportions[..., None, :]
        return xp.where(share > 0, norms * share / self.alpha, xp.full_like(norms, xp.inf))


def build_redunet(
    Z: Array,
    Pi: Array,
    *,
    eps: float,
    depth: int,
    step: float | None = None,
    sharpness: float = 100.0,
    membership: str = "labels",
    shift_axes: int = 0,
    core_dtype: DType = None,
) -> ReduNetwork:
    r"""Build a ReduNet forward from labeled tokens: no back-propagation, one ascent step a layer.

    .. math:: \max_Z \; \Delta R(Z \mid \Pi) \quad\text{subject to}\quad \lVert z_i \rVert = 1

    The training tokens move by their labels, so that each layer is an exact step of the ascent; tokens without
    labels move by the membership that the operators give them. With ``membership="estimated"`` the training tokens
    do, too, as in the released code: their features are then those of the network, and ΔR may fall.

    Args:
        Z: training tokens of shape (n, d), or signals (n, C, T) or (n, C, H, W).
        Pi: integer labels of shape (n,), or membership weights of shape (n, K) whose rows sum to one.
        eps: distortion ε > 0, to be compared with the unit norm of the tokens.
        depth: number of layers ≥ 0.
        step: η > 0; None for the largest step that is sure to raise ΔR, 8/(9α).
        sharpness: λ ≥ 0 of the estimated membership, per unit of ‖C_k z‖.
        membership: by what the training tokens move: ``"labels"`` or ``"estimated"``.
        shift_axes: 0 for vectors; 1 or 2 for signals whose circular shifts belong to their class.
        core_dtype: dtype of the Gram matrices and their factors; float64 by default.

    Returns:
        The `ReduNetwork`: call it on tokens for their features, ask it for ``class_residuals``.

    Raises:
        TypeError: Z is not a real floating array, Pi neither floating nor integer, depth not an integer.
        ValueError: sizes that do not fit, NaN or infinity, a parameter outside its range.

    Source: [REDU] Algorithm 1 for vectors, Algorithm 2 for signals.

    Example:
        >>> import numpy as np, srr
        >>> rng, labels = np.random.default_rng(0), np.repeat([0, 1], 50)
        >>> Z = np.eye(3)[labels] + 0.2 * rng.standard_normal((100, 3))
        >>> network = srr.fits.build_redunet(Z, labels, eps=0.5, depth=10)
        >>> bool(np.all(np.diff(network.rate_reduction) > 0))
        True
        >>> int((network.class_residuals(Z).argmin(-1) == labels).sum())
        100
    """
    check_count(depth, "depth", least=0)
    solver = ReduNet(FixedStep(step), membership, sharpness)
    problem = SphereRateReduction(Pi, eps, shift_axes, core_dtype)
    made: list[ReduNetOperators] = []

    def keep(seen: Observation[Array, ReduNetState]) -> None:
        made.append(seen.state.operators)

    solution = minimize(problem, Z, solver, tol=0.0, max_steps=depth, callbacks=[keep])
    length = solver.rule.length(problem, solution.Z)
    layers = tuple(ReduNetLayer(operators, length, sharpness, shift_axes) for operators in made[:-1])
    return ReduNetwork(layers, made[-1], problem.alpha(solution.Z), shift_axes, solution)


def lift_signals(Z: ArrayT, filters: ArrayT, *, xp: Namespace = None) -> ArrayT:
    """Signals lifted to more channels before a shift-invariant ReduNet: circular convolution, then ReLU.

    Args:
        Z: signals of shape (..., n, B, T) or (..., n, B, H, W).
        filters: filters of shape (C, B, t) or (C, B, h, w), such as those of :func:`random_filters`.
        xp: array namespace; looked up when None.

    Returns:
        Signals of shape (..., n, C, T) or (..., n, C, H, W), non-negative; circular shifts commute with it.

    Raises:
        TypeError: Z or filters is not a real floating array.
        ValueError: as :func:`srr.ops.circular_convolution`.

    Source: [REDU] §4.1.

    Example:
        >>> import numpy as np, srr
        >>> filters = srr.fits.random_filters(4, channels=1, size=(3,), seed=0)
        >>> srr.fits.lift_signals(np.ones((2, 1, 8)), filters).shape
        (2, 4, 8)
    """
    xp = namespace(Z, filters, xp=xp)
    made = circular_convolution(Z, filters, xp=xp)
    return xp.maximum(made, xp.zeros_like(made))


def random_filters(count: int, *, channels: int, size: tuple[int, ...], seed: int | np.random.Generator) -> FloatArray:
    """Filters of independent standard normal numbers for :func:`lift_signals`.

    Args:
        count: number C of filters.
        channels: channels B of the signals.
        size: length of a filter along each shift axis.
        seed: seed or generator.

    Returns:
        NumPy array of shape (C, B) and then ``size``.

    Raises:
        TypeError: a number that is not an integer.
        ValueError: a number below one, or other than one or two shift axes.

    Source: [REDU] §4.1, random kernels.
    """
    for name, number in {"count": count, "channels": channels, **{f"size[{i}]": s for i, s in enumerate(size)}}.items():
        check_count(number, name)
    if len(size) not in (1, 2):
        raise ValueError(f"size must have one or two numbers; got {size}")
    return np.random.default_rng(seed).standard_normal((count, channels, *size))
