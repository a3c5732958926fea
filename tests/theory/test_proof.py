"""Proofs by machine: every claim of the ledger holds, and every claim that is one percent too strong is rejected."""

import json

import numpy as np
import pytest
from sympy import Integer, Rational, Symbol, cos, exp, log, oo, sqrt, symbols, tanh

from srr import derive
from srr.theory import Lab, Proof, identity, ledger, proof, proves, verify
from srr.theory.proof import Derived, Enclosed, Equal, Limit, Nonnegative, Step, Words, by_hand, prove
from srr.theory.statement import _REGISTER

x, y, c = symbols("x y c", real=True)
ONE = {c: Integer(1)}
LISTS = {entry.claims: entry.label for entry in ledger() if entry.claims is not None}
DECIDED = [
    pytest.param(claim, id=f"{label}-{i}")
    for claims, label in LISTS.items()
    for i, claim in enumerate(claims())
    if not isinstance(claim, Words)
]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(proof, "_PROVED", {})


@pytest.mark.parametrize("claim", DECIDED)
def test_every_claim_holds_and_one_percent_more_is_rejected(claim):
    assert claim.decide().ok
    spoiled = claim.spoiled()
    assert spoiled.claim != claim.claim
    assert not spoiled.decide().ok


def test_thirty_statements_are_proved_and_refutations_enclosed():
    with_proof = [entry for entry in ledger() if entry.claims is not None]
    refuted = [entry for entry in with_proof if entry.kind in ("counter-example", "erratum")]
    assert len(with_proof) - len(refuted) >= 50
    assert len(refuted) >= 15


# --- The machine against functions whose minimum is known


HOLD = {
    "touches at zero": (x - log(1 + x), {x: (0, 5)}, ()),
    "touches inside": (exp(x) - 1 - x, {x: (-2, 2)}, (0,)),
    "touches to fourth order": (cos(x) - 1 + x**2 / 2, {x: (0, 1)}, ()),
    "touches at the right end": (1 - x - log(2 - x), {x: (-3, 1)}, ()),
    "strict, two symbols": (2 + exp(x) - exp(-y) * x, {x: (0, 1), y: (0, 1)}, ()),
    "an edge of two symbols": (exp(y) * x + y, {x: (0, 1), y: (0, 1)}, ()),
    "root": (1 + x - sqrt(1 + 2 * x), {x: (0, 8)}, ()),
    "double root, exactly": ((x - Rational(1, 3)) ** 2, {x: (-oo, oo)}, ()),
    "quotient on a ray": ((1 + x**2) / (1 + x), {x: (0, oo)}, ()),
}
FAIL = {
    "crosses": (x - log(1 + x) - Rational(1, 10**6), {x: (0, 5)}, "negative"),
    "a dip of one in a billion": ((x - Rational(1, 3)) ** 2 - Rational(1, 10**9), {x: (0, 1)}, "changes its sign"),
    "negative at a corner": (x + y - Rational(1, 100), {x: (0, 1), y: (0, 1)}, "negative"),
    "falls on a ray": (1 - log(1 + x), {x: (0, oo)}, "falling on the ray"),
    "an unknown touch": (exp(x) - 1 - x, {x: (-2, Rational(7, 3))}, "undecided"),
    "a pole": (log(x), {x: (0, 2)}, "negative"),
    "several symbols without an end": (exp(x) - y, {x: (0, oo), y: (0, 1)}, "not finite"),
}


@pytest.mark.parametrize("name", HOLD)
def test_inequalities_that_hold(name):
    expr, box, split = HOLD[name]
    assert Nonnegative(name, expr, box, split=split).decide().ok
    values = [float(expr.subs(dict(zip(box, point, strict=True))).evalf()) for point in points(box)]
    assert min(values) >= -1e-12


@pytest.mark.parametrize("name", FAIL)
def test_inequalities_that_do_not(name):
    expr, box, words = FAIL[name]
    found = Nonnegative(name, expr, box).decide()
    assert not found.ok
    assert words in found.note


def points(box):
    ends = [(max(float(low), -10.0), min(float(high), 10.0)) for low, high in box.values()]
    return np.random.default_rng(0).uniform(*np.transpose(ends), size=(200, len(ends)))


def test_a_false_square_and_a_negative_weight_are_no_proof():
    assert Nonnegative("square", x**2 + 2 * x + 1, {x: (-oo, oo)}, squares=[(1, x + 1)]).decide().ok
    assert "leave" in Nonnegative("square", x**2 + 2 * x, {x: (-oo, oo)}, squares=[(1, x + 1)]).decide().note
    assert not Nonnegative("weight", -((x + 1) ** 2), {x: (-oo, oo)}, squares=[(-1, x + 1)]).decide().ok
    assert not Nonnegative("weight", x * y**2, {x: (-1, 1), y: (0, 1)}, squares=[(x, y)]).decide().ok


