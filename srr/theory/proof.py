r"""Proofs by machine: what a person reduces to scalars, the machine decides for every value of a box.

A proof is a list of claims. Those :func:`by_hand` are words, shown and not checked; every other one is decided: an
inequality over a box by exact polynomial arithmetic or by interval branch and bound on python-flint's balls, an
identity of matrices or numbers by a normal form, a counter-example by a ball. :func:`proves` hands the list to
statements of the ledger, whose verdict then reads *proved* where all claims hold and the random problems agree::

    @proves("mine-size")
    def size():
        x, c = symbols("x c")
        return [
            by_hand("R is the sum of ½ log(1 + x) over the eigenvalues x of α ZᵀZ, whose sum is α‖Z‖²."),
            Nonnegative("the logarithm lies below its tangent", c * x - log(1 + x), {x: (0, oo)}, sharp={c: 1}),
        ]

Every claim knows a form of itself that is false by one percent (:meth:`Claim.spoiled`); the tests hold the machine to
rejecting it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import itertools
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from srr import derive
from srr._array.files import write_atomically
from srr.theory.statement import _REGISTER

__all__ = [
    "Claim",
    "Derived",
    "Enclosed",
    "Equal",
    "Limit",
    "Nonnegative",
    "Proof",
    "Step",
    "Words",
    "by_hand",
    "proves",
    "prove",
]

Ball = Any
"""An ``arb`` of python-flint, which has no types."""
Symbolic = Any
"""An expression of SymPy, which has no types that mypy reads."""
Rules = Mapping[tuple[Symbolic, Symbolic], Symbolic]
BITS = 128
MOST, DEEPEST = 20_000, 60  # boxes of one claim, and halvings of one box
ORDER = 4  # derivatives asked for where an inequality is an equality at the end of a box
BY_HAND, SYMBOLIC, ENCLOSED = "by hand", "symbolic", "enclosed"


class Outcome(NamedTuple):
    """What the machine made of one claim."""

    ok: bool
    how: str
    boxes: int = 0
    depth: int = 0
    note: str = ""


@dataclass(frozen=True)
class Step:
    """One claim of a proof as it was decided, in plain values.

    Attributes:
        words: what it says.
        claim: the exact inequality or identity; empty for a step by hand.
        how: by hand, symbolic, or enclosed.
        ok: whether it holds; a step by hand is taken as said.
        boxes: boxes of the branch and bound, 0 where none was needed.
        depth: halvings of the smallest box.
        seconds: time of the decision.
        note: the means, or why the claim was rejected.
    """

    words: str
    claim: str
    how: str
    ok: bool
    boxes: int = 0
    depth: int = 0
    seconds: float = 0.0
    note: str = ""

    def __str__(self) -> str:
        """One line: the words, and what was decided by which means."""
        if self.how == BY_HAND:
            return f"by hand: {self.words}"
        means = f"{self.boxes} boxes, {self.depth} halvings" if self.boxes else self.note
        rejected = "" if self.ok else f"; REJECTED: {self.note}"
        return f"{self.how}: {self.words}: {self.claim} ({means}){rejected}"


@dataclass(frozen=True)
class Proof:
    """The decided steps of a statement.

    Attributes:
        steps: in the order of the argument.
    """

    steps: tuple[Step, ...]

    @property
    def holds(self) -> bool:
        """Whether every step that the machine decided holds; steps by hand are taken as said."""
        return all(step.ok for step in self.steps)

    @property
    def method(self) -> str:
        """Enclosed where a ball or a branch and bound took part, else symbolic."""
        return ENCLOSED if any(step.how == ENCLOSED for step in self.steps) else SYMBOLIC

    @property
    def boxes(self) -> int:
        """Boxes of all branch and bounds."""
        return sum(step.boxes for step in self.steps)

    @property
    def depth(self) -> int:
        """Halvings of the smallest box."""
        return max((step.depth for step in self.steps), default=0)

    @property
    def seconds(self) -> float:
        """Time that the decisions took when they were made."""
        return sum(step.seconds for step in self.steps)

    @property
    def summary(self) -> str:
        """The method, what is by hand, and the boxes, in one phrase."""
        decided = sum(step.how != BY_HAND for step in self.steps)
        hand = len(self.steps) - decided
        boxes = f", {self.boxes} boxes, {self.depth} halvings at most" if self.boxes else ""
        return f"{self.method}: {decided} steps by machine, {hand} by hand{boxes}"

    def as_dict(self) -> dict[str, Any]:
        """The proof as plain, JSON-ready values."""
        about = {"holds": self.holds, "method": self.method, "boxes": self.boxes, "depth": self.depth}
        return about | {"seconds": self.seconds, "steps": [asdict(step) for step in self.steps]}

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Proof:
        """The proof that :meth:`as_dict` wrote."""
        return cls(tuple(Step(**step) for step in found["steps"]))


# --- Claims


@dataclass(frozen=True)
class Claim(ABC):
    """What a step of a proof says.

    Attributes:
        words: in a few words.
    """

    words: str

    @property
    @abstractmethod
    def claim(self) -> str:
        """The exact inequality or identity."""

    @abstractmethod
    def decide(self) -> Outcome:
        """Whether it holds."""

    @abstractmethod
    def spoiled(self) -> Claim:
        """The same claim, false by one percent; the machine must reject it."""


@dataclass(frozen=True)
class Words(Claim):
    """A step by hand, which is shown and not checked."""

    @property
    def claim(self) -> str:
        """Nothing that a machine decides."""
        return ""

    def decide(self) -> Outcome:
        """Taken as said."""
        return Outcome(True, BY_HAND)

    def spoiled(self) -> Claim:
        """Words cannot be tested."""
        return self


def by_hand(words: str) -> Words:
    """A step that a person took: the reduction from matrices to scalars, or a textbook theorem by its name.

    Args:
        words: the step.

    Returns:
        A claim that is shown and not checked.
    """
    return Words(" ".join(words.split()))


@dataclass(frozen=True)
class Nonnegative(Claim):
    r"""An expression is at least zero on a whole box.

    Polynomials over polynomials are decided exactly: one variable by counting real roots (Sturm), several by
    coefficients without a negative one after the box is moved to the positive orthant, or by the sum of squares given.
    Everything else, and what that leaves open, goes to branch and bound: a ball over the box, derivatives where the
    expression vanishes at the box's end, two halves otherwise.

    Attributes:
        expr: the expression, of rational numbers, symbols and elementary functions.
        box: ends of every symbol, rational or infinite.
        sharp: constants with their values; with one of them a hundredth smaller the claim must be false.
        squares: pairs (c, q) with expr = Σ c q², every c non-negative on the box.
        split: interior points where the expression touches zero, in one variable.
    """

    expr: Symbolic
    box: Mapping[Symbolic, tuple[Any, Any]]
    sharp: Mapping[Symbolic, Any] = field(default_factory=dict)
    squares: Sequence[tuple[Symbolic, Symbolic]] = ()
    split: Sequence[Any] = ()

    @property
    def claim(self) -> str:
        """The inequality with its box."""
        ends = ", ".join(f"{low} <= {x} <= {high}" for x, (low, high) in self.box.items())
        return f"{self.expr.subs(self.sharp)} >= 0 for {ends}"

    def decide(self) -> Outcome:
        """Exactly where polynomials allow it, else by branch and bound."""
        sympy = _sympy()
        expr = self.expr.subs({c: sympy.sympify(v) for c, v in self.sharp.items()})
        box = {x: (sympy.sympify(low), sympy.sympify(high)) for x, (low, high) in self.box.items()}
        if expr.free_symbols - set(box):
            raise ValueError(f"the box must name every symbol of {expr}; got {list(box)}")
        if self.squares:
            rest = sympy.expand(sympy.together(expr - sum(c * q**2 for c, q in self.squares)))
            ok = rest == 0 and all(_by_coefficients(sympy.sympify(c), box) for c, _ in self.squares)
            return Outcome(ok, SYMBOLIC, note="a sum of squares" if ok else f"the squares leave {rest}")
        return _exactly(expr, box) or _branch_and_bound(expr, box, [sympy.sympify(s) for s in self.split])

    def spoiled(self) -> Claim:
        """With the first sharp constant one percent smaller."""
        constant, value = next(iter(self.sharp.items()))
        smaller = dict(self.sharp) | {constant: value * _sympy().Rational(99, 100)}
        return replace(self, sharp=smaller)


@dataclass(frozen=True)
class Equal(Claim):
    r"""Two expressions are one, as numbers or as words of matrices that do not commute.

    Attributes:
        left: an expression of SymPy or a matrix of blocks; symbols with ``commutative=False`` are matrices of any size.
        right: the same.
        rules: products of two letters and what they are, such as ``{(Qt, Q): 1}`` for QᵀQ = I.
    """

    left: Symbolic
    right: Symbolic
    rules: Rules = field(default_factory=dict)

    @property
    def claim(self) -> str:
        """The identity with its rules."""
        where = ", ".join(f"{a}*{b} = {c}" for (a, b), c in self.rules.items())
        return f"{_flat(self.left)} = {_flat(self.right)}" + (f" where {where}" if where else "")

    def decide(self) -> Outcome:
        """By expansion, the rules applied until none fits."""
        sympy = _sympy()
        rest = self.left - self.right
        entries = list(rest) if isinstance(rest, sympy.MatrixBase) else [rest]
        left = [_reduced(entry, self.rules) for entry in entries]
        ok = all(entry == 0 for entry in left)
        return Outcome(ok, SYMBOLIC, note="one normal form" if ok else f"they differ by {left}")

    def spoiled(self) -> Claim:
        """With the left side one percent larger."""
        return replace(self, left=self.left * _sympy().Rational(101, 100))


@dataclass(frozen=True)
class Derived(Claim):
    """A derivative that :mod:`srr.derive` finds is the closed form, for matrices of every size.

    Attributes:
        derived: what the rules of differentials give.
        closed: the closed form.
    """

    derived: derive.Expr
    closed: derive.Expr

    @property
    def claim(self) -> str:
        """The identity."""
        return f"{self.derived} = {self.closed}"

    def decide(self) -> Outcome:
        """By the normal form; agreement on random draws alone is not a proof."""
        rest = derive.normal_form(self.derived - self.closed)
        ok = not rest.terms
        return Outcome(ok, SYMBOLIC, note="one normal form" if ok else f"they differ by {rest}")

    def spoiled(self) -> Claim:
        """With the closed form one percent larger."""
        return replace(self, closed=1.01 * self.closed)


@dataclass(frozen=True)
class Limit(Claim):
    """A limit, which is what an order says.

    Attributes:
        expr: an expression of one symbol.
        variable: the symbol.
        to: where it goes.
        value: the limit.
    """

    expr: Symbolic
    variable: Symbolic
    to: Any
    value: Any

    @property
    def claim(self) -> str:
        """The limit as an equation."""
        return f"lim {self.expr} = {self.value} as {self.variable} -> {self.to}"

    def decide(self) -> Outcome:
        """By SymPy's series and limits."""
        sympy = _sympy()
        found = sympy.limit(self.expr, self.variable, self.to)
        ok = sympy.simplify(found - self.value) == 0
        return Outcome(bool(ok), SYMBOLIC, note="a series" if ok else f"the limit is {found}")

    def spoiled(self) -> Claim:
        """With a limit one percent larger."""
        return replace(self, value=self.value * _sympy().Rational(101, 100))


