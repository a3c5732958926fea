"""One table of operators: arguments as NumPy arrays, keyword scalars, and the independent reference of each.

`test_backends.py` runs the table on every backend, `test_transforms.py` under jit and vmap.
Leading batch axes are (2, 3) for every argument named in `batched`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import srr
from tests import references as ref

N, DIM, HEADS, RANK, ATOMS = 9, 6, 3, 2, 8
EPS, LAM = 0.5, 0.07
_RNG = np.random.default_rng(20)
ARRAYS: dict[str, np.ndarray] = {
    "Z": _RNG.standard_normal((2, 3, N, DIM)),
    "V": 0.5 * _RNG.standard_normal((2, 3, N, DIM)),
    "W": 0.6 * _RNG.standard_normal((2, 3, HEADS, N, RANK)),
    "A": np.maximum(_RNG.standard_normal((2, 3, N, ATOMS)), 0.0),
    "A_previous": np.maximum(_RNG.standard_normal((2, 3, N, ATOMS)), 0.0),
    "U": np.stack([np.linalg.qr(_RNG.standard_normal((DIM, RANK)))[0] for _ in range(HEADS)]),
    "out": 0.4 * _RNG.standard_normal((HEADS, DIM, RANK)),
    "bias": _RNG.standard_normal(DIM),
    "temperature": _RNG.uniform(0.5, 2.0, size=(HEADS, 1)),
    "D": _RNG.standard_normal((DIM, ATOMS)) / 3.0,
    "square": _RNG.standard_normal((DIM, DIM)) / 3.0,
    "turned": np.stack([np.linalg.qr(_RNG.standard_normal((DIM, RANK)))[0] for _ in range(HEADS)]),
    "weights": _RNG.uniform(0.1, 2.0, size=(2, 3, N)),
    "Pi": _RNG.dirichlet(np.ones(HEADS), size=(2, 3, N)),
    "labels": _RNG.permuted(np.broadcast_to(np.arange(N) % HEADS, (2, 3, N)), axis=-1),
    "mask": _RNG.uniform(size=(2, 3, N, N)) < 0.6,
}
ARRAYS["sigma"] = np.asarray([0.7, -1.3, 0.4])
ARRAYS["scales"] = np.asarray([0.5, 1.5, 0.9])
UNBATCHED = {"sigma", "scales", "U", "out", "bias", "D", "square", "temperature", "turned"}
_CORE_NDIM = {
    "sigma": 1,
    "scales": 1,
    "weights": 1,
    "labels": 1,
    "W": 3,
    "U": 3,
    "out": 3,
    "bias": 1,
    "turned": 3,
    "temperature": 2,
}


@dataclass(frozen=True)
class Case:
    """`operator(*arrays, **keyword arrays, **scalars)` should equal `reference(*arrays in the same order)`."""

    name: str
    operator: Callable[..., Any]
    arrays: tuple[str, ...]
    reference: Callable[..., Any]
    scalars: dict[str, Any] = field(default_factory=dict)
    keywords: tuple[str, ...] = ()
    differentiable: bool = True
    shape_only: bool = False  # the value depends on the shape of Z and on U: it has no batch axes

    @property
    def names(self) -> tuple[str, ...]:
        """Positional array arguments, then the keyword ones."""
        return self.arrays + self.keywords

    def inputs(self, batched: bool = True) -> list[np.ndarray]:
        """The arguments, with batch axes or the first item of the batch."""
        return [
            ARRAYS[name] if batched or name in UNBATCHED else np.ascontiguousarray(ARRAYS[name][0, 0])
            for name in self.names
        ]

    def call(self, *values: Any, **more: Any) -> Any:
        """Run the operator on arrays of any backend."""
        positional = values[: len(self.arrays)]
        keyword = dict(zip(self.keywords, values[len(self.arrays) :], strict=True))
        return self.operator(*positional, **keyword, **self.scalars, **more)

    def truth(self, batched: bool = True) -> np.ndarray:
        """The independent reference, item by item; computed once."""
        return _truth(self.name, batched)


@functools.cache
def _truth(name: str, batched: bool) -> np.ndarray:
    case = next(c for c in CASES if c.name == name)
    if case.shape_only:
        return np.asarray(case.reference(*case.inputs(batched=False)))
    core = tuple(_CORE_NDIM.get(n, 2) for n in case.names)
    return np.asarray(ref.over_batch(case.reference, core)(*case.inputs(batched)))


def _one_hot(labels: np.ndarray) -> np.ndarray:
    return ref.one_hot(labels, HEADS)


def _derivative(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """Complex-step gradient in the first argument of a holomorphic rate."""
    return lambda Z, *rest: ref.complex_step_gradient(lambda X: function(X, *rest), Z)


def _difference(first: Callable[..., Any], second: Callable[..., Any]) -> Callable[..., Any]:
    return lambda Z, other: first(Z, EPS) - second(Z, other, EPS)


def _membership(Z: np.ndarray, U: np.ndarray) -> np.ndarray:
    energies = [[np.sum((z @ B) ** 2) / (2 * 0.7) for B in U] for z in Z]
    return np.array([ref.naive_softmax(row) for row in energies])


def _snr(Z: np.ndarray, U: np.ndarray, labels: np.ndarray) -> np.ndarray:
    ratios = []
    for k, B in enumerate(U):
        own = Z[labels == k]
        ratios.append(np.linalg.norm(own @ B @ B.T) / np.linalg.norm(own - own @ B @ B.T))
    return np.array(ratios)


def _unit_soft(Z: np.ndarray) -> np.ndarray:
    shrunk = [ref.naive_soft(z, LAM) for z in Z]
    return np.array([s / np.linalg.norm(s) for s in shrunk])


def _group_soft(Z: np.ndarray) -> np.ndarray:
    return np.array([max(0.0, 1 - LAM / np.linalg.norm(z)) * z for z in Z])


def _directional(gradient: Callable[..., np.ndarray], Z: np.ndarray, V: np.ndarray) -> np.ndarray:
    """Hessian times V: the complex step of an analytic gradient, without cancellation."""
    return gradient(Z + 1e-30j * V).imag / 1e-30


def _gradient(Z: np.ndarray) -> np.ndarray:
    alpha = Z.shape[-1] / (len(Z) * EPS**2)
    return alpha * Z @ np.linalg.inv(np.eye(Z.shape[-1]) + alpha * Z.T @ Z)


def _subspace_gradient(Z: np.ndarray, U: np.ndarray) -> np.ndarray:
    beta, eye = U.shape[-1] / (len(Z) * EPS**2), np.eye(U.shape[-1])
    return sum(beta * Z @ B @ np.linalg.inv(eye + beta * (Z @ B).T @ (Z @ B)) @ B.T for B in U)


def _gram_schmidt(A: np.ndarray) -> np.ndarray:
    columns: list[np.ndarray] = []
    for a in A.T:
        for _ in range(2):
            a = a - sum(((q @ a) * q for q in columns), start=np.zeros_like(a))
        columns.append(a / np.linalg.norm(a))
    return np.stack(columns, axis=-1)


def _coherence(U: np.ndarray) -> float:
    return max(float(np.cos(ref.scipy_angles(A, B).min())) for A, B in itertools.combinations(U, 2))


def _angles(U: np.ndarray, turned: np.ndarray) -> np.ndarray:
    return np.stack([ref.scipy_angles(A, B) for A, B in zip(U, turned, strict=True)])


def _prox_mm(Z: np.ndarray) -> np.ndarray:
    return np.maximum((1 + 4 / (9 * 4.0)) * Z - 4 * 0.2 / (9 * 3.0), 0.0)


_e, _el = {"eps": EPS}, {"eps": EPS, "lam": LAM}
_rate, _subspace, _partition = (
    ref.analytic_coding_rate,
    ref.analytic_subspace_coding_rate,
    ref.analytic_partition_coding_rate,
)

CASES: tuple[Case, ...] = (
    Case("gram", srr.ops.gram, ("Z",), lambda Z: Z.T @ Z),
    Case("gram_logdet", srr.ops.gram_logdet, ("Z",), lambda Z: 2 * ref.half_logdet(Z, 0.8), {"scale": 0.8}),
    Case(
        "gram_resolvent",
        srr.ops.gram_resolvent,
        ("Z",),
        lambda Z: Z @ np.linalg.inv(np.eye(DIM) + 0.8 * Z.T @ Z),
        {"scale": 0.8},
    ),
    Case("coding_rate", srr.coding_rate, ("Z",), lambda Z: ref.naive_coding_rate(Z, EPS), _e),
    Case(
        "coding_rate weighted",
        srr.coding_rate,
        ("Z",),
        lambda Z, w: ref.naive_coding_rate(Z, EPS, w),
        _e,
        ("weights",),
    ),
    Case("coding_rate_grad", srr.coding_rate_grad, ("Z",), _derivative(lambda Z: _rate(Z, EPS)), _e),
    Case(
        "coding_rate_grad weighted",
        srr.coding_rate_grad,
        ("Z",),
        _derivative(lambda Z, w: _rate(Z, EPS, w)),
        _e,
        ("weights",),
    ),
    Case(
        "subspace_coding_rate",
        srr.subspace_coding_rate,
        ("Z", "U"),
        lambda Z, U: ref.naive_subspace_coding_rate(Z, U, EPS),
        _e,
    ),
    Case(
        "subspace_coding_rate_grad",
        srr.subspace_coding_rate_grad,
        ("Z", "U"),
        _derivative(lambda Z, U: _subspace(Z, U, EPS)),
        _e,
    ),
    Case(
        "sparse_rate_reduction",
        srr.sparse_rate_reduction,
        ("Z", "U"),
        lambda Z, U: ref.naive_sparse_rate_reduction(Z, U, EPS, LAM),
        _el,
    ),
    Case(
        "sparse_rate_reduction_grad",
        srr.sparse_rate_reduction_grad,
        ("Z", "U"),
        _derivative(_difference(_rate, _subspace)),
        _e,
    ),
    Case(
        "partition_coding_rate",
        srr.partition_coding_rate,
        ("Z", "Pi"),
        lambda Z, Pi: ref.naive_partition_coding_rate(Z, Pi, EPS),
        _e,
    ),
    Case(
        "partition_coding_rate labels",
        srr.partition_coding_rate,
        ("Z", "labels"),
        lambda Z, y: ref.naive_partition_coding_rate(Z, _one_hot(y), EPS),
        _e,
    ),
    Case(
        "partition_coding_rate_grad",
        srr.partition_coding_rate_grad,
        ("Z", "Pi"),
        _derivative(lambda Z, Pi: _partition(Z, Pi, EPS)),
        _e,
    ),
    Case(
        "partition_coding_rate_grad labels",
        srr.partition_coding_rate_grad,
        ("Z", "labels"),
        _derivative(lambda Z, y: _partition(Z, _one_hot(y), EPS)),
        _e,
    ),
    Case("rate_reduction", srr.rate_reduction, ("Z", "Pi"), lambda Z, Pi: ref.naive_rate_reduction(Z, Pi, EPS), _e),
    Case(
        "rate_reduction labels",
        srr.rate_reduction,
        ("Z", "labels"),
        lambda Z, y: ref.naive_rate_reduction(Z, _one_hot(y), EPS),
        _e,
    ),
    Case("rate_reduction_grad", srr.rate_reduction_grad, ("Z", "Pi"), _derivative(_difference(_rate, _partition)), _e),
    Case(
        "rate_reduction_grad labels",
        srr.rate_reduction_grad,
        ("Z", "labels"),
        _derivative(lambda Z, y: _rate(Z, EPS) - _partition(Z, _one_hot(y), EPS)),
        _e,
    ),
    Case("project", srr.ops.project, ("Z", "U"), lambda Z, U: np.stack([Z @ B for B in U])),
    Case("lift", srr.ops.lift, ("W", "U"), lambda W, U: sum(V @ B.T for V, B in zip(W, U, strict=True))),
    Case("orthonormalize", srr.ops.orthonormalize, ("square",), _gram_schmidt),
    Case("coherence", srr.ops.coherence, ("U",), _coherence, shape_only=True),
    Case("principal_angles", srr.ops.principal_angles, ("U", "turned"), _angles),
    Case("ista_matrix", srr.ops.ista_matrix, ("square",), lambda D: np.eye(DIM) + 0.2 * (D - D.T @ D), {"step": 0.2}),
    Case("subspace_membership", srr.ops.subspace_membership, ("Z", "U"), _membership, {"temperature": 0.7}),
    Case("snr", srr.ops.snr, ("Z", "U", "labels"), _snr),
    Case("ssa", srr.ops.ssa, ("V",), lambda V: ref.naive_ssa(V, 0.6), {"scale": 0.6}),
    Case("ssa causal", srr.ops.ssa, ("V",), lambda V: ref.naive_ssa(V, 1.0, causal=True), {"causal": True}),
    Case("ssa masked", srr.ops.ssa, ("V",), lambda V, m: ref.naive_ssa(V, 1.0, mask=m), {}, ("mask",)),
    Case("mssa", srr.mssa, ("Z", "U"), lambda Z, U: ref.naive_mssa(Z, U, scale=0.4), {"scale": 0.4}),
    Case(
        "mssa out bias causal",
        srr.mssa,
        ("Z", "U"),
        lambda Z, U, out, bias: ref.naive_mssa(Z, U, out, causal=True) + bias,
        {"causal": True},
        ("out", "bias"),
    ),
    Case(
        "neumann_grad",
        srr.ops.neumann_grad,
        ("Z", "U"),
        lambda Z, U: ref.naive_neumann_grad(Z, U, 3.0, 2),
        {"eps": 3.0, "terms": 2},
    ),
    Case(
        "neumann_step",
        srr.ops.neumann_step,
        ("Z", "U"),
        lambda Z, U: Z - 0.3 * ref.naive_neumann_grad(Z, U, 3.0, 1),
        {"eps": 3.0, "step": 0.3},
    ),
    Case(
        "neumann_validity",
        srr.ops.neumann_validity,
        ("Z", "U"),
        lambda Z, U: max(RANK / (N * 9.0) * np.linalg.norm(Z @ B, 2) ** 2 for B in U),
        {"eps": 3.0},
    ),
    Case(
        "compression_step",
        srr.ops.compression_step,
        ("Z", "U"),
        lambda Z, U: Z - 0.3 * ref.naive_subspace_grad(Z, U, EPS),
        {"eps": EPS, "step": 0.3},
    ),
    Case(
        "sparse_rate_reduction smoothness",
        srr.ops.sparse_rate_reduction_smoothness,
        ("Z", "U"),
        lambda Z, U: RANK / (N * EPS**2) * np.linalg.eigvalsh(sum(B @ B.T for B in U))[-1] + DIM / (N * EPS**2) / 8,
        _e,
        shape_only=True,
    ),
    Case(
        "attention_weights",
        srr.ops.attention_weights,
        ("V",),
        lambda V: np.array([ref.naive_softmax([0.6 * float(v @ w) for w in V]) for v in V]),
        {"scale": 0.6},
    ),
    Case(
        "thresholded_mssa",
        srr.ops.thresholded_mssa,
        ("Z", "U"),
        lambda Z, U: sum(ref.naive_thresholded_ssa(Z @ B, 0.1) @ B.T for B in U),
        {"threshold": 0.1},
        differentiable=False,
    ),
    Case("tssa", srr.ops.tssa, ("Z", "U"), lambda Z, U: ref.naive_tssa(Z, U, 0.7), {"temperature": 0.7}),
    Case("tssa_heads", srr.ops.tssa_heads, ("W", "temperature"), ref.naive_tssa_heads),
    Case(
        "tssa_heads causal",
        srr.ops.tssa_heads,
        ("W", "temperature"),
        lambda W, t: ref.naive_tssa_heads(W, t, causal=True),
        {"causal": True},
    ),
    Case(
        "coding_rate_hvp",
        srr.ops.coding_rate_hvp,
        ("Z", "V"),
        lambda Z, V: _directional(_gradient, Z, V),
        _e,
    ),
    Case(
        "subspace_coding_rate_hvp",
        srr.ops.subspace_coding_rate_hvp,
        ("Z", "V", "U"),
        lambda Z, V, U: _directional(lambda X: _subspace_gradient(X, U), Z, V),
        _e,
    ),
    Case("prox_mm_step", srr.ops.prox_mm_step, ("Z",), _prox_mm, {"alpha": 3.0, "lam": 0.2}),
    Case("soft_threshold", srr.ops.soft_threshold, ("Z",), lambda Z: ref.naive_soft(Z, LAM), {"threshold": LAM}),
    Case("relu_threshold", srr.ops.relu_threshold, ("Z",), lambda Z: np.maximum(Z - LAM, 0.0), {"threshold": LAM}),
    Case(
        "hard_threshold",
        srr.ops.hard_threshold,
        ("Z",),
        lambda Z: np.where(0.5 * Z**2 > 0.3, Z, 0.0),
        {"threshold": 0.6**0.5},
    ),
    Case("group_soft_threshold", srr.ops.group_soft_threshold, ("Z",), _group_soft, {"threshold": LAM}),
    Case("unit_soft_threshold", srr.ops.unit_soft_threshold, ("Z",), _unit_soft, {"threshold": LAM}),
    Case("lasso", srr.ops.lasso, ("A", "Z", "D"), lambda A, Z, D: ref.naive_lasso(A, Z, D, LAM), {"lam": LAM}),
    Case(
        "ista_step",
        srr.ista_step,
        ("A", "Z", "D"),
        lambda A, Z, D: ref.naive_ista(A, Z, D, 0.2, LAM),
        {"step": 0.2, "lam": LAM},
    ),
    Case(
        "ista_step signed",
        srr.ista_step,
        ("A", "Z", "D"),
        lambda A, Z, D: ref.naive_ista(A, Z, D, 0.2, LAM, nonnegative=False),
        {"step": 0.2, "lam": LAM, "nonnegative": False},
    ),
    Case(
        "folded_ista_step",
        srr.ops.folded_ista_step,
        ("Z", "square"),
        lambda Z, M: np.maximum(Z @ M - 0.2 * LAM, 0.0),
        {"step": 0.2, "lam": LAM},
    ),
    Case(
        "fista_step",
        srr.ops.fista_step,
        ("A", "A_previous", "Z", "D"),
        lambda A, B, Z, D: ref.naive_ista(A + 0.4 * (A - B), Z, D, 0.2, LAM),
        {"step": 0.2, "lam": LAM, "momentum": 0.4},
    ),
    Case("centered_sphere", srr.ops.centered_sphere, ("Z",), ref.naive_centered_sphere),
    Case("softmax_energy", srr.ops.softmax_energy, ("Z", "U", "W", "sigma", "scales"), ref.naive_softmax_energy),
    Case(
        "softmax_energy causal",
        srr.ops.softmax_energy,
        ("Z", "U", "W", "sigma", "scales"),
        lambda *arrays: ref.naive_softmax_energy(*arrays, causal=True),
        {"causal": True},
    ),
    Case(
        "softmax_energy_grad",
        srr.ops.softmax_energy_grad,
        ("Z", "U", "W", "sigma", "scales"),
        lambda Z, *rest: ref.complex_step_gradient(lambda X: ref.naive_softmax_energy(X, *rest), Z),
    ),
    Case(
        "softmax_energy_grad masked",
        srr.ops.softmax_energy_grad,
        ("Z", "U", "W", "sigma", "scales"),
        lambda Z, U, Y, sigma, s, seen: ref.complex_step_gradient(
            lambda X: ref.naive_softmax_energy(X, U, Y, sigma, s, mask=seen), Z
        ),
        keywords=("mask",),
    ),
)
