"""One training run, from its config to the files it leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, Strategy
from rich.console import Console
from rich.text import Text
from torch import nn

from srr._array.files import made_atomically, write_atomically
from srr.nn.preprocessing import Preprocessing
from srr.nn.presets import PRESETS, create_model
from srr.nn.pretrained import count_weights
from srr.nn.probe import blocks_of
from srr.training.baseline import nearest_subspace
from srr.training.callbacks import (
    Board,
    KeepCheckpoints,
    MetricsTable,
    StopOnSignal,
    Stopped,
    Throughput,
    TraceLayers,
    watcher,
)
from srr.training.checkpoint import AtomicCheckpointIO, read_checkpoint, read_sharded, resumable, sharding_strategy
from srr.training.config import (
    CONFIG,
    OF_VIEWS,
    ModelSection,
    RunConfig,
    TrainerConfig,
    check_resumable,
    dump_config,
    flat_config,
    merge,
    read_config_file,
    resolve,
    to_dict,
)
from srr.training.features import WatchFeatures
from srr.training.module import TrainingModule
from srr.training.objectives import check_objective
from srr.training.optim import WeightAverage
from srr.training.sources import BatchOrder, DataModule, DataSpec, Source, load_data, source_of
from srr.training.start import begun_from, load_weights

METRICS, DATA, MODEL, LOCK = "metrics.json", "data.json", "model", ".lock"

PRECISIONS: dict[str, Any] = {"32": "32-true", "64": "64-true", "bf16": "bf16-mixed", "16": "16-mixed"}

LIMITS = {"dim": 2**16, "depth": 1024, "heads": 4096, "head_dim": 2**16, "decoder_depth": 1024, "context": 2**20}
LIMITS |= {"vocabulary": 2**22, "num_classes": 2**22, "channels": 4096, "image_size": 4096, "patch_size": 4096}
"""Largest sizes of a model: far above any that was ever trained, far below what hangs a machine."""


class Parts(NamedTuple):
    """The callbacks a run asks about afterward."""

    checkpoints: KeepCheckpoints
    throughput: Throughput
    average: WeightAverage | None


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    console: Console | None = None,
    data: Source | pl.LightningDataModule | None = None,
    callbacks: Sequence[pl.Callback] = (),
    loggers: Sequence[Logger] = (),
) -> dict[str, Any]:
    """Train a model and leave its checkpoints, curves, exported weights and ``metrics.json`` in ``config.out``.

    Args:
        config: the config; on resuming, that of the run but for the keys in ``srr.training.config.RESUMABLE``.
        resume: continue from the newest readable checkpoint of ``config.out`` instead of beginning a new run.
        console: where progress is shown; the error stream by default.
        data: in place of those that ``config.data`` names: :func:`srr.training.own_source` of two data sets, or a
            Lightning data module with an attribute ``classes``. Order and batches are the run's, so that it resumes bit
            for bit; a resume, :func:`srr.training.open_run` and what reads the run later take the same ``data``.
        callbacks: of Lightning, beside those of the run.
        loggers: of Lightning, beside ``metrics.csv`` and TensorBoard.

    Returns:
        What ``metrics.json`` holds; with ``stopped`` set when a signal ended the run early.

    Raises:
        FileExistsError: the run folder exists and ``resume`` is not set.
        FileNotFoundError: the folder to resume is no run, or there are no data.
        ValueError: a value outside its range, a name of something unknown, a changed key that a resumed run keeps,
            weights to begin from that do not fit, or only damaged checkpoints. No folder is made.
        OSError: the run folder cannot be written, is in use by another process, or the disk is full.
        NonFiniteError: the loss became NaN or infinite; the last good checkpoint is kept.
    """
    console = console or Console(stderr=True)
    config = resolve(to_dict(config))
    if data is not None:
        data = source_of(data)
        config = replace(config, data=replace(config.data, name=data.spec.name))
    run = Path(config.out)
    if resume:
        check_resumable(load_run_config(run), config)
    else:
        check_free(run)
        config = begun_from(config)
    accelerator(config.trainer)
    source = load_data(config.data, seed=config.seed) if data is None else data
    begun = replace(config.model, pretrained=None) if resume else config.model  # a checkpoint has all of it
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        model = initial_model(begun, source.spec, seed=config.seed)
    for note in notes:
        console.print(Text(str(note.message), style="yellow"))
    module = TrainingModule(model, source.spec, config)
    check_objective(config.objective, module.model)
    BatchOrder(len(source.train), batch_size=config.data.batch_size, seed=0, world=config.trainer.devices)
    with contextlib.ExitStack() as stack:
        if rank_of_process() == 0:
            if not resume:
                _prepare(run, config, source)
            stack.enter_context(_locked(run))
            if resume and dump_config(config) != (run / CONFIG).read_text(encoding="utf-8"):
                write_atomically(run / CONFIG, lambda file: file.write(dump_config(config).encode()))
        checkpoint, after = _checkpoint(run, console) if resume else (None, None)
        return _train(config, module, source, console, checkpoint, after, (callbacks, loggers))


def _train(
    config: RunConfig,
    module: TrainingModule,
    source: Source,
    console: Console,
    checkpoint: Path | None,
    after: int | None,
    own: tuple[Sequence[pl.Callback], Sequence[Logger]],
) -> dict[str, Any]:
    run = Path(config.out)
    if config.trainer.compile:
        for block in blocks_of(module.model):
            block.compile()
    parts, callbacks = _callbacks(config, run, console)
    board = Board(run, name="", version="tensorboard", default_hp_metric=False)
    if after is None:
        board.log_hyperparams(flat_config(config), {f"best/{parts.checkpoints.metric}": float("nan")})
    loggers: list[Logger] = [MetricsTable(run, after=after), board, *own[1]]
    callbacks += own[0]
    start = time.perf_counter()
    with _quiet():
        trainer = build_trainer(config, run, callbacks=callbacks, loggers=loggers)
        data = DataModule(source, config.data, seed=config.seed)
        try:
            trainer.fit(module, data, ckpt_path=checkpoint)
            _validate_if_needed(trainer, module, data)
        except SystemExit as left:  # Lightning's answer to a second Ctrl-C
            raise KeyboardInterrupt from left
        except Stopped as reason:
            return {"stopped": str(reason), "step": trainer.global_step, "epoch": trainer.current_epoch}
    result = _finish(config, trainer, module, parts, source, time.perf_counter() - start)
    if result:
        best = parts.checkpoints.best
        board.log_metrics({f"best/{parts.checkpoints.metric}": float("nan") if best is None else best}, result["steps"])
        board.save()
    return result


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
    found = read_sharded(path) if path.is_dir() else read_checkpoint(path)
    threads = found.get("threads")
    if threads is not None and threads != torch.get_num_threads():
        notes.append(
            f"the run was made with {threads} thread(s) and goes on with {torch.get_num_threads()}; sums are then "
            "added in another order, and the weights will not be the same bit for bit"
        )
    for note in notes:
        console.print(Text(note, style="yellow"))
    console.print(Text(f"resuming from {path.name} at step {found['global_step']}"))
    return path, int(found["global_step"])


def check_free(run: Path) -> None:
    """Refuse a run folder that holds anything.

    Raises:
        FileExistsError: it does.
    """
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise FileExistsError(f"run folder {run} exists already; choose another --out, or continue it with --resume")


def _prepare(run: Path, config: RunConfig, source: Source) -> None:
    """Make the folder with what describes the run, aside, and give it its name: it exists whole or not at all."""
    try:
        with made_atomically(run) as draft:
            (draft / DATA).write_text(json.dumps(asdict(source.spec), indent=1) + "\n", encoding="utf-8")
            for name, text in source.files.items():
                (draft / name).write_text(text, encoding="utf-8")
            (draft / CONFIG).write_text(dump_config(config), encoding="utf-8")
    except OSError as error:
        raise OSError(f"run folder {run} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def _locked(run: Path) -> Iterator[None]:
    """One process works in a run folder: the system drops the lock with its holder, so none is ever left over.

    Raises:
        OSError: another process holds it.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows has no such lock
        yield
        return
    try:
        handle = os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)  # a link is not followed
    except OSError as error:
        raise OSError(f"run folder {run} cannot be locked: {LOCK} is no ordinary file of its own") from error
    with open(handle, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise OSError(f"run folder {run} is in use by {file.read().strip() or 'another process'}") from error
        except OSError as error:  # a file system without locks
            warnings.warn(f"{run} cannot be locked against a second process: {error.strerror}", stacklevel=2)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        file.flush()
        yield


def _callbacks(config: RunConfig, run: Path, console: Console) -> tuple[Parts, list[pl.Callback]]:
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
    learned = {*OF_VIEWS, "ctrl"}  # features that a probe reads
    watch = WatchFeatures(console, eps=config.objective.eps, neighbors=config.objective.name in learned)
    optional = [average, tracer, watch, watcher(config.trainer.progress, console)]
    chosen = [c for c in optional if c is not None]
    return parts, [*chosen, parts.throughput, StopOnSignal(checkpoints), checkpoints]


def headline(config: RunConfig) -> tuple[str, bool]:
    """The held-out metric that says how good a run is, and whether larger is better."""
    if config.objective.name in OF_VIEWS:
        return "val_knn", True
    if config.objective.name == "ctrl":
        return "val_pixel_error", False
    accuracy = config.objective.name in {"cross_entropy", "mcr2"}
    return ("val_accuracy", True) if accuracy else ("val_loss", False)


def _finish(
    config: RunConfig, trainer: pl.Trainer, module: TrainingModule, parts: Parts, source: Source, seconds: float
) -> dict[str, Any]:
    run = Path(config.out)
    export_model(module, parts.average, run / MODEL)
    if not trainer.is_global_zero:
        return {}
    for name, text in source.files.items():  # a tokenizer, say: what is shared carries what it needs
        write_atomically(run / MODEL / name, partial(_write_text, text))
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if "val_" in name}
    baseline = (
        nearest_subspace(source) if config.objective.name in {"cross_entropy", "mcr2", "ctrl", *OF_VIEWS} else None
    )
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
    write_atomically(run / METRICS, lambda file: file.write((json.dumps(result, indent=1) + "\n").encode()))
    return result


