"""One run: train, measure, leave one JSON file. ``run.py`` makes many of these side by side."""

from __future__ import annotations

import copy
import datetime
import functools
import json
import logging
import platform
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from baselines import build_baseline, flops, parameters
from experiments import Job, last_words
from measures import MEASURES
from recall import recall_data
from unrolled import unroll

import srr
from srr.training.config import DataConfig, RunConfig, parse_overrides, resolve
from srr.training.module import TrainingModule
from srr.training.run import PRECISIONS, accelerator, initial_model
from srr.training.sources import DataModule, Source, TensorSamples, load_data

HELD = 0.25  # share of the training samples that a choice is measured on


@functools.lru_cache(maxsize=2)  # a worker makes many runs on the same data
def load(config: DataConfig, seed: int) -> Source:
    """The data of a config, the generated ones too."""
    return recall_data(config.samples) if config.name == "own:recall" else load_data(config, seed=seed)


def held_back(source: Source) -> Source:
    """A source without its test set: the last quarter of the training samples is measured instead."""
    train: Any = source.train
    if isinstance(train, TensorSamples):
        cut = round(len(train) * (1 - HELD))
        return source._replace(train=train.take(cut), val=TensorSamples(train.x[cut:], train.y[cut:]))
    cut = round(len(train.symbols) * (1 - HELD))
    later = replace(train, symbols=train.symbols[cut:], stride=train.context)
    return source._replace(train=replace(train, symbols=train.symbols[:cut]), val=later)


def make(job: Job, target: Path, extra: tuple[str, ...]) -> float:
    """Make one run and write its result file, whole or not at all; the seconds it took."""
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    begun = time.perf_counter()
    result = {"job": job.to_dict(), **run(job, extra), "machine": machine(), "versions": versions()}
    result["total_seconds"] = time.perf_counter() - begun
    result["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace(target)
    return float(result["total_seconds"])


def run(job: Job, extra: tuple[str, ...]) -> dict[str, Any]:
    """Train the network of a job and measure it; ``extra`` words come last."""
    config = resolve(parse_overrides(last_words([*job.words, f"seed={job.seed}", *extra])))
    if job.network.startswith("unrolled_"):
        return unroll(job.network.removeprefix("unrolled_"), config.model.overrides["depth"], job.seed)
    source = load(config.data, config.seed if config.data.corrupt_labels else 0)
    source = held_back(source) if job.choice else source
    model = initial_model(config.model, source.spec, seed=config.seed)
    sample = example(source)
    if job.network != "crate":
        model = build_baseline(job.network, model, sample, seed=config.seed)
    untrained = copy.deepcopy(model)
    facts = {"parameters": parameters(model), "flops": flops(model, sample), "epochs": config.trainer.max_epochs}
    model.train()
    module, seconds, final = fit(config, model, source)
    measured = MEASURES[job.measure](module, untrained, source) if job.measure != "none" else {}
    return {**facts, "processor_seconds": seconds, **final, **measured}


def fit(config: RunConfig, model: torch.nn.Module, source: Any) -> tuple[TrainingModule, float, dict[str, float]]:
    """Train for the epochs of the config; processor time of it, and the metrics of the last epoch."""
    kind, devices = accelerator(config.trainer)
    module = TrainingModule(model, source.spec, config)
    trainer = pl.Trainer(
        accelerator=kind,
        devices=devices,
        precision=PRECISIONS[config.trainer.precision],
        max_epochs=config.trainer.max_epochs,
        max_steps=config.trainer.max_steps,
        check_val_every_n_epoch=config.trainer.max_epochs,
        limit_val_batches=0 if config.trainer.max_steps > 0 else None,
        gradient_clip_val=config.trainer.clip_norm or None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    data = DataModule(source, config.data, seed=config.seed)
    start = time.process_time()
    trainer.fit(module, data)
    if config.trainer.max_steps > 0:  # inside an epoch, where no evaluation falls
        trainer.limit_val_batches = 1.0
        trainer.validate(module, data, verbose=False)
    seconds = time.process_time() - start
    final = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith(("val_", "train_"))}
    return module.to(trainer.strategy.root_device), seconds, final


def example(source: Any) -> torch.Tensor:
    """One input for counting operations."""
    x = source.train.__getitems__([0])["x"]
    return x if source.spec.kind == "text" else x.float()


def machine() -> dict[str, str]:
    """What the run was made on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"processor": processor(), "threads": str(torch.get_num_threads()), "gpu": gpu}


def processor() -> str:
    """The name of the processor as Linux tells it, or its architecture."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    """Software that decides a result."""
    return {
        "python": platform.python_version(),
        "srr": srr.__version__,
        "torch": torch.__version__,
        "lightning": pl.__version__,
        "numpy": np.__version__,
    }
