"""Models in folders: whole or not at all, and nothing silently wrong."""

import json
from pathlib import Path

import pytest
import torch

import srr.nn.pretrained as pretrained
from srr.nn import BLOCKS, CRATE, CrateMAE, create_model, load_model

SMALL = {"depth": 1, "dim": 16, "heads": 4, "head_dim": 4}


@pytest.mark.parametrize("name", ["crate_micro", "crate_causal_micro", "crate_mae_micro"])
@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_a_saved_model_comes_back(name: str, block: str, tmp_path: Path) -> None:
    if name == "crate_causal_micro" and block in ("cbsa", "crate_descent", "crate_descent_zero"):
        return  # has no causal form
    model = create_model(name, **SMALL, block=block)
    model.save_pretrained(tmp_path / "deep" / "folder")
    twin = load_model(tmp_path / "deep" / "folder")
    assert type(twin) is type(model)
    assert twin.config == model.config
    assert not twin.training
    for (key, one), (other, two) in zip(model.state_dict().items(), twin.state_dict().items(), strict=True):
        assert key == other
        assert torch.equal(one, two)
    assert sorted(p.name for p in (tmp_path / "deep" / "folder").iterdir()) == ["config.json", "model.safetensors"]


def test_orthonormal_models_come_back(tmp_path: Path) -> None:
    model = create_model("crate_micro", **SMALL, orthogonal=True).eval()
    model.save_pretrained(tmp_path)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(load_model(tmp_path)(x), model(x))


def test_a_run_folder_is_understood(tmp_path: Path) -> None:
    create_model("crate_micro", **SMALL).save_pretrained(tmp_path / "model")
    (tmp_path / "config.json").write_text("{}")
    assert load_model(tmp_path).config.dim == 16


def test_another_image_size_and_class_count(tmp_path: Path) -> None:
    model = create_model("crate_micro", **SMALL, image_size=(8, 16))
    model.save_pretrained(tmp_path)
    wide = CRATE.from_pretrained(tmp_path, image_size=(16, 16))
    assert wide.embed.positions.shape == (1, 17, 16)
    torch.testing.assert_close(wide.embed.positions[:, 0], model.embed.positions[:, 0])
    with pytest.warns(UserWarning, match="head starts afresh"):
        assert CRATE.from_pretrained(tmp_path, num_classes=3)(torch.zeros(1, 1, 8, 16)).shape == (1, 3)


def test_an_interrupted_save_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("crate_micro", **SMALL)
    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.head.linear.bias += 1

    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(pretrained.os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def damaged(folder: Path, name: str, content: bytes | None) -> Path:
    create_model("crate_micro", **SMALL).save_pretrained(folder)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", b"{", "damaged"),
        ("config.json", b"[1]", "damaged"),
        ("config.json", b'{"model": "CRATE", "width": 3}', "unknown model options"),
        ("config.json", b'{"model": "ResNet"}', "must name a model"),
        ("config.json", b'{"model": "CRATE"}', "asks for dim=384"),
        ("model.safetensors", b"nonsense", "damaged"),
        ("model.safetensors", b"", "damaged"),
    ],
)
def test_damage_is_one_clear_sentence(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        load_model(damaged(tmp_path, name, content))
    assert "\n" not in str(caught.value).strip()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=name):
        load_model(damaged(tmp_path, name, None))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    create_model("crate_micro", **SMALL).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="damaged"):
        load_model(tmp_path)


def test_another_class_is_refused(tmp_path: Path) -> None:
    create_model("crate_micro", **SMALL).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="describes a CRATE; wanted a CrateMAE"):
        CrateMAE.from_pretrained(tmp_path)


@pytest.mark.parametrize("preset", ["crate_micro", "crate_mae_micro", "crate_causal_micro"])
@pytest.mark.parametrize(
    ("field", "value"),
    [("depth", 10_000_000), ("dim", 10**9), ("head_dim", 10**9), ("decoder_depth", 10**7), ("patch_size", 10**6)],
)
def test_a_config_that_asks_for_more_than_its_weights_hold_is_refused(
    preset: str, field: str, value: int, tmp_path: Path
) -> None:
    """A folder of a few kilobytes from anyone must not fill the memory of who opens it."""
    create_model(preset).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if field not in config:
        pytest.skip("no such field")
    config[field] = value
    if field == "patch_size":
        config["image_size"] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json asks for"):
        load_model(tmp_path)


def test_a_config_is_not_larger_than_a_megabyte(tmp_path: Path) -> None:
    create_model("crate_micro").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[" * 2_000_000)
    with pytest.raises(ValueError, match=r"damaged: it has more than 1,048,576 bytes"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="damaged"):
        load_model(tmp_path)
