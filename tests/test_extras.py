"""Where an optional module is missing, one sentence says so, with the command that installs it."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from srr._array.extras import EXTRAS, need, sentence

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "cupy": "cupy-cuda12x",
    "cupyx": "cupy-cuda12x",
}

PLACES = {
    "srr.nn": ("torch", "import srr.nn"),
    "srr.nn, used": ("torch", "import srr; srr.nn"),
    "srr.training": ("lightning", "import srr.training"),
    "srr.training, torch": ("torch", "import srr.training"),
    "srr.estimators": ("sklearn", "import srr.estimators"),
    "srr.theory": ("mpmath", "import srr.theory"),
    "plots": (
        "matplotlib",
        "import numpy as np; from srr.plots import plot_gram; plot_gram(np.eye(3), np.eye(3), [0, 0, 1])",
    ),
    "dask": ("dask", "from srr.ops import SecondMoment; SecondMoment.from_dask(None)"),
    "hub": ("huggingface_hub", "from srr.nn import create_model; create_model('crate_micro').push_to_hub('a/b')"),
    "export": (
        "onnxruntime",
        "from srr.nn import create_model, export_model; export_model(create_model('crate_micro'), 'never.onnx')",
    ),
    "transformers": ("transformers", "import srr.nn.hf"),
    "data sets": (
        "datasets",
        "from srr.training.config import DataConfig; import srr.training as t; t.load_data(DataConfig(name='hf:a/b'))",
    ),
}


def outcome(module: str, code: str) -> subprocess.CompletedProcess[str]:
    """What happens in a process in which a module cannot be imported."""
    block = f"import sys; sys.modules[{module!r}] = None; "
    return subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize(("module", "code"), PLACES.values(), ids=PLACES)
def test_a_missing_module_is_one_sentence_with_the_command(module, code):
    run = outcome(module, code)
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert re.fullmatch(rf'ModuleNotFoundError: .+ needs {module}: pip install "srr\[{EXTRAS[module]}\]"', last), last


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_the_program_without_its_extra(module):
    run = outcome(module, "import sys; sys.argv = ['srr', '--help']; from srr.__main__ import main; main()")
    assert (run.returncode, run.stderr) == (1, f'the command line needs {module}: pip install "srr[cli]"\n')


@pytest.mark.parametrize(
    ("command", "module"), [("verify", "mpmath"), ("train", "lightning"), ("predict x y", "torch")]
)
def test_a_command_without_its_extra(command, module):
    words = ["srr", *command.split()]
    run = outcome(module, f"import sys; sys.argv = {words!r}; from srr.__main__ import main; main()")
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1, run.stderr
    assert f'needs {module}: pip install "srr[{EXTRAS[module]}]"' in run.stderr


def third_party() -> set[str]:
    """Top-level modules that the package imports, anywhere, and that Python does not bring."""
    found = set()
    for path in (ROOT / "srr").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"srr", "typing_extensions"}  # the latter for the type checker only


def bounds(requirements: list[str]) -> dict[str, str]:
    pairs = (re.fullmatch(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", line) for line in requirements)
    return {pair[1]: pair[2] for pair in pairs if pair}


def test_every_optional_import_has_its_extra():
    core, extras = bounds(PROJECT["dependencies"]), PROJECT["optional-dependencies"]
    for module in third_party():
        distribution = DISTRIBUTIONS.get(module, module.replace("_", "-"))
        if distribution in core:
            continue
        name = EXTRAS.get(module)
        assert name, f"{module} is imported, and no extra installs it"
        assert distribution in bounds(extras[name]), f"srr[{name}] does not install {distribution}"


def test_what_nobody_has_heard_of():
    assert sentence("nowhere", "this") == 'this needs nowhere: pip install "nowhere"'
    with pytest.raises(ModuleNotFoundError, match=r'^this needs nowhere: pip install "nowhere"$'):
        need("numpy", "nowhere", by="this")


def test_the_lowest_versions_are_those_of_the_metadata():
    """`make lowest` installs what pyproject.toml allows at the least, but for torch, which has its line in the file."""
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    extras = PROJECT["optional-dependencies"]
    wanted = bounds(
        [*PROJECT["dependencies"], *(line for name in ("jax", "dask", "verify", "dev") for line in extras[name])]
    )
    for name in (
        "numpy",
        "scipy",
        "array-api-compat",
        "jax",
        "dask",
        "mpmath",
        "array-api-strict",
        "hypothesis",
        "pytest",
    ):
        assert [int(part) for part in pinned[name].split(".")][:2] == [int(part) for part in wanted[name].split(".")][
            :2
        ], name
