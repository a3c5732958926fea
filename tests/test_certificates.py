"""Certificates in ball arithmetic hold what float64 measures, prove the theorem, and notice what breaks it."""

import time

import numpy as np
import pytest
import torch

import srr
from srr import certificates
from srr.certificates import EnclosedHalf
from srr.nn import create_model

pytest.importorskip("flint")
BLOCKS = ("crate_descent", "crate_descent_zero", "crate_energy")


def network(block, scale=1.0, **options):
    torch.manual_seed(0)
    model = create_model("crate_micro", block=block, depth=2, **options)
    with torch.no_grad():
        for layer in model.blocks:
            for weight in layer.parameters():
                weight.mul_(scale)
    return model


IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("block", BLOCKS)
def test_every_half_is_proved_for_weights_of_any_size(block, scale):
    found = srr.certify(network(block, scale), IMAGES, rigorous=True)
    assert len(found.half_steps) == 4
    for half in found.half_steps:
        assert (half.enclosed.proofs, half.violations, half.enclosed.undecided) == (2, 0, 0)
        size = 1e-9 * np.maximum(np.abs(half.before), 1e-3)
        for measured, ends in ((half.before, half.enclosed.before), (half.after, half.enclosed.after)):
            assert np.all(ends[:, 0] - size <= measured)
            assert np.all(measured <= ends[:, 1] + size)
            assert np.all(ends[:, 1] - ends[:, 0] <= 1e-14 * np.abs(measured) + 1e-300)
    assert "4 fall by their guarantee" in found.verdict.replace(" 8 ", " 4 ")
    assert {"enclosed", "undecided", "least_margin", "bits"} <= set(found.rows()[0])


def test_signs_and_causal_masks_of_the_energy_form():
    model = network("crate_energy")
    with torch.no_grad():
        for layer in model.blocks:
            layer.attention.sigma.copy_(torch.tensor([1.0, -2.0, 0.0, 3.0]))
            layer.attention.causal = True
    found = srr.certify(model, IMAGES[:1], rigorous=True)
    assert [half.enclosed.proofs for half in found.half_steps] == [1, 1, 1, 1]
    for half in found.half_steps:
        assert abs(half.before[0] - half.enclosed.before[0, 0]) < 1e-9 * abs(half.before[0])


@pytest.mark.parametrize("block", BLOCKS)
def test_a_guarantee_that_is_too_large_is_disproved(block, monkeypatch):
    right = certificates._Layer.promised
    monkeypatch.setattr(certificates._Layer, "promised", lambda self, *balls: 1e3 * right(self, *balls))
    found = srr.certify(network(block), IMAGES[:1], rigorous=True)
    assert [half.violations for half in found.half_steps] == [1, 0, 1, 0]


@pytest.mark.parametrize("half", ["attention", "dictionary"])
def test_a_step_longer_than_the_theorem_allows_proves_nothing(half, monkeypatch):
    model = network("crate_descent")
    layer = getattr(model.blocks[0], half)
    length = type(layer).length
    monkeypatch.setattr(type(layer), "length", lambda self, *Z: 1.2 * length(self, *Z))
    found = {(s.layer, s.half): s.enclosed for s in srr.certify(model, IMAGES[:1], rigorous=True).half_steps}
    name = {"attention": "compress", "dictionary": "sparsify"}[half]
    assert found[0, name].undecided == 1
    assert found[0, name].proofs == 0


def test_halves_without_a_theorem_are_measured_only():
    found = srr.certify(network("crate"), IMAGES[:1], rigorous=True)
    assert all(half.enclosed is None for half in found.half_steps)
    assert "balls" not in found.verdict


def test_what_ends_say():
    ends = np.array([[0.0, 1.0], [-1.0, -0.5], [-1e-30, 1e-30], [np.nan, np.nan]])
    found = EnclosedHalf(ends, ends, ends, 128)
    assert (found.proofs, found.violations, found.undecided) == (1, 1, 2)


def test_a_layer_of_one_image_takes_less_than_a_second():
    model = network("crate_descent", dim=64)
    start = time.process_time()
    srr.certify(model, IMAGES[:1], rigorous=True)
    assert (time.process_time() - start) / 2 < 1.0
