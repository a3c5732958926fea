"""Augmentations: what they must leave alone, and what they must do to a known image."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from srr.training.augment import OPERATIONS, augment_images, crop_maps, erase, mix_images, randaugment, warp
from srr.training.config import AugmentConfig, resolve


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def images(n=16, c=3, size=12):
    return torch.rand(n, c, size, size)


def test_nothing_asked_for_changes_nothing():
    x = images()
    assert torch.equal(augment_images(x, AugmentConfig()), x)


def test_flip_mirrors_about_half_of_the_images_exactly():
    x = images(n=64)
    y = augment_images(x, AugmentConfig(flip=True))
    same = ((y - x).abs().amax((1, 2, 3)) < 1e-5).sum()
    mirrored = ((y - x.flip(-1)).abs().amax((1, 2, 3)) < 1e-5).sum()
    assert same + mirrored == 64
    assert 16 < same < 48


def test_shift_moves_whole_pixels_and_fills_with_zero():
    x = torch.zeros(200, 1, 9, 9)
    x[:, :, 4, 4] = 1
    y = augment_images(x, AugmentConfig(shift=2))
    at = y.flatten(1).argmax(1)
    assert torch.allclose(y.flatten(1).amax(1), torch.ones(200), atol=1e-5)
    assert {int(a) // 9 for a in at} == {int(a) % 9 for a in at} == {2, 3, 4, 5, 6}


def test_crops_stay_inside_and_have_the_asked_area():
    maps = crop_maps(500, torch.Size((32, 32)), AugmentConfig(crop_scale=(0.2, 0.6)), torch.device("cpu"))
    width, height, x, y = maps[:, 0, 0], maps[:, 1, 1], maps[:, 0, 2], maps[:, 1, 2]
    assert ((x.abs() + width) <= 1 + 1e-6).all()
    assert ((y.abs() + height) <= 1 + 1e-6).all()
    area = width * height
    assert (area <= 0.6 + 1e-6).all()
    assert (area >= 0.19).all()
    assert area.max() - area.min() > 0.3


def test_a_crop_of_a_ramp_is_a_ramp():
    ramp = torch.linspace(0, 1, 33)[None, None, None].expand(4, 1, 33, 33).contiguous()
    y = augment_images(ramp, AugmentConfig(crop_scale=(0.5, 0.5)))
    slope = y[..., 16, 1:] - y[..., 16, :-1]
    inner = slope[..., 1:-1]
    assert (inner.amax(-1) - inner.amin(-1)).max() < 1e-5
    assert (inner.mean(-1) < 1 / 32).all()


def test_erasing_fills_one_rectangle():
    x = torch.full((100, 1, 32, 32), 2.0)  # outside what the noise can be
    y = erase(x, probability=0.5)
    changed = (y != 2).squeeze(1)
    touched = changed.flatten(1).any(1)
    assert 30 < touched.sum() < 70
    for mask in changed[touched]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None])
        assert mask.float().mean() < 0.4


def test_mixed_labels_are_the_mixing_weights():
    x = torch.arange(4.0)[:, None, None, None].expand(4, 1, 16, 16).contiguous()
    y = torch.arange(4)
    for config in (AugmentConfig(mixup=1.0), AugmentConfig(cutmix=1.0)):
        mixed, soft = mix_images(x, y, config, 4)
        torch.testing.assert_close(soft.sum(1), torch.ones(4))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), soft @ torch.arange(4.0))


def pillow(name, image, s):
    if name == "posterize":
        return ImageOps.posterize(image, 8 - round(4 * abs(s)))
    if name == "solarize":
        return ImageOps.solarize(image, round((1 - abs(s)) * 255))
    if name in {"equalize", "autocontrast"}:
        return getattr(ImageOps, name)(image)
    kind = {"brightness": "Brightness", "color": "Color", "contrast": "Contrast", "sharpness": "Sharpness"}[name]
    return getattr(ImageEnhance, kind)(image).enhance(1 + 0.9 * s)


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("posterize", 0),
        ("solarize", 0),
        ("equalize", 4),
        ("autocontrast", 1),
        ("brightness", 1),
        ("color", 2),
        ("contrast", 2),
    ],
)
def test_operations_agree_with_pillow(name, levels):
    """Within a few of 256 levels: Pillow rounds in between."""
    pixels = np.random.default_rng(0).integers(40, 200, size=(160, 160, 3), dtype=np.uint8)
    strength = 0.5
    wanted = np.asarray(pillow(name, Image.fromarray(pixels), strength)).astype(int)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    found = (OPERATIONS[name](x, torch.tensor([strength]))[0].permute(1, 2, 0) * 255).round().int().numpy()
    assert np.abs(found - wanted).max() <= levels


def test_sharpness_agrees_with_pillow_inside():
    pixels = np.random.default_rng(0).integers(0, 255, size=(24, 24, 3), dtype=np.uint8)
    wanted = np.asarray(pillow("sharpness", Image.fromarray(pixels), 0.5)).astype(int)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    found = (OPERATIONS["sharpness"](x, torch.tensor([0.5]))[0].permute(1, 2, 0) * 255).round().int().numpy()
    assert np.abs(found - wanted)[1:-1, 1:-1].max() <= 2


def test_a_quarter_turn_is_exact():
    x = images(n=2)
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0]]).expand(2, 2, 3)
    assert torch.allclose(warp(x, turn), torch.rot90(x, -1, (2, 3)), atol=1e-5) or torch.allclose(
        warp(x, turn), torch.rot90(x, 1, (2, 3)), atol=1e-5
    )


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_strength_zero_keeps_geometry_and_color(name):
    x = images(n=4)
    y = OPERATIONS[name](x, torch.zeros(4))
    assert y.shape == x.shape
    if name not in {"posterize", "autocontrast", "equalize"}:
        assert torch.allclose(y, x, atol=1e-5)


def test_randaugment_gives_images_and_draws_per_image():
    x = images(n=1).expand(40, 3, 12, 12).contiguous()
    y = randaugment(x, ops=2, magnitude=14)
    assert float(y.min()) >= 0
    assert float(y.max()) <= 1
    assert len({round(float(v), 5) for v in y.mean((1, 2, 3))}) > 15
    with pytest.raises(ValueError, match="magnitude must be a number at least 0 and at most 30; got 31"):
        resolve({"augment": {"randaugment_magnitude": 31}})


def test_bad_crop_scale():
    with pytest.raises(ValueError, match="crop_scale"):
        resolve({"augment": {"crop_scale": [0.5, 0.2]}})
