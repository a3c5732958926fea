"""Expressions as functions of arrays: source in the array API standard, every inverse once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from srr._array.namespace import Array, namespace
from srr.derive.expressions import (
    Atom,
    Bound,
    Diag,
    Diagonal,
    Dim,
    Expr,
    Group,
    Hadamard,
    Inverse,
    LogDet,
    LogSumExp,
    Ones,
    Shape,
    Size,
    Softmax,
    Symbol,
    Term,
    Trace,
    Transposed,
    Value,
    atoms,
    checked_name,
    flip,
    fresh,
    gathered,
    reindex,
)
from srr.derive.operations import Apply, Function
from srr.derive.printing import quotient


def written(x: Expr, name: str = "function") -> tuple[str, tuple[str, ...]]:
    """Source of the function that computes an expression, and the names of its arguments."""
    writer = _Writer(x)
    return writer.source(name), writer.arguments


_CODE = {
    "exp": "xp.exp({0})",
    "log": "xp.log({0})",
    "tanh": "xp.tanh({0})",
    "absolute": "xp.abs({0})",
    "relu": "xp.where({0} > 0, {0}, 0.0 * {0})",
    "sign": "xp.sign({0})",
    "step": "xp.astype({0} > 0, {0}.dtype)",
}


def _code_number(x: Fraction) -> str:
    if x.denominator == 1:
        return str(x.numerator)
    return repr(float(x)) if Fraction(float(x)) == x else f"({x.numerator} / {x.denominator})"


def _factor(code: str) -> str:
    """Code in brackets where it is a sum or a product outside of all brackets."""
    depth = 0
    for character in code:
        depth += (character in "([") - (character in ")]")
        if character == " " and not depth:
            return f"({code})"
    return f"({code})" if code.startswith("-") else code


class _Scope:
    """Lines of the function or of one loop, and what they have named already."""

    def __init__(self, index: str | None = None, parent: _Scope | None = None) -> None:
        self.index, self.parent = index, parent
        self.lines: list[str] = []
        self.memo: dict[tuple[str, str], str] = {}

    def names(self) -> set[str]:
        """Indices of this loop and those around it."""
        above = self.parent.names() if self.parent else set()
        return above | ({self.index} if self.index else set())

    def home(self, free: frozenset[str]) -> _Scope:
        """The outermost place where these indices are known."""
        if self.parent is None or self.index in free:
            return self
        return self.parent.home(free)


class _Writer:
    """Writes an expression as a function: every inverse, softmax and the like once, outside the loops it can leave."""

    def __init__(self, x: Expr) -> None:
        self.x = x
        self.symbols = gathered(x)
        self.functions = sorted({f.code_name for f in functions(x)})
        self.places: dict[str, str] = {}
        for symbol in self.symbols.values():
            for axis, dim in enumerate(array_dims(symbol)):
                if isinstance(dim, str):
                    self.places.setdefault(dim, f"{symbol.name}.shape[{axis}]")
        clash = set(self.symbols) & (set(self.places) | x.free | set(self.functions))
        if clash:
            raise ValueError(f"{', '.join(sorted(clash))} names a symbol and a size, index or function: rename one")
        arrays = [s.name for s in self.symbols.values() if s.dims or s.over is not None]
        self.like = f"dtype={arrays[0]}.dtype, device={arrays[0]}.device" if arrays else "dtype=xp.float64"
        self.used: list[str] = []
        self.arguments: tuple[str, ...] = ()
        self.root = self.scope = _Scope()
        self.counts: dict[str, int] = {}

    def source(self, name: str) -> str:
        """The function."""
        result = self.expr(self.x)
        if not self.x.shape and (not self.x.terms or self.like == "dtype=xp.float64"):
            result = f"{self.one()} * ({result})"
        if len(self.x.shape) == 2 and self.x.shape[1] == 1:
            result = f"xp.reshape({result}, (-1,))"
        given = [size for size in self.used if size not in self.places]
        self.arguments = (*self.symbols, *self.functions, *sorted(self.x.free), *given)
        lines = [
            f"{s.name} = xp.reshape({s.name}, (-1, 1))"
            for s in self.symbols.values()
            if len(s.dims) == 2 and s.dims[1] == 1 and s.over is None
        ]
        lines += [f"{size} = {self.places[size]}" for size in self.used if size in self.places]
        lines += [*self.root.lines, f"return {result}"]
        body = "\n".join("    " + line for line in lines)
        return f"def {checked_name(name)}(*, {', '.join((*self.arguments, 'xp'))}):\n{body}\n"

    def one(self) -> str:
        """The number one as an array."""
        return self.constant("one", "", f"xp.ones((), {self.like})")

    def size(self, name: str) -> str:
        """A size, read from an array or asked for."""
        if name not in self.used:
            self.used.append(name)
        return name

    def count(self, dim: Dim) -> str:
        """A size in a shape."""
        return self.size(dim) if isinstance(dim, str) else str(dim)

    def constant(self, prefix: str, dim: Dim, text: str) -> str:
        """An array that depends on sizes only."""
        name = f"{prefix}_{dim}".rstrip("_")
        if (name, "") not in self.root.memo:
            self.root.memo[name, ""] = name
            self.root.lines.append(f"{name} = {text}")
        return name

    def identity(self, n: Dim) -> str:
        """The identity matrix."""
        return self.constant("eye", n, f"xp.eye({self.count(n)}, {self.like})")

    def local(self, prefix: str, owner: Atom | Expr, build: Callable[[], str]) -> str:
        """The name of a value that is computed once."""
        home, here = self.scope.home(owner.free), self.scope
        key = (prefix, owner.key)
        if key not in home.memo:
            self.scope = home
            text = build()
            self.scope = here
            home.memo[key] = self.fresh(prefix)
            home.lines.append(f"{home.memo[key]} = {text}")
        return home.memo[key]

    def fresh(self, prefix: str) -> str:
        """A name that is not used."""
        self.counts[prefix] = self.counts.get(prefix, 0) + 1
        return f"{prefix}_{self.counts[prefix]}"

    def value(self, x: Expr) -> str:
        """The name of an expression's value, an array also of a scalar."""
        return self.local("x", x, lambda: self.expr(x) if x.shape else f"{self.one()} * ({self.expr(x)})")

    def expr(self, x: Expr) -> str:
        """A sum; terms under one sum over heads share its loop."""
        if not x.terms:
            return f"xp.zeros(({self.count(x.shape[0])}, {self.count(x.shape[1])}), {self.like})" if x.shape else "0.0"
        groups: dict[tuple[Bound, ...], list[Term]] = {}
        for t in sorted(x.terms, key=lambda t: t.coefficient < 0):
            groups.setdefault(t.bound, []).append(t)
        text = self.terms(groups.pop((), []), x.shape)
        for bound, terms in groups.items():
            loop = self.loop(bound, terms, x.shape)
            text = f"{text} + {loop}" if text else loop
        return text

    def loop(self, bound: tuple[Bound, ...], terms: list[Term], shape: Shape) -> str:
        """The name of a sum over heads."""
        outside, result, loops = self.scope, self.fresh("sum"), []
        terms = [replace(t, bound=()) for t in terms]
        for k, K in bound:
            taken = self.scope.names() | set(self.symbols) | set(self.places) | {k for k, _ in bound} - {k}
            if k in taken:
                new = fresh(taken.union(*(t.free for t in terms)))
                terms, k = list(reindex(Expr(shape, tuple(terms)), k, new).terms), new
            self.scope = _Scope(k, self.scope)
            loops.append((self.scope, f"for {k} in range({self.count(K)}):"))
        block = [f"{result} = {result} + {self.terms(terms, shape)}"]
        for scope, head in reversed(loops):
            block = [head, *("    " + line for line in (*scope.lines, *block))]
        self.scope = outside
        outside.lines += [f"{result} = 0.0", *block]
        return result

    def terms(self, terms: Sequence[Term], shape: Shape) -> str:
        """Terms with their signs."""
        text = ""
        for t in terms:
            body, minus = self.term(t, shape), t.coefficient < 0
            text += f" {'-' if minus else '+'} {body}" if text else f"-{body}" if minus else body
        return text

    def term(self, t: Term, shape: Shape) -> str:
        """One product without its sign."""
        c = abs(t.coefficient)
        above: list[str] = [_code_number(c)] if c != 1 else []
        below: list[str] = []
        for a, e in t.scalars:
            base = _factor(self.atom(a))
            (above if e > 0 else below).append(base if abs(e) == 1 else f"{base}**{_code_number(abs(e))}")
        head = quotient(above, below, "1.0")
        word = self.word(t.word) if t.word else self.identity(shape[0]) if shape else ""
        return " * ".join(part for part in (head, word) if part) or "1.0"

    def atom(self, a: Atom) -> str:  # noqa: C901 - one rule for each operation
        """An atom as code."""
        match a:
            case Symbol():
                if a.column:
                    return f"{a.name}[:, {a.index}:{a.index} + 1]"
                return a.name if a.index is None else f"{a.name}[{', '.join([a.index, *(':' for _ in a.dims)])}]"
            case Transposed():
                return f"{self.atom(a.letter)}.mT"
            case Size():
                return self.size(a.name)
            case Ones():
                return self.constant("ones", a.n, f"xp.ones(({self.count(a.n)}, 1), {self.like})")
            case Group():
                return f"({self.expr(a.inside)})"
            case LogDet():
                return self.local("logdet", a, lambda: f"xp.linalg.slogdet({self.expr(a.inside)})[1]")
            case Inverse():
                return self.local("inv", a, lambda: f"xp.linalg.inv({self.expr(a.inside)})")
            case Trace() if a.inside.shape == (1, 1) or len(a.inside.terms[0].word) == 1:
                return f"xp.linalg.trace({self.expr(a.inside)})"
            case Trace():
                return f"xp.sum({self.turned(a.inside)})"
            case Diag():
                return f"({self.identity(a.shape[0])} * {_factor(self.expr(a.inside))})"
            case Diagonal():
                return f"xp.sum({self.turned(a.inside)}, axis=-1, keepdims=True)"
            case Hadamard():
                return "(" + " * ".join(_factor(self.expr(part)) for part in a.factors) + ")"
            case Apply():
                return self.local(a.function.code_name, a, lambda: self.applied(a.function, self.value(a.inside)))
            case Softmax() | LogSumExp():
                return self.local(a.name, a, lambda: self.rows(a))
        raise TypeError(f"no code for {a.name}")

    def turned(self, x: Expr) -> str:
        """A ∘ Bᵀ of the word A B, whose rows sum to the diagonal of A B: one product less."""
        word = x.terms[0].word
        if len(word) == 1:
            return f"{self.identity(x.shape[0])} * {self.word(word)}"
        return f"{_factor(self.word(word[:1]))} * {_factor(self.word(flip(word[1:])))}"

    def applied(self, f: Function, argument: str) -> str:
        """A function of every entry."""
        if f.exponent is not None:
            return f"{argument} ** {_code_number(f.exponent)}"
        return _CODE.get(f.name, f"{f.code_name}({{0}})").format(argument)

    def rows(self, a: Softmax | LogSumExp) -> str:
        """A function of every row, its largest entry taken off before the exponential."""
        x = self.value(a.inside)
        if isinstance(a, Softmax):
            above = self.local("exp", a, lambda: f"xp.exp({x} - xp.max({x}, axis=-1, keepdims=True))")
            return f"{above} / xp.sum({above}, axis=-1, keepdims=True)"
        top = self.local("top", a, lambda: f"xp.max({x}, axis=-1, keepdims=True)")
        return f"{top} + xp.log(xp.sum(xp.exp({x} - {top}), axis=-1, keepdims=True))"

    def word(self, word: tuple[Atom, ...]) -> str:
        """A product of matrices; a diagonal one scales rows."""
        for i, a in enumerate(word):
            if isinstance(a, Diag) and len(word) > 1:
                scale = _factor(self.expr(a.inside))
                if i + 1 < len(word):
                    rows = f"({scale} * {_factor(self.word(word[i + 1 :]))})"
                    return f"{self.word(word[:i])} @ {rows}" if i else rows
                return f"({_factor(self.word(word[:i]))} * {scale}.mT)"
        return " @ ".join(self.atom(a) for a in word)


