"""Runs small enough to be made many times."""

from pathlib import Path

import pytest
import torch

from srr.training.config import RunConfig, merge, parse_overrides, resolve

TINY = [
    "data.name=mixture",
    "data.samples=50",
    "data.batch_size=8",
    "data.tokens=6",
    "data.token_dim=8",
    "model.dim=8",
    "model.heads=2",
    "model.head_dim=4",
    "model.depth=2",
    "trainer.max_epochs=3",
    "trainer.progress=none",
    "trainer.device=cpu",
]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny(tmp_path):
    """A config of a run of 15 steps; words are laid over it."""

    def make(*words: str, out: str | Path | None = None) -> RunConfig:
        run = {"out": str(out or tmp_path / "run")}
        return resolve(merge(run, parse_overrides([*TINY, *words])))

    return make
