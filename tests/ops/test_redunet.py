"""ReduNet operators against the definitions, the gradient they spell out, and the full circulant matrices."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import srr
from tests import references as ref
from tests.backends import BACKENDS, NUMPY, Backend, to_numpy

EPS = 0.5
SHAPES = [(6,), (5,), (4, 3), (3, 4), (1,), (2, 2)]
SIGNALS = [(b, s) for b in BACKENDS for s in ((5,), (4, 3), (3, 4)) if b.name != "jax" or s == (4, 3)]  # it compiles


def naive_operator(Z: np.ndarray, eps: float, weights: np.ndarray | None = None) -> np.ndarray:
    """α (I + α ZᵀWZ)⁻¹ by an explicit inverse; zero for no weight at all."""
    w = np.ones(len(Z)) if weights is None else weights
    if w.sum() == 0:
        return np.zeros((Z.shape[1],) * 2)
    alpha = Z.shape[1] / (w.sum() * eps**2)
    return alpha * np.linalg.inv(np.eye(Z.shape[1]) + alpha * Z.T @ (w[:, None] * Z))


def naive_increment(Z: np.ndarray, E: np.ndarray, C: np.ndarray, gamma: np.ndarray, Pi: np.ndarray) -> np.ndarray:
    return np.stack(
        [
            z @ E - sum(g * w * (z @ Ck) for g, w, Ck in zip(gamma, pi, C, strict=True))
            for z, pi in zip(Z, Pi, strict=True)
        ]
    )


def naive_membership(Z: np.ndarray, C: np.ndarray, sharpness: float) -> np.ndarray:
    norms = np.stack([np.linalg.norm(Z @ Ck, axis=1) for Ck in C], axis=1)
    weights = np.exp(-sharpness * (norms - norms.min(axis=1, keepdims=True)))
    return weights / weights.sum(axis=1, keepdims=True)


def orbit(X: np.ndarray, shift_axes: int) -> np.ndarray:
    """Every circular shift of every signal as a plain vector; the unshifted ones come first."""
    axes = tuple(range(-shift_axes, 0))
    shifts = itertools.product(*(range(s) for s in X.shape[X.ndim - shift_axes :]))
    return np.concatenate([np.roll(X, shift, axis=axes).reshape(len(X), -1) for shift in shifts])


@pytest.mark.parametrize("n", [4, 30])
def test_operators_are_their_definitions(rng: np.random.Generator, backend: Backend, n: int) -> None:
    Z, labels = rng.standard_normal((n, 7)), np.arange(n) % 3
    made = srr.ops.redunet_operators(backend.asarray(Z), backend.asarray(labels), eps=EPS)
    backend.close(made.E, naive_operator(Z, EPS))
    backend.close(srr.ops.expansion_operator(backend.asarray(Z), eps=EPS), naive_operator(Z, EPS))
    truth = np.stack([naive_operator(Z, EPS, w) for w in ref.one_hot(labels, 3).T])
    backend.close(made.C, truth)
    backend.close(srr.ops.compression_operators(backend.asarray(Z), backend.asarray(labels), eps=EPS), truth)
    backend.close(made.proportions, ref.one_hot(labels, 3).mean(axis=0))
    pi = ref.one_hot(labels, 3)
    gain = ref.naive_coding_rate(Z, EPS) - ref.naive_partition_coding_rate(Z, pi, EPS)
    np.testing.assert_allclose(to_numpy(made.rate_reduction), gain, rtol=2e-6 if "32" in backend.dtype else 1e-12)


def test_operators_of_memberships(rng: np.random.Generator, backend: Backend) -> None:
    Z, Pi = rng.standard_normal((2, 9, 5)), rng.dirichlet(np.ones(3), (2, 9))
    made = srr.ops.redunet_operators(backend.asarray(Z), backend.asarray(Pi), eps=EPS)
    backend.close(made.C, np.stack([[naive_operator(z, EPS, w) for w in pi.T] for z, pi in zip(Z, Pi, strict=True)]))
    backend.close(made.E, np.stack([naive_operator(z, EPS) for z in Z]))


def test_an_empty_class_has_no_operator(rng: np.random.Generator) -> None:
    Z, labels = rng.standard_normal((8, 4)), np.asarray([0, 2] * 4)
    made = srr.ops.redunet_operators(Z, labels, eps=EPS)
    assert made.C.shape == (3, 4, 4)
    assert not made.C[1].any()
    assert made.proportions.tolist() == [0.5, 0.0, 0.5]
    soft = srr.ops.redunet_operators(Z, ref.one_hot(labels, 3), eps=EPS)
    NUMPY.close(soft.C, made.C)
    assert np.isfinite(srr.ops.redunet_increment(Z, made, labels)).all()


def test_increment_is_its_definition(rng: np.random.Generator, backend: Backend) -> None:
    Z, labels, Pi = rng.standard_normal((20, 6)), rng.integers(0, 3, 20), rng.dirichlet(np.ones(3), 20)
    labels[:3] = 0, 1, 2
    made = srr.ops.redunet_operators(backend.asarray(Z), backend.asarray(labels), eps=EPS)
    E, C, gamma = (np.asarray(to_numpy(a), dtype=np.float64) for a in made[:3])
    tokens = backend.asarray(Z)
    estimated = naive_membership(Z, C, 2.0)
    backend.close(srr.ops.estimated_membership(tokens, made.C, sharpness=2.0), estimated)
    given_and_truth = [(backend.asarray(labels), ref.one_hot(labels, 3)), (backend.asarray(Pi), Pi), (None, estimated)]
    for given_pi, truth in given_and_truth:
        moved = srr.ops.redunet_increment(tokens, made, given_pi, sharpness=2.0)
        backend.close(moved, naive_increment(Z, E, C, gamma, truth), scale=1.0)


def test_increment_with_the_labels_is_the_gradient(rng: np.random.Generator) -> None:
    """Against complex-step derivatives of the rate reduction, which share no code with the operators."""
    Z, labels = rng.standard_normal((9, 4)), np.asarray([0, 1, 1, 0, 2, 2, 2, 2, 0])
    pi = ref.one_hot(labels, 3)

    def gain(X: np.ndarray) -> np.ndarray:
        alone = ref.analytic_partition_coding_rate(X, np.ones((9, 1)), EPS)
        return alone - ref.analytic_partition_coding_rate(X, pi, EPS)

    made = srr.ops.redunet_operators(Z, labels, eps=EPS)
    NUMPY.close(srr.ops.redunet_increment(Z, made, labels), ref.complex_step_gradient(gain, Z))


def test_chunks_do_not_change_the_result(rng: np.random.Generator) -> None:
    Z, labels = rng.standard_normal((1300, 3)), rng.integers(0, 2, 1300)
    made = srr.ops.redunet_operators(Z, labels, eps=EPS)
    truth = naive_increment(Z, made.E, made.C, made.proportions, naive_membership(Z, made.C, 100.0))
    NUMPY.close(srr.ops.redunet_increment(Z, made), truth)


def test_batches_are_their_items(rng: np.random.Generator) -> None:
    Z, labels = rng.standard_normal((2, 3, 8, 2, 5)), rng.permuted(np.tile([0, 1], (2, 3, 4)), axis=-1)
    made = srr.ops.redunet_operators(Z, labels, eps=EPS, shift_axes=1)
    moved = {
        True: srr.ops.redunet_increment(Z, made, labels, shift_axes=1),
        False: srr.ops.redunet_increment(Z, made, shift_axes=1),
    }
    for i, j in np.ndindex(2, 3):
        one = srr.ops.redunet_operators(Z[i, j], labels[i, j], eps=EPS, shift_axes=1)
        for whole, item in zip(made, one, strict=True):
            NUMPY.close(whole[i, j], item)
        NUMPY.close(moved[True][i, j], srr.ops.redunet_increment(Z[i, j], one, labels[i, j], shift_axes=1))
        NUMPY.close(moved[False][i, j], srr.ops.redunet_increment(Z[i, j], one, shift_axes=1))


@pytest.mark.parametrize(("backend", "sizes"), SIGNALS, ids=lambda v: getattr(v, "name", str(v)))
def test_signals_are_vectors_with_all_their_shifts(
    rng: np.random.Generator, backend: Backend, sizes: tuple[int, ...]
) -> None:
    """The per-frequency form against full matrices of the whole orbit: same increment, same rate per shift."""
    axes, C = len(sizes), 3
    X, labels = rng.standard_normal((6, C, *sizes)), np.asarray([0, 1, 1, 0, 2, 2])
    family, copies = orbit(X, axes), int(np.prod(sizes))
    everywhere = np.tile(ref.one_hot(labels, 3), (copies, 1))
    E = naive_operator(family, EPS)
    Cs = np.stack([naive_operator(family, EPS, w) for w in everywhere.T])
    signals, classes = backend.asarray(X), backend.asarray(labels)
    made = srr.ops.redunet_operators(signals, classes, eps=EPS, shift_axes=axes)
    gain = ref.naive_coding_rate(family, EPS) - ref.naive_partition_coding_rate(family, everywhere, EPS)
    np.testing.assert_allclose(
        to_numpy(made.rate_reduction) * copies, gain, rtol=1e-5 if "32" in backend.dtype else 1e-11
    )
    for pi, truth in ((classes, ref.one_hot(labels, 3)), (None, naive_membership(family[:6], Cs, 3.0))):
        moved = srr.ops.redunet_increment(signals, made, pi, sharpness=3.0, shift_axes=axes)
        expected = naive_increment(family[:6], E, Cs, np.full(3, 1 / 3), truth).reshape(X.shape)
        backend.close(moved, expected, scale=1.0)
    norms = np.stack([np.linalg.norm(family[:6] @ Ck, axis=1) for Ck in Cs], axis=1)
    backend.close(srr.ops.compression_norms(signals, made.C, shift_axes=axes), norms)


@given(sizes=st.sampled_from(SHAPES), seed=st.integers(0, 2**32 - 1), labeled=st.booleans())
def test_shifted_signals_give_shifted_increments(sizes: tuple[int, ...], seed: int, labeled: bool) -> None:
    rng, axes = np.random.default_rng(seed), len(sizes)
    X, labels = rng.standard_normal((6, 2, *sizes)), np.asarray([0, 1, 1, 0, 1, 1])
    made = srr.ops.redunet_operators(X, labels, eps=EPS, shift_axes=axes)
    shift = tuple(int(rng.integers(0, s)) for s in sizes)
    around = tuple(range(-axes, 0))
    pi = labels if labeled else None
    moved = srr.ops.redunet_increment(np.roll(X, shift, around), made, pi, shift_axes=axes)
    straight = np.roll(srr.ops.redunet_increment(X, made, pi, shift_axes=axes), shift, around)
    np.testing.assert_allclose(moved, straight, rtol=0, atol=1e-12)
    again = srr.ops.redunet_operators(np.roll(X, shift, around), labels, eps=EPS, shift_axes=axes)
    np.testing.assert_allclose(again.C, made.C, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("sizes", "kernel"), [((7,), (3,)), ((6,), (6,)), ((5, 4), (2, 3)), ((4, 6), (1, 1))])
def test_circular_convolution_is_its_sum(
    rng: np.random.Generator, sizes: tuple[int, ...], kernel: tuple[int, ...], backend: Backend
) -> None:
    Z, filters = rng.standard_normal((3, 2, *sizes)), rng.standard_normal((4, 2, *kernel))
    around = tuple(range(-len(sizes), 0))
    truth = np.zeros((3, 4, *sizes))
    for place in np.ndindex(*kernel):
        moved = np.roll(Z, place, axis=around)
        truth += np.tensordot(filters[(..., *place)], moved, axes=(1, 1)).swapaxes(0, 1)
    backend.close(srr.ops.circular_convolution(backend.asarray(Z), backend.asarray(filters)), truth)


def test_memberships_and_estimates_can_be_traced(rng: np.random.Generator) -> None:
    Z, Pi = rng.standard_normal((12, 4)), rng.dirichlet(np.ones(3), 12)
    made = srr.ops.redunet_operators(Z, Pi, eps=EPS)
    truth = srr.ops.redunet_increment(Z, made, sharpness=2.0)

    def move(tokens, membership):
        return srr.ops.redunet_increment(tokens, srr.ops.redunet_operators(tokens, membership, eps=EPS), sharpness=2.0)

    NUMPY.close(jax.jit(move)(jnp.asarray(Z), jnp.asarray(Pi)), truth)
    NUMPY.close(torch.func.vmap(move)(torch.from_numpy(Z)[None], torch.from_numpy(Pi)[None])[0], truth)


def test_operators_of_rank_one_tokens_at_a_tiny_distortion(rng: np.random.Generator) -> None:
    """A Cholesky factor of the float32 core would lose all digits here; the singular values keep them."""
    Z = np.outer(rng.standard_normal(40), rng.standard_normal(6)).astype(np.float32)
    truth = naive_operator(Z.astype(np.float64), 0.01)
    safe = srr.ops.expansion_operator(Z, eps=0.01)
    fast = srr.ops.expansion_operator(Z, eps=0.01, core_dtype=np.float32)
    errors = [np.abs(E - truth).max() / np.abs(truth).max() for E in (safe, fast)]
    assert safe.dtype == np.float32
    assert max(errors) < 2e-7


Z3 = np.ones((3, 4))
BAD = {
    "integers": (lambda: srr.ops.expansion_operator(np.ones((3, 4), dtype=int), eps=1.0), TypeError, "Z"),
    "nan": (lambda: srr.ops.expansion_operator(np.full((3, 4), np.nan), eps=1.0), ValueError, "finite"),
    "no eps": (lambda: srr.ops.expansion_operator(Z3, eps=0.0), ValueError, "eps"),
    "no axis to shift": (lambda: srr.ops.expansion_operator(Z3, eps=1.0, shift_axes=1), ValueError, "3 axes"),
    "three shift axes": (lambda: srr.ops.expansion_operator(Z3, eps=1.0, shift_axes=3), ValueError, "shift_axes"),
    "labels too short": (lambda: srr.ops.redunet_operators(Z3, np.zeros(2, dtype=int), eps=1.0), ValueError, "n=3"),
    "negative labels": (lambda: srr.ops.redunet_operators(Z3, np.asarray([0, -1, 0]), eps=1.0), ValueError, ">= 0"),
    "negative weights": (lambda: srr.ops.compression_operators(Z3, -np.ones((3, 2)), eps=1.0), ValueError, ">= 0"),
    "other size": (lambda: srr.ops.compression_norms(Z3, np.ones((2, 5, 5))), ValueError, "fit"),
    "other length": (
        lambda: srr.ops.compression_norms(np.ones((3, 2, 8)), np.ones((3, 2, 2, 2)), shift_axes=1),
        ValueError,
        "signal size",
    ),
    "blunt": (lambda: srr.ops.estimated_membership(Z3, np.ones((2, 4, 4)), sharpness=-1.0), ValueError, "sharpness"),
    "unknown label": (
        lambda: srr.ops.redunet_increment(
            Z3, srr.ops.redunet_operators(Z3, np.asarray([0, 1, 0]), eps=1.0), np.asarray([0, 2, 1])
        ),
        ValueError,
        "K=2",
    ),
    "wide filter": (
        lambda: srr.ops.circular_convolution(np.ones((3, 1, 4)), np.ones((2, 1, 5))),
        ValueError,
        "filters",
    ),
    "other channels": (
        lambda: srr.ops.circular_convolution(np.ones((3, 1, 4)), np.ones((2, 2, 3))),
        ValueError,
        "filters",
    ),
}


@pytest.mark.parametrize(("call", "error", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(call, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_a_label_names_its_class_whatever_the_number_of_tokens(rng: np.random.Generator) -> None:
    """Labels are the rows of C: they once were numbered anew where the largest was at least n."""
    few, many = rng.standard_normal((4, 3)), rng.standard_normal((20, 3))
    for Z in (few, many):
        labels = np.where(np.arange(len(Z)) % 2, 7, 0)
        made = srr.ops.redunet_operators(Z, labels, eps=EPS)
        assert made.C.shape == (8, 3, 3)
        NUMPY.close(made.C[7], naive_operator(Z, EPS, (labels == 7).astype(float)))
        assert not made.C[1:7].any()
        assert srr.ops.compression_operators(Z, labels, eps=EPS, classes=9).shape == (9, 3, 3)
    made = srr.ops.redunet_operators(many, np.arange(20) % 6, eps=EPS)
    moved = srr.ops.redunet_increment(few[:3], made, np.asarray([5, 5, 5]))
    NUMPY.close(moved, few[:3] @ made.E - made.proportions[5] * few[:3] @ made.C[5])
    torch_labels = torch.tensor([5, 5, 5])
    by_torch = srr.ops.redunet_increment(
        torch.from_numpy(few[:3]), srr.ops.ReduNetOperators(*map(torch.from_numpy, map(np.asarray, made))), torch_labels
    )
    NUMPY.close(by_torch, moved)


@pytest.mark.parametrize("largest", [10_000, 10**9, 2**62])
def test_a_huge_label_is_refused_before_any_memory_is_asked_for(largest: int) -> None:
    with pytest.raises(ValueError, match=r"^Pi as labels must lie below 10,000"):
        srr.ops.redunet_operators(Z3, np.asarray([0, largest, 1]), eps=1.0)
    with pytest.raises(ValueError, match=r"^Pi must have labels below K=2"):
        srr.ops.redunet_operators(Z3, np.asarray([0, largest, 1]), eps=1.0, classes=2)


def test_memberships_of_another_number_of_classes_are_refused() -> None:
    """One column once was broadcast to all classes."""
    made = srr.ops.redunet_operators(Z3, np.asarray([0, 1, 0]), eps=1.0)
    for K in (1, 3):
        with pytest.raises(ValueError, match=r"^Pi as membership .* K=2"):
            srr.ops.redunet_increment(Z3, made, np.ones((3, K)))
    with pytest.raises(ValueError, match=r"^Pi as membership .* K=3"):
        srr.ops.redunet_operators(Z3, np.ones((3, 2)), eps=1.0, classes=3)
