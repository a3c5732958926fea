"""`srr solve`: solve a mixture of subspaces, or tokens of one's own, and leave numbers and pictures."""

from __future__ import annotations

import csv
import io
import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import numpy as np
import typer
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from srr import __version__
from srr._array.files import write_atomically
from srr.mixtures import Mixture, subspace_mixture
from srr.penalties import UnitL1
from srr.problems import SparseRateReduction
from srr.solvers import Accelerated, Backtracking, BarzilaiBorwein, FixedStep, ProximalGradient, Status, minimize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from srr.solvers import Observation, Solution

SOLVERS: dict[str, Any] = {
    "backtracking": ProximalGradient(Backtracking()),
    "bb": ProximalGradient(BarzilaiBorwein()),
    "fixed": ProximalGradient(FixedStep()),
    "accelerated": Accelerated(),
}
ROUNDING = 1e-9  # a rotation there and back leaves this much of a zero, at most, on unit tokens
ROWS = 12  # steps kept in the table: the first, the latest, and some between


def solve(
    out: Annotated[Path, typer.Option(help="New run folder.")] = Path("runs/mix"),
    data: Annotated[Path | None, typer.Option(help="NPZ with Z (n, d), U (K, d, p) and maybe labels.")] = None,
    n: Annotated[int, typer.Option(help="Tokens of the mixture.")] = 400,
    d: Annotated[int, typer.Option(help="Dimension of the tokens.")] = 32,
    k: Annotated[int, typer.Option(help="Subspaces.")] = 4,
    p: Annotated[int, typer.Option(help="Dimension of each subspace.")] = 8,
    noise: Annotated[float, typer.Option(help="Standard deviation of the noise.")] = 0.3,
    rotated: Annotated[bool, typer.Option(help="Rotate the mixture; sparsity is then rotated too.")] = False,
    eps: Annotated[float, typer.Option(help="Distortion ε.")] = 0.5,
    lam: Annotated[float, typer.Option(help="Sparsity weight λ.")] = 0.005,
    outside: Annotated[float, typer.Option(help="Weight of energy outside the subspaces; 1 where k p < d.")] = 0.0,
    solver: Annotated[str, typer.Option(help="backtracking, bb, fixed or accelerated.")] = "backtracking",
    tol: Annotated[float, typer.Option(help="Distance to optimality to reach.")] = 1e-7,
    max_steps: Annotated[int, typer.Option(help="Largest number of steps.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the mixture.")] = 0,
) -> None:
    """Solve the sparse rate reduction of a mixture of subspaces; writes numbers and three pictures."""
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}; got {solver!r}")
    settings = {name: value for name, value in locals().items() if name not in ("out", "data")}
    settings["data"] = None if data is None else str(data)
    mixture = (
        subspace_mixture(n=n, d=d, K=k, p=p, noise=noise, rotated=rotated, seed=seed)
        if data is None
        else load_tokens(data)
    )
    frame = mixture.D if rotated and data is None else None
    problem = SparseRateReduction(mixture.U, eps, UnitL1(lam), D=frame, outside=outside)
    create_run(out)
    with SolveDisplay(problem) as display:
        solution = minimize(problem, mixture.Z, SOLVERS[solver], tol=tol, max_steps=max_steps, callbacks=[display])
    write_run(out, problem, mixture, solution, settings, seconds=display.seconds)
    if solution.status is Status.DIVERGED:
        raise typer.Exit(code=1)


def create_run(out: Path) -> None:
    """Make the run folder; one that exists and is not empty is refused, nothing is overwritten."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"out must be a folder; got {out}, which is a file")
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"out must be a new or empty folder; got {out}, which holds an earlier run")
    out.mkdir(parents=True, exist_ok=True)


def load_tokens(path: Path) -> Mixture:
    """Tokens, bases and labels (the strongest subspace when there are none) from an NPZ file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, EOFError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"data must be a readable NPZ file; got {path}: {error}") from error
    if missing := {"Z", "U"} - set(arrays):
        raise ValueError(f"data must hold arrays Z and U; {path} lacks {', '.join(sorted(missing))}")
    Z, U = arrays["Z"], arrays["U"]
    if Z.ndim != 2 or U.ndim != 3 or U.shape[1] != Z.shape[1]:
        raise ValueError(f"Z and U must have shapes (n, d) and (K, d, p); got {Z.shape} and {U.shape}")
    labels = arrays.get("labels", np.argmax(np.sum((Z @ U) ** 2, axis=-1), axis=0))
    if labels.shape != Z.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers of shape ({len(Z)},); got {labels.dtype} {labels.shape}")
    return Mixture(Z, labels, U, Z, np.eye(Z.shape[1], dtype=Z.dtype), np.full(len(U), U.shape[-1]))


class SolveDisplay:
    """A callback that keeps a table of the run on the screen."""

    def __init__(self, problem: SparseRateReduction) -> None:
        """Time starts here."""
        self.problem, self.console = problem, Console()
        self.rows: list[Observation[Any, Any]] = []
        self.live = Live(self._table(), console=self.console, refresh_per_second=8)
        self.start = time.perf_counter()

    def __enter__(self) -> SolveDisplay:
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

    def __call__(self, seen: Observation[Any, Any]) -> None:
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
    solution: Solution[Any],
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
        write_atomically(out / name, partial(_save, figure))
    _print(found, out)


def _measure(problem: SparseRateReduction, mixture: Mixture, solution: Solution[Any]) -> dict[str, Any]:
    start = problem.start(mixture.Z)
    status = Status(solution.status)
    energy = np.sum((solution.Z @ mixture.U) ** 2, axis=-1)
    return {
        "status": status.name.lower(),
        "sentence": status.value,
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


def _history(solution: Solution[Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["step", "objective", "distance_to_optimality"])
    pairs = zip(solution.history.objective, solution.history.residual, strict=True)
    writer.writerows([step, repr(float(f)), repr(float(r))] for step, (f, r) in enumerate(pairs))
    return text.getvalue()


def _pictures(problem: SparseRateReduction, mixture: Mixture, solution: Solution[Any]) -> dict[str, Figure]:
    from matplotlib.figure import Figure

    from srr.plots import plot_energies, plot_gram, plot_objective

    start = problem.start(mixture.Z)
    objective, gram, energies = (Figure((9.0, height), dpi=120, layout="constrained") for height in (3.6, 4.2, 4.0))
    moved = (start, solution.Z)
    return {
        "objective.png": plot_objective(solution, figure=objective),
        "gram.png": plot_gram(*moved, mixture.labels, figure=gram),
        "energies.png": plot_energies(*moved, mixture.U, mixture.labels, figure=energies),
    }


def _save(figure: Figure, file: BinaryIO) -> None:
    figure.savefig(file, format="png")


def _print(found: dict[str, Any], out: Path) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{found['sentence']} {found['steps']} steps.")
    console.print(f"SRR {found['srr_start']:.4f} → {found['srr']:.4f} nats, {found['nonzeros']:.2%} non-zeros,")
    console.print(f"{found['tokens_on_own_subspace']:.2%} of the tokens on their own subspace.")
    console.print(f"Numbers and pictures: {out}", markup=False)
