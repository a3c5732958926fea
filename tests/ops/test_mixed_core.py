"""The mixed core: float32 tokens, Gram matrices, factors and inverses in float64, products in float32 where they keep.

Truth: sixty digits of exactly the float32 numbers that the library is given.
"""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp

import srr
from srr._array import linalg
from tests import references as ref
from tests.backends import to_numpy

BOUND = 32 * np.finfo(np.float32).eps  # 4e-6 of the norm of the gradient, and of the value
KINDS = ["gaussian", "unit", "rank two", "duplicated", "rows of any size", "columns of any size"]
EPSILONS = [1.0, 0.1, 0.01, 1e-4]


def tokens(kind: str, n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    Z = rng.standard_normal((n, d))
    if kind == "unit":
        Z /= np.linalg.norm(Z, axis=1, keepdims=True)
    elif kind == "rank two":
        Z = rng.standard_normal((n, 2)) @ rng.standard_normal((2, d))
    elif kind == "duplicated":
        Z = Z[rng.integers(0, 3, n)]
    elif kind == "rows of any size":
        Z *= 10.0 ** rng.uniform(-3, 3, (n, 1))
    elif kind == "columns of any size":
        Z *= 10.0 ** rng.uniform(-3, 0, (1, d))
    return Z.astype(np.float32)


def bases(d: int, seed: int) -> np.ndarray:
    U = ref.random_bases(np.random.default_rng(seed), 2, d, d // 2, orthogonal=True)
    return U.astype(np.float32)


def exact_rate(Z: np.ndarray, eps: float) -> tuple[mp.mpf, mp.matrix]:
    """R and its gradient."""
    A = mp.matrix(Z.astype(float).tolist())
    alpha = mp.mpf(Z.shape[1]) / (len(Z) * mp.mpf(eps) ** 2)
    M = mp.eye(Z.shape[1]) + alpha * A.T * A
    return mp.log(mp.det(M)) / 2, alpha * A * mp.inverse(M)


def exact_subspace_rate(Z: np.ndarray, U: np.ndarray, eps: float) -> tuple[mp.mpf, mp.matrix]:
    value, grad = mp.mpf(0), mp.zeros(*Z.shape)
    for base in U.astype(float):
        B = mp.matrix(base.tolist())
        V = mp.matrix(Z.astype(float).tolist()) * B
        beta = mp.mpf(B.cols) / (len(Z) * mp.mpf(eps) ** 2)
        M = mp.eye(B.cols) + beta * V.T * V
        value, grad = value + mp.log(mp.det(M)) / 2, grad + beta * V * mp.inverse(M) * B.T
    return value, grad


def exact_partition_rate(Z: np.ndarray, y: np.ndarray, eps: float) -> tuple[mp.mpf, mp.matrix]:
    value, grad = mp.mpf(0), mp.zeros(*Z.shape)
    for k in np.unique(y):
        rows = np.flatnonzero(y == k)
        part, slope = exact_rate(Z[rows], eps)
        value = value + mp.mpf(len(rows)) / len(Z) * part
        for i, row in enumerate(rows.tolist()):
            grad[row, :] = mp.mpf(len(rows)) / len(Z) * slope[i, :]
    return value, grad


def miss(found: object, truth: mp.matrix) -> float:
    exact = np.array(truth.tolist(), dtype=float)
    return float(np.linalg.norm(to_numpy(found).astype(float) - exact) / np.linalg.norm(exact))


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    size=st.sampled_from([(9, 4), (4, 9), (6, 6), (24, 4)]),
    eps=st.sampled_from(EPSILONS),
    seed=st.integers(0, 10_000),
)
def test_every_rate_keeps_its_digits_by_default(kind: str, size: tuple[int, int], eps: float, seed: int) -> None:
    """Rank-deficient, duplicated, badly scaled tokens down to ε = 1e-4: where float32 products would lose digits,
    float64 takes over."""
    Z, y = tokens(kind, *size, seed), np.arange(size[0]) % 2
    U = bases(size[1] - size[1] % 2, seed)
    with mp.workdps(60):
        whole, expand = exact_rate(Z, eps)
        parts, compress = exact_partition_rate(Z, y, eps)
        within = exact_subspace_rate(np.ascontiguousarray(Z[:, : U.shape[1]]), U, eps)
        reduction = (whole - parts, expand - compress)
    found = srr.ops.coding_rate_value_and_grad(Z, eps=eps)
    assert abs(float(found[0]) - whole) <= BOUND * whole
    assert miss(found[1], expand) <= BOUND
    found = srr.ops.partition_coding_rate_value_and_grad(Z, y, eps=eps)
    assert abs(float(found[0]) - parts) <= BOUND * parts
    assert miss(found[1], compress) <= BOUND
    found = srr.ops.rate_reduction_value_and_grad(Z, y, eps=eps)
    assert abs(float(found[0]) - reduction[0]) <= BOUND * whole
    slope, exact = to_numpy(found[1]).astype(float), np.array(reduction[1].tolist(), dtype=float)
    carried = 1e-13 * float(mp.norm(expand))  # the difference may be zero, as for equal tokens in all classes
    assert np.linalg.norm(slope - exact) <= BOUND * np.linalg.norm(exact) + carried
    found = srr.ops.subspace_coding_rate_value_and_grad(np.ascontiguousarray(Z[:, : U.shape[1]]), U, eps=eps)
    assert abs(float(found[0]) - within[0]) <= BOUND * within[0]
    assert miss(found[1], within[1]) <= BOUND


MAKE = {"numpy": np.asarray, "torch": torch.asarray, "jax": jnp.asarray}


@pytest.mark.parametrize(("library", "batched"), [("numpy", True), ("torch", True), ("torch", False), ("jax", False)])
def test_every_library_computes_the_same(library: str, batched: bool) -> None:
    make = MAKE[library]
    Z = np.stack([tokens("unit", 40, 8, 0), tokens("unit", 40, 8, 1)]) if batched else tokens("unit", 40, 8, 0)
    y, U = np.arange(40) % 3, bases(8, 2)
    for name, second in (("coding_rate", None), ("rate_reduction", y), ("subspace_coding_rate", U)):
        rest = () if second is None else (second,)
        function = getattr(srr.ops, name + "_value_and_grad")
        value, grad = function(make(Z), *map(make, rest), eps=0.3)
        assert str(grad.dtype).endswith("float32")
        wide = [r.astype(np.float64) if r.dtype == np.float32 else r for r in rest]
        exact = function(Z.astype(np.float64), *wide, eps=0.3)
        np.testing.assert_allclose(to_numpy(value), exact[0], rtol=BOUND)
        assert np.linalg.norm(to_numpy(grad) - exact[1]) <= BOUND * np.linalg.norm(exact[1])


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What the test of the products said."""
    said: list[bool] = []
    ask = linalg.product_keeps

    def note(*arguments: object) -> bool:
        said.append(ask(*arguments))
        return said[-1]

    monkeypatch.setattr(linalg, "product_keeps", note)
    monkeypatch.setattr(srr.ops.rates, "product_keeps", note)
    return said


def test_well_conditioned_tokens_stay_in_float32(verdicts: list[bool]) -> None:
    Z, y = tokens("unit", 40, 8, 0), np.arange(40) % 3
    srr.ops.coding_rate_grad(Z, eps=0.5)
    srr.ops.rate_reduction_grad(Z, y, eps=0.5)
    srr.ops.subspace_coding_rate_grad(Z, bases(8, 1), eps=0.5)
    assert len(verdicts) == 3
    assert all(verdicts)


def test_the_full_core_takes_over_where_the_product_would_lose_digits(verdicts: list[bool]) -> None:
    """Rank two at ε = 0.01: the inverse is one where there are no tokens, and small where they are."""
    Z = tokens("rank two", 40, 8, 0)
    with mp.workdps(60):
        truth = exact_rate(Z, 0.01)[1]
    assert miss(srr.ops.coding_rate_grad(Z, eps=0.01), truth) <= 2 * np.finfo(np.float32).eps
    assert verdicts == [False]


def test_core_dtype_still_chooses(verdicts: list[bool]) -> None:
    Z = torch.from_numpy(tokens("unit", 40, 8, 0))
    for dtype in (torch.float32, torch.float64):
        srr.ops.coding_rate_grad(Z, eps=0.5, core_dtype=dtype)
    assert not verdicts
    exact = srr.ops.coding_rate_grad(Z.double(), eps=0.5)
    full = srr.ops.coding_rate_grad(Z, eps=0.5, core_dtype=torch.float64)
    torch.testing.assert_close(full, exact.float(), rtol=1e-6, atol=0.0)


def test_derivatives_take_the_full_core(verdicts: list[bool]) -> None:
    """Backward, forward and second: what autograd follows is float64 throughout."""
    Z = torch.from_numpy(tokens("gaussian", 6, 4, 0))
    U = torch.from_numpy(bases(4, 1))
    for rate in (lambda X: srr.coding_rate(X, eps=0.5), lambda X: srr.subspace_coding_rate(X, U.to(X), eps=0.5)):
        X = Z.clone().requires_grad_()
        (backward,) = torch.autograd.grad(rate(X), X)
        (exact,) = torch.autograd.grad(rate(Y := Z.double().requires_grad_()), Y)
        torch.testing.assert_close(backward.double(), exact, rtol=1e-6, atol=1e-7)
        _, forward = torch.func.jvp(rate, (Z,), (torch.ones_like(Z),))
        torch.testing.assert_close(forward.double(), exact.sum(), rtol=1e-5, atol=1e-6)
    assert not verdicts


def test_plain_tensors_are_computed_in_place(rng: np.random.Generator) -> None:
    """Views, not copies, of what the caller keeps: nothing of it is written to."""
    Z = torch.from_numpy(rng.standard_normal((30, 6)))
    y, before = torch.arange(30) % 3, Z.clone()
    value, grad = srr.ops.rate_reduction_value_and_grad(Z, y, eps=0.5)
    expected = srr.ops.rate_reduction_value_and_grad(Z.numpy(), y.numpy(), eps=0.5)
    np.testing.assert_array_equal(grad.numpy(), expected[1])
    assert float(value) == float(expected[0])
    assert torch.equal(Z, before)
    assert srr.coding_rate(Z.T, eps=0.5) == srr.coding_rate(Z.T.clone(), eps=0.5)
