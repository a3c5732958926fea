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

baselines, budgets, changed, experiments, recall, report, run, summary, tables = map(
    importlib.import_module,
    ("baselines", "budgets", "changed", "experiments", "recall", "report", "run", "summary", "tables"),
)

BUDGETS = list(budgets.BUDGETS)


def jobs(budget, seeds=2):
    return experiments.jobs(experiments.EXPERIMENTS, budgets.BUDGETS[budget], seeds=seeds)


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_run_is_a_valid_config(budget):
    models = set()
    for job in {job.words: job for job in jobs(budget, seeds=1)}.values():
        for made in (job, job.quick):
            config = resolve(parse_overrides(made.words))
            sizes = {"image_size": 28} if not job.data.startswith("text:") else {}
            models.add((config.model.preset, *sorted({**sizes, **config.model.overrides}.items())))
    for preset, *options in models:
        with torch.device("meta"):
            create_model(preset, **dict(options))


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_shared_run_is_made_once_and_different_runs_never_share(budget):
    by_key = {}
    for job in jobs(budget):
        by_key.setdefault(job.key, []).append(job)
    for same in by_key.values():
        assert len({(j.words, j.network, j.measure, j.seed, j.cost, j.choice) for j in same}) == 1
    if budget == "small":  # the large one has smaller patches everywhere
        shared = next(same for same in by_key.values() if same[0].name == "fashion-mnist/7/crate_descent")
        assert {j.experiment for j in shared} >= {"networks", "improved", "depth", "steps"}


@pytest.mark.parametrize("budget", BUDGETS)
def test_choices_are_never_measured_on_what_a_table_reports(budget):
    for job in jobs(budget):
        assert job.choice == (job.experiment in experiments.CHOICES)
        assert not job.choice or job.seed == experiments.TRIAL_SEED


def test_learning_rates_are_the_best_on_held_out_training_samples():
    kept = json.loads((FOLDER / "small.json").read_text(encoding="utf-8"))["experiments"]
    found = {}
    for name, row in kept["rates"].items():
        kind, network, lr = name.split("/")
        sign = -1 if kind == "images" else 1
        key = {"images": "val_accuracy", "text": "val_bits", "recall": "val_loss"}[kind]
        found.setdefault((kind, network), []).append((sign * row[key][0], lr))
    chosen = budgets.BUDGETS["small"].chosen
    assert {(kind, network) for kind in chosen for network in chosen[kind]} == set(found)
    for (kind, network), tried in found.items():
        assert chosen[kind][network] == min(tried)[1]


