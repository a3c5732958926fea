"""Image folders in the ImageNet layout, decoded by Pillow; an unreadable file is replaced, counted and named."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from srr.training.config import DataConfig
from srr.training.data.base import IGNORE, Batch, DataSpec, Source, fixed_split

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageSamples:
    """Images read when they are asked for, as uint8 (3, size, size).

    An unreadable image of a training set is replaced by the next readable one; in a held-out set it becomes
    padding. Either way its name travels in the batch under ``skipped``.
    """

    items: Sequence[Any]
    labels: Sequence[int]
    size: int
    open_image: Callable[[Any], Any]
    training: bool

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The images of these indices as one batch."""
        skipped: list[str] = []
        pairs = [self._sample(i, skipped) for i in indices]
        x, y = torch.stack([p[0] for p in pairs]), torch.tensor([p[1] for p in pairs])
        return {"x": x, "y": y, "skipped": skipped}

    def _sample(self, index: int, skipped: list[str]) -> tuple[torch.Tensor, int]:
        tries = len(self) if self.training else 1
        for step in range(tries if index >= 0 else 0):
            at = (index + step) % len(self)
            try:
                return decode(self.open_image(self.items[at]), self.size), self.labels[at]
            except Exception as error:  # noqa: BLE001  Pillow raises many kinds for a broken file
                skipped.append(f"{self.items[at]} ({type(error).__name__})")
        if self.training and index >= 0:
            raise ValueError(f"none of the {len(self)} training images can be read; the first: {skipped[0]}")
        return torch.zeros(3, self.size, self.size, dtype=torch.uint8), IGNORE


def decode(image: Any, size: int) -> torch.Tensor:
    """Shorter side to ``size``, center square, RGB, as uint8 (3, size, size)."""
    image = image.convert("RGB")
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.resize((width, height), resample=2).crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def open_path(path: str | Path) -> Any:
    """Open an image file; a decompression bomb is an error, not a warning."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(path)
        image.load()
    return image


def image_folder(config: DataConfig) -> Source:
    """``PATH/train/CLASS/…`` with ``PATH/val/CLASS/…``, or ``PATH/CLASS/…`` of which a fixed part is held out."""
    root = Path(config.name.partition(":")[2])
    if not root.is_dir():
        raise FileNotFoundError(f"there is no image folder {root}")
    size = config.image_size or 224
    if (root / "train").is_dir():
        items, labels, names = scan(root / "train")
        held, held_labels, _ = scan(root / "val", names) if (root / "val").is_dir() else ([], [], names)
        if not held:
            items, labels, held, held_labels = _hold_out(items, labels, config.held_out)
    else:
        items, labels, names = scan(root)
        items, labels, held, held_labels = _hold_out(items, labels, config.held_out)
    notes = _lonely(labels, names)
    spec = DataSpec(str(root), "image", (3, size, size), names, MEAN, STD, patch=_patch(size), notes=notes)
    sets = [ImageSamples(i, y, size, open_path, t) for i, y, t in ((items, labels, True), (held, held_labels, False))]
    return Source(spec, sets[0], sets[1])


def scan(root: Path, names: tuple[str, ...] = ()) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """Image files below each class folder, in sorted order, with their labels and the class names.

    Raises:
        ValueError: no class folders, a class without images, or a class that is not among ``names``.
    """
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise ValueError(f"{root} has no class folders; wanted {root}/CLASS/image.jpg")
    known = names or tuple(p.name for p in folders)
    unknown = [p.name for p in folders if p.name not in known]
    if unknown:
        raise ValueError(f"{root} has classes that the training set lacks: {', '.join(unknown[:5])}")
    items: list[Path] = []
    labels: list[int] = []
    for folder in folders:
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
        if not found:
            raise ValueError(f"class folder {folder} holds no image; remove it or put at least one image there")
        items += found
        labels += [known.index(folder.name)] * len(found)
    return items, labels, known


def _hold_out(items: list[Path], labels: list[int], held_out: float) -> tuple[Any, Any, Any, Any]:
    train, val = (sorted(part.tolist()) for part in fixed_split(len(items), held_out))
    return [items[i] for i in train], [labels[i] for i in train], [items[i] for i in val], [labels[i] for i in val]


def _lonely(labels: list[int], names: tuple[str, ...]) -> tuple[str, ...]:
    few = [names[k] for k in range(len(names)) if labels.count(k) == 0]
    return (f"no training image is left for: {', '.join(few[:5])}",) if few else ()


def _patch(size: int) -> tuple[int, int]:
    side = next(p for p in (16, 14, 8, 4, 2, 1) if size % p == 0)
    return side, side
