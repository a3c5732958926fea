"""The experiments of the results page: their configs are valid, and the page is made from result files."""

import importlib
import json
import re
import sys
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch

from srr.nn import create_model
from srr.training.config import parse_overrides, resolve

FOLDER = Path(__file__).parents[2] / "examples" / "results"
sys.path.insert(0, str(FOLDER))

baselines, budgets, experiments, report, run, summary, tables = map(
    importlib.import_module, ("baselines", "budgets", "experiments", "report", "run", "summary", "tables")
)

BUDGETS = list(budgets.BUDGETS)


def jobs(budget, seeds=2):
    return experiments.jobs(experiments.EXPERIMENTS, budgets.BUDGETS[budget], seeds=seeds)


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_run_is_a_valid_config(budget):
    for job in jobs(budget, seeds=1):
        for made in (job, job.quick):
            config = resolve(parse_overrides(made.words))
            sizes = {"image_size": 28} if not job.data.startswith("text:") else {}
            with torch.device("meta"):
                create_model(config.model.preset, **sizes, **config.model.overrides)


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_shared_run_is_made_once_and_different_runs_never_share(budget):
    by_key = {}
    for job in jobs(budget):
        by_key.setdefault(job.key, []).append(job)
    for same in by_key.values():
        assert len({(j.words, j.network, j.measure, j.seed, j.cost) for j in same}) == 1
    shared = next(same for same in by_key.values() if same[0].name == "fashion-mnist/crate")
    assert {j.experiment for j in shared} >= {"vit", "variants", "steps"}


def made_up(job, rng):
    """A result file as `job.py` leaves it, with numbers out of the air."""
    depth = int(resolve(parse_overrides(job.words)).model.overrides["depth"])
    trace = {name: rng.random((depth, 3)).tolist() for name in summary.TRACED}
    picture = np.full((2, 28, 28), 7).tolist()
    extra = {
        "none": {},
        "layers": {"trained": trace, "untrained": trace},
        "subspaces": {"nearest_subspace": rng.random()},
        "probe": {
            "probe": {"trained": 0.5, "untrained": 0.4, "pixels": 0.3},
            "pictures": {"original": picture, "masked": picture, "reconstruction": picture},
        },
    }[job.measure]
    found = {"val_bits": rng.random()} if job.experiment == "language" else {}
    return {
        "job": job.to_dict(),
        "parameters": 1000,
        "flops": 2_500_000,
        "epochs": 3,
        "seconds": 4.0,
        "total_seconds": 5.0,
        "date": "2020-02-03T04:05:06+00:00",
        "machine": {"processor": "abacus", "threads": "1", "gpu": "none"},
        "versions": {"torch": "0"},
        "train_accuracy": rng.random(),
        "val_accuracy": 0.75 if job.seed % 2 else 0.85,
        "val_loss": rng.random(),
        **found,
        **extra,
    }


def test_the_page_is_made_from_result_files_and_again_from_the_kept_numbers(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    runs, out, kept = tmp_path / "runs", tmp_path / "docs" / "results.md", tmp_path / "small.json"
    runs.mkdir()
    out.parent.mkdir()
    for job in jobs("small"):
        (runs / f"{job.key}.json").write_text(json.dumps(made_up(job, rng)))
    words = ["report.py", "--out", str(out), "--kept", str(kept)]
    monkeypatch.setattr(sys, "argv", [*words, "--runs", str(runs)])
    assert report.main() == 0
    page = out.read_text(encoding="utf-8")
    assert "{{" not in page
    assert "not made yet" not in page
    assert "| CRATE | 80.00 ± 7.07 |" in page  # 85 and 75: mean 80, deviation 10/√2
    assert "+0.00 ± 0.00" in page
    made = {job.key for job in jobs("small") if job.experiment != "rates"}
    assert f"{len(made)} runs, budget `small`, made on 2020-02-03;" in page
    assert f"Together {len(made) * 5 / 60:.0f} minutes of one worker, {len(made) * 5 / 120:.0f} with two" in page
    for link in re.findall(r"\]\((figures/[^)]+)\)", page):
        assert (out.parent / link).stat().st_size > 1000
    assert len(list((out.parent / "figures").iterdir())) == 3
    monkeypatch.setattr(sys, "argv", words)
    assert report.main() == 0
    assert out.read_text(encoding="utf-8") == page


def test_every_experiment_has_a_table_with_a_place_in_the_page():
    page = (FOLDER / "page.md").read_text(encoding="utf-8")
    assert set(tables.TABLES) == set(experiments.EXPERIMENTS)
    for name in experiments.EXPERIMENTS:
        assert f"{{{{table {name}}}}}" in page


def test_a_place_that_names_nothing_is_refused():
    nothing = {"budget": "small", "experiments": {}}
    assert report.number(["vit", "mnist/crate", "val_accuracy"], nothing) == tables.MISSING
    with pytest.raises(ValueError, match="no row"):
        report.number(["vit", "mnist/cnn", "val_accuracy"], nothing)


def test_differences_are_taken_seed_by_seed():
    row, other = {"seeds": [0, 1], "val_bits": [2.0, 5.0]}, {"seeds": [1, 0], "val_bits": [4.0, 1.0]}
    assert tables.difference(row, other, "val_bits") == "+1.000 ± 0.000"


@pytest.mark.parametrize("rule", ["parameters", "flops"])
def test_baselines_meet_their_target(rule):
    torch.manual_seed(0)
    crate = create_model("crate_micro", image_size=28, patch_size=7, num_classes=10)
    sample = torch.zeros(1, 1, 28, 28)
    made = baselines.build_baseline(f"vit_{rule}", crate, sample, seed=0)
    cost = baselines.parameters if rule == "parameters" else lambda model: baselines.flops(model, sample)
    assert abs(cost(made) - cost(crate)) < 0.005 * cost(crate)


def test_a_failed_run_is_told_with_its_error(capsys):
    good, bad = experiments.jobs(["language"], budgets.BUDGETS["small"], seeds=1)
    made = {Future(): good, Future(): bad}
    first, second = made
    first.set_result(12.3)
    second.set_exception(FileNotFoundError("no such book"))
    assert sum(run.follow(made)) == 1
    told = capsys.readouterr().out
    assert "[1/2; " in told
    assert "[2/2; " in told
    assert "12 s" in told
    assert "FAILED: FileNotFoundError('no such book')" in told
