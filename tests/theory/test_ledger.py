"""Every statement on every backend, and the rules the ledger itself must keep."""

import ast
import inspect
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import srr.theory
from srr.theory import Lab, Refutation, Result, Series, Statement, examine, fit_slope, ledger, verify
from srr.theory.statement import amended, statement
from tests.backends import BACKENDS

ENTRIES = ledger()
CHEAP = [entry for entry in ENTRIES if entry.samples > 5]
NAMES = {"numpy": "numpy", "torch": "torch", "array_api_strict": "strict", "strict": "strict"}


def label(entry: Statement) -> str:
    return entry.label


@pytest.mark.parametrize("entry", ENTRIES, ids=label)
def test_statement_comes_out_as_expected(entry):
    result = examine(entry, Lab())
    assert result.passed, f"{result.verdict}: measured {result.measured}, bound {result.bound}, {result.note}"
    json.dumps(result.as_dict(), allow_nan=False)


@pytest.mark.parametrize(("backend", "dtype"), [("torch", "float64"), ("torch", "float32"), ("strict", "float64")])
@pytest.mark.parametrize("entry", CHEAP, ids=label)
def test_statement_on_other_backends(entry, backend, dtype):
    result = examine(entry, Lab(backend, dtype), samples=2, seed=1)
    assert result.passed, f"{result.verdict}: measured {result.measured}, bound {result.bound}, {result.note}"


@pytest.mark.parametrize("name", ["crate-9", "crate-12", "crate-17", "tost-step"])
def test_statement_on_jax(name):
    assert examine(ledger(labels=[name])[0], Lab("jax"), samples=1).passed


@pytest.mark.parametrize("entry", [entry for entry in CHEAP if entry.kind in ("identity", "inequality")], ids=label)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_generated_problem_is_inside(entry, seed):
    problem = entry.inside(np.random.default_rng(seed))
    measured = entry.measure(Lab(), problem)
    assert measured <= max(entry.bound, entry.rounding * Lab().eps)


def test_the_ledger_is_complete():
    numbers = {int("".join(c for c in entry.item if c.isdigit())) for entry in ENTRIES if entry.item[0].isdigit()}
    assert set(range(1, 28)) <= numbers
    assert {entry.item for entry in ENTRIES if entry.section == 7} == set("abcdefghi")
    assert len({entry.label for entry in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=label)
def test_statement_is_documented(entry):
    for text in (entry.title, entry.formula, entry.source, entry.assumes, entry.quantity):
        assert text.strip()
    assert len(entry.proof.split()) >= 1
    assert bool(entry.breaks) == (entry.outside is not None or entry.kind == "approximation")
    assert bool(entry.corrected) == (entry.kind in ("counter-example", "erratum"))
    assert bool(entry.parameter) == (entry.kind in ("order", "approximation"))


@pytest.mark.parametrize("module", ["truth", "draws"])
def test_truths_import_no_operator(module):
    tree = ast.parse(inspect.getsource(getattr(srr.theory, module)))
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in imported if name.startswith("srr") and name != "srr.theory.statement"]


def test_filters_do_not_change_numbers():
    alone = next(verify(ledger(labels=["crate-9"]), samples=3, seed=4))
    among = {result.label: result for result in verify(ledger(labels=["crate"]), samples=3, seed=4)}
    assert alone.measured == among["crate-9"].measured


def test_filters():
    assert {entry.kind for entry in ledger(kinds=["erratum"])} == {"erratum"}
    assert all("GEOM" in entry.source for entry in ledger(source="geom"))
    assert all(entry.section == 3 for entry in ledger(section=3))
    with pytest.raises(ValueError, match="filters must leave a statement"):
        ledger(labels=["nothing-like-this"])
    with pytest.raises(ValueError, match="kind must be one of"):
        ledger(kinds=["lemma"])


