"""From a config to its parts: model, strategy, trainer."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from srr.nn.presets import PRESETS, create_model
from srr.training.checkpoint import AtomicCheckpointIO
from srr.training.config import Config, ModelConfig, TrainerConfig
from srr.training.data import DataSpec

PRECISIONS: dict[str, Any] = {"32": "32-true", "64": "64-true", "bf16": "bf16-mixed", "16": "16-mixed"}
STRATEGIES = ("auto", "ddp", "fsdp2")


def model_options(config: ModelConfig, spec: DataSpec) -> dict[str, Any]:
    """Overrides of a preset: what the data decide, and over it what the config says.

    Raises:
        ValueError: an unknown preset.
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


def build_model(config: ModelConfig, spec: DataSpec, *, seed: int) -> nn.Module:
    """The network of a run, initialized from the seed, or from ``model.pretrained`` when that is given."""
    torch.manual_seed(seed)
    model: nn.Module = create_model(config.preset, **model_options(config, spec))
    if config.pretrained:
        from srr.training.export import load_weights

        load_weights(model, config.pretrained)
    return model


def rank_of_process() -> int:
    """Rank this process was launched with; 0 when nobody launched it with one."""
    numbers = [int(os.environ.get(name, "0")) for name in ("RANK", "NODE_RANK", "GROUP_RANK", "LOCAL_RANK")]
    return max(numbers)


def accelerator(config: TrainerConfig) -> tuple[str, int | list[int]]:
    """Lightning's accelerator and devices from words like ``auto``, ``cpu``, ``cuda`` and ``cuda:1``.

    Raises:
        ValueError: an unknown device, or one this machine does not have.
    """
    kind, _, index = config.device.partition(":")
    kind = "cuda" if kind == "gpu" else kind
    if kind not in {"auto", "cpu", "cuda", "mps"} or (index and not index.isdigit()):
        raise ValueError(f"device must be auto, cpu, cuda, cuda:N or mps; got {config.device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but torch finds no CUDA device here")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device mps was asked for, but torch finds none here")
    return kind, [int(index)] if index else config.devices


def strategy(config: TrainerConfig) -> Any:
    """Lightning's strategy: one process, DDP, or FSDP2.

    Raises:
        ValueError: an unknown one.
    """
    if config.strategy not in STRATEGIES:
        raise ValueError(f"trainer.strategy must be one of {', '.join(STRATEGIES)}; got {config.strategy!r}")
    if config.strategy == "fsdp2":
        from srr.training.sharding import sharding_strategy

        return sharding_strategy(config)
    if config.strategy == "ddp":
        from lightning.pytorch.strategies import DDPStrategy

        return DDPStrategy(gradient_as_bucket_view=True)
    return "auto"


def build_trainer(config: Config, run: Path, *, callbacks: list[pl.Callback], loggers: list[Any]) -> pl.Trainer:
    """Lightning's trainer for a config."""
    trainer = config.trainer
    kind, devices = accelerator(trainer)
    if trainer.precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {trainer.precision!r}")
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
