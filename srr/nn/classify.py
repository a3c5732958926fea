"""Classes of image files under a saved network: what one does with a network that somebody shares."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from srr._array.checks import check_count
from srr.nn.network import pair
from srr.nn.preprocessing import PREPROCESSING_FILE, Preprocessing, image_files, read_image
from srr.nn.presets import load_model
from srr.nn.pretrained import PretrainedModel

__all__ = ["Classifier", "Predictions", "load_classifier"]


class Predictions(NamedTuple):
    """What a classifier says about N images.

    Args:
        names: the likeliest class of each.
        labels: its number, (N,).
        probabilities: of every class, (N, K).
    """

    names: tuple[str, ...]
    labels: Tensor
    probabilities: Tensor


@dataclass(frozen=True)
class Classifier:
    """A network with the preprocessing it was trained with; what :func:`load_classifier` returns.

    Args:
        model: takes images (N, C, H, W) and gives scores (N, K).
        preprocessing: mean, deviation and names.
    """

    model: PretrainedModel
    preprocessing: Preprocessing

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images the network takes."""
        config: Any = self.model.config
        return pair(config.image_size)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes."""
        config: Any = self.model.config
        return tuple(self.preprocessing.name(k) for k in range(config.num_classes))

    def read(self, path: str | os.PathLike[str]) -> Tensor:
        """Image file as (C, H, W) in [0, 1], of the size the network takes.

        Raises:
            FileNotFoundError: no such file.
            ValueError: no readable image.
        """
        return read_image(Path(path), channels=len(self.preprocessing.mean), size=self.size)

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Probability of every class (N, K) for images (N, C, H, W) in [0, 1]."""
        found: Tensor = self.model(self._normal(images)).softmax(dim=-1)
        return found

    @torch.no_grad()
    def features(self, images: Any, *, batch_size: int = 64) -> Tensor:
        """What the scores are a linear map of, for every image: the pooled token after the last norm.

        Args:
            images: as for :meth:`predict`.
            batch_size: images in memory at once.

        Returns:
            (N, d), to cluster, to compare or to fit a classifier of one's own on.

        Raises:
            FileNotFoundError: no such file.
            ValueError: no image, one that is not readable, or pixels of another shape or range.
        """
        model: Any = self.model
        tokens = (model.forward_features(self._normal(batch)) for batch in self._batches(images, batch_size))
        return torch.cat([model.forward_head(Z, pre_logits=True) for Z in tokens])

    def _normal(self, images: Tensor) -> Tensor:
        parameter = next(self.model.parameters())
        return self.preprocessing.normalize(images.to(device=parameter.device, dtype=parameter.dtype))

    def predict(self, images: Any, *, batch_size: int = 64) -> Predictions:
        """The likeliest class of every image.

        Args:
            images: an image file or a folder of them, a sequence of these, or pixels (N, C, H, W) of the size the
                network takes (of any whole number of patches with ``any_size``): floating numbers in [0, 1], or 8 bits.
            batch_size: images in memory at once.

        Returns:
            Names, numbers and probabilities.

        Raises:
            FileNotFoundError: no such file.
            ValueError: no image, one that is not readable, pixels of another shape or range, or a network without
                classes.
        """
        if not self.classes:
            raise ValueError("this network has no classes (num_classes=0); features(images) gives what it has")
        chances = torch.cat([self.probabilities(batch) for batch in self._batches(images, batch_size)])
        labels = chances.argmax(dim=-1)
        return Predictions(tuple(self.preprocessing.name(int(k)) for k in labels), labels, chances)

    def _batches(self, images: Any, batch_size: int) -> Iterable[Tensor]:
        check_count(batch_size, "batch_size")
        return self._read(images, batch_size) if _is_places(images) else torch.split(self._pixels(images), batch_size)

    def _read(self, places: Any, batch_size: int) -> Iterator[Tensor]:
        files = image_files([places] if isinstance(places, str | os.PathLike) else places)
        for first in range(0, len(files), batch_size):
            yield torch.stack([self.read(path) for path in files[first : first + batch_size]])

    def _pixels(self, images: Any) -> Tensor:
        x = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
        config: Any = self.model.config
        x = x[None] if x.ndim == 3 else x
        sides = tuple(x.shape[2:]) if config.any_size and x.ndim == 4 else self.size
        wanted = (len(self.preprocessing.mean), *sides)
        if x.ndim != 4 or tuple(x.shape[1:]) != wanted or not len(x):
            raise ValueError(f"images must have shape (N, {', '.join(map(str, wanted))}); got {tuple(x.shape)}")
        if x.dtype == torch.uint8:
            return x / 255
        if not x.is_floating_point() or not bool(((x >= 0) & (x <= 1)).all()):
            raise ValueError(f"images must be floating numbers in [0, 1] or uint8; got {x.dtype} {_range(x)}")
        return x


def _is_places(images: Any) -> bool:
    """Whether images are given as files and folders."""
    if isinstance(images, str | os.PathLike):
        return True
    listed = isinstance(images, Sequence) and len(images) > 0
    return listed and all(isinstance(place, str | os.PathLike) for place in images)


def _range(x: Tensor) -> str:
    return f"in [{float(x.min()):g}, {float(x.max()):g}]"


def load_classifier(
    source: str | os.PathLike[str], *, preprocessing: Preprocessing | None = None, **overrides: Any
) -> Classifier:
    """A saved network with the preprocessing and the names of the classes it was trained with.

    Args:
        source: folder of a training run or of a saved model, or ``owner/name`` on the Hugging Face Hub.
        preprocessing: in place of the saved one.
        **overrides: as for :func:`srr.nn.load_model`: ``image_size=`` brings files to another size, ``any_size=True``
            takes pixels of every size, ``num_classes=0`` leaves the head out.

    Returns:
        The classifier, on the CPU.

    Raises:
        FileNotFoundError: no saved model there.
        ValueError: a damaged file, a network that has no classes, or one that does not say how its images are prepared.

    Example:
        >>> import tempfile
        >>> from srr.nn import Preprocessing, create_model
        >>> model = create_model("crate_micro", num_classes=2)
        >>> model.preprocessing = Preprocessing(mean=(0.5,), std=(0.5,), classes=("cat", "dog"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = model.save_pretrained(folder)
        ...     found = load_classifier(folder).predict(torch.rand(3, 1, 8, 8))
        >>> found.probabilities.shape, set(found.names) <= {"cat", "dog"}
        (torch.Size([3, 2]), True)
    """
    model = load_model(source, **overrides)
    config: Any = model.config
    if not hasattr(config, "image_size"):
        raise ValueError(f"{source} holds a {type(model).__name__}, which takes no images")
    if not hasattr(config, "num_classes"):
        raise ValueError(f"{source} holds a {type(model).__name__} without classes")
    return Classifier(model, preprocessing or known_preprocessing(model, source))


def known_preprocessing(model: PretrainedModel, source: str | os.PathLike[str]) -> Preprocessing:
    """The preprocessing of a loaded model.

    Raises:
        ValueError: it has none, or one for another number of channels.
    """
    config: Any = model.config
    found = model.preprocessing
    if found is None:
        numbers = [0.5] * config.channels
        raise ValueError(
            f"{source} does not say how its images are prepared: it has no {PREPROCESSING_FILE}, such as "
            f'{{"mean": {numbers}, "std": {numbers}, "classes": []}}'
        )
    if len(found.mean) != config.channels:
        raise ValueError(
            f"{PREPROCESSING_FILE} of {source} describes {len(found.mean)} channels; the model takes {config.channels}"
        )
    return found
