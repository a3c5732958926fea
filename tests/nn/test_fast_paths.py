"""What the speed rests on: the fused attention kernel runs, half precision agrees, memory and products are saved."""

import statistics

import pytest
import torch
from torch import nn

from srr._array import namespace
from srr.nn import ISTA, PatchEmbedding, create_model
from srr.nn.layers import TORCH
from srr.ops.attention import bare_ssa
from tests.benchmarks.reference_crate import reference_crate, twin_weights

SMALL = {"dim": 64, "heads": 4, "head_dim": 16, "depth": 3}


@pytest.fixture(scope="module")
def twins():
    """The reference and ours with the same weights, and images."""
    torch.manual_seed(0)
    reference = reference_crate("tiny", **SMALL, image=64, patch=8, classes=10)
    model = create_model("crate_tiny", **SMALL, image_size=64, patch_size=8, num_classes=10)
    twin_weights(reference, model)
    return reference, model, torch.randn(8, 3, 64, 64)


def gradients(model: nn.Module, images: torch.Tensor, half: bool = False) -> dict[str, torch.Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        loss = nn.functional.cross_entropy(model(images), torch.arange(len(images)))
    loss.backward()
    return {name: p.grad.flatten().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("train", [False, True])
def test_outputs_equal_the_plain_form(twins, train):
    reference, model, images = twins
    torch.testing.assert_close(model.train(train)(images), reference.train(train)(images), rtol=1e-4, atol=1e-5)


def test_gradients_equal_the_plain_form(twins):
    reference, model, images = twins
    ours, theirs = gradients(model.train(), images), gradients(reference.train(), images)
    norm = lambda grads: float(torch.cat(list(grads.values())).norm())  # noqa: E731
    assert norm(ours) == pytest.approx(norm(theirs), rel=1e-5)
    torch.testing.assert_close(
        ours["blocks.0.dictionary.D"], theirs["transformer.layers.0.1.fn.weight"], rtol=1e-3, atol=1e-6
    )


def half_cosine(model: nn.Module, images: torch.Tensor) -> float:
    """Cosine between the gradients in half and in full precision."""
    full, half = gradients(model.train(), images), gradients(model, images, half=True)
    return float(torch.cosine_similarity(torch.cat(list(full.values())), torch.cat(list(half.values())), dim=0))


def test_bfloat16_training_agrees_with_float32(twins):
    """Rounding alone puts some draws below 0.999, in the plain form too: half of them lie above, none is far off."""
    reference, model, images = twins
    draws = [torch.randn_like(images) for _ in range(7)]
    ours, plain = ([half_cosine(net, x) for x in draws] for net in (model, reference))
    assert statistics.median(ours) > 0.999
    assert 1 - min(ours) < 3 * (1 - min(plain)) + 1e-3
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model.eval()(images)
    with torch.no_grad():
        assert float(torch.cosine_similarity(logits.float(), model(images), dim=-1).min()) > 0.999


@pytest.mark.parametrize("train", [False, True])
def test_the_fused_attention_kernel_runs_once_a_layer(twins, train):
    _, model, images = twins
    model.train(train)
    with torch.profiler.profile() as profile:
        loss = model(images).sum()
        if train:
            loss.backward()
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["aten::_scaled_dot_product_flash_attention_for_cpu"] == SMALL["depth"]
    assert not any("attention_math" in name or name == "aten::_softmax" for name in calls)


def saved_bytes(model: nn.Module, images: torch.Tensor) -> int:
    """Bytes that autograd keeps for the backward pass, every storage counted once."""
    storages = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = model(images).sum()
    del loss
    return sum(storages.values())


def test_a_training_step_keeps_less_than_the_plain_form(twins):
    reference, model, images = twins
    assert saved_bytes(model.train(), images) < 0.8 * saved_bytes(reference.train(), images)


def test_ista_takes_five_products():
    """Two in the forward pass, three in the backward pass; the plain form takes three and six."""
    layer, Z = ISTA(32), torch.randn(4, 40, 32, requires_grad=True)
    with torch.profiler.profile() as profile:
        layer(Z).sum().backward()
    products = sum(e.count for e in profile.key_averages() if e.key in ("aten::mm", "aten::addmm", "aten::bmm"))
    assert products == 5  # Z M, DᵀD; back: to Z, to M, to D


def test_gradients_of_both_orders_pass_through_the_folded_step():
    layer = ISTA(3).double()
    Z = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    D = layer.D.detach().clone().requires_grad_()

    def step(Z: torch.Tensor, D: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"D": D}, (Z,))

    assert torch.autograd.gradcheck(step, (Z, D))
    assert torch.autograd.gradgradcheck(step, (Z, D))


@pytest.mark.parametrize("norm", [True, False])
def test_patches_with_channels_slowest_give_the_same_tokens(norm):
    torch.manual_seed(0)
    embed = PatchEmbedding((6, 8), (3, 2), channels=3, dim=5, norm=norm).double()
    if norm:
        nn.init.normal_(embed.patch_norm.weight)
        nn.init.normal_(embed.patch_norm.bias)
    images = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    found = []
    for watched in (False, True):  # a hook may ask for patches in the released order
        handle = embed.linear.register_forward_hook(lambda *_: None) if watched else None
        embed.zero_grad()
        tokens = embed(images)
        tokens.square().sum().backward()
        found.append([tokens.detach(), *(p.grad.clone() for p in embed.parameters())])
        if handle:
            handle.remove()
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-12, atol=1e-12)
    patches = [images[0, :, 3:6, 2:4].permute(1, 2, 0).flatten()]  # second row, second column, channel fastest
    want = embed.token_norm(embed.linear(embed.patch_norm(patches[0])))
    torch.testing.assert_close(embed(images)[0, 6] - embed.positions[0, 6], want)


@pytest.mark.parametrize("rows", [None, 2])
def test_attention_written_out_in_half_precision_is_attention(rows, monkeypatch):
    monkeypatch.setattr(namespace, "multiplies_bfloat16", lambda: True)
    calls = []
    plain = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        nn.functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or plain(*a, **k)
    )
    V = torch.randn(2, 3, 9, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    grads = []
    for dtype in (torch.bfloat16, torch.float64):
        X = V.detach().to(dtype).requires_grad_()
        if dtype == torch.bfloat16:
            out = bare_ssa(X, 0.5, False, None, rows, TORCH)
        else:
            out = (X[..., :rows, :] @ X.mT * 0.5).softmax(-1) @ X
        out.sum().backward()
        grads.append((out.detach().double(), X.grad.double()))
    assert not calls
    for half, exact in zip(*grads, strict=True):
        assert float((half - exact).norm() / exact.norm()) < 2e-2
    bare_ssa(V.float(), 0.5, False, None, rows, TORCH)
    bare_ssa(V, 0.5, True, None, None, TORCH)
    assert len(calls) == 2  # float32, and causal rows, keep the fused kernel
