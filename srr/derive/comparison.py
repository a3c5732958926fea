"""Comparison of a derived expression with a closed form, and what is wrong where they differ."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from srr._array.namespace import Array, Namespace, namespace, to_numpy
from srr.derive.code import array_dims, compile, functions  # noqa: A004 - its public name
from srr.derive.expressions import (
    SCALAR,
    Atom,
    Expr,
    Shape,
    Size,
    Symbol,
    Term,
    as_expr,
    atoms,
    collect,
    gathered,
    letter,
    multiply,
    named,
    power_of,
    rebuild,
    symbols,
    term,
)
from srr.derive.normal import vanishes
from srr.derive.operations import Function, rebuilt
from srr.derive.printing import show_atom, show_term


@dataclass(frozen=True)
class Verdict:
    """What a comparison found; true where the two are equal.

    Attributes:
        equal: whether they are.
        how: "symbolic" where one normal form shows it, "numeric" where draws decide.
        difference: largest relative difference on the draws.
        draws: number of draws compared.
        correction: what to change in the closed form so that they are equal, None where nothing tried fits.
    """

    equal: bool
    how: str
    difference: float
    draws: int
    correction: str | None = None

    def __bool__(self) -> bool:
        return self.equal

    def __str__(self) -> str:
        measured = f"largest relative difference {self.difference:.1e} on {self.draws} draws"
        if self.equal and self.how == "symbolic":
            return f"equal, symbolically: one normal form; {measured}"
        if self.equal:
            return f"equal, numerically: {measured}"
        hint = f"; {self.correction}" if self.correction else "; no common correction fits"
        return f"different: {measured}{hint}"


Draw = dict[str, Any]


def equal(
    derived: Expr,
    closed: Expr | Callable[..., Array | float],
    *,
    draws: int = 3,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    rtol: float = 1e-9,
    xp: Namespace = None,
) -> Verdict:
    """Compare a derived expression with a closed form: by their normal forms, then on random draws.

    Args:
        derived: the expression taken as right.
        closed: another expression, or a function of arrays whose arguments have the names of the symbols.
        draws: number of random draws.
        seed: seed of the draws.
        sizes: values of sizes by name; small and different ones otherwise.
        rtol: largest relative difference of what is equal.
        xp: namespace of the arrays, NumPy by default.

    Returns:
        The verdict; where they differ, with the common mistake that explains it: a factor, a sign, a transpose, one
        scalar in place of another, in the whole, in one term or inside an inverse.

    Raises:
        ValueError: two shapes, no draws, or draws on which neither is finite.
    """
    if draws < 1:
        raise ValueError(f"draws must be >= 1; got {draws}")
    expression = closed if isinstance(closed, Expr) else None
    turned = expression is not None and expression.shape != derived.shape
    if expression is not None and turned and expression.shape != derived.shape[::-1]:
        raise ValueError(f"two shapes: {named(derived)} and {named(expression)}")
    symbolic = expression is not None and not turned and vanishes(derived - expression)
    points = _points((derived, *([expression] if expression is not None else [])), draws, seed, sizes, xp)
    right = _compiled(derived)
    rows = [(point, value) for point in points if (value := _steady(right, point)) is not None]
    if not rows:
        raise ValueError("no draw gave a finite value: give sizes= that make the inverses exist, or positive=True")
    evaluate = _called(closed) if expression is None else _compiled(expression)
    difference = max(_differences(rows, evaluate))
    if difference <= rtol:
        return Verdict(True, "symbolic" if symbolic else "numeric", difference, len(rows))
    for text, candidate in _candidates(derived, closed):
        if all(gap <= rtol for gap in _differences(rows, candidate)):
            return Verdict(False, "numeric", difference, len(rows), text)
    return Verdict(False, "numeric", difference, len(rows))


_SIZES = (7, 5, 3, 4, 2, 6, 8, 9, 10)


def _points(
    xs: Sequence[Expr], draws: int, seed: int, sizes: Mapping[str, int] | None, xp: Namespace
) -> Iterator[Draw]:
    """Random values for every symbol, unknown function and free index; sizes in falling and in rising order."""
    known = gathered(*xs)
    names = list(dict.fromkeys(dim for s in known.values() for dim in array_dims(s) if isinstance(dim, str)))
    unknown = {f.code_name: f for x in xs for f in functions(x)}
    lone = {size for x in xs for size in _sizes_of(x)} - set(names)
    rng = np.random.default_rng(seed)
    numbers = [*_SIZES, *range(max(_SIZES) + 1, max(_SIZES) + len(names))][: len(names)]
    for i in range(draws):
        values = dict(zip(names, numbers if i % 2 == 0 else reversed(numbers), strict=True))
        values |= dict.fromkeys(lone, 4) | dict(sizes or {})
        point: Draw = dict(values)
        for s in known.values():
            shape = [values[dim] if isinstance(dim, str) else dim for dim in array_dims(s)]
            drawn = rng.uniform(0.5, 1.5, size=shape) if s.positive or s.column else rng.standard_normal(shape)
            if s.symmetric:
                drawn = drawn @ drawn.T / len(drawn) + np.eye(len(drawn))
            point[s.name] = float(drawn) if not shape else drawn if xp is None else xp.asarray(drawn)
        point |= {f.code_name: _stand_in(f) for f in unknown.values()}
        for x in xs:
            over = {s.index: s.over for s in symbols(x)}
            point |= {k: values.get(str(over[k]), 1) - 1 for k in x.free}
        yield point


def _sizes_of(x: Expr) -> Iterator[str]:
    """Names of sizes, as numbers and in shapes."""
    yield from (a.name for a in atoms(x) if isinstance(a, Size))
    shapes = [x.shape, *(a.shape for a in atoms(x)), *(part.shape for a in atoms(x) for part in a.parts)]
    yield from (dim for shape in shapes for dim in shape if isinstance(dim, str))


def _stand_in(f: Function) -> Callable[[Array], Array]:
    """sin(x + 0.3) and its derivatives, in the place of a function that is only named."""

    def function(x: Array) -> Array:
        return namespace(x).sin(x + 0.3 + f.order * np.pi / 2)

    return function


Evaluate = Callable[[Draw], "np.ndarray[Any, Any] | None"]


def _compiled(x: Expr) -> Evaluate:
    """Value at a point; None where an inverse does not exist or an entry is not finite."""
    function, names = compile(x), x.arguments

    def evaluate(point: Draw) -> np.ndarray[Any, Any] | None:
        try:
            value = to_numpy(function(**{name: point[name] for name in names}))
        except np.linalg.LinAlgError:
            return None
        return value if np.all(np.isfinite(value)) and np.max(np.abs(value), initial=0.0) < 1e12 else None

    return evaluate


def _steady(evaluate: Evaluate, point: Draw) -> np.ndarray[Any, Any] | None:
    """Value at a point where it can be trusted: small changes of the point change it little."""
    value = evaluate(point)
    moved = evaluate({k: v if callable(v) or isinstance(v, int) else v * (1 + 1e-13) for k, v in point.items()})
    if value is None or moved is None:
        return None
    return value if np.max(np.abs(moved - value), initial=0.0) <= 1e-9 * np.max(np.abs(value), initial=0.0) else None


def _called(closed: Any) -> Evaluate:
    names = inspect.signature(closed).parameters
    everything = any(p.kind is p.VAR_KEYWORD for p in names.values())

    def evaluate(point: Draw) -> np.ndarray[Any, Any] | None:
        return to_numpy(closed(**{k: v for k, v in point.items() if everything or k in names}))

    return evaluate


def _differences(rows: Sequence[tuple[Draw, np.ndarray[Any, Any]]], evaluate: Evaluate) -> Iterator[float]:
    """Largest difference over the largest entry, draw by draw; infinite where shapes differ."""
    for point, value in rows:
        other = evaluate(point)
        if other is None or other.shape != value.shape:
            yield float("inf")
            continue
        scale = max(float(np.max(np.abs(value), initial=0.0)), float(np.max(np.abs(other), initial=0.0)))
        yield float(np.max(np.abs(value - other), initial=0.0)) / scale if scale else 0.0


_FACTORS = {Fraction(c): f"multiply it by {c}" for c in ("1/2", "2", "-1/2", "-2", "1/4", "4")}
_FACTORS = {Fraction(-1): "its sign is wrong", **_FACTORS}


def _candidates(derived: Expr, closed: Expr | Callable[..., Array | float]) -> Iterator[tuple[str, Evaluate]]:
    """Common corrections of a closed form, the plainest first."""
    base = _compiled(closed) if isinstance(closed, Expr) else _called(closed)
    hints = _Hints.of(derived, *((closed,) if isinstance(closed, Expr) else ()))
    for c, text in _FACTORS.items():
        yield text, _scaled(base, as_expr(c))
    yield "transpose it", lambda point: None if (value := base(point)) is None else value.T
    names = sorted({s.name for s in hints.scalars if isinstance(s, Symbol) and s.index is None})
    for s, t in itertools.permutations(names, 2):
        yield f"write {t} for {s}", lambda point, s=s, t=t: base(point | {s: point[t]})  # type: ignore[misc]
    for s, t in itertools.combinations(names, 2):
        yield f"exchange {s} and {t}", lambda point, s=s, t=t: base(point | {s: point[t], t: point[s]})  # type: ignore[misc]
    for s, e in itertools.product(names, (2, 0.5)):
        wanted = f"{s}**2" if e == 2 else f"sqrt({s})"
        yield f"write {wanted} for {s}", lambda point, s=s, e=e: base(point | {s: point[s] ** e})  # type: ignore[misc]
    for c, m in itertools.product((Fraction(1), Fraction(1, 2), Fraction(2), Fraction(-1)), hints.factors()):
        yield f"multiply it by {c * m}", _scaled(base, c * m)
    if isinstance(closed, Expr):
        yield from ((text, _compiled(edited)) for text, edited in _edits(closed, hints))


def _scaled(base: Evaluate, factor: Expr) -> Evaluate:
    scale_at = _compiled(factor)

    def evaluate(point: Draw) -> np.ndarray[Any, Any] | None:
        value, scale = base(point), scale_at(point)
        return None if value is None or scale is None else np.asarray(scale * value)

    return evaluate


@dataclass(frozen=True)
class _Hints:
    """Scalars that could be mistaken for each other, and the products of them that stand in front of words."""

    scalars: tuple[Symbol | Size, ...]
    products: tuple[Expr, ...]

    @staticmethod
    def of(*xs: Expr) -> _Hints:
        """All that occur."""
        terms = [t for x in xs for t in _terms(x)]
        found = {a: None for t in terms for a, _ in t.scalars if isinstance(a, Symbol | Size)}
        kept = (tuple((a, e) for a, e in t.scalars if a in found and not a.free) for t in terms)
        products = dict.fromkeys(term(SCALAR, Term(Fraction(1), scalars)) for scalars in kept if len(scalars) > 1)
        return _Hints(tuple(sorted(found, key=lambda a: a.key)), tuple(products))

    def factors(self) -> list[Expr]:
        """What a factor too many or too few may be."""
        powers = [power_of(letter(a), Fraction(e)) for a in self.scalars if not a.free for e in (1, -1, 2, -2)]
        return powers + [power_of(m, Fraction(e)) for m in self.products for e in (1, -1)]

    def others(self, a: Atom) -> list[Symbol | Size]:
        """The scalars that can stand in the place of one."""
        if not isinstance(a, Symbol):
            return [b for b in self.scalars if isinstance(a, Size) and b != a and not b.free]
        members = (replace(b, index=a.index) if isinstance(b, Symbol) and a.over else b for b in self.scalars)
        return [b for b in members if b != a and (b.over if isinstance(b, Symbol) else None) == a.over]


def _terms(x: Expr) -> Iterator[Term]:
    """Terms at every depth."""
    for t in x.terms:
        yield t
        for a in t.atoms:
            for part in a.parts:
                yield from _terms(part)


def _edits(x: Expr, hints: _Hints, depth: int = 3) -> Iterator[tuple[str, Expr]]:
    """The expression with one mistake in one term undone; also inside the inverses and functions it is made of."""
    for i, t in enumerate(x.terms):
        others = x.terms[:i] + x.terms[i + 1 :]
        shown = ("-" if t.coefficient < 0 else "") + show_term(t, x.shape)
        for text, new in _term_edits(t, x.shape, hints):
            yield f"in the term {shown}: {text}", collect(x.shape, (*others, *new.terms))
        for text, new in _inner_edits(t, x.shape, hints, depth) if depth else ():
            yield text, collect(x.shape, (*others, *new.terms))


def _term_edits(t: Term, shape: Shape, hints: _Hints) -> Iterator[tuple[str, Expr]]:
    """A term with another factor, another scalar, or one letter transposed."""
    for c, text in (*_FACTORS.items(), (Fraction(0), "leave it out")):
        yield text, Expr(shape, (t,)) * as_expr(c)
    for j, (a, e) in enumerate(t.scalars):
        for b in hints.others(a):
            changed = (*t.scalars[:j], (b, e), *t.scalars[j + 1 :])
            yield f"write {show_atom(b)} for {show_atom(a)}", term(shape, replace(t, scalars=changed))
    for m in hints.factors():
        yield f"multiply it by {m}", multiply(Expr(shape, (t,)), m, shape)
    for j, a in enumerate(t.word):
        if a.shape == a.shape[::-1] and a.flipped() != a:
            changed_word = (*t.word[:j], a.flipped(), *t.word[j + 1 :])
            yield f"transpose {show_atom(a)}", Expr(shape, (replace(t, word=changed_word),))


def _inner_edits(t: Term, shape: Shape, hints: _Hints, depth: int) -> Iterator[tuple[str, Expr]]:
    for target in dict.fromkeys(t.atoms):
        for p, part in enumerate(target.parts):
            for text, edited in _edits(part, hints, depth - 1):

                def change(a: Atom, p: int = p, target: Atom = target, edited: Expr = edited) -> Expr:
                    if a != target:
                        return letter(a)
                    return rebuilt(a, *(edited if q == p else kept for q, kept in enumerate(a.parts)))

                with contextlib.suppress(ValueError):  # nothing is left of what is inverted
                    yield text, rebuild(shape, t, change)
