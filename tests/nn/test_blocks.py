"""Every kind of layer against its formula in NumPy, built from the operators on the stored matrices alone."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import srr
from srr.nn import BLOCKS, MSSA, Block, DecoderBlock, HalfObjective, OvercompleteISTA, ProxMM, Variant, create_model

Array = np.ndarray


def made(block: str | type[torch.nn.Module], **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    layer = (Block(block, 12, 3, 4, **options) if isinstance(block, str) else block(12, 3, 4, **options)).double()
    with torch.no_grad():  # norms that matter
        for name, parameter in layer.named_parameters():
            if any(word in name for word in ("norm", "temperature", "_step")):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def tokens() -> torch.Tensor:
    return torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def weights(layer: torch.nn.Module) -> dict[str, Array]:
    return {name: tensor.detach().numpy() for name, tensor in layer.state_dict().items()}


def norm(w: dict[str, Array], name: str, Z: Array) -> Array:
    centered = Z - Z.mean(-1, keepdims=True)
    scaled = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * w[name + ".weight"] + w[name + ".bias"]


def bases(w: dict[str, Array]) -> Array:
    return w["attention.projection"].reshape(3, 4, 12).swapaxes(1, 2)


def free_map(w: dict[str, Array]) -> Array:
    return w["attention.output"].reshape(12, 3, 4).swapaxes(0, 1)


def free(w: dict[str, Array], Z: Array) -> Array:
    return srr.mssa(Z, bases(w), out=free_map(w), bias=w.get("attention.bias"), scale=0.5)


def tied(w: dict[str, Array], Z: Array) -> Array:
    return srr.mssa(Z, bases(w), scale=0.5)


def strict(w: dict[str, Array], Z: Array) -> Array:
    return srr.mssa(Z, bases(w))


def transposed(w: dict[str, Array], Z: Array) -> Array:
    heads = srr.ops.ssa(srr.ops.project(Z, bases(w)), scale=0.5)
    return np.concatenate([heads[:, k] for k in range(3)], axis=-1) @ w["attention.projection"].T


def statistics(w: dict[str, Array], Z: Array) -> Array:
    """The released description, coordinate by coordinate."""
    out = np.zeros_like(Z)
    for b, tokens_of_one in enumerate(Z):
        V = tokens_of_one @ w["attention.projection"].T + w["attention.projection_bias"]
        V = V.reshape(7, 3, 4)
        unit = V / np.maximum(np.sqrt((V**2).sum(0, keepdims=True)), 1e-12)
        logits = (unit**2).sum(-1) * w["attention.temperature"][:, 0]
        Pi = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)  # (n, K), softmax over heads
        dots = (Pi[..., None] / (Pi.sum(0)[:, None] + 1e-8) * V**2).sum(0)  # (K, p)
        attended = -Pi[..., None] * V / (1 + dots)
        out[b] = attended.reshape(7, 12) @ w["attention.output"].T + w["attention.bias"]
    return out


def contracted(w: dict[str, Array], Z: Array) -> Array:
    """Representatives by hand: with 64 of them and 7 tokens, token i is alone in stretch ⌊64 i / 7⌋."""
    V = srr.ops.project(Z, bases(w))
    Q = np.zeros((*V.shape[:2], 64, 4))
    Q[:, :, [64 * i // 7 for i in range(7)]] = V
    scores = np.exp(Q @ V.swapaxes(-1, -2) / 2)
    A = scores / scores.sum(-1, keepdims=True)
    moved = srr.ops.ssa(Q + w["attention.contract_step"] * (A @ V), scale=0.5)
    return srr.ops.lift(w["attention.broadcast_step"] * (A.swapaxes(-1, -2) @ moved), free_map(w)) + w["attention.bias"]


def step(w: dict[str, Array], Z: Array) -> Array:
    return srr.ista_step(Z, Z, w["dictionary.D"], step=0.1, lam=0.1)


def majorized(w: dict[str, Array], Z: Array) -> Array:
    alpha = 4 / (9 * 0.1)
    return srr.ops.prox_mm_step(Z, w["dictionary.D"], alpha=alpha, lam=0.1)


def overcomplete(w: dict[str, Array], Z: Array) -> Array:
    A = np.zeros((*Z.shape[:-1], 48))
    for _ in range(2):
        A = srr.ista_step(A, Z, w["dictionary.D"], step=0.1, lam=0.1)
    return A @ w["dictionary.D1"].T


def perceptron(w: dict[str, Array], Z: Array) -> Array:
    from scipy.special import erf

    inner = Z @ w["dictionary.0.weight"].T + w["dictionary.0.bias"]
    inner = inner * (1 + erf(inner / np.sqrt(2))) / 2
    return inner @ w["dictionary.2.weight"].T + w["dictionary.2.bias"]


Half = Callable[[dict[str, Array], Array], Array]
FORMULAS: dict[str, tuple[Half, float, Half | None, float]] = {
    "crate": (free, 1, step, 0),
    "crate_c": (tied, 1, step, 0),
    "crate_n": (tied, -1, step, 0),
    "crate_t": (transposed, 1, step, 0),
    "crate_fix": (free, 1, step, 0),
    "crate_strict": (strict, 1, step, 0),
    "crate_prox_mm": (free, 1, majorized, 0),
    "alpha": (free, 1, overcomplete, 1),
    "attention_only": (free, 1, None, 1),
    "tssa": (statistics, 1, step, 0),
    "tost": (statistics, 1, perceptron, 1),
    "cbsa": (contracted, 1, step, 0),
}
"""Attention, its sign, the second half, the weight of the residual around it."""


def test_every_kind_has_a_formula() -> None:
    """Those that move tokens on a sphere have theirs in test_descent."""
    assert FORMULAS.keys() == {name for name, row in BLOCKS.items() if not row.moves}


def test_every_kind_is_in_the_documents() -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    assert [name for name in BLOCKS if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize("block", [*FORMULAS, DecoderBlock])
def test_every_half_says_what_it_is_a_step_on(block: str | type[torch.nn.Module]) -> None:
    halves = made(block).objective
    assert len(halves) == 2
    for half in halves.values():
        assert half.formula
        assert half.note
        assert half.descends is None or half.function is not None


def test_descent_is_claimed_where_it_is_proved() -> None:
    """Of the released layers, only the codes of alpha start from a feasible point: there the claim is checked.

    Those that are made to descend are checked in test_descent.
    """
    claimed = {name for name in BLOCKS if any(half.descends for half in Block(name, 12, 3, 4).objective.values())}
    assert claimed == {"alpha", *(name for name, row in BLOCKS.items() if row.moves)}
    layer = OvercompleteISTA(12, lam=0.05).double()
    with torch.no_grad():
        layer.D.mul_(1 / (layer.step**0.5 * torch.linalg.matrix_norm(layer.D, 2)))  # η = 1/‖D‖₂²
    Z, D = tokens().numpy(), layer.D.detach().numpy()
    first = np.maximum(layer.step * Z @ D - layer.step * 0.05, 0)
    costs = [
        0.5 * ((Z - A @ D.T) ** 2).sum() + 0.05 * np.abs(A).sum()
        for A in (np.zeros_like(first), first, layer.codes(tokens()).detach().numpy())
    ]
    assert costs[0] > costs[1] > costs[2]


def test_a_row_of_ones_own_is_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tied attention, subtracted, and nothing else: by the row itself, and by its name in a model."""
    row = Variant(
        partial(MSSA, tied=True),
        None,
        "nowhere",
        HalfObjective("Z⁺ = Z − MSSA(LN Z)", None, "an example"),
        BLOCKS["attention_only"].sparsifies,
        sign=-1,
    )
    layer = Block(row, 12, 3, 4).double()
    w, Z = weights(layer), tokens().numpy()
    wanted = Z - tied(w, norm(w, "attention_norm", Z))
    np.testing.assert_allclose(layer(tokens()).detach().numpy(), wanted, rtol=1e-11, atol=1e-11)
    monkeypatch.setitem(BLOCKS, "mine", row)
    assert create_model("crate_micro", block="mine").blocks[0].variant is row
    with pytest.raises(ValueError, match="block must be one of"):
        Block("nothing", 12, 3, 4)


