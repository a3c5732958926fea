"""Rates under a partition: labels against memberships, empty classes, rate reduction."""

import numpy as np
import pytest
import torch

import srr
from srr._array.linalg import SpectralFactor
from tests import references as ref
from tests.backends import NUMPY, Backend, to_numpy

EPS = 0.5
FUNCTIONS = ["partition_coding_rate", "rate_reduction"]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_labels_equal_their_one_hot_membership(rng: np.random.Generator, function: str, backend: Backend) -> None:
    Z, labels = rng.standard_normal((2, 12, 5)), rng.integers(0, 4, size=(2, 12))
    labels[:, 0] = 3
    Pi = np.stack([ref.one_hot(y, 4) for y in labels])
    tokens = backend.asarray(Z)
    for suffix in ("", "_grad"):
        operator = getattr(srr.ops, function + suffix)
        hard = operator(tokens, backend.asarray(labels), eps=EPS)
        soft = operator(tokens, backend.asarray(Pi), eps=EPS)
        backend.close(hard, to_numpy(soft), ulps=200)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_pairs_are_the_definition_and_its_derivative(rng: np.random.Generator, function: str, library: Backend) -> None:
    Z, labels = rng.standard_normal((2, 12, 5)), rng.integers(0, 3, size=(2, 12))
    soft = rng.dirichlet(np.ones(3), (2, 12))

    def rate(z: np.ndarray, Pi: np.ndarray) -> complex:
        within = ref.analytic_partition_coding_rate(z, Pi, EPS)
        return within if function == FUNCTIONS[0] else ref.analytic_coding_rate(z, EPS) - within

    for given, Pi in ((labels, np.stack([ref.one_hot(y, 3) for y in labels])), (soft, soft)):
        pair = getattr(srr.ops, f"{function}_value_and_grad")
        value, grad = pair(library.asarray(Z), library.asarray(given), eps=EPS)
        library.close(value, np.array([rate(z, m).real for z, m in zip(Z, Pi, strict=True)]), ulps=400)
        truth = [ref.complex_step_gradient(lambda z, m=m: rate(z, m), z) for z, m in zip(Z, Pi, strict=True)]
        library.close(grad, np.stack(truth), ulps=400)


def test_shared_labels_serve_a_batch_of_tokens(rng: np.random.Generator) -> None:
    Z, labels = rng.standard_normal((3, 12, 5)), rng.integers(0, 3, size=12)
    expected = [ref.naive_partition_coding_rate(z, ref.one_hot(labels, 3), EPS) for z in Z]
    NUMPY.close(srr.partition_coding_rate(Z, labels, eps=EPS), np.array(expected))


def test_shared_membership_serves_a_batch_of_tokens(rng: np.random.Generator) -> None:
    Z, Pi = rng.standard_normal((3, 12, 5)), rng.dirichlet(np.ones(3), 12)
    expected = [ref.naive_partition_coding_rate(z, Pi, EPS) for z in Z]
    NUMPY.close(srr.partition_coding_rate(Z, Pi, eps=EPS), np.array(expected))


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint8])
def test_any_integer_dtype_labels(rng: np.random.Generator, dtype: type) -> None:
    Z, labels = rng.standard_normal((12, 5)), rng.integers(0, 3, size=12)
    expected = ref.naive_partition_coding_rate(Z, ref.one_hot(labels, 3), EPS)
    NUMPY.close(srr.partition_coding_rate(Z, labels.astype(dtype), eps=EPS), np.asarray(expected))


@pytest.mark.parametrize("sizes", [(1, 1, 10), (12, 0, 0), (0, 5, 7), (4, 4, 4), (1, 11, 0)])
@pytest.mark.parametrize("d", [1, 3, 20])
def test_unequal_and_empty_classes(rng: np.random.Generator, sizes: tuple[int, ...], d: int, library: Backend) -> None:
    """Classes smaller than d, larger than d, of one token and of none; an empty class counts zero."""
    Z = rng.standard_normal((12, d))
    labels = rng.permutation(np.repeat(np.arange(3), sizes))
    Pi = ref.one_hot(labels, 3)
    value, grad = srr.ops.partition_coding_rate_value_and_grad(library.asarray(Z), library.asarray(labels), eps=EPS)
    library.close(value, ref.naive_partition_coding_rate(Z, Pi, EPS))
    truth = ref.complex_step_gradient(lambda X: ref.analytic_partition_coding_rate(X, Pi, EPS), Z)
    library.close(grad, truth)
    library.close(
        srr.partition_coding_rate(library.asarray(Z), library.asarray(Pi), eps=EPS), to_numpy(value), ulps=200
    )


