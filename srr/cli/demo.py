"""`srr demo`: all three uses in one run, each through the part of the library that does it."""

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from srr import __version__

CORE = (1, 2, 4)  # sections of the theory: objects, rates with their gradients and constants, sparse coding
CERTIFIED = 128  # held-out digits
Numbers = dict[str, Any]


def demo(
    out: Annotated[Path, typer.Option(help="New folder for numbers and pictures.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    epochs: Annotated[int, typer.Option(help="Epochs of the two small networks.", min=1)] = 12,
) -> None:
    """Verify the core derivations, solve a mixture, train and certify two networks; everything in one folder."""
    from srr.cli.solve import create_run

    create_run(out)
    console = Console(highlight=False, soft_wrap=True)
    stages: tuple[tuple[str, Callable[[], Numbers]], ...] = (
        ("verify", lambda: verify_core(out, seed, console)),
        ("solve", lambda: solve_mixture(out, seed)),
        ("train", lambda: train_digits(out / "digits", "crate_micro", seed, epochs, console)),
        ("descend", lambda: train_digits(out / "descent", "crate_descent_micro", seed, epochs, console)),
        ("certify", lambda: certify_runs(out, console)),
        ("trace", lambda: trace_layers(out)),
    )
    begun = time.perf_counter()
    numbers: Numbers = {"version": __version__, "seed": seed}
    for index, (name, stage) in enumerate(stages, 1):
        console.rule(f"[bold]{index} of {len(stages)}: {name}[/bold]")
        start = time.perf_counter()
        found = stage()
        numbers[name] = {**found, "seconds": round(time.perf_counter() - start, 2)}
    numbers["seconds"] = round(time.perf_counter() - begun, 2)
    (out / "numbers.json").write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = summary(numbers)
    (out / "SUMMARY.md").write_text(text, encoding="utf-8")
    console.rule("[bold]summary[/bold]")
    console.print(text, markup=False)
    console.print(f"All of it is in {out}", markup=False)
    if numbers["verify"]["failed"] or numbers["certify"]["violations"]:
        raise typer.Exit(code=1)


def verify_core(out: Path, seed: int, console: Console) -> Numbers:
    """Check the core statements of the ledger and keep each result in verify.json."""
    from srr.theory import ledger, verify

    statements = [entry for entry in ledger() if entry.section in CORE]
    checked = verify(statements, samples=5, seed=seed)
    results = list(track(checked, description="statements", total=len(statements), console=console))
    rows = [result.as_dict() for result in results]
    (out / "verify.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    verdicts = dict(Counter(result.finding.verdict for result in results))
    console.print(f"{len(results)} statements; " + listed(verdicts))
    return {
        "statements": len(results),
        "verdicts": verdicts,
        "failed": [r.statement.label for r in results if not r.passed],
    }


def solve_mixture(out: Path, seed: int) -> Numbers:
    """Solve the reference mixture; what `srr solve` writes goes to mixture/."""
    from srr.cli.solve import solve

    solve(out=out / "mixture", seed=seed)
    found: Numbers = json.loads((out / "mixture" / "summary.json").read_text(encoding="utf-8"))
    return found


def train_digits(out: Path, preset: str, seed: int, epochs: int, console: Console) -> Numbers:
    """Train a preset on the digits of scikit-learn."""
    import torch

    from srr.training import resolve_with_recipe, train

    torch.set_num_threads(1)  # a network this small only waits for a second thread
    config = resolve_with_recipe(
        {
            "data": {
                "name": "digits",
                "batch_size": 128,
            },  # half the steps of the recipe: what costs here is their number
            "model": {"preset": preset},
            "optim": {"lr": 4e-3},
            "trainer": {"max_epochs": epochs},
            "seed": seed,
            "out": str(out),
        }
    )
    result = train(config, console=console)
    if "stopped" in result:
        raise RuntimeError(f"training was stopped: {result['stopped']}")
    console.print(f"held-out accuracy {result['val_accuracy']:.4f}")
    return result


def certify_runs(out: Path, console: Console) -> Numbers:
    """Every half-step of both networks on held-out digits: what is proved to descend did, what is not is counted."""
    from srr.certificates import certify
    from srr.training.report import held_out, open_run

    found = {}
    for name in ("digits", "descent"):
        run = open_run(out / name)
        found[name] = certify(run.model, held_out(run, CERTIFIED)[0])
    console.print(str(found["descent"]), markup=False)
    (out / "descent" / "certificate.txt").write_text(f"{found['descent']}\n", encoding="utf-8")
    released, proved = found["digits"], found["descent"]
    return {
        "half_steps": sum(len(step.before) for step in proved.half_steps),
        "violations": proved.violations,
        "released_half_steps": sum(len(step.before) for step in released.half_steps),
        "released_rises": released.rises,
    }


def trace_layers(out: Path) -> Numbers:
    """Rates and sparsity layer by layer, trained against untrained; trace.csv and trace.png go to digits/."""
    from srr.cli.runs import trace
    from srr.training import open_run, trace_run

    trace(run=str(out / "digits"))
    traces = trace_run(open_run(out / "digits"), eps=0.1)
    measures = ("compression_raw", "compression_normalized", "compression_common", "sparsity")
    return {
        name: {measure: [float(x) for x in getattr(found, measure)[:, 2]] for measure in measures}
        for name, found in traces.items()
    }


def listed(verdicts: dict[str, int]) -> str:
    """How many statements got each verdict."""
    return ", ".join(f"{name}: {count}" for name, count in verdicts.items())


def summary(numbers: Numbers) -> str:
    """The run in a few sentences."""
    verified, solved, trained, traced = (numbers[name] for name in ("verify", "solve", "train", "trace"))
    descending, certified = numbers["descend"], numbers["certify"]
    baseline = trained["baseline_nearest_subspace"]["accuracy"]
    rates = [traced[name]["compression_common"] for name in ("untrained", "trained")]
    return f"""# What the demo did, in {numbers["seconds"]:.0f} s

**Verify** ({verified["seconds"]:.0f} s). {verified["statements"]} statements; {listed(verified["verdicts"])}.
Each with its measured value and bound: `verify.json`.

**Solve** ({solved["seconds"]:.0f} s). {solved["sentence"]}
The sparse rate reduction rose from {solved["srr_start"]:.3f} to {solved["srr"]:.3f} nats in {solved["steps"]} steps;
{solved["nonzeros"]:.1%} of the coordinates are not zero,
and {solved["tokens_on_own_subspace"]:.2%} of the tokens lie on their own subspace.
Pictures: `mixture/objective.png`, `mixture/gram.png`, `mixture/energies.png`.

**Train** ({trained["seconds"]:.0f} s). A CRATE of {trained["parameters"]:,} parameters
classifies {trained["val_accuracy"]:.2%} of {trained["val_samples"]} held-out digits.
The nearest subspace on raw pixels, without any network, gets {baseline:.2%} of them.
The run: `digits/`.

**Descend** ({descending["seconds"]:.0f} s). A network of {descending["parameters"]:,} parameters whose every
half-step provably lowers its own objective classifies {descending["val_accuracy"]:.2%} of them.
Certificate: {certified["violations"]} violations in {certified["half_steps"]:,} half-steps.
Of the {certified["released_half_steps"]:,} half-steps of the CRATE, which nothing holds to it,
{certified["released_rises"]:,} raised the objective they are derived from.
The run and its certificate: `descent/`, `descent/certificate.txt`.

**Trace**. R^c at unit norm under the bases of the first layer, after the first layer and after the last, in nats:
untrained {rates[0][0]:.1f} to {rates[0][-1]:.1f}, trained {rates[1][0]:.1f} to {rates[1][-1]:.1f}.
Layer by layer: `digits/trace.csv`, `digits/trace.png`.
"""