def _write_text(text: str, file: BinaryIO) -> None:
    file.write(text.encode())


def load_run_config(run: str | Path, changes: Mapping[str, Any] | None = None) -> RunConfig:
    """The config a run was made with.

    Args:
        run: its folder.
        changes: nested plain values laid over it.

    Returns:
        The resolved config, its ``out`` set to the folder.

    Raises:
        FileNotFoundError: the folder is not a run.
        ValueError: its config is damaged, or a change is no config.
    """
    path = Path(run) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{run} is not a training run: it has no {CONFIG}")
    return replace(resolve(merge(read_config_file(path), changes or {})), out=str(run))


@contextlib.contextmanager
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


# --- the parts a config names


def model_options(config: ModelSection, spec: DataSpec) -> dict[str, Any]:
    """Overrides of a preset: what the data decide, and over it what the config says.

    Raises:
        ValueError: an unknown preset, or one that does not take such data.
    """
    if config.preset not in PRESETS:
        raise ValueError(f"unknown model {config.preset!r}; there are {', '.join(sorted(PRESETS))}")
    preset: Any = PRESETS[config.preset]
    known = {f.name for f in dataclasses.fields(preset)}
    found: dict[str, Any] = {}
    if spec.kind == "image":
        size = spec.shape[1:]
        found = {"image_size": size, "channels": spec.shape[0], "num_classes": spec.num_classes}
        patch = getattr(preset, "patch_size", spec.patch)
        both = (patch, patch) if isinstance(patch, int) else patch
        if spec.name == "mixture" or size[0] % both[0] or size[1] % both[1] or both[0] * 2 > size[0]:
            found["patch_size"] = spec.patch
    elif spec.kind == "text":
        found = {"vocabulary": spec.num_classes, "context": spec.shape[0]}
    wrong = [name for name in ("vocabulary", "image_size") if (name in known) != (name in found)]
    if wrong:
        raise ValueError(f"model {config.preset!r} does not take {spec.kind} data ({spec.name})")
    listed = {k: tuple(v) if isinstance(v, list) else v for k, v in config.overrides.items()}
    return {**{k: v for k, v in found.items() if k in known}, **listed}


