"""One training run, from its config to the files it leaves."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from srr.training.baseline import nearest_subspace
from srr.training.build import build_model, build_trainer, rank_of_process
from srr.training.callbacks import KeepCheckpoints, StopOnSignal, Stopped, Throughput, TraceLayers
from srr.training.checkpoint import read_checkpoint, resumable
from srr.training.config import Config, dump_config, read_config, resolve
from srr.training.data import DataModule, Source, load_data
from srr.training.ema import WeightAverage
from srr.training.export import export_model
from srr.training.metrics import MetricsTable, watcher
from srr.training.module import TrainingModule

CONFIG, METRICS, DATA, MODEL = "config.yaml", "metrics.json", "data.json", "model"


class Parts(NamedTuple):
    """The callbacks a run asks about afterward."""

    checkpoints: KeepCheckpoints
    throughput: Throughput
    average: WeightAverage | None


def train(config: Config, *, resume: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Train a model and leave its checkpoints, curves, exported weights and ``metrics.json`` in ``config.out``.

    Args:
        config: the resolved config.
        resume: continue from the newest readable checkpoint of ``config.out`` instead of beginning a new run.
        console: where progress is shown; the error stream by default.

    Returns:
        What ``metrics.json`` holds; with ``stopped`` set when a signal ended the run early.

    Raises:
        FileExistsError: the run folder exists and ``resume`` is not set.
        FileNotFoundError: the folder to resume is no run, or there are no data.
        ValueError: a config that names something unknown, or only damaged checkpoints.
        OSError: the run folder cannot be written, or the disk is full.
        NonFiniteError: the loss became NaN or infinite; the last good checkpoint is kept.
    """
    console = console or Console(stderr=True)
    run = Path(config.out)
    source = load_data(config.data, seed=config.seed)
    module = TrainingModule(build_model(config.model, source.spec, seed=config.seed), source.spec, config)
    checkpoint, after = _checkpoint(run, console) if resume else (None, None)
    if rank_of_process() == 0:
        _prepare(run, config, source, fresh=not resume)
    if config.trainer.compile:
        for block in module.model.blocks:  # type: ignore[union-attr]
            block.compile()
    parts, callbacks = _callbacks(config, run, console)
    loggers = [MetricsTable(run, after=after), TensorBoardLogger(run, name="", version="tensorboard")]
    start = time.perf_counter()
    with _quiet():
        trainer = build_trainer(config, run, callbacks=callbacks, loggers=loggers)
        data = DataModule(source, config.data, seed=config.seed)
        try:
            trainer.fit(module, data, ckpt_path=checkpoint)
            _validate_if_needed(trainer, module, data)
        except Stopped as reason:
            return {"stopped": str(reason), "step": trainer.global_step, "epoch": trainer.current_epoch}
    return _finish(config, trainer, module, parts, source, time.perf_counter() - start)


def _validate_if_needed(trainer: pl.Trainer, module: TrainingModule, data: DataModule) -> None:
    """Measure once more when ``max_steps`` ended the run inside an epoch, or when it was at its end already."""
    inside = not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
    if not inside and any(name.startswith("val_") for name in trainer.callback_metrics):
        return
    if not inside:
        trainer.loggers = []  # the table has this epoch's row
    trainer.validate(module, data, verbose=False)


def _checkpoint(run: Path, console: Console) -> tuple[Path | None, int]:
    """Where to continue from and at which step; the beginning when the run was stopped before its first checkpoint."""
    try:
        path, notes = resumable(run)
    except FileNotFoundError:
        console.print("the run has no checkpoint yet; beginning at step 0", highlight=False)
        return None, 0
    for note in notes:
        console.print(f"[yellow]{note}[/yellow]", highlight=False)
    if path.is_dir():
        from srr.training.sharding import read_sharded
    found = read_checkpoint(path) if path.is_file() else read_sharded(path)
    console.print(f"resuming from {path.name} at step {found['global_step']}", highlight=False)
    return path, int(found["global_step"])


def check_free(run: Path) -> None:
    """Refuse a run folder that holds anything.

    Raises:
        FileExistsError: it does.
    """
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise FileExistsError(f"run folder {run} exists already; choose another --out, or continue it with --resume")


def _prepare(run: Path, config: Config, source: Source, *, fresh: bool) -> None:
    """Make the folder with what describes the run, aside, and give it its name: it exists whole or not at all."""
    if not fresh:
        return
    check_free(run)
    draft = run.with_name(f".{run.name}.{os.getpid()}.tmp")
    try:
        draft.mkdir(parents=True)
        (draft / DATA).write_text(json.dumps(asdict(source.spec), indent=1) + "\n", encoding="utf-8")
        for name, text in source.files.items():
            (draft / name).write_text(text, encoding="utf-8")
        (draft / CONFIG).write_text(dump_config(config), encoding="utf-8")
        draft.replace(run)
    except OSError as error:
        raise OSError(f"run folder {run} cannot be written: {error.strerror}") from error


def _callbacks(config: Config, run: Path, console: Console) -> tuple[Parts, list[pl.Callback]]:
    """Everything around the steps; the average stands first, so that what is saved is never the average."""
    metric, larger = headline(config)
    checkpoints = KeepCheckpoints(run, every=config.trainer.checkpoint_every, metric=metric, larger=larger)
    average = WeightAverage(config.trainer.ema) if config.trainer.ema else None
    parts = Parts(checkpoints, Throughput(), average)
    tracer = (
        TraceLayers(config.trainer.trace_every, eps=config.objective.eps, lam=config.objective.srr_lam)
        if config.trainer.trace_every
        else None
    )
    optional = [average, tracer, watcher(config.trainer.progress, console)]
    chosen = [c for c in optional if c is not None]
    return parts, [*chosen, parts.throughput, StopOnSignal(checkpoints), checkpoints]


def headline(config: Config) -> tuple[str, bool]:
    """The held-out metric that says how good a run is, and whether larger is better."""
    accuracy = config.objective.name in {"cross_entropy", "mcr2"}
    return ("val_accuracy", True) if accuracy else ("val_loss", False)


def _finish(
    config: Config, trainer: pl.Trainer, module: TrainingModule, parts: Parts, source: Source, seconds: float
) -> dict[str, Any]:
    run = Path(config.out)
    export_model(module, parts.average, run / MODEL)
    if not trainer.is_global_zero:
        return {}
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if "val_" in name}
    baseline = nearest_subspace(source) if config.objective.name in {"cross_entropy", "mcr2"} else None
    result = {
        **metrics,
        f"best_{parts.checkpoints.metric}": parts.checkpoints.best,
        "best_epoch": parts.checkpoints.best_epoch,
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "seconds": round(seconds, 3),
        "samples_per_second": parts.throughput.rate,
        "parameters": sum(p.numel() for p in module.model.parameters()),
        "train_samples": len(source.train),
        "val_samples": len(source.val),
        "baseline_nearest_subspace": baseline._asdict() if baseline else None,
        "skipped_images": dict(sorted(module.skipped.items())),
    }
    (run / METRICS).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def load_run_config(run: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config a run was made with.

    Args:
        run: its folder.
        overrides: dotted words laid over it.

    Returns:
        The resolved config, its ``out`` set to the folder.

    Raises:
        FileNotFoundError: the folder is not a run.
    """
    from srr.training.config import merge, parse_overrides

    path = Path(run) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{run} is not a training run: it has no {CONFIG}")
    return replace(resolve(merge(read_config(path), parse_overrides(overrides))), out=str(run))


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's advice about loaders and devices stays out of the way; its errors do not."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
