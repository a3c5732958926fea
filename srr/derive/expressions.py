"""Expressions as expanded sums: a term is a coefficient, scalar factors and a word of letters, under its own sums."""

from __future__ import annotations

import itertools
import keyword
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, reduce
from typing import TypeAlias

from srr._array.namespace import Array

Dim: TypeAlias = str | int
"""A size: the name of one, or a number."""
Shape: TypeAlias = tuple[Dim, ...]
"""() of a scalar, (rows, columns) of a matrix."""
Bound: TypeAlias = tuple[str, Dim]
"""An index that a sum runs over, and how far."""
Value: TypeAlias = Array | float | Callable[[Array], Array]
"""What a symbol, a size or an index, and a function that is only named stand for."""
SCALAR: Shape = ()


@dataclass(frozen=True)
class Term:
    """One product of an expanded sum; an empty word is the identity, or nothing in a scalar."""

    coefficient: Fraction
    scalars: tuple[tuple[Atom, Fraction], ...] = ()
    word: tuple[Atom, ...] = ()
    bound: tuple[Bound, ...] = ()

    @cached_property
    def key(self) -> str:
        """The term without its coefficient, as text: what like terms share."""
        sums = "".join(f"Sum[{k}<{K}] " for k, K in self.bound)
        return sums + "*".join(f"{a.key}^{e}" for a, e in self.scalars) + " " + "@".join(a.key for a in self.word)

    def __hash__(self) -> int:
        return hash((self.coefficient, self.key))

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """Its scalar factors and its letters."""
        return (*(a for a, _ in self.scalars), *self.word)

    @cached_property
    def free(self) -> frozenset[str]:
        """Indices that no sum of this term runs over."""
        return frozenset().union(*(a.free for a in self.atoms)) - {k for k, _ in self.bound}


