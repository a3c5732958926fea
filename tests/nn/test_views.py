"""The loss of several views: its definition in plain numbers, its weight, half precision, what holds features apart."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from srr.nn.losses import expansion_weight, fused_coding_rate, rate_gradient_bound, views_loss

SHAPES = [(2, 12, 5), (3, 4, 9), (4, 7, 7)]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def definition(views, teacher, eps, weight):
    """Sample by sample and view by view, the rate from singular values."""
    unit = [[z / np.linalg.norm(z) for z in view] for view in views]
    V, n, d = views.shape
    targets = None if teacher is None else [[z / np.linalg.norm(z) for z in view] for view in teacher]
    terms = []
    for v in range(V):
        for i in range(n):
            if targets is None:
                terms.append(0.5 * np.sum((unit[v][i] - sum(unit[w][i] for w in range(V)) / V) ** 2))
            else:
                terms += [0.5 * np.sum((unit[v][i] - t[i]) ** 2) for w, t in enumerate(targets) if w != v]
    rates = []
    for view in unit:
        sigma = np.linalg.svd(np.array(view), compute_uv=False)
        rates.append(0.5 * sum(math.log1p(d / (n * eps**2) * s**2) for s in sigma))
    return np.mean(terms) - weight * np.mean(rates)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("eps", [0.1, 1.0])
@pytest.mark.parametrize("crops", [None, 1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_definition(shape, crops, eps, dtype):
    _, n, d = shape
    views = draw(*shape, dtype=dtype)
    teacher = None if crops is None else draw(crops, n, d, seed=1, dtype=dtype)
    inputs = (views.double().numpy(), None if teacher is None else teacher.double().numpy())
    wanted = definition(*inputs, eps, 2 * eps / math.sqrt(d * min(n, d)))
    assert float(views_loss(views, teacher=teacher, eps=eps)) == pytest.approx(wanted, rel=1e-6, abs=1e-6)
    wanted = definition(*inputs, eps, 0.3)
    assert float(views_loss(views, teacher=teacher, eps=eps, weight=0.3)) == pytest.approx(wanted, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("teacher", [None, draw(2, 4, 3, seed=1)], ids=["mean", "teacher"])
def test_gradients(teacher):
    assert gradcheck(lambda Z: views_loss(Z, teacher=teacher), draw(3, 4, 3).requires_grad_())


def test_no_gradient_reaches_the_teacher():
    teacher = draw(2, 4, 3, seed=1).requires_grad_()
    views_loss(draw(2, 4, 3).requires_grad_(), teacher=teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize(("n", "d"), [(64, 16), (16, 64), (9, 9), (1, 4)])
@pytest.mark.parametrize("eps", [0.05, 0.5, 2.0])
def test_the_bound_of_the_gradient_is_attained_and_never_passed(n, d, eps):
    bound, alpha, r = rate_gradient_bound(n, d, eps=eps), d / (n * eps**2), min(n, d)

    def norm(sigma, seed):
        """Of αZ(I + αZᵀZ)⁻¹ by automatic differentiation, at tokens with these singular values."""
        left, right = torch.linalg.qr(draw(n, r, seed=seed))[0], torch.linalg.qr(draw(d, r, seed=seed + 1))[0]
        Z = (left * sigma @ right.mT).requires_grad_()
        fused_coding_rate(Z, eps=eps).backward()
        return float(torch.linalg.norm(Z.grad))

    assert norm(torch.full((r,), alpha**-0.5, dtype=torch.float64), 0) == pytest.approx(bound, rel=1e-9)
    for seed in range(5):
        sigma = alpha**-0.5 * torch.exp(draw(r, seed=seed))
        assert norm(sigma, seed) < bound


@pytest.mark.parametrize(("n", "d"), [(256, 64), (1024, 64), (32, 128)])
def test_the_weight_balances_the_two_pulls(n, d):
    gamma = expansion_weight(n, d, eps=0.5)
    assert gamma * rate_gradient_bound(n, d, eps=0.5) == pytest.approx(1 / math.sqrt(n), rel=1e-12)
    Z = torch.nn.functional.normalize(draw(n, d), dim=-1).requires_grad_()
    target = torch.nn.functional.normalize(draw(n, d, seed=1), dim=-1)
    (0.5 * (Z - target).square().sum(-1)).mean().backward()
    tangent = Z.grad - (Z.grad * Z.detach()).sum(-1, keepdim=True) * Z.detach()
    assert float(torch.linalg.norm(tangent)) <= 1 / math.sqrt(n)


@pytest.mark.parametrize("shape", [(2, 8, 64), (2, 512, 16)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["spread", "collapsed", "zero"])
def test_half_precision_is_finite_and_right(kind, dtype, shape):
    Z = {"spread": draw(*shape), "collapsed": torch.ones(shape), "zero": torch.zeros(shape)}[kind].to(dtype)
    Z.requires_grad_()
    loss = views_loss(Z, eps=0.05)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(Z.grad).all()
    if kind != "zero":
        weight = 2 * 0.05 / math.sqrt(shape[2] * min(shape[1:]))
        wanted = definition(Z.detach().double().numpy(), None, 0.05, weight)
        assert loss.item() == pytest.approx(wanted, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("weight", "spread"), [(None, True), (0.0, False)])
def test_the_rate_is_what_holds_features_apart(weight, spread):
    """A linear map of noisy views, trained by the loss: without the rate all images come to one direction."""
    torch.manual_seed(0)
    images = draw(64, 10, dtype=torch.float32) + 1
    layer = torch.nn.Linear(10, 8)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(400):
        optimizer.zero_grad()
        views_loss(layer(images + 0.3 * torch.randn(2, 64, 10)), weight=weight).backward()
        optimizer.step()
    sigma = torch.linalg.svdvals(torch.nn.functional.normalize(layer(images).detach(), dim=-1))
    share = sigma / sigma.sum()
    effective = float(torch.exp(-(share * share.log()).sum()))
    assert effective > 6 if spread else effective < 2


def test_no_sample():
    assert float(views_loss(torch.zeros(2, 0, 4))) == 0.0


@pytest.mark.parametrize(
    ("views", "options", "words"),
    [
        (torch.ones(1, 4, 3), {}, r"views must have shape \(V, n, d\) with V >= 2; got \(1, 4, 3\)"),
        (torch.ones(4, 3), {}, "views must have shape"),
        (torch.ones(2, 4, 3), {"teacher": torch.ones(2, 4, 2)}, r"teacher must have shape \(W, 4, 3\)"),
        (torch.ones(2, 4, 3), {"teacher": torch.ones(3, 4, 3)}, "1 <= W <= 2"),
        (torch.ones(2, 4, 3), {"eps": 0.0}, "eps must be"),
        (torch.ones(2, 4, 3), {"weight": -1.0}, "weight must be"),
        (torch.full((2, 4, 3), torch.nan), {}, "NaN"),
    ],
)
def test_bad_input(views, options, words):
    with pytest.raises(ValueError, match=words):
        views_loss(views, **options)
