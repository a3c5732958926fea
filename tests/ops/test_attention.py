"""Attention operators: softmax, masks, causality, thresholds, Neumann and exact compression."""

import numpy as np
import pytest
import torch

import srr
from tests import references as ref
from tests.backends import NUMPY, Backend, to_numpy


@pytest.fixture
def heads(rng: np.random.Generator) -> np.ndarray:
    return 0.7 * rng.standard_normal((2, 3, 8, 4))


def _truth(V: np.ndarray, **options: object) -> np.ndarray:
    return ref.over_batch(lambda v: ref.naive_ssa(v, **options), (2,))(V)


def test_scale_defaults_to_one(heads: np.ndarray, backend: Backend) -> None:
    backend.close(srr.ops.ssa(backend.asarray(heads)), _truth(heads))


def test_causal_equals_the_last_row_of_every_prefix(heads: np.ndarray, library: Backend) -> None:
    V = library.asarray(heads)
    causal = to_numpy(srr.ops.ssa(V, causal=True, scale=0.5))
    for i in (0, 1, 4, 7):
        prefix = to_numpy(srr.ops.ssa(library.asarray(heads[..., : i + 1, :]), scale=0.5))
        library.close(causal[..., i, :], prefix[..., i, :])


def test_causal_rows_ignore_the_future(heads: np.ndarray) -> None:
    changed = heads.copy()
    changed[..., 5:, :] += 1.0
    before, after = srr.ops.ssa(heads, causal=True), srr.ops.ssa(changed, causal=True)
    np.testing.assert_array_equal(before[..., :5, :], after[..., :5, :])
    assert np.abs(before[..., 5:, :] - after[..., 5:, :]).max() > 0.1


def test_mssa_causal_equals_prefixes(rng: np.random.Generator, library: Backend) -> None:
    Z, U = rng.standard_normal((6, 5)), rng.standard_normal((2, 5, 3))
    whole = to_numpy(srr.mssa(library.asarray(Z), library.asarray(U), causal=True))
    for i in (0, 2, 5):
        prefix = to_numpy(srr.mssa(library.asarray(Z[: i + 1]), library.asarray(U)))
        library.close(whole[i], prefix[i])


def test_boolean_mask_with_rows_that_see_nothing(heads: np.ndarray, rng: np.random.Generator, backend: Backend) -> None:
    """A token that may attend to nothing receives zero: no NaN, and no neighbor is disturbed."""
    mask = rng.uniform(size=(8, 8)) < 0.5
    mask[2] = False
    mask[:, 2] = False
    result = to_numpy(srr.ops.ssa(backend.asarray(heads), mask=backend.asarray(mask)))
    backend.close(result, _truth(heads, mask=mask))
    assert not result[..., 2, :].any()


def test_mask_and_causal_together(heads: np.ndarray, rng: np.random.Generator, backend: Backend) -> None:
    mask = rng.uniform(size=(8, 8)) < 0.7
    result = srr.ops.ssa(backend.asarray(heads), mask=backend.asarray(mask), causal=True)
    backend.close(result, _truth(heads, mask=mask, causal=True))


def test_padding_mask_equals_shorter_sequence(rng: np.random.Generator, backend: Backend) -> None:
    Z, U = rng.standard_normal((6, 5)), rng.standard_normal((2, 5, 3))
    padded = np.concatenate([Z, 9.0 * rng.standard_normal((3, 5))])
    keys = np.arange(9) < 6
    result = srr.mssa(backend.asarray(padded), backend.asarray(U), mask=backend.asarray(keys[None, :]))
    backend.close(to_numpy(result)[:6], to_numpy(srr.mssa(backend.asarray(Z), backend.asarray(U))))


def test_masks_broadcast_over_heads_of_a_batch(rng: np.random.Generator, backend: Backend) -> None:
    """One mask (n, n) per batch item, the same for every head of mssa."""
    Z, U = rng.standard_normal((4, 6, 5)), rng.standard_normal((2, 5, 3))
    masks = rng.uniform(size=(4, 6, 6)) < 0.6
    result = srr.mssa(backend.asarray(Z), backend.asarray(U), mask=backend.asarray(masks))
    expected = [ref.naive_mssa(z, U, mask=m) for z, m in zip(Z, masks, strict=True)]
    backend.close(result, np.stack(expected))


def test_large_scores_do_not_overflow(backend: Backend) -> None:
    V = np.array([[40.0, 0.0], [0.0, 50.0], [40.0, 1.0]])
    result = to_numpy(srr.ops.ssa(backend.asarray(V)))
    assert np.isfinite(result).all()
    backend.close(result, ref.naive_ssa(V))


def test_equal_tokens_are_a_fixed_point(rng: np.random.Generator) -> None:
    V = np.broadcast_to(rng.standard_normal(4), (6, 4))
    NUMPY.close(srr.ops.ssa(np.ascontiguousarray(V)), V, ulps=20)


def test_softmax_averages_stay_in_the_convex_hull(rng: np.random.Generator) -> None:
    V = rng.standard_normal((10, 4))
    result = srr.ops.ssa(V, scale=2.0)
    assert (result <= V.max(axis=0) + 1e-12).all()
    assert (result >= V.min(axis=0) - 1e-12).all()


def test_zero_scale_is_the_mean(rng: np.random.Generator) -> None:
    V = rng.standard_normal((10, 4))
    NUMPY.close(srr.ops.ssa(V, scale=0.0), np.broadcast_to(V.mean(axis=0), V.shape))


