"""What the type checker must see: a misspelt attribute of an array; and what it must let pass."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
ROOT = Path(__file__).parent.parent
HEAD = """
import numpy as np
import numpy.typing as npt
import torch
import srr
from srr._array.namespace import Array, ArrayT, Namespace
"""
GOOD = {
    "numpy": """
def f(Z: npt.NDArray[np.float64], U: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return srr.mssa(Z, U) + srr.coding_rate(Z, eps=0.5)
""",
    "numpy float32 of known shape": "Z: Array = np.eye(3, dtype=np.float32)\n",
    "torch": """
def f(Z: torch.Tensor, U: torch.Tensor) -> torch.Tensor:
    return srr.mssa(Z, U).flatten() + srr.coding_rate_grad(Z, eps=0.5).sum()
""",
    "a parameter among tensors": """
def f(Z: torch.Tensor, U: torch.nn.Parameter) -> torch.Tensor:
    return srr.mssa(Z, U)
""",
    "a formula on any array": """
def f(Z: ArrayT, xp: Namespace) -> ArrayT:
    n, d = Z.shape
    inner = (2.0 * Z - Z / n) @ Z.mT
    total: ArrayT = xp.sum(inner)
    return inner[..., :d] - total
""",
    "a solver given what it can solve": """
Z = np.eye(4)
smooth = srr.RateReduction(np.asarray([0, 1, 0, 1]), 0.5, srr.Ridge(0.1))
srr.minimize(smooth, Z, srr.LBFGS())
srr.minimize(smooth, Z, srr.ProximalGradient())
sparse = srr.SparseRateReduction(Z[None], eps=0.5)
srr.minimize(sparse, srr.minimize(sparse, Z, srr.Alternating()), srr.Accelerated()).Z.shape
srr.minimize(srr.SparseRateReduction(Z[None], 0.5, srr.Ridge(0.1)), Z, srr.LBFGS())
""",
    "a problem, a penalty and a solver of one's own": """
from typing import NamedTuple
class State(NamedTuple):
    objective: Array
    residual: Array
class Bowl:
    def start(self, Z: Array) -> Array:
        return Z
class Descent:
    def init(self, problem: Bowl, Z: Array) -> State:
        return State((Z * Z)[0], Z[0])
    def step(self, problem: Bowl, Z: Array, state: State) -> tuple[Array, State]:
        return 0.5 * Z, self.init(problem, 0.5 * Z)
srr.minimize(Bowl(), np.eye(2), Descent(), callbacks=[lambda seen: bool(seen.state.residual < 1)])
""",
}
BAD = {
    "a quasi-Newton method given a kink": (
        "srr.minimize(srr.RateReduction(np.asarray([0, 1]), 0.5, srr.UnitL1()), np.eye(2), srr.LBFGS())\n",
        "minimize",
    ),
    "compress and sparsify without subspaces": (
        "srr.minimize(srr.RateReduction(np.asarray([0, 1]), 0.5, srr.Ridge()), np.eye(2), srr.Alternating())\n",
        "minimize",
    ),
    "no solver": (
        "srr.minimize(srr.SparseRateReduction(np.eye(4)[None], 0.5), np.eye(4), srr.FixedStep())\n",
        "minimize",
    ),
    "attribute of a solution": (
        "srr.minimize(srr.SparseRateReduction(np.eye(4)[None], 0.5), np.eye(4), srr.Alternating()).Z.shpae\n",
        "shpae",
    ),
    "a solver's name for its step": ("srr.Accelerated(step_size=0.1)\n", "step_size"),
    "attribute": ("def f(Z: Array, xp: Namespace) -> Array:\n    return xp.summ(Z.shpae @ 'no such thing')\n", "shpae"),
    "attribute of a product": ("def f(Z: Array) -> object:\n    return (Z @ Z.mT).shpae\n", "shpae"),
    "attribute of a result": ("def f(Z: torch.Tensor) -> object:\n    return srr.mssa(Z, Z).shpae\n", "shpae"),
    "attribute of what a bare formula gives": (
        "from srr.ops.rates import bare_coding_rate_value_and_grad\n"
        "def f(A: Array, xp: Namespace) -> object:\n"
        "    return bare_coding_rate_value_and_grad(A, None, 0.5, 1e-9, xp)[1].shpae\n",
        "shpae",
    ),
    "attribute inside a bare formula": (
        "from srr._array.derivatives import gram_factor\n"
        "def f(A: ArrayT, xp: Namespace) -> ArrayT:\n"
        "    return gram_factor(A, 0.5, rtol=1e-9, xp=xp).resolvent().shpae\n",
        "shpae",
    ),
    "a bare formula given the number for the tokens": (
        "from srr.ops.rates import bare_subspace_coding_rate\n"
        "def f(U: Array, xp: Namespace) -> object:\n"
        "    return bare_subspace_coding_rate(0.5, U, U, 1e-9, xp)\n",
        "bare_subspace_coding_rate",
    ),
    "no array": ("srr.coding_rate([[1.0]], eps=0.5)\n", "coding_rate"),
    "text for a number": ("srr.coding_rate(np.eye(3), eps='small')\n", "eps"),
}


@pytest.fixture(scope="module")
def complaints(tmp_path_factory) -> dict[str, str]:
    """What mypy says about each snippet, from one run in a folder of its own."""
    folder = tmp_path_factory.mktemp("types")
    names = {f"snippet_{i}": name for i, name in enumerate([*GOOD, *BAD])}
    for file, text in zip(names, [*GOOD.values(), *(text for text, _ in BAD.values())], strict=True):
        (folder / f"{file}.py").write_text(HEAD + text, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(ROOT / ".mypy_cache"), *(f"{folder}/{file}.py" for file in names)]
    ran = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "MYPYPATH": str(ROOT)}, check=False, capture_output=True, text=True
    )
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    said = dict.fromkeys(names.values(), "")
    for line in ran.stdout.splitlines():
        if ": error:" in line and (file := Path(line.split(":")[0]).stem) in names:
            said[names[file]] += line + "\n"
    return said


@pytest.mark.parametrize("name", GOOD)
def test_arrays_of_every_library_pass(name, complaints):
    assert complaints[name] == ""


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_errors(name, complaints):
    assert BAD[name][1] in complaints[name]
