"""Training of the networks on Lightning: data, objectives, optimizers, checkpoints that survive a crash."""

from srr._array.extras import need

need("torch", "lightning", by="srr.training")

from srr.training.baseline import Baseline, nearest_subspace
from srr.training.checkpoint import load_sharded, read_checkpoint, resumable
from srr.training.config import (
    RunConfig,
    dump_config,
    merge,
    parse_overrides,
    read_config_file,
    resolve,
    resolve_with_recipe,
)
from srr.training.module import NonFiniteError, TrainingModule
from srr.training.optim import Lion, MuonWithAdamW, WeightAverage
from srr.training.report import TrainedRun, open_run, trace_run
from srr.training.run import load_run_config, train
from srr.training.sources import DataModule, DataSpec, Source, load_data, own_source

__all__ = [
    "Baseline",
    "DataModule",
    "DataSpec",
    "Lion",
    "MuonWithAdamW",
    "NonFiniteError",
    "RunConfig",
    "Source",
    "TrainedRun",
    "TrainingModule",
    "WeightAverage",
    "dump_config",
    "load_data",
    "load_run_config",
    "load_sharded",
    "merge",
    "nearest_subspace",
    "open_run",
    "own_source",
    "parse_overrides",
    "read_checkpoint",
    "read_config_file",
    "resolve",
    "resolve_with_recipe",
    "resumable",
    "trace_run",
    "train",
]
