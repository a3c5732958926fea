"""Data sources and the order of their samples."""

import gzip
import os
import struct
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from srr.nn.preprocessing import cover, decode, open_path, read_image
from srr.training.baseline import nearest_subspace
from srr.training.config import DataConfig
from srr.training.sources import (
    IGNORE,
    BatchOrder,
    DataModule,
    EvalOrder,
    from_splits,
    load_data,
    read_idx,
)


def test_digits_are_split_once_and_for_all():
    source = load_data(DataConfig())
    assert (len(source.train), len(source.val)) == (1438, 359)
    assert source.spec.shape == (1, 8, 8)
    rows = {tuple(x.flatten().tolist()) for x in source.train.x}
    assert all(tuple(x.flatten().tolist()) not in rows for x in source.val.x)
    assert torch.equal(source.val.y, load_data(DataConfig(), seed=5).val.y)


def test_nearest_subspace_on_raw_pixels_is_a_hard_baseline():
    assert nearest_subspace(load_data(DataConfig())).accuracy > 0.98


def idx_bytes(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder, zipped):
    random = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 20), ("t10k", 6)):
        arrays[part] = random.integers(256, size=(n, 28, 28)), np.arange(n) % 10
        for kind, values in zip(("images-idx3", "labels-idx1"), arrays[part], strict=True):
            content = idx_bytes(values)
            path = folder / f"{part}-{kind}-ubyte{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(content) if zipped else content)
    return arrays


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_folders(tmp_path, zipped, name):
    arrays = write_idx(tmp_path, zipped)
    source = load_data(DataConfig(name=name, root=str(tmp_path)))
    assert np.array_equal(source.train.x[:, 0].numpy(), arrays["train"][0])
    assert np.array_equal(source.val.y.numpy(), arrays["t10k"][1])
    batch = source.train.__getitems__([3, -1])
    assert batch["y"].tolist() == [3, IGNORE]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"abcd1234", "not an idx"), (idx_bytes(np.zeros((3, 2)))[:-1], "promises 6"), (b"\x1f\x8bxx", "damaged gzip")],
)
def test_bad_idx_files(tmp_path, content, words):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_idx(tmp_path / "x")


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("digit", ValueError, "unknown data 'digit'; there are digits"),
        ("folder", ValueError, "unknown data"),
        ("digits:x", ValueError, "unknown data"),
        ("folder:/nowhere", FileNotFoundError, "no image folder /nowhere"),
        ("text:/nowhere", FileNotFoundError, "nowhere"),
    ],
)
def test_unknown_data_are_one_sentence(name, error, words):
    with pytest.raises(error, match=words):
        load_data(DataConfig(name=name))