@dataclass(frozen=True)
class Enclosed(Claim):
    """A number found in ball arithmetic exceeds another: a counter-example with an error bound.

    Attributes:
        number: computes the ball, given the module flint; called at rising precision.
        above: what it exceeds.
        names: what the number is, as text.
    """

    number: Callable[[Any], Ball]
    above: str
    names: str

    @property
    def claim(self) -> str:
        """The comparison."""
        return f"{self.names} > {self.above}"

    def decide(self) -> Outcome:
        """By balls of up to 1024 bits."""
        flint, ball = _flint(), None
        for bits in (128, 256, 512, 1024):
            with flint.ctx.workprec(bits):
                ball, limit = self.number(flint), flint.arb(self.above)
                if ball > limit:
                    return Outcome(True, ENCLOSED, boxes=1, note=f"a ball at {bits} bits: {ball.str(8)}")
                if ball < limit:
                    break
        return Outcome(False, ENCLOSED, boxes=1, note=f"the number is {ball.str(8) if ball is not None else None}")

    def spoiled(self) -> Claim:
        """With a margin one percent beyond the number."""
        flint = _flint()
        with flint.ctx.workprec(BITS):
            beyond = self.number(flint) * flint.arb("1.01")
        return replace(self, above=beyond.str(12, radius=False))


