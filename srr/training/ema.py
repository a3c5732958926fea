"""A moving average of the weights, used for validation and for the exported model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

AVERAGE = "WeightAverage"


class WeightAverage(pl.Callback):
    r"""Exponential moving average :math:`\bar w \leftarrow \delta \bar w + (1-\delta) w` after every optimizer step.

    The decay rises as (1 + t)/(10 + t) until it reaches the one asked for. The average is part of every checkpoint, and
    validation runs on it.

    Args:
        decay: δ in (0, 1).
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"trainer.ema must be in (0, 1); got {decay}")
        self.decay = decay
        self.steps = 0
        self.average: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the weights themselves unless a checkpoint brought an average."""
        model = _model(pl_module)
        if not self.average:
            self.average = {name: p.detach().clone() for name, p in model.named_parameters()}
        devices = {name: p.device for name, p in model.named_parameters()}
        self.average = {name: value.to(devices[name]) for name, value in self.average.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        """Move the average once an optimizer step has been made."""
        if trainer.global_step == self.steps:
            return
        self.steps = trainer.global_step
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, p in _model(pl_module).named_parameters():
            self.average[name].lerp_(p.detach(), 1 - decay)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in place of the weights."""
        if self.average and not trainer.sanity_checking:
            self._kept = _exchange(_model(pl_module), self.average)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the weights back."""
        if self._kept:
            _exchange(_model(pl_module), self._kept)
            self._kept = {}

    @contextlib.contextmanager
    def in_place(self, pl_module: pl.LightningModule) -> Iterator[None]:
        """The average in place of the weights while the block runs."""
        kept = _exchange(_model(pl_module), self.average) if self.average else {}
        try:
            yield
        finally:
            _exchange(_model(pl_module), kept)

    @property
    def state_key(self) -> str:
        """Name of this state in a checkpoint."""
        return AVERAGE

    def state_dict(self) -> dict[str, Any]:
        """Average and step count."""
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.steps, self.average = state_dict["steps"], dict(state_dict["average"])


def _model(pl_module: pl.LightningModule) -> nn.Module:
    return pl_module.model  # type: ignore[return-value]


@torch.no_grad()
def _exchange(model: nn.Module, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy values into the parameters and return what was there."""
    for module in model.modules():
        if hasattr(module, "reshard"):  # FSDP2 leaves the outermost parameters whole after a forward pass
            cast("Any", module).reshard()
    old = {}
    for name, p in model.named_parameters():
        if name in values:
            old[name] = p.detach().clone()
            p.copy_(values[name])
    return old
