"""Closed-loop transcription as an objective: each player's gradient against the formula, and what a run leaves."""

import numpy as np
import pytest
import torch

from srr.nn import create_model, load_model, patchify, unpatchify
from srr.training import page
from srr.training.callbacks import KeepCheckpoints
from srr.training.checkpoint import read_checkpoint
from srr.training.config import ObjectiveConfig, merge, parse_overrides, resolve
from srr.training.features import features_of
from srr.training.module import TrainingModule
from srr.training.objectives import build_objective, check_objective
from srr.training.report import open_run
from srr.training.run import load_run_config, train
from srr.training.sources import IGNORE

LABELS = torch.tensor([1, 0, IGNORE, 1, 0, 1, 0])
REAL = LABELS != IGNORE
EPS = 0.4
DECODER = ("scatter", "decoder", "predict")


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = {"dim": 8, "heads": 2, "head_dim": 4, "depth": 1, "decoder_depth": 1, "code": 5}
    return create_model("crate_mae_micro", **sizes).double()


def images():
    return torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def rate(Z):
    n, d = Z.shape
    return torch.logdet(torch.eye(d, dtype=Z.dtype) + d / (n * EPS**2) * Z.mT @ Z) / 2


def reduction(Z, y):
    shares = [(Z[y == j], (y == j).sum() / len(y)) for j in y.unique()]
    return rate(Z) - sum(share * rate(part) for part, share in shares)


def distance(A, B):
    return rate(torch.cat((A, B))) - rate(A) / 2 - rate(B) / 2


def utility(Z, decoded, y, *, classes):
    """What the encoder raises and the decoder lowers, as published."""
    if not classes:
        return distance(Z, decoded)
    apart = sum(distance(Z[y == j], decoded[y == j]) for j in y.unique())
    return reduction(Z, y) + reduction(decoded, y) + apart


@pytest.mark.parametrize("classes", [True, False])
def test_each_player_moves_by_its_own_gradient(model, classes):
    x, y = images(), LABELS
    config = ObjectiveConfig(name="ctrl", eps=EPS, ctrl_classes=classes, pixel_weight=3.0)
    losses = build_objective(config)(model, x, y)
    losses["loss"].backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    Z = model.encode_one(x)
    patches = model.decode(Z.detach())
    fixed = unpatchify(patches.detach(), 8, 2)
    of_encoder = utility(Z[REAL], model.encode_one(fixed)[REAL], y[REAL], classes=classes)
    decoded = model.encode_one(unpatchify(patches, 8, 2))[REAL]
    error = (patches - patchify(x, 2))[REAL].square().mean()
    of_decoder = utility(Z[REAL].detach(), decoded, y[REAL], classes=classes) + 3.0 * error
    torch.testing.assert_close(losses["utility"], of_encoder.detach())
    torch.testing.assert_close(losses["pixel_error"], error.detach())
    torch.testing.assert_close(losses["loss"].detach(), 3.0 * error.detach() - of_encoder.detach())
    seen = 0
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        player, sign = (of_decoder, 1) if name.startswith(DECODER) else (of_encoder, -1)
        (wanted,) = torch.autograd.grad(sign * player, p, retain_graph=True, allow_unused=True)
        wanted = torch.zeros_like(p) if wanted is None else wanted  # the mask token, of which nothing is hidden
        torch.testing.assert_close(found[name], wanted, rtol=1e-8, atol=1e-10, msg=name)
        seen += float(wanted.abs().sum()) > 0
    assert seen > 10


def test_the_code_is_all_that_the_decoder_sees(model):
    x = images()
    Z = model.encode_one(x)
    np.testing.assert_allclose(Z.detach().norm(dim=1), 1.0, rtol=1e-12)
    torch.testing.assert_close(model(x), model.decode(Z))
    torch.testing.assert_close(features_of(model, x), Z.detach())
    assert model.decode(Z).shape == patchify(x, 2).shape