# --- Deciding inequalities exactly


def _sympy() -> Any:
    return importlib.import_module("sympy")


def _flint() -> Any:
    return importlib.import_module("flint")


def _flat(x: Symbolic) -> str:
    return str(x.tolist() if isinstance(x, _sympy().MatrixBase) else x)


def _reduced(x: Symbolic, rules: Rules) -> Symbolic:
    """The expanded form with the rules applied until nothing changes."""
    sympy = _sympy()
    if not rules and x.is_commutative:
        return sympy.simplify(x)
    for _ in range(50):
        x = sympy.expand(x)
        terms = [_rewritten(term, rules) for term in sympy.Add.make_args(x)]
        changed = sympy.expand(sum(terms, sympy.S.Zero))
        if changed == x:
            return changed
        x = changed
    raise ArithmeticError(f"the rules do not come to an end on {x}")


def _rewritten(term: Symbolic, rules: Rules) -> Symbolic:
    """One product with the first rule that fits applied."""
    numbers, letters = term.args_cnc()
    letters = [base for power in letters for base in _letters(power)]
    for i, pair in enumerate(itertools.pairwise(letters)):
        if pair in rules:
            sympy = _sympy()
            return sympy.Mul(*numbers, *letters[:i]) * rules[pair] * sympy.Mul(*letters[i + 2 :])
    return term


