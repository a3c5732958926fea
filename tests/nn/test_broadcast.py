"""Means of stretches and contract-and-broadcast attention against their definitions."""

import numpy as np
import pytest

from srr.ops.attention import contract_broadcast, stretch_means


@pytest.mark.parametrize(("n", "count"), [(12, 4), (7, 3), (3, 5), (1, 1)])
def test_means_are_those_of_a_loop(n: int, count: int) -> None:
    V = np.random.default_rng(0).normal(size=(2, 3, n, 4))
    wanted = np.zeros((2, 3, count, 4))
    for i in range(count):
        inside = [j for j in range(n) if j * count // n == i]
        if inside:
            wanted[:, :, i] = V[:, :, inside].mean(2)
    np.testing.assert_allclose(stretch_means(V, count=count), wanted, rtol=1e-12, atol=1e-15)


def test_padding_does_not_count() -> None:
    V = np.random.default_rng(0).normal(size=(2, 6, 4))
    mask = np.asarray([[True, False, True, True, False, True], [True] * 6])
    out = stretch_means(V, count=2, mask=mask)
    np.testing.assert_allclose(out[0], stretch_means(V[0][mask[0]], count=2), rtol=1e-12)
    np.testing.assert_allclose(out[1], stretch_means(V[1], count=2), rtol=1e-12)


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_contraction_is_broadcast_by_the_same_weights() -> None:
    generator = np.random.default_rng(0)
    V, Q = generator.normal(size=(7, 4)), generator.normal(size=(3, 4))
    A = softmax(0.5 * Q @ V.T)
    moved = Q + 0.3 * A @ V
    wanted = A.T @ softmax(0.5 * moved @ moved.T) @ moved
    np.testing.assert_allclose(contract_broadcast(V, Q, step=0.3, scale=0.5), wanted, rtol=1e-12)
    hidden = np.asarray([True] * 5 + [False] * 2)[None, :]
    out = contract_broadcast(V, Q, step=0.3, scale=0.5, mask=hidden)
    np.testing.assert_allclose(out[:5], contract_broadcast(V[:5], Q, step=0.3, scale=0.5), rtol=1e-12)
    np.testing.assert_allclose(out[5:], 0)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="count"):
        stretch_means(np.ones((3, 2)), count=0)
    with pytest.raises(ValueError, match="mask"):
        stretch_means(np.ones((3, 2)), count=1, mask=np.ones(4, dtype=bool))
    with pytest.raises(ValueError, match="representatives"):
        contract_broadcast(np.ones((3, 2)), np.ones((2, 3)))
