"""Data sources and the order in which their samples are seen."""

from srr.training.data.base import IGNORE, DataSpec, Source, TensorSamples, fixed_split
from srr.training.data.idx import read_idx
from srr.training.data.module import SOURCES, DataModule, load_data
from srr.training.data.order import BatchOrder, EvalOrder, mix

__all__ = [
    "IGNORE",
    "SOURCES",
    "BatchOrder",
    "DataModule",
    "DataSpec",
    "EvalOrder",
    "Source",
    "TensorSamples",
    "fixed_split",
    "load_data",
    "mix",
    "read_idx",
]
