"""One run: train, measure, leave one JSON file. ``run.py`` starts many of these side by side."""

from __future__ import annotations

import copy
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from baselines import build_baseline, flops, parameters
from experiments import Job
from measures import MEASURES

from srr.training.build import PRECISIONS, accelerator, build_model
from srr.training.config import Config, parse_overrides, resolve
from srr.training.data import DataModule, load_data
from srr.training.module import TrainingModule


def run(job: Job, extra: list[str]) -> dict[str, Any]:
    """Train the network of a job and measure it; ``extra`` words come last."""
    words = [*job.words, f"seed={job.seed}", *extra]
    merged: dict[str, str] = {word.partition("=")[0]: word for word in words}  # the last word of a key counts
    config = resolve(parse_overrides(list(merged.values())))
    source = load_data(config.data, seed=config.seed)
    model = build_model(config.model, source.spec, seed=config.seed)
    sample = example(source)
    if job.network != "crate":
        torch.manual_seed(config.seed)
        model = build_baseline(job.network, model, sample)
    untrained = copy.deepcopy(model)
    facts = {"parameters": parameters(model)} | ({} if job.experiment == "masked" else {"flops": flops(model, sample)})
    model.train()
    module, seconds, final = fit(config, model, source)
    measured = MEASURES[job.measure](module, untrained, source) if job.measure != "none" else {}
    return {**facts, "seconds": seconds, **final, **measured}


def fit(config: Config, model: torch.nn.Module, source: Any) -> tuple[TrainingModule, float, dict[str, float]]:
    """Train for the epochs of the config; wall time and the metrics of the last epoch."""
    kind, devices = accelerator(config.trainer)
    module = TrainingModule(model, source.spec, config)
    trainer = pl.Trainer(
        accelerator=kind,
        devices=devices,
        precision=PRECISIONS[config.trainer.precision],
        max_epochs=config.trainer.max_epochs,
        max_steps=config.trainer.max_steps,
        check_val_every_n_epoch=config.trainer.max_epochs,
        gradient_clip_val=config.trainer.clip_norm or None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    start = time.perf_counter()
    trainer.fit(module, DataModule(source, config.data, seed=config.seed))
    seconds = time.perf_counter() - start
    final = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith(("val_", "train_"))}
    return module.to(trainer.strategy.root_device), seconds, final


def example(source: Any) -> torch.Tensor:
    """One input for counting operations."""
    x = source.train.__getitems__([0])["x"]
    return x if source.spec.kind == "text" else x.float()


def main() -> None:
    """``job.py JOB_JSON RESULT_FILE [WORD ...]``."""
    warnings.filterwarnings("ignore", module="lightning")
    job, target = Job.from_json(sys.argv[1]), Path(sys.argv[2])
    result = {"job": json.loads(job.to_json()), "extra": sys.argv[3:], "machine": machine(), **run(job, sys.argv[3:])}
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace(target)


def machine() -> dict[str, str]:
    """What the run was made on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"torch": torch.__version__, "gpu": gpu, "threads": str(torch.get_num_threads())}


if __name__ == "__main__":
    main()
