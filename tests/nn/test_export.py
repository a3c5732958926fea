"""Graphs of models: read back by onnxruntime or torch alone, for batches they were not traced on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from srr.cli import app
from srr.nn import Preprocessing, create_model, export_model

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = create_model("crate_micro", depth=1, num_classes=3)
    model.preprocessing = Preprocessing((0.1,), (0.5,), ("ant", "bee", "cat"))
    model.save_pretrained(tmp_path / "run" / "model")
    return tmp_path / "run"


def test_onnx_gives_the_scores_of_any_batch(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More tokens than dimensions and fewer: both sides of where the sparse step changes its form."""
    from srr.nn import load_model

    out = run.parent / "graphs" / "model.onnx"
    assert app.main(["export", str(run), str(out)]) == 0
    assert "any batch" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 1, 8, 8]
    assert json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])["classes"] == ["ant", "bee", "cat"]
    model = load_model(run)
    for size in (1, 5, 40):
        x = torch.randn(size, 1, 8, 8)
        with torch.no_grad():
            wanted = model(x).numpy()
        np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], wanted, rtol=0, atol=1e-4)
    assert app.main(["export", str(run), str(out)]) == 1
    assert "exists" in capsys.readouterr().err


def test_a_torch_program_gives_them_too(run: Path) -> None:
    from srr.nn import load_model

    out = run.parent / "model.pt2"
    assert app.main(["export", str(run), str(out)]) == 0
    kept = {"preprocessing": ""}
    program = torch.export.load(out, extra_files=kept).module()
    assert json.loads(kept["preprocessing"])["mean"] == [0.1]
    x = torch.randn(40, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(program(x), load_model(run)(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["tost_micro", "cbt_micro", "tost_language_micro"])
def test_other_models_of_the_family(name: str, tmp_path: Path) -> None:
    assert export_model(create_model(name, depth=1), tmp_path / "model.pt2") < 1e-5


def test_what_cannot_be_written_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    model = create_model("crate_descent_micro", depth=1)
    with pytest.raises(ValueError, match=r"cannot be written as ONNX: its exporter has no translation of \w+") as found:
        export_model(model, tmp_path / "model.onnx")
    assert "\n" not in str(found.value)
    with pytest.raises(ValueError, match="path must end in one of"):
        export_model(model, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="the graph differs from the model by"):
        export_model(model, tmp_path / "model.pt2", tol=1e-12)
    assert not list(tmp_path.iterdir())
