"""The classifier under the interface of transformers: pipelines, Auto classes and the Trainer, without torchvision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from srr.nn import Preprocessing, create_model, load_classifier

transformers = pytest.importorskip("transformers")
from srr.nn.hf import CrateForImageClassification, save_for_transformers  # noqa: E402

PIXELS = np.random.default_rng(0).integers(0, 256, size=(20, 30, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = create_model("crate_micro", depth=1, channels=3, num_classes=3)
    with torch.no_grad():
        model.head.linear.weight.mul_(5)
    model.preprocessing = Preprocessing((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), ("ant", "bee", "cat"))
    save_for_transformers(model, tmp_path / "hf")
    model.save_pretrained(tmp_path / "own")
    return tmp_path


def test_a_pipeline_gives_the_probabilities_of_the_model(folder: Path) -> None:
    """Of a picture read from a file as `srr predict` reads it."""

    classify = transformers.pipeline("image-classification", model=str(folder / "hf"), device="cpu")
    Image.fromarray(PIXELS).save(folder / "picture.png")
    shown = classify(str(folder / "picture.png"), top_k=3)
    wanted = load_classifier(folder / "own").predict(folder / "picture.png").probabilities[0]
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


def test_a_model_that_does_not_say_how_images_are_prepared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not say how its images are prepared"):
        save_for_transformers(create_model("crate_micro", depth=1), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_becomes_such_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from srr.cli import app

    assert app.main(["export", str(folder / "own"), str(folder / "new" / "hf")]) == 0
    assert "pipeline" in capsys.readouterr().out
    assert transformers.AutoImageProcessor.from_pretrained(folder / "new" / "hf").mean == [0.1, 0.2, 0.3]
