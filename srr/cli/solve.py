"""`srr solve`: solve a mixture of subspaces, or tokens of one's own, and leave numbers and pictures."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from srr.cli._solve_report import SolveDisplay, write_run
from srr.mixtures import Mixture, subspace_mixture
from srr.penalties import UnitL1
from srr.problems import SparseRateReduction
from srr.solvers import Accelerated, Backtracking, BarzilaiBorwein, FixedStep, ProximalGradient, Status, minimize

SOLVERS: dict[str, Any] = {
    "backtracking": ProximalGradient(Backtracking()),
    "bb": ProximalGradient(BarzilaiBorwein()),
    "fixed": ProximalGradient(FixedStep()),
    "accelerated": Accelerated(),
}


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
    problem = SparseRateReduction(mixture.U, eps, UnitL1(lam), D=mixture.D if rotated and data is None else None)
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
