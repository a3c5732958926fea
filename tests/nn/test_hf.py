"""The classifier under the interface of transformers: pipelines, Auto classes and the Trainer, without torchvision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from srr.nn import create_model

transformers = pytest.importorskip("transformers")
from srr.nn.hf import CrateForImageClassification, save_for_transformers  # noqa: E402

PIXELS = np.random.default_rng(0).integers(0, 256, size=(20, 30, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = create_model("crate_micro", depth=1, channels=3, num_classes=3)
    with torch.no_grad():
        model.head.linear.weight.mul_(5)
    save_for_transformers(
        model, tmp_path / "hf", classes=["ant", "bee", "cat"], mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)
    )
    model.save_pretrained(tmp_path / "own")
    return tmp_path


def test_a_pipeline_gives_the_probabilities_of_the_model(folder: Path) -> None:
    """Of a picture read from a file as `srr predict` reads it."""
    from srr.nn import load_model
    from srr.training.sources import read_image

    classify = transformers.pipeline("image-classification", model=str(folder / "hf"), device="cpu")
    Image.fromarray(PIXELS).save(folder / "picture.png")
    shown = classify(str(folder / "picture.png"), top_k=3)
    image = read_image(folder / "picture.png", channels=3, size=(8, 8)).permute(1, 2, 0)
    batch = (image - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.5, 0.6, 0.7])
    with torch.no_grad():
        wanted = load_model(folder / "own")(batch.permute(2, 0, 1)[None])[0].softmax(-1)
    assert [row["label"] for row in shown] == [("ant", "bee", "cat")[i] for i in wanted.argsort(descending=True)]
    np.testing.assert_allclose([row["score"] for row in shown], wanted.sort(descending=True).values, rtol=1e-4)


def test_auto_classes_read_the_folder_and_take_other_labels(folder: Path) -> None:
    read = transformers.AutoModelForImageClassification.from_pretrained
    model, saved = read(folder / "hf"), create_model("crate_micro", depth=1, channels=3, num_classes=3)
    assert isinstance(model, CrateForImageClassification)
    assert model.config.id2label == {0: "ant", 1: "bee", 2: "cat"}
    assert model.network.config == saved.config
    wider = read(folder / "hf", num_labels=5, ignore_mismatched_sizes=True)
    assert wider.network.head.linear.weight.shape == (5, 64)
    assert 0 < wider.network.head.linear.weight.abs().max() <= 64**-0.5  # drawn, as torch draws it
    torch.testing.assert_close(wider.network.embed.linear.weight, model.network.embed.linear.weight)


def test_a_trainer_trains_it(folder: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    assert accelerate
    model = transformers.AutoModelForImageClassification.from_pretrained(folder / "hf")
    x, y = torch.randn(12, 3, 8, 8), torch.arange(12) % 3
    rows = [{"pixel_values": image, "labels": label} for image, label in zip(x, y, strict=True)]
    options = transformers.TrainingArguments(
        output_dir=str(folder / "out"),
        num_train_epochs=8,
        learning_rate=3e-3,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
    )
    before = model(pixel_values=x, labels=y).loss.item()
    transformers.Trainer(model=model, args=options, train_dataset=rows).train()
    assert model(pixel_values=x, labels=y).loss.item() < before


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    model = create_model("crate_micro", depth=1)
    with pytest.raises(ValueError, match="classes must name each of 10"):
        save_for_transformers(model, tmp_path, classes=["one"])
    with pytest.raises(ValueError, match="1 numbers"):
        save_for_transformers(model, tmp_path, mean=(0.1, 0.2, 0.3))
    assert not list(tmp_path.iterdir())


def test_a_run_becomes_such_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from srr.cli import app

    assert app.main(["export", str(folder / "own"), str(folder / "new" / "hf")]) == 0
    assert "pipeline" in capsys.readouterr().out
    assert transformers.AutoImageProcessor.from_pretrained(folder / "new" / "hf").mean == [0.5] * 3
