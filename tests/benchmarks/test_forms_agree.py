"""Every fast path equals its reference path: what the benchmarks compare computes the same thing."""

import pytest
import torch
from torch.nn import functional

import srr
from srr._array.namespace import namespace
from srr.ops.rates import Segments, shared_reduction
from tests.benchmarks import reference_rates as naive

EPS = 0.5


def tokens(n, d, dtype=torch.float64, seed=0):
    Z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(Z, dim=-1).to(dtype)


@pytest.mark.parametrize("sizes", [(40, 40, 40), (9, 30, 60, 1), (7, 0, 12), (9, 9)])
def test_shared_reduction_is_the_general_one(sizes):
    Z, labels = tokens(sum(sizes), 12), torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    value, grad = shared_reduction(Z, Segments.of(labels, Z), EPS, 1e-13, namespace(Z))
    compressed, compress = srr.ops.partition_coding_rate_value_and_grad(Z, labels, eps=EPS)
    expanded, expand = srr.ops.coding_rate_value_and_grad(Z, eps=EPS)
    torch.testing.assert_close(value, expanded - compressed, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(grad, expand - compress, rtol=1e-10, atol=1e-12)


def test_shared_reduction_steps_aside_where_it_would_lose_digits():
    Z, labels = tokens(40, 3, torch.float32) @ tokens(3, 12, torch.float32), torch.arange(40) % 2
    xp = namespace(Z)
    parts = Segments.of(labels, Z)
    assert shared_reduction(Z, parts, 1e-6, 1e-5, xp) is None
    assert shared_reduction(tokens(40, 100), parts, EPS, 1e-13, xp) is None
    assert shared_reduction(tokens(40, 30), parts, EPS, 1e-13, xp) is None  # 20 tokens a class
    assert shared_reduction(Z, functional.one_hot(labels).float(), EPS, 1e-5, xp) is None
    assert shared_reduction(Z.double().requires_grad_(), parts, EPS, 1e-13, xp) is None


@pytest.mark.parametrize("shape", [(300, 20), (20, 300), (3, 50, 50)])
def test_resolvent_by_a_product_is_the_one_by_solves(shape):
    A = tokens(shape[0] * (shape[1] if len(shape) == 3 else 1), shape[-1]).reshape(shape)
    got = srr.ops.gram_resolvent(A, 7.0)
    M = torch.eye(shape[-1], dtype=A.dtype) + 7.0 * A.mT @ A
    torch.testing.assert_close(got, torch.linalg.solve(M, A.mT).mT, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("n", "d", "K"), [(100, 16, 5), (30, 64, 4)])
def test_reference_forms_measure_the_same_thing(n, d, K):
    Z, labels = tokens(n, d), torch.arange(n) % K
    Pi = functional.one_hot(labels).double()
    U = torch.linalg.qr(tokens(d, d, seed=2))[0].reshape(d, 4, d // 4).movedim(1, 0)
    pairs = [
        (
            srr.ops.rate_reduction_value_and_grad(Z, labels, eps=EPS),
            naive.with_gradient(naive.rate_reduction, Z, Pi, EPS),
        ),
        (srr.ops.coding_rate_value_and_grad(Z, eps=EPS), naive.with_gradient(naive.coding_rate, Z, EPS)),
        (
            srr.ops.subspace_coding_rate_value_and_grad(Z, U, eps=EPS),
            naive.with_gradient(naive.subspace_coding_rate, Z, U, EPS),
        ),
    ]
    for fast, plain in pairs:
        torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-12)
