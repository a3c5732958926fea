"""What every data source hands over: a description, a training set and a held-out set of indexable batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch

IGNORE = -100
"""Label of a padded or unreadable sample: losses and metrics leave it out."""

Batch = dict[str, Any]


class Samples(Protocol):
    """A set of samples that is asked for many at once; index −1 means padding."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> Batch: ...


@dataclass(frozen=True)
class DataSpec:
    """What a model has to know about the data.

    Args:
        name: the data set, as in ``data.name``.
        kind: image or text.
        shape: (channels, height, width) for images, (context,) for text.
        classes: names of the classes, or of the symbols of a vocabulary by their number alone.
        mean: mean of each channel that is subtracted.
        std: standard deviation of each channel that is divided by.
        patch: a sensible patch size.
        notes: what was left out while reading, in sentences.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    patch: tuple[int, int] = (4, 4)
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes, or size of the vocabulary."""
        return len(self.classes)


class Source(NamedTuple):
    """A description of data and its two sets of samples.

    Args:
        spec: what a model has to know.
        train: training samples.
        val: held-out samples.
        files: texts worth keeping in the run (a tokenizer, say) by file name.
    """

    spec: DataSpec
    train: Samples
    val: Samples
    files: Mapping[str, str] = {}


@dataclass(frozen=True)
class TensorSamples:
    """Samples that fit in memory: ``x`` (N, ...) and integer labels ``y`` (N,)."""

    x: torch.Tensor
    y: torch.Tensor
    extras: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The samples of these indices as one batch."""
        at = torch.as_tensor(indices, dtype=torch.int64)
        padding = at < 0
        y = self.y[at.clamp(min=0)]
        return {"x": self.x[at.clamp(min=0)], "y": torch.where(padding, IGNORE, y)}

    def take(self, count: int) -> TensorSamples:
        """The first ``count`` samples."""
        return TensorSamples(self.x[:count], self.y[:count])


def fixed_split(n: int, held_out: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of a training and a held-out part; a function of (n, held_out) alone, never of the run's seed.

    Raises:
        ValueError: a fraction outside (0, 1), or a part that would be empty.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"data.held_out must be in (0, 1); got {held_out}")
    count = round(n * held_out)
    if count < 1 or count >= n:
        raise ValueError(f"{n} sample(s) cannot be split with held_out={held_out}; at least 2 are needed")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[count:], order[:count]


def channel_statistics(x: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of images (N, C, H, W) scaled to [0, 1]."""
    scaled = x.to(torch.float64) / 255 if x.dtype == torch.uint8 else x.to(torch.float64)
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3)).clamp(min=1e-6)
    return tuple(round(float(m), 6) for m in mean), tuple(round(float(s), 6) for s in std)


def redraw_labels(y: torch.Tensor, fraction: float, classes: int, seed: int) -> torch.Tensor:
    """Labels of which a fraction is replaced by classes drawn uniformly (a redrawn label may come out unchanged).

    Raises:
        ValueError: a fraction outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"data.corrupt_labels must be in [0, 1]; got {fraction}")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(y), generator=generator)[: round(fraction * len(y))]
    y = y.clone()
    y[chosen] = torch.randint(classes, (len(chosen),), generator=generator)
    return y
