"""Every statement on every backend, and the rules the ledger itself must keep."""

import ast
import inspect
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import srr.theory
from srr.theory import (
    Lab,
    Refutation,
    Result,
    Sample,
    Series,
    Statement,
    approximation,
    counterexample,
    erratum,
    fit_slope,
    identity,
    inequality,
    ledger,
    order,
    verify,
)
from tests.backends import BACKENDS

ENTRIES = ledger()
CHEAP = [entry for entry in ENTRIES if entry.samples > 5]
NAMES = {"numpy": "numpy", "torch": "torch", "array_api_strict": "strict", "strict": "strict"}


def label(entry: Statement) -> str:
    return entry.label


def examine(entry: Statement, lab: Lab | None = None, **options) -> Result:
    return next(verify([entry], lab, **options))


def complaint(result: Result) -> str:
    return f"{result.statement.label}: {result.finding}"


@pytest.mark.parametrize("entry", ENTRIES, ids=label)
def test_statement_comes_out_as_expected(entry):
    result = examine(entry)
    assert result.passed, complaint(result)
    json.dumps(result.as_dict(), allow_nan=False)


@pytest.mark.parametrize(("backend", "dtype"), [("torch", "float64"), ("torch", "float32"), ("strict", "float64")])
@pytest.mark.parametrize("entry", CHEAP, ids=label)
def test_statement_on_other_backends(entry, backend, dtype):
    result = examine(entry, Lab(backend, dtype), samples=2, seed=1)
    assert result.passed, complaint(result)


@pytest.mark.parametrize("name", ["crate-9", "crate-12", "crate-17", "tost-step"])
def test_statement_on_jax(name):
    assert examine(ledger(labels=[name])[0], Lab("jax"), samples=1).passed


@pytest.mark.parametrize("entry", [entry for entry in CHEAP if isinstance(entry, inequality)], ids=label)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_generated_problem_is_inside(entry, seed):
    problem = entry.inside(np.random.default_rng(seed))
    measured = entry.measure(Lab(), problem)
    assert measured <= entry.allowed(Lab())


def test_the_ledger_is_complete():
    numbers = {int("".join(c for c in entry.item if c.isdigit())) for entry in ENTRIES if entry.item[0].isdigit()}
    assert set(range(1, 28)) <= numbers
    assert {entry.item for entry in ENTRIES if entry.section == 7} == set("abcdefghijklmn")
    assert len({entry.label for entry in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=label)
def test_statement_is_documented(entry):
    for text in (entry.title, entry.formula, entry.source, entry.assumes, entry.quantity):
        assert text.strip()
    assert len(entry.proof.split()) >= 1
    outside = isinstance(entry, inequality) and entry.outside is not None
    assert bool(entry.breaks) == (outside or isinstance(entry, approximation))
    assert bool(entry.corrected) == isinstance(entry, counterexample)


@pytest.mark.parametrize("module", ["truth", "draws"])
def test_truths_import_no_operator(module):
    tree = ast.parse(inspect.getsource(getattr(srr.theory, module)))
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in imported if name.startswith("srr") and name != "srr.theory.statement"]


def test_filters_do_not_change_numbers():
    alone = next(verify(ledger(labels=["crate-9"]), samples=3, seed=4))
    among = {result.statement.label: result.finding for result in verify(ledger(labels=["crate"]), samples=3, seed=4)}
    assert alone.finding == among["crate-9"]


def test_filters():
    assert {entry.kind for entry in ledger(kinds=["erratum"])} == {"erratum"}
    assert all("GEOM" in entry.source for entry in ledger(source="geom"))
    assert all(entry.section == 3 for entry in ledger(section=3))
    with pytest.raises(ValueError, match="filters must leave a statement"):
        ledger(labels=["nothing-like-this"])
    with pytest.raises(ValueError, match="kind must be one of"):
        ledger(kinds=["lemma"])
    with pytest.raises(ValueError, match="'crate-700', which begins none"):
        ledger(labels=["crate-7", "crate-700"])


DOC = r"""Something.

$$x = y$$

Assumes: nothing.
Proof: none.
"""


def read(statement, measure, doc=DOC) -> Statement:
    def measured(lab, p):
        return measure(lab, p)

    measured.__doc__ = doc
    return statement.read(measured)


def some(rng):
    return Sample(x=rng.standard_normal())


def judged(kind, measure, doc=DOC, **fields) -> Result:
    fields = {"source": "here", "inside": some} | fields
    if kind in (order, approximation):
        fields["parameter"] = "x"
    if kind is not order:
        fields = {"rounding": 0.0, "bound": 1e-3} | fields
    return examine(read(kind("mine", **fields), measure, doc), samples=3)