def _letters(power: Symbolic) -> list[Symbolic]:
    base, exponent = power.as_base_exp()
    return [base] * int(exponent) if exponent.is_Integer and exponent > 0 else [power]


def _exactly(expr: Symbolic, box: Mapping[Symbolic, tuple[Any, Any]]) -> Outcome | None:
    """The decision for quotients of polynomials, None where polynomials do not decide."""
    sympy = _sympy()
    top, bottom = sympy.fraction(sympy.together(expr))
    symbols = sorted(expr.free_symbols, key=str)
    if not symbols:
        return Outcome(bool(expr >= 0), SYMBOLIC, note="a number")
    if not all(part.is_polynomial(*symbols) and part.is_rational_function(*symbols) for part in (top, bottom)):
        return None
    if any(not c.is_Rational for part in (top, bottom) for c in sympy.Poly(part, *symbols).coeffs()):
        return None
    if len(symbols) == 1:
        (x,) = symbols
        signs = [_sign(sympy.Poly(part, x), *box[x]) for part in (top, bottom)]
        ok = None not in signs and signs[1] != 0 and signs[0] * signs[1] >= 0  # type: ignore[operator]
        return Outcome(bool(ok), SYMBOLIC, note="real roots counted" if ok else "the polynomial changes its sign")
    if _by_coefficients(top, box) and _by_coefficients(bottom, box):
        return Outcome(True, SYMBOLIC, note="no negative coefficient")
    return None


def _by_coefficients(expr: Symbolic, box: Mapping[Symbolic, tuple[Any, Any]]) -> bool:
    """Whether a polynomial has no negative coefficient once every symbol is counted from the lower end of the box."""
    sympy = _sympy()
    symbols = sorted(expr.free_symbols, key=str)
    if not symbols:
        return bool(expr >= 0)
    if any(not box[x][0].is_finite for x in symbols):
        return False
    moved = sympy.expand(expr.subs({x: x + box[x][0] for x in symbols}, simultaneous=True))
    return all(c >= 0 for c in sympy.Poly(moved, *symbols).coeffs())