@dataclass(frozen=True)
class Expr:
    """A scalar or a matrix as an expanded sum; made by :class:`Matrix` and its like, combined by ``+ - * @ / ** .T``.

    Attributes:
        shape: () of a scalar, the names or numbers of (rows, columns) of a matrix.
        terms: the terms of the sum, like ones collected.
    """

    shape: Shape
    terms: tuple[Term, ...]

    def __add__(self, other: Expr | float | Fraction) -> Expr:
        other = as_expr(other)
        if not other.shape and self.shape and not other.terms:
            return self
        if not self.shape and other.shape and not self.terms:
            return other
        if self.shape != other.shape:
            raise ValueError(f"the terms of a sum must have one shape; got {named(self)} and {named(other)}")
        return collect(self.shape, (*self.terms, *other.terms))

    __radd__ = __add__

    def __neg__(self) -> Expr:
        return self * -1

    def __sub__(self, other: Expr | float | Fraction) -> Expr:
        return self + -as_expr(other)

    def __rsub__(self, other: Expr | float | Fraction) -> Expr:
        return -self + other

    def __mul__(self, other: Expr | float | Fraction) -> Expr:
        other = as_expr(other)
        if self.shape and other.shape:
            raise ValueError(
                f"* takes a scalar; write @ for the product of {named(self)} and {named(other)}, hadamard for entries"
            )
        return multiply(self, other, self.shape or other.shape)

    __rmul__ = __mul__

    def __truediv__(self, other: Expr | float | Fraction) -> Expr:
        return self * power_of(as_expr(other), Fraction(-1))

    def __rtruediv__(self, other: Expr | float | Fraction) -> Expr:
        return as_expr(other) * power_of(self, Fraction(-1))

    def __pow__(self, exponent: float | Fraction) -> Expr:
        if self.shape:
            raise ValueError(f"** takes a scalar; got {named(self)}: write power for its entries, @ for products")
        return power_of(self, fraction(exponent))

    def __matmul__(self, other: Expr) -> Expr:
        other = as_expr(other)
        if not self.shape or not other.shape:
            outer = self.shape[-1:] or other.shape[:1]
            if outer in ((), (1,)):  # a product with x.T @ y, which is a scalar here
                return self * other
            raise ValueError(f"@ takes two matrices; got {named(self)} and {named(other)}")
        if self.shape[1] != other.shape[0]:
            raise ValueError(
                f"{named(self)} @ {named(other)}: {self.shape[1]} columns do not meet {other.shape[0]} rows"
            )
        return multiply(self, other, (self.shape[0], other.shape[1]))

    @property
    def T(self) -> Expr:
        """The transpose."""
        if not self.shape:
            return self
        terms = (replace(t, word=flip(t.word)) for t in self.terms)
        return collect((self.shape[1], self.shape[0]), terms)

    def column(self, index: str) -> Expr:
        """Column of a matrix of memberships, one for each value of ``index``: ``Pi.column("k")``."""
        symbol = symbol_of(self, "a column is taken of")
        if symbol.index is not None or len(symbol.dims) != 2:
            raise ValueError(f"a column is taken of a matrix; got {named(self)}")
        n, K = symbol.dims
        return letter(replace(symbol, dims=(n, 1), index=checked_name(index), over=K, column=True, symmetric=False))

    def __hash__(self) -> int:
        return hash(self.key)

    @cached_property
    def key(self) -> str:
        """The expression as text, for sorting and comparing."""
        return " + ".join(f"{t.coefficient} {t.key}" for t in self.terms)

    @cached_property
    def free(self) -> frozenset[str]:
        """Indices that no sum runs over."""
        return frozenset().union(*(t.free for t in self.terms))

    # How it is shown and computed stands in printing.py and code.py.

    def __repr__(self) -> str:
        from srr.derive.printing import show

        return show(self)

    def latex(self) -> str:
        """The expression in LaTeX."""
        from srr.derive.printing import show

        return show(self, "latex")

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names that a call asks for, of symbols, unknown functions, free indices, and sizes that no array has."""
        from srr.derive.code import written

        return written(self)[1]

    def code(self, name: str = "function") -> str:
        """Source of a Python function that computes it, with the array API standard and arrays of any library.

        Args:
            name: name of the function.
        """
        from srr.derive.code import written

        return written(self, name)[0]

    def __call__(self, **values: Value) -> Array:
        """Value for given arrays and numbers: ``g(Z=..., alpha=...)``."""
        from srr.derive.code import compile  # noqa: A004 - its public name

        return compile(self)(**values)


def fraction(x: float | Fraction) -> Fraction:
    """A number as it is written: 0.1 is one tenth."""
    return Fraction(repr(x)) if isinstance(x, float) else Fraction(x)


def as_expr(x: Expr | float | Fraction) -> Expr:
    """An expression as it is, a number as one."""
    if isinstance(x, Expr):
        return x
    if isinstance(x, int | float | Fraction):
        return collect(SCALAR, (Term(fraction(x)),))
    raise TypeError(f"an expression or a number is wanted; got {type(x).__name__}")


def named(x: Expr) -> str:
    """An expression with its shape, for messages."""
    text = repr(x)
    short = text if len(text) < 40 else text[:37] + "..."
    return f"{short} ({' x '.join(map(str, x.shape)) or 'scalar'})"


# Letters of words and factors in front of them: data, and what they are when turned over or written with other indices.


class Atom:
    """A letter or a scalar factor; the rules of each kind stand in the file of the rule."""

    name: str

    @property
    def shape(self) -> Shape:
        """() or (rows, columns)."""
        return SCALAR

    @property
    def parts(self) -> tuple[Expr, ...]:
        """Expressions inside."""
        return ()

    @cached_property
    def key(self) -> str:
        """Text that tells it from every other atom, the sizes of its symbols included."""
        return f"{self.name}({', '.join(part.key for part in self.parts)})"

    @cached_property
    def free(self) -> frozenset[str]:
        """Free indices."""
        return frozenset().union(*(part.free for part in self.parts))

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Atom)
            and type(self) is type(other)
            and self.key == other.key
            and self.shape == other.shape
        )

    def __hash__(self) -> int:
        return hash(self.key)

    def with_parts(self, parts: tuple[Expr, ...]) -> Atom:
        """The same atom around other parts, as it stands."""
        return self

    def reindexed(self, old: str, new: str) -> Atom:
        """With a free index renamed."""
        return self.with_parts(tuple(reindex(part, old, new) for part in self.parts)) if old in self.free else self

    def flipped(self) -> Atom:
        """Transpose of a letter."""
        return Transposed(self)


@dataclass(frozen=True, eq=False)
class Symbol(Atom):
    """A named scalar, vector or matrix, or one member of a family of them."""

    name: str
    dims: Shape
    index: str | None = None
    over: Dim | None = None
    column: bool = False
    positive: bool = False
    symmetric: bool = False

    @property
    def shape(self) -> Shape:
        return self.dims

    @cached_property
    def key(self) -> str:
        index = "" if self.index is None else f"[{':, ' if self.column else ''}{self.index}]"
        return f"{self.name}{index}:{'x'.join(map(str, (*self.dims, self.over)))}{'s' * self.symmetric}"

    @cached_property
    def free(self) -> frozenset[str]:
        return frozenset() if self.index is None else frozenset({self.index})

    def reindexed(self, old: str, new: str) -> Atom:
        return replace(self, index=new) if self.index == old else self

    def flipped(self) -> Atom:
        return self if self.symmetric else Transposed(self)


@dataclass(frozen=True, eq=False)
class Transposed(Atom):
    """A letter that is not symmetric, transposed."""

    letter: Atom

    @property
    def shape(self) -> Shape:
        return self.letter.shape[::-1]

    @property
    def parts(self) -> tuple[Expr, ...]:
        return self.letter.parts

    @cached_property
    def key(self) -> str:
        return f"{self.letter.key}.T"

    @cached_property
    def free(self) -> frozenset[str]:
        return self.letter.free

    def reindexed(self, old: str, new: str) -> Atom:
        return Transposed(self.letter.reindexed(old, new))

    def flipped(self) -> Atom:
        return self.letter


@dataclass(frozen=True, eq=False)
class Size(Atom):
    """A size as a number."""

    name: str

    @cached_property
    def key(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class Ones(Atom):
    """The column of ones."""

    n: Dim

    @property
    def shape(self) -> Shape:
        return (self.n, 1)

    @cached_property
    def key(self) -> str:
        return f"ones({self.n})"


@dataclass(frozen=True, eq=False)
class Unary(Atom):
    """An operation on one expression."""

    inside: Expr

    @property
    def parts(self) -> tuple[Expr, ...]:
        return (self.inside,)

    @property
    def shape(self) -> Shape:
        return self.inside.shape

    def with_parts(self, parts: tuple[Expr, ...]) -> Atom:
        return replace(self, inside=parts[0])


class Group(Unary):
    """A scalar sum in brackets, as it stands in a denominator."""

    name = ""


class LogDet(Unary):
    """log |det X|."""

    name = "logdet"
    shape = SCALAR


class Trace(Unary):
    """tr of one word; of a word that begins as a row and ends as a column, which is its own trace."""

    name = "trace"
    shape = SCALAR


class Inverse(Unary):
    """The inverse of a sum, or of a letter."""

    name = "inv"

    def flipped(self) -> Atom:
        return Inverse(self.inside.T)


class Diag(Unary):
    """The diagonal matrix of a column."""

    name = "diag"

    @property
    def shape(self) -> Shape:
        return (self.inside.shape[0], self.inside.shape[0])

    def flipped(self) -> Atom:
        return self


class Diagonal(Unary):
    """The diagonal of a square word, as a column."""

    name = "diagonal"

    @property
    def shape(self) -> Shape:
        return (self.inside.shape[0], 1)


class Softmax(Unary):
    """Softmax of every row."""

    name = "softmax"


class LogSumExp(Unary):
    """log Σ exp of every row, as a column."""

    name = "logsumexp"

    @property
    def shape(self) -> Shape:
        return (self.inside.shape[0], 1)


@dataclass(frozen=True, eq=False)
class Hadamard(Atom):
    """Product of entries of words, in alphabetical order."""

    name = "hadamard"
    factors: tuple[Expr, ...]

    @property
    def shape(self) -> Shape:
        return self.factors[0].shape

    @property
    def parts(self) -> tuple[Expr, ...]:
        return self.factors

    def with_parts(self, parts: tuple[Expr, ...]) -> Atom:
        return Hadamard(tuple(sorted(parts, key=lambda part: part.key)))

    def flipped(self) -> Atom:
        return self.with_parts(tuple(part.T for part in self.factors))


def everything(a: Atom) -> Iterator[Atom]:
    """An atom and all that stands inside it, with repetitions; of a transposed letter the letter."""
    a = a.letter if isinstance(a, Transposed) else a
    yield a
    for part in a.parts:
        yield from atoms(part)


def atoms(x: Expr) -> Iterator[Atom]:
    """Atoms of an expression at every depth, with repetitions."""
    for t in x.terms:
        for a in t.atoms:
            yield from everything(a)


def symbols(x: Expr) -> Iterator[Symbol]:
    """Symbols of an expression, with repetitions."""
    return (a for a in atoms(x) if isinstance(a, Symbol))


def occurs(a: Atom, E: Symbol) -> bool:
    """Whether a symbol stands in an atom, by its name."""
    return any(isinstance(s, Symbol) and s.name == E.name for s in everything(a))


def symbol_of(x: Expr, what: str) -> Symbol:
    """The symbol an expression consists of."""
    if len(x.terms) == 1 and x.terms[0].coefficient == 1 and not x.terms[0].bound:
        t = x.terms[0]
        (a, *more) = t.atoms or (None,)
        if isinstance(a, Symbol) and not more and all(e == 1 for _, e in t.scalars):
            return a
    raise ValueError(f"{what} a symbol; got {named(x)}")


def gathered(*xs: Expr) -> dict[str, Symbol]:
    """The symbols of expressions by name; one name must mean one thing."""
    found: dict[str, Symbol] = {}
    for symbol in (s for x in xs for s in symbols(x)):
        known = found.setdefault(symbol.name, symbol)
        if replace(known, index=None) != replace(symbol, index=None):
            both = " and ".join(named(letter(s)) for s in (known, symbol))
            raise ValueError(f"{symbol.name} means two things: {both}")
    return found


_TAKEN = {"xp", "I", "Sum", "inv", "logdet", "trace", "ones", "diag", "diagonal", "hadamard", "power"}
_TAKEN |= {"softmax", "logsumexp"}


def checked_name(name: str) -> str:
    """A name that code can use."""
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name in _TAKEN:
        raise ValueError(f"a name must be a Python identifier and no word of the engine; got {name!r}")
    return name


# Sums, products and powers.


def collect(shape: Shape, terms: Iterable[Term]) -> Expr:
    """Sum of terms, like ones added, in the order of their length."""
    sums: dict[Term, Fraction] = {}
    for t in terms:
        like = replace(t, coefficient=Fraction(1))
        sums[like] = sums.get(like, Fraction(0)) + t.coefficient
    kept = [replace(t, coefficient=c) for t, c in sums.items() if c]
    return Expr(shape, tuple(sorted(kept, key=lambda t: (len(t.word), t.key))))


def add(shape: Shape, parts: Iterable[Expr]) -> Expr:
    """Sum of expressions."""
    return collect(shape, [t for part in parts for t in part.terms])


def letter(atom: Atom) -> Expr:
    """An atom as an expression."""
    if atom.shape == SCALAR:
        return collect(SCALAR, (Term(Fraction(1), ((atom, Fraction(1)),)),))
    return product(atom.shape, (atom,))


def product(shape: Shape, word: tuple[Atom, ...]) -> Expr:
    """A word with the scalars it hides taken out."""
    return term(shape, Term(Fraction(1), word=word))


def bare(shape: Shape, word: tuple[Atom, ...]) -> Expr:
    """A word as it stands."""
    return Expr(shape, (Term(Fraction(1), word=word),))


def around(left: tuple[Atom, ...], x: Expr, right: tuple[Atom, ...]) -> Expr:
    """The product left @ x @ right."""
    for a in reversed(left):
        x = letter(a) @ x
    for a in right:
        x = x @ letter(a)
    return x


def flip(word: tuple[Atom, ...]) -> tuple[Atom, ...]:
    """Transpose of a word."""
    return tuple(a.flipped() for a in reversed(word))


def order(word: tuple[Atom, ...]) -> tuple[int, list[str]]:
    """What decides between a word and its equals: few transposes, then the alphabet."""
    keys = [a.key for a in word]
    return sum(key.count(".T") for key in keys), keys


def pairs(x: Expr, y: Expr) -> Iterator[tuple[Term, Term]]:
    """Every term of one with every term of the other, sums over one index told apart."""
    for s, t in itertools.product(x.terms, y.terms):
        t = apart(t, s.free | {k for k, _ in s.bound})
        yield apart(s, t.free | {k for k, _ in t.bound}), t


def multiply(x: Expr, y: Expr, shape: Shape) -> Expr:
    """Product of two expressions whose shapes were checked."""
    both = (
        Term(s.coefficient * t.coefficient, s.scalars + t.scalars, s.word + t.word, s.bound + t.bound)
        for s, t in pairs(x, y)
    )
    return add(SCALAR if shape == (1, 1) else shape, (term(shape, t) for t in both))


def term(shape: Shape, t: Term) -> Expr:
    """A term with its scalar factors merged and the scalars hidden in its word, x.T @ y, taken out."""
    word = _tidy(t.word)
    ends = [*(a.shape[0] for a in word), *shape[1:]] if word else []
    cuts = [i for i, dim in enumerate(ends) if dim == 1]
    extra: list[Expr] = []
    shape = SCALAR if shape == (1, 1) else shape
    if len(cuts) >= 2:
        extra = [_closed(word[i:j]) for i, j in itertools.pairwise(cuts)]
        word = word[: cuts[0]] + word[cuts[-1] :]
    powers: dict[Atom, Fraction] = {}
    for atom, exponent in t.scalars:
        powers[atom] = powers.get(atom, Fraction(0)) + exponent
    for atom in [a for a, e in powers.items() if isinstance(a, Group) and e > 0 and e.denominator == 1]:
        extra += [*atom.parts] * int(powers.pop(atom))
    kept = tuple(sorted(((a, e) for a, e in powers.items() if e), key=lambda pair: pair[0].key))
    result = Expr(shape, (Term(t.coefficient, kept, word),) if t.coefficient else ())
    for factor in extra:
        result = multiply(result, factor, shape)
    return bind(result, t.bound)


def _tidy(word: tuple[Atom, ...]) -> tuple[Atom, ...]:
    """Rows of a softmax sum to one."""
    for i, (a, b) in enumerate(itertools.pairwise(word)):
        if isinstance(a, Softmax) and isinstance(b, Ones):
            return _tidy((*word[:i], Ones(a.shape[0]), *word[i + 2 :]))
        if isinstance(b, Transposed) and isinstance(b.letter, Softmax) and a == Transposed(Ones(b.shape[0])):
            return _tidy((*word[:i], Transposed(Ones(b.shape[1])), *word[i + 2 :]))
    return word


def _closed(word: tuple[Atom, ...]) -> Expr:
    """The scalar x.T @ ... @ y, which is its own transpose."""
    if len(word) == 2 and word[0] == Transposed(word[1]) and isinstance(word[1], Ones):
        return size(word[1].n)
    return letter(Trace(bare((1, 1), min(word, flip(word), key=order))))


def power_of(x: Expr, exponent: Fraction) -> Expr:
    """Power of a scalar: of each factor of a product, by multiplication where the exponent is a natural number."""
    if exponent.denominator == 1 and exponent >= 0:
        return reduce(lambda a, b: a * b, [x] * int(exponent), as_expr(1))
    if not x.terms:
        raise ZeroDivisionError(f"0 to the power {exponent}")
    if x.shape:
        raise ValueError(f"a scalar is wanted to divide by; got {named(x)}")
    (t, *others) = x.terms
    if others or t.bound or (exponent.denominator != 1 and t.coefficient != 1):
        return Expr(SCALAR, (Term(Fraction(1), ((Group(x), exponent),)),))
    number = as_expr(t.coefficient ** int(exponent) if t.coefficient != 1 else 1)
    factors = [term(SCALAR, Term(Fraction(1), ((a, e * exponent),))) for a, e in t.scalars]
    return reduce(lambda a, b: a * b, factors, number)


def scale_of(t: Term) -> Expr:
    """Coefficient and scalar factors of a term."""
    return term(SCALAR, Term(t.coefficient, t.scalars))


def framed(t: Term, factor: Expr) -> Expr:
    """The scalars of a term times a factor, under its sums."""
    return bind(scale_of(t) * factor, t.bound)


def rebuild(shape: Shape, t: Term, change: Callable[[Atom], Expr]) -> Expr:
    """A term multiplied out again from its changed atoms."""
    scalar = reduce(lambda a, b: a * b, (power_of(change(a), e) for a, e in t.scalars), as_expr(t.coefficient))
    if not t.word:
        return bind(scalar * eye(shape[0]) if shape else scalar, t.bound)
    return bind(scalar * reduce(lambda a, b: a @ b, map(change, t.word)), t.bound)


# Sums over heads and their indices.

_INDICES = "klmjihqrst"


def bind(x: Expr, bound: Iterable[Bound]) -> Expr:
    """Sum over indices; a term without the index counts as often as the sum has terms."""
    for k, K in bound:
        parts = []
        for t in x.terms:
            summed = Expr(x.shape, (replace(t, bound=tuple(sorted((*t.bound, (k, K))))),))
            parts.append(summed if k in t.free else Expr(x.shape, (t,)) * size(K))
        x = add(x.shape, parts)
    return x


def fresh(taken: Iterable[str]) -> str:
    """An index that is not taken."""
    used = set(taken)
    return next(name for name in itertools.chain(_INDICES, map("k{}".format, itertools.count(1))) if name not in used)


def apart(t: Term, taken: frozenset[str] | set[str]) -> Term:
    """The term with the indices of its own sums outside those taken."""
    for k, K in t.bound:
        if k in taken:
            new = fresh({*taken, *t.free, *(name for name, _ in t.bound)})
            inner = Expr((0, 0) if t.word else SCALAR, (replace(t, bound=()),))
            (body,) = reindex(inner, k, new).terms
            t = replace(body, bound=tuple(sorted((*(b for b in t.bound if b[0] != k), (new, K)))))
    return t


def reindex(x: Expr, old: str, new: str) -> Expr:
    """The expression with a free index renamed."""
    if old not in x.free or old == new:
        return x
    terms = []
    for t in x.terms:
        if old not in t.free:
            terms.append(t)
            continue
        t = apart(t, {new})
        scalars = tuple(sorted(((a.reindexed(old, new), e) for a, e in t.scalars), key=lambda pair: pair[0].key))
        terms.append(replace(t, scalars=scalars, word=tuple(a.reindexed(old, new) for a in t.word)))
    return collect(x.shape, terms)


# The constants that products and sums need themselves.

half: Expr = as_expr(Fraction(1, 2))
"""One half, exactly."""


def size(dim: Dim) -> Expr:
    """A size as a scalar: ``size("d") / (size("n") * eps**2)``.

    Args:
        dim: its name, or a number.

    Returns:
        The scalar.
    """
    return letter(Size(checked_name(dim))) if isinstance(dim, str) else as_expr(dim)


def eye(n: Dim) -> Expr:
    """Identity matrix.

    Args:
        n: name of its size, or a number.

    Returns:
        The matrix; the scalar one where n is 1.
    """
    return as_expr(1) if n == 1 else Expr((n, n), (Term(Fraction(1)),))


def zeros(*shape: Dim) -> Expr:
    """Zero.

    Args:
        *shape: nothing for a scalar, rows and columns for a matrix.

    Returns:
        The expression without terms.
    """
    return Expr(SCALAR if shape == (1, 1) else shape, ())