def made_up(job, rng):
    """A result file as `job.py` leaves it, with numbers out of the air."""
    depth = int(resolve(parse_overrides(job.words)).model.overrides["depth"])
    trace = {name: rng.random((depth, 3)).tolist() for name in summary.TRACED}
    half = {"proved": True, "before": 2.0, "after": 1.0, "rises": 0, "violations": 0, "inputs": 256}
    halves = [{"layer": layer, "half": name, **half} for layer in range(depth) for name in ("compress", "sparsify")]
    picture = np.full((2, 28, 28), 7).tolist()
    extra = {
        "none": {},
        "layers": {"trained": trace, "untrained": trace},
        "halves": {"trained": trace, "untrained": trace, "halves": halves},
        "subspaces": {"nearest_subspace": rng.random()},
        "probe": {
            "probe": {"trained": 0.5, "untrained": 0.4, "pixels": 0.3},
            "pictures": {"original": picture, "masked": picture, "reconstruction": picture},
        },
    }[job.measure]
    found = {"val_bits": rng.random()} if job.data.startswith("text:") else {}
    if job.experiment == "unrolled":
        names = ("share_plain", "share_learned", "plain_steps", "longest", "solver_steps", "solved")
        found = {name: float(rng.random()) for name in names}
    return {
        "job": job.to_dict(),
        "parameters": 1000,
        "flops": 2_500_000,
        "epochs": 3,
        "processor_seconds": 4.0,
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
    made = {job.key: job for job in jobs("small")}
    choices = sum(job.choice for job in made.values())
    assert f"{len(made) - choices} runs and {choices} for choices, budget `small`, made on 2020-02-03;" in page
    assert f"Together {len(made) * 5 / 60:.0f} minutes of one worker, {len(made) * 5 / 120:.0f} with two" in page
    for link in re.findall(r"\]\((figures/[^)]+)\)", page):
        assert (out.parent / link).stat().st_size > 1000
    assert len(list((out.parent / "figures").iterdir())) == 4
    monkeypatch.setattr(sys, "argv", words)
    assert report.main() == 0
    assert out.read_text(encoding="utf-8") == page


def test_every_experiment_has_a_table_with_a_place_in_the_page():
    page = (FOLDER / "page.md").read_text(encoding="utf-8")
    assert set(tables.TABLES) == set(experiments.EXPERIMENTS)
    for name in (*experiments.EXPERIMENTS, *tables.OF_NETWORKS):
        assert f"{{{{table {name}}}}}" in page


def test_a_place_that_names_nothing_is_refused():
    nothing = {"budget": "small", "experiments": {}}
    assert report.number(["networks", "mnist/7/crate", "val_accuracy"], nothing) == tables.MISSING
    with pytest.raises(ValueError, match="no row"):
        report.number(["networks", "mnist/7/cnn", "val_accuracy"], nothing)


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


@pytest.mark.parametrize("kind", [*changed.ATTEMPTS, "tost", "no_attention"])
def test_other_layers_have_the_parameters_of_crate(kind):
    crate = create_model("crate_micro", image_size=28, patch_size=7, num_classes=10)
    made = baselines.build_baseline(kind, crate, torch.zeros(1, 1, 28, 28), seed=0)
    assert abs(baselines.parameters(made) - baselines.parameters(crate)) < 0.05 * baselines.parameters(crate)
    assert made(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_without_attention_no_token_hears_of_another():
    torch.manual_seed(0)
    crate = create_model("crate_micro", image_size=28, patch_size=7, num_classes=10)
    alone = baselines.build_baseline("no_attention", crate, torch.zeros(1, 1, 28, 28), seed=0)
    tokens = torch.randn(1, 5, alone.config.dim)
    other = tokens.clone()
    other[:, 1:] += 1
    for block in alone.blocks:
        tokens, other = block(tokens), block(other)
    assert torch.equal(tokens[:, 0], other[:, 0])
    assert not torch.equal(tokens[:, 1], other[:, 1])


def test_what_is_asked_for_has_one_answer_that_nothing_but_the_pair_tells():
    samples = recall.recall_data(50).train
    for image, answer in zip(samples.x, samples.y, strict=True):
        tokens = [image[0, :, 4 * i : 4 * i + 4].flatten() for i in range(9)]
        pairs = {int(t[:8].argmax()): int(t[8:].argmax()) for t in tokens[:8]}
        assert sorted(pairs) == sorted(pairs.values()) == list(range(8))
        assert pairs[int(tokens[8][:8].argmax())] == int(answer)
        assert int(tokens[8][8:].max()) == 0
        assert all(int(t.sum()) == 510 for t in tokens[:8])


def test_a_step_on_the_reduction_does_not_raise_it():
    torch.manual_seed(0)
    layer = changed.Expanding(12, 3, 4).double()
    Z = torch.nn.functional.layer_norm(torch.randn(4, 7, 12, dtype=torch.float64), (12,))
    for gamma, eps in ((0.1, 0.3), (1.0, 1.0), (20.0, 0.2)):
        layer.log_weight.data.fill_(np.log(gamma))
        layer.log_whole_eps.data.fill_(np.log(eps))

        def reduction(X, gamma=gamma, eps=eps):
            whole = np.linalg.slogdet(np.eye(12) + 12 / (7 * eps**2) * np.swapaxes(X, 1, 2) @ X)[1] / 2
            heads = X[:, None] @ layer.U.detach().numpy()
            parts = np.linalg.slogdet(np.eye(4) + 4 / 7 * np.swapaxes(heads, 2, 3) @ heads)[1].sum(1) / 2
            return parts - gamma * whole

        assert (reduction(layer(Z).detach().numpy()) <= reduction(Z.numpy())).all()


def test_a_failed_run_is_told_with_its_error(capsys):
    good, bad = experiments.jobs(["language"], budgets.BUDGETS["small"], seeds=1)[:2]
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