def test_register_refuses_doubles():
    with pytest.raises(ValueError, match="a second time"):
        identity(ENTRIES[0].label, source="here", inside=some)(ENTRIES[0].measure)


@pytest.mark.parametrize("part", ["Something.", "$$x = y$$", "Assumes: nothing.", "Proof: none."])
def test_a_statement_without_its_words_is_refused(part):
    with pytest.raises(ValueError, match="the docstring of 'mine' must have"):
        read(identity("mine", source="here", inside=some), lambda lab, p: 0.0, DOC.replace(part, ""))


def test_every_kind_asks_for_its_own_words():
    with pytest.raises(ValueError, match="Corrected:"):
        read(erratum("mine", source="here", inside=some), lambda lab, p: Refutation(1.0, 0.0))
    with pytest.raises(ValueError, match="Outside:"):
        read(identity("mine", source="here", inside=some, outside=some), lambda lab, p: 0.0)
    with pytest.raises(ValueError, match="Outside:"):
        read(approximation("mine", source="here", inside=some, parameter="x"), lambda lab, p: None)
    with pytest.raises(TypeError, match="slope"):
        identity("mine", source="here", inside=some, slope=(1, 2))


def test_one_problem_is_enough_where_something_must_exist():
    rare = judged(identity, lambda lab, p: p.x, OUTSIDE, inside=zero, outside=seldom)
    assert rare.finding.verdict == "holds under its assumptions"
    shown = judged(erratum, lambda lab, p: Refutation(p.x, 0.0), CORRECTED, inside=seldom)
    assert shown.finding.verdict == "refuted as stated"


def zero(rng):
    return Sample(x=0.0)


def seldom(rng):
    return Sample(x=float(rng.random() < 0.3))


OUTSIDE = DOC + "Outside: x.\n"
CORRECTED = DOC + "Corrected: $$x = z$$\n"


@pytest.mark.parametrize("seed", range(8))
def test_one_sample_has_no_false_failures(seed):
    failed = [complaint(result) for result in verify(CHEAP, samples=1, seed=seed) if not result.passed]
    assert not failed


def test_verdicts_of_errors():
    assert judged(identity, lambda lab, p: 1e-4).finding.verdict == "holds"
    assert judged(identity, lambda lab, p: 1e-2).finding.verdict == "fails"
    assert judged(identity, lambda lab, p: float("nan")).finding.verdict == "fails"
    broken = judged(inequality, lambda lab, p: p.x, OUTSIDE, inside=zero, outside=lambda rng: Sample(x=1.0))
    assert broken.finding.verdict == "holds under its assumptions"
    assert broken.finding.outside == 1.0
    tame = judged(inequality, lambda lab, p: 0.0, OUTSIDE, outside=some)
    assert tame.finding.verdict == "fails"


def test_an_exception_is_a_failure_with_its_message():
    result = judged(identity, lambda lab, p: 1 / 0)
    assert (result.finding.verdict, result.finding.note) == ("fails", "ZeroDivisionError: division by zero")
    assert result.as_dict()["measured"] == "nan"


def test_verdicts_of_refutations():
    refuted = judged(erratum, lambda lab, p: Refutation(1.0, 0.0, "x = 1"), CORRECTED).finding
    assert (refuted.verdict, refuted.note) == ("refuted as stated", "x = 1")
    assert judged(erratum, lambda lab, p: Refutation(0.0, 0.0), CORRECTED).finding.verdict == "fails"
    assert judged(counterexample, lambda lab, p: Refutation(1.0, 1.0), CORRECTED).finding.verdict == "fails"


def test_verdicts_of_series():
    x = np.geomspace(1, 10, 6)
    square = judged(order, lambda lab, p: Series(x, 3 * x**2), slope=(1.9, 2.1)).finding
    assert square.verdict == "holds"
    assert square.measured == pytest.approx(2.0)
    assert judged(order, lambda lab, p: Series(x, x), slope=(1.9, 2.1)).finding.verdict == "fails"
    gap = judged(approximation, lambda lab, p: Series(x, x / 5e3, x < 3), OUTSIDE).finding
    assert gap.verdict == "approximate"
    assert judged(approximation, lambda lab, p: Series(x, x / 5e5, x < 3), OUTSIDE).finding.verdict == "fails"


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
    with pytest.raises(ValueError, match="seed must be at least 0"):
        next(verify(ENTRIES, seed=-1))


def test_lab_runs_on_every_tested_backend():
    for backend in BACKENDS:
        if backend.name in NAMES:
            lab = Lab(NAMES[backend.name])
            assert lab.ops.coding_rate(np.eye(2), eps=1.0) == pytest.approx(np.log(2.0))
