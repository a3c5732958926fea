"""Features without labels: the objective of views, what is said of their spread, and what is read from them."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from srr.cli.app import main
from srr.nn import create_model
from srr.training.callbacks import curve, read_table
from srr.training.config import ObjectiveConfig, resolve
from srr.training.features import (
    choose_read,
    feature_spread,
    features_of,
    nearest_neighbors,
    read_out,
    spaced_samples,
)
from srr.training.objectives import build_objective
from srr.training.page import write_report
from srr.training.sources import TensorSamples

WORDS = ["objective.name=views", "trainer.max_epochs=3", "trainer.progress=lines", "augment.crop_scale=[0.6,1.0]"]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run with the rate and without it."""
    folder = tmp_path_factory.mktemp("runs")
    torch.set_num_threads(1)
    for name, more in {"rate": [], "none": ["objective.views_weight=0"]}.items():
        assert main(["train", "--data", "digits", "--out", str(folder / name), "--device", "cpu", *WORDS, *more]) == 0
    return folder


def test_no_label_reaches_the_layers():
    torch.manual_seed(0)
    model = create_model("crate_micro", dim=16, heads=2, head_dim=4, depth=2)
    x, y = torch.rand(12, 1, 8, 8), torch.arange(6)
    found = []
    for labels in (y, y.flip(0)):
        model.zero_grad()
        build_objective(ObjectiveConfig(name="views"))(model, x, labels)["loss"].backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    same = {name: torch.equal(g, found[1][name]) for name, g in found[0].items()}
    assert all(equal for name, equal in same.items() if not name.startswith("head."))
    assert not all(same.values())  # the head does read them


def test_the_rate_prevents_the_collapse_that_is_logged_and_said(runs, capsys):
    tables = {name: read_table(runs / name / "metrics.csv") for name in ("rate", "none")}
    ranks = {name: curve(rows, "val_effective_rank")[1] for name, rows in tables.items()}
    assert len(ranks["rate"]) == 3
    assert ranks["rate"][-1] > 20
    assert ranks["none"][-1] < 1.5
    assert curve(tables["rate"], "val_knn")[1][-1] > 0.5
    pages = {name: write_report([runs / name], runs / f"{name}.html").read_text() for name in tables}
    assert "The features have collapsed: their effective rank is" in pages["none"]
    assert "have collapsed" not in pages["rate"]
    assert all("effective rank, of 64" in page for page in pages.values())


