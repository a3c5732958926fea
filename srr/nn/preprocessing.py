"""From an image file to a batch of a network, and from the number of a class to its name."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from srr._array.extras import need

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Preprocessing", "image_files", "read_image"]

PREPROCESSING_FILE = "preprocessing.json"
LARGEST_PREPROCESSING = 2**26
ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
KINDS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")


@dataclass(frozen=True)
class Preprocessing:
    """What a network of images was trained with and its weights do not say.

    An image is brought to the size of the network by :func:`read_image`, as numbers in [0, 1]; then the mean is taken
    out, channel by channel, and the deviation divided by. It is saved and loaded with a model that has it as
    ``model.preprocessing``.

    Args:
        mean: mean of each channel.
        std: standard deviation of each channel.
        classes: names of the classes by their number; none where there are none.

    Raises:
        ValueError: numbers that are not finite, deviations that are not positive, or not as many as there are means.

    Example:
        >>> Preprocessing(mean=(0.5,), std=(0.25,), classes=("cat", "dog")).normalize(torch.ones(1, 2, 2)).max()
        tensor(2.)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(f"mean and std must have one number a channel; got {self.mean} and {self.std}")
        if not all(map(math.isfinite, self.mean)) or not all(0 < s < math.inf for s in self.std):
            raise ValueError(f"mean must be finite and std positive; got {self.mean} and {self.std}")

    def normalize(self, images: Tensor) -> Tensor:
        """Images (..., C, H, W) in [0, 1] as the network takes them."""
        mean, std = (torch.tensor(v, dtype=images.dtype, device=images.device)[:, None, None] for v in self._both())
        return (images - mean) / std

    def _both(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.mean, self.std

    def name(self, label: int) -> str:
        """Name of a class, its number where it has none."""
        return self.classes[label] if label < len(self.classes) else str(label)

    def describe(self) -> str:
        """Text of ``preprocessing.json``."""
        how = {"range": [0, 1], "resize": "bilinear, the center that covers image_size"}
        return json.dumps({**asdict(self), **how}, indent=1) + "\n"


def read_preprocessing(folder: Path) -> Preprocessing | None:
    """What ``preprocessing.json`` of a folder says, None without one.

    Raises:
        ValueError: a damaged file.
    """
    path = folder / PREPROCESSING_FILE
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > LARGEST_PREPROCESSING:
            raise ValueError(f"it has more than {LARGEST_PREPROCESSING:,} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no table")
        mean, std, classes = (found.get(name, []) for name in ("mean", "std", "classes"))
        if not all(isinstance(part, list) for part in (mean, std, classes)):
            raise ValueError("mean, std and classes must be lists")
        if not all(isinstance(v, int | float) for v in mean + std) or not all(isinstance(c, str) for c in classes):
            raise ValueError("mean and std must be numbers, classes names")
        return Preprocessing(tuple(map(float, mean)), tuple(map(float, std)), tuple(classes))
    except (ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def image_files(places: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Image files as they are named, and all below each folder, in order of their names.

    Args:
        places: files and folders.

    Returns:
        The files.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a folder without images.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            below = sorted(p for p in place.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
            if not below:
                raise ValueError(f"folder {place} holds no image")
            found += below
        elif place.exists():
            found.append(place)
        else:
            raise FileNotFoundError(f"there is no image {place}")
    return found


def decode(image: Image, size: int) -> Tensor:
    """Shorter side to ``size``, center square, RGB, as uint8 (3, size, size)."""
    return torch.from_numpy(np.array(cover(eight_bits(image, "RGB"), (size, size)))).permute(2, 0, 1).contiguous()


def cover(image: Image, size: tuple[int, int]) -> Image:
    """Center of an image, as much of it as has the shape (height, width), scaled to it.

    Only what is kept is ever scaled, so an image one pixel high asks for no more memory than any other.
    """
    height, width = size
    scale = max(height / image.height, width / image.width)
    h, w = min(height / scale, image.height), min(width / scale, image.width)
    top, left = (image.height - h) / 2, (image.width - w) / 2
    return image.resize((width, height), resample=2, box=(left, top, left + w, top + h))


def eight_bits(image: Image, mode: str) -> Image:
    """An image with 8 bits a channel, in Pillow's mode L or RGB; deeper gray values are scaled, where Pillow cuts them.

    Raises:
        ValueError: values whose range cannot be known: floating point outside [0, 1], integers outside 16 bits.
    """
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())
        full = 1.0 if image.mode.startswith("F") else 65535.0
        if not (0 <= low <= high <= full):
            raise ValueError(f"gray values must lie in [0, {full:g}] to be scaled to 8 bits; got [{low:g}, {high:g}]")
        from PIL import Image as images

        scaled = values.astype(np.float32) * np.float32(255 / full)  # far more digits than 8 bits, half the memory
        image = images.fromarray(np.rint(scaled, out=scaled).astype(np.uint8))
    return image.convert(mode)


def open_path(path: str | Path) -> Image:
    """Open an image file of one of the usual kinds; too many pixels are an error before any is decoded."""
    from PIL import Image as images

    with warnings.catch_warnings():
        warnings.simplefilter("error", images.DecompressionBombWarning)
        image = images.open(path, formats=KINDS)
        image.load()
    return image


def read_image(path: Path, *, channels: int, size: tuple[int, int]) -> Tensor:
    """Image file as (channels, height, width) in [0, 1]: the center that covers the size.

    Args:
        path: the file.
        channels: 1 for gray, 3 for color.
        size: height and width.

    Returns:
        The pixels, in float32.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no readable image, or a number of channels Pillow has no name for.
    """
    need("PIL", by="reading an image")
    from PIL import Image as images
    from PIL import UnidentifiedImageError

    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise ValueError(f"image files have 1 or 3 channels; the model takes {channels}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no image {path}")
    try:
        image = eight_bits(open_path(path), modes[channels])
    except (
        UnidentifiedImageError,
        OSError,
        ValueError,
        SyntaxError,
        images.DecompressionBombWarning,
        images.DecompressionBombError,
    ) as error:
        raise ValueError(f"{path} is no readable image: {error}") from error
    values = np.asarray(cover(image, size), dtype=np.float32) / 255
    return torch.from_numpy(values.reshape(*size, channels)).permute(2, 0, 1).contiguous()  # (C, H, W)
