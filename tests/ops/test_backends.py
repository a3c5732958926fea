"""Every operator on every backend: values against independent references, dtype, device, batch axes, purity."""

import array_api_compat
import numpy as np
import pytest

import srr
from tests.backends import BACKENDS, NUMPY, Backend, to_numpy
from tests.ops.cases import CASES, UNBATCHED, Case

EVERY = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name.replace(" ", "-"))


@EVERY
def test_value_dtype_device_and_purity_on_every_backend(case: Case, backend: Backend) -> None:
    values = [backend.asarray(x.copy()) for x in case.inputs()]
    before = [to_numpy(v).copy() for v in values]
    result = case.call(*values)
    backend.close(result, case.truth())
    assert result.dtype == backend.floating
    assert array_api_compat.device(result) == array_api_compat.device(values[0])
    for value, old in zip(values, before, strict=True):
        np.testing.assert_array_equal(to_numpy(value), old)


@EVERY
def test_one_item_without_batch_axes(case: Case) -> None:
    NUMPY.close(case.call(*case.inputs(batched=False)), case.truth(batched=False))


@EVERY
def test_a_batch_of_nothing_gives_a_batch_of_nothing(case: Case, library: Backend) -> None:
    inputs = [x if name in UNBATCHED else x[:0, 0] for name, x in zip(case.names, case.inputs(), strict=True)]
    item = () if case.shape_only or UNBATCHED.issuperset(case.names) else (0,)
    result = case.call(*map(library.asarray, inputs))
    assert tuple(result.shape) == (*item, *case.truth(batched=False).shape)


@EVERY
def test_an_explicit_namespace_changes_nothing(case: Case) -> None:
    import array_api_compat.numpy as xp

    inputs = case.inputs(batched=False)
    np.testing.assert_array_equal(case.call(*inputs, xp=xp), case.call(*inputs))


@EVERY
def test_non_contiguous_and_read_only_arrays(case: Case) -> None:
    strided = [np.asfortranarray(x) for x in case.inputs(batched=False)]
    for value in strided:
        value.setflags(write=False)
    NUMPY.close(case.call(*strided), case.truth(batched=False))


OTHERS = [b for b in BACKENDS if b.dtype == "float64" and b.name != "numpy"]


@pytest.mark.parametrize("other", OTHERS, ids=lambda b: b.name)
def test_two_libraries_in_one_call_are_refused(other: Backend) -> None:
    Z, U = np.ones((3, 4)), other.asarray(np.ones((1, 4, 2)))
    with pytest.raises(TypeError, match="one library"):
        srr.subspace_coding_rate(Z, U, eps=0.5)


@pytest.mark.parametrize("case", [c for c in CASES if c.scalars], ids=lambda c: c.name.replace(" ", "-"))
def test_numpy_scalars_do_not_promote_float32(case: Case) -> None:
    """np.float64 is a strong type in NumPy 2: a step of 1/np.linalg.norm(D)² must not make float64 of float32 codes."""
    strong = {k: np.float64(v) if isinstance(v, float) else v for k, v in case.scalars.items()}
    inputs = [x.astype(np.float32) if x.dtype.kind == "f" else x for x in case.inputs(batched=False)]
    keyword = dict(zip(case.keywords, inputs[len(case.arrays) :], strict=True))
    result = case.operator(*inputs[: len(case.arrays)], **keyword, **strong)
    assert result.dtype == np.float32


def test_an_array_on_the_wrong_device_fails_without_a_gpu() -> None:
    """The strict library has devices that are only names; what an operator makes must live where its arguments do."""
    elsewhere = next(b for b in BACKENDS if b.name == "strict-device")
    with pytest.raises(ValueError, match="different devices"):
        elsewhere.asarray(np.ones(2)) + elsewhere.xp.asarray(np.ones(2))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 1])
def test_attention_of_tensors_finds_what_is_not_finite_in_its_result(bad: float, at: int) -> None:
    torch_backend = next(b for b in BACKENDS if b.name == "torch")
    arrays = [np.zeros((5, 4)), np.ones((2, 4, 3))]
    arrays[at][-1, -1] = bad
    with pytest.raises(ValueError, match=rf"^{'ZU'[at]} must be finite"):
        srr.mssa(*map(torch_backend.asarray, arrays))
    causal = [torch_backend.asarray(x) for x in arrays]
    with pytest.raises(ValueError, match="must be finite"):
        srr.mssa(*causal, causal=True, scale=0.0)
