"""Names to sources, and the Lightning data module that feeds them in an order that survives a restart."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from srr.training.config import DataConfig, TrainerConfig
from srr.training.data.base import Source, TensorSamples, redraw_labels
from srr.training.data.builtin import digits, mixture
from srr.training.data.folder import image_folder
from srr.training.data.hub import hub
from srr.training.data.idx import idx_folder
from srr.training.data.order import BatchOrder, EvalOrder
from srr.training.data.text import text_file

SOURCES: dict[str, Callable[[DataConfig], Source]] = {
    "digits": digits,
    "mnist": idx_folder,
    "fashion-mnist": idx_folder,
    "mixture": mixture,
    "folder": image_folder,
    "hf": hub,
    "text": text_file,
}
_WITH_ARGUMENT = {"folder": "PATH", "hf": "NAME", "text": "FILE"}


def load_data(config: DataConfig, *, seed: int = 0) -> Source:
    """Load the data named in the config.

    Args:
        config: the data section of a config.
        seed: seed of corrupted labels.

    Returns:
        Training and held-out samples with their description.

    Raises:
        ValueError: an unknown name, or one that lacks its argument.
        FileNotFoundError: the files are not where they should be.
    """
    kind, _, argument = config.name.partition(":")
    if kind not in SOURCES or bool(argument) != (kind in _WITH_ARGUMENT):
        known = ", ".join(f"{k}:{_WITH_ARGUMENT[k]}" if k in _WITH_ARGUMENT else k for k in SOURCES)
        raise ValueError(f"unknown data {config.name!r}; there are {known}")
    source = SOURCES[kind](config)
    train = source.train
    if isinstance(train, TensorSamples):
        train = train.take(config.limit) if config.limit else train
        labels = redraw_labels(train.y, config.corrupt_labels, source.spec.num_classes, seed)
        train = replace(train, y=labels)
    elif config.limit or config.corrupt_labels:
        raise ValueError(f"data.limit and data.corrupt_labels need data held in memory; got {config.name!r}")
    return source._replace(train=train)


class DataModule(pl.LightningDataModule):
    """Loaders of a source whose position is part of every checkpoint."""

    def __init__(self, source: Source, config: DataConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.source, self.config, self.seed = source, config, seed
        self.order: BatchOrder | None = None
        self._position: tuple[int, int] | None = None

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches, from the position of the checkpoint when there is one."""
        self.order = self._order()
        if self._position is not None:
            self.order.seek(*self._position)
            self._position = None
        return self._loader(self.source.train, self.order)

    def val_dataloader(self) -> DataLoader[Any]:
        """Held-out batches in order."""
        rank, world = self._place()
        size = self.config.eval_batch_size
        return self._loader(self.source.val, EvalOrder(len(self.source.val), batch_size=size, rank=rank, world=world))

    def _order(self) -> BatchOrder:
        rank, world = self._place()
        size = self.config.batch_size
        return BatchOrder(len(self.source.train), batch_size=size, seed=self.seed, rank=rank, world=world)

    def _place(self) -> tuple[int, int]:
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    def _loader(self, samples: Any, order: Any) -> DataLoader[Any]:
        return DataLoader(
            samples,
            batch_sampler=order,
            collate_fn=_as_it_is,
            num_workers=self.config.workers,
            persistent_workers=False,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),  # the loader draws nothing from the run's own stream
        )

    def state_dict(self) -> dict[str, int]:
        """Epoch and batch that come next."""
        if self.trainer is None:
            return {}
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        return {"epoch": self.trainer.fit_loop.epoch_progress.current.ready - 1, "batch": progress.current.ready}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Start the next loader at the position of a checkpoint."""
        self._position = (state_dict["epoch"], state_dict["batch"])

    def steps(self, config: TrainerConfig) -> int:
        """Optimizer steps of a whole run, known before any loader exists: a sharded run restores its position late."""
        batches = len(self._order())
        total = math.ceil(batches / config.accumulate) * config.max_epochs
        return total if config.max_steps < 0 else min(total, config.max_steps)


def _as_it_is(batch: Any) -> Any:
    return batch
