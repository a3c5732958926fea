"""A Hugging Face data set by name, when the ``datasets`` package is installed."""

from __future__ import annotations

from typing import Any

from srr.training.config import DataConfig
from srr.training.data.base import DataSpec, Source
from srr.training.data.folder import MEAN, STD, ImageSamples, _patch


def hub(config: DataConfig) -> Source:
    """``hf:NAME`` with an image column and a class-label column; ``validation`` or ``test`` is the held-out part.

    Raises:
        ModuleNotFoundError: the package ``datasets`` is not installed.
        ValueError: the data set has no image column or no class-label column.
    """
    name = config.name.partition(":")[2]
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"data hf:{name} needs the package datasets: pip install datasets") from error
    return from_splits(datasets.load_dataset(name), config)


def from_splits(splits: Any, config: DataConfig) -> Source:
    """A source from a mapping of splits, as ``datasets.load_dataset`` returns."""
    train = splits["train"]
    held = next((splits[k] for k in ("validation", "val", "test") if k in splits), None)
    if held is None:
        parts = train.train_test_split(test_size=config.held_out, seed=0)
        train, held = parts["train"], parts["test"]
    image, label = _column(train, "Image"), _column(train, "ClassLabel")
    names, size = tuple(train.features[label].names), config.image_size or 224
    sets = [
        ImageSamples(range(len(part)), part[label], size, _opener(part, image), part is train) for part in (train, held)
    ]
    return Source(
        DataSpec(config.name, "image", (3, size, size), names, MEAN, STD, patch=_patch(size)), sets[0], sets[1]
    )


def _opener(part: Any, column: str) -> Any:
    return lambda index: part[int(index)][column]


def _column(part: Any, kind: str) -> str:
    found = [name for name, feature in part.features.items() if type(feature).__name__ == kind]
    if not found:
        raise ValueError(f"the data set has no {kind} column; it has {', '.join(part.features)}")
    return str(found[0])
