"""Expressions as text and as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from srr.derive.expressions import (
    Atom,
    Expr,
    Group,
    Hadamard,
    Inverse,
    Ones,
    Shape,
    Size,
    Symbol,
    Term,
    Trace,
    Transposed,
)
from srr.derive.operations import Apply, Function

Style = Literal["text", "latex"]


def show(x: Expr, style: Style = "text") -> str:
    """The sum, positive terms first."""
    shown = ""
    for t in sorted(x.terms, key=lambda t: t.coefficient < 0):
        sign = "-" if t.coefficient < 0 else "+"
        body = show_term(t, x.shape, style)
        shown += f" {sign} {body}" if shown else body if sign == "+" else f"-{body}"
    return shown or "0"


def show_term(t: Term, shape: Shape, style: Style = "text") -> str:
    """A term without its sign."""
    above = [str(abs(t.coefficient.numerator))] if abs(t.coefficient.numerator) != 1 else []
    below = [str(t.coefficient.denominator)] if t.coefficient.denominator != 1 else []
    behind: list[str] = []
    for a, e in t.scalars:
        place = below if e < 0 else above if isinstance(a, Symbol | Size | Group) else behind
        place.append(_show_power(a, abs(e), style))
    letters = [show_atom(a, style) for a in t.word]
    if shape and not letters:
        letters = [f"I_{{{shape[0]}}}" if style == "latex" else "I"]
    if style == "latex":
        head = rf"\frac{{{' '.join(above) or '1'}}}{{{' '.join(below)}}}" if below else " ".join(above)
        sums = "".join(rf"\sum_{{{k}=1}}^{{{_latex_name(str(K))}}} " for k, K in t.bound)
        return sums + (" ".join([*([head] if head else []), *behind, *letters]) or "1")
    body = " * ".join(part for part in (quotient(above, below), *behind, " @ ".join(letters)) if part) or "1"
    for k, _ in t.bound:
        body = f'Sum("{k}", {body})'
    return body


def quotient(above: Sequence[str], below: Sequence[str], one: str = "1") -> str:
    """One product over another, in a line."""
    head = " * ".join(above)
    if not below:
        return head
    return f"{head or one} / {below[0] if len(below) == 1 else '(' + ' * '.join(below) + ')'}"


def _show_power(a: Atom, e: Fraction, style: Style) -> str:
    base = show_atom(a, style)
    if e == 1:
        return base
    if style != "latex":
        return f"{base}**{e}" if e.denominator == 1 else f"{base}**({e})"
    return f"{base}^{{{e}}}" if isinstance(a, Symbol | Size | Group) else rf"\left({base}\right)^{{{e}}}"


def show_atom(a: Atom, style: Style = "text") -> str:
    """A letter or a scalar factor."""
    parts = [show(part, style) for part in a.parts]
    return _latex(a, parts) if style == "latex" else _text(a, parts)


def _text(a: Atom, parts: Sequence[str]) -> str:
    match a:
        case Symbol():
            return a.name if a.index is None else f"{a.name}[{':, ' if a.column else ''}{a.index}]"
        case Transposed():
            return f"{show_atom(a.letter)}.T"
        case Size():
            return a.name
        case Ones():
            return f'ones("{a.n}")' if isinstance(a.n, str) else f"ones({a.n})"
        case Trace() if a.inside.shape == (1, 1):
            return f"({parts[0]})"
        case Apply() if a.function.exponent is not None:
            return f"power({parts[0]}, {a.function.exponent})"
        case _:
            return f"{a.name}({', '.join(parts)})"


_LATEX = {
    "logdet": r"\log\det",
    "trace": r"\operatorname{tr}",
    "softmax": r"\operatorname{softmax}",
    "logsumexp": r"\operatorname{logsumexp}",
    "diag": r"\operatorname{diag}",
    "diagonal": r"\operatorname{diagonal}",
    "exp": r"\exp",
    "log": r"\log",
    "tanh": r"\tanh",
    "absolute": r"\operatorname{abs}",
    "relu": r"\operatorname{ReLU}",
    "sign": r"\operatorname{sign}",
    "step": r"\mathbb{1}_{>0}",
}


def _latex(a: Atom, parts: Sequence[str]) -> str:
    match a:
        case Symbol():
            base = _latex_name(a.name)
            return base if a.index is None else f"{base}_{{{':' if a.column else ''}{a.index}}}"
        case Transposed():
            letter = show_atom(a.letter, "latex")
            return rf"{letter}^\top" if isinstance(a.letter, Symbol | Ones) else rf"{{{letter}}}^\top"
        case Size():
            return _latex_name(a.name)
        case Ones():
            return rf"\mathbf{{1}}_{{{a.n}}}"
        case Trace() if a.inside.shape == (1, 1):
            return parts[0]
        case Inverse():
            alone = len(a.inside.terms) == 1 and isinstance(a.inside.terms[0].word[0], Symbol)
            return f"{parts[0]}^{{-1}}" if alone else rf"\left({parts[0]}\right)^{{-1}}"
        case Hadamard():
            return r"\left(" + r" \odot ".join(parts) + r"\right)"
        case Apply() if a.function.exponent is not None:
            return rf"\left({parts[0]}\right)^{{\circ {a.function.exponent}}}"
        case Apply() if not a.function.known:
            return rf"{_latex_function(a.function)}\left({parts[0]}\right)"
        case _:
            return rf"{_LATEX.get(a.name, '')}\left({parts[0]}\right)"


def _latex_function(f: Function) -> str:
    return _latex_name(f.name) + "'" * f.order


_GREEK = re.compile(
    "alpha|beta|[gG]amma|[dD]elta|epsilon|zeta|eta|[tT]heta|iota|kappa|[lL]ambda|mu|nu|[xX]i|[pP]i|rho|[sS]igma|tau|"
    "[pP]hi|chi|[pP]si|[oO]mega"
)
_SPELLED = {"eps": r"\varepsilon", "lam": r"\lambda"}


def _latex_name(name: str) -> str:
    base, _, subscript = name.partition("_")
    if base in _SPELLED:
        base = _SPELLED[base]
    elif _GREEK.fullmatch(base):
        base = "\\" + base
    elif len(base) == 2 and base[0] == "d":  # a differential
        base = rf"\mathrm{{d}}{base[1]}"
    elif len(base) > 1:
        base = rf"\mathrm{{{base}}}"
    return rf"{base}_{{\mathrm{{{subscript}}}}}" if subscript else base
