"""The normal form in which two expressions are compared."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import TypeVar

from srr.derive.expressions import (
    SCALAR,
    Atom,
    Diag,
    Dim,
    Expr,
    Group,
    Inverse,
    LogDet,
    Shape,
    Term,
    Trace,
    Transposed,
    add,
    around,
    as_expr,
    bare,
    collect,
    eye,
    flip,
    framed,
    letter,
    multiply,
    order,
    product,
    rebuild,
    reindex,
    scale_of,
    size,
    zeros,
)
from srr.derive.operations import diag, hadamard, inv, log, logdet, rebuilt, trace, trace_of, turns

Form = TypeVar("Form", Expr, tuple[Atom, ...])

# Where an expression is left as it is, which costs completeness only.
_STEPS = 500  # rewriting steps
_FORMS = 60  # forms of one trace or determinant
_ORDERS = 3  # sums around one term whose indices are tried in every order


def normal_form(x: Expr) -> Expr:
    """The form in which two expressions are compared.

    Inverses stand as far left as the push-through identity takes them and are canceled against what they invert; in a
    determinant and a trace the first form in alphabetical order is taken; indices of sums are named in order. It is
    sound, equal forms are equal expressions; it is not complete.

    Args:
        x: an expression.

    Returns:
        An expression that is equal to it wherever both are defined.
    """
    shape = SCALAR if x.shape == (1, 1) else x.shape
    parts = (_settled(rebuild(x.shape, t, _normal_atom)) for t in x.terms)
    return collect(shape, (_canonical(t, shape) for part in parts for t in part.terms))


def _canonical(t: Term, shape: Shape) -> Term:
    """The indices of a term's own sums named in the order that reads first."""
    if not t.bound:
        return t
    options = []
    for turn in itertools.permutations(t.bound) if len(t.bound) <= _ORDERS else (t.bound,):
        body = Expr(shape, (replace(t, bound=()),))
        for i, (k, _) in enumerate(turn):
            body = reindex(body, k, f"_{i}")
        options.append(replace(body.terms[0], bound=tuple((f"_{i}", K) for i, (_, K) in enumerate(turn))))
    return min(options, key=lambda option: option.key)


@lru_cache(maxsize=4096)  # one inverse stands in many words
def _normal_atom(a: Atom) -> Expr:
    if isinstance(a, Transposed):
        return _normal_atom(a.letter).T
    if isinstance(a, Trace):
        return _normal_trace(a.inside)
    parts = [normal_form(part) for part in a.parts]
    if isinstance(a, Inverse):
        return _normal_inverse(parts[0])
    if isinstance(a, LogDet):
        return _normal_logdet(parts[0])
    return rebuilt(a, *parts)


def _settled(x: Expr) -> Expr:
    """Every word rewritten until no rule applies."""
    done: list[Term] = []
    todo = list(x.terms)
    for _ in range(_STEPS):
        if not todo:
            break
        t = todo.pop()
        new = next((y for rule in (_cancel, _push_left, _join) if (y := rule(t.word)) is not None), None)
        if new is None:
            done.append(t)
        else:
            todo.extend(framed(t, new).terms)
    return collect(x.shape, (*done, *todo))


def _cancel(word: tuple[Atom, ...]) -> Expr | None:
    """(c + s·w + …)⁻¹ w = (I − (…)⁻¹ (c + …)) / s for the longest word w of the sum."""
    for i, a in enumerate(word):
        if isinstance(a, Inverse):
            candidates = [t for t in a.inside.terms if t.word and not t.bound]
            if not candidates:
                continue
            longest = max(candidates, key=lambda t: (len(t.word), t.key))
            end = i + 1 + len(longest.word)
            if word[i + 1 : end] == longest.word:
                rest = Expr(a.inside.shape, tuple(t for t in a.inside.terms if t is not longest))
                new = (eye(a.shape[0]) - letter(a) @ rest) / scale_of(longest)
                return around(word[:i], new, word[end:])
    return None


def _push_left(word: tuple[Atom, ...]) -> Expr | None:
    """A (c + BA)⁻¹ = (c + AB)⁻¹ A, one letter A at a time."""
    for i in range(1, len(word)):
        if isinstance(word[i], Inverse):
            new = _pushed(word, i)
            if new is not None:
                return around(word[: i - 1], new, word[i + 1 :])
    return None


def _pushed(word: tuple[Atom, ...], i: int) -> Expr | None:
    """Letter i − 1 and the inverse at i, exchanged."""
    b, a = word[i - 1], word[i]
    turned = _turned(a.parts[0], b)
    return None if turned is None else _normal_inverse(turned) @ letter(b)


def _turned(X: Expr, b: Atom) -> Expr | None:
    """The c + AB of X = c + BA, where A is the letter that all words of X end in; None where that is no identity."""
    n = b.shape[0]
    if n == 1 or (all(t.word for t in X.terms) and b.shape[0] != b.shape[1]):
        return None
    parts = []
    for t in X.terms:
        if not t.word:
            parts.append(framed(t, eye(n)))
        elif t.word[-1] == b and not b.free & {k for k, _ in t.bound}:
            parts.append(framed(t, product((n, n), (b, *t.word[:-1]))))
        else:
            return None
    return add((n, n), parts)