def test_register_refuses_doubles_and_silence():
    with pytest.raises(ValueError, match="a second time"):
        statement(**{name: getattr(ENTRIES[0], name) for name in FIELDS})(ENTRIES[0].measure)
    with pytest.raises(ValueError, match="proof sketch"):
        statement(**{name: getattr(ENTRIES[0], name) for name in FIELDS} | {"label": "new"})(lambda lab, p: 0.0)


FIELDS = ("label", "item", "section", "title", "formula", "source", "kind", "inside", "assumes")


def made(kind, measure, **fields) -> Statement:
    defaults = {name: getattr(ENTRIES[0], name) for name in FIELDS} | {"kind": kind, "rounding": 0.0, "bound": 1e-3}
    inside = fields.pop("inside", lambda rng: SimpleNamespace(x=rng.standard_normal()))
    return Statement(measure=measure, **(defaults | {"inside": inside} | fields))


def judged(kind, measure, **fields) -> Result:
    return examine(made(kind, measure, **fields), Lab(), samples=3)


def test_verdicts_of_errors():
    assert judged("identity", lambda lab, p: 1e-4).verdict == "holds"
    assert judged("identity", lambda lab, p: 1e-2).verdict == "fails"
    assert judged("identity", lambda lab, p: float("nan")).verdict == "fails"
    broken = judged(
        "inequality", lambda lab, p: p.x, inside=lambda rng: SimpleNamespace(x=0.0), outside=one, breaks="x"
    )
    assert broken.verdict == "holds under its assumptions"
    assert broken.outside == 1.0
    tame = judged("inequality", lambda lab, p: 0.0, outside=one, breaks="x")
    assert tame.verdict == "fails"


def one(rng):
    return SimpleNamespace(x=1.0)


def test_an_exception_is_a_failure_with_its_message():
    result = judged("identity", lambda lab, p: 1 / 0)
    assert (result.verdict, result.note) == ("fails", "ZeroDivisionError: division by zero")
    assert result.as_dict()["measured"] == "nan"


def test_verdicts_of_refutations():
    refuted = judged("erratum", lambda lab, p: Refutation(1.0, 0.0, "x = 1"))
    assert (refuted.verdict, refuted.note) == ("refuted as stated", "x = 1")
    assert judged("erratum", lambda lab, p: Refutation(0.0, 0.0)).verdict == "fails"
    assert judged("counter-example", lambda lab, p: Refutation(1.0, 1.0)).verdict == "fails"


def test_verdicts_of_series():
    x = np.geomspace(1, 10, 6)
    square = judged("order", lambda lab, p: Series(x, 3 * x**2), slope=(1.9, 2.1))
    assert square.verdict == "holds"
    assert square.measured == pytest.approx(2.0)
    assert judged("order", lambda lab, p: Series(x, x), slope=(1.9, 2.1)).verdict == "fails"
    gap = judged("approximation", lambda lab, p: Series(x, x / 5e3, x < 3))
    assert gap.verdict == "approximate"
    assert judged("approximation", lambda lab, p: Series(x, x / 5e5, x < 3)).verdict == "fails"


def test_slope_agrees_with_scipy():
    rng = np.random.default_rng(0)
    x = np.geomspace(0.1, 2, 9)
    y = x**1.5 * np.exp(0.1 * rng.standard_normal(9))
    slope, low, high = fit_slope([Series(x, y)])
    fit = stats.linregress(np.log(x), np.log(y))
    assert slope == pytest.approx(fit.slope)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 7) * fit.stderr)


def test_lab_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="backend must be one of"):
        Lab("abacus")
    with pytest.raises(ValueError, match="dtype must be one of"):
        Lab("numpy", "float16")
    with pytest.raises(ValueError, match="samples must be at least 1"):
        next(verify(ENTRIES, samples=0))


def test_lab_runs_on_every_tested_backend():
    for backend in BACKENDS:
        if backend.name in NAMES:
            lab = Lab(NAMES[backend.name])
            assert lab.ops.coding_rate(np.eye(2), eps=1.0) == pytest.approx(np.log(2.0))


def test_amending_leaves_the_register_alone():
    assert amended(ENTRIES[0], title="x").title == "x"
    assert ledger()[0].title != "x"
