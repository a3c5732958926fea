"""The floors of the package: who may import whom, what stays out."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "srr"
FILES = sorted(PACKAGE.rglob("*.py"))

# One line a floor. A file may import from its own floor and from those above it.
FLOORS = (
    ("srr._array",),
    ("srr.ops",),
    ("srr.penalties",),
    ("srr.problems",),
    ("srr.solvers",),
    ("srr.mixtures", "srr.derive", "srr.theory", "srr.fits", "srr.estimators", "srr.testing", "srr.enclose"),
    ("srr.nn",),
    ("srr.certificates", "srr.diagnostics", "srr.plots"),
    ("srr.training",),
    ("srr.cli", "srr.__main__"),
)
ARRAY_LIBRARIES = {"array_api_compat"}
BANNED = {"timm", "torchvision", "einops"}
OPTIONAL = ("torch", "cupy", "matplotlib", "lightning", "sklearn", "jax", "dask", "rich", "typer", "PIL")


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(module: str) -> int | None:
    """Index of the floor a module stands on; None for `srr` itself, which only gathers names."""
    for index, names in enumerate(FLOORS):
        if any(module == name or module.startswith(name + ".") for name in names):
            return index
    return None


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module a file imports, wherever in the file, with its line; `from a import b` gives a.b too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} uses a relative import"
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_run_up_the_floors(path):
    own = floor(module_name(path))
    if own is None:
        assert path == PACKAGE / "__init__.py", f"{path} stands on no floor"
        return
    wrong = [
        f"line {line}: {name}" for line, name in imports(path) if (other := floor(name)) is not None and other > own
    ]
    assert not wrong, f"{path.name} imports from a floor below its own: {wrong}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_one_file_knows_the_array_libraries(path):
    roots = {name.split(".")[0] for _, name in imports(path)}
    assert not roots & BANNED
    if path.parent != PACKAGE / "_array":
        assert not roots & ARRAY_LIBRARIES


def test_the_mathematics_imports_no_framework():
    """The mathematics speaks the array API standard; a backend's name may appear inside a function only."""
    for path in FILES:
        if floor(module_name(path)) not in (1, 2, 3):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                root = (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
                assert root.split(".")[0] not in OPTIONAL, f"{path.name}:{node.lineno} {root}"


def test_hooks_are_registered_in_one_file():
    """Tokens are read by `srr.nn.probe`: no other file adds a hook to a module."""
    hook = re.compile(r"register_\w*hook")
    for path in FILES:
        found = [
            f"line {node.lineno}: {node.attr}"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Attribute) and hook.fullmatch(node.attr)
        ]
        assert not found or path == PACKAGE / "nn" / "probe.py", f"{path.name} has hooks: {found}"


READING_PATH = ("crate.py", "blocks.py", "layers.py")
FACTORIZATIONS = {"cholesky", "cholesky_ex", "cholesky_inverse", "cholesky_solve", "cho_factor", "cho_solve", "slogdet"}


def _named(node: ast.AST) -> str | None:
    """The name that a call, an attribute or an import of this node speaks."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.name if isinstance(node, ast.alias) else None


def test_one_file_factorizes():
    """Elsewhere a factor comes from `srr._array.linalg`, which asks its pivots; the theory is what it is held to."""
    for path in FILES:
        if path == PACKAGE / "_array" / "linalg.py" or path.parent == PACKAGE / "theory":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        ours = {
            alias
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "srr._array.linalg"
            for alias in node.names
        }
        found = [(n.lineno, _named(n)) for n in ast.walk(tree) if _named(n) in FACTORIZATIONS and n not in ours]
        assert not found, f"{path.relative_to(PACKAGE)} factorizes on its own: {found}"


def test_the_reading_path_of_crate_stays_short():
    """Who reads CRATE from images to scores reads three files, in one sitting."""
    lines = {name: (PACKAGE / "nn" / name).read_text(encoding="utf-8").count("\n") for name in READING_PATH}
    assert sum(lines.values()) <= 900, lines


def test_import_srr_loads_nothing_optional():
    code = f"import srr, sys; print([m for m in {OPTIONAL!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_listing_the_commands_loads_no_engine(words):
    code = (
        "import sys; from srr.cli.app import main; status = main(sys.argv[1:]);"
        "heavy = [m for m in ('torch', 'matplotlib', 'lightning', 'sklearn', 'jax') if m in sys.modules];"
        "sys.exit(f'loaded {heavy}' if heavy else status)"
    )
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
