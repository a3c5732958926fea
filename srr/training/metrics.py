"""Metrics of a run as one table on disk that a crash cannot spoil, and the two ways of watching it grow."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

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
        row = {"step": str(step), **{name: _text(value) for name, value in metrics.items()}}
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
        temporary = self.path.with_name(".metrics.csv.tmp")
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            writer.writerows([[row.get(name, "") for name in self.columns] for row in self.rows])
        temporary.replace(self.path)


def _text(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{float(value):.9g}"


class EpochLines(pl.Callback):
    """One line an epoch, for terminals that cannot redraw and for log files.

    Args:
        console: where to write.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the line."""
        shown = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
        metrics = trainer.callback_metrics
        text = "  ".join(f"{name} {float(metrics[name]):.4f}" for name in shown if name in metrics)
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
