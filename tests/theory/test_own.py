"""Statements of one's own: loaded, judged, diagnosed and printed."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from srr.cli.app import main
from srr.theory import Sample, Sides, draws, identity, ledger, load, load_package, truth, verify
from srr.theory.diagnose import diagnose

PAGE = Path(__file__).parents[2] / "docs" / "theory" / "own.md"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_statements.py"
    path.write_text(re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)[1])
    return path


def run(capsys, *words):
    status = main(["verify", *map(str, words)])
    return status, *capsys.readouterr()


def test_the_template_of_the_page_says_what_is_off(capsys, file):
    status, out, _ = run(capsys, file, "--json")
    assert status == 1
    found = {item["label"]: item for item in json.loads(out)}
    assert found["mine-split"]["verdict"] == "fails"
    assert found["mine-split"]["note"].endswith("the term 'heads' fits with ½ before it")
    assert found["mine-size"]["verdict"] == "holds"


def test_labels_choose_among_own_statements(capsys, file):
    status, out, _ = run(capsys, file, "mine-size", "--backend", "torch", "--dtype", "float32", "--json")
    assert status == 0
    assert [item["label"] for item in json.loads(out)] == ["mine-size"]


def test_the_library_keeps_its_ledger(file):
    before = [entry.label for entry in ledger()]
    assert [entry.label for entry in load(file)] == ["mine-split", "mine-size"]
    assert load(file)
    assert [entry.label for entry in ledger()] == before


def test_tables(capsys, file):
    _, markdown, _ = run(capsys, file, "--markdown")
    assert markdown.count("\n") == 4
    assert all(line.startswith("| ") and line.endswith(" |") for line in markdown.splitlines()[2:])
    assert "½ before it" in markdown
    _, latex, _ = run(capsys, file, "--latex")
    assert latex.startswith(r"\begin{tabular}")
    assert all(line.count(" & ") == 6 for line in latex.splitlines() if line.startswith("mine"))
    assert r"$\frac12$ before it" in latex


def test_page_of_own_statements(capsys, file, tmp_path):
    _, _, err = run(capsys, file, "--html", tmp_path / "page.html")
    assert err == ""
    assert "Statements of your own" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1", "must decorate at least one statement"),
        ("1 / 0", "it raises ZeroDivisionError: division by zero"),
        ("from srr.theory import *\nidentity('new', source='x', inside=None)(lambda lab, p: 0)", "must have a title"),
    ],
)
def test_a_file_without_statements_is_one_sentence(capsys, tmp_path, text, sentence):
    path = tmp_path / "empty.py"
    path.write_text(text)
    status, _, err = run(capsys, path)
    assert status == 1
    assert sentence in " ".join(err.split())


def test_flags_that_exclude_each_other(capsys, tmp_path):
    assert "one of --json, --markdown and --latex" in " ".join(run(capsys, "--json", "--latex")[2].split())
    assert "a folder that exists" in " ".join(run(capsys, "crate-7", "--html", tmp_path / "no" / "x.html")[2].split())
    assert "Python file" in " ".join(run(capsys, tmp_path / "none.py")[2].split())


def problems(rng):
    p = draws.free_subspaces(rng)
    return p.but(Z=rng.standard_normal((4, p.Z.shape[1])))


def terms(p):
    """R, R^c and a matrix that is not symmetric, all from the definitions."""
    return truth.rate(p.Z, p.eps), truth.subspace_rate(p.Z, p.U, p.eps), p.Z.T @ np.roll(p.Z, 1, axis=0)


def alpha(p):
    return truth.alpha(p.Z, p.eps)


def beta(p):
    return truth.beta(p.Z, p.U, p.eps)


COMMON = "the right side fits with a factor 0.27027 on every problem"


@pytest.mark.parametrize(
    ("left", "right", "words"),
    [
        (lambda R, C, M, p: R - C, lambda R, C, M, p: {"R": R, "C": -2 * C}, "the term 'C' fits with ½ before it"),
        (lambda R, C, M, p: R - C, lambda R, C, M, p: {"R": R / 2, "C": -C}, "the term 'R' fits with 2 before it"),
        (lambda R, C, M, p: R - C, lambda R, C, M, p: {"R": R, "C": C}, "the term 'C' fits with the other sign"),
        (lambda R, C, M, p: M, lambda R, C, M, p: M.T, "the right side fits transposed"),
        (lambda R, C, M, p: alpha(p) * M, lambda R, C, M, p: beta(p) * M, "the right side fits with α for β"),
        (lambda R, C, M, p: M / p.eps**2, lambda R, C, M, p: M / p.eps, "the right side fits divided by ε"),
        (
            lambda R, C, M, p: M,
            lambda R, C, M, p: 3.7 * M,
            "the right side fits with a factor 0.27027 on every problem",
        ),
        (lambda R, C, M, p: M, lambda R, C, M, p: M + 1, ""),
        (lambda R, C, M, p: M, lambda R, C, M, p: np.nan * M, ""),
    ],
)
def test_slips_are_named(left, right, words):
    rng = np.random.default_rng(0)
    drawn = [problems(rng) for _ in range(5)]
    assert diagnose([(Sides(left(*terms(p), p), right(*terms(p), p)), p) for p in drawn], 1e-10) == words


def test_sides_of_the_library_hold_and_shapes_must_agree():
    def gradient(lab, p):
        """The gradient of a rate.

        $$x$$

        Assumes: Nothing.
        Proof: The complex step.
        """
        return Sides(lab.ops.coding_rate_grad(p.Z, eps=p.eps), truth.gradient(lambda Z: truth.rate(Z, p.eps), p.Z))

    entry = identity("mine", source="here", inside=draws.tokens, rounding=1e6).read(gradient)
    assert next(verify([entry])).passed
    turned = identity("mine", source="here", inside=lambda rng: Sample(x=np.ones((2, 3)))).read(gradient)
    turned.measure = lambda lab, p: Sides(p.x, p.x.T)
    assert next(verify([turned])).finding.note.endswith("the right side fits transposed")


# --- Statements of an installed package


MODULE = '''
from srr.theory import draws, identity


@identity("shipped-one", source="a package", inside=draws.tokens)
def one(lab, p):
    """One.

    $$1 = 1$$

    Assumes: Nothing.
    Proof: None.
    """
    return {error}
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Lay a package with an entry point where Python finds it, as pip does."""

    def put(name, error, module="{name}"):
        home = tmp_path / name
        home.mkdir()
        (home / f"{name}.py").write_text(MODULE.replace("{error}", error), encoding="utf-8")
        info = home / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
        point = f"[srr.statements]\n{name} = {module.format(name=name)}\n"
        (info / "entry_points.txt").write_text(point, encoding="utf-8")
        monkeypatch.syspath_prepend(str(home))

    return put


def test_statements_of_an_installed_package(install, capsys):
    install("shipped_right", "0.0")
    assert main(["verify", "--package", "shipped_right"]) == 0
    assert "1 statements" in capsys.readouterr().out
    assert main(["verify", "--package", "shipped_right", "shipped-one", "--json"]) == 0  # twice in one process
    assert '"label": "shipped-one"' in capsys.readouterr().out
    assert "shipped-one" not in {entry.label for entry in ledger()}
    install("shipped_wrong", "1.0")
    assert main(["verify", "--package", "shipped_wrong"]) == 1


def test_packages_that_cannot_be_loaded(install):
    with pytest.raises(ValueError, match=r"entry point of the group 'srr\.statements'"):
        load_package("not_installed")
    install("shipped_broken", "0.0", module="no_such_module")
    with pytest.raises(ValueError, match="must run; it raises ModuleNotFoundError"):
        load_package("shipped_broken")
    install("shipped_empty", "0.0", module="json")
    with pytest.raises(ValueError, match="decorate at least one"):
        load_package("shipped_empty")