def test_a_run_says_that_its_features_have_collapsed(tmp_path, capsys):
    words = [*WORDS, "objective.views_weight=0", "trainer.progress=none"]
    assert main(["train", "--data", "digits", "--out", str(tmp_path / "run"), "--device", "cpu", *words]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("the features have collapsed") == 1


def test_the_probe_prints_and_writes_the_same_numbers(runs, capsys):
    assert main(["probe", str(runs / "rate"), "--samples", "500"]) == 0
    printed = capsys.readouterr().out
    found = json.loads((runs / "rate" / "probe.json").read_text())
    assert list(found) == ["pixels", "untrained", "trained"]
    for accuracies in found.values():
        assert list(accuracies) == ["knn", "linear", "nearest_subspace", "read"]
        assert all(f"{value:.4f}" in printed for name, value in accuracies.items() if name != "read")
    assert found["pixels"]["knn"] > 0.9


def test_neighbors_are_those_of_scikit_learn():
    bank, queries, labels = draw(200, 5), draw(80, 5, seed=1), torch.arange(200) % 3
    wanted = KNeighborsClassifier(20, metric="cosine").fit(bank.numpy(), labels.numpy()).predict(queries.numpy())
    np.testing.assert_array_equal(nearest_neighbors(bank, labels, queries, classes=3).numpy(), wanted)


def test_classes_on_their_own_subspaces_are_read_without_an_error():
    labels = torch.arange(300) % 3
    bases = torch.linalg.qr(draw(3, 12, 3)).Q
    Z = torch.einsum("nr,ndr->nd", draw(300, 3, seed=1), bases[labels])
    found = read_out((Z[:240], labels[:240]), (Z[240:], labels[240:]), classes=3)
    assert found.nearest_subspace == 1.0
    assert found.knn > 0.9


def test_the_spread_of_known_singular_values():
    n, d, eps = 50, 8, 0.5
    sigma = torch.tensor([4.0, 2.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    Z = torch.linalg.qr(draw(n, d)).Q * sigma
    found = feature_spread(Z, eps=eps)
    share = [0.5, 0.25, 0.125, 0.125]
    assert found.effective_rank == pytest.approx(math.exp(-sum(p * math.log(p) for p in share)), rel=1e-9)
    assert found.dead == 0.5
    unit = (Z / Z.norm(dim=1, keepdim=True)).numpy()
    rate = 0.5 * np.linalg.slogdet(np.eye(d) + d / (n * eps**2) * unit.T @ unit)[1] / d
    assert found.rate == pytest.approx(rate, rel=1e-9)
    assert found.warning is None
    same = feature_spread(torch.ones(n, d), eps=eps)
    assert same.effective_rank == pytest.approx(1.0, abs=1e-6)
    assert same.dead == 1.0
    assert "effective rank is 1.00 of 8" in same.warning
    assert feature_spread(torch.zeros(n, d), eps=eps).effective_rank == 0.0


def test_samples_are_evenly_spaced():
    x, y = spaced_samples(TensorSamples(torch.arange(100.0)[:, None], torch.arange(100)), 12)
    assert y.tolist() == [round(i * 99 / 11) for i in range(12)]
    assert torch.equal(x[:, 0].long(), y)
    assert len(spaced_samples(TensorSamples(torch.zeros(5, 1), torch.arange(5)), 12)[1]) == 5


@pytest.mark.parametrize(
    ("preset", "x", "shape"),
    [
        ("crate_micro", torch.rand(3, 1, 8, 8), (3, 64)),
        ("crate_mae_micro", torch.rand(3, 1, 8, 8), (3, 64)),
        ("crate_causal_micro", torch.zeros(3, 5, dtype=torch.long), (15, 64)),
    ],
)
def test_every_family_has_features(preset, x, shape):
    model = create_model(preset)
    found = features_of(model, x, batch_size=2)
    assert found.shape == shape
    assert not found.requires_grad
    assert model.training


def test_tokens_keep_the_places_that_their_mean_forgets():
    """The class is where a bright patch is: the mean of tokens without positions cannot say it, their list can."""
    torch.manual_seed(0)
    model = create_model("crate_micro", dim=16, heads=2, head_dim=4, depth=1, patch_size=2)
    model.embed.positions.data.zero_()
    y = torch.arange(160) % 16
    x = 0.05 * torch.rand(160, 1, 8, 8)
    for image, k in zip(x, y.tolist(), strict=True):
        image[0, k // 4 * 2 : k // 4 * 2 + 2, k % 4 * 2 : k % 4 * 2 + 2] += torch.tensor([[1.0, 0.0], [0.5, 0.2]])
    with torch.no_grad():
        tokens = model.blocks[0](model.embed(x))[:, 1:]
    torch.testing.assert_close(features_of(model, x, read="tokens"), tokens.reshape(160, -1))
    read, Z = choose_read(model, x, y, classes=16)
    assert read == "tokens"
    assert torch.equal(Z, features_of(model, x, read="tokens"))
    with pytest.raises(ValueError, match="read must be one of"):
        features_of(model, x, read="all")


@pytest.mark.parametrize("preset", ["crate_mae_micro", "tost_micro"])
def test_tokens_of_other_families(preset):
    model = create_model(preset).eval()
    side = model.config.image_size
    x = torch.rand(2, model.config.channels, side, side)
    with torch.no_grad():
        Z = model.encode(x)[:, 1:] if preset == "crate_mae_micro" else model.embed(x)
        for block in model.blocks if preset == "tost_micro" else ():
            Z = block(Z)
    torch.testing.assert_close(features_of(model, x, read="tokens"), Z.flatten(1))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"augment": {}}, "needs changes that make views"),
        ({"augment": {"shift": 1, "mixup": 0.2}}, "no labels to mix"),
        ({"augment": {"shift": 1}, "data": {"name": "mixture"}}, "needs images; got data.name=mixture"),
    ],
)
def test_views_that_cannot_be(section, words):
    with pytest.raises(ValueError, match=words):
        resolve({"objective": {"name": "views"}, **section})
