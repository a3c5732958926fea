"""The language model: what it may see, incremental reading, sampling, masks."""

import pytest
import torch

from srr.nn import BLOCKS, CausalCRATE, create_model

WHOLE = ("cbsa", "crate_descent", "crate_descent_zero")  # move a token by what is known of all
ALL = sorted(BLOCKS.keys() - set(WHOLE))


def model(block: str = "crate", **overrides: object) -> CausalCRATE:
    torch.manual_seed(0)
    options = {
        "vocabulary": 11,
        "context": 12,
        "dim": 16,
        "depth": 2,
        "heads": 4,
        "head_dim": 4,
        "position_std": 1.0,
        "block": block,
    }
    return create_model("crate_causal_micro", **{**options, **overrides}).double().eval()


def text(n: int = 9, batch: int = 3) -> torch.Tensor:
    return torch.randint(11, (batch, n), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("block", ALL)
@torch.no_grad()
def test_later_symbols_are_unseen(block: str) -> None:
    net, symbols = model(block), text()
    other = symbols.clone()
    other[:, 5:] = (other[:, 5:] + 1) % 11
    torch.testing.assert_close(net(symbols)[:, :5], net(other)[:, :5], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(net(symbols)[:, :5], net(symbols[:, :5]), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(net(symbols)[:, 5:], net(other)[:, 5:])


@pytest.mark.parametrize("block", ALL)
@pytest.mark.parametrize("pieces", [[9], [1] * 9, [4, 1, 3, 1]])
@torch.no_grad()
def test_reading_in_pieces_equals_reading_at_once(block: str, pieces: list[int]) -> None:
    net, symbols = model(block), text()
    state, scores = net.start(), []
    for piece in symbols.split(pieces, dim=1):
        score, state = net.extend(piece, state)
        scores.append(score)
    torch.testing.assert_close(torch.cat(scores, dim=1), net(symbols), rtol=1e-11, atol=1e-11)
    assert state.length == 9
    assert state.coordinates[0].shape == (3, 4, 9, 4)


@pytest.mark.parametrize("block", ALL)
@torch.no_grad()
def test_padding_is_invisible(block: str) -> None:
    net, symbols = model(block), text()
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[0, 2] = False
    other = symbols.clone()
    other[0, 2] = (other[0, 2] + 1) % 11
    one, two = net(symbols, mask), net(other, mask)
    keep = mask[..., None].expand_as(one)
    torch.testing.assert_close(one[keep], two[keep], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", ALL)
def test_every_parameter_receives_a_gradient(block: str) -> None:
    net = model(block, context=9).train()
    symbols = text()
    scores = net(symbols)
    torch.nn.functional.cross_entropy(scores[:, :-1].flatten(0, 1), symbols[:, 1:].flatten()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_sampling_follows_the_full_forward_pass() -> None:
    net = model()
    out = net.generate(text(3), 6, temperature=0)
    grown = text(3)
    for _ in range(6):
        with torch.no_grad():
            grown = torch.cat((grown, net(grown)[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(out, grown)


def test_sampling_is_reproducible_and_goes_beyond_the_context() -> None:
    net = model()
    one, same, other = (net.generate(text(3), 30, seed=seed, top_k=5) for seed in (4, 4, 5))
    assert one.shape == (3, 33)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(one[:, :3], text(3))


def test_one_of_the_likeliest_is_drawn() -> None:
    net = model()
    out = net.generate(text(4, batch=1).expand(200, -1), 1, top_k=2, seed=0)[:, -1]
    with torch.no_grad():
        likeliest = net(text(4, batch=1))[0, -1].topk(2).indices
    assert set(out.tolist()) <= set(likeliest.tolist())
    assert len(set(out.tolist())) == 2


def test_bad_requests_are_refused() -> None:
    net = model()
    with pytest.raises(ValueError, match="context=12"):
        net(text(13))
    with pytest.raises(ValueError, match="prompt"):
        net.generate(text(3)[:, :0], 2)
    with pytest.raises(ValueError, match="temperature"):
        net.generate(text(3), 2, temperature=-1.0)
    with pytest.raises(ValueError, match="count"):
        net.generate(text(3), 0)
    for block in WHOLE:
        with pytest.raises(ValueError, match="no causal form"):
            model(block)
    bidirectional = create_model("crate_micro").blocks[0]
    with pytest.raises(ValueError, match="causal"):
        bidirectional.extend(torch.zeros(1, 2, 64))
