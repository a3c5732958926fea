"""Two gloo processes do what one does: losses, training curves, sharded checkpoints."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import srr
from srr.nn import create_model
from srr.training.callbacks import curve, read_table
from srr.training.checkpoint import load_sharded, resumable
from srr.training.config import merge, parse_overrides, resolve
from srr.training.run import train

ROOT = Path(__file__).parents[2]


def two_processes(*words, **environment):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    command += [f"--master-port={port}", str(Path(__file__).with_name("ranks.py")), *map(str, words)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=variables, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


COMMON = (
    "data.name=digits data.batch_size=64 data.limit=330 trainer.progress=none trainer.max_epochs=2 trainer.device=cpu "
    "trainer.log_every=1 model.preset=crate_micro model.depth=2 trainer.ema=0.9 trainer.clip_norm=1.0 "
    "objective.srr_weight=0.02 objective.srr_scope=batch objective.srr_layers=[0,1]"
).split()
MANY = ["trainer.devices=2"]
# Erasing that never happens: the change of a view is drawn by rank, and nothing is to differ but the number of ranks.
VIEWS = (
    "data.name=digits data.batch_size=64 data.limit=130 trainer.progress=none trainer.max_epochs=2 trainer.device=cpu "
    "trainer.log_every=1 model.preset=crate_micro model.depth=1 objective.name=views objective.teacher=0.9 "
    "objective.projection=[24,12] augment.erasing=1e-9 augment.shift=0"
).split()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One process, and two under each strategy, with the same global batch and a loss that couples all tokens."""
    out = tmp_path_factory.mktemp("ranks")
    torch.set_num_threads(1)
    train(resolve(merge({"out": str(out / "one")}, parse_overrides(COMMON))))
    train(resolve(merge({"out": str(out / "one_views")}, parse_overrides(VIEWS))))
    jobs = {name: [*COMMON, *MANY, f"trainer.strategy={name}"] for name in ("ddp", "fsdp2")}
    jobs["views"] = [*VIEWS, *MANY, "trainer.strategy=ddp"]
    two_processes(out, SRR_TEST_RUNS=json.dumps(jobs))
    return out


def test_rates_and_gradients_are_exact_across_ranks(runs):
    found = torch.load(runs / "losses.pt", weights_only=True)
    Z, labels, U = found["Z"], found["labels"], found["U"]
    W = torch.eye(6, dtype=torch.float64, requires_grad=True)
    wanted = [
        srr.rate_reduction(Z @ W, labels, eps=0.5),
        srr.coding_rate(Z @ W, eps=0.5) - srr.subspace_coding_rate(Z @ W, U, eps=0.5),
    ]
    for value, gradient, truth in zip(found["values"], found["gradients"], wanted, strict=True):
        torch.testing.assert_close(value, truth.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, torch.autograd.grad(truth, W)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_draw_the_loss_curve_of_one(runs, strategy):
    for name in ("train_loss", "train_srr", "val_loss", "val_accuracy"):
        wanted, found = (curve(read_table(runs / run / "metrics.csv"), name) for run in ("one", strategy))
        assert found[0] == wanted[0]
        np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5, atol=1e-5)
    assert len(wanted[0]) == 2


def test_two_processes_learn_from_views_what_one_does(runs):
    """With a teacher and a projection; the rate of all is not the mean of the rates of the ranks."""
    for name in ("train_loss", "train_views"):
        wanted, found = (curve(read_table(runs / run / "metrics.csv"), name) for run in ("one_views", "views"))
        assert found[0] == wanted[0]
        np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5, atol=1e-5)
    last = (torch.load(runs / run / "checkpoints/last.ckpt", weights_only=True) for run in ("one_views", "views"))
    wanted, found = (checkpoint["state_dict"] for checkpoint in last)
    assert any(name.startswith("teacher.projection") for name in wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_sharded_state_is_loaded_back_in_one_process(runs):
    folder = runs / "fsdp2" / "checkpoints" / "last.ckpt"
    assert len(list(folder.glob("__*_0.distcp"))) == 2
    model = create_model("crate_micro", depth=2)
    load_sharded(model, folder)
    plain = torch.load(runs / "ddp/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, plain[f"model.{name}"], rtol=1e-4, atol=1e-6)
    averaged, wanted = (load_file(runs / run / "model/model.safetensors") for run in ("fsdp2", "one"))
    for name, value in wanted.items():
        torch.testing.assert_close(averaged[name], value, rtol=1e-4, atol=1e-5)
    with pytest.raises(FileNotFoundError, match="not a sharded checkpoint"):
        load_sharded(model, runs)


def test_a_sharded_run_resumes_where_it_stopped(runs):
    """One epoch more of both two-process runs: they still agree."""
    ddp, fsdp2 = (curve(read_table(runs / f"{run}_longer" / "metrics.csv"), "train_loss") for run in ("ddp", "fsdp2"))
    assert len(ddp[0]) == 3 * 5
    np.testing.assert_allclose(fsdp2[1], ddp[1], rtol=1e-5, atol=1e-5)


def test_a_changed_byte_in_a_shard_is_found(runs, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(runs / "fsdp2", copy)
    assert resumable(copy)[0].name == "last.ckpt"
    shard = copy / "checkpoints/last.ckpt/__1_0.distcp"
    content = shard.read_bytes()
    middle = len(content) // 2
    shard.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    path, notes = resumable(copy)
    assert path.name == "previous.ckpt"
    assert "__1_0.distcp is not what was written; falling back" in notes[0]
