"""Weights to share: safetensors and a JSON config, never a pickle."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from torch import nn

from srr.nn import create_model
from srr.nn.pretrained import load_adapted, local_folder, read_config, read_weights
from srr.training.ema import WeightAverage
from srr.training.module import TrainingModule


def export_model(module: TrainingModule, average: WeightAverage | None, folder: Path) -> None:
    """Write the model, with averaged weights when there is an average, as safetensors and ``config.json``."""
    place: Any = average.in_place(module) if average else contextlib.nullcontext()
    with place:
        state = gathered_state(module.model)
    if module.trainer.is_global_zero:
        whole = create_model(module.model.config)  # type: ignore[arg-type]
        whole.load_state_dict(state)
        whole.save_pretrained(folder)


def gathered_state(model: nn.Module) -> dict[str, Any]:
    """Copies of the whole tensors of a model that may be sharded; every rank has to call it."""
    return {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().cpu().clone()
        for name, value in model.state_dict().items()
    }


def load_weights(model: nn.Module, source: str) -> None:
    """Load a model saved by :meth:`srr.nn.CRATE.save_pretrained`, or the one a run exported.

    Positions are interpolated for another image size; a head for other classes keeps its own start, with a warning.

    Raises:
        FileNotFoundError: there are no exported weights.
        ValueError: the file is damaged, or the names or shapes differ.
    """
    inner = Path(source) / "model"
    folder = inner if inner.is_dir() else local_folder(source)
    values = read_config(folder)
    values.pop("model", None)
    saved = type(model.config).from_dict(values)  # type: ignore[union-attr]
    load_adapted(model, read_weights(folder), grid=getattr(saved, "grid", None))
