"""Features before the head, a network without one, other image sizes, and layers inside a network of one's own."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor, nn

import srr
from srr.nn import (
    Block,
    Preprocessing,
    attention_maps,
    create_model,
    layer_states,
    layer_tokens,
    load_classifier,
    load_model,
    segment,
)

CLASSIFIERS = [
    ("crate_micro", {}),
    ("crate_micro", {"pool": "cls"}),
    ("crate_descent_micro", {}),
    ("tost_micro", {}),
    ("cbt_micro", {}),
]


def model(name: str = "crate_micro", **options: Any) -> Any:
    torch.manual_seed(0)
    return create_model(name, **options).eval()


def images(net: Any, rows: int | None = None, columns: int | None = None) -> Tensor:
    grid = rows or net.config.grid[0], columns or net.config.grid[1]
    height, width = (patches * net.config.patch_size for patches in grid)
    return torch.rand(2, net.config.channels, height, width, generator=torch.Generator().manual_seed(1))


def normed(token: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Layer norm written out."""
    centered = token - token.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


@pytest.mark.parametrize(("name", "options"), CLASSIFIERS)
def test_the_head_by_hand_on_the_features_gives_the_scores(name: str, options: dict[str, Any]) -> None:
    net = model(name, **options)
    x = images(net)
    tokens = net.forward_features(x)
    assert tokens.shape == (2, 1 + math.prod(net.config.grid), net.config.dim)
    pooled = tokens.sum(1) / tokens.shape[1] if net.config.pool == "mean" else tokens[:, 0]
    features = normed(pooled, net.head.norm)
    torch.testing.assert_close(net.forward_head(tokens, pre_logits=True), features)
    by_hand = torch.einsum("bd,cd->bc", features, net.head.linear.weight) + net.head.linear.bias
    torch.testing.assert_close(net(x), by_hand)


def test_the_mean_of_padded_images_is_over_real_tokens() -> None:
    net = model()
    x, mask = images(net), torch.tensor([[True, True, False, False], [True] * 4])
    tokens = net.forward_features(x, mask)
    pooled = torch.stack([tokens[0, :3].mean(0), tokens[1].mean(0)])  # the class token and the real patches
    torch.testing.assert_close(net.forward_head(tokens, mask), net.head.linear(normed(pooled, net.head.norm)))
    torch.testing.assert_close(net.forward_head(tokens, mask), net(x, mask))


@pytest.mark.parametrize(("name", "options"), CLASSIFIERS)
def test_without_classes_a_network_gives_what_the_linear_map_reads(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    net = model(name, num_classes=5, **options)
    net.save_pretrained(tmp_path)
    bare = load_model(tmp_path, num_classes=0)
    x = images(net)
    torch.testing.assert_close(net.head.linear(bare(x)), net(x))
    assert {"head.linear.weight", "head.linear.bias"} == net.state_dict().keys() - bare.state_dict().keys()


def test_a_network_saved_without_classes_comes_back_and_takes_a_new_head(tmp_path: Path) -> None:
    bare = model(num_classes=0)
    bare.save_pretrained(tmp_path)
    x = images(bare)
    assert torch.equal(load_model(tmp_path)(x), bare(x))
    with pytest.warns(UserWarning, match="0 classes and the model 3"):
        headed = load_model(tmp_path, num_classes=3)
    torch.testing.assert_close(headed.forward_head(headed.forward_features(x), pre_logits=True), bare(x))
    with pytest.raises(ValueError, match="num_classes must be"):
        create_model("crate_micro", num_classes=-1)


def cubic(x: float, a: float = -0.5) -> float:
    """Keys' kernel."""
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resampling(old: int, new: int) -> np.ndarray:
    """Matrix (new, old): kernel at the distance of centers, wider where the grid shrinks, rows that sum to one."""
    stretch = max(old / new, 1.0)
    centers = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.array([[cubic((j - c) / stretch) for j in range(old)] for c in centers])
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("grid", [(3, 5), (1, 2), (4, 4)])
def test_positions_of_another_grid_are_resampled_row_by_row(grid: tuple[int, int]) -> None:
    net = model(image_size=16, any_size=True).double()  # 4 × 4 patches
    x = images(net, *grid).double()
    table = net.embed.positions.detach()[0].numpy().copy()
    picture = table[1:].reshape(4, 4, -1)
    resized = np.einsum("ix,jy,xyd->ijd", resampling(4, grid[0]), resampling(4, grid[1]), picture)
    positions = np.concatenate([table[:1], resized.reshape(-1, table.shape[1])])
    net.embed.positions.data.zero_()
    without = net.embed(x).detach().numpy()
    net.embed.positions.data.copy_(torch.from_numpy(table)[None])
    np.testing.assert_allclose(net.embed(x).detach().numpy(), without + positions, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), CLASSIFIERS)
