"""Every refusal: one clear TypeError or ValueError that names the argument, before any arithmetic."""

import warnings
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import srr
from tests.ops.cases import ARRAYS, CASES, UNBATCHED, Case

Z, U = np.ones((5, 4)), np.ones((2, 4, 3))
A, D = np.ones((5, 6)), np.ones((4, 6))
labels = np.array([0, 0, 1, 1, 2])
NAN = np.where(np.arange(20).reshape(5, 4) == 7, np.nan, 1.0)
INF = np.where(np.arange(20).reshape(5, 4) == 7, np.inf, 1.0)

# What an argument of the case table is called in the signature of its operator.
_NAMES = {
    "W": ("V", "W", "Y"),
    "sigma": ("weights",),
    "V": ("V", "Z"),
    "square": ("M", "D", "U"),
    "U": ("U", "A"),
    "turned": ("B",),
    "labels": ("labels", "Pi"),
    "Z": ("Z", "A"),
}


def _floating(case: Case) -> list[int]:
    return [i for i, name in enumerate(case.names) if ARRAYS[name].dtype.kind == "f"]


POSITIONS = [pytest.param(c, i, id=f"{c.name}-{c.names[i]}".replace(" ", "-")) for c in CASES for i in _floating(c)]


def _mentions(case: Case, position: int, message: str) -> bool:
    return any(
        f"{n} " in message or f"{n}:" in message for n in _NAMES.get(case.names[position], (case.names[position],))
    )


@pytest.mark.parametrize(("case", "position"), POSITIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_refused_by_name(case: Case, position: int, value: float) -> None:
    if (
        case.operator in (srr.ops.gram, srr.ops.gram_logdet, srr.ops.gram_resolvent)
        or case.operator is srr.ops.folded_ista_step
    ):
        pytest.skip("inner floor: its callers check")
    inputs = [x.copy() for x in case.inputs(batched=False)]
    inputs[position].flat[-1] = value
    with pytest.raises(ValueError, match="finite") as caught:
        _quiet(case.call, *inputs)
    assert _mentions(case, position, str(caught.value))


@pytest.mark.parametrize(("case", "position"), POSITIONS)
@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.complex128])
def test_integers_booleans_and_complex_numbers_are_refused_by_name(case: Case, position: int, dtype: type) -> None:
    if case.names[position] == "Pi" and dtype is np.int64:
        pytest.skip("integers are labels there")
    inputs = [x.copy() for x in case.inputs(batched=False)]
    inputs[position] = np.ones(inputs[position].shape, dtype=dtype)
    with pytest.raises(TypeError, match=r"floating|share one dtype") as caught:
        _quiet(case.call, *inputs)
    assert _mentions(case, position, str(caught.value))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name.replace(" ", "-"))
def test_lists_are_refused(case: Case) -> None:
    with pytest.raises(TypeError, match="arrays of one library"):
        case.call(*(x.tolist() for x in case.inputs(batched=False)))