def test_identities_of_words_need_their_rules():
    A, B = symbols("A B", commutative=False)
    assert Equal("order matters", A * B * A, A * B * A).decide().ok
    assert not Equal("order matters", A * B, B * A).decide().ok
    assert Equal("with a rule", A * A * B * B, Integer(1), {(A, B): 1}).decide().ok
    assert not Equal("without it", A * B, Integer(1)).decide().ok
    with pytest.raises(ArithmeticError, match="come to an end"):
        Equal("growing", A * B, B, {(A, B): 2 * A * B}).decide()


def test_a_gradient_that_agrees_on_draws_only_is_no_proof():
    Z = derive.Matrix("Z", "n", "d")
    square = derive.squared_norm(Z)
    assert Derived("twice the matrix", derive.grad(square, Z), 2 * Z).decide().ok
    almost = Derived("nearly", derive.grad(square, Z), (2 + 1e-12) * Z).decide()
    assert not almost.ok
    assert "differ" in almost.note


def test_limits_and_numbers():
    assert Limit("tanh", tanh(x) / x, x, 0, Integer(1)).decide().ok
    assert not Limit("tanh", tanh(x) / x, x, 0, Rational(99, 100)).decide().ok
    ball = Enclosed("π", lambda f: f.arb.pi(), "3.14159265358979", "π")
    assert ball.decide().ok
    assert not Enclosed("π", lambda f: f.arb.pi(), "3.1415926535898", "π").decide().ok
    assert not Enclosed("no number", lambda f: f.arb(-1).log(), "0", "log −1").decide().ok


# --- From claims to verdicts


def claims_of(*claims):
    """A list of claims as a function of its own."""
    return lambda: list(claims)


@pytest.fixture
def mine():
    """A statement of one's own, taken out of the register afterward."""
    before = dict(_REGISTER)

    @identity("mine-proved", source="here", inside=lambda rng: proof_sample())
    def measured(lab, p):
        """One.

        $$1 = 1$$

        Assumes: Nothing.
        Proof: None.
        """
        return 0.0

    yield measured
    _REGISTER.clear()
    _REGISTER.update(before)


def proof_sample():
    from srr.theory import Sample

    return Sample(x=1.0)


def test_a_proof_makes_a_verdict_and_a_gap_breaks_it(mine):
    assert next(verify([mine])).finding.verdict == "holds"
    proves("mine-proved")(claims_of(by_hand("See\n  there."), Nonnegative("size", x, {x: (0, 1)})))
    result = next(verify([mine], Lab("torch", "float32")))
    assert result.finding.verdict == "proved"
    assert [step.how for step in result.proof.steps] == ["by hand", "symbolic"]
    assert result.proof.steps[0].words == "See there."
    mine.claims = claims_of(Nonnegative("size", x, {x: (-1, 1)}))
    broken = next(verify([mine], fresh=True))
    assert not broken.passed
    assert "a step of its proof does not hold" in broken.finding.note
    mine.measure = lambda lab, p: 1.0
    assert next(verify([mine], fresh=True)).finding.note == "the bound is exceeded inside the assumptions"


def test_labels_must_be_known_and_proved_once(mine):
    with pytest.raises(ValueError, match="registered statements"):
        proves("mine-unknown")(claims_of())

    def other():
        return []

    proves("mine-proved")(other)
    proves("mine-proved")(other)  # the same module, run again
    with pytest.raises(ValueError, match="a second one"):
        proves("mine-proved")(claims_of())


def test_a_proof_is_kept_by_content(tmp_path):
    calls = []

    def claims():
        calls.append(1)
        return [Nonnegative("tangent", x - log(1 + x), {x: (0, 5)})]

    first = prove(claims)
    assert prove(claims) == first
    assert len(calls) == 1
    proof._PROVED.clear()
    assert prove(claims) == first  # from the file
    assert len(calls) == 1
    again = prove(claims, fresh=True)
    assert len(calls) == 2
    assert [s.ok for s in again.steps] == [s.ok for s in first.steps] == [True]
    (file,) = (tmp_path / "srr" / "proofs").iterdir()
    proof._PROVED.clear()
    file.write_text("not a proof", encoding="utf-8")
    assert prove(claims).holds
    assert len(calls) == 3
    assert json.loads(file.read_text(encoding="utf-8"))["boxes"] == first.boxes


def test_a_proof_survives_json():
    found = prove(claims_of(by_hand("so"), Nonnegative("tangent", x - log(1 + x), {x: (0, 5)})), fresh=True)
    assert Proof.of(json.loads(json.dumps(found.as_dict()))) == found
    assert found.method == "enclosed"
    assert found.depth > 0
    assert f"{found.boxes} boxes" in found.summary
    assert "REJECTED" in str(Step("w", "1 < 0", "symbolic", False, note="no"))


def test_without_its_libraries_there_is_no_proof(monkeypatch):
    monkeypatch.setattr(proof.importlib.util, "find_spec", lambda name: None)
    assert prove(claims_of(Nonnegative("size", x, {x: (0, 1)}))) is None


def test_a_symbol_without_ends_is_an_error():
    with pytest.raises(ValueError, match="name every symbol"):
        Nonnegative("size", x + Symbol("q"), {x: (0, 1)}).decide()
