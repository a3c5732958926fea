"""Tokens between the layers, what reaches the head, and the module that runs: read without changing anything."""

import pytest
import torch

from srr.nn import BLOCKS, attention_maps, create_model, head_inputs, layer_states, layer_tokens
from srr.nn.probe import modules_entered


def model(**options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("crate_micro", dim=16, heads=4, head_dim=4, depth=3, **options)


IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize("recompute", [True, False])
def test_states_are_those_of_a_loop_over_the_blocks(pool: str, recompute: bool) -> None:
    net = model(pool=pool, checkpoint_blocks=recompute)
    Z = net.embed(IMAGES)
    with layer_states(net) as seen:
        scores = net(IMAGES)
    assert list(seen) == [0, 1, 2]
    for state, block in zip(seen.values(), net.blocks, strict=True):
        assert state.block is block
        torch.testing.assert_close(state.before, Z)
        Z = block(Z)
        torch.testing.assert_close(state.after, Z)
    torch.testing.assert_close(scores, net(IMAGES))


def test_every_forward_pass_fills_the_states_anew_and_gradients_flow() -> None:
    net = model()
    with layer_states(net, [-1]) as seen:
        net(IMAGES)
        first = seen[-1].after
        net(2 * IMAGES)
    assert not torch.allclose(first, seen[-1].after)
    seen[-1].after.sum().backward()
    assert net.embed.linear.weight.grad is not None


def test_nothing_is_left_behind_even_by_an_error() -> None:
    net = model()
    with pytest.raises(ValueError, match="images"), layer_states(net), head_inputs(net), modules_entered(net):
        net(torch.zeros(3))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_bad_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"layers must be in \[-3, 3\); got 3"), layer_states(model(), [3]):
        pass
    with pytest.raises(ValueError, match="layers must name at least one"), layer_states(model(), []):
        pass
    with pytest.raises(ValueError, match="network with blocks; got a Linear"), layer_states(torch.nn.Linear(2, 2)):
        pass


def test_head_inputs_are_the_pooled_tokens_and_detach_cuts_the_head_off() -> None:
    net = model()
    with head_inputs(net) as pooled:
        scores = net(IMAGES)
    torch.testing.assert_close(pooled[0], net.pool(layer_tokens(net, IMAGES)[-1]))
    torch.testing.assert_close(net.head(pooled[0]), scores)
    with head_inputs(net, detach=True) as pooled:
        net(IMAGES).sum().backward()
    assert net.embed.linear.weight.grad is None
    assert net.head.linear.weight.grad is not None
    pooled[0].sum().backward()
    assert net.embed.linear.weight.grad is not None


def test_the_module_that_runs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    net, seen = model(), []
    with modules_entered(net) as inside:
        forward = net.blocks[1].dictionary.forward
        monkeypatch.setattr(net.blocks[1].dictionary, "forward", lambda Z: seen.append(list(inside)) or forward(Z))
        net(IMAGES)
        assert inside == []
    assert seen == [["blocks.1", "blocks.1.dictionary"]]


@pytest.mark.parametrize(
    ("block", "served"),
    [(block, not block.startswith(("tssa", "tost", "crate_descent"))) for block in sorted(BLOCKS)],
)
def test_a_block_has_attention_maps_or_says_in_one_sentence_why_not(block: str, served: bool) -> None:
    net = model(block=block)
    if served:
        maps = attention_maps(net, IMAGES)
        assert maps.shape == (2, 4, 5, 5)
        torch.testing.assert_close(maps.sum(-1), torch.ones(2, 4, 5))
        return
    if block in {"tssa", "tost"}:
        maps = attention_maps(net, IMAGES)
        assert maps.shape == (2, 4, 5)
        torch.testing.assert_close(maps.sum(1), torch.ones(2, 5))
        return
    with pytest.raises(ValueError, match="has no pairwise attention map") as refused:
        attention_maps(net, IMAGES)
    assert len(str(refused.value).splitlines()) == 1


def test_maps_of_a_causal_model_look_back_only() -> None:
    net = create_model("crate_causal_micro", depth=1)
    maps = attention_maps(net, torch.randint(256, (1, 6)))
    assert maps.triu(1).abs().max() == 0