def _sign(p: Any, low: Any, high: Any) -> int | None:
    """Sign of a polynomial on an interval: 1, −1, 0 for the zero polynomial; None where it has both signs.

    Roots of even order do not change it; those of odd order are counted strictly inside.
    """
    if p.is_zero:
        return 0
    _, factors = p.factor_list()
    for factor, order in factors:
        if order % 2:
            count = factor.count_roots(low, high)
            count -= sum(bool(end.is_finite) and factor.eval(end) == 0 for end in {low, high})
            if count:
                return None
    inner = _inner_points(low, high)
    value = next(v for x in inner if (v := p.eval(x)) != 0)
    return 1 if value > 0 else -1


def _inner_points(low: Any, high: Any) -> list[Any]:
    """Many points strictly inside an interval; a polynomial vanishes at finitely many."""
    r = _sympy().Rational
    if low.is_finite and high.is_finite:
        return [low + (high - low) * r(i, 1009) for i in range(1, 1009)]
    if low.is_finite:
        return [low + r(i, 7) for i in range(1, 1009)]
    if high.is_finite:
        return [high - r(i, 7) for i in range(1, 1009)]
    return [r(i, 7) for i in range(-504, 504)]


# --- Branch and bound on balls


@dataclass
class _Search:
    """One expression with its derivatives as functions of balls, and the count of boxes."""

    expr: Symbolic
    symbols: list[Symbolic]
    boxes: int = 0
    depth: int = 0
    note: str = ""

    def __post_init__(self) -> None:
        self.flint = _flint()
        self.derivatives: dict[tuple[int, ...], tuple[Symbolic, Callable[..., Ball]]] = {}
        self.ends: dict[tuple[int, int, Any], bool] = {}

    def value(self, order: tuple[int, ...], balls: Sequence[Ball]) -> Ball:
        """A partial derivative over a box of balls."""
        return self._derivative(order)[1](dict(zip(self.symbols, balls, strict=True)))

    def _derivative(self, order: tuple[int, ...]) -> tuple[Symbolic, Callable[..., Ball]]:
        if order not in self.derivatives:
            expr = self.expr
            for x, times in zip(self.symbols, order, strict=True):
                expr = expr.diff(x, times) if times else expr
            expr = _sympy().together(expr) if sum(order) else expr
            self.derivatives[order] = expr, _evaluator(self.flint, expr)
        return self.derivatives[order]

    def at_an_end(self, order: int, end: Any, sign: int = 1) -> bool:
        """Whether a derivative in one variable, signed so that it points into the box, is at least zero at a point.

        A ball decides where it is clear; where the ball holds zero the exact value does.
        """
        key = (order, sign, end)
        if key not in self.ends:
            ball = sign**order * self.value((order,), self.box([(end, end)]))
            if ball > 0 or ball < 0:
                self.ends[key] = bool(ball > 0)
            else:
                exact = sign**order * self._derivative((order,))[0].subs(self.symbols[0], end)
                self.ends[key] = bool(_sympy().simplify(exact).is_nonnegative)
        return self.ends[key]

    def box(self, ends: Sequence[tuple[Any, Any]]) -> list[Ball]:
        """Balls that hold the ends."""
        exact = self.flint.fmpq
        balls = []
        for low, high in ends:
            a, b = (self.flint.arb(exact(int(end.p), int(end.q))) for end in (low, high))
            balls.append(a.union(b) if a is not b else a)
        return balls

    def holds(self, ends: Sequence[tuple[Any, Any]], depth: int) -> bool:
        """Whether the expression is at least zero on a box: at once, by its derivatives, or on both halves."""
        self.boxes, self.depth = self.boxes + 1, max(self.depth, depth)
        balls = self.box(ends)
        value = self.value((0,) * len(ends), balls)
        if value >= 0 or self._from_an_end(ends, balls):
            return True
        middle = [(low + high) / 2 for low, high in ends]
        if self.value((0,) * len(ends), self.box([(m, m) for m in middle])) < 0:
            at = ", ".join(f"{x} = {float(m):.6g}" for x, m in zip(self.symbols, middle, strict=True))
            self.note = f"it is negative at {at}"
            return False
        if depth >= DEEPEST or self.boxes >= MOST:
            self.note = f"undecided after {self.boxes} boxes and {depth} halvings"
            return False
        wide = max(range(len(ends)), key=lambda i: ends[i][1] - ends[i][0])
        low, high = ends[wide]
        halves = ((low, middle[wide]), (middle[wide], high))
        return all(self.holds([*ends[:wide], half, *ends[wide + 1 :]], depth + 1) for half in halves)

    def _from_an_end(self, ends: Sequence[tuple[Any, Any]], balls: Sequence[Ball]) -> bool:
        """Whether it is at least zero at an end and moves away from zero over the box."""
        if len(ends) == 1:
            return any(self._away(balls, end, sign) for end, sign in zip(ends[0], (1, -1), strict=True))
        for i, (low, high) in enumerate(ends):  # a partial derivative of one sign: the face decides
            slope = self.value(tuple(int(j == i) for j in range(len(ends))), balls)
            face = low if slope >= 0 else high if slope <= 0 else None
            if face is not None and low != high:
                flat = [*ends[:i], (face, face), *ends[i + 1 :]]
                if self.value((0,) * len(ends), self.box(flat)) >= 0 or self._from_an_end(flat, self.box(flat)):
                    return True
        return False

    def _away(self, balls: Sequence[Ball], end: Any, sign: int) -> bool:
        """Taylor from one end: no derivative there points below zero, and the next one does nowhere on the box."""
        for order in range(1, ORDER + 1):
            if not self.at_an_end(order - 1, end, sign):
                return False
            if sign**order * self.value((order,), balls) >= 0:
                return True
        return False


