"""Result files of many runs brought together: for every row of a table, the values of its seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from budgets import BUDGETS
from experiments import EXPERIMENTS, TRIAL_SEED, Job, jobs

Summary = dict[str, Any]

SCALARS = (
    "train_accuracy",
    "val_accuracy",
    "val_loss",
    "val_bits",
    "val_srr",
    "val_rate_reduction",
    "nearest_subspace",
    "parameters",
    "flops",
    "epochs",
    "processor_seconds",
    "share_plain",
    "share_learned",
    "plain_steps",
    "longest",
    "solver_steps",
    "solved",
)
TRACED = ("compression_raw", "compression_normalized", "compression_common", "sparsity")


def read_runs(folder: Path, budget: str, *, quick: bool = False) -> Summary:
    """The runs of a budget found in a folder of result files."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        found[made(result).key] = result
    rows: dict[str, dict[str, list[Any]]] = {}
    used = {}
    for job in jobs(EXPERIMENTS, BUDGETS[budget], seeds=TRIAL_SEED, quick=quick):
        if job.key in found:
            rows.setdefault(job.experiment, {}).setdefault(job.name, []).append(found[job.key])
            used[job.key] = found[job.key]
    experiments = {e: {name: row(results) for name, results in of.items()} for e, of in rows.items()}
    return {"budget": budget, "quick": quick, **origin(used.values()), "experiments": experiments}


def made(result: dict[str, Any]) -> Job:
    """The job of a result."""
    return Job(**{**result["job"], "words": tuple(result["job"]["words"])})


def origin(results: Iterable[dict[str, Any]]) -> Summary:
    """When, on what and with what the runs were made."""
    results = list(results)
    kinds = {key: sorted({json.dumps(r[key], sort_keys=True) for r in results}) for key in ("machine", "versions")}
    reported, choices = ([r for r in results if (r["job"]["seed"] == TRIAL_SEED) is trial] for trial in (False, True))
    return {
        "dates": sorted({r["date"][:10] for r in results}),
        **{key: [json.loads(text) for text in texts] for key, texts in kinds.items()},
        "runs": len(reported),
        "choices": len(choices),
        "total_seconds": round(sum(r["total_seconds"] for r in results), 1),
    }


def row(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of the seeds of one row; traces and probes when they were measured, pictures of the first seed."""
    found: dict[str, Any] = {"seeds": [r["job"]["seed"] for r in results]}
    found |= {name: [short(r[name]) for r in results] for name in SCALARS if name in results[0]}
    for state in ("trained", "untrained"):
        if state in results[0]:
            found[state] = {name: [short(r[state][name]) for r in results] for name in TRACED}
    for kind in results[0].get("probe", {}):
        found[f"probe_{kind}"] = [short(r["probe"][kind]) for r in results]
    if "halves" in results[0]:
        found["halves"] = [[{k: short(v) for k, v in half.items()} for half in r["halves"]] for r in results]
    if "pictures" in results[0]:
        found["pictures"] = results[0]["pictures"]
    return found


def short(value: Any) -> Any:
    """Six significant digits, in lists of any depth."""
    if isinstance(value, list):
        return [short(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