def initial_model(config: ModelSection, spec: DataSpec, *, seed: int) -> nn.Module:
    """The network of a run, initialized from the seed, or from ``model.pretrained`` when that is given.

    Raises:
        ValueError: an unknown preset or option, a size above :data:`LIMITS`, or more weights than the memory holds.
    """
    options = model_options(config, spec)
    check_size(config.preset, options)
    torch.manual_seed(seed)
    model: nn.Module = create_model(config.preset, **options)
    if config.pretrained:
        load_weights(model, config.pretrained)
    return model


def check_size(preset: str, options: Mapping[str, Any]) -> None:
    """Refuse a model that is too large before any of it is made.

    Raises:
        ValueError: a size above :data:`LIMITS`, or more weights than the memory of the machine holds.
    """
    config = PRESETS[preset].override(**options)
    for name, most in LIMITS.items():
        value = getattr(config, name, 0)
        largest = max(value) if isinstance(value, tuple) else value
        if largest > most:
            raise ValueError(f"model.{name} must be at most {most}; got {value}")
    need = 4 * count_weights(config, create_model)
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else need
    if need > have:
        raise ValueError(
            f"model {preset!r} of this size has {need // 4:,} weights, {need / 2**30:.0f} GiB; "
            f"this machine has {have / 2**30:.0f} GiB"
        )


