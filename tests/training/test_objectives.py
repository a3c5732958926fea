"""Objectives against the formulas they stand for."""

import numpy as np
import pytest
import torch

import srr
from srr.nn import create_model
from srr.training.config import ObjectiveConfig, resolve
from srr.training.objectives import build_objective, check_objective
from srr.training.sources import IGNORE


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("crate_micro", dim=16, heads=2, head_dim=4, depth=2)


def batch(n=12):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 1, 8, 8, generator=generator), torch.randint(10, (n,), generator=generator)


def tokens_after(model, x, layer):
    Z = model.embed(x)
    for block in list(model.blocks)[: layer + 1]:
        Z = block(Z)
    return Z


def test_cross_entropy_with_smoothing_and_ignored_labels(model):
    x, y = batch()
    y[3] = IGNORE
    losses = build_objective(ObjectiveConfig(label_smoothing=0.2))(model, x, y)
    log_p = torch.log_softmax(model(x), -1).detach().numpy()
    rows = [i for i in range(12) if i != 3]
    truth = -np.mean([0.8 * log_p[i, int(y[i])] + 0.02 * log_p[i].sum() for i in rows])
    np.testing.assert_allclose(losses["loss"].item(), truth, rtol=1e-5)
    right = np.mean([log_p[i].argmax() == int(y[i]) for i in rows])
    np.testing.assert_allclose(losses["accuracy"].item(), right, rtol=1e-6)


@pytest.mark.parametrize("scope", ["image", "batch"])
def test_sparse_rate_reduction_is_the_operators(model, scope):
    x, y = batch()
    config = ObjectiveConfig(srr_weight=0.3, srr_layers=(0, -1), srr_scope=scope, srr_lam=0.2, eps=0.5)
    losses = build_objective(config)(model, x, y)
    base = build_objective(ObjectiveConfig())(model, x, y)
    values = []
    for layer in (0, 1):
        Z = tokens_after(model, x, layer)
        Z = (Z / Z.norm(dim=-1, keepdim=True)).detach().double()
        U = model.blocks[layer].attention.U.detach().double()
        sets = Z if scope == "image" else Z.reshape(1, -1, 16)
        rates = srr.coding_rate(sets, eps=0.5) - srr.subspace_coding_rate(sets, U, eps=0.5)
        values.append(float(rates.mean() - 0.2 * Z.abs().sum(-1).mean()))
    np.testing.assert_allclose(losses["srr"].item(), np.mean(values), rtol=1e-5)
    np.testing.assert_allclose(losses["loss"].item(), base["loss"].item() - 0.3 * np.mean(values), rtol=1e-5)
    losses["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_mcr2_is_minus_rate_reduction_and_its_head_sends_nothing_back(model):
    x, y = batch()
    y[y == 4] = 5  # an empty class
    losses = build_objective(ObjectiveConfig(name="mcr2", eps=0.5))(model, x, y)
    Z = model.pool(tokens_after(model, x, 1))
    Z = (Z / Z.norm(dim=-1, keepdim=True)).detach().double()
    truth = float(srr.rate_reduction(Z, y, eps=0.5))
    np.testing.assert_allclose(losses["rate_reduction"].item(), truth, rtol=1e-5)
    losses["loss"].backward()
    mixed = model.blocks[0].dictionary.D.grad.clone()
    model.zero_grad()
    Z = model.pool(tokens_after(model, x, 1))
    (-srr.rate_reduction(torch.nn.functional.normalize(Z, dim=-1).double(), y, eps=0.5)).backward()
    torch.testing.assert_close(mixed, model.blocks[0].dictionary.D.grad, rtol=1e-4, atol=1e-6)


def test_masked_autoencoding_is_the_loss_of_the_model():
    torch.manual_seed(0)
    model = create_model("crate_mae_micro", depth=1, decoder_depth=1)
    x, y = batch()
    objective = build_objective(ObjectiveConfig(name="masked"))
    torch.manual_seed(3)
    seed = int(torch.randint(2**62, ()))
    wanted = model.loss(x, model.draw_mask(len(x), seed=seed))
    torch.manual_seed(3)
    torch.testing.assert_close(objective(model, x, y)["loss"], wanted)
    model.eval()
    assert torch.equal(objective(model, x, y)["loss"], objective(model, x, y)["loss"])


def test_next_token_counts_bits():
    torch.manual_seed(0)
    model = create_model("crate_causal_micro", depth=1, vocabulary=11, context=6)
    x = torch.randint(11, (3, 6))
    y = torch.randint(11, (3, 6))
    y[2] = IGNORE
    losses = build_objective(ObjectiveConfig(name="next_token"))(model, x, y)
    p = torch.softmax(model(x), -1).detach().numpy()
    bits = -np.mean([np.log2(p[i, t, int(y[i, t])]) for i in range(2) for t in range(6)])
    np.testing.assert_allclose(losses["bits"].item(), bits, rtol=1e-5)


@pytest.mark.parametrize(
    ("section", "words"),
    [({"name": "hinge"}, "cross_entropy, mcr2"), ({"srr_scope": "world"}, "srr_scope must be one of image, batch")],
)
def test_unknown_objectives(section, words):
    with pytest.raises(ValueError, match=words):
        resolve({"objective": section})


@pytest.mark.parametrize(
    ("section", "preset", "words"),
    [
        ({"srr_weight": 1.0, "srr_layers": (5,)}, "crate_micro", r"srr_layers must be in \[-4, 4\); got 5"),
        ({"name": "masked"}, "crate_micro", "'masked' does not go with a CRATE"),
        ({"name": "mcr2"}, "crate_causal_micro", "'mcr2' does not go with a CausalCRATE"),
        ({"name": "next_token"}, "crate_mae_micro", "'next_token' does not go with a CrateMAE"),
    ],
)
def test_objectives_that_a_model_cannot_have(section, preset, words):
    with pytest.raises(ValueError, match=words):
        check_objective(ObjectiveConfig(**section), create_model(preset))


def test_a_layer_that_is_not_there(model):
    objective = build_objective(ObjectiveConfig(srr_weight=1.0, srr_layers=(5,)))
    with pytest.raises(ValueError, match=r"layers must be in \[-2, 2\)"):
        objective(model, *batch())
