"""`srr train`, `srr trace`, `srr probe` and `srr report`: training runs, made and looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from srr._array.files import printable

if TYPE_CHECKING:
    from srr.diagnostics import LayerTrace

RunFolder = Annotated[str, typer.Argument(help="Folder of a training run.")]
Eps = Annotated[float, typer.Option(help="Distortion ε of the rates.")]
HeldOut = Annotated[int, typer.Option(help="Held-out samples to measure.", min=1)]
COLUMNS = (
    ("R^c raw\nits own U", "compression_raw"),
    ("R^c unit\nits own U", "compression_normalized"),
    ("R^c unit\nU of layer 0", "compression_common"),
    ("non-zero\n", "sparsity"),
)


def train(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Dotted words laid over the config, such as trainer.max_epochs=5.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="A YAML or TOML file.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="digits, mnist, fashion-mnist, mixture, folder:PATH, hf:NAME or text:FILE."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="A preset of srr.nn, such as crate_micro.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder of the run; it must not exist yet.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    epochs: Annotated[int | None, typer.Option(help="Number of epochs.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and augmentation.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    precision: Annotated[str | None, typer.Option(help="32, 64, bf16 or 16.")] = None,
) -> None:
    """Train a network; leaves checkpoints, curves, weights and metrics.json in --out."""
    from rich.syntax import Syntax

    from srr.training.config import dump_config, merge, parse_overrides, read_config_file, resolve_with_recipe
    from srr.training.run import check_free, load_run_config
    from srr.training.run import train as run_training

    flags: dict[str, Any] = {
        "data": {"name": data},
        "model": {"preset": model},
        "trainer": {"max_epochs": epochs, "device": device, "precision": precision},
        "seed": seed,
        "out": out,
    }
    words = parse_overrides(overrides or ())
    changes = merge(words, _given(flags))
    if words.get("out") not in (None, changes.get("out")):
        raise ValueError(f"--out {out} and out={words['out']} name two folders; leave one out")
    out = changes.get("out")
    console = Console(stderr=True)
    if resume:
        if out is None:
            raise ValueError("--resume needs --out RUN, the run to continue")
        if config is not None:
            raise ValueError("--resume takes the config of the run; lay changes over it as section.key=value")
        chosen = load_run_config(out, changes)
    else:
        chosen = resolve_with_recipe(merge(read_config_file(config) if config else {}, changes))
        check_free(Path(chosen.out))
    console.print(Syntax(dump_config(chosen), "yaml", background_color="default"))
    result = run_training(chosen, resume=resume, console=console)
    if "stopped" in result:
        text = f"{result['stopped']} at step {result['step']}; continue with: srr train --resume --out {chosen.out}"
        console.print(Text(printable(text)))
        if result["stopped"] == "stopped by SIGINT":
            raise typer.Exit(code=130)
    elif result:
        Console().print(_result_table(result, chosen.out))


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given; their words are taken as they stand, never read as YAML."""
    inner = {name: _given(value) if isinstance(value, dict) else value for name, value in flags.items()}
    return {name: value for name, value in inner.items() if value not in (None, {})}


def _result_table(result: dict[str, Any], out: str) -> Table:
    table = Table(title=Text(printable(f"run {out}")), show_header=False)
    for name, value in result.items():
        if name == "baseline_nearest_subspace" and value:
            table.add_row("nearest subspace on raw pixels", f"{value['accuracy']:.4f} (rank {value['rank']})")
        elif name == "skipped_images":
            for image, count in value.items():
                table.add_row("skipped image", Text(printable(f"{image}, {count} time(s)")))
        elif value is not None:
            table.add_row(name.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else str(value))
    return table


def trace(
    run: RunFolder,
    eps: Eps = 0.1,
    samples: HeldOut = 256,
    out: Annotated[str | None, typer.Option(help="Folder for trace.png and trace.csv; the run by default.")] = None,
) -> None:
    """Print and plot R^c and sparsity at the three places of every layer, trained against untrained.

    Under the layer's own bases U, R^c compares the places of that layer; under those of layer 0, all of them.
    """
    from srr._array.files import write_atomically
    from srr.plots.traces import plot_layer_trace
    from srr.training.report import open_run, trace_run

    traces = trace_run(open_run(run), eps=eps, count=samples)
    folder = Path(out or run)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"model": name, **row} for name, found in traces.items() for row in found.rows()]
    _write_table(folder / "trace.csv", rows)
    figure = plot_layer_trace(traces)
    write_atomically(folder / "trace.png", lambda file: figure.savefig(file, format="png", dpi=150))
    console = Console()
    for name, found in traces.items():
        console.print(_trace_table(name, found, eps))
    console.print(Text(printable(f"written: {folder / 'trace.csv'}, {folder / 'trace.png'}")))


