"""Objectives of several views, their teacher and what stands beside the network, against the formulas."""

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from srr.nn import create_model, manifold_loss, mcr2_loss, nmce_loss, patch_loss, views_loss
from srr.training.callbacks import KeepCheckpoints
from srr.training.config import ObjectiveConfig, merge, parse_overrides, resolve
from srr.training.features import matched_accuracy
from srr.training.module import TrainingModule
from srr.training.objectives import Teacher, build_objective, build_projection, check_objective, hide_patches
from srr.training.report import open_run
from srr.training.run import load_run_config, train
from srr.training.sources import IGNORE

LABELS = torch.tensor([1, 0, IGNORE, 3, 1, 2])
REAL = LABELS != IGNORE


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("crate_micro", dim=16, heads=2, head_dim=4, depth=2, patch_size=2)


def images(count):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def tokens(model, x):
    Z = model.embed(x)
    for block in model.blocks:
        Z = block(Z)
    return Z


def of_views(model, x, projection=None):
    """Features (V, real, d), one view after the other."""
    Z = torch.stack([model.pool(tokens(model, part)) for part in x.split(len(LABELS))])[:, REAL]
    return Z if projection is None else projection(Z)


def test_a_student_fills_in_what_its_teacher_sees(model):
    config = ObjectiveConfig(name="views", views=2, local_views=1, projection=(8, 5), teacher=0.9, patches_weight=0.7)
    projection = build_projection(config, model)
    assert [type(part).__name__ for part in projection] == ["Linear", "LayerNorm", "GELU", "Linear"]
    teacher = Teacher(model, projection)
    for p in teacher.parameters():
        p.data.mul_(1.1)
    x = images(18)
    torch.manual_seed(3)
    losses = build_objective(config, projection, teacher)(model, x, LABELS)
    torch.manual_seed(3)
    part, hidden = hide_patches(model, x[:12], 0.3)
    student = of_views(model, torch.cat((part, x[12:])), projection)
    target = of_views(teacher.model, x[:12], teacher.projection)
    torch.testing.assert_close(losses["views"], views_loss(student, teacher=target).detach())
    seen, wanted = projection(tokens(model, part)[:, 1:]), teacher.projection(tokens(teacher.model, x[:12])[:, 1:])
    filled = patch_loss(seen, wanted, hidden & REAL.repeat(2)[:, None])
    torch.testing.assert_close(losses["patches"], filled.detach())
    losses["loss"].backward()
    assert all(p.grad is None for p in teacher.parameters())
    learned = [*model.parameters(), *projection.parameters()]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in learned)


