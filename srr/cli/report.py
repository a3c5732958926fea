"""`srr report`: one self-contained HTML page about a run, or two side by side."""

from typing import Annotated

import typer
from rich.console import Console


def report(
    run: Annotated[str, typer.Argument(help="Folder of a training run.")],
    other: Annotated[str | None, typer.Argument(help="A second run, shown beside the first.")] = None,
    out: Annotated[str | None, typer.Option(help="The HTML file; report.html in the run by default.")] = None,
    eps: Annotated[float, typer.Option(help="Distortion ε of the layer traces.")] = 0.1,
    samples: Annotated[int, typer.Option(help="Held-out samples to measure.", min=1)] = 256,
) -> None:
    """Write one HTML page: config, curves, confusion, layer traces, features, attention, atoms, coherence."""
    from pathlib import Path

    from srr.training.report import write_report

    runs = [run] if other is None else [run, other]
    path = write_report(runs, out or Path(run) / "report.html", eps=eps, count=samples)
    Console().print(f"written: {path}", highlight=False)
