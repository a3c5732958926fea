"""What frozen features are worth: objectives beside pixels and the untrained network, on Fashion-MNIST and digits.

    python examples/results/features.py run DIR --out runs/features    # DIR holds fashion-mnist/, from fetch.sh
    python examples/results/features.py write docs/training.md --out runs/features

The recipe was chosen on 2,000 training images that no run here sees; how a network is read, on every fifth training
sample. ``BUDGET`` holds the sizes; runs that exist are kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from srr.training.config import parse_overrides, resolve
from srr.training.features import choose_read, feature_spread, features_of, read_out, spaced_samples
from srr.training.module import TrainingModule
from srr.training.optim import build_optimizer, warmup_cosine
from srr.training.run import initial_model
from srr.training.sources import load_data

SEEDS, HELD_OUT = (0, 1, 2), 2000
BUDGET = {
    "fashion-mnist": "data.limit=5000 data.batch_size=256 trainer.max_epochs=8 model.patch_size=7",
    "digits": "data.batch_size=256 trainer.max_epochs=20 model.patch_size=2",
}
SHARED = "optim.lr=3e-3 optim.warmup_epochs=0.5 trainer.device=cpu model.depth=4"
VIEWS = "objective.name=views objective.projection=[128,64] augment.crop_scale=[0.6,1.0]"
OBJECTIVES = {
    "untrained": VIEWS,
    "`views`": VIEWS,
    "`views`, no rate": f"{VIEWS} objective.views_weight=0",
    "`masked` (MAE)": "objective.name=masked model.preset=crate_mae_micro",
    "`cross_entropy`": "objective.name=cross_entropy",
}
COLUMNS = ("knn", "linear", "nearest_subspace", "effective_rank", "rate", "seconds")
MARKS = ("<!-- features -->", "<!-- end of features -->")


def train(module: TrainingModule, x: torch.Tensor, y: torch.Tensor) -> float:
    """Plain epochs of the config; processor seconds."""
    config, begun = module.config, time.process_time()
    size, epochs = min(config.data.batch_size, len(y)), config.trainer.max_epochs
    steps = len(y) // size
    optimizer = build_optimizer(module, config.optim)
    schedule = warmup_cosine(optimizer, warmup=int(steps * config.optim.warmup_epochs), total=steps * epochs)
    module.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(y))[: steps * size].view(steps, size):
            loss = module.losses({"x": x[rows], "y": y[rows]}, augment=True)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return time.process_time() - begun


def measure(data: str, name: str, seed: int, root: Path) -> dict[str, Any]:
    """One line of the table: a run, and what is read from its features on the held-out set."""
    place = "" if data == "digits" else f" data.root={root / data}"
    flip = " augment.flip=true" if data == "fashion-mnist" and "views" in OBJECTIVES[name] else ""
    words = f"data.name={data} {SHARED} {BUDGET[data]} {OBJECTIVES[name]}{flip} seed={seed}{place}"
    config = resolve(parse_overrides(words.split()))
    source = load_data(config.data, seed=0)
    module = TrainingModule(initial_model(config.model, source.spec, seed=seed), source.spec, config)
    (x, y), (x_val, y_val) = (
        spaced_samples(s, n) for s, n in ((source.train, len(source.train)), (source.val, HELD_OUT))
    )
    torch.manual_seed(seed)
    seconds = 0.0 if name == "untrained" else train(module, x, y)
    x, x_val = (module.normalize(module.prepare(part)) for part in (x, x_val))
    read, Z = choose_read(module.model, x, y, classes=10)
    held = features_of(module.model, x_val, read=read)
    spread = feature_spread(features_of(module.model, x_val).float(), eps=0.5)
    found = read_out((Z, y), (held, y_val), classes=10)._replace(read=read)._asdict()
    return {**found, "effective_rank": spread.effective_rank, "rate": spread.rate, "seconds": seconds}


def pixels(data: str, root: Path) -> dict[str, Any]:
    """The same read-outs of the images themselves."""
    place = "" if data == "digits" else f" data.root={root / data}"
    config = resolve(parse_overrides(f"data.name={data} {BUDGET[data]}{place}".split()))
    source = load_data(config.data, seed=0)
    sets = [spaced_samples(s, n) for s, n in ((source.train, len(source.train)), (source.val, HELD_OUT))]
    pairs = [(x.flatten(1).float(), y) for x, y in sets]
    return read_out(pairs[0], pairs[1], classes=10)._replace(read="pixels")._asdict()


def table(out: Path) -> str:
    """Means and standard deviations over the seeds, one line for each data set and objective."""
    head = (
        "data",
        "features",
        "seeds",
        "read",
        "20 neighbors",
        "linear",
        "nearest subspace",
        "effective rank",
        "nats a dimension",
        "s",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for data in BUDGET:
        for name in ("pixels", *OBJECTIVES):
            rows = [json.loads(file.read_text()) for file in sorted(out.glob(f"{data}.{slug(name)}.*.json"))]
            if not rows:
                continue
            reads = ", ".join(sorted({row["read"] for row in rows}))
            cells = [data, name, str(len(rows)), reads, *(cell(rows, column) for column in COLUMNS)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(rows: list[dict[str, Any]], column: str) -> str:
    values = [row[column] for row in rows if column in row]
    if not values:
        return "–"
    digits = {"effective_rank": 1, "seconds": 0}.get(column, 3)
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 and column != "seconds" else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "write"])
    parser.add_argument("place", type=Path, help="folder of the data sets, or the page")
    parser.add_argument("--out", type=Path, default=Path("runs/features"))
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--data", nargs="*", default=list(BUDGET))
    given = parser.parse_args()
    if given.command == "write":
        before, _, rest = given.place.read_text(encoding="utf-8").partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        given.place.write_text(f"{before}{MARKS[0]}\n\n{table(given.out)}\n\n{MARKS[1]}{after}", encoding="utf-8")
        return
    given.out.mkdir(parents=True, exist_ok=True)
    jobs = [
        (d, n, s) for d in given.data for s in given.seeds for n in ("pixels", *OBJECTIVES) if n != "pixels" or s == 0
    ]
    for data, name, seed in jobs:
        file = given.out / f"{data}.{slug(name)}.{seed}.json"
        if not file.exists():
            row = pixels(data, given.place) if name == "pixels" else measure(data, name, seed, given.place)
            file.write_text(json.dumps(row), encoding="utf-8")
            print(data, name, seed, row, flush=True)


if __name__ == "__main__":
    main()