def image_folder(root, classes=("ant", "bee"), each=4):
    random = np.random.default_rng(0)
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(each):
            pixels = np.full((20, 30, 3), 60 * k, np.uint8) + random.integers(9, size=(20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")


def test_image_folders_keep_class_names_and_crop_the_center(tmp_path):
    image_folder(tmp_path / "train")
    image_folder(tmp_path / "val", each=1)
    source = load_data(DataConfig(name=f"folder:{tmp_path}", image_size=16))
    assert source.spec.classes == ("ant", "bee")
    batch = source.train.__getitems__([0, 7])
    assert batch["x"].shape == (2, 3, 16, 16)
    assert batch["y"].tolist() == [0, 1]
    assert batch["x"][1].float().mean() > 55
    assert len(source.val) == 2


def test_corrupt_images_are_skipped_counted_and_named(tmp_path):
    image_folder(tmp_path / "train")
    image_folder(tmp_path / "val")
    for part in ("train", "val"):
        (tmp_path / part / "ant" / "1.png").write_bytes(b"no image")
    source = load_data(DataConfig(name=f"folder:{tmp_path}", image_size=16))
    batch = source.train.__getitems__([1, 2])
    assert "1.png (UnidentifiedImageError)" in batch["skipped"][0]
    assert torch.equal(batch["x"][0], batch["x"][1])  # the next readable one stands in
    assert source.val.__getitems__([0, 1])["y"].tolist() == [0, IGNORE]
    for path in (tmp_path / "train").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 8 training images can be read"):
        source.train.__getitems__([0])


def test_empty_classes_and_lonely_images(tmp_path):
    image_folder(tmp_path / "a", classes=("ant",), each=1)
    with pytest.raises(ValueError, match="1 sample"):
        load_data(DataConfig(name=f"folder:{tmp_path / 'a'}", image_size=16))
    (tmp_path / "a" / "bee").mkdir()
    with pytest.raises(ValueError, match=r"bee holds no image"):
        load_data(DataConfig(name=f"folder:{tmp_path / 'a'}", image_size=16))
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="no class folders"):
        load_data(DataConfig(name=f"folder:{tmp_path / 'b'}", image_size=16))


@pytest.mark.parametrize("held_out", ["test", None])
def test_data_sets_of_the_hub_read_by_its_own_library(tmp_path, monkeypatch, held_out):
    """A local folder stands for a repository: ``load_dataset`` reads both."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", tmp_path / "cache" / "downloads")
    image_folder(tmp_path / "images" / "train", each=5)
    if held_out:
        image_folder(tmp_path / "images" / held_out, each=2)
    source = load_data(DataConfig(name=f"hf:{tmp_path / 'images'}", image_size=16, held_out=0.2))
    assert source.spec.classes == ("ant", "bee")
    assert (len(source.train), len(source.val)) == ((10, 4) if held_out else (8, 2))
    batch = source.train.__getitems__(list(range(len(source.train))))
    assert batch["x"].shape == (len(source.train), 3, 16, 16)
    assert batch["y"].tolist() == [int(image.float().mean() > 30) for image in batch["x"]]  # bees are brighter


def test_a_hub_data_set_needs_an_image_and_a_label_column():
    part = {"label": ["a"]}
    with pytest.raises(ValueError, match="no Image column; it has label"):
        from_splits({"train": Columns(part), "test": Columns(part)}, DataConfig(name="hf:x", image_size=8))


class Columns(dict):
    """A split whose columns are of no special kind."""

    features = property(dict.copy)


def test_hub_data_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "srr\[hub\]"'):
        load_data(DataConfig(name="hf:some/name"))


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_text_windows(tmp_path, tokenizer):
    text = "the cat sat on the mat and the dog sat on the log; " * 40
    (tmp_path / "t.txt").write_text(text)
    config = DataConfig(name=f"text:{tmp_path / 't.txt'}", tokenizer=tokenizer, context=16, vocab_size=300)
    source = load_data(config)
    batch = source.train.__getitems__([0, 1, -1])
    assert torch.equal(batch["x"][0, 1:], batch["y"][0, :-1])
    assert torch.equal(batch["x"][0, 8:], batch["x"][1, :8])
    assert (batch["y"][2] == IGNORE).all()
    if tokenizer == "bytes":
        assert bytes(batch["x"][0].tolist()) == text[:16].encode()
    else:
        from tokenizers import Tokenizer

        whole = Tokenizer.from_str(source.files["tokenizer.json"])
        assert whole.decode(batch["x"][0].tolist()) == text[: len(whole.decode(batch["x"][0].tolist()))]


def test_too_short_a_text(tmp_path):
    (tmp_path / "t.txt").write_text("short")
    with pytest.raises(ValueError, match="too short"):
        load_data(DataConfig(name=f"text:{tmp_path / 't.txt'}"))


def test_corrupted_labels_are_redrawn_in_the_training_part_only():
    clean, noisy = load_data(DataConfig()), load_data(DataConfig(corrupt_labels=0.5), seed=1)
    changed = (clean.train.y != noisy.train.y).float().mean()
    assert abs(float(changed) - 0.45) < 0.05  # one in ten redrawn labels comes out as it was
    assert torch.equal(clean.val.y, noisy.val.y)


def test_ranks_share_the_batches_of_one_process():
    whole = list(BatchOrder(50, batch_size=8, seed=3))
    halves = [list(BatchOrder(50, batch_size=8, seed=3, rank=r, world=2)) for r in range(2)]
    assert len(whole) == 6
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(b) for b in whole]


def test_an_order_can_start_anywhere():
    order = BatchOrder(50, batch_size=8, seed=3)
    order.set_epoch(2)
    whole = list(order)
    order.seek(2, 4)
    assert list(order) == whole[4:]
    order.set_epoch(3)
    assert len(list(order)) == 6
    assert list(order) != whole


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_every_sample_once(world):
    found = [list(EvalOrder(23, batch_size=9, rank=r, world=world)) for r in range(world)]
    assert sorted(i for f in found for batch in f for i in batch if i >= 0) == list(range(23))
    assert len({tuple(len(batch) for batch in f) for f in found}) == 1


def test_bad_batch_sizes():
    with pytest.raises(ValueError, match="multiple of 2"):
        BatchOrder(10, batch_size=3, seed=0, world=2)
    with pytest.raises(ValueError, match="cannot be shared"):
        BatchOrder(1, batch_size=2, seed=0, world=2)


def test_workers_give_the_batches_of_none(tmp_path):
    image_folder(tmp_path / "train")
    image_folder(tmp_path / "val")
    batches = []
    for workers in (0, 1):
        config = DataConfig(name=f"folder:{tmp_path}", image_size=16, batch_size=2, workers=workers)
        batches.append([b["x"] for b in DataModule(load_data(config), config).train_dataloader()])
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


@pytest.mark.parametrize("ending", ["png", "tiff"])
@pytest.mark.parametrize("bits", [16, 32])
def test_deep_gray_images_are_scaled_not_cut(tmp_path, ending, bits):
    """Pillow alone makes 255 of every value above 255: 99.6 % of 16 bits."""
    values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    if bits == 32 and ending == "png":
        pytest.skip("PNG has no 32 bits")
    Image.fromarray(values if bits == 16 else values.astype(np.int32)).save(tmp_path / f"deep.{ending}")
    wanted = np.rint(values / 65535 * 255)
    found = decode(open_path(tmp_path / f"deep.{ending}"), 64)
    assert found.shape == (3, 64, 64)
    assert all(np.array_equal(channel, wanted) for channel in found.numpy())
    gray = read_image(tmp_path / f"deep.{ending}", channels=1, size=(64, 64))
    np.testing.assert_allclose(gray[0], wanted / 255, rtol=1e-6)


def test_floating_point_images_are_scaled_or_refused(tmp_path):
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "unit.tiff")
    np.testing.assert_array_equal(decode(open_path(tmp_path / "unit.tiff"), 8)[0], np.rint(values * 255))
    Image.fromarray(1000 * values).save(tmp_path / "large.tiff")
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        decode(open_path(tmp_path / "large.tiff"), 8)
    with pytest.raises(ValueError, match=r"large.tiff is no readable image: gray values"):
        read_image(tmp_path / "large.tiff", channels=1, size=(8, 8))


def test_a_cover_is_the_same_as_scaling_the_whole_and_cropping():
    pixels = np.random.default_rng(0).integers(256, size=(40, 90, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    whole = image.resize((36, 16), resample=2).crop((10, 0, 26, 16))
    assert np.abs(np.asarray(cover(image, (16, 16))).astype(int) - np.asarray(whole)).max() <= 1


def test_names_that_are_no_utf8_and_a_sign_that_begins_a_comment(tmp_path):
    root = tmp_path / "imgs #2"
    image_folder(root / "train")
    os.rename(os.fsencode(root / "train" / "ant"), os.fsencode(root / "train") + b"/a\xff$x^$[red]")
    source = load_data(DataConfig(name=f"folder:{root}", image_size=16))
    assert source.spec.classes == ("a\\udcff$x^$[red]", "bee")
    "".join(source.spec.classes).encode("utf-8")
