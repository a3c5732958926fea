"""Rows of causal attention computed alone, against the whole of it."""

import numpy as np
import pytest

from srr.ops.decoding import ssa_newest


def causal_rows(V: np.ndarray, scale: float) -> np.ndarray:
    rows = []
    for i in range(len(V)):
        weights = np.exp(scale * (V[: i + 1] @ V[i]))
        rows.append(weights / weights.sum() @ V[: i + 1])
    return np.stack(rows)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_newest_rows_are_those_of_the_definition(count: int) -> None:
    V = np.random.default_rng(0).normal(size=(2, 3, 6, 4))
    out = ssa_newest(V, count=count, scale=0.5)
    for b in range(2):
        for k in range(3):
            np.testing.assert_allclose(out[b, k], causal_rows(V[b, k], 0.5)[-count:], rtol=1e-12)


def test_more_rows_than_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="count"):
        ssa_newest(np.ones((3, 2)), count=4)
