"""`srr verify`: check every statement of the theory and say what came out."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from srr.theory import Finding, Lab, Result

COLORS = {
    "proved": "bold green",
    "holds": "green",
    "holds under its assumptions": "green",
    "approximate": "yellow",
    "refuted as stated": "magenta",
    "fails": "bold red",
}
TAIL = 12  # rows of the live table; the whole one is printed at the end


def verify(
    labels: Annotated[
        list[str] | None,
        typer.Argument(help="Labels, or how they begin, all by default; or Python files with statements of your own."),
    ] = None,
    package: Annotated[
        list[str] | None, typer.Option(help="Statements of an installed package, by its entry point; may be repeated.")
    ] = None,
    source: Annotated[str, typer.Option(help="Only statements whose source contains this text.")] = "",
    kind: Annotated[list[str] | None, typer.Option(help="Only this kind; may be repeated.")] = None,
    samples: Annotated[int, typer.Option(help="Random problems per statement.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the random problems.")] = 0,
    backend: Annotated[str, typer.Option(help="numpy, torch, jax, cupy or strict.")] = "numpy",
    dtype: Annotated[str, typer.Option(help="float64 or float32.")] = "float64",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list on standard output.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    as_latex: Annotated[bool, typer.Option("--latex", help="Print a LaTeX table.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Decide every proof again, whatever was kept.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page to this new file.")] = None,
) -> None:
    """Check every statement of the theory; exit status 1 if one that should hold does not."""
    from srr import theory
    from srr.theory import Lab, ledger, load, load_package

    words = labels or []
    own = [statement for word in words if word.endswith(".py") for statement in load(Path(word))]
    own += [statement for name in package or () for statement in load_package(name)]
    names = [word for word in words if not word.endswith(".py")]
    statements = ledger(labels=names, source=source, kinds=kind or (), among=own or None)
    printed = [name for name, chosen in (("json", as_json), ("markdown", as_markdown), ("latex", as_latex)) if chosen]
    if len(printed) > 1:
        raise ValueError(f"one of --json, --markdown and --latex may be printed; got --{' and --'.join(printed)}")
    if html is not None:
        _check_page(html)
    lab = Lab(backend=backend, dtype=dtype)
    found = theory.verify(statements, lab, samples=samples, seed=seed, fresh=fresh)
    results = list(found) if printed else _watch(found, len(statements))
    if as_json:
        typer.echo(json.dumps([result.as_dict() for result in results], indent=1, ensure_ascii=False))
    elif printed:
        from srr.theory.tables import latex, markdown

        typer.echo((latex if as_latex else markdown)(results), nl=False)
    else:
        _report(results)
    if html is not None:
        _write_page(html, results, lab)
    if not all(result.passed for result in results):
        raise typer.Exit(code=1)


def _watch(found: Iterable[Result], total: int) -> list[Result]:
    """Collect the results while a table of the latest ones stays on the screen."""
    results: list[Result] = []
    console = Console()
    with Live(console=console, transient=True, refresh_per_second=8) as live:
        for result in found:
            results.append(result)
            if console.is_terminal:
                live.update(Group(_table(results[-TAIL:]), ProgressBar(total=total, completed=len(results))))
    return results


def _report(results: list[Result]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(_table(results))
    for result in results:
        verdict, note = result.finding.verdict, result.finding.note
        if note and verdict not in ("proved", "holds", "approximate"):
            console.print(Text(f"{result.statement.label}: {note}", style=COLORS[verdict]))
    count = {verdict: sum(r.finding.verdict == verdict for r in results) for verdict in COLORS}
    summary = ", ".join(f"{number} {verdict}" for verdict, number in count.items() if number)
    console.print(f"{len(results)} statements in {sum(r.seconds for r in results):.1f} s: {summary}")


def _table(results: list[Result]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("§", "label", "statement", "source", "kind", "measured", "bound", "outside", "verdict"):
        right = name in ("measured", "bound", "outside")
        table.add_column(name, justify="right" if right else "left", no_wrap=name in ("label", "measured", "bound"))
    for r in results:
        s, found = r.statement, r.finding
        where = "" if s.section == 0 else f"{s.section}({s.item})"
        outside = "" if found.outside is None else f"{found.outside:.2g}"
        verdict = Text(found.verdict, style=COLORS[found.verdict])
        table.add_row(where, s.label, s.title, s.source, s.kind, _measured(found), _bound(found), outside, verdict)
    return table


def _measured(found: Finding) -> str:
    if found.interval is None:
        return f"{found.measured:.2g}"
    return f"{found.measured:.3f} ± {(found.interval[1] - found.interval[0]) / 2:.3f}"


def _bound(found: Finding) -> str:
    return f"{found.bound[0]:g} … {found.bound[1]:g}" if isinstance(found.bound, tuple) else f"{found.bound:.2g}"


def _check_page(path: Path) -> None:
    """Refuse what would fail after the work is done."""
    if path.exists():
        raise FileExistsError(f"html must name a new file; got {path}, which exists")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"html must name a file in a folder that exists; got {path}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("html needs matplotlib for its formulas; install it with: pip install 'srr[plot]'")


def _write_page(path: Path, results: list[Result], lab: Lab) -> None:
    from srr.theory.page import render

    path.write_text(render(results, lab), encoding="utf-8")