def _branch_and_bound(expr: Symbolic, box: Mapping[Symbolic, tuple[Any, Any]], split: Sequence[Any]) -> Outcome:
    """Boxes that hold or are halved; a ray is decided by a value at its end and the exact sign of a slope."""
    flint = _flint()
    symbols = sorted(box, key=str)
    with flint.ctx.workprec(BITS):
        search = _Search(expr, symbols)
        pieces = [tuple(box[x]) for x in symbols]
        ok = True
        if len(symbols) == 1:
            (x,) = symbols
            low, high = pieces[0]
            points = [low, *sorted(split), high]
            for a, b in itertools.pairwise(points):
                ok = ok and (search.holds([(a, b)], 0) if b.is_finite and a.is_finite else _ray(search, expr, x, a, b))
        else:
            search.note = "neither coefficients nor squares decide it, and the box is not finite"
            ok = all(end.is_finite for ends in pieces for end in ends) and search.holds(pieces, 0)
    return Outcome(ok, ENCLOSED, search.boxes, search.depth, "branch and bound" if ok else search.note)


def _ray(search: _Search, expr: Symbolic, x: Symbolic, low: Any, high: Any) -> bool:
    """At least zero at the finite end, and never less further out, by the exact sign of the slope."""
    search.boxes += 1
    sign, end = (1, low) if low.is_finite else (-1, high)
    slope = _sympy().together(sign * expr.diff(x))
    outcome = _exactly(slope, {x: (low, high)})
    ok = search.at_an_end(0, end) and outcome is not None and outcome.ok
    search.note = search.note if ok else f"negative at {end}, or falling on the ray"
    return ok


def _evaluator(flint: Any, expr: Symbolic) -> Callable[[Mapping[Symbolic, Ball]], Ball]:
    """An expression of SymPy as a function of balls."""
    sympy = _sympy()
    if expr.is_Rational:
        number = flint.fmpq(int(expr.p), int(expr.q))
        return lambda _: flint.arb(number)
    if expr.is_Symbol:
        return lambda at: at[expr]
    parts = [_evaluator(flint, part) for part in expr.args]
    if expr.is_Add:
        return lambda at: sum((part(at) for part in parts[1:]), parts[0](at))
    if expr.is_Mul:

        def product(at: Mapping[Symbolic, Ball]) -> Ball:
            total = parts[0](at)
            for part in parts[1:]:
                total = total * part(at)
            return total

        return product
    if expr.is_Pow and expr.exp.is_Integer:
        exponent = int(expr.exp)
        return lambda at: parts[0](at) ** exponent
    if expr.is_Pow and (2 * expr.exp).is_Integer:
        twice = int(2 * expr.exp)
        return lambda at: parts[0](at).sqrt() ** twice
    name = {sympy.log: "log", sympy.exp: "exp", sympy.tanh: "tanh", sympy.sin: "sin", sympy.cos: "cos"}.get(expr.func)
    if name is None:
        raise ValueError(f"balls must know the function; got {expr.func}")
    return lambda at: getattr(parts[0](at), name)()


