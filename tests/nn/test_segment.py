"""Masks against what they should be on tokens whose object is known, and mIoU against sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from srr.cli import app
from srr.nn import (
    Preprocessing,
    attention_mask,
    create_model,
    cut_mask,
    mean_iou,
    patch_maps,
    principal_mask,
    segment,
)

GRID = (6, 8)
OBJECT = np.zeros(GRID, dtype=bool)
OBJECT[1:4, 2:6] = True


def tokens(noise: float = 0.1) -> np.ndarray:
    """Tokens of the object in one direction, of the ground in another."""
    generator = np.random.default_rng(0)
    directions = np.linalg.qr(generator.normal(size=(12, 2)))[0].T
    return directions[OBJECT.ravel().astype(int)] + noise * generator.normal(size=(48, 12))


@pytest.mark.parametrize("make", [principal_mask, cut_mask])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_object_of_its_own_direction_is_found(make: object, sign: float) -> None:
    np.testing.assert_array_equal(make(sign * tokens(), GRID).reshape(GRID), OBJECT)


def test_the_cut_is_the_best_of_all_on_a_small_graph() -> None:
    """By trying every split of ten tokens: the normalized cut is found where it is clear."""
    generator = np.random.default_rng(1)
    side = np.asarray([True] * 4 + [False] * 6)
    Z = np.linalg.qr(generator.normal(size=(6, 2)))[0].T[side.astype(int)] + 0.05 * generator.normal(size=(10, 6))
    unit = Z - Z.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    W = np.where(unit @ unit.T > 0.2, 1.0, 1e-5)

    def cost(split: np.ndarray) -> float:
        cut = W[np.ix_(split, ~split)].sum()
        return cut / W[split].sum() + cut / W[~split].sum()

    splits = [np.asarray([bool(code >> i & 1) for i in range(10)]) for code in range(1, 2**9)]
    best = min(splits, key=cost)
    found = cut_mask(Z, (2, 5))
    assert (found == best).all() or (found == ~best).all()


def test_attention_keeps_the_fewest_patches_that_hold_the_mass() -> None:
    maps = np.random.default_rng(0).random((3, 20))
    mask = attention_mask(maps, mass=0.5)
    mean = maps.mean(0)
    assert mean[mask].sum() >= 0.5 * mean.sum()
    assert mean[mask].sum() - mean[mask].min() < 0.5 * mean.sum()
    assert mean[mask].min() >= mean[~mask].max()
    with pytest.raises(ValueError, match="mass"):
        attention_mask(maps, mass=1.0)


def test_masks_of_a_network_are_those_of_its_patches() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 1, 8, 8)
    model = create_model("crate_micro", depth=1, patch_size=2)
    masks = segment(model, images)
    wanted = attention_mask(patch_maps(model, images)[1].double().numpy()).reshape(4, 4)
    np.testing.assert_array_equal(masks["attention"][1], np.kron(wanted, np.ones((2, 2), dtype=bool)))
    for block in ("tssa", "crate_descent"):
        assert set(segment(create_model("crate_micro", depth=1, block=block), images)) == {"cut", "pca"}


def test_mean_iou_is_that_of_sets() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(5, 4, 4, generator=generator) < 0.4 for _ in range(2))
    pairs = [
        ({*map(tuple, x.nonzero().tolist())}, {*map(tuple, y.nonzero().tolist())}) for x, y in zip(a, b, strict=True)
    ]
    assert mean_iou(a, b) == pytest.approx(np.mean([len(x & y) / len(x | y) for x, y in pairs]))
    empty = torch.zeros(1, 4, 4, dtype=torch.bool)
    assert mean_iou(empty, empty) == 1.0
    with pytest.raises(ValueError, match="shape"):
        mean_iou(a, b[:1])


def test_the_command_draws_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = create_model("crate_micro", depth=1, channels=3, num_classes=2)
    model.preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3)
    model.save_pretrained(tmp_path / "run")
    pixels = np.random.default_rng(0).integers(0, 256, size=(9, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    words = ["segment", str(tmp_path / "run"), str(tmp_path / "picture.png"), "--out", str(tmp_path / "masks.png")]
    assert app.main([*words, "--size", "16"]) == 0
    assert "cut" in capsys.readouterr().out
    assert np.asarray(Image.open(tmp_path / "masks.png")).std() > 1
    assert app.main(words) == 1
    assert "exists" in capsys.readouterr().err