def test_hidden_patches_are_zero_and_the_others_untouched(model):
    x = images(4)
    part, hidden = hide_patches(model, x, 0.25)
    assert (hidden.sum(1) == 4).all()  # of sixteen
    for b in range(4):
        for i in range(16):
            at = (b, 0, slice(i // 4 * 2, i // 4 * 2 + 2), slice(i % 4 * 2, i % 4 * 2 + 2))
            assert torch.equal(part[at], torch.zeros(2, 2) if hidden[b, i] else x[at])


@pytest.mark.parametrize("name", ["views", "manifold", "nmce"])
def test_the_losses_and_which_labels_reach_the_layers(model, name):
    config = ObjectiveConfig(name=name, views=3, eps=0.4, gamma1=5.0, gamma2=0.2)
    x, found = images(18), []
    for labels in (LABELS, LABELS.roll(0).where(LABELS == IGNORE, (LABELS + 1) % 4)):
        model.zero_grad()
        losses = build_objective(config)(model, x, labels)
        losses["loss"].backward()
        found.append({key: p.grad.clone() for key, p in model.named_parameters()})
    same = [torch.equal(g, found[1][key]) for key, g in found[0].items() if not key.startswith("head.")]
    assert all(same)
    with torch.no_grad():
        Z = of_views(model, x)
        Pi = torch.softmax(model(x), -1).view(3, 6, -1).mean(0)[REAL]
    wanted = {
        "views": views_loss(Z, eps=0.4),
        "manifold": mcr2_loss(Z.flatten(0, 1), torch.arange(5).repeat(3), eps=0.4, gamma1=5.0, gamma2=0.2),
        "nmce": nmce_loss(Z, Pi, eps=0.4),
    }[name]
    torch.testing.assert_close(losses["loss" if name == "nmce" else "views"].detach(), wanted)
    torch.testing.assert_close(wanted.new_tensor(float(manifold_loss(Z, eps=0.4))), -gain_of_images(Z))


def gain_of_images(Z):
    return -mcr2_loss(Z.flatten(0, 1), torch.arange(5).repeat(3), eps=0.4)


def test_mcr2_takes_its_gammas(model):
    losses = build_objective(ObjectiveConfig(name="mcr2", gamma1=4.0, gamma2=0.3))(model, images(6), LABELS)
    wanted = -mcr2_loss(of_views(model, images(6))[0], LABELS[REAL], gamma1=4.0, gamma2=0.3)
    torch.testing.assert_close(losses["rate_reduction"], wanted.detach())


def test_the_regularizer_goes_with_views(model):
    config = ObjectiveConfig(name="views", srr_weight=0.1)
    assert torch.isfinite(build_objective(config)(model, images(12), LABELS)["srr"])


def test_a_teacher_is_the_moving_average(model):
    teacher, kept = Teacher(model, None), copy.deepcopy(model)
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in range(1, 30):
        for p in model.parameters():
            p.data += 0.01 * step
        teacher.follow(model, None, decay=0.6, steps=step)
        delta = min(0.6, (1 + step) / (10 + step))
        average = {name: delta * average[name] + (1 - delta) * p.detach() for name, p in model.named_parameters()}
    for name, p in teacher.model.named_parameters():
        torch.testing.assert_close(p, average[name])
        assert not torch.equal(p, dict(kept.named_parameters())[name])
    assert not teacher.train().training


COMMON = (
    "data.name=digits data.limit=200 data.batch_size=32 trainer.max_epochs=2 trainer.progress=none trainer.device=cpu "
    "model.dim=16 model.heads=2 model.head_dim=8 model.depth=2 model.patch_size=2 augment.crop_scale=[0.5,1.0] "
    "objective.name=views objective.teacher=0.9 objective.projection=[24,12] objective.local_views=1 "
    "objective.patches_weight=0.5"
).split()


class Broken(Exception):
    """Stands for a crash."""


def test_a_run_with_a_teacher_resumes_bit_for_bit_and_exports_it(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    words, names = [*COMMON, "trainer.checkpoint_every=1"], ("whole", "parts")
    whole, parts = (resolve(merge({"out": str(tmp_path / name)}, parse_overrides(words))) for name in names)
    train(whole)
    save = KeepCheckpoints.save_last

    def save_and_break(self, trainer):
        save(self, trainer)
        if trainer.global_step == 7:
            raise Broken

    monkeypatch.setattr(KeepCheckpoints, "save_last", save_and_break)
    with pytest.raises(Broken):
        train(parts)
    monkeypatch.undo()
    train(load_run_config(tmp_path / "parts"), resume=True)
    whole, parts = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for name in names
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    exported = open_run(tmp_path / "whole").model.state_dict()
    assert all(torch.equal(value, whole[f"teacher.model.{name}"]) for name, value in exported.items())
    assert any(not torch.equal(value, whole[f"model.{name}"]) for name, value in exported.items())


def test_a_run_of_clusters_logs_how_they_match_the_classes(tmp_path):
    words = [w for w in COMMON if "teacher" not in w and "patches_weight" not in w and "name=views" not in w]
    config = resolve(merge({"out": str(tmp_path / "run")}, parse_overrides([*words, "objective.name=nmce"])))
    found = train(config)
    assert 0.1 <= found["val_cluster_accuracy"] <= 1.0
    assert 0 <= found["val_cluster_entropy"] <= np.log(10) + 1e-6


def test_clusters_are_matched_to_classes():
    found = torch.tensor([2, 2, 0, 0, 1, 1, 2])
    labels = torch.tensor([0, 0, 1, 1, 2, 0, 1])
    assert matched_accuracy(found, labels, classes=3) == pytest.approx(5 / 7)
    assert confusion_matrix(labels, torch.tensor([0, 0, 1, 1, 2, 2, 0])).trace() == 5  # the match, by hand


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("objective.teacher=0.9 trainer.ema=0.9", "trainer.ema=0"),
        ("objective.name=mcr2 objective.teacher=0.9", "needs objective.name=views"),
        ("objective.patches_weight=1", "needs objective.teacher"),
        ("objective.name=mcr2 objective.projection=[8]", "objective.projection needs objective.name one of"),
        ("objective.teacher=0.9 trainer.strategy=fsdp2", "auto or ddp; got fsdp2"),
        ("objective.local_scale=[0.5]", "local_scale must be two numbers"),
        ("objective.name=nmce augment.crop_scale=[]", "objective.name=nmce needs changes"),
    ],
)
def test_what_does_not_go_together(words, message):
    base = ["objective.name=views", "augment.crop_scale=[0.5,1.0]"]
    with pytest.raises(ValueError, match=message):
        resolve(parse_overrides([*base, *words.split()]))


def test_views_need_a_classifier():
    with pytest.raises(ValueError, match="'nmce' does not go with a CrateMAE"):
        check_objective(ObjectiveConfig(name="nmce"), create_model("crate_mae_micro"))


def test_a_network_without_projection_has_the_names_of_before(model):
    config = resolve({"objective": {"name": "views"}, "augment": {"shift": 1}})
    assert all(name.startswith("model.") for name in TrainingModule(model, None, config).state_dict())