def test_torch_takes_the_fused_kernel_and_agrees_with_the_plain_path(heads: np.ndarray) -> None:
    """NumPy runs the plain softmax, torch scaled_dot_product_attention: two computations of one operator."""
    for options in ({}, {"causal": True}, {"scale": 0.3}):
        NUMPY.close(srr.ops.ssa(torch.from_numpy(heads), **options), srr.ops.ssa(heads, **options))


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.2, 0.99])
def test_thresholded_attention(heads: np.ndarray, threshold: float, library: Backend) -> None:
    expected = ref.over_batch(lambda v: ref.naive_thresholded_ssa(v, threshold), (2,))(heads)
    library.close(srr.ops.thresholded_ssa(library.asarray(heads), threshold=threshold), expected)


def test_thresholded_mssa_sums_heads(rng: np.random.Generator, backend: Backend) -> None:
    Z, U = rng.standard_normal((7, 6)), ref.random_bases(rng, 3, 6, 2, orthogonal=True)
    expected = sum(ref.naive_thresholded_ssa(Z @ B, 0.1) @ B.T for B in U)
    backend.close(srr.ops.thresholded_mssa(backend.asarray(Z), backend.asarray(U), threshold=0.1), expected)


def test_mssa_free_output_map_and_bias(rng: np.random.Generator) -> None:
    Z, U = rng.standard_normal((2, 7, 6)), rng.standard_normal((3, 6, 2))
    out, bias = rng.standard_normal((3, 6, 2)), rng.standard_normal(6)
    tied = srr.mssa(Z, U, out=U)
    NUMPY.close(tied, srr.mssa(Z, U), ulps=20)
    NUMPY.close(srr.mssa(Z, U, out=out, bias=bias), srr.mssa(Z, U, out=out) + bias, ulps=20)


@pytest.mark.parametrize("terms", [1, 2, 3, 5])
def test_neumann_terms(rng: np.random.Generator, terms: int, library: Backend) -> None:
    Z, U = rng.standard_normal((9, 6)), ref.random_bases(rng, 3, 6, 2, orthogonal=True)
    expected = ref.naive_neumann_grad(Z, U, 3.0, terms)
    library.close(srr.ops.neumann_grad(library.asarray(Z), library.asarray(U), eps=3.0, terms=terms), expected)


def test_neumann_one_is_the_printed_first_order_form(rng: np.random.Generator) -> None:
    """Statement 10: β Z Σ U_kU_kᵀ − β² Σ V_k V_kᵀ V_k U_kᵀ."""
    Z, U = rng.standard_normal((9, 6)), ref.random_bases(rng, 2, 6, 2, orthogonal=True)
    beta = 2 / (9 * 3.0**2)
    expected = sum(beta * Z @ B @ B.T - beta**2 * (Z @ B) @ (Z @ B).T @ (Z @ B) @ B.T for B in U)
    NUMPY.close(srr.ops.neumann_grad(Z, U, eps=3.0), expected)


def test_neumann_validity_is_per_batch_item(rng: np.random.Generator) -> None:
    Z, U = rng.standard_normal((4, 9, 6)), ref.random_bases(rng, 3, 6, 2, orthogonal=True)
    expected = [max(2 / (9 * 0.25) * np.linalg.norm(z @ B, 2) ** 2 for B in U) for z in Z]
    NUMPY.close(srr.ops.neumann_validity(Z, U, eps=0.5), np.array(expected))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_leading_rows_see_all_tokens(rng: np.random.Generator, library: Backend, causal: bool, masked: bool) -> None:
    """Rows of the attention written out, one token at a time."""
    V = rng.standard_normal((2, 7, 3))
    keep = np.array([True, True, False, True, True, True, False]) if masked else np.ones(7, bool)
    expected = np.zeros((2, 4, 3))
    for b in range(2):
        for i in range(4):
            seen = [j for j in range(7) if keep[j] and (j <= i or not causal)]
            weight = np.exp([0.5 * V[b, i] @ V[b, j] for j in seen])
            expected[b, i] = weight @ V[b, seen] / weight.sum()
    mask = library.asarray(np.tile(keep, (7, 1))) if masked else None
    library.close(srr.ops.ssa(library.asarray(V), scale=0.5, causal=causal, mask=mask, rows=4), expected)


@pytest.mark.parametrize("rows", [0, 8])
def test_rows_outside_the_tokens_are_refused(rows: int) -> None:
    with pytest.raises(ValueError, match="rows"):
        srr.ops.ssa(np.ones((7, 3)), rows=rows)
    with pytest.raises(ValueError, match="rows"):
        srr.mssa(np.ones((7, 4)), np.ones((2, 4, 3)), rows=rows)


def test_one_sequence_takes_the_fused_kernel_and_keeps_second_derivatives(rng: np.random.Generator) -> None:
    """The fused kernels of torch want four axes and have no second derivative; a single sequence has three."""
    Z, U = torch.asarray(rng.standard_normal((5, 8))), torch.asarray(rng.standard_normal((2, 8, 4)))
    with torch.profiler.profile() as seen:
        srr.mssa(Z, U)
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in {event.name for event in seen.events()}
    assert torch.autograd.gradgradcheck(lambda X: srr.mssa(X, U), Z.requires_grad_())
