"""Maps, colors and the two commands that look at one image."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from srr.cli import app
from srr.nn import (
    Preprocessing,
    attention_maps,
    create_model,
    layer_states,
    layer_tokens,
    load_classifier,
    patch_maps,
    patch_tokens,
    read_image,
)
from srr.plots import plot_attention, token_colors

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
        attention_maps(create_model("crate_micro", **SMALL, block="crate_descent"), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="layer must lie"):
        attention_maps(create_model("crate_micro", **SMALL), torch.zeros(1, 3, 8, 8), layer=2)
    late = create_model("tost_micro", depth=1, block="crate", class_layers=1)
    with pytest.raises(ValueError, match="the class token joins after the layers"):
        patch_maps(late, torch.zeros(1, 3, 32, 32))


def layer_input(model: torch.nn.Module, images: torch.Tensor) -> np.ndarray:
    """Normalized tokens before the only layer, projected on all heads, (B, n, K, p)."""
    block = model.blocks[0]
    with layer_states(model) as seen, torch.no_grad():
        model(images)
        V = block.attention_norm(seen[0].before) @ block.attention.projection.T
    shift = getattr(block.attention, "projection_bias", None)
    return (V if shift is None else V + shift).detach().unflatten(-1, (4, -1)).numpy()


def test_maps_of_token_statistics_are_memberships() -> None:
    """A softmax over heads of the share that a token has in the squares of each."""
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for model in (
        create_model("tost_micro", depth=1),
        create_model("crate_micro", **{**SMALL, "depth": 1}, block="tssa"),
    ):
        model.double().eval()
        x = images[..., : model.config.image_size, : model.config.image_size]
        late = model.config.class_layers > 0
        V = layer_input(model, x)
        share = (V**2 / (V**2).sum(1, keepdims=True)).sum(-1)
        Pi = np.exp(share) / np.exp(share).sum(-1, keepdims=True)  # (B, n, K)
        np.testing.assert_allclose(attention_maps(model, x), Pi.swapaxes(1, 2), rtol=1e-10)
        np.testing.assert_allclose(patch_maps(model, x), Pi[:, (0 if late else 1) :].swapaxes(1, 2), rtol=1e-10)
        assert patch_tokens(model, x).shape == (2, 16, model.config.dim)


def test_maps_of_representatives_go_through_them() -> None:
    model = create_model("cbt_micro", depth=1).double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    V = torch.as_tensor(layer_input(model, x)).transpose(1, 2)  # (B, K, n, p)
    laid = V[:, :, :-1].transpose(2, 3).flatten(0, 1).unflatten(-1, (4, 4))
    Q = torch.nn.functional.adaptive_avg_pool2d(laid, (8, 8)).flatten(2).mT.unflatten(0, (2, 4))
    A = torch.softmax(Q @ V.mT / 4, dim=-1)
    wanted = A.mT @ A
    maps = attention_maps(model, x)
    torch.testing.assert_close(maps, wanted / wanted.sum(-1, keepdim=True))
    torch.testing.assert_close(patch_maps(model, x), maps[:, :, 0, 1:])


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
    model = create_model("crate_micro", **SMALL, num_classes=3)
    model.preprocessing = Preprocessing((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), ("ant", "bee", "cat"))
    model.save_pretrained(tmp_path / "run" / "model")
    pixels = np.random.default_rng(0).integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "run"


def test_predict_prints_the_probabilities_of_the_model(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from srr.nn import load_model

    assert app.main(["predict", str(run), str(run.parent / "picture.png"), "--json"]) == 0
    (image,) = json.loads(capsys.readouterr().out)
    assert image["image"] == str(run.parent / "picture.png")
    shown = image["classes"]
    pixels = np.asarray(Image.open(run.parent / "picture.png"), dtype=np.float32) / 255
    batch = torch.tensor((pixels - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]).float().permute(2, 0, 1)[None]
    with torch.no_grad():
        wanted = load_model(run)(batch)[0].softmax(-1)
    assert [row["name"] for row in shown] == [("ant", "bee", "cat")[i] for i in wanted.argsort(descending=True)]
    np.testing.assert_allclose([row["probability"] for row in shown], wanted.sort(descending=True).values, rtol=1e-5)
    shutil.copytree(run / "model", run.parent / "shared")  # what is shared predicts the same
    found = load_classifier(run.parent / "shared").predict(run.parent / "picture.png")
    torch.testing.assert_close(found.probabilities[0], wanted)
    assert found.names == (shown[0]["name"],)
    assert int(found.labels) == shown[0]["class"]


def test_predict_takes_files_and_folders_in_one_start(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, folder = run.parent / "picture.png", run.parent / "more"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.png", "deep/a.PNG"):
        shutil.copy(picture, folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / "<script>.png").write_text("no image")
    words = ["predict", str(run), str(picture), str(folder)]
    assert app.main([*words, "--json"]) == 1
    shown = capsys.readouterr()
    rows = json.loads(shown.out)
    assert [Path(row["image"]).name for row in rows] == ["picture.png", "<script>.png", "b.png", "a.PNG"]
    assert [len(row.get("classes", [])) for row in rows] == [1, 0, 1, 1]
    assert rows[0]["classes"] == rows[2]["classes"]
    assert "is no readable image" in rows[1]["error"]
    assert shown.err.strip().endswith(rows[1]["error"][-40:])
    assert app.main(words) == 1
    shown = capsys.readouterr().out
    assert shown.count(f"{rows[0]['classes'][0]['probability']:.4f}") == 3
    assert "…" not in shown


def test_a_classifier_takes_pixels_and_refuses_what_it_cannot_know(run: Path) -> None:
    classifier = load_classifier(run)
    pixels = np.asarray(Image.open(run.parent / "picture.png")).transpose(2, 0, 1)
    wanted = classifier.predict(run.parent / "picture.png").probabilities
    for images in (pixels, pixels[None].astype(np.float32) / 255, torch.tensor(pixels) / 255):
        torch.testing.assert_close(classifier.predict(images).probabilities, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        classifier.predict(np.stack([pixels] * 3), batch_size=2).probabilities, wanted.repeat(3, 1)
    )
    for images, words in (
        (pixels.astype(np.float32), r"numbers in \[0, 1\] or uint8; got torch.float32 in \[\d+, 2\d\d\]"),
        (pixels.astype(np.int64), "got torch.int64"),
        (np.zeros((2, 3, 9, 9), np.uint8), r"shape \(N, 3, 8, 8\); got \(2, 3, 9, 9\)"),
        ([], "shape"),
        (run.parent / "run", "holds no image"),
    ):
        with pytest.raises(ValueError, match=words):
            classifier.predict(images)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "does not say how its images are prepared"),
        ("{", "preprocessing.json is damaged"),
        ("[]", "it holds no table"),
        ('{"mean": [1], "std": [0]}', "std positive"),
        ('{"mean": [NaN], "std": [1]}', "mean must be finite"),
        ('{"mean": [1], "std": [1, 1]}', "one number a channel"),
        ('{"mean": ["1"], "std": [1]}', "must be numbers"),
        ('{"mean": [1], "std": [1], "classes": [1]}', "classes names"),
        ('{"mean": [1], "std": [1]}', "describes 1 channels; the model takes 3"),
    ],
)
def test_a_description_of_images_is_checked(run: Path, text: str | None, words: str) -> None:
    path = run / "model" / "preprocessing.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(ValueError, match=words):
        load_classifier(run)


def test_names_of_classes_go_with_the_classes(run: Path) -> None:
    with pytest.warns(UserWarning, match="head starts afresh"):
        assert load_classifier(run, num_classes=4).classes == ("0", "1", "2", "3")


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
    (run / "model" / "preprocessing.json").write_text("{")
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
