"""Two processes with uneven parts of a batch, in a user's own DDP loop, against one process with the whole."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from srr.nn import cross_entropy, mcr2_loss, views_loss
from tests.nn.losses_of_a_batch import CASES, INPUTS, LABELS, PARTS, VIEWS, Features, N, gradients_and_value

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("ranks") / "found.pt"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    command += [f"--master-port={port}", "-m", "tests.nn.ranks", str(out)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=variables, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_those_of_the_whole_batch(found: dict, name: str) -> None:
    value, gradients = gradients_and_value(name, None)
    torch.testing.assert_close(found[name][0], value, rtol=1e-10, atol=1e-12)
    assert len(found[name][1]) == len(gradients)
    for one, whole in zip(found[name][1], gradients, strict=True):
        torch.testing.assert_close(one, whole, rtol=1e-8, atol=1e-12)
    assert sum(float(g.abs().sum()) for g in gradients) > 0


def test_a_group_of_one_has_its_own_loss(found: dict) -> None:
    scores, labels = INPUTS[PARTS[0]], LABELS[PARTS[0]]
    for one, wanted in zip(found["alone"], (cross_entropy(scores, labels), mcr2_loss(scores, labels)), strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-12, atol=0.0)


def test_the_mean_of_the_rates_of_the_ranks_is_not_the_rate_of_the_mean(found: dict) -> None:
    """log det is concave: a rank that sees its own part alone underestimates the rate, and so overstates the loss."""
    torch.manual_seed(0)
    Z = torch.nn.functional.normalize(Features().double()(VIEWS).detach(), dim=-1)
    eye = torch.eye(6, dtype=torch.float64)

    def rate(z: torch.Tensor) -> torch.Tensor:
        return torch.logdet(eye + 6 / 0.5**2 * z.mT @ z / z.shape[1]).mean() / 2

    apart = sum(Z[:, PARTS[rank]].shape[1] / N * rate(Z[:, PARTS[rank]]) for rank in (0, 1))
    gamma = 2 * 0.5 / 6  # n >= d
    agreement = (Z - Z.mean(0)).square().sum(-1).mean() / 2
    torch.testing.assert_close(found["views"][0], agreement - gamma * rate(Z), rtol=1e-10, atol=0.0)
    assert found["views"][0] < agreement - gamma * (apart + 0.2)
    naive = sum(
        Z[:, PARTS[rank]].shape[1] / N * views_loss(Z[:, PARTS[rank]], eps=0.5, weight=gamma) for rank in (0, 1)
    )
    torch.testing.assert_close(naive, agreement - gamma * apart, rtol=1e-10, atol=0.0)


def test_the_loop_of_the_page_is_the_same_alone_and_on_two_processes(tmp_path: Path) -> None:
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    blocks = [part.partition("```")[0] for part in text.split("```python\n")]
    (block,) = [b for b in blocks if "torchrun --nproc-per-node" in b]
    weights = "sum(p.double().sum() for p in features.parameters()).item()"
    (tmp_path / "loop.py").write_text(f"{block}print('found', loss_of_all, {weights})\n", encoding="utf-8")
    many = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    found = []
    for start in ([sys.executable], many):
        command = [*start, str(tmp_path / "loop.py")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=variables, check=True)
        found += [list(map(float, line.split()[1:])) for line in done.stdout.splitlines() if line.startswith("found")]
    assert len(found) == 3
    for loss, total in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        assert total == pytest.approx(found[0][1], rel=1e-5)
