"""What `srr solve` shows while it runs and leaves behind when it is done."""

import csv
import io
import json
import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from srr import __version__
from srr._array.files import write_atomically
from srr.mixtures import Mixture
from srr.plots import plot_energies, plot_gram, plot_objective
from srr.problems import SparseRateReduction
from srr.solvers import Observation, Solution

ROUNDING = 1e-9  # a rotation there and back leaves this much of a zero, at most, on unit tokens
ROWS = 12  # steps kept in the table: the first, the latest, and some between


class SolveDisplay:
    """A callback that keeps a table of the run on the screen."""

    def __init__(self, problem: SparseRateReduction) -> None:
        """Time starts here."""
        self.problem, self.console, self.rows = problem, Console(), list[Observation]()
        self.live = Live(self._table(), console=self.console, refresh_per_second=8)
        self.start = time.perf_counter()

    def __enter__(self) -> "SolveDisplay":
        """Show the table, where there is a screen."""
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last table standing."""
        self.seconds = time.perf_counter() - self.start
        if self.console.is_terminal:
            self.live.update(self._table(), refresh=True)
            self.live.stop()
        else:
            self.console.print(self._table())

    def __call__(self, seen: Observation) -> None:
        """Add a step; when there are too many, keep every other one of the older."""
        self.rows.append(seen)
        if len(self.rows) > ROWS:
            self.rows = [self.rows[0], *self.rows[2:-2:2], *self.rows[-2:]]
        if self.console.is_terminal:
            self.live.update(self._table())

    def _table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, title="sparse rate reduction")
        for name in ("step", "R - R^c - λ‖Z‖₁ (nats)", "distance to optimality", "non-zeros", "step length"):
            table.add_column(name, justify="right")
        for seen in self.rows:
            length = f"{float(seen.state.step):.3g}"
            values = (
                f"{-seen.objective:.6f}",
                f"{seen.residual:.2e}",
                f"{nonzero_share(self.problem, seen.Z):.2%}",
                length,
            )
            table.add_row(str(seen.step), *values)
        return table


def write_run(
    out: Path,
    problem: SparseRateReduction,
    mixture: Mixture,
    solution: Solution,
    settings: dict[str, Any],
    *,
    seconds: float,
) -> None:
    """Write solution.npz, history.csv, summary.json and three pictures, each whole or not at all."""
    found = _measure(problem, mixture, solution)
    summary = {"version": __version__, "settings": settings, "seconds": round(seconds, 3), **found}
    arrays = {"Z": solution.Z, "Z0": mixture.Z, "U": mixture.U, "labels": mixture.labels, "D": mixture.D}
    write_atomically(out / "solution.npz", lambda file: np.savez(file, **arrays))
    write_atomically(out / "history.csv", lambda file: file.write(_history(solution).encode()))
    write_atomically(out / "summary.json", lambda file: file.write(json.dumps(summary, indent=2).encode()))
    for name, figure in _pictures(problem, mixture, solution).items():
        write_atomically(out / name, lambda file, figure=figure: _save(figure, file))  # type: ignore[misc]
    _print(found, out)


def _measure(problem: SparseRateReduction, mixture: Mixture, solution: Solution) -> dict[str, Any]:
    start = problem.start(mixture.Z)
    energy = np.sum((solution.Z @ mixture.U) ** 2, axis=-1)
    return {
        "status": solution.status.name.lower(),
        "sentence": solution.status.value,
        "steps": int(solution.steps),
        "srr_start": float(-problem.objective(start)),
        "srr": float(-solution.objective),
        "distance_to_optimality": float(solution.residual),
        "nonzeros": nonzero_share(problem, solution.Z),
        "tokens_on_own_subspace": float(np.mean(np.argmax(energy, axis=0) == mixture.labels)),
        "largest_energy_off_one_subspace": float(np.max(1.0 - np.max(energy, axis=0))),
    }


def nonzero_share(problem: SparseRateReduction, Z: Any) -> float:
    """Share of entries, in the frame sparsity is measured in, that are more than rounding."""
    Y = Z if problem.D is None else Z @ problem.D
    return float(np.mean(np.abs(Y) > ROUNDING))


def _history(solution: Solution) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["step", "objective", "distance_to_optimality"])
    pairs = zip(solution.history.objective, solution.history.residual, strict=True)
    writer.writerows([step, repr(float(f)), repr(float(r))] for step, (f, r) in enumerate(pairs))
    return text.getvalue()


def _pictures(problem: SparseRateReduction, mixture: Mixture, solution: Solution) -> dict[str, Any]:
    from matplotlib.figure import Figure

    start = problem.start(mixture.Z)
    objective, gram, energies = (Figure((9.0, height), dpi=120, layout="constrained") for height in (3.6, 4.2, 4.0))
    moved = (start, solution.Z)
    return {
        "objective.png": plot_objective(solution, figure=objective),
        "gram.png": plot_gram(*moved, mixture.labels, figure=gram),
        "energies.png": plot_energies(*moved, mixture.U, mixture.labels, figure=energies),
    }


def _save(figure: Any, file: BinaryIO) -> None:
    figure.savefig(file, format="png")


def _print(found: dict[str, Any], out: Path) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{found['sentence']} {found['steps']} steps.")
    console.print(f"SRR {found['srr_start']:.4f} → {found['srr']:.4f} nats, {found['nonzeros']:.2%} non-zeros,")
    console.print(f"{found['tokens_on_own_subspace']:.2%} of the tokens on their own subspace.")
    console.print(f"Numbers and pictures: {out}")
