"""Looking back at a run: its data, its model, and the same model untrained."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from srr.diagnostics import LayerTrace, layer_trace
from srr.nn.losses import IGNORE
from srr.training.checkpoint import BEST, FOLDER, LAST, PREVIOUS, network_weights, read_checkpoint
from srr.training.config import RunConfig
from srr.training.module import TrainingModule
from srr.training.run import MODEL, initial_model, load_run_config
from srr.training.sources import EvalOrder, Source, load_data, source_of
from srr.training.start import load_weights


class TrainedRun(NamedTuple):
    """A run read back.

    Args:
        folder: folder of the run.
        config: what it was made with.
        source: its data.
        model: the trained model, in evaluation mode.
        untrained: the same model at its start.
    """

    folder: Path
    config: RunConfig
    source: Source
    model: nn.Module
    untrained: nn.Module


def open_run(run: str | Path, *, data: Source | pl.LightningDataModule | None = None) -> TrainedRun:
    """Read a run back.

    Args:
        run: its folder.
        data: those that were given to :func:`srr.training.train`, where the run has data of its own.

    Returns:
        Config, data, the exported model (or that of the newest checkpoint while the run is not finished) in
        evaluation mode, and the untrained model from the same seed.

    Raises:
        FileNotFoundError: the folder is no run, or has no weights yet.
        ValueError: its files are damaged.
    """
    folder = Path(run)
    config = load_run_config(folder)
    source = load_data(config.data, seed=config.seed) if data is None else source_of(data)
    alone = replace(config.model, pretrained=None)
    try:
        untrained = initial_model(config.model, source.spec, seed=config.seed)
    except FileNotFoundError as error:
        warnings.warn(f"the start of {run} is drawn anew: {error}", stacklevel=2)
        untrained = initial_model(alone, source.spec, seed=config.seed)
    model = initial_model(alone, source.spec, seed=config.seed)
    if (folder / MODEL).is_dir():
        load_weights(model, str(folder / MODEL))
    else:
        _load_checkpoint(model, folder)
    return TrainedRun(folder, config, source, model.eval(), untrained.eval())


def _load_checkpoint(model: nn.Module, run: Path) -> None:
    paths = [p for name in (LAST, PREVIOUS, BEST) if (p := run / FOLDER / name).is_file()]
    if not paths:
        raise FileNotFoundError(f"run {run} has no weights yet: neither {MODEL}/ nor a checkpoint")
    model.load_state_dict(network_weights(read_checkpoint(paths[0])["state_dict"]))


def held_out(run: TrainedRun, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first held-out samples: as the model takes them (N, ...), as they look, in [0, 1], and their labels."""
    module = TrainingModule(run.model, run.source.spec, run.config)
    order = EvalOrder(min(count, len(run.source.val)), batch_size=256)
    batches = [run.source.val.__getitems__(indices) for indices in order]
    x = torch.cat([module.prepare(b["x"]) for b in batches])
    y = torch.cat([b["y"] for b in batches])
    keep = (y != IGNORE).flatten(1).any(1) if y.ndim > 1 else y != IGNORE
    return module.normalize(x)[keep], x[keep], y[keep]


def trace_run(run: TrainedRun, *, eps: float, count: int = 256) -> dict[str, LayerTrace]:
    """Traces of the trained and of the untrained model on held-out samples.

    Args:
        run: what :func:`open_run` returned.
        eps: distortion ε.
        count: number of samples.

    Returns:
        ``trained`` and ``untrained``.
    """
    x = held_out(run, count)[0]
    return {"trained": layer_trace(run.model, x, eps=eps), "untrained": layer_trace(run.untrained, x, eps=eps)}


@torch.no_grad()
def scores(model: nn.Module, x: Tensor, batch_size: int = 256) -> Tensor:
    """Class scores of prepared samples."""
    return torch.cat([model(part) for part in torch.split(x, batch_size)])