def array_dims(s: Symbol) -> tuple[Dim, ...]:
    """The axes of a symbol's array."""
    dims = tuple(dim for dim in s.dims if dim != 1)
    if s.over is None:
        return dims
    return (*dims, s.over) if s.column else (s.over, *dims)


def functions(x: Expr) -> Iterator[Function]:
    """Functions that are only named, with repetitions."""
    return (a.function for a in atoms(x) if isinstance(a, Apply) and not a.function.known)


def compile(x: Expr, name: str = "function") -> Callable[..., Array]:  # noqa: A001
    """Function of arrays that computes an expression: ``compile(g)(Z=..., alpha=...)``.

    Args:
        x: the expression.
        name: name of the function, for tracebacks.

    Returns:
        A function of keyword arguments, one for each symbol, unknown function and free index: arrays of one library
        without batch axes, numbers for scalars. A column is returned with shape (n,).

    Raises:
        ValueError: when called with a missing or unknown argument, or with arrays that disagree on a size.
    """
    writer = _Writer(x)
    scope: dict[str, Any] = {}
    exec(writer.source(name), scope)

    def function(**values: Value) -> Array:
        odd = set(writer.arguments).symmetric_difference(values)
        if odd:
            need = ", ".join(writer.arguments)
            raise ValueError(f"the arguments are {need}; missing or unknown: {', '.join(sorted(odd))}")
        _check_sizes(writer.symbols.values(), values)
        arrays: list[Any] = [values[s.name] for s in writer.symbols.values() if s.dims or s.over is not None]
        result: Array = scope[name](**values, xp=namespace(*arrays) if arrays else namespace(np.ones(1)))
        return result

    function.__name__ = name
    function.__doc__ = repr(x)
    return function


def _check_sizes(symbols: Iterable[Symbol], values: Mapping[str, Value]) -> None:
    """Arrays must have the axes of their symbols, and agree on every size."""
    known: dict[str, tuple[int, str]] = {}
    for s in symbols:
        shape = tuple(getattr(values[s.name], "shape", ()))
        dims = array_dims(s)
        got = tuple(m for m in shape if m != 1) if len(shape) != len(dims) and len(s.dims) == 2 else shape
        if len(got) != len(dims):
            raise ValueError(f"{s.name} must have the shape ({', '.join(map(str, dims))}); got {shape}")
        for dim, m in zip(dims, got, strict=True):
            before, owner = known.setdefault(str(dim), (m if isinstance(dim, str) else dim, s.name))
            if before != m:
                raise ValueError(f"{s.name} has {dim} = {m}, and {owner} has {dim} = {before}")
