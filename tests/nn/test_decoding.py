"""Rows of causal attention computed alone, against the whole of it."""

import numpy as np
import pytest
import torch

from srr.nn import create_model
from srr.ops.attention import ssa_newest


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


def test_masked_rows_are_those_of_the_sequence_without_the_hidden_tokens() -> None:
    V = np.random.default_rng(1).normal(size=(6, 4))
    keep = np.array([False, True, True, False, True, True])
    out = ssa_newest(V, count=2, scale=0.5, mask=keep)
    np.testing.assert_allclose(out, causal_rows(V[keep], 0.5)[-2:], rtol=1e-12)


def test_a_mask_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="mask"):
        ssa_newest(np.ones((3, 2)), count=1, mask=np.ones(4, bool))
    with pytest.raises(TypeError, match="mask"):
        ssa_newest(np.ones((3, 2)), count=1, mask=np.ones(3))


@pytest.mark.parametrize("block", ["crate", "tssa"])
@pytest.mark.parametrize("pieces", [(7,), (4, 1, 2), (1,) * 7])
def test_padded_prompts_decode_as_the_whole_pass_scores_them(block: str, pieces: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = create_model("crate_causal_micro", block=block).double().eval()
    text = torch.randint(256, (3, 7))
    mask = torch.arange(7) >= torch.tensor([[0], [2], [4]])  # padded on the left
    whole, state, scores = model(text, mask), model.start(), []
    for symbols, real in zip(text.split(pieces, dim=1), mask.split(pieces, dim=1), strict=True):
        found, state = model.extend(symbols, state, real)
        scores.append(found)
    torch.testing.assert_close(torch.cat(scores, dim=1)[mask], whole[mask], rtol=1e-10, atol=1e-10)


def test_padding_never_reaches_the_real_symbols() -> None:
    model = create_model("crate_causal_micro").double().eval()
    text, mask = torch.randint(256, (1, 6)), torch.tensor([[False, False, True, True, True, True]])
    other = torch.cat((torch.randint(256, (1, 2)), text[:, 2:]), dim=1)
    first, _ = model.extend(text, model.start(), mask)
    second, _ = model.extend(other, model.start(), mask)
    assert torch.equal(first[:, 2:], second[:, 2:])


def test_generation_of_padded_prompts_ignores_the_padding_even_when_the_context_overflows() -> None:
    model = create_model("crate_causal_micro", context=8).eval()
    prompt, mask = torch.randint(256, (2, 6)), torch.tensor([[False] * 3 + [True] * 3, [True] * 6])
    other = prompt.clone()
    other[0, :3] = torch.randint(256, (3,))
    first = model.generate(prompt, 7, mask=mask, temperature=0)
    assert torch.equal(first[:, 6:], model.generate(other, 7, mask=mask, temperature=0)[:, 6:])
    with pytest.raises(ValueError, match="left"):
        model.generate(prompt, 1, mask=mask.flip(1))