def rank_of_process() -> int:
    """Rank this process was launched with; 0 when nobody launched it with one."""
    numbers = [int(os.environ.get(name, "0")) for name in ("RANK", "NODE_RANK", "GROUP_RANK", "LOCAL_RANK")]
    return max(numbers)


def accelerator(config: TrainerConfig) -> tuple[str, int | list[int]]:
    """Lightning's accelerator and devices from words like ``auto``, ``cpu``, ``cuda`` and ``cuda:1``.

    Raises:
        ValueError: a device this machine does not have.
    """
    kind, _, index = config.device.partition(":")
    kind = "cuda" if kind == "gpu" else kind
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but torch finds no CUDA device here")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device mps was asked for, but torch finds none here")
    return kind, [int(index)] if index else config.devices


def strategy(config: TrainerConfig) -> Strategy | str:
    """Lightning's strategy: one process, DDP, or FSDP2."""
    if config.strategy == "fsdp2":
        return sharding_strategy(config)
    return DDPStrategy(gradient_as_bucket_view=True) if config.strategy == "ddp" else "auto"


def build_trainer(config: RunConfig, run: Path, *, callbacks: list[pl.Callback], loggers: list[Logger]) -> pl.Trainer:
    """Lightning's trainer for a config."""
    trainer = config.trainer
    kind, devices = accelerator(trainer)
    sharded = trainer.strategy == "fsdp2"
    return pl.Trainer(
        accelerator=kind,
        devices=devices,
        num_nodes=trainer.nodes,
        strategy=strategy(trainer),
        precision=PRECISIONS[trainer.precision],
        max_epochs=trainer.max_epochs,
        max_steps=trainer.max_steps,
        accumulate_grad_batches=trainer.accumulate,
        gradient_clip_val=trainer.clip_norm or None,
        log_every_n_steps=trainer.log_every,
        default_root_dir=run,
        logger=loggers,
        callbacks=callbacks,
        plugins=[] if sharded else [AtomicCheckpointIO()],
        enable_progress_bar=any("ProgressBar" in type(c).__name__ for c in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        inference_mode=False,
    )


# --- weights to share: safetensors and a JSON config, never a pickle


def export_model(module: TrainingModule, average: WeightAverage | None, folder: Path) -> None:
    """Write the model, with averaged weights when there is an average, as safetensors and ``config.json``."""
    with average.in_place(module) if average else contextlib.nullcontext():
        state = gathered_state(module.exported)
    if module.trainer.is_global_zero:
        whole = create_model(cast("Any", module.model.config))
        whole.load_state_dict(state)
        spec = module.spec
        if spec.kind == "image":
            names = spec.classes if hasattr(whole.config, "num_classes") else ()
            whole.preprocessing = Preprocessing(spec.mean, spec.std, names)
        whole.save_pretrained(folder)


def gathered_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the whole tensors of a model that may be sharded; every rank has to call it."""
    return {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().cpu().clone()
        for name, value in model.state_dict().items()
    }
