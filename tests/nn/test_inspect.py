"""Maps, colors and the two commands that look at one image."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from srr.cli import app
from srr.nn import attention_maps, create_model, layer_tokens
from srr.plots import plot_attention, token_colors
from srr.training.sources import read_image

SMALL = {"depth": 2, "dim": 16, "heads": 4, "head_dim": 4, "channels": 3, "image_size": 8, "patch_size": 2}


@pytest.mark.parametrize("layer", [0, -1])
def test_maps_are_the_softmax_of_the_layer(layer: int) -> None:
    torch.manual_seed(0)
    model = create_model("crate_micro", **SMALL).double()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    maps = attention_maps(model, images, layer=layer)
    Z = layer_tokens(model, images)[layer % 2]
    block = model.blocks[layer]
    rows = (block.attention_norm(Z) @ block.attention.projection.T).detach().numpy()
    for head in range(4):
        v = rows[1][:, 4 * head : 4 * head + 4]
        weights = np.exp(v @ v.T / 2)
        np.testing.assert_allclose(maps[1, head].numpy(), weights / weights.sum(1, keepdims=True), rtol=1e-10)
    assert model.training


def test_tokens_end_where_the_model_reads() -> None:
    model = create_model("crate_micro", **SMALL).eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(model.head(model.pool(layer_tokens(model, images)[-1])), model(images))


def test_layers_without_pairwise_attention_are_refused() -> None:
    with pytest.raises(ValueError, match="no pairwise attention map"):
        attention_maps(create_model("crate_micro", **SMALL, block="tssa"), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="layer must lie"):
        attention_maps(create_model("crate_micro", **SMALL), torch.zeros(1, 3, 8, 8), layer=2)


def test_colors_are_principal_components() -> None:
    generator = np.random.default_rng(0)
    axes = np.linalg.qr(generator.normal(size=(6, 3)))[0]
    scores = generator.normal(size=(50, 3)) * [9.0, 3.0, 1.0]
    colors = token_colors(scores @ axes.T + 5.0)
    assert colors.min() == 0.0
    assert colors.max() == 1.0
    for i in range(3):
        assert abs(np.corrcoef(colors[:, i], scores[:, i])[0, 1]) > 0.95
    np.testing.assert_allclose(token_colors(np.ones((4, 2))), 0.5)


def test_the_picture_has_a_panel_for_each_head() -> None:
    figure = plot_attention(np.zeros((8, 8, 3)), np.full((5, 16), 1 / 17), np.eye(16), grid=(4, 4))
    titles = [axis.get_title() for axis in figure.axes]
    assert sum(title.startswith("head") for title in titles) == 5
    assert titles[2] == "head 0: 94% on patches"
    with pytest.raises(ValueError, match="tokens must have one entry"):
        plot_attention(np.zeros((8, 8)), np.zeros((5, 16)), np.eye(9), grid=(4, 4))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    create_model("crate_micro", **SMALL, num_classes=3).save_pretrained(tmp_path / "run" / "model")
    names = {"classes": ["ant", "bee", "cat"], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "kind": "image"}
    names |= {"name": "insects", "shape": [3, 8, 8]}
    (tmp_path / "run" / "data.json").write_text(json.dumps(names))
    pixels = np.random.default_rng(0).integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "run"


def test_predict_prints_the_probabilities_of_the_model(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from srr.nn import load_model

    assert app.main(["predict", str(run), str(run.parent / "picture.png"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    pixels = np.asarray(Image.open(run.parent / "picture.png"), dtype=np.float32) / 255
    batch = torch.tensor((pixels - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]).float().permute(2, 0, 1)[None]
    with torch.no_grad():
        wanted = load_model(run)(batch)[0].softmax(-1)
    assert [row["name"] for row in shown] == [("ant", "bee", "cat")[i] for i in wanted.argsort(descending=True)]
    np.testing.assert_allclose([row["probability"] for row in shown], wanted.sort(descending=True).values, rtol=1e-5)


def test_predict_prints_a_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["predict", str(run / "model"), str(run.parent / "picture.png"), "--top", "2"]) == 0
    shown = capsys.readouterr().out
    assert sum(name in shown for name in ("ant", "bee", "cat")) == 2


@pytest.mark.parametrize("options", [[], ["--layer", "0"], ["--size", "16"]])
def test_attention_draws_a_picture(run: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    out = run.parent / "deep" / "maps.png"
    words = ["attention", str(run), str(run.parent / "picture.png"), "--out", str(out), *options]
    assert app.main(words) == 0
    assert "4 heads" in capsys.readouterr().out
    assert np.asarray(Image.open(out)).std() > 1
    assert app.main(words) == 1
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "attention"])
def test_mistakes_are_one_sentence(run: Path, command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    create_model("crate_causal_micro", depth=1).save_pretrained(tmp_path / "words")
    picture = str(run.parent / "picture.png")
    for words, expected in (
        ([str(tmp_path / "nowhere"), picture], "there is no run folder"),
        ([str(tmp_path), picture], "no saved model"),
        ([str(tmp_path / "words"), picture], "takes no images"),
        ([str(run), str(tmp_path / "gone.png")], "there is no image"),
        ([str(run), str(text)], "no readable image"),
    ):
        assert app.main([command, *words]) == 1
        error = capsys.readouterr().err
        assert expected in error
        assert len(error.strip().splitlines()) == 1
    (run / "data.json").write_text("{")
    assert app.main([command, str(run), picture]) == 1
    assert "damaged" in capsys.readouterr().err


def test_large_pictures_are_scaled_to_cover_and_cut_in_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[:, 20:60, 0] = 255  # the middle square is red
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    image = read_image(tmp_path / "wide.png", channels=3, size=(8, 8))
    assert image.shape == (3, 8, 8)
    assert image[0, :, 1:-1].min() == 1.0
    assert image[1:].max() == 0.0
    assert read_image(tmp_path / "wide.png", channels=1, size=(4, 8)).shape == (1, 4, 8)
