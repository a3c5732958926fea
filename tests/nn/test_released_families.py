"""ToST and CBT with random weights under the released names, against their formulas written out plainly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import srr
from srr.nn import ClassAttention, CrateConfig, create_model, load_model, load_released, released_names, to_released
from tests.nn import released_families as reference

IMAGES = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SYMBOLS = torch.randint(13, (2, 7), generator=torch.Generator().manual_seed(1))
SIZES = {"dim": 16, "heads": 2, "head_dim": 8, "depth": 2}
VISION = {**SIZES, "image_size": (32, 48), "num_classes": 5}

Case = tuple[Callable[[], torch.nn.Module], reference.Shapes, Callable[[reference.Weights], torch.Tensor], torch.Tensor]
CASES: dict[str, Case] = {
    "ToST, patch 8": (
        lambda: create_model("tost_tiny", **VISION, patch_size=8),
        reference.tost_shapes(16, 2, 2, 8, 5),
        lambda w: reference.tost(w, IMAGES, 2),
        IMAGES,
    ),
    "ToST, patch 16, no bias, class norm": (
        lambda: create_model("tost_tiny", **VISION, patch_size=16, projection_bias=False, class_norm_all=False),
        reference.tost_shapes(16, 2, 2, 16, 5, bias=False),
        lambda w: reference.tost(w, IMAGES, 2, all_normed=False),
        IMAGES,
    ),
    "ToST, language": (
        lambda: create_model("tost_language_micro", **SIZES, vocabulary=13, context=9),
        reference.language_shapes(16, 2, 2, 9, 13),
        lambda w: reference.language(w, SYMBOLS, 2),
        SYMBOLS,
    ),
    "ToST, language with biases": (
        lambda: create_model("tost_language_micro", **SIZES, vocabulary=13, context=9, bias=True),
        reference.language_shapes(16, 2, 2, 9, 13, bias=True),
        lambda w: reference.language(w, SYMBOLS, 2),
        SYMBOLS,
    ),
    "CBT": (
        lambda: create_model("cbt_tiny", **VISION, patch_size=8),
        reference.cbt_shapes(16, 2, 2, 8, 24, 5),
        lambda w: reference.cbt(w, IMAGES, 2),
        IMAGES,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs(name: str) -> None:
    make, shapes, function, x = CASES[name]
    weights = reference.random_weights(shapes)
    model = load_released(make().double().eval(), weights)
    with torch.no_grad():
        torch.testing.assert_close(model(x), function(weights), rtol=1e-10, atol=1e-10)
        single = load_released(
            make().eval(), {n: t.float() if t.is_floating_point() else t for n, t in weights.items()}
        )
        out = single(x.float() if x.is_floating_point() else x)
        torch.testing.assert_close(out.double(), function(weights), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str) -> None:
    make, shapes, function, x = CASES[name]
    weights = reference.random_weights(shapes)
    for released, tensor in weights.items():
        if tensor.is_floating_point() and "running" not in released and tensor.grad_fn is None:
            tensor.requires_grad_()
    model = load_released(make().double().eval(), weights)
    direction = torch.randn_like(function(weights).detach())
    (model(x) * direction).sum().backward()
    (function(weights) * direction).sum().backward()
    names = released_names(model)
    for ours, parameter in model.named_parameters():
        wanted = weights[names[ours]].grad
        assert wanted is not None
        torch.testing.assert_close(parameter.grad, wanted.reshape(parameter.shape), rtol=1e-9, atol=1e-9, msg=ours)


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    """To released names, and to a folder with names of ours; a tied table stays one parameter."""
    make, shapes, _, x = CASES[name]
    weights = reference.random_weights(shapes)
    model = load_released(make().double().eval(), weights)
    back = to_released(model)
    assert back.keys() == weights.keys()
    for key, tensor in weights.items():
        torch.testing.assert_close(back[key], tensor, rtol=0, atol=0, check_dtype=False)
    model.float().save_pretrained(tmp_path)
    x = x.float() if x.is_floating_point() else x
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path)(x), model(x))
    same = load_model(tmp_path)
    assert sum(p.numel() for p in same.parameters()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "millions", "digits"),
    [
        ("tost_tiny", 5.8, 1),
        ("tost_small", 22.6, 1),
        ("tost_language_base", 110, 0),
        ("cbt_tiny", 1.8, 1),
        ("cbt_small", 6.7, 1),
    ],
)
def test_parameters_as_published(name: str, millions: float, digits: int) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, digits) == millions


def test_a_shorter_context_cuts_positions_and_offsets() -> None:
    make, shapes, _, _ = CASES["ToST, language"]
    weights = reference.random_weights(shapes)
    short = load_released(create_model(make().config, context=7).double().eval(), weights)
    with torch.no_grad():
        torch.testing.assert_close(short(SYMBOLS), reference.language(weights, SYMBOLS, 2), rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match=r"misshapen: transformer\.wpe\.weight"):
        load_released(create_model(make().config, context=11), weights)
    with pytest.raises(ValueError, match="at most context=7"):
        short(torch.zeros(1, 8, dtype=torch.long))


def test_offsets_read_on_as_the_whole_sequence_does() -> None:
    make, shapes, _, _ = CASES["ToST, language"]
    model = load_released(make().double().eval(), reference.random_weights(shapes))
    with torch.no_grad():
        first, state = model.extend(SYMBOLS[:, :4], model.start())
        rest, _ = model.extend(SYMBOLS[:, 4:], state)
        torch.testing.assert_close(torch.cat((first, rest), dim=1), model(SYMBOLS), rtol=1e-10, atol=1e-10)


def test_cbt_at_another_image_size() -> None:
    """Learned positions are interpolated, and the grid of representatives follows the image."""
    make, shapes, _, _ = CASES["CBT"]
    model = create_model(make().config, image_size=(48, 48)).double().eval()
    load_released(model, reference.random_weights(shapes), grid=(4, 6))
    assert model.blocks[0].attention.grid == (6, 6)
    assert torch.isfinite(model(IMAGES.new_ones(1, 3, 48, 48))).all()


def test_the_class_token_alone_does_not_see_padding() -> None:
    layer = ClassAttention(8, 2).double()
    Z = torch.randn(2, 6, 8, dtype=torch.float64)
    mask = torch.tensor([True] * 4 + [False] * 2).expand(2, 6)
    torch.testing.assert_close(layer(Z, mask)[:, :4], layer(Z[:, :4]), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("grid", [(4, 6), (8, 8), (3, 11), (14, 14)])
def test_grid_means_are_adaptive_pooling(grid: tuple[int, int]) -> None:
    V = np.random.default_rng(0).normal(size=(2, 3, grid[0] * grid[1], 5))
    image = torch.as_tensor(V).unflatten(2, grid).permute(0, 1, 4, 2, 3).flatten(0, 1)
    wanted = torch.nn.functional.adaptive_avg_pool2d(image, (8, 5)).flatten(2).mT.unflatten(0, (2, 3))
    np.testing.assert_allclose(srr.ops.grid_means(V, grid=grid, count=(8, 5)), wanted, rtol=1e-12)
    mask = np.random.default_rng(1).random((2, 1, V.shape[2])) < 0.7
    kept = srr.ops.grid_means(np.where(mask[..., None], V, 1e9), grid=grid, count=(2, 2), mask=mask)
    for a in range(2):
        for b in range(2):
            inside = np.zeros(grid, dtype=bool)
            inside[a * grid[0] // 2 : -(-(a + 1) * grid[0] // 2), b * grid[1] // 2 : -(-(b + 1) * grid[1] // 2)] = True
            for i in range(2):
                chosen = inside.ravel() & mask[i, 0]
                np.testing.assert_allclose(kept[i, :, 2 * a + b], V[i][:, chosen].mean(1), rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"stem": "water"}, "stem"),
        ({"positions": "fourier"}, "convolutions"),
        ({"stem": "convolutions", "positions": "fourier"}, "class_layers"),
        ({"stem": "convolutions", "class_layers": 1, "pool": "mean"}, "pool"),
        ({"grid_means": True}, "cbsa"),
        ({"layer_scale": -1.0}, "layer_scale"),
        ({"stem": "convolutions", "patch_size": 4, "image_size": 32}, "patch_size must be 8 or 16"),
        ({"stem": "convolutions", "dim": 12, "heads": 2, "head_dim": 6}, "multiple of 8"),
        ({"layer_scale": 1.0, "block": "crate_descent"}, "sphere"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(changes: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        create_model(CrateConfig(), **{"image_size": 32, "depth": 1, **changes})
    with pytest.raises(ValueError, match="offsets"):
        create_model("crate_causal_micro", offsets=True)
