"""The theory pages: every statement on exactly one of them, and a build that fails when that is not so."""

import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from srr.theory import Finding, Result, ledger, verify
from srr.theory.page import measured_text, plot_svg

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [*sorted((DOCS / "theory").glob("section-*.md")), DOCS / "errata.md"]
CONF = 'extensions = ["ledger", "myst_parser"]\nsuppress_warnings = ["config.cache"]\n'


def shown(page: Path) -> list[str]:
    return re.findall(r"^```\{statement\} (\S+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_every_statement_is_on_one_page():
    count = Counter(label for page in PAGES for label in shown(page))
    assert count == Counter(entry.label for entry in ledger())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_statements_stand_in_their_section(page):
    sections = {entry.label: entry.section for entry in ledger()}
    wanted = 7 if page.stem == "errata" else int(page.stem[-1])
    assert {sections[label] for label in shown(page)} == {wanted}


def build(folder: Path, text: str) -> str:
    """Warnings of a small build with one page; the ledger has two statements."""
    application = pytest.importorskip("sphinx.application")
    (folder / "conf.py").write_text(CONF, encoding="utf-8")
    (folder / "index.md").write_text(text, encoding="utf-8")
    warnings = io.StringIO()
    out = folder / "out"
    app = application.Sphinx(folder, folder, out, folder / "trees", "html", status=None, warning=warnings)
    app.build()
    (folder / "seen.html").write_text((out / "index.html").read_text(encoding="utf-8"), encoding="utf-8")
    return warnings.getvalue()


@pytest.fixture
def small(monkeypatch):
    """The extension over a ledger of two statements."""
    extension = pytest.importorskip("ledger")
    pair = ledger(labels=["crate-7", "neumann-order"])
    monkeypatch.setattr(extension, "ledger", lambda: pair)
    return pair


def test_a_complete_page_builds_without_warnings(tmp_path, small):
    text = "# Theory\n\n```{statement} crate-7\n```\n\n```{statement} neumann-order\n```\n\n```{ledger-summary}\n```\n"
    assert build(tmp_path, text) == ""
    page = (tmp_path / "seen.html").read_text(encoding="utf-8")
    assert 'id="crate-7"' in page
    assert "2 statements: 1 holds, 1 proved." in page
    assert "symbolic: 3 steps by machine, 1 by hand" in page
    assert "subspace codebooks" not in page
    assert page.count('class="plot"') == 1
    assert "Definition. The operator factors the smaller side" in page


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("# Theory\n\n```{statement} crate-7\n```\n", "statement neumann-order is shown by 0 pages"),
        ("# Theory\n\n```{statement} crate-700\n```\n", "no statement has the label 'crate-700'"),
        ("# T\n\n" + 2 * "```{statement} crate-7\n```\n\n", "statement crate-7 is shown by 2 pages"),
    ],
)
def test_a_gap_between_ledger_and_pages_is_a_warning(tmp_path, small, text, warning):
    assert warning in build(tmp_path, text)


def test_a_failing_statement_is_a_warning(tmp_path, small, monkeypatch):
    from srr import ops

    right = ops.coding_rate
    monkeypatch.setattr(ops, "coding_rate", lambda *args, **options: 2 * right(*args, **options))
    text = "# Theory\n\n```{statement} crate-7\n```\n\n```{statement} neumann-order\n```\n"
    assert "statement crate-7 fails" in build(tmp_path, text)


@pytest.mark.parametrize("label", ["crate-7", "neumann-order"])
@pytest.mark.parametrize("broken", [False, True])
def test_results_come_back_from_json_and_can_be_shown(label, broken, monkeypatch):
    (entry,) = ledger(labels=[label])
    if broken:
        monkeypatch.setattr(type(entry), "judge", lambda *args: 1 / 0)
    (result,) = verify([entry], samples=1)
    back = type(result).of(entry, json.loads(json.dumps(result.as_dict(), allow_nan=False)))
    assert back.as_dict() == result.as_dict()
    assert measured_text(back) == measured_text(result)
    assert plot_svg(back) == plot_svg(result)
    assert (measured_text(back) == "nan, bound nan") == broken


def test_an_interval_that_no_slope_was_measured_against_is_written_out():
    (entry,) = ledger(labels=["neumann-order"])
    assert measured_text(Result(entry, Finding("fails", float("nan"), (1.9, 2.1)))) == "nan, bound 1.9 … 2.1"
