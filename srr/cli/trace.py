"""`srr trace`: what the layers of a trained network do to its tokens, against the same network untrained."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

COLUMNS = (("R^c raw", "compression_raw"), ("R^c normalized", "compression_normalized"), ("non-zero", "sparsity"))


def trace(
    run: Annotated[str, typer.Argument(help="Folder of a training run.")],
    eps: Annotated[float, typer.Option(help="Distortion ε of the rates.")] = 0.1,
    samples: Annotated[int, typer.Option(help="Held-out samples to measure.", min=1)] = 256,
    out: Annotated[str | None, typer.Option(help="Folder for trace.png and trace.csv; the run by default.")] = None,
) -> None:
    """Print and plot R^c (raw and normalized) and sparsity layer by layer, trained against untrained."""
    import csv
    from pathlib import Path

    from srr.plots.traces import plot_layer_trace
    from srr.training.report import open_run, trace_run

    traces = trace_run(open_run(run), eps=eps, count=samples)
    folder = Path(out or run)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"model": name, **row} for name, found in traces.items() for row in found.rows()]
    with open(folder / "trace.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    plot_layer_trace(traces).savefig(folder / "trace.png", dpi=150)
    console = Console()
    console.print(_table(traces, eps))
    console.print(f"written: {folder / 'trace.csv'}, {folder / 'trace.png'}", highlight=False)


def _table(traces: dict[str, Any], eps: float) -> Table:
    """After every layer, each measure for each model; the half-steps are in the CSV file and in the picture."""
    table = Table(title=f"tokens after each layer; rates in nats at ε = {eps:g}")
    table.add_column("layer", justify="right")
    for title, _ in COLUMNS:
        for name in traces:
            table.add_column(f"{title}\n{name}", justify="right")
    depth = next(iter(traces.values())).depth
    for layer in range(-1, depth):
        at = (0, 0) if layer < 0 else (layer, 2)
        cells = [f"{getattr(found, field)[at]:.4g}" for _, field in COLUMNS for found in traces.values()]
        table.add_row("input" if layer < 0 else str(layer + 1), *cells)
    return table