def _quiet(function: Callable, *arguments: object) -> object:
    """Arithmetic before a check would warn about what it met."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return function(*arguments)


SCALARS = [
    pytest.param(c, k, id=f"{c.name}-{k}".replace(" ", "-"))
    for c in CASES
    for k in c.scalars
    if k in ("eps", "lam", "step", "threshold", "scale", "temperature", "alpha", "momentum")
    and not c.name.startswith("gram")
]


@pytest.mark.parametrize(("case", "name"), SCALARS)
@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, -np.inf, "0.1", None, True])
def test_bad_scalars_are_refused_by_name(case: Case, name: str, value: object) -> None:
    inputs = case.inputs(batched=False)
    keyword = dict(zip(case.keywords, inputs[len(case.arrays) :], strict=True))
    with pytest.raises((ValueError, TypeError)) as caught:
        case.operator(*inputs[: len(case.arrays)], **keyword, **{**case.scalars, name: value})
    assert str(caught.value).startswith(name)


@pytest.mark.parametrize(("case", "name"), [p for p in SCALARS if p.values[1] in ("eps", "temperature", "alpha")])
@pytest.mark.parametrize("value", [0.0, np.asarray(-1.0), np.asarray(0.0)])
def test_zero_where_a_positive_number_is_needed(case: Case, name: str, value: object) -> None:
    inputs = case.inputs(batched=False)
    with pytest.raises(ValueError, match=rf"^{name} must be a finite number > 0; got"):
        case.operator(*inputs[: len(case.arrays)], **{**case.scalars, name: value}, **_keywords(case, inputs))


def _keywords(case: Case, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip(case.keywords, inputs[len(case.arrays) :], strict=True))


@pytest.mark.parametrize(
    "value", [torch.tensor(-0.5), jnp.asarray(-0.5), np.float32(-0.5)], ids=["torch", "jax", "numpy"]
)
def test_concrete_scalar_arrays_are_checked_too(value: object) -> None:
    with pytest.raises(ValueError, match=r"^eps must be a finite number > 0; got"):
        srr.ops.rate_scale(9, 6, eps=value)


@pytest.mark.parametrize(("case", "position"), POSITIONS)
def test_too_few_axes_are_refused_by_name(case: Case, position: int) -> None:
    if case.names[position] in ("bias", "weights", "sigma", "scales") or case.name.endswith(("_threshold", "_angles")):
        pytest.skip("one axis, or any, is right there")
    inputs = [x.copy() for x in case.inputs(batched=False)]
    shape = inputs[position].shape
    inputs[position] = np.ones(shape[-(1 if len(shape) == 2 else 2) :])
    with pytest.raises(ValueError, match=r"axes|shape") as caught:
        case.call(*inputs)
    assert _mentions(case, position, str(caught.value))


@pytest.mark.parametrize(("case", "position"), POSITIONS)
def test_empty_arrays_are_refused_by_name(case: Case, position: int) -> None:
    if case.operator in (srr.ops.soft_threshold, srr.ops.relu_threshold, srr.ops.hard_threshold):
        pytest.skip("entry by entry: nothing to do is done")
    inputs = [x.copy() for x in case.inputs(batched=False)]
    inputs[position] = np.ones((*inputs[position].shape[:-1], 0))
    with pytest.raises(ValueError, match=r"empty|shape") as caught:
        case.call(*inputs)
    assert _mentions(case, position, str(caught.value))


MISFITS = {
    "bases of another d": (
        lambda: srr.subspace_coding_rate(Z, np.ones((2, 5, 3)), eps=0.5),
        r"U must have shape \(K, d, p\) with d=4; got \(2, 5, 3\)",
    ),
    "gradient, another d": (lambda: srr.subspace_coding_rate_grad(Z, np.ones((2, 5, 3)), eps=0.5), "U must have shape"),
    "reduction, another d": (
        lambda: srr.sparse_rate_reduction(Z, np.ones((2, 5, 3)), eps=0.5, lam=0.1),
        "U must have shape",
    ),
    "project": (lambda: srr.ops.project(Z, np.ones((2, 3, 3))), "U must have shape"),
    "lift, heads": (lambda: srr.ops.lift(np.ones((3, 5, 3)), U), "V must have shape"),
    "lift, rank": (lambda: srr.ops.lift(np.ones((2, 5, 2)), U), "V must have shape"),
    "mssa, d": (lambda: srr.mssa(Z, np.ones((2, 3, 3))), "U must have shape"),
    "mssa, output heads": (lambda: srr.mssa(Z, U, out=np.ones((3, 4, 3))), "out must have shape"),
    "mssa, output d": (lambda: srr.mssa(Z, U, out=np.ones((2, 5, 3))), "out must have shape"),
    "mssa, output rank": (lambda: srr.mssa(Z, U, out=np.ones((2, 4, 2))), "out must have shape"),
    "mssa, bias": (lambda: srr.mssa(Z, U, bias=np.ones(5)), "bias must have shape"),
    "mssa, mask": (lambda: srr.mssa(Z, U, mask=np.ones((4, 5), dtype=bool)), "mask must broadcast"),
    "ssa, mask axes": (lambda: srr.ops.ssa(Z, mask=np.ones(5, dtype=bool)), "mask must broadcast"),
    "weights length": (lambda: srr.coding_rate(Z, eps=0.5, weights=np.ones(4)), "weights must have shape"),
    "weights negative": (
        lambda: srr.coding_rate(Z, eps=0.5, weights=np.array([1, 1, -1e-9, 1, 1.0])),
        "weights must be >= 0",
    ),
    "weights batch": (lambda: srr.coding_rate(np.ones((3, 5, 4)), eps=0.5, weights=np.ones((2, 5))), "weights"),
    "membership length": (lambda: srr.rate_reduction(Z, np.ones((4, 2)), eps=0.5), "Pi as membership must have shape"),
    "membership negative": (lambda: srr.rate_reduction(Z, -np.ones((5, 2)), eps=0.5), "Pi must be >= 0"),
    "membership axes": (lambda: srr.rate_reduction(Z, np.ones(5), eps=0.5), "Pi must have at least 2 axes"),
    "membership batch": (lambda: srr.rate_reduction(np.ones((3, 5, 4)), np.ones((2, 5, 2)), eps=0.5), "Pi"),
    "labels length": (lambda: srr.rate_reduction(Z, labels[:4], eps=0.5), "Pi as labels must have shape"),
    "labels batch": (
        lambda: srr.rate_reduction(np.ones((3, 5, 4)), np.ones((2, 5), dtype=int), eps=0.5),
        "Pi as labels",
    ),
    "labels with more axes than tokens": (
        lambda: srr.rate_reduction(Z, np.ones((2, 5), dtype=int), eps=0.5),
        "Pi as labels",
    ),
    "labels negative": (lambda: srr.rate_reduction(Z, labels - 1, eps=0.5), "Pi as labels must be >= 0"),
    "principal bases, labels length": (lambda: srr.ops.principal_bases(Z, labels[:3], rank=1), "labels"),
    "principal bases, negative labels": (lambda: srr.ops.principal_bases(Z, labels - 1, rank=1), "labels"),
    "principal bases, small class": (lambda: srr.ops.principal_bases(Z, labels, rank=2), r"classes \[2\] have fewer"),
    "principal bases, class 3e6": (
        lambda: srr.ops.principal_bases(Z, np.asarray([0, 1, 2, 3, 3_000_000]), rank=1),
        "^labels must be classes 0 to K-1 that all have tokens; got class 3000000 with n=5",
    ),
    "principal bases, class 1e9": (
        lambda: srr.ops.principal_bases(Z, np.asarray([0, 0, 0, 0, 10**9]), rank=1),
        "^labels must be classes 0 to K-1",
    ),
    "broadcast, mask": (
        lambda: srr.ops.contract_broadcast(Z, Z[:2], mask=np.ones((3, 5), dtype=bool)),
        "mask must broadcast",
    ),
    "principal bases, rank": (lambda: srr.ops.principal_bases(Z, labels, rank=5), "rank must be at most d=4"),
    "principal bases, zero rank": (lambda: srr.ops.principal_bases(Z, labels, rank=0), "rank must be >= 1"),
    "snr, labels": (lambda: srr.ops.snr(Z, U, labels[:3]), "labels must have shape"),
    "snr, label out of range": (lambda: srr.ops.snr(Z, U, labels), "labels must"),
    "orthonormalize, wide": (lambda: srr.ops.orthonormalize(np.ones((2, 3))), "U must have at most d=2 columns"),
    "angles, d": (lambda: srr.ops.principal_angles(np.ones((4, 2)), np.ones((5, 2))), "B must have shape"),
    "angles, more columns": (lambda: srr.ops.principal_angles(np.ones((4, 2)), np.ones((4, 3))), "B must have shape"),
    "coherence, axes": (lambda: srr.ops.coherence(np.ones((2, 2, 4, 3))), "U must have shape"),
    "lasso, atoms": (lambda: srr.ops.lasso(A[:, :5], Z, D, lam=0.1), "A, Z, D must have shapes"),
    "ista, tokens": (lambda: srr.ista_step(A[:4], Z, D, step=0.1, lam=0.1), "A, Z, D must have shapes"),
    "fista, previous": (
        lambda: srr.ops.fista_step(A, A[:4], Z, D, step=0.1, lam=0.1, momentum=0.5),
        "A_previous must have",
    ),
    "ista matrix": (lambda: srr.ops.ista_matrix(D, step=0.1), "D must be square"),
    "folded": (lambda: srr.ops.folded_ista_step(Z, np.ones((5, 5)), step=0.1, lam=0.1), "M must have shape"),
    "hvp": (lambda: srr.ops.coding_rate_hvp(Z, np.ones((4, 4)), eps=0.5), "V must have the shape of Z"),
    "neumann terms": (lambda: srr.ops.neumann_grad(Z, U, eps=0.5, terms=-1), "terms must be >= 0"),
    "tssa mask": (
        lambda: srr.ops.tssa_heads(np.ones((2, 5, 3)), np.ones((2, 1)), mask=np.ones(4, dtype=bool)),
        "mask must have shape",
    ),
    "tssa temperature": (
        lambda: srr.ops.tssa_heads(np.ones((2, 5, 3)), np.ones((3, 1))),
        "temperature must have shape",
    ),
    "tssa offset": (
        lambda: srr.ops.tssa_heads(np.ones((2, 5, 3)), np.ones((2, 1)), offset=np.ones((2, 4, 1)), causal=True),
        "offset must have shape",
    ),
}


@pytest.mark.parametrize("name", MISFITS, ids=lambda s: s.replace(" ", "-"))
def test_sizes_that_do_not_fit(name: str) -> None:
    call, message = MISFITS[name]
    with pytest.raises(ValueError, match=message):
        _quiet(call)


MISTYPED = {
    "mixed precision rates": (
        lambda: srr.subspace_coding_rate(Z, U.astype(np.float32), eps=0.5),
        "Z: float64, U: float32",
    ),
    "mixed precision hvp": (lambda: srr.ops.coding_rate_hvp(Z, Z.astype(np.float32), eps=0.5), "share one dtype"),
    "terms not an integer": (lambda: srr.ops.neumann_grad(Z, U, eps=0.5, terms=1.5), "terms must be an integer"),
    "rank not an integer": (lambda: srr.ops.principal_bases(Z, labels, rank=1.0), "rank must be an integer"),
    "labels as floats": (lambda: srr.ops.principal_bases(Z, labels.astype(float), rank=1), "labels must be integers"),
    "snr labels as floats": (lambda: srr.ops.snr(Z, U, labels.astype(float)), "labels must be integers"),
    "boolean membership": (
        lambda: srr.rate_reduction(Z, np.ones((5, 2), dtype=bool), eps=0.5),
        "Pi must have a real floating dtype",
    ),
    "ssa, mask dtype": (lambda: srr.ops.ssa(Z, mask=np.ones((5, 5))), "mask must be boolean"),
    "attention weights, additive mask": (
        lambda: srr.ops.attention_weights(Z, mask=np.zeros((5, 5))),
        "mask must be boolean",
    ),
    "mssa, additive mask": (lambda: srr.mssa(Z, U, mask=np.zeros((5, 5))), "mask must be boolean"),
    "newest, additive mask": (lambda: srr.ops.ssa_newest(Z, count=1, mask=np.zeros(5)), "mask must be boolean"),
    "tssa, additive mask": (
        lambda: srr.ops.tssa_heads(np.ones((2, 5, 3)), np.ones((2, 1)), mask=np.zeros(5)),
        "mask must be boolean",
    ),
    "means, additive mask": (lambda: srr.ops.stretch_means(Z, count=2, mask=np.zeros(5)), "mask must be boolean"),
    "broadcast, additive mask": (
        lambda: srr.ops.contract_broadcast(Z, Z[:2], mask=np.zeros((2, 5))),
        "mask must be boolean",
    ),
    "not an array": (lambda: srr.coding_rate("tokens", eps=0.5), "arrays of one library"),
}


@pytest.mark.parametrize("name", MISTYPED, ids=lambda s: s.replace(" ", "-"))
def test_types_that_do_not_fit(name: str) -> None:
    call, message = MISTYPED[name]
    with pytest.raises(TypeError, match=message):
        _quiet(call)


def test_all_names_of_the_case_table_exist() -> None:
    assert set(UNBATCHED) < set(ARRAYS)


@pytest.mark.parametrize("tokens", [torch.full((3, 2), float("nan")), jnp.full((3, 2), jnp.nan)], ids=["torch", "jax"])
def test_other_libraries_refuse_nan_as_well(tokens: object) -> None:
    with pytest.raises(ValueError, match=r"^Z must be finite"):
        srr.coding_rate(tokens, eps=0.5)


@pytest.mark.parametrize("value", [1e-170, 1e200])
def test_a_distortion_whose_square_is_no_number_is_refused(value: float) -> None:
    for call in (srr.coding_rate, srr.coding_rate_grad, srr.ops.coding_rate_smoothness):
        with pytest.raises(ValueError, match=r"^eps must lie between"):
            call(Z, eps=value)