def test_a_code_is_saved_and_read_back(model, tmp_path):
    model.float().save_pretrained(tmp_path)
    again, x = load_model(tmp_path), images().float()
    assert again.config.code == 5
    torch.testing.assert_close(again.encode_one(x), model.encode_one(x))


COMMON = (
    "data.name=digits data.limit=300 data.batch_size=100 trainer.max_epochs=2 trainer.progress=none trainer.device=cpu "
    "model.preset=crate_mae_micro model.dim=8 model.heads=2 model.head_dim=4 model.depth=1 model.decoder_depth=1 "
    "model.code=8 objective.name=ctrl objective.pixel_weight=10 optim.betas=[0.5,0.9]"
).split()


def made(out, *words):
    return resolve(merge({"out": str(out)}, parse_overrides([*COMMON, *words])))


class Broken(Exception):
    """Stands for a crash."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ctrl") / "run"
    return folder, train(made(folder, "trainer.checkpoint_every=1"))


def test_a_run_keeps_the_epoch_of_the_least_pixel_error(run):
    folder, result = run
    opened = open_run(folder)
    module = TrainingModule(opened.model, opened.source.spec, opened.config)
    x = module.normalize(module.prepare(opened.source.val.x))
    with torch.no_grad():
        error = (opened.model(x) - patchify(x, 2)).square().mean()
    assert result["val_pixel_error"] == pytest.approx(float(error), rel=1e-5)
    assert result["best_val_pixel_error"] <= result["val_pixel_error"]
    assert {"val_utility", "val_knn", "val_effective_rank"} <= result.keys()


def test_a_run_resumes_bit_for_bit(run, tmp_path, monkeypatch):
    folder, _ = run
    save = KeepCheckpoints.save_last

    def save_and_break(self, trainer):
        save(self, trainer)
        if trainer.global_step == 2:
            raise Broken

    monkeypatch.setattr(KeepCheckpoints, "save_last", save_and_break)
    with pytest.raises(Broken):
        train(made(tmp_path / "parts", "trainer.checkpoint_every=1"))
    monkeypatch.undo()
    train(load_run_config(tmp_path / "parts"), resume=True)
    whole, parts = (read_checkpoint(f / "checkpoints/last.ckpt")["state_dict"] for f in (folder, tmp_path / "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_the_report_shows_what_was_decoded(run):
    opened = open_run(run[0])
    assert 'alt="reconstructions of run"' in page._reconstructions(opened)
    assert 'alt="cosines of features of run"' in page._features(opened, 16)
    result = page._result([opened], ["run"])
    assert "held-out squared error of a pixel" in result
    assert "nearest subspace on pixels" in result


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trainer.strategy=fsdp2", "needs trainer.strategy auto or ddp"),
        ("objective.srr_weight=0.1", "one pass through the layers"),
        ("augment.mixup=0.2", "no mixed labels"),
        ("objective.name=masked", "pixel_weight needs objective.name=ctrl"),
    ],
)
def test_what_does_not_go_together(words, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        made(tmp_path, *words.split())


def test_networks_that_have_no_loop(model):
    with pytest.raises(ValueError, match="'ctrl' does not go with a CRATE"):
        check_objective(ObjectiveConfig(name="ctrl"), create_model("crate_micro"))
    with pytest.raises(ValueError, match=r"model\.code=64"):
        check_objective(ObjectiveConfig(name="ctrl"), create_model("crate_mae_micro"))
    with pytest.raises(ValueError, match="normalize_targets=True"):
        check_objective(ObjectiveConfig(name="ctrl"), create_model("crate_mae_micro", code=8, normalize_targets=True))
    with pytest.raises(ValueError, match="got code=0"):
        create_model("crate_mae_micro").encode_one(images().float())
    with pytest.raises(ValueError, match="code"):
        create_model("crate_mae_micro", code=-1)
