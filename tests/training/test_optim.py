"""Optimizers and schedule against their rules written out in NumPy."""

import math

import numpy as np
import pytest
import torch

from srr.nn import create_model
from srr.training.config import OptimConfig, TrainerConfig, resolve
from srr.training.optim import Lion, MuonWithAdamW, build_optimizer, may_fuse, parameter_groups, warmup_cosine


def gradients(steps=4, shape=(3, 5)):
    return np.random.default_rng(0).normal(size=(steps, *shape))


def run(make, shape=(3, 5)):
    x = torch.nn.Parameter(torch.ones(shape, dtype=torch.float64))
    optimizer = make([x])
    for g in gradients(shape=shape):
        x.grad = torch.as_tensor(g)
        optimizer.step()
    return x.detach().numpy()


def test_lion_follows_its_rule():
    x, m, lr, decay = np.ones((3, 5)), np.zeros((3, 5)), 0.01, 0.3
    for g in gradients():
        x = x * (1 - lr * decay) - lr * np.sign(0.9 * m + 0.1 * g)
        m = 0.99 * m + 0.01 * g
    found = run(lambda p: Lion(p, lr=lr, weight_decay=decay))
    np.testing.assert_allclose(found, x, rtol=1e-13)


def test_vectors_under_muon_follow_adamw():
    found = run(lambda p: MuonWithAdamW([{"params": p, "weight_decay": 0.1}], lr=0.01))
    wanted = run(lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, eps=1e-8))
    np.testing.assert_array_equal(found, wanted)


def test_matrices_under_muon_move_along_the_polar_factor():
    x, m, lr, decay = np.ones((3, 5)), np.zeros((3, 5)), 0.01, 0.3
    for g in gradients():
        m = 0.95 * m + 0.05 * g
        u, _, v = np.linalg.svd(0.05 * g + 0.95 * m, full_matrices=False)
        x = x * (1 - lr * decay) - lr * 0.2 * math.sqrt(5) * u @ v
    found = run(lambda p: MuonWithAdamW([{"params": p, "orthogonal": True, "weight_decay": decay}], lr=lr))
    moved, wanted = found - 1, x - 1
    cosine = np.sum(moved * wanted) / np.linalg.norm(moved) / np.linalg.norm(wanted)
    assert cosine > 0.97  # the iteration brings singular values near one, not to one
    assert np.abs(moved - wanted).max() < 0.35 * 4 * lr * 0.2 * math.sqrt(5)


def test_decay_under_muon_is_decoupled_from_the_gradient():
    x = torch.nn.Parameter(torch.full((3, 4), 2.0))
    optimizer = MuonWithAdamW([{"params": [x], "orthogonal": True, "weight_decay": 0.5}], lr=0.1)
    x.grad = torch.zeros(3, 4)
    optimizer.step()
    torch.testing.assert_close(x.detach(), torch.full((3, 4), 2 * (1 - 0.1 * 0.5)))


def test_muon_goes_on_bit_for_bit_from_its_state():
    def both():
        torch.manual_seed(0)
        return [torch.nn.Parameter(torch.randn(4, 6)), torch.nn.Parameter(torch.randn(6))]

    def steps(parameters, optimizer, numbers):
        for number in numbers:
            generator = torch.Generator().manual_seed(number)
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()

    def make(parameters):
        groups = [{"params": parameters[:1], "orthogonal": True}, {"params": parameters[1:]}]
        return MuonWithAdamW(groups, lr=0.1, weight_decay=0.1)

    whole, half = both(), both()
    steps(whole, make(whole), range(6))
    first = make(half)
    steps(half, first, range(3))
    second = make(half)
    second.load_state_dict(first.state_dict())
    steps(half, second, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole, half, strict=True))


def test_every_parameter_is_in_one_group_and_only_matrices_decay():
    model = create_model("crate_micro")
    groups = parameter_groups(model, weight_decay=0.1)
    grouped = [id(p) for g in groups for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    plain = next(g for g in groups if g["weight_decay"] == 0)
    names = {id(p): n for n, p in model.named_parameters()}
    assert {names[id(p)].rsplit(".", 1)[-1] for p in plain["params"]} == {"weight", "bias", "positions", "class_token"}
    assert all(p.ndim >= 2 for g in groups if g["weight_decay"] for p in g["params"])
    assert all(names[id(p)].startswith("blocks.") for g in groups if g["orthogonal"] for p in g["params"])


def test_everything_decays_where_that_is_asked_for():
    model = create_model("crate_micro", depth=1)
    optimizer = build_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.5, decay="all"))
    before = model.head.norm.weight.detach().clone()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(model.head.norm.weight.detach(), before * (1 - 0.1 * 0.5))


def test_a_schedule_by_epoch_is_that_of_torch():
    optimizer, theirs = (torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0) for _ in range(2))
    schedule = warmup_cosine(optimizer, warmup=0, total=5 * 7, stairs=5)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 5)
    for _ in range(5):
        for _ in range(7):
            np.testing.assert_allclose(schedule.get_last_lr(), cosine.get_last_lr(), rtol=1e-12)
            optimizer.step()
            schedule.step()
        theirs.step()
        cosine.step()


def test_warmup_then_cosine():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_cosine(optimizer, warmup=4, total=12, floor=0.1)
    rates = []
    for _ in range(13):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(rates[:5], [0.5, 1.0, 1.5, 2.0, 2.0])
    np.testing.assert_allclose(rates[8], 2 * (0.1 + 0.9 * 0.5))
    np.testing.assert_allclose(rates[12], 0.2)


@pytest.mark.parametrize(
    ("change", "words"), [({"name": "sgd"}, "adamw, lion, muon"), ({"betas": [0.9]}, "two numbers")]
)
def test_bad_optimizers(change, words):
    with pytest.raises(ValueError, match=words):
        resolve({"optim": change})


@pytest.mark.parametrize(("clip", "precision", "fused"), [(0, "bf16", True), (1, "32", True), (1, "bf16", False)])
def test_adamw_is_fused_where_clipping_allows(clip, precision, fused):
    assert may_fuse(TrainerConfig(clip_norm=clip, precision=precision)) is fused
    weights = [torch.nn.Linear(3, 2, bias=False) for _ in range(2)]
    for weight, optimizer in zip(weights, (True, False), strict=True):
        weight.weight.data = torch.arange(6.0).view(2, 3)
        weight.weight.grad = torch.ones(2, 3)
        built = build_optimizer(weight, OptimConfig(lr=0.1), fused=optimizer)
        built.step()
    torch.testing.assert_close(weights[0].weight, weights[1].weight)