# --- Proofs of statements


def proves(*labels: str) -> Callable[[Callable[[], Sequence[Claim]]], Callable[[], Sequence[Claim]]]:
    """Hand a list of claims to the statements that it proves.

    Args:
        labels: of statements that are registered already and have no proof.

    Returns:
        A decorator for a function without arguments that returns the claims.

    Raises:
        ValueError: an unknown label, or a second proof.
    """

    def attach(claims: Callable[[], Sequence[Claim]]) -> Callable[[], Sequence[Claim]]:
        for label in labels:
            if label not in _REGISTER:
                raise ValueError(f"labels must name registered statements; got {label!r}")
            known = _REGISTER[label].claims
            if known is not None and _origin(known) != _origin(claims):  # a module may be run again
                raise ValueError(f"a statement has one proof; got a second one of {label!r}")
            _REGISTER[label].claims = claims
        return claims

    return attach


def _origin(claims: Callable[[], Sequence[Claim]]) -> tuple[str | None, str]:
    return inspect.getsourcefile(claims), claims.__qualname__


def prove(claims: Callable[[], Sequence[Claim]], *, fresh: bool = False) -> Proof | None:
    """Decide every claim, or read what an earlier run of the same claims by the same machine decided.

    Args:
        claims: the function that lists them.
        fresh: decide again, whatever was kept.

    Returns:
        The proof; None where python-flint or SymPy is missing.
    """
    if any(importlib.util.find_spec(name) is None for name in ("flint", "sympy")):
        return None
    digest = _digest(claims)
    if not fresh and (kept := _kept(digest)) is not None:
        return kept
    proof = _PROVED[digest] = Proof(tuple(_decided(claim) for claim in claims()))
    file = _cache() / f"{digest}.json"
    with contextlib.suppress(OSError):  # a folder that cannot be written costs time, not a proof
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda f: f.write(json.dumps(proof.as_dict()).encode()))
    return proof


_PROVED: dict[str, Proof] = {}


def _kept(digest: str) -> Proof | None:
    """What an earlier run decided, in this process or in the user's cache."""
    file = _cache() / f"{digest}.json"
    if digest not in _PROVED and file.is_file():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # an unreadable file is as good as none
            _PROVED[digest] = Proof.of(json.loads(file.read_text(encoding="utf-8")))
    return _PROVED.get(digest)


def _decided(claim: Claim) -> Step:
    start = time.process_time()
    try:
        found = claim.decide()
    except ArithmeticError as error:
        found = Outcome(False, SYMBOLIC, note=f"{type(error).__name__}: {error}")
    seconds = time.process_time() - start
    return Step(claim.words, claim.claim, found.how, found.ok, found.boxes, found.depth, seconds, found.note)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "srr" / "proofs"


def _digest(claims: Callable[[], Sequence[Claim]]) -> str:
    """Changes with the file that states the claims, with the machine that decides them, and with its libraries."""
    stated = _file_digest(inspect.getsourcefile(claims) or "")
    return hashlib.sha256(f"{stated} {_machine_digest()} {claims.__qualname__}".encode()).hexdigest()


@lru_cache
def _file_digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@lru_cache
def _machine_digest() -> str:
    home = Path(derive.__file__)
    files = [Path(__file__), *(sorted(home.parent.glob("*.py")) if home.name == "__init__.py" else [home])]
    versions = [importlib.metadata.version(name) for name in ("sympy", "python-flint")]
    return " ".join([*versions, *(_file_digest(str(path)) for path in files)])
