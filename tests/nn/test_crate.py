"""The classifier: sizes, gradients, masks, options and refusals."""

import math

import pytest
import torch

from srr.nn import BLOCKS, CRATE, PRESETS, CrateConfig, create_model, patchify, unpatchify

COUNTS = {"tiny": 6_090_856, "small": 13_116_328, "base": 22_796_008, "large": 77_641_192}


def small(**overrides: object) -> CRATE:
    torch.manual_seed(0)
    options = {
        "image_size": 8,
        "patch_size": 4,
        "channels": 2,
        "num_classes": 5,
        "dim": 16,
        "depth": 2,
        "heads": 4,
        "head_dim": 4,
    }
    return create_model("crate_tiny", **{**options, **overrides})


def images(batch: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", COUNTS)
def test_parameter_counts_are_the_published_ones(size: str) -> None:
    with torch.device("meta"):
        model = create_model(f"crate_{size}")
    assert sum(p.numel() for p in model.parameters()) == COUNTS[size]


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_every_parameter_receives_a_gradient(block: str, pool: str) -> None:
    model = small(block=block, pool=pool)
    torch.nn.functional.cross_entropy(model(images()), torch.tensor([0, 1, 2])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_micro_runs_on_the_digits_shape() -> None:
    assert create_model("crate_micro")(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_images_and_patches_may_be_oblong() -> None:
    model = small(image_size=(8, 12), patch_size=(2, 4))
    assert model.config.grid == (4, 3)
    assert model(torch.zeros(2, 2, 8, 12)).shape == (2, 5)


def test_patch_rows_run_row_column_channel() -> None:
    picture = torch.arange(2 * 4 * 6.0).reshape(1, 2, 4, 6)
    patches = patchify(picture, (2, 3))
    wanted = [picture[0, c, 2 + i, 3 + j] for i in range(2) for j in range(3) for c in range(2)]
    assert patches.shape == (1, 4, 12)
    torch.testing.assert_close(patches[0, 3], torch.stack(wanted))
    torch.testing.assert_close(unpatchify(patches, (4, 6), (2, 3)), picture)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_padded_patches_are_invisible(block: str, pool: str) -> None:
    model = small(block=block, pool=pool).double().eval()
    one, other = images().double(), images().double()
    other[:, :, 4:, 4:] = images(seed=2).double()[:, :, 4:, 4:]  # the last of four patches
    mask = torch.tensor([True, True, True, False]).expand(3, 4)
    torch.testing.assert_close(model(one, mask), model(other, mask), rtol=1e-12, atol=1e-12)
    full = torch.ones(3, 4, dtype=torch.bool)
    torch.testing.assert_close(model(one, full), model(one), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(model(one), model(other))


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_recomputed_layers_give_the_same_gradients(block: str) -> None:
    gradients = []
    for recompute in (False, True):
        model = small(block=block, checkpoint_blocks=recompute).double()
        model(images().double()).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_evaluation_equals_training(block: str) -> None:
    model = small(block=block).double()
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images().double()), model.train()(images().double()))


def test_orthonormal_bases_stay_orthonormal() -> None:
    model = small(orthogonal=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = model.blocks[0].attention.U.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        model(images()).square().sum().backward()
        optimizer.step()
    P = model.blocks[0].attention.projection
    torch.testing.assert_close(P @ P.T, torch.eye(16), rtol=0, atol=1e-5)
    assert not torch.allclose(model.blocks[0].attention.U, before)


def test_small_positions_are_available() -> None:
    model = small(position_std=0.02, image_size=64)
    assert model.embed.positions.std().item() == pytest.approx(0.02, rel=0.1)
    assert small(image_size=64).embed.positions.std().item() == pytest.approx(1.0, rel=0.1)


def test_the_dictionary_starts_where_the_step_is_safe() -> None:
    D = create_model("crate_tiny", depth=1).blocks[0].dictionary.D
    norm = torch.linalg.matrix_norm(D.detach(), 2).item() ** 2
    assert 7.0 < norm < 8.5  # 1 / 0.1 above, 2 / 0.5 below
    assert D.abs().max().item() <= math.sqrt(6 / 384)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"image_size": 9}, "multiple of patch_size"),
        ({"depth": 0}, "depth"),
        ({"pool": "max"}, "pool"),
        ({"block": "mlp"}, "block must be one of"),
        ({"width": 3}, "unknown model options"),
        ({"step": -0.1}, "step"),
        ({"orthogonal": True, "heads": 8}, "heads \\* head_dim <= dim"),
    ],
)
def test_bad_options_are_refused(overrides: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small(**overrides)


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="crate_tiny"):
        create_model("crate_huge")


def test_bad_images_are_refused() -> None:
    with pytest.raises(ValueError, match="images must have shape"):
        small()(torch.zeros(2, 3, 8, 8))
    with pytest.raises(TypeError, match="floating"):
        small()(torch.zeros(2, 2, 8, 8, dtype=torch.uint8))


def test_config_survives_json() -> None:
    import json
    from dataclasses import asdict

    config = CrateConfig(image_size=(8, 12), patch_size=4)
    assert CrateConfig.from_dict(json.loads(json.dumps(asdict(config)))) == config
    assert set(PRESETS) >= {f"crate_{s}" for s in (*COUNTS, "micro")}


@pytest.mark.parametrize(
    "block", ["crate", "crate_n", "alpha", "attention_only", "tssa", "tost", "cbsa", "crate_prox_mm"]
)
@pytest.mark.parametrize("padded", [False, True])
def test_last_layer_computes_the_class_token_alone(block, padded):
    """Scores and gradients are those of the network whose last layer, being watched, computes every token."""
    torch.manual_seed(0)
    model = create_model("crate_micro", block=block, pool="cls", depth=2).double().train()
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False]] * 3) if padded else None
    alone = model(images, mask)
    gradients = torch.autograd.grad(alone.square().sum(), list(model.parameters()), allow_unused=True)
    seen = []
    handle = model.blocks[-1].register_forward_hook(lambda block, args, out: seen.append(out))
    watched = model(images, mask)
    handle.remove()
    assert seen[0].shape == (3, 5, 64)
    torch.testing.assert_close(alone, watched, rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad(watched.square().sum(), list(model.parameters()), allow_unused=True)
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-11)


def test_an_unwatched_last_layer_leaves_the_other_tokens():
    model = create_model("crate_micro", pool="cls").eval()
    sizes = []
    norm_forward = model.blocks[-1].dictionary_norm.forward
    model.blocks[-1].dictionary_norm.forward = lambda Z: sizes.append(Z.shape[-2]) or norm_forward(Z)
    model(torch.zeros(2, 1, 8, 8))
    assert sizes == [1]