def _join(word: tuple[Atom, ...]) -> Expr | None:
    """Diagonal matrices: diag(x) diag(y) = diag(x ∘ y), diag(x) y = x ∘ y."""
    for i, a in enumerate(word):
        if not isinstance(a, Diag):
            continue
        if i + 1 < len(word) and isinstance(word[i + 1], Diag):
            both = hadamard(a.inside, word[i + 1].parts[0])
            return around(word[:i], diag(both), word[i + 2 :])
        end = next((j for j in range(i + 1, len(word)) if word[j].shape[1] == 1), None)
        if end is not None:
            column = product((a.shape[0], 1), word[i + 1 : end + 1])
            return around(word[:i], hadamard(a.inside, column), word[end + 1 :])
        start = next((j for j in range(i - 1, -1, -1) if word[j].shape[0] == 1), None)
        if start is not None:
            row = product((1, a.shape[0]), word[start:i])
            return around(word[:start], hadamard(a.inside, row.T).T, word[i + 1 :])
    return None


def _content(X: Expr) -> Expr:
    """The scalar in front of the identity of a sum, or in front of its first term: what is divided out of it."""
    units = [t for t in X.terms if not t.word]
    t = units[0] if units else X.terms[0]
    return scale_of(t) if len(units) <= 1 and not t.bound and len(X.terms) > 1 else as_expr(1)


def _normal_inverse(X: Expr) -> Expr:
    c = _content(X)
    return inv(X / c) / c


def _normal_logdet(X: Expr) -> Expr:
    c = _content(X)
    value = zeros() if c == as_expr(1) else size(X.shape[0]) * log(c)
    return value + logdet(_first_form(X / c))


def _first_form(X: Expr) -> Expr:
    """The first in alphabetical order of I + AB, I + BA and their transposes."""

    def near(form: Expr) -> Iterator[Expr]:
        yield form.T
        lasts = {t.word[-1] for t in form.terms if t.word}
        turned = _turned(form, lasts.pop()) if len(lasts) == 1 else None
        if turned is not None:
            yield turned

    forms = {X.key: X} if all(t.word for t in X.terms) else _reached(X, lambda form: form.key, near)
    return forms[min(forms)]


def _reached(start: Form, key: Callable[[Form], str], near: Callable[[Form], Iterable[Form]]) -> dict[str, Form]:
    """All that is reached from a form, by its key."""
    seen, todo = {key(start): start}, [start]
    while todo and len(seen) < _FORMS:
        for form in near(todo.pop()):
            if key(form) not in seen:
                seen[key(form)] = form
                todo.append(form)
    return seen


def _normal_trace(x: Expr) -> Expr:
    """Trace of one word (the inside of a Trace)."""
    (t,) = x.terms
    if x.shape == (1, 1):
        sides = []
        for word in (t.word, flip(t.word)):
            column = normal_form(bare((word[0].shape[1], 1), word[1:]))
            sides.append(_normal_atom(word[0]) @ column)
        return min(sides, key=lambda side: (len(side.terms), side.key))
    inside = add(x.shape, (rebuild(x.shape, t, _normal_atom),))
    return add(SCALAR, (framed(t, _normal_trace_of(t.word, x.shape[0])) for t in inside.terms))


def _normal_trace_of(word: tuple[Atom, ...], n: Dim) -> Expr:
    plain = trace_of(word, n)
    if not word or not isinstance(plain.terms[0].scalars[0][0], Trace) or any(a.shape[0] == 1 for a in word):
        return plain
    forms = _trace_forms(word)
    for form in sorted(forms):
        for turned in turns(forms[form]):
            canceled = _cancel(turned) or _join(turned)
            if canceled is not None:
                return normal_form(trace(canceled))
    best = forms[min(forms)]
    if len(best) == 1 and isinstance(best[0], Inverse):
        first = _first_form(best[0].inside)
        return trace_of((Inverse(first),), first.shape[0]) + size(best[0].shape[0]) - size(first.shape[0])
    return trace_of(best, best[0].shape[0])


def _trace_forms(word: tuple[Atom, ...]) -> dict[str, tuple[Atom, ...]]:
    """Words of one trace, reached by turning, transposing and pushing inverses through."""

    def first(w: tuple[Atom, ...]) -> tuple[Atom, ...]:
        return min(turns(w), key=order)

    def near(w: tuple[Atom, ...]) -> Iterator[tuple[Atom, ...]]:
        for turned in turns(w):
            pushed = _pushed(turned, 1) if len(turned) > 1 and isinstance(turned[1], Inverse) else None
            if pushed is not None and len(pushed.terms) == 1 and not pushed.terms[0].scalars:
                yield first((*pushed.terms[0].word, *turned[2:]))

    return _reached(first(word), lambda w: "@".join(a.key for a in w), near)


def vanishes(x: Expr) -> bool:
    """Whether the normal form is zero, after sums in denominators are multiplied out."""
    x = normal_form(x)
    depth: dict[Atom, Fraction] = {}
    for t in x.terms:
        for a, e in t.scalars:
            if isinstance(a, Group) and e < 0:
                depth[a] = max(depth.get(a, Fraction(0)), -e)
    for a, e in depth.items():
        factor = Expr(SCALAR, (Term(Fraction(1), ((a, e),)),))
        x = add(x.shape, (multiply(Expr(x.shape, (t,)), factor, x.shape) for t in x.terms))
    return not (normal_form(x) if depth else x).terms
