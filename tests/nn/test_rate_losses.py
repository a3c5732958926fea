"""MCR² with its γ, views as classes, clusters, hidden patches and closed loops: the formulas in plain numbers."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from srr.nn.losses import ctrl_loss, manifold_loss, mcr2_loss, nmce_loss, patch_loss, views_loss

LABELS = torch.tensor([0, 2, 1, 0, 2, 2, 0, 1, 1])


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def unit(Z):
    return np.array([z / np.linalg.norm(z) for z in np.asarray(Z, dtype=float)])


def rate(Z, eps, weights=None, inside=1.0):
    """½ logdet(I + γα ZᵀWZ) of rows, from eigenvalues."""
    w = np.ones(len(Z)) if weights is None else np.asarray(weights, dtype=float)
    moment = sum(wi * np.outer(z, z) for wi, z in zip(w, Z, strict=True))
    return 0.5 * float(np.log1p(inside * Z.shape[1] / (w.sum() * eps**2) * np.linalg.eigvalsh(moment)).sum())


def reduction(Z, classes, eps):
    """R − Σ_k n_k/n R_k, class by class."""
    parts = [Z[classes == k] for k in np.unique(classes)]
    return rate(Z, eps) - sum(len(part) / len(Z) * rate(part, eps) for part in parts)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("gamma1", "gamma2"), [(1.0, 1.0), (20.0, 0.05), (0.5, 3.0)])
@pytest.mark.parametrize("members", [False, True])
def test_mcr2_with_its_gammas(members, gamma1, gamma2, dtype):
    Z = draw(9, 5, dtype=dtype)
    Pi = torch.softmax(draw(9, 3, seed=1), -1) if members else LABELS
    weights = Pi.numpy() if members else np.eye(3)[LABELS.numpy()]
    rows = unit(Z)
    inside = sum(w.sum() / 9 * rate(rows, 0.4, w) for w in weights.T)
    wanted = inside - gamma2 * rate(rows, 0.4, inside=gamma1)
    found = mcr2_loss(Z, Pi.to(dtype) if members else Pi, eps=0.4, gamma1=gamma1, gamma2=gamma2)
    assert float(found) == pytest.approx(wanted, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 6, 4), (5, 3, 8)], ids=str)
def test_views_are_classes(shape):
    V, n, d = shape
    views = draw(*shape)
    rows = unit(views.reshape(-1, d))
    image = np.tile(np.arange(n), V)
    inside = rate(rows, 0.5) - reduction(rows, image, 0.5)
    for gamma1, gamma2 in ((1.0, 1.0), (6.0, 1 / 6)):
        wanted = inside - gamma2 * rate(rows, 0.5, inside=gamma1)
        assert float(manifold_loss(views, eps=0.5, gamma1=gamma1, gamma2=gamma2)) == pytest.approx(wanted, rel=1e-9)


def test_clusters_by_rates():
    views, Pi = draw(3, 7, 4), torch.softmax(2 * draw(7, 2, seed=1), -1)
    gamma = 2 * 0.5 / 4  # n >= d
    rows = [unit(view) for view in views]
    means = np.mean(rows, axis=0)
    agreement = np.mean([0.5 * np.sum((view - means) ** 2, axis=1) for view in rows])
    gains = [rate(Z, 0.5) - sum(w.sum() / 7 * rate(Z, 0.5, w) for w in Pi.numpy().T) for Z in rows]
    assert float(nmce_loss(views, Pi, eps=0.5)) == pytest.approx(agreement - gamma * np.mean(gains), rel=1e-9)
    one = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(7, 2)
    assert float(nmce_loss(views, one, eps=0.5)) == pytest.approx(agreement, rel=1e-9)  # no reduction in one cluster


def test_even_memberships_leave_the_agreement_alone():
    """R^c of K equal shares is R: no rate pulls on the features, which is where a run without a warm start begins."""
    Z = draw(3, 7, 4).requires_grad_()
    (found,) = torch.autograd.grad(nmce_loss(Z, torch.full((7, 5), 0.2), weight=0.7), Z)
    unit = Z / Z.norm(dim=-1, keepdim=True)
    agreement = (unit - unit.mean(0)).square().sum(-1).mean() / 2
    torch.testing.assert_close(found, torch.autograd.grad(agreement, Z)[0], rtol=1e-6, atol=1e-8)


def test_memberships_alone_find_two_subspaces():
    """Fixed features on two orthogonal planes: descent in Π alone separates them, without a label."""
    points = torch.zeros(40, 4, dtype=torch.float64)
    points[:20, :2], points[20:, 2:] = draw(20, 2), draw(20, 2, seed=1)
    scores = (0.1 * draw(40, 2, seed=2)).requires_grad_()
    optimizer = torch.optim.Adam([scores], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        nmce_loss(points.expand(2, -1, -1), torch.softmax(scores, -1), eps=0.1, weight=1.0).backward()
        optimizer.step()
    found = scores.argmax(-1)
    assert (found[:20] == found[0]).all()
    assert (found[20:] == 1 - found[0]).all()
    assert float(torch.softmax(scores.detach(), -1).max(-1).values.min()) > 0.95  # hard


@pytest.mark.parametrize("weight", [0.0, 0.2])
def test_hidden_patches(weight):
    tokens, teacher, hidden = draw(3, 5, 4), draw(3, 5, 4, seed=1), draw(3, 5, seed=2) > 0
    pairs = [(tokens[b, i], teacher[b, i]) for b in range(3) for i in range(5) if hidden[b, i]]
    student, target = (unit(torch.stack(side)) for side in zip(*pairs, strict=True))
    wanted = np.mean(0.5 * np.sum((student - target) ** 2, axis=1)) - weight * rate(student, 0.5)
    assert float(patch_loss(tokens, teacher, hidden, weight=weight)) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_closed_loops(dtype):
    """From the definition: ΔR(A, B) is the rate of the union less half the rates of both."""
    Z, decoded = draw(9, 6, dtype=dtype), draw(9, 6, seed=1, dtype=dtype)
    A, B, classes = unit(Z), unit(decoded), LABELS.numpy()

    def distance(one, other):
        return rate(np.concatenate((one, other)), 0.5) - 0.5 * rate(one, 0.5) - 0.5 * rate(other, 0.5)

    assert float(ctrl_loss(Z, decoded)) == pytest.approx(-distance(A, B), rel=1e-6)
    pairs = sum(distance(A[classes == j], B[classes == j]) for j in range(3))
    utility = reduction(A, classes, 0.5) + reduction(B, classes, 0.5) + pairs
    assert float(ctrl_loss(Z, decoded, LABELS)) == pytest.approx(-utility, rel=1e-6)
    gap = torch.where(LABELS == 1, 3, LABELS)  # a class that no sample has changes nothing
    assert float(ctrl_loss(Z, decoded, gap)) == pytest.approx(-utility, rel=1e-6)


def test_equal_second_moments_have_no_distance():
    Z = draw(8, 4)
    assert float(ctrl_loss(Z, -Z.flip(0))) == pytest.approx(0.0, abs=1e-12)
    assert float(ctrl_loss(Z, draw(8, 4, seed=1))) < -1e-3


@pytest.mark.parametrize(
    "loss",
    [
        lambda Z: mcr2_loss(Z[0], LABELS[:5], gamma1=3.0, gamma2=0.4),
        lambda Z: manifold_loss(Z, gamma1=3.0, gamma2=0.4),
        lambda Z: nmce_loss(Z, torch.softmax(Z[0, :, :2], -1)),
        lambda Z: patch_loss(Z, draw(2, 5, 3, seed=1), draw(2, 5, seed=2) > 0, weight=0.3),
        lambda Z: ctrl_loss(Z[0], Z[1], LABELS[:5]),
    ],
)
def test_gradients(loss):
    assert gradcheck(loss, draw(2, 5, 3).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["spread", "collapsed", "zero"])
def test_half_precision_is_finite(kind, dtype):
    Z = {"spread": draw(2, 9, 8), "collapsed": torch.ones(2, 9, 8), "zero": torch.zeros(2, 9, 8)}[kind].to(dtype)
    Z.requires_grad_()
    losses = [manifold_loss(Z, eps=0.05), nmce_loss(Z, torch.softmax(Z[0, :, :3], -1), eps=0.05)]
    losses += [ctrl_loss(Z[0], Z[1], LABELS, eps=0.05), ctrl_loss(Z[0], Z[1], eps=0.05)]
    losses += [patch_loss(Z, Z.flip(1), torch.ones(2, 9, dtype=torch.bool), weight=1.0, eps=0.05)]
    sum(losses).backward()
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses)
    assert torch.isfinite(Z.grad).all()


def test_no_sample():
    empty = torch.zeros(2, 0, 4)
    found = [manifold_loss(empty), nmce_loss(empty, torch.zeros(0, 3)), ctrl_loss(*empty), views_loss(empty)]
    found += [ctrl_loss(*empty, torch.zeros(0, dtype=torch.long)), mcr2_loss(empty[0], torch.zeros(0).long(), gamma1=2)]
    found += [patch_loss(torch.ones(2, 3, 4), torch.ones(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool))]
    assert [float(x) for x in found] == [0.0] * len(found)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda Z: mcr2_loss(Z[0], LABELS[:4], gamma1=0.0), "gamma1 must be"),
        (lambda Z: mcr2_loss(Z[0], LABELS[:4], gamma2=-1.0), "gamma2 must be"),
        (lambda Z: mcr2_loss(Z[0], torch.ones(4, 2, requires_grad=True)), "Pi must be a constant"),
        (lambda Z: manifold_loss(Z[:1]), r"views must have shape \(V, n, d\) with V >= 2; got \(1, 4, 3\)"),
        (lambda Z: nmce_loss(Z, torch.ones(3, 2)), r"memberships must be floating numbers \(4, K\)"),
        (lambda Z: nmce_loss(Z, -torch.ones(4, 2)), "must be >= 0"),
        (lambda Z: nmce_loss(Z, torch.ones(4, 2), eps=0.0), "eps must be"),
        (lambda Z: patch_loss(Z, Z, torch.ones(2, 3)), r"hidden \(B, n\); got \(2, 4, 3\), \(2, 4, 3\) and \(2, 3\)"),
        (lambda Z: patch_loss(Z, Z, torch.ones(2, 4, dtype=torch.bool), weight=-1.0), "weight must be"),
        (lambda Z: ctrl_loss(Z[0], Z), r"Z and decoded must have one shape \(n, d\); got \(4, 3\) and \(2, 4, 3\)"),
        (lambda Z: ctrl_loss(Z[0], Z[1], torch.ones(4)), "labels must be class numbers"),
        (lambda Z: ctrl_loss(Z[0] * math.nan, Z[1]), "NaN"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ValueError, match=words):
        call(draw(2, 4, 3, dtype=torch.float32))
