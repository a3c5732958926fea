"""`srr verify` as its user sees it."""

import json
import re
from html.parser import HTMLParser

import pytest

from srr import ops
from srr.cli.app import main
from srr.theory import ledger, page


def run(capsys, *words):
    status = main(["verify", *words])
    out, err = capsys.readouterr()
    return status, out, err


def test_table_names_every_statement(capsys):
    status, out, _ = run(capsys, "crate-1", "symmetry", "--samples", "2")
    assert status == 0
    assert "symmetry-rotation" in out
    assert "proved" in out
    assert re.search(r"\d+ statements in \d+\.\d s", out)


def test_json_is_a_list_on_standard_output(capsys):
    status, out, _ = run(capsys, "neumann", "--json", "--samples", "2", "--seed", "3")
    assert status == 0
    found = json.loads(out)
    assert {"label", "source", "kind", "verdict", "measured", "bound", "interval", "series"} <= set(found[0])
    order = next(item for item in found if item["label"] == "neumann-order")
    assert order["interval"][0] <= order["measured"] <= order["interval"][1]


def test_same_seed_same_numbers(capsys):
    runs = [json.loads(run(capsys, "crate-9", "--json", "--seed", "5", "--samples", "2")[1]) for _ in range(2)]
    assert runs[0][0]["measured"] == runs[1][0]["measured"]


def test_filters_by_source_and_kind(capsys):
    _, out, _ = run(capsys, "--source", "MCR2", "--kind", "identity", "--json", "--samples", "1")
    found = json.loads(out)
    assert found
    assert all("MCR2" in item["source"] and item["kind"] == "identity" for item in found)


def test_a_broken_operator_gives_exit_status_one(capsys, monkeypatch):
    right = ops.coding_rate
    monkeypatch.setattr(ops, "coding_rate", lambda *args, **options: 2 * right(*args, **options))
    status, out, _ = run(capsys, "crate-7", "--samples", "1")
    assert status == 1
    assert "fails" in out
    assert "exceeded" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing"], "filters must leave a statement"),
        (["--kind", "lemma"], "kind must be one of"),
        (["--backend", "abacus"], "backend must be one of"),
        (["--dtype", "float8"], "dtype must be one of"),
        (["crate-7", "--samples", "0"], "samples must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence(capsys, words, sentence):
    status, out, err = run(capsys, *words)
    assert status == 1
    assert sentence in " ".join(err.split())
    assert "Traceback" not in out + err


class Links(HTMLParser):
    """Collects what a page would fetch, and which tags were closed."""

    def __init__(self):
        super().__init__()
        self.fetched, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v and not v.startswith("#")]


def test_page_is_self_contained(capsys, tmp_path):
    target = tmp_path / "ledger.html"
    status, _, _ = run(capsys, "neumann", "erratum-sign", "--samples", "2", "--html", str(target))
    assert status == 0
    text = target.read_text(encoding="utf-8")
    links = Links()
    links.feed(text)
    assert not links.fetched
    assert "http" not in text
    assert links.tags.count("svg") >= len(ledger(labels=["neumann"])) + 3
    assert text.count('class="plot"') == 3
    status, _, err = run(capsys, "crate-7", "--html", str(target))
    assert status == 1
    assert "exists" in err
    assert target.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("entry", ledger(), ids=lambda entry: entry.label)
def test_every_formula_can_be_drawn(entry):
    for formula in filter(None, (entry.formula, entry.corrected)):
        assert page.formula_svg(formula).count("<svg") == 1