def test_its_own_size_goes_through_unchanged_and_others_as_in_a_network_of_that_size(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    net = model(name, **options)
    net.save_pretrained(tmp_path)
    free = load_model(tmp_path, any_size=True)
    assert torch.equal(free(images(net)), net(images(net)))
    x = images(net, 3, 3)
    made_for_it = load_model(tmp_path, image_size=x.shape[-1])
    assert torch.equal(free(x), made_for_it(x))
    assert len(free.state_dict()) == len(net.state_dict())
    with pytest.raises(ValueError, match="images must have shape"):
        net(x)
    with pytest.raises(ValueError, match="multiple of patch_size"):
        free(torch.rand(1, net.config.channels, 3, 3))
    with pytest.raises(ValueError, match="images must have shape"):
        free(x[:, 0])


def test_gradients_reach_positions_of_another_size_and_masks_have_it() -> None:
    net = model(any_size=True)
    x = images(net, 3, 2)
    net(x, torch.ones(2, 6, dtype=torch.bool)).sum().backward()
    assert bool((net.embed.positions.grad != 0).any())
    assert segment(net, x)["pca"].shape == (2, 12, 8)


def test_windows_of_an_oblong_grid_are_refused() -> None:
    net = model("cbt_micro", any_size=True)
    with pytest.raises(ValueError, match="square ones"):
        net(images(net, 2, 8))


def classifier(folder: Path, **options: Any) -> Any:
    net = model(num_classes=2)
    net.preprocessing = Preprocessing(mean=(0.25,), std=(0.5,), classes=("cat", "dog"))
    net.save_pretrained(folder)
    return net, load_classifier(folder, **options)


def test_a_classifier_has_features_of_images_and_files(tmp_path: Path) -> None:
    from PIL import Image

    net, found = classifier(tmp_path / "m")
    pixels = (255 * images(net)[:, 0]).to(torch.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture.numpy()).save(tmp_path / f"{i}.png")
    features = found.features(pixels[:, None])
    with torch.no_grad():
        tokens = net.forward_features((pixels[:, None] / 255 - 0.25) / 0.5)
    torch.testing.assert_close(features, normed(tokens.mean(1), net.head.norm))
    torch.testing.assert_close(found.features([tmp_path / "0.png", tmp_path / "1.png"], batch_size=1), features)
    chances = scipy.special.softmax(net.head.linear(features).detach().numpy(), axis=-1)
    np.testing.assert_allclose(found.predict(pixels[:, None]).probabilities, chances, rtol=1e-5)
    bare = load_classifier(tmp_path / "m", num_classes=0)
    torch.testing.assert_close(bare.features(pixels[:, None]), features)
    with pytest.raises(ValueError, match="no classes"):
        bare.predict(pixels[:, None])


def test_a_classifier_takes_other_sizes_where_asked(tmp_path: Path) -> None:
    net, found = classifier(tmp_path, any_size=True)
    wide = images(net, 2, 5)
    assert found.predict(wide).probabilities.shape == (2, 2)
    with pytest.raises(ValueError, match="images must have shape"):
        load_classifier(tmp_path).predict(wide)
    larger = load_classifier(tmp_path, image_size=16)
    same = images(net, 4, 4)
    assert torch.equal(found.predict(same).probabilities, larger.predict(same).probabilities)


def test_a_language_model_has_features_too() -> None:
    net = model("crate_causal_micro")
    symbols = torch.randint(256, (2, 7), generator=torch.Generator().manual_seed(0))
    features = normed(net.forward_features(symbols), net.head.norm)
    torch.testing.assert_close(net(symbols), features @ net.head.linear.weight.T + net.head.linear.bias)


class Own(nn.Module):
    """Somebody's network: a block in a list, one under a name, one used twice, other layers between."""

    def __init__(self, kind: str = "crate") -> None:
        super().__init__()
        self.enter = nn.Linear(3, 8)
        self.stages = nn.ModuleDict({"first": nn.Sequential(Block("crate", 8, 2, 4), nn.LayerNorm(8), nn.GELU())})
        self.twice = Block(kind, 8, 2, 4)
        self.leave = nn.Linear(8, 2)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        Z = self.stages["first"](self.enter(x))
        Z = self.twice(Z=self.twice(Z, mask), mask=mask)
        return self.leave(Z.mean(1))


def own() -> tuple[Own, Tensor]:
    torch.manual_seed(3)
    return Own().eval(), torch.randn(2, 6, 3)


@torch.no_grad()
def test_attention_of_layers_inside_an_own_network() -> None:
    net, x = own()
    block = net.stages["first"][0]
    V = torch.einsum("bnd,kdp->bknp", normed(net.enter(x), block.attention_norm), block.attention.U)
    scores = torch.einsum("bkip,bkjp->bkij", V, V) * block.attention.scale
    wanted = scipy.special.softmax(scores.numpy(), axis=-1)
    np.testing.assert_allclose(attention_maps(net, x, layer=0), wanted, atol=1e-6)
    once = net.twice(net.stages["first"](net.enter(x)))  # of a layer that runs twice, the last run
    np.testing.assert_allclose(attention_maps(net, x), attention_maps(nn.Sequential(net.twice), once), atol=1e-6)


@torch.no_grad()
def test_the_trace_of_an_own_network_follows_the_forward_pass() -> None:
    net, x = own()
    first, twice = net.stages["first"][0], net.twice
    places = []
    Z = net.enter(x)
    for block, between in ((first, net.stages["first"][1:]), (twice, nn.Identity()), (twice, nn.Identity())):
        half = block.compress(Z)
        places.append((Z, half, block.sparsify(half), block))
        Z = between(places[-1][2])
    trace = srr.layer_trace(net, x, eps=0.5)
    assert trace.depth == 3
    for layer, (*tokens, block) in enumerate(places):
        U = block.attention.U.double().numpy()
        for at, T in enumerate(tokens):
            heads = np.einsum("bnd,kdp->bknp", T.double().numpy(), U)
            gram = np.eye(4) + 4 / (6 * 0.25) * np.einsum("bknp,bknq->bkpq", heads, heads)  # I + p/(n ε²) VᵀV
            rate = 0.5 * np.linalg.slogdet(gram)[1].sum(-1).mean()
            assert trace.compression_raw[layer, at] == pytest.approx(rate, rel=1e-5)
            assert trace.sparsity[layer, at] == float((T != 0).double().mean())
    assert [Z.shape for Z in layer_tokens(net, x)] == [(2, 6, 8)] * 4
    released = srr.layer_trace(net, x, measure="released")
    np.testing.assert_allclose(released.sparsity, trace.sparsity[:, 2])
    assert srr.certify(Own("crate_descent"), x).violations == 0


def test_padding_reaches_the_half_step_and_is_refused_in_a_map() -> None:
    net, x = own()
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = net

        def forward(self, x: Tensor) -> Tensor:
            return self.inside(x, mask)

    with torch.no_grad():
        Z = net.stages["first"](net.enter(x))
        half = net.twice.compress(Z, mask)
    trace = srr.layer_trace(Padded(), x)
    assert trace.l1_normalized[1, 1] == pytest.approx(float((half.abs().sum(-1) / half.norm(dim=-1)).mean()), rel=1e-5)
    with pytest.raises(ValueError, match="was given a mask"):
        attention_maps(Padded(), x)


def test_layers_that_are_not_there_are_one_sentence() -> None:
    class Idle(Own):
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return self.leave(self.twice(self.enter(x)))

    with pytest.raises(ValueError, match="layer 0 did not run in the forward pass of this Idle"):
        attention_maps(Idle(), torch.zeros(1, 4, 3), layer=0)
    with pytest.raises(ValueError, match="network with blocks; got a Linear without"):
        srr.layer_trace(nn.Linear(3, 3), torch.zeros(1, 4, 3))
    with layer_states(nn.Sequential(Block("crate", 8, 2, 4)), [-1]) as seen:
        assert seen == {}


def test_a_sequence_of_blocks_is_a_network_without_bases_and_steps_with_them() -> None:
    net = nn.Sequential(Block("crate", 8, 2, 4), Block("crate", 8, 2, 4)).eval()
    Z = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        read = srr.layer_trace(net, Z)
        given = srr.layer_trace(net, Z, U=[block.attention.U.detach() for block in net])
    np.testing.assert_allclose(read.compression_raw, given.compression_raw, rtol=1e-6)
