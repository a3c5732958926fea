"""Saving, stopping and showing: what happens around the steps."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint

from srr.diagnostics import layer_trace
from srr.training.checkpoint import BEST, FOLDER, LAST
from srr.training.distributed import any_rank


class Stopped(Exception):
    """A signal asked the run to end; its state is saved."""


class KeepCheckpoints(Checkpoint):
    """Writes ``last.ckpt`` after each epoch and every few steps, and ``best.ckpt`` when the held-out metric improves.

    Args:
        run: folder of the run.
        every: optimizer steps between two writes of the last one, 0 for epochs alone.
        metric: name of the metric of the best one.
        larger: whether a larger metric is better.
    """

    def __init__(self, run: Path, *, every: int, metric: str, larger: bool) -> None:
        self.folder, self.every = run / FOLDER, every
        self.metric, self.larger = metric, larger
        self.best: float | None = None
        self.best_epoch = -1

    def save_last(self, trainer: pl.Trainer) -> None:
        """Write the last checkpoint now."""
        trainer.save_checkpoint(self.folder / LAST)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        """Write every few optimizer steps, not at the end of an epoch, which has its own write."""
        progress = trainer.fit_loop.epoch_loop.batch_progress
        stepped = progress.current.ready % trainer.accumulate_grad_batches == 0
        due = self.every and stepped and trainer.global_step % self.every == 0
        if due and not progress.is_last_batch:
            self.save_last(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write after each epoch, its validation included."""
        self.save_last(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the last one when ``max_steps`` ends the run inside an epoch."""
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self.save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the best one when it is better than all before."""
        if trainer.state.fn != "fit" or self.metric not in trainer.callback_metrics:
            return
        value = float(trainer.callback_metrics[self.metric])
        if self.best is None or (value > self.best if self.larger else value < self.best):
            self.best, self.best_epoch = value, trainer.current_epoch
            trainer.save_checkpoint(self.folder / BEST)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]


class StopOnSignal(pl.Callback):
    """On SIGTERM, finish the step, save and end the run; a supervisor that asks politely loses nothing.

    Args:
        checkpoints: what saves.
    """

    def __init__(self, checkpoints: KeepCheckpoints) -> None:
        self.checkpoints = checkpoints
        self.asked = False
        self._before: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signal."""
        self._before = signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self.asked = True

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        """Save and leave, between optimizer steps and at a point a run can begin again from."""
        progress = trainer.fit_loop.epoch_loop.batch_progress
        between = progress.current.ready % trainer.accumulate_grad_batches == 0 and not progress.is_last_batch
        if between and any_rank(self.asked, pl_module.device):
            self.checkpoints.save_last(trainer)
            raise Stopped("stopped by SIGTERM")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave after an epoch; its checkpoint is written already."""
        if any_rank(self.asked, pl_module.device) and not trainer.fit_loop.done:
            raise Stopped("stopped by SIGTERM")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signal back."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None


class Throughput(pl.Callback):
    """Samples per second of the training steps, validation and the first epoch of a process left out."""

    def __init__(self) -> None:
        self.samples = 0
        self.seconds = 0.0
        self._epochs = 0
        self._start = 0.0

    @property
    def rate(self) -> float | None:
        """Samples per second, None before a second epoch."""
        return self.samples / self.seconds if self.seconds else None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock after the last batch of an epoch."""
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        if self._epochs:
            self.seconds += time.perf_counter() - self._start
            self.samples += (batch_idx + 1) * len(batch["y"]) * trainer.world_size
        self._epochs += 1


class TraceLayers(pl.Callback):
    """Logs, every few epochs, what each layer does to the tokens of one fixed held-out batch.

    For layer l of L the metrics are ``trace_l/…``: R^c raw and normalized, sparsity, the sparse rate reduction
    R − R^c − λ·mean‖z‖₁ of unit tokens, and η‖D‖₂², above 2 of which the sparsifying step no longer descends.

    Args:
        every: epochs between two traces.
        eps: distortion ε.
        lam: sparsity weight λ of the objective.
        samples: number of samples.
    """

    def __init__(self, every: int, *, eps: float, lam: float, samples: int = 64) -> None:
        self.every, self.eps, self.lam, self.samples = every, eps, lam, samples
        self._x: torch.Tensor | None = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure and log."""
        if (trainer.current_epoch + 1) % self.every or trainer.world_size > 1:
            return
        module: Any = pl_module
        if self._x is None:
            samples = trainer.datamodule.source.val  # type: ignore[attr-defined]
            batch = samples.__getitems__(range(min(self.samples, len(samples))))
            self._x = module.normalize(module.prepare(batch["x"].to(module.device)))
        pl_module.log_dict(layer_metrics(module.model, self._x, eps=self.eps, lam=self.lam))


def layer_metrics(model: Any, x: torch.Tensor, *, eps: float, lam: float) -> dict[str, float]:
    """Numbers of :class:`TraceLayers` after each layer."""
    trace = layer_trace(model, x, eps=eps)
    found: dict[str, float] = {}
    for layer in range(trace.depth):
        name = f"trace_{layer + 1}/"
        found[name + "compression_raw"] = trace.compression_raw[layer, 2]
        found[name + "compression_normalized"] = trace.compression_normalized[layer, 2]
        found[name + "sparsity"] = trace.sparsity[layer, 2]
        gain = trace.rate_normalized[layer, 2] - trace.compression_normalized[layer, 2]
        found[name + "objective"] = gain - lam * trace.l1_normalized[layer, 2]
        step = getattr(getattr(model.blocks[layer], "dictionary", None), "step", None)
        if step is not None and trace.dictionary_norm[layer] == trace.dictionary_norm[layer]:
            found[name + "step_times_norm"] = step * trace.dictionary_norm[layer]
    return found
