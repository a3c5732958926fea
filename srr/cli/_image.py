"""One image file as a model wants it, and what a training run knows about its data."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from srr._array.extras import need
from srr.nn import CRATE, CrateMAE, load_model
from srr.nn.crate import pair


class Knowledge(NamedTuple):
    """Names of the classes and statistics of the channels, as far as a run recorded them."""

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_image_model(run: Path, *, size: int | None = None) -> CRATE | CrateMAE:
    """Model of a run folder, for another image size if asked.

    Raises:
        FileNotFoundError: no saved model there.
        ValueError: a model that takes no images, or a size that is no whole number of patches.
    """
    if not run.is_dir():
        raise FileNotFoundError(f"there is no run folder {run}")
    model = load_model(run, **({} if size is None else {"image_size": size}))
    if not isinstance(model, (CRATE, CrateMAE)):
        raise ValueError(f"{run} holds a {type(model).__name__}, which takes no images")
    return model


def run_knowledge(run: Path, channels: int) -> Knowledge:
    """What ``data.json`` of a run says; without it, values in [0, 1] are centered at ½ with deviation ½.

    Raises:
        ValueError: a damaged file.
    """
    path = next((p for p in (run / "data.json", run.parent / "data.json") if p.is_file()), None)
    if path is None:
        return Knowledge((), (0.5,) * channels, (0.5,) * channels)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        known = Knowledge(*(tuple(values[name]) for name in Knowledge._fields))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if len(known.mean) != channels or len(known.std) != channels:
        raise ValueError(f"{path} describes {len(known.mean)} channels; the model takes {channels}")
    return known


def read_image(path: Path, *, channels: int, size: tuple[int, int]) -> Tensor:
    """Image file as (channels, height, width) in [0, 1]: scaled to cover the size, then its center.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no readable image, or a number of channels Pillow has no name for.
    """
    need("PIL", by="reading an image")
    from PIL import Image, UnidentifiedImageError

    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise ValueError(f"image files have 1 or 3 channels; the model takes {channels}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no image {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path).convert(modes[channels])
    except (UnidentifiedImageError, OSError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no readable image: {error}") from error
    values = np.asarray(_cover(image, size), dtype=np.float32) / 255
    return torch.from_numpy(values.reshape(*size, channels)).permute(2, 0, 1).contiguous()  # (C, H, W)


def _cover(image: Any, size: tuple[int, int]) -> Any:
    """Center of the image, scaled so that it just covers height and width."""
    height, width = size
    scale = max(height / image.height, width / image.width)
    whole = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    left, top = (whole[0] - width) // 2, (whole[1] - height) // 2
    return image.resize(whole, resample=2).crop((left, top, left + width, top + height))


def prepare(run: Path, model: CRATE | CrateMAE, path: Path) -> tuple[Tensor, Tensor, Knowledge]:
    """Image in [0, 1] for the eye (C, H, W), the normalized batch of one for the model, and what the run knows."""
    config = model.config
    known = run_knowledge(run, config.channels)
    image = read_image(path, channels=config.channels, size=pair(config.image_size))
    mean, std = (torch.tensor(v)[:, None, None] for v in (known.mean, known.std))
    return image, ((image - mean) / std)[None], known