def _write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write a CSV file; a link in its place is replaced, never followed out of a stranger's run."""
    import csv
    import io

    from srr._array.files import write_atomically

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def _trace_table(name: str, found: LayerTrace, eps: float) -> Table:
    """The rows of the CSV file that compare: three places a layer, a rule where the codebook changes."""
    table = Table(title=f"{name}: rates in nats at ε = {eps:g}; unit: tokens at unit norm")
    table.add_column("layer", justify="right")
    table.add_column("tokens")
    for title, _ in COLUMNS:
        table.add_column(title, justify="right")
    for row in found.rows():
        cells = [f"{row[field]:.4g}" for _, field in COLUMNS]
        table.add_row(str(row["layer"]), str(row["position"]), *cells, end_section=row["position"] == "sparsified")
    return table


def certify(
    run: RunFolder,
    samples: HeldOut = 256,
    eps: Annotated[float, typer.Option(help="Distortion ε for layers that have none of their own.")] = 0.5,
    rigorous: Annotated[bool, typer.Option("--rigorous", help="Prove every half in ball arithmetic too.")] = False,
    out: Annotated[str | None, typer.Option(help="Folder for certificate.csv; the run by default.")] = None,
) -> None:
    """Check that every half-step of a network lowers its own objective, input by input, in float64.

    With --rigorous a proof as well: exact binary tokens and weights, ball arithmetic. The exit status is 1 where a half
    that is proved to descend did not.
    """
    from srr.certificates import certify as certify_model
    from srr.training.report import held_out, open_run

    opened = open_run(run)
    found = certify_model(opened.model, held_out(opened, samples)[0], eps=eps, rigorous=rigorous)
    typer.echo(str(found))
    file = Path(out or run) / "certificate.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    if rows := found.rows():
        _write_table(file, rows)
        typer.echo(printable(f"written: {file}"))
    if found.violations:
        raise typer.Exit(1)


def probe(
    run: RunFolder,
    samples: Annotated[
        int, typer.Option(help="Most training samples, and most held-out ones, evenly spaced.", min=30)
    ] = 10_000,
    read: Annotated[
        str,
        typer.Option(
            help="What of a network is read: head (what its head sees), tokens (its patches side by side), or best "
            "(the one whose neighbors find more of the training samples)."
        ),
    ] = "best",
    out: Annotated[str | None, typer.Option(help="The JSON file; probe.json in the run by default.")] = None,
) -> None:
    """Read classes from frozen features by 20 neighbors, logistic regression and nearest subspace, beside pixels."""
    import json

    from srr._array.files import write_atomically
    from srr.training.features import READS
    from srr.training.features import probe as probe_features
    from srr.training.module import TrainingModule
    from srr.training.report import open_run

    if read not in (*READS, "best"):
        raise ValueError(f"--read must be one of {', '.join((*READS, 'best'))}; got {read!r}")
    opened = open_run(run)
    module = TrainingModule(opened.model, opened.source.spec, opened.config)
    models = {"untrained": opened.untrained, "trained": opened.model}
    found = probe_features(module, opened.source, models, count=samples, read=read)
    table = Table(title="held-out accuracy of frozen features")
    for title in ("features", "20 neighbors", "linear", "nearest subspace", "read"):
        table.add_column(title, justify="left" if title in ("features", "read") else "right")
    for name, row in found.items():
        table.add_row(name, *(f"{value:.4f}" if isinstance(value, float) else value for value in row.values()))
    console = Console()
    console.print(table)
    path = Path(out or Path(run) / "probe.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write((json.dumps(found, indent=1) + "\n").encode()))
    console.print(Text(printable(f"written: {path}")))


def report(
    run: RunFolder,
    other: Annotated[str | None, typer.Argument(help="A second run, shown beside the first.")] = None,
    out: Annotated[str | None, typer.Option(help="The HTML file; report.html in the run by default.")] = None,
    eps: Eps = 0.1,
    samples: HeldOut = 256,
) -> None:
    """Write one HTML page: result and baseline, curves, layers, wrong predictions; two runs on shared axes."""
    from srr.training.page import write_report

    runs = [run] if other is None else [run, other]
    path = write_report(runs, out or Path(run) / "report.html", eps=eps, count=samples)
    Console().print(Text(printable(f"written: {path}")))
