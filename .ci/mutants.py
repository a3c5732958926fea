"""Break one line at a time and see whether the tests notice: `make mutants SEED=0 COUNT=40`.

Slips a person makes (a sign, a factor, a comparison, a constant) are drawn by seed from operators, penalties, problems,
solvers and networks, each in a copy of the package. The tests of the file's room run until one fails.
"""

import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from check import tests_of

ROOMS = ("srr/ops", "srr/penalties.py", "srr/problems.py", "srr/solvers", "srr/nn")
SECONDS = 300  # a mutant that runs longer counts as killed: it does not end
PAIRS = ((ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.Lt, ast.GtE), (ast.Gt, ast.LtE), (ast.Eq, ast.NotEq))
SWAPS = {a: b for pair in (*PAIRS, (ast.And, ast.Or)) for a, b in (pair, pair[::-1])}


def slips(tree: ast.Module) -> list[tuple[int, str]]:
    """Places that can be broken: number of the node in the walk, and what is done to it."""
    inside = {
        id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for body in f.body for n in ast.walk(body)
    }
    found = []
    for i, node in enumerate(ast.walk(tree)):
        if id(node) not in inside:
            continue
        if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in SWAPS:
            found.append((i, "operator"))
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            found.append((i, "comparison"))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
            found.append((i, "sign"))
        elif isinstance(node, ast.Constant) and type(node.value) is float:
            found.append((i, "constant"))
    return found


def broken(text: str, place: int, what: str) -> tuple[str, str]:
    """The file with one slip, and the slip in words."""
    tree = ast.parse(text)
    node = list(ast.walk(tree))[place]
    before = ast.unparse(node)
    if what == "operator":
        node.op = SWAPS[type(node.op)]()
    elif what == "comparison":
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif what == "sign":
        node.op = ast.UAdd()
        if before.startswith("not "):
            node.op, node.operand = ast.Not(), ast.UnaryOp(ast.Not(), node.operand)
    else:
        node.value = 2 * node.value if node.value else 1.0
    return ast.unparse(tree), f"line {node.lineno}: {before} -> {ast.unparse(node)}"


def killed(path: Path, text: str) -> bool:
    """Whether a test fails on the package with one file replaced."""
    with tempfile.TemporaryDirectory() as home:
        for name in ("srr", "tests", "docs", "examples", ".ci"):
            shutil.copytree(name, Path(home) / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
        for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "constraints.txt"):
            shutil.copy(name, home)
        (Path(home) / path).write_text(text, encoding="utf-8")
        words = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", *map(str, tests_of(path))]
        env = os.environ | {"PYTHONPATH": home, "OMP_NUM_THREADS": "1"}
        try:
            found = subprocess.run(words, check=False, cwd=home, env=env, capture_output=True, timeout=SECONDS)
            return found.returncode not in (0, 5)  # 5: no test was found
        except subprocess.TimeoutExpired:
            return True


def main(seed: int, count: int) -> int:
    """Draw, break, test, and say which slips survive."""
    files = [
        path for room in ROOMS for path in (sorted(Path(room).rglob("*.py")) if Path(room).is_dir() else [Path(room)])
    ]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    places = [(path, *slip) for path, text in texts.items() for slip in slips(ast.parse(text))]
    chosen, alive = random.Random(seed).sample(places, min(count, len(places))), 0
    whole = {path: ast.unparse(ast.parse(texts[path])) for path, _, _ in chosen}
    if wrong := [str(path) for path, text in whole.items() if killed(path, text)]:
        print(
            f"the tests fail, or need over {SECONDS} s, on unbroken files: {', '.join(wrong)}; their slips do not count"
        )
        chosen = [slip for slip in chosen if str(slip[0]) not in wrong]
    for number, (path, place, what) in enumerate(chosen, 1):
        text, words = broken(texts[path], place, what)
        survives = not killed(path, text)
        alive += survives
        print(f"{number}/{len(chosen)} {'SURVIVES' if survives else 'killed'} {path} {words}", flush=True)
    print(f"{len(chosen) - alive} of {len(chosen)} killed, of {len(places)} places (seed {seed})")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