@pytest.mark.parametrize("block", FORMULAS)
@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_layer_is_its_formula(block: str, training: bool) -> None:
    layer = made(block).train(training)
    w, Z = weights(layer), tokens().numpy()
    attention, sign, second, residual = FORMULAS[block]
    half = Z + sign * attention(w, norm(w, "attention_norm", Z))
    wanted = half if second is None else residual * half + second(w, norm(w, "dictionary_norm", half))
    np.testing.assert_allclose(layer(tokens()).numpy(), wanted, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(layer.compress(tokens()).numpy(), half, rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_decoder_layer_is_its_formula() -> None:
    layer = made(DecoderBlock)
    w, Z = weights(layer), tokens().numpy()
    half = norm(w, "dictionary_norm", Z) @ w["D"].T
    wanted = half - free(w, norm(w, "attention_norm", half))
    np.testing.assert_allclose(layer(tokens()).numpy(), wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("block", [*FORMULAS, DecoderBlock])
def test_every_parameter_receives_a_gradient(block: str | type[torch.nn.Module]) -> None:
    layer = made(block)
    layer(tokens()).pow(3).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("block", [*FORMULAS, DecoderBlock])
def test_padding_is_invisible_and_order_does_not_matter(block: str | type[torch.nn.Module]) -> None:
    layer, Z = made(block), tokens()
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, 4:] = False
    out = layer(Z, mask)
    torch.testing.assert_close(out[0, :4], layer(Z[:1, :4])[0], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(out[1], layer(Z[1:])[0], rtol=1e-11, atol=1e-11)
    if block == "cbsa":
        return  # representatives are means of stretches of the sequence
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(Z[:, order]), layer(Z)[:, order], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("block", ["tssa", "tost"])
def test_token_statistics_with_padding_equal_those_of_the_real_tokens(block: str) -> None:
    layer, Z = made(block, causal=True), tokens()
    mask = torch.tensor([True, False, True, True, False, True, True]).expand(2, 7)
    torch.testing.assert_close(layer(Z, mask)[:, mask[0]], layer(Z[:, mask[0]]), rtol=1e-11, atol=1e-11)


def test_offsets_of_a_causal_layer_count() -> None:
    from srr.nn import TSSA

    layer = TSSA(12, 3, 4, causal=True, context=7).double()
    before = layer(tokens())
    with torch.no_grad():
        layer.offset[1, 3] += 1.0
    changed = (layer(tokens()) - before).abs().sum((0, 2)) > 1e-9
    assert changed.tolist() == [False] * 3 + [True] * 4


def test_dictionaries_refuse_bad_numbers() -> None:
    for kind in (OvercompleteISTA, ProxMM):
        with pytest.raises(ValueError, match="step"):
            kind(8, step=0.0)
        with pytest.raises(ValueError, match="lam"):
            kind(8, lam=-1.0)
    with pytest.raises(ValueError, match="expansion"):
        OvercompleteISTA(8, expansion=0)


def test_overcomplete_codes_are_sparse_and_non_negative() -> None:
    layer = OvercompleteISTA(12).double()
    A = layer.codes(torch.nn.functional.layer_norm(tokens(), (12,)))
    assert A.shape == (2, 7, 48)
    assert A.min() == 0
    assert 0.05 < (A > 0).double().mean() < 0.95
