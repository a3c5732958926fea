"""The classifier for the `transformers` library, whose Auto classes know the type ``crate`` once this is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from srr._array.extras import need

need("transformers", by="srr.nn.hf")

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.modeling_outputs import ImageClassifierOutput

from srr.nn.classify import known_preprocessing
from srr.nn.crate import CRATE
from srr.nn.crate import CrateConfig as OwnConfig
from srr.nn.network import pair
from srr.nn.preprocessing import Preprocessing, cover, eight_bits

__all__ = ["CrateConfig", "CrateForImageClassification", "CrateImageProcessor", "save_for_transformers"]


class CrateConfig(PreTrainedConfig):
    """Config of a classifier as `transformers` keeps it: ours in the field ``crate``, the labels in theirs.

    Args:
        crate: fields of :class:`srr.nn.CrateConfig` that differ from its defaults.
        **kwargs: those of the base class, such as ``id2label``; ``num_labels`` decides the classes of the head.

    Example:
        >>> CrateConfig(crate={"dim": 64}, num_labels=3).own().num_classes
        3
    """

    model_type = "crate"

    def __init__(self, crate: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self.crate = dict(crate or {})
        if "num_labels" not in kwargs and "id2label" not in kwargs:
            kwargs["num_labels"] = self.crate.get("num_classes", OwnConfig().num_classes)
        super().__init__(**kwargs)

    def own(self) -> OwnConfig:
        """Config of the network itself."""
        return OwnConfig.from_dict({**self.crate, "num_classes": self.num_labels})


class CrateForImageClassification(PreTrainedModel):
    """:class:`srr.nn.CRATE` under the interface of `transformers`: ``pixel_values`` in, ``logits`` and ``loss`` out.

    Args:
        config: sizes and labels.

    Example:
        >>> model = CrateForImageClassification(CrateConfig(crate={"image_size": 32, "depth": 1}, num_labels=3))
        >>> model(pixel_values=torch.zeros(2, 3, 32, 32), labels=torch.zeros(2, dtype=torch.long)).logits.shape
        torch.Size([2, 3])
    """

    config_class = CrateConfig
    base_model_prefix = "network"
    main_input_name = "pixel_values"

    def __init__(self, config: CrateConfig) -> None:
        super().__init__(config)
        self.network = CRATE(config.own())
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Only what a file lacks, such as a head for other labels, is drawn again."""
        if isinstance(module, (nn.Linear, nn.LayerNorm)):
            module.reset_parameters()

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool | None = None, **unused: Any
    ) -> ImageClassifierOutput | tuple[Tensor, ...]:
        """Scores of normalized images (B, C, H, W), with the cross-entropy where labels (B,) are given."""
        logits = self.network(pixel_values)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return ImageClassifierOutput(loss=loss, logits=logits)


class CrateImageProcessor(BaseImageProcessor):
    """Pictures to what the network was trained on: the center that covers the size, in [0, 1], normalized.

    Args:
        size: height and width.
        channels: 1 for gray or 3 for color.
        mean: subtracted from each channel.
        std: divides each channel.
        **kwargs: those of the base class.

    Example:
        >>> prepare = CrateImageProcessor(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))
        >>> prepare(np.full((20, 10, 3), 255, dtype=np.uint8))["pixel_values"].unique()
        tensor([1.])
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 - the base class wants a list

    def __init__(
        self,
        size: Sequence[int] = (224, 224),
        channels: int = 3,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size, self.channels, self.mean, self.std = list(size), channels, list(mean), list(std)

    def __call__(self, images: Any, **unused: Any) -> BatchFeature:
        """One picture or many, of Pillow or as arrays (H, W) or (H, W, 3) of bytes."""
        many = images if isinstance(images, (list, tuple)) else [images]
        return BatchFeature({"pixel_values": torch.stack([self._one(image) for image in many])})

    def _one(self, image: Any) -> Tensor:
        need("PIL", by="reading an image")
        from PIL import Image

        picture = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
        fitted = cover(eight_bits(picture, "L" if self.channels == 1 else "RGB"), (self.size[0], self.size[1]))
        pixels = torch.tensor(np.asarray(fitted, dtype=np.float32) / 255).view(*self.size, -1).permute(2, 0, 1)
        return Preprocessing(tuple(self.mean), tuple(self.std)).normalize(pixels)  # (C, H, W)


def save_for_transformers(model: CRATE, folder: str | os.PathLike[str]) -> CrateForImageClassification:
    """Write a folder that ``pipeline("image-classification", model=folder)`` and ``Trainer`` read.

    Args:
        model: a classifier that has its :class:`srr.nn.Preprocessing`, as one of a training run does.
        folder: created when absent.

    Returns:
        The model under the interface of `transformers`, with the same weights.

    Raises:
        ValueError: the model does not say how its images are prepared, or has no classes.
    """
    known, config = known_preprocessing(model, "the model"), model.config
    if not config.num_classes:
        raise ValueError("the model has no classes (num_classes=0)")
    labels = {i: known.name(i) for i in range(config.num_classes)}
    wrapped = CrateForImageClassification(
        CrateConfig(crate=asdict(config), id2label=labels, label2id={name: i for i, name in labels.items()})
    )
    wrapped.network.load_state_dict(model.state_dict())
    wrapped.save_pretrained(folder)
    size = pair(config.image_size)
    CrateImageProcessor(size=size, channels=config.channels, mean=known.mean, std=known.std).save_pretrained(folder)
    wrapped.eval()
    return wrapped


AutoConfig.register("crate", CrateConfig)
AutoModelForImageClassification.register(CrateConfig, CrateForImageClassification)
AutoImageProcessor.register(CrateConfig, slow_image_processor_class=CrateImageProcessor)
