"""What happens around the steps: the table of metrics, saving, stopping and showing."""

from __future__ import annotations

import contextlib
import csv
import io
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from torch import nn

from srr._array.files import write_atomically
from srr.diagnostics import layer_trace
from srr.nn.probe import blocks_of
from srr.training.checkpoint import BEST, FOLDER, LAST
from srr.training.module import largest_of_ranks

if TYPE_CHECKING:
    from srr.training.module import TrainingModule
    from srr.training.sources import DataModule

Row = dict[str, str]


def read_table(path: str | Path) -> list[Row]:
    """Rows of a metrics file; a last line that a crash cut short is left out.

    Args:
        path: ``metrics.csv`` of a run.

    Returns:
        One dictionary a row, empty cells left out.
    """
    with contextlib.suppress(FileNotFoundError), open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
        header = rows[0] if rows else []
        whole = [row for row in rows[1:] if len(row) == len(header)]
        return [{k: v for k, v in zip(header, row, strict=True) if v} for row in whole]
    return []


def curve(rows: list[Row], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric."""
    found = [(int(row["step"]), float(row[name])) for row in rows if name in row and row.get("step", "").isdigit()]
    return [f[0] for f in found], [f[1] for f in found]


class MetricsTable(Logger):
    """``metrics.csv``: a row a step that logged something, a column a metric.

    Args:
        folder: folder of the run.
        after: step a resumed run begins from; later rows are of a run that was lost and are dropped.
    """

    def __init__(self, folder: Path, *, after: int | None = None) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.rows: list[Row] = []
        self.columns = ["step", "epoch"]
        if after is not None:
            self.rows = [r for r in read_table(self.path) if int(r["step"]) < after]
            self.columns += [name for row in self.rows for name in row if name not in self.columns]
            self.columns = list(dict.fromkeys(self.columns))
            self._rewrite()

    name = "table"
    version = 0

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the resolved config is in the run already."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add one row; values of a step that has a row already go into it."""
        row = {"step": str(step), **{name: _text(value) for name, value in _from_one(metrics).items()}}
        new = [name for name in row if name not in self.columns]
        same = bool(self.rows) and self.rows[-1].get("step") == row["step"]
        if same:
            self.rows[-1].update(row)
        else:
            self.rows.append(row)
        if new or same:
            self.columns += new
            self._rewrite()
        else:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow([row.get(name, "") for name in self.columns])

    def _rewrite(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(self.columns)
        writer.writerows([[row.get(name, "") for name in self.columns] for row in self.rows])
        write_atomically(self.path, lambda file: file.write(text.getvalue().encode()))


class Board(TensorBoardLogger):
    """TensorBoard's files, with epochs counted from 1 as everywhere."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add the values of one step."""
        super().log_metrics(_from_one(metrics), step)


def _from_one(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics with the epoch counted from 1; Lightning counts from 0."""
    return {name: value + 1 if name == "epoch" else value for name, value in metrics.items()}


def _text(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{float(value):.9g}"


class EpochLines(pl.Callback):
    """One line an epoch, for terminals that cannot redraw and for log files.

    What is said of training is of the last batch alone, what is said of the held-out set of all of it.

    Args:
        console: where to write.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the line."""
        metrics, parts = trainer.callback_metrics, []
        for words, kind in (("last batch", "train"), ("held out", "val")):
            shown = [name for name in ("loss", "accuracy") if f"{kind}_{name}" in metrics]
            values = " ".join(f"{name} {float(metrics[f'{kind}_{name}']):.4f}" for name in shown)
            parts += [f"{words}: {values}"] if values else []
        text = "  ".join(parts)
        if trainer.is_global_zero:
            self.console.print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {text}", highlight=False)


def watcher(kind: str, console: Console) -> pl.Callback | None:
    """A live bar on a terminal, lines elsewhere, or nothing: ``auto``, ``bar``, ``lines`` or ``none``.

    Raises:
        ValueError: another word.
    """
    if kind not in {"auto", "bar", "lines", "none"}:
        raise ValueError(f"trainer.progress must be auto, bar, lines or none; got {kind!r}")
    if kind == "none":
        return None
    if kind == "bar" or (kind == "auto" and console.is_terminal):
        return RichProgressBar(leave=False)
    return EpochLines(console)


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
        self.best_epoch = 0  # counted from 1

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
            self.best, self.best_epoch = value, trainer.current_epoch + 1
            trainer.save_checkpoint(self.folder / BEST)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]


class StopOnSignal(pl.Callback):
    """On SIGTERM or Ctrl-C, finish the step, save and end the run; a second Ctrl-C ends it at once.

    Args:
        checkpoints: what saves.
    """

    def __init__(self, checkpoints: KeepCheckpoints) -> None:
        self.checkpoints = checkpoints
        self.asked = 0
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = number

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        """Save and leave, between optimizer steps and at a point a run can begin again from."""
        progress = trainer.fit_loop.epoch_loop.batch_progress
        between = progress.current.ready % trainer.accumulate_grad_batches == 0 and not progress.is_last_batch
        if between and (asked := largest_of_ranks(self.asked, pl_module.device)):
            self.checkpoints.save_last(trainer)
            raise Stopped(f"stopped by {signal.Signals(asked).name}")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave after an epoch; its checkpoint is written already."""
        if (asked := largest_of_ranks(self.asked, pl_module.device)) and not trainer.fit_loop.done:
            raise Stopped(f"stopped by {signal.Signals(asked).name}")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}


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
        module = cast("TrainingModule", pl_module)
        if self._x is None:
            samples = cast("DataModule", cast("Any", trainer).datamodule).source.val
            batch = samples.__getitems__(range(min(self.samples, len(samples))))
            self._x = module.normalize(module.prepare(batch["x"].to(module.device)))
        pl_module.log_dict(layer_metrics(module.model, self._x, eps=self.eps, lam=self.lam))


def layer_metrics(model: nn.Module, x: torch.Tensor, *, eps: float, lam: float) -> dict[str, float]:
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
        step = getattr(getattr(blocks_of(model)[layer], "dictionary", None), "step", None)
        if step is not None and trace.dictionary_norm[layer] == trace.dictionary_norm[layer]:
            found[name + "step_times_norm"] = step * trace.dictionary_norm[layer]
    return found
