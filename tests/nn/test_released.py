"""Released weights: outputs and gradients of our models against the plain implementation of the description."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from srr.nn import CRATE, CrateMAE, create_model, load_released, released_names, sincos_positions, to_released
from srr.nn.pretrained import FIXED_POSITIONS
from tests.nn import released_reference as reference
from tests.nn.released_reference import Sizes, Weights

S = Sizes()
ONE_HEAD = Sizes(heads=1, head_dim=16)


def options(s: Sizes) -> dict[str, object]:
    return {
        "image_size": s.image,
        "patch_size": s.patch,
        "channels": s.channels,
        "dim": s.dim,
        "heads": s.heads,
        "head_dim": s.head_dim,
        "depth": s.depth,
    }


def images(seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 3, 8, 12, generator=generator, dtype=torch.float64)


def hidden() -> torch.Tensor:
    flags = torch.rand(3, S.patches, generator=torch.Generator().manual_seed(2)) < 0.6
    flags[:, 0] = True
    return flags


Case = tuple[Callable[[], torch.nn.Module], dict[str, tuple[int, ...]], Callable[..., torch.Tensor]]


def crate_case(pool: str, s: Sizes) -> Case:
    return (
        lambda: create_model("crate_tiny", **options(s), num_classes=s.classes, pool=pool),
        reference.crate_shapes(s),
        lambda w, x: reference.crate(w, x, s, pool=pool),
    )


def mae_model(**overrides: object) -> CrateMAE:
    return create_model("crate_mae_tiny", **options(S), decoder_depth=S.depth, **overrides)


CASES: dict[str, Case] = {
    "crate, class token": crate_case("cls", S),
    "crate, mean": crate_case("mean", S),
    "crate, one full head": crate_case("cls", ONE_HEAD),
    "alpha": (
        lambda: create_model("crate_alpha_base", **options(S), num_classes=S.classes),
        reference.alpha_shapes(S),
        lambda w, x: reference.alpha(w, x, S),
    ),
}


def bare(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x, hidden()) if isinstance(model, CrateMAE) else model(x)


CASES["autoencoder"] = (
    mae_model,
    reference.mae_shapes(S),
    lambda w, x: reference.mae(w, x, hidden(), S),
)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("training", [True, False])
def test_outputs_in_float64(name: str, training: bool) -> None:
    make, shapes, function = CASES[name]
    weights = reference.random_weights(shapes)
    model = make().double().train(training)
    load_released(model, weights)
    with torch.no_grad():
        torch.testing.assert_close(bare(model, images()), function(weights, images()), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_outputs_in_float32(name: str) -> None:
    make, shapes, function = CASES[name]
    weights = {n: t.float() for n, t in reference.random_weights(shapes).items()}
    model = make().eval()
    load_released(model, weights)
    with torch.no_grad():
        torch.testing.assert_close(
            bare(model, images().float()), function(weights, images().float()), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str) -> None:
    make, shapes, function = CASES[name]
    weights = {n: t.requires_grad_() for n, t in reference.random_weights(shapes).items()}
    model = make().double()
    load_released(model, weights)
    direction = torch.randn_like(function(weights, images()).detach())
    (bare(model, images()) * direction).sum().backward()
    (function(weights, images()) * direction).sum().backward()
    parameters = dict(model.named_parameters())
    compared = 0
    for ours, theirs in released_names(model).items():
        wanted = weights[theirs].grad
        if wanted is None or not parameters[ours].requires_grad:
            continue  # tables that are fixed or that nothing reads
        if wanted.ndim == 4:
            wanted = wanted.permute(0, 2, 3, 1).flatten(1)
        torch.testing.assert_close(parameters[ours].grad, wanted, rtol=1e-9, atol=1e-9, msg=theirs)
        compared += 1
    assert compared >= 17


@pytest.mark.parametrize("normalize", [False, True])
def test_reconstruction_loss(normalize: bool) -> None:
    weights = reference.random_weights(reference.mae_shapes(S))
    model = mae_model(normalize_targets=normalize).double()
    load_released(model, weights)
    wanted = reference.mae_loss(weights, images(), hidden(), S, normalize=normalize)
    torch.testing.assert_close(model.loss(images(), hidden()), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name: str) -> None:
    make, shapes, _ = CASES[name]
    weights = reference.random_weights(shapes)
    model = make().double()
    load_released(model, weights)
    back = to_released(model)
    assert back.keys() == weights.keys()
    for key, tensor in weights.items():
        torch.testing.assert_close(back[key], tensor, rtol=0, atol=0)


COUNTS = {
    "crate_mae_tiny": 11_555_328,
    "crate_mae_small": 25_405_824,
    "crate_mae_base": 44_638_464,
    "crate_mae_large": 154_274_560,
    "crate_alpha_base": 72_328_936,
    "crate_alpha_large": 253_650_920,
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[name]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"state_dict": w},
        lambda w: {"epoch": 3, "state_dict": {"module." + n: t for n, t in w.items()}},
        lambda w: {"module." + n: t for n, t in w.items()},
        lambda w: {"model": w, "optimizer": {}},
    ],
)
def test_wrapped_checkpoints(wrap: Callable[[Weights], dict[str, object]]) -> None:
    weights = reference.random_weights(reference.crate_shapes(S))
    model = crate_case("cls", S)[0]().double()
    load_released(model, wrap(weights))
    torch.testing.assert_close(model.embed.positions.detach(), weights["pos_embedding"])


def test_every_misfit_is_listed_in_one_error_and_nothing_is_loaded() -> None:
    weights = reference.random_weights(reference.crate_shapes(S))
    del weights["cls_token"], weights["transformer.layers.1.1.fn.weight"]
    weights["stray"] = torch.zeros(1)
    weights["transformer.layers.0.0.fn.qkv.weight"] = torch.zeros(3, 3)
    model = crate_case("cls", S)[0]()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(ValueError, match="missing") as caught:
        load_released(model, weights)
    text = str(caught.value)
    for word in ("cls_token", "transformer.layers.1.1.fn.weight", "stray", "qkv.weight (3, 3) for (12, 16)"):
        assert word in text
    assert text.count("\n") == 0
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_loose_loading_still_refuses_wrong_shapes() -> None:
    weights = reference.random_weights(reference.crate_shapes(S))
    del weights["cls_token"]
    weights["stray"] = torch.zeros(1)
    model = crate_case("cls", S)[0]().double()
    load_released(model, weights, strict=False)
    weights["mlp_head.0.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match="misshapen: mlp_head\\.0\\.bias"):
        load_released(model, weights, strict=False)


def test_something_else_than_tensors_is_refused() -> None:
    with pytest.raises(ValueError, match="tensors by name"):
        load_released(crate_case("cls", S)[0](), {"epoch": 3})


def test_models_of_no_released_family_are_refused() -> None:
    for model in (create_model("crate_micro", block="tssa"), create_model("crate_causal_micro")):
        with pytest.raises(ValueError, match="released names are known of CRATE, CRATE-α, CRATE-MAE, ToST and CBT"):
            load_released(model, {})


def square(image: int, classes: int = 5) -> CRATE:
    return create_model("crate_tiny", **{**options(S), "image_size": image, "num_classes": classes}).double()


def test_positions_are_interpolated_for_another_image_size() -> None:
    s = Sizes(image=(16, 16))
    weights = reference.random_weights(reference.crate_shapes(s))
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    ramp = (2 * rows + 3 * columns).reshape(1, 16, 1).double()
    weights["pos_embedding"][:, 1:] = ramp
    model = square(32)
    load_released(model, weights)
    positions = model.embed.positions.detach()
    torch.testing.assert_close(positions[:, 0], weights["pos_embedding"][:, 0])
    # between patch centers a ramp stays a ramp: at (i, j) of 8 x 8 the old coordinate is (i + 1/2)/2 - 1/2
    inner = positions[0, 1:].reshape(8, 8, 16)[3:5, 3:5]
    wanted = torch.tensor([[2 * a + 3 * b for b in (1.25, 1.75)] for a in (1.25, 1.75)]).double()
    torch.testing.assert_close(inner, wanted[..., None].expand(2, 2, 16))


def keys(values: tuple[float, ...]) -> list[float]:
    """Four values at the old places 0 … 3 carried to the new places 1¼ and 1¾, by the definition of the kernel."""
    a = -0.75

    def weight(x: float) -> float:
        x = abs(x)
        near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        return near if x <= 1 else far if x < 2 else 0.0

    return [sum(v * weight(place - i) for i, v in enumerate(values)) for place in (1.25, 1.75)]


def test_fixed_positions_are_interpolated_or_computed_for_another_image_size() -> None:
    """By the cubic kernel of the released code, a = −¾, which leaves a ramp a little bent."""
    s = Sizes(image=(16, 16))
    weights = reference.random_weights(reference.mae_shapes(s))
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    weights["decoder_pos_embed"][:, 1:] = (2 * rows + 3 * columns).reshape(1, 16, 1).double()
    model = create_model("crate_mae_tiny", **{**options(s), "image_size": 32}, decoder_depth=S.depth).double()
    table = model.positions.detach().clone()
    load_released(model, weights)
    wanted = torch.tensor([[2 * a + 3 * b for b in keys((0, 1, 2, 3))] for a in keys((0, 1, 2, 3))]).double()
    inner = model.positions[0, 1:].reshape(8, 8, 16)[3:5, 3:5].detach()
    torch.testing.assert_close(inner, wanted[..., None].expand(2, 2, 16))
    load_released(model, weights, fixed_positions="computed")
    torch.testing.assert_close(model.positions.detach(), table)
    with pytest.raises(ValueError, match="fixed_positions must be one of"):
        load_released(model, weights, fixed_positions="guessed")


def test_an_autoencoder_from_a_folder_takes_either_table(tmp_path: Path) -> None:
    model = create_model("crate_mae_micro")
    model.save_pretrained(tmp_path)
    wider = {how: CrateMAE.from_pretrained(tmp_path, image_size=16, fixed_positions=how) for how in FIXED_POSITIONS}
    exact = sincos_positions((8, 8), 64)
    torch.testing.assert_close(wider["computed"].positions[0].detach(), exact)
    assert (wider["interpolated"].positions[0].detach() - exact).abs().max() > 0.1  # another scale of place


def test_positions_of_an_unknown_grid_are_refused() -> None:
    weights = reference.random_weights(reference.crate_shapes(S))
    with pytest.raises(ValueError, match="misshapen: pos_embedding"):
        load_released(square(16), weights)
    load_released(square(16), weights, grid=(2, 3))


def test_another_class_count_starts_the_head_afresh_and_says_so() -> None:
    weights = reference.random_weights(reference.crate_shapes(Sizes(image=(16, 16))))
    model = square(16, classes=7)
    before = model.head.linear.weight.detach().clone()
    with pytest.warns(UserWarning, match="5 classes and the model 7"):
        load_released(model, weights)
    torch.testing.assert_close(model.head.linear.weight.detach(), before)
    torch.testing.assert_close(model.head.norm.weight.detach(), weights["mlp_head.0.weight"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_released(square(16), weights)
