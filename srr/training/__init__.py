"""Training of the networks on Lightning: data, objectives, optimizers, checkpoints that survive a crash."""

from srr.training.baseline import Baseline, nearest_subspace
from srr.training.checkpoint import read_checkpoint, resumable
from srr.training.config import Config, dump_config, merge, parse_overrides, read_config, resolve
from srr.training.data import DataModule, DataSpec, Source, load_data
from srr.training.ema import WeightAverage
from srr.training.inspect import TrainedRun, open_run, trace_run
from srr.training.module import NonFiniteError, TrainingModule
from srr.training.optim import Lion, Muon
from srr.training.recipes import resolve_with_recipe
from srr.training.run import load_run_config, train

__all__ = [
    "Baseline",
    "Config",
    "DataModule",
    "DataSpec",
    "Lion",
    "Muon",
    "NonFiniteError",
    "Source",
    "TrainedRun",
    "TrainingModule",
    "WeightAverage",
    "dump_config",
    "load_data",
    "load_run_config",
    "merge",
    "nearest_subspace",
    "open_run",
    "parse_overrides",
    "read_checkpoint",
    "read_config",
    "resolve",
    "resolve_with_recipe",
    "resumable",
    "trace_run",
    "train",
]