def test_empty_membership_columns_count_zero(rng: np.random.Generator) -> None:
    Z = rng.standard_normal((12, 5))
    Pi = np.concatenate([rng.dirichlet(np.ones(3), 12), np.zeros((12, 1))], axis=1)
    value, grad = srr.ops.partition_coding_rate_value_and_grad(Z, Pi, eps=EPS)
    NUMPY.close(value, np.asarray(ref.naive_partition_coding_rate(Z, Pi[:, :3], EPS)))
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_empty_class_sends_no_other_to_the_singular_values(
    rng: np.random.Generator, function: str, library: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log-determinant of a class without tokens is zero, and its pivots have lost nothing of it."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("singular values")

    for name in ("logdet", "resolvent"):
        monkeypatch.setattr(SpectralFactor, name, refuse)
    Z, labels = rng.standard_normal((40, 5)), rng.integers(0, 3, size=40)
    Pi = ref.one_hot(labels, 4)
    value, _ = getattr(srr.ops, f"{function}_value_and_grad")(library.asarray(Z), library.asarray(Pi), eps=EPS)
    library.close(value, getattr(ref, f"naive_{function}")(Z, Pi[:, :3], EPS))


def test_batches_with_different_class_sizes(rng: np.random.Generator, backend: Backend) -> None:
    Z = rng.standard_normal((3, 10, 4))
    labels = np.array([[0] * 10, [0, 1] * 5, list(range(5)) * 2])
    expected = [ref.naive_partition_coding_rate(z, ref.one_hot(y, 5), EPS) for z, y in zip(Z, labels, strict=True)]
    backend.close(srr.partition_coding_rate(backend.asarray(Z), backend.asarray(labels), eps=EPS), np.array(expected))


def test_one_class_reduces_nothing(rng: np.random.Generator) -> None:
    Z = rng.standard_normal((12, 5))
    reduction, grad = srr.ops.rate_reduction_value_and_grad(Z, np.zeros(12, dtype=int), eps=EPS)
    assert abs(float(reduction)) <= 100 * np.finfo(float).eps * ref.naive_coding_rate(Z, EPS)
    NUMPY.close(grad, np.zeros_like(Z), scale=1.0)


def test_orthogonal_classes_reduce_by_the_hand_computed_amount() -> None:
    """Two orthonormal axes, two tokens each, ε = 1: α = 1/2·2/2 …, worked by hand."""
    Z = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    labels = np.array([0, 0, 1, 1])
    whole = 0.5 * 2 * np.log(1 + 0.5 * 2)  # α = 2/4, eigenvalues 2, 2
    parts = 2 * (0.5 * 0.5 * np.log(1 + 1.0 * 2))  # α_k = 2/2, one eigenvalue 2, half of the mass each
    assert float(srr.rate_reduction(Z, labels, eps=1.0)) == pytest.approx(whole - parts, rel=1e-14)


def test_labels_of_many_classes_do_not_need_a_dense_membership() -> None:
    """5,000 tokens in 2,500 classes: a one-hot product would hold 5,000 × 2,500 × 8 × 8 numbers."""
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((5000, 8))
    labels = rng.permutation(np.repeat(np.arange(2500), 2))
    pairs = np.stack([Z[labels == k] for k in range(2500)])
    alpha = 8 / (2 * EPS**2)
    singular = np.linalg.svd(pairs, compute_uv=False)
    expected = np.sum(2 / 5000 * 0.5 * np.log1p(alpha * singular**2))
    assert float(srr.partition_coding_rate(Z, labels, eps=EPS)) == pytest.approx(expected, rel=1e-12)


def test_float32_labels_path_keeps_dtype_and_core(rng: np.random.Generator) -> None:
    Z, labels = torch.randn(30, 6), torch.randint(0, 3, (30,))
    value, grad = srr.ops.partition_coding_rate_value_and_grad(Z, labels, eps=0.01)
    exact = ref.naive_partition_coding_rate(Z.double().numpy(), ref.one_hot(labels.numpy(), 3), 0.01)
    assert value.dtype == grad.dtype == torch.float32
    assert float(value) == pytest.approx(exact, rel=3e-7)


def test_large_class_names_cost_nothing(rng: np.random.Generator) -> None:
    """Names are arbitrary integers: memory grows with the tokens, not with the largest name."""
    Z, labels = rng.standard_normal((2, 12, 5)), rng.integers(0, 3, size=(2, 12))
    names = np.array([7, 10**12, 2**62])
    expected = srr.partition_coding_rate(Z, labels, eps=EPS)
    NUMPY.close(srr.partition_coding_rate(Z, names[labels], eps=EPS), expected, ulps=50)
