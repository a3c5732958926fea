"""Cost of one solver step against its floor: the Gram matrices, Cholesky factors and triangular solves alone.

Run it with ``pytest tests/benchmarks/test_solver_step.py --benchmark-enable -s`` for one size, and as a program,
``python -m tests.benchmarks.test_solver_step``, for the table of docs/solvers.md. Nothing here asserts a time.
"""

import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy.linalg import solve_triangular

import srr
from tests.benchmarks.timing import best_ratio, interleaved, median_ratio

SIZE = (10_000, 128, 8, 16)
TABLE = [
    SIZE,
    (1_000, 128, 8, 16),
    (100_000, 128, 8, 16),
    (10_000, 32, 8, 4),
    (10_000, 512, 8, 64),
    (10_000, 128, 2, 64),
    (10_000, 128, 32, 4),
    (200, 512, 8, 64),
]


def step_and_floor(n: int, d: int, K: int, p: int) -> dict[str, Any]:
    """A step of ProximalGradient on the unit sphere, and the factorizations it cannot do without."""
    mix = srr.subspace_mixture(n=n, d=d, K=K, p=p, noise=0.3, seed=0)
    problem = srr.SparseRateReduction(mix.U, 0.5, srr.UnitL1(0.1 / n))
    solver = srr.ProximalGradient(srr.FixedStep())
    Z = problem.start(mix.Z)
    state = solver.init(problem, Z)
    V = np.ascontiguousarray(srr.ops.project(Z, mix.U))
    return {"step": lambda: solver.step(problem, Z, state), "floor": lambda: floor(Z, V, 0.5)}


def floor(Z: np.ndarray, V: np.ndarray, eps: float) -> None:
    """Resolvents of the whole and of every head on given coordinates, on the smaller side, and nothing else."""
    d, p = Z.shape[-1], V.shape[-1]
    alpha, beta = d / (len(Z) * eps**2), p / (len(Z) * eps**2)
    for A, scale in [(Z, alpha), *((v, beta) for v in V)]:
        side = A if len(A) >= A.shape[1] else A.T
        L = np.linalg.cholesky(np.eye(side.shape[1]) + scale * (side.T @ side))
        half = solve_triangular(L, side.T, lower=True, check_finite=False)
        solve_triangular(L, half, lower=True, trans=1, overwrite_b=True, check_finite=False)


@pytest.mark.benchmark(group="solver step")
@pytest.mark.parametrize("form", ["step", "floor"])
def test_solver_step(benchmark, form):
    benchmark.pedantic(step_and_floor(*SIZE)[form], rounds=5, warmup_rounds=1)


def test_the_floor_is_the_work_of_the_step():
    """The factorizations timed as the floor give the gradient that the step uses."""
    mix = srr.subspace_mixture(n=300, d=12, K=3, p=4, noise=0.3, seed=0)
    problem = srr.SparseRateReduction(mix.U, 0.5, srr.UnitL1())
    Z = problem.start(mix.Z)
    grad = 0.0
    for A, U, sign in [(Z, np.eye(12), -1.0), *((Z @ U, U, 1.0) for U in mix.U)]:
        scale = A.shape[1] / (300 * 0.25)
        L = np.linalg.cholesky(np.eye(A.shape[1]) + scale * A.T @ A)
        half = solve_triangular(L, A.T, lower=True)
        grad = grad + sign * scale * solve_triangular(L, half, lower=True, trans=1).T @ U.T
    np.testing.assert_allclose(problem.grad(Z), grad, atol=1e-14)


def row(n: int, d: int, K: int, p: int) -> str:
    """One line of the table: milliseconds of step and floor, their ratio, and the most memory a step holds."""
    forms = step_and_floor(n, d, K, p)
    forms["step"]()
    tracemalloc.start()
    forms["step"]()
    added = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    seconds = interleaved(forms, rounds=11)
    step, low = (1e3 * float(np.median(seconds[name])) for name in ("step", "floor"))
    ratio, best = median_ratio(seconds, "step", "floor"), best_ratio(seconds, "step", "floor")
    tokens = n * d * 8 / 2**20
    return (
        f"| {n:,} | {d} | {K} | {p} | {step:.1f} | {low:.1f} | {ratio:.2f} | {best:.2f} | {tokens:.1f} | {added:.0f} |"
    )


def main() -> None:
    """Print the table, a fresh process for every row."""
    print("| n | d | K | p | step, ms | floor, ms | ratio | ratio of best | tokens, MiB | peak within a step, MiB |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for size in TABLE:
        code = f"from tests.benchmarks.test_solver_step import row; print(row{size})"
        print(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip())


if __name__ == "__main__":
    main()
