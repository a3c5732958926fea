"""The project's own lint finds what it is there to find, and `make check` picks the tests that matter."""

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("doc", "line", "words"),
    [
        ("One.\n\nSource:\n    [CRATE] (7).", 2, "same line"),
        ("One.\n\nArguments:\n    x: a number.", 2, "'Args'"),
        ("One.\n\nArgs: x", 2, "stands alone"),
        ("One.\n\nArgs:\n    x is a number.", 3, "'name: meaning'"),
        ("One.\n\nExamples:\n    >>> 1", 2, "'Example'"),
    ],
)
def test_another_form_of_docstring_is_found(doc, line, words):
    found = list(tool("docstrings").faults(doc))
    assert len(found) == 1
    assert found[0][0] == line
    assert words in found[0][1]


def test_the_form_of_the_house_is_accepted():
    doc = """One.

    Args:
        x, y: numbers,
            on two lines.
        *z: more.

    Source: [CRATE] (7),
    and (8).

    Example:
        >>> 1
    """
    assert list(tool("docstrings").faults(inspect.cleandoc(doc))) == []


@pytest.mark.parametrize(
    "word", ["esiminim"[::-1], "ruoloc"[::-1], "dertnec"[::-1], "ertnec_eht_tset"[::-1], "resirojam"[::-1]]
)
def test_british_spelling_is_found_also_inside_names(word, tmp_path):
    (tmp_path / "page.md").write_text(f"A {word}.\n", encoding="utf-8")
    codespell = Path(sys.executable).parent / "codespell"
    run = subprocess.run([codespell, tmp_path / "page.md"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode != 0
    assert "==>" in run.stdout


@pytest.mark.parametrize(
    ("file", "first"),
    [
        ("srr/penalties.py", "tests/solvers/test_penalties.py"),
        ("srr/ops/rates.py", "tests/ops/test_rates.py"),
        ("srr/training/optim.py", "tests/training/test_optim.py"),
        ("docs/design.md", "tests/test_docs.py"),
    ],
)
def test_the_fast_loop_begins_with_the_tests_of_the_file(file, first, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert tool("check").tests_of(Path(file))[0] == Path(first)
