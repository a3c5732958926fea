"""Optimizers and schedule against their rules written out in NumPy."""

import math

import numpy as np
import pytest
import torch

from srr.nn import create_model
from srr.training.config import OptimConfig
from srr.training.optim import Lion, Muon, build_optimizer, orthogonal_factor, parameter_groups, warmup_cosine


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
    found = run(lambda p: Muon(p, lr=0.01, weight_decay=0.1))
    wanted = run(lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, eps=1e-8))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_matrices_under_muon_move_along_the_polar_factor():
    x, m, lr = np.ones((3, 5)), np.zeros((3, 5)), 0.01
    for g in gradients():
        m = 0.95 * m + g
        u, _, v = np.linalg.svd(g + 0.95 * m, full_matrices=False)
        x = x - lr * 0.2 * math.sqrt(5) * u @ v
    found = run(lambda p: Muon([{"params": p, "orthogonal": True}], lr=lr))
    step = np.abs(found - x).max() / (4 * lr * 0.2 * math.sqrt(5))
    assert step < 0.35  # the iteration brings singular values near one, not to one


@pytest.mark.parametrize("shape", [(8, 8), (4, 16), (16, 4), (2, 6, 3)])
def test_orthogonal_factor_keeps_the_singular_vectors(shape):
    G = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    X = orthogonal_factor(G)
    singular = torch.linalg.svdvals(X)
    assert 0.5 < float(singular.min()) <= float(singular.max()) < 1.3
    core = X.mT @ G if shape[-1] <= shape[-2] else X @ G.mT
    torch.testing.assert_close(core, core.mT, atol=1e-4, rtol=1e-4)


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
    ("change", "words"), [({"name": "sgd"}, "adamw, lion, muon"), ({"betas": (0.9,)}, "two numbers")]
)
def test_bad_optimizers(change, words):
    with pytest.raises(ValueError, match=words):
        build_optimizer(create_model("crate_micro"), OptimConfig(**change))
