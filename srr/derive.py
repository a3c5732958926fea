r"""Matrix differentials: write a rate, derive its gradient and Hessian, print them, compare them with a closed form.

An expression is kept as an expanded sum: a rational coefficient and scalar factors in front, one word of matrices
behind, transposes pushed to the letters, perhaps a sum over heads around it. A derivative takes two steps, as on paper:
the **differential** replaces every X by dX, one rule for each nonlinear operation,

.. math:: d(XY) = dX\,Y + X\,dY,\quad d(X^{-1}) = -X^{-1}\,dX\,X^{-1},\quad
          d \log\det X = \operatorname{tr}(X^{-1} dX),\quad d f(X) = f'(X) \odot dX,

and the **adjoint** of that linear map collects it into :math:`\operatorname{tr}(G^\top dX)`: G is the gradient.

:func:`equal` compares two expressions in a normal form that knows the push-through identity
:math:`A (I + BA)^{-1} = (I + AB)^{-1} A`, the resolvent identity :math:`(I + N)^{-1} N = I - (I + N)^{-1}`, Sylvester's
:math:`\det(I + AB) = \det(I + BA)` and the cyclic, transposable trace; then on random draws. Two expressions with one
normal form are equal wherever both are defined; two with different ones may still be equal, and the draws decide.

Example:
    >>> from srr import derive as d
    >>> Z, alpha = d.Matrix("Z", "n", "d"), d.Scalar("alpha")
    >>> R = d.half * d.logdet(d.eye("d") + alpha * Z.T @ Z)
    >>> d.grad(R, Z)
    alpha * Z @ inv(I + alpha * Z.T @ Z)
    >>> print(d.equal(d.grad(R, Z), alpha * d.inv(d.eye("n") + alpha * Z @ Z.T) @ Z))
    equal, symbolically: one normal form; largest relative difference 0.0e+00 on 3 draws
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import keyword
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, lru_cache, reduce
from typing import Any, ClassVar

import numpy as np

from srr._array.namespace import Array, Namespace, namespace, to_numpy

__all__ = [  # by use, not by alphabet
    "Scalar",
    "Vector",
    "Matrix",
    "Family",
    "Function",
    "half",
    "size",
    "eye",
    "ones",
    "zeros",
    "inv",
    "logdet",
    "trace",
    "inner",
    "squared_norm",
    "total",
    "Sum",
    "diag",
    "diagonal",
    "hadamard",
    "power",
    "exp",
    "log",
    "log1p",
    "sqrt",
    "tanh",
    "absolute",
    "relu",
    "shrink",
    "softmax",
    "logsumexp",
    "differential",
    "grad",
    "hessian_product",
    "quadratic_form",
    "normal_form",
    "equal",
    "compile",
    "Expr",
    "Verdict",
]

Dim = str | int
"""A size: the name of one, or a number."""
Shape = tuple[Dim, ...]
"""() of a scalar, (rows, columns) of a matrix."""
Bound = tuple[str, Dim]
"""An index that a sum runs over, and how far."""
SCALAR: Shape = ()


# Expressions: sums of terms; a term is a coefficient, scalar factors, and a word of matrices, summed over its indices.


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

    @cached_property
    def free(self) -> frozenset[str]:
        """Indices that no sum of this term runs over."""
        atoms = (*(a for a, _ in self.scalars), *self.word)
        return frozenset().union(*(a.free for a in atoms)) - {k for k, _ in self.bound}


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
        other = _as_expr(other)
        if not other.shape and self.shape and not other.terms:
            return self
        if not self.shape and other.shape and not self.terms:
            return other
        if self.shape != other.shape:
            raise ValueError(f"the terms of a sum must have one shape; got {_named(self)} and {_named(other)}")
        return _collect(self.shape, (*self.terms, *other.terms))

    __radd__ = __add__

    def __neg__(self) -> Expr:
        return self * -1

    def __sub__(self, other: Expr | float | Fraction) -> Expr:
        return self + -_as_expr(other)

    def __rsub__(self, other: Expr | float | Fraction) -> Expr:
        return -self + other

    def __mul__(self, other: Expr | float | Fraction) -> Expr:
        other = _as_expr(other)
        if self.shape and other.shape:
            raise ValueError(
                f"* takes a scalar; write @ for the product of {_named(self)} and {_named(other)}, hadamard for entries"
            )
        return _multiply(self, other, self.shape or other.shape)

    __rmul__ = __mul__

    def __truediv__(self, other: Expr | float | Fraction) -> Expr:
        return self * _power(_as_expr(other), Fraction(-1))

    def __rtruediv__(self, other: Expr | float | Fraction) -> Expr:
        return _as_expr(other) * _power(self, Fraction(-1))

    def __pow__(self, exponent: float | Fraction) -> Expr:
        if self.shape:
            raise ValueError(f"** takes a scalar; got {_named(self)}: write power for its entries, @ for products")
        return _power(self, _fraction(exponent))

    def __matmul__(self, other: Expr) -> Expr:
        other = _as_expr(other)
        if not self.shape or not other.shape:
            outer = self.shape[-1:] or other.shape[:1]
            if outer in ((), (1,)):  # a product with x.T @ y, which is a scalar here
                return self * other
            raise ValueError(f"@ takes two matrices; got {_named(self)} and {_named(other)}")
        if self.shape[1] != other.shape[0]:
            raise ValueError(
                f"{_named(self)} @ {_named(other)}: {self.shape[1]} columns do not meet {other.shape[0]} rows"
            )
        return _multiply(self, other, (self.shape[0], other.shape[1]))

    @property
    def T(self) -> Expr:
        """The transpose."""
        if not self.shape:
            return self
        terms = (replace(t, word=_flip(t.word)) for t in self.terms)
        return _collect((self.shape[1], self.shape[0]), terms)

    def column(self, index: str) -> Expr:
        """Column of a matrix of memberships, one for each value of ``index``: ``Pi.column("k")``."""
        symbol = _symbol(self, "a column is taken of")
        if symbol.index is not None or len(symbol.dims) != 2:
            raise ValueError(f"a column is taken of a matrix; got {_named(self)}")
        n, K = symbol.dims
        return _letter(replace(symbol, dims=(n, 1), index=_name(index), over=K, column=True, symmetric=False))

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names that a call asks for, of symbols, unknown functions, free indices, and sizes that no array has."""
        writer = _Writer(self)
        writer.source("function")
        return writer.arguments

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

    def latex(self) -> str:
        """The expression in LaTeX."""
        return _show(self, "latex")

    def code(self, name: str = "function") -> str:
        """Source of a Python function that computes it, with the array API standard and arrays of any library.

        Args:
            name: name of the function.
        """
        return _Writer(self).source(name)

    def __call__(self, **values: Any) -> Any:
        """Value for given arrays and numbers: ``g(Z=..., alpha=...)``."""
        return compile(self)(**values)

    def __repr__(self) -> str:
        return _show(self, "text")


def _fraction(x: float | Fraction) -> Fraction:
    """A number as it is written: 0.1 is one tenth."""
    return Fraction(repr(x)) if isinstance(x, float) else Fraction(x)


def _as_expr(x: Expr | float | Fraction) -> Expr:
    if isinstance(x, Expr):
        return x
    if isinstance(x, int | float | Fraction):
        return _collect(SCALAR, (Term(_fraction(x)),))
    raise TypeError(f"an expression or a number is wanted; got {type(x).__name__}")


def _named(x: Expr) -> str:
    """An expression with its shape, for messages."""
    text = repr(x)
    short = text if len(text) < 40 else text[:37] + "..."
    return f"{short} ({' x '.join(map(str, x.shape)) or 'scalar'})"


def _square(x: Expr, what: str) -> Dim:
    if len(x.shape) != 2 or x.shape[0] != x.shape[1]:
        raise ValueError(f"{what} takes a square matrix; got {_named(x)}")
    return x.shape[0]


def _collect(shape: Shape, terms: Iterable[Term]) -> Expr:
    """Sum of terms, like ones added, in the order of their length."""
    sums: dict[Term, Fraction] = {}
    for t in terms:
        like = replace(t, coefficient=Fraction(1))
        sums[like] = sums.get(like, Fraction(0)) + t.coefficient
    kept = [replace(t, coefficient=c) for t, c in sums.items() if c]
    return Expr(shape, tuple(sorted(kept, key=lambda t: (len(t.word), t.key))))


def _add(shape: Shape, parts: Iterable[Expr]) -> Expr:
    return _collect(shape, [t for part in parts for t in part.terms])


def _letter(atom: Atom) -> Expr:
    if atom.shape == SCALAR:
        return _collect(SCALAR, (Term(Fraction(1), ((atom, Fraction(1)),)),))
    return _term(atom.shape, Term(Fraction(1), word=(atom,)))


def _product(shape: Shape, word: tuple[Atom, ...]) -> Expr:
    """A word with the scalars it hides taken out."""
    return _term(shape, Term(Fraction(1), word=word))


def _word(shape: Shape, word: tuple[Atom, ...]) -> Expr:
    """A bare word as it stands."""
    return Expr(shape, (Term(Fraction(1), word=word),))


def _flip(word: tuple[Atom, ...]) -> tuple[Atom, ...]:
    return tuple(a.flipped() for a in reversed(word))


def _multiply(x: Expr, y: Expr, shape: Shape) -> Expr:
    """Product of two expressions whose shapes were checked; sums over one index are told apart."""
    parts = []
    for s, t in itertools.product(x.terms, y.terms):
        t = _apart(t, s.free | {k for k, _ in s.bound})
        s = _apart(s, t.free | {k for k, _ in t.bound})
        both = Term(s.coefficient * t.coefficient, s.scalars + t.scalars, s.word + t.word, s.bound + t.bound)
        parts.append(_term(shape, both))
    return _add(SCALAR if shape == (1, 1) else shape, parts)


def _term(shape: Shape, t: Term) -> Expr:
    """A term with its scalar factors merged and the scalars hidden in its word, x.T @ y, taken out."""
    word, scalars = _tidy(t.word), list(t.scalars)
    ends = [*(a.shape[0] for a in word), *shape[1:]] if word else []
    cuts = [i for i, dim in enumerate(ends) if dim == 1]
    extra: list[Expr] = []
    shape = SCALAR if shape == (1, 1) else shape
    if len(cuts) >= 2:
        extra = [_closed(word[i:j]) for i, j in itertools.pairwise(cuts)]
        word = word[: cuts[0]] + word[cuts[-1] :]
    powers: dict[Atom, Fraction] = {}
    for atom, exponent in scalars:
        powers[atom] = powers.get(atom, Fraction(0)) + exponent
    for atom in [a for a, e in powers.items() if isinstance(a, Group) and e > 0 and e.denominator == 1]:
        extra += [atom.inside] * int(powers.pop(atom))
    kept = tuple(sorted(((a, e) for a, e in powers.items() if e), key=lambda pair: pair[0].key))
    result = Expr(shape, (Term(t.coefficient, kept, word),) if t.coefficient else ())
    for factor in extra:
        result = _multiply(result, factor, shape)
    return _bind(result, t.bound)


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
    word = min(word, _flip(word), key=_order)
    return _letter(Trace(_word((1, 1), word)))


def _power(x: Expr, exponent: Fraction) -> Expr:
    """Power of a scalar: of each factor of a product, by multiplication where the exponent is a natural number."""
    if exponent.denominator == 1 and exponent >= 0:
        return reduce(lambda a, b: a * b, [x] * int(exponent), _as_expr(1))
    if not x.terms:
        raise ZeroDivisionError(f"0 to the power {exponent}")
    if x.shape:
        raise ValueError(f"a scalar is wanted to divide by; got {_named(x)}")
    (t, *others) = x.terms
    if others or t.bound or (exponent.denominator != 1 and t.coefficient != 1):
        return Expr(SCALAR, (Term(Fraction(1), ((Group(x), exponent),)),))
    factors = [_collect(SCALAR, (Term(t.coefficient ** int(exponent) if t.coefficient != 1 else Fraction(1)),))]
    factors += [_term(SCALAR, Term(Fraction(1), ((a, e * exponent),))) for a, e in t.scalars]
    return reduce(lambda a, b: a * b, factors)


def _bind(x: Expr, bound: Iterable[Bound]) -> Expr:
    """Sum over indices; a term without the index counts as often as the sum has terms."""
    for k, K in bound:
        parts = []
        for t in x.terms:
            summed = Expr(x.shape, (replace(t, bound=tuple(sorted((*t.bound, (k, K))))),))
            parts.append(summed if k in t.free else Expr(x.shape, (t,)) * size(K))
        x = _add(x.shape, parts)
    return x


_INDICES = "klmjihqrst"


def _fresh(taken: Iterable[str]) -> str:
    used = set(taken)
    return next(name for name in itertools.chain(_INDICES, map("k{}".format, itertools.count(1))) if name not in used)


def _apart(t: Term, taken: frozenset[str] | set[str]) -> Term:
    """The term with the indices of its own sums outside those taken."""
    for k, K in t.bound:
        if k in taken:
            new = _fresh({*taken, *t.free, *(name for name, _ in t.bound)})
            inner = Expr((0, 0) if t.word else SCALAR, (replace(t, bound=()),))
            (body,) = _reindex(inner, k, new).terms
            t = replace(body, bound=tuple(sorted((*(b for b in t.bound if b[0] != k), (new, K)))))
    return t


def _reindex(x: Expr, old: str, new: str) -> Expr:
    """The expression with a free index renamed."""
    if old not in x.free or old == new:
        return x
    terms = []
    for t in x.terms:
        if old not in t.free:
            terms.append(t)
            continue
        t = _apart(t, {new})
        scalars = tuple(sorted(((a.reindexed(old, new), e) for a, e in t.scalars), key=lambda pair: pair[0].key))
        terms.append(replace(t, scalars=scalars, word=tuple(a.reindexed(old, new) for a in t.word)))
    return _collect(x.shape, terms)


def _map(x: Expr, leaf: Callable[[Symbol], Expr]) -> Expr:
    """The expression built again with every symbol replaced."""
    shape = SCALAR if x.shape == (1, 1) else x.shape
    return _add(shape, (_rebuilt(x.shape, t, lambda a: a.mapped(leaf)) for t in x.terms))


def _rebuilt(shape: Shape, t: Term, change: Callable[[Atom], Expr]) -> Expr:
    """A term multiplied out again from its changed atoms."""
    scalar = reduce(lambda a, b: a * b, (_power(change(a), e) for a, e in t.scalars), _as_expr(t.coefficient))
    if not t.word:
        return _bind(scalar * eye(shape[0]) if shape else scalar, t.bound)
    word = [change(a) for a in t.word]
    return _bind(scalar * reduce(lambda a, b: a @ b, word), t.bound)


# Atoms: the letters of words and the factors in front of them; one class for each operation, with all its rules.

Leaf = Callable[["Symbol"], Expr | None]
"""The direction in which a symbol varies, None where it is constant."""


class Atom:
    """A letter or a scalar factor: its shape, its parts, its differential, the adjoint of where it is linear."""

    @property
    def shape(self) -> Shape:
        """() or (rows, columns)."""
        raise NotImplementedError

    @cached_property
    def key(self) -> str:
        """Text that tells it from every other atom, the sizes of its symbols included."""
        return self.text("key")

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

    @property
    def parts(self) -> tuple[Expr, ...]:
        """Expressions inside."""
        return ()

    def rebuilt(self, *parts: Expr) -> Expr:
        """The same operation on other parts."""
        raise NotImplementedError

    def with_parts(self, parts: tuple[Expr, ...]) -> Atom:
        """The same atom with its indices renamed, so nothing can simplify."""
        raise NotImplementedError

    def mapped(self, leaf: Callable[[Symbol], Expr]) -> Expr:
        """Built again from the leaves."""
        return self.rebuilt(*(_map(part, leaf) for part in self.parts))

    def reindexed(self, old: str, new: str) -> Atom:
        """With a free index renamed."""
        return self.with_parts(tuple(_reindex(part, old, new) for part in self.parts)) if old in self.free else self

    def flipped(self) -> Atom:
        """Transpose of a letter."""
        return Transposed(self)

    def differential(self, leaf: Leaf) -> Expr:
        """Its differential."""
        raise NotImplementedError

    def adjoint(self, E: Symbol, G: Expr) -> Expr:
        """Gradient of ⟨G, self⟩ in E, where self is linear in E."""
        raise ValueError(f"{self.text('text')} is not linear in {E.name}")

    def text(self, style: str) -> str:
        """As text or LaTeX."""
        raise NotImplementedError

    def write(self, w: _Writer) -> str:
        """As array-API code."""
        raise NotImplementedError


def _differential(x: Expr, leaf: Leaf) -> Expr:
    """Product rule over every factor of every term."""
    parts = []
    for t in x.terms:
        for i, (a, e) in enumerate(t.scalars):
            change = a.differential(leaf)
            if change.terms:
                rest = (*t.scalars[:i], (a, e - 1), *t.scalars[i + 1 :])
                parts.append(_bind(_term(x.shape, Term(t.coefficient * e, rest, t.word)) * change, t.bound))
        for i, a in enumerate(t.word):
            change = a.differential(leaf)
            if change.terms:
                scalar = _scale(t)
                parts.append(_bind(scalar * _around(t.word[:i], change, t.word[i + 1 :]), t.bound))
    shape = SCALAR if x.shape == (1, 1) else x.shape
    return _add(shape, parts)


def _around(left: tuple[Atom, ...], x: Expr, right: tuple[Atom, ...]) -> Expr:
    """The product left @ x @ right."""
    for a in reversed(left):
        x = _letter(a) @ x
    for a in right:
        x = x @ _letter(a)
    return x


def _adjoint(x: Expr, E: Symbol, G: Expr) -> Expr:
    """Gradient of ⟨G, x⟩ in E, where every term of x is linear in E."""
    parts = []
    for t in x.terms:
        t, bound = _opened(_apart(t, G.free | ({E.index} if E.index else set())), E)
        scalar = [i for i, (a, _) in enumerate(t.scalars) if _occurs(a, E)]
        if scalar:
            (i,) = scalar
            rest = _term(x.shape, Term(t.coefficient, t.scalars[:i] + t.scalars[i + 1 :], t.word))
            parts.append(_bind(t.scalars[i][0].adjoint(E, inner(rest, G) if x.shape else rest * G), bound))
            continue
        (i,) = [i for i, a in enumerate(t.word) if _occurs(a, E)]
        left, right = _flip(t.word[:i]), _flip(t.word[i + 1 :])
        scale = _scale(t)
        if G.shape:
            inside = _around(left, G, right)
        elif left or right:
            inside = G * _product(t.word[i].shape, left + right)
        else:
            inside = G * eye(t.word[i].shape[0])
        parts.append(_bind(t.word[i].adjoint(E, scale * inside), bound))
    return _add(E.dims, parts)


def _opened(t: Term, E: Symbol) -> tuple[Term, tuple[Bound, ...]]:
    """A term without its sums, E's own index (if it is one of them) set to the index asked for."""
    atoms = [a for a in (*(a for a, _ in t.scalars), *t.word) if _occurs(a, E)]
    own = next((k for a in atoms for k in _indices(a, E) if any(k == name for name, _ in t.bound)), None)
    bound = tuple(b for b in t.bound if b[0] != own)
    t = replace(t, bound=())
    if own is not None and E.index is not None:
        scalars = tuple((a.reindexed(own, E.index), e) for a, e in t.scalars)
        t = replace(t, scalars=scalars, word=tuple(a.reindexed(own, E.index) for a in t.word))
    return t, bound


def _symbols(x: Expr) -> Iterator[Symbol]:
    """Every symbol of an expression, with repetitions."""
    for t in x.terms:
        for a in (*(a for a, _ in t.scalars), *t.word):
            yield from _symbols_of(a)


def _symbols_of(a: Atom) -> Iterator[Symbol]:
    if isinstance(a, Symbol):
        yield a
    elif isinstance(a, Transposed):
        yield from _symbols_of(a.letter)
    for part in a.parts:
        yield from _symbols(part)


def _occurs(a: Atom, E: Symbol) -> bool:
    return any(symbol.name == E.name for symbol in _symbols_of(a))


def _indices(a: Atom, E: Symbol) -> set[str]:
    return {s.index for s in _symbols_of(a) if s.name == E.name and s.index is not None and s.index in a.free}


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
    def free(self) -> frozenset[str]:
        return frozenset() if self.index is None else frozenset({self.index})

    def mapped(self, leaf: Callable[[Symbol], Expr]) -> Expr:
        return leaf(self)

    def reindexed(self, old: str, new: str) -> Atom:
        return replace(self, index=new) if self.index == old else self

    def flipped(self) -> Atom:
        return self if self.symmetric else Transposed(self)

    def differential(self, leaf: Leaf) -> Expr:
        change = leaf(self)
        return zeros(*self.dims) if change is None else change

    def adjoint(self, E: Symbol, G: Expr) -> Expr:
        if self.index != E.index:
            raise ValueError(f"{E.text('text')} is no variable where {self.text('text')} has a free index")
        return G

    def text(self, style: str) -> str:
        if style == "latex":
            base = _latex_name(self.name)
            return base if self.index is None else f"{base}_{{{':' if self.column else ''}{self.index}}}"
        text = self.name if self.index is None else f"{self.name}[{':, ' if self.column else ''}{self.index}]"
        if style == "key":
            return f"{text}:{'x'.join(map(str, (*self.dims, self.over)))}{'s' * self.symmetric}"
        return text

    def write(self, w: _Writer) -> str:
        if self.column:
            return f"{self.name}[:, {self.index}:{self.index} + 1]"
        if self.index is not None:
            return f"{self.name}[{', '.join([self.index, *(':' for _ in self.dims)])}]"
        return self.name


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
    def free(self) -> frozenset[str]:
        return self.letter.free

    def rebuilt(self, *parts: Expr) -> Expr:
        return self.letter.rebuilt(*parts).T

    def mapped(self, leaf: Callable[[Symbol], Expr]) -> Expr:
        return self.letter.mapped(leaf).T

    def reindexed(self, old: str, new: str) -> Atom:
        return Transposed(self.letter.reindexed(old, new))

    def flipped(self) -> Atom:
        return self.letter

    def differential(self, leaf: Leaf) -> Expr:
        return self.letter.differential(leaf).T

    def adjoint(self, E: Symbol, G: Expr) -> Expr:
        return self.letter.adjoint(E, G.T)

    def text(self, style: str) -> str:
        inside = self.letter.text(style)
        if style != "latex":
            return f"{inside}.T"
        return rf"{inside}^\top" if isinstance(self.letter, Symbol | Ones) else rf"{{{inside}}}^\top"

    def write(self, w: _Writer) -> str:
        return f"{self.letter.write(w)}.mT"


@dataclass(frozen=True, eq=False)
class Size(Atom):
    """A size as a number."""

    name: str

    @property
    def shape(self) -> Shape:
        return SCALAR

    def mapped(self, leaf: Callable[[Symbol], Expr]) -> Expr:
        return _letter(self)

    def rebuilt(self, *parts: Expr) -> Expr:
        return _letter(self)

    def differential(self, leaf: Leaf) -> Expr:
        return zeros()

    def text(self, style: str) -> str:
        return _latex_name(self.name) if style == "latex" else self.name

    def write(self, w: _Writer) -> str:
        return w.size(self.name)


@dataclass(frozen=True, eq=False)
class Ones(Atom):
    """The column of ones."""

    n: Dim

    @property
    def shape(self) -> Shape:
        return (self.n, 1)

    def mapped(self, leaf: Callable[[Symbol], Expr]) -> Expr:
        return _letter(self)

    def rebuilt(self, *parts: Expr) -> Expr:
        return _letter(self)

    def differential(self, leaf: Leaf) -> Expr:
        return zeros(self.n, 1)

    def text(self, style: str) -> str:
        return rf"\mathbf{{1}}_{{{self.n}}}" if style == "latex" else f"ones({_quoted(self.n)})"

    def write(self, w: _Writer) -> str:
        return w.constant("ones", self.n, f"xp.ones(({w.count(self.n)}, 1), {w.like})")


@dataclass(frozen=True, eq=False)
class Unary(Atom):
    """An operation on one expression."""

    name: ClassVar[str]
    latex_name: ClassVar[str]
    inside: Expr

    @property
    def shape(self) -> Shape:
        return SCALAR

    @property
    def parts(self) -> tuple[Expr, ...]:
        return (self.inside,)

    def with_parts(self, parts: tuple[Expr, ...]) -> Atom:
        return replace(self, inside=parts[0])

    def text(self, style: str) -> str:
        inside = _show(self.inside, style)
        return rf"{self.latex_name}\left({inside}\right)" if style == "latex" else f"{self.name}({inside})"


@dataclass(frozen=True, eq=False)
class Group(Unary):
    """A scalar sum in brackets, as it stands in a denominator."""

    def rebuilt(self, *parts: Expr) -> Expr:
        return parts[0]

    def differential(self, leaf: Leaf) -> Expr:
        return _differential(self.inside, leaf)

    def text(self, style: str) -> str:
        inside = _show(self.inside, style)
        return rf"\left({inside}\right)" if style == "latex" else f"({inside})"

    def write(self, w: _Writer) -> str:
        return f"({w.expr(self.inside)})"


@dataclass(frozen=True, eq=False)
class LogDet(Unary):
    """log |det X|."""

    name = "logdet"
    latex_name = r"\log\det"

    def rebuilt(self, *parts: Expr) -> Expr:
        return logdet(parts[0])

    def differential(self, leaf: Leaf) -> Expr:
        change = _differential(self.inside, leaf)
        return trace(inv(self.inside) @ change) if change.terms else zeros()

    def write(self, w: _Writer) -> str:
        return w.local("logdet", self, lambda: f"xp.linalg.slogdet({w.expr(self.inside)})[1]")


@dataclass(frozen=True, eq=False)
class Trace(Unary):
    """tr of one word; of a word that begins as a row and ends as a column, which is its own trace."""

    def rebuilt(self, *parts: Expr) -> Expr:
        return trace(parts[0])

    def differential(self, leaf: Leaf) -> Expr:
        return trace(_differential(self.inside, leaf))

    def adjoint(self, E: Symbol, G: Expr) -> Expr:
        return _adjoint(self.inside, E, G)

    def text(self, style: str) -> str:
        inside = _show(self.inside, style)
        if self.inside.shape == (1, 1):
            return inside if style == "latex" else f"({inside})"
        return rf"\operatorname{{tr}}\left({inside}\right)" if style == "latex" else f"trace({inside})"

    def write(self, w: _Writer) -> str:
        word = self.inside.terms[0].word
        if self.inside.shape == (1, 1) or len(word) == 1:
            return f"xp.linalg.trace({w.expr(self.inside)})"
        left, right = w.word(word[:1]), w.word(_flip(word[1:]))  # tr(A B) is the sum of A ∘ Bᵀ: one product less
        return f"xp.sum({_factor(left)} * {_factor(right)})"


@dataclass(frozen=True, eq=False)
class Inverse(Unary):
    """The inverse of a sum, or of a letter."""

    @property
    def shape(self) -> Shape:
        return self.inside.shape

    def rebuilt(self, *parts: Expr) -> Expr:
        return inv(parts[0])

    def flipped(self) -> Atom:
        return Inverse(self.inside.T)

    def differential(self, leaf: Leaf) -> Expr:
        change = _differential(self.inside, leaf)
        return -(_letter(self) @ change @ _letter(self)) if change.terms else zeros(*self.shape)

    def text(self, style: str) -> str:
        inside = _show(self.inside, style)
        if style != "latex":
            return f"inv({inside})"
        alone = len(self.inside.terms) == 1 and isinstance(self.inside.terms[0].word[0], Symbol)
        return f"{inside}^{{-1}}" if alone else rf"\left({inside}\right)^{{-1}}"

    def write(self, w: _Writer) -> str:
        return w.local("inv", self, lambda: f"xp.linalg.inv({w.expr(self.inside)})")


@dataclass(frozen=True, eq=False)
class Diag(Unary):
    """The diagonal matrix of a column."""

    name = "diag"
    latex_name = r"\operatorname{diag}"

    @property
    def shape(self) -> Shape:
        return (self.inside.shape[0], self.inside.shape[0])

    def rebuilt(self, *parts: Expr) -> Expr:
        return diag(parts[0])

    def flipped(self) -> Atom:
        return self

    def differential(self, leaf: Leaf) -> Expr:
        return diag(_differential(self.inside, leaf))

    def adjoint(self, E: Symbol, G: Expr) -> Expr:
        return _adjoint(self.inside, E, diagonal(G))

    def write(self, w: _Writer) -> str:
        return f"({w.identity(self.shape[0])} * {_factor(w.expr(self.inside))})"


@dataclass(frozen=True, eq=False)
class Diagonal(Unary):
    """The diagonal of a square word, as a column."""

    name = "diagonal"
    latex_name = r"\operatorname{diagonal}"

    @property
    def shape(self) -> Shape:
        return (self.inside.shape[0], 1)

    def rebuilt(self, *parts: Expr) -> Expr:
        return diagonal(parts[0])

    def differential(self, leaf: Leaf) -> Expr:
        return diagonal(_differential(self.inside, leaf))

    def adjoint(self, E: Symbol, G: Expr) -> Expr:
        return _adjoint(self.inside, E, diag(G))

    def write(self, w: _Writer) -> str:
        word = self.inside.terms[0].word
        if len(word) == 1:
            return f"xp.sum({w.identity(self.inside.shape[0])} * {w.word(word)}, axis=-1, keepdims=True)"
        left, right = _factor(w.word(word[:1])), _factor(w.word(_flip(word[1:])))
        return f"xp.sum({left} * {right}, axis=-1, keepdims=True)"


@dataclass(frozen=True, eq=False)
class Hadamard(Atom):
    """Product of entries of words, in alphabetical order."""

    factors: tuple[Expr, ...]

    @property
    def shape(self) -> Shape:
        return self.factors[0].shape

    @property
    def parts(self) -> tuple[Expr, ...]:
        return self.factors

    def rebuilt(self, *parts: Expr) -> Expr:
        return hadamard(*parts)

    def with_parts(self, parts: tuple[Expr, ...]) -> Atom:
        return Hadamard(tuple(sorted(parts, key=lambda part: part.key)))

    def flipped(self) -> Atom:
        return self.with_parts(tuple(part.T for part in self.factors))

    def differential(self, leaf: Leaf) -> Expr:
        changes = [_differential(part, leaf) for part in self.factors]
        return _add(self.shape, (hadamard(*self._others(i), c) for i, c in enumerate(changes) if c.terms))

    def _others(self, i: int) -> tuple[Expr, ...]:
        return self.factors[:i] + self.factors[i + 1 :]

    def adjoint(self, E: Symbol, G: Expr) -> Expr:
        (i,) = [i for i, part in enumerate(self.factors) if any(s.name == E.name for s in _symbols(part))]
        return _adjoint(self.factors[i], E, hadamard(*self._others(i), G))

    def text(self, style: str) -> str:
        shown = [_show(part, style) for part in self.factors]
        if style == "latex":
            return r"\left(" + r" \odot ".join(shown) + r"\right)"
        return f"hadamard({', '.join(shown)})"

    def write(self, w: _Writer) -> str:
        return "(" + " * ".join(_factor(w.expr(part)) for part in self.factors) + ")"


@dataclass(frozen=True, eq=False)
class Apply(Unary):
    """A function of every entry."""

    function: Function = field(default_factory=lambda: Function("f"))

    @property
    def shape(self) -> Shape:
        return self.inside.shape

    def rebuilt(self, *parts: Expr) -> Expr:
        return self.function(parts[0])

    def flipped(self) -> Atom:
        return Apply(self.inside.T, self.function)

    def differential(self, leaf: Leaf) -> Expr:
        change = _differential(self.inside, leaf)
        return hadamard(self.function.slope(self.inside), change) if change.terms else zeros(*self.shape)

    def text(self, style: str) -> str:
        inside, f = _show(self.inside, style), self.function
        if f.exponent is not None:
            if style == "latex":
                return rf"\left({inside}\right)^{{\circ {f.exponent}}}"
            return f"power({inside}, {f.exponent})"
        if style == "latex":
            return rf"{_latex_function(f)}\left({inside}\right)"
        return f"{f.code_name}({inside})"

    def write(self, w: _Writer) -> str:
        def build() -> str:
            argument = w.value(self.inside)
            if self.function.exponent is not None:
                return f"{argument} ** {_code_number(self.function.exponent)}"
            return _CODE.get(self.function.name, f"{self.function.code_name}({{0}})").format(argument)

        return w.local(self.function.code_name, self, build)


@dataclass(frozen=True, eq=False)
class Rowwise(Unary):
    """A function of every row."""

    def soft(self) -> Expr:
        """Softmax of the same rows."""
        return _letter(Softmax(self.inside))


@dataclass(frozen=True, eq=False)
class Softmax(Rowwise):
    """Softmax of every row."""

    name = "softmax"
    latex_name = r"\operatorname{softmax}"

    @property
    def shape(self) -> Shape:
        return self.inside.shape

    def rebuilt(self, *parts: Expr) -> Expr:
        return softmax(parts[0])

    def differential(self, leaf: Leaf) -> Expr:
        change = _differential(self.inside, leaf)
        if not change.terms:
            return zeros(*self.shape)
        weighted = hadamard(self.soft(), change)
        return weighted - diag(weighted @ ones(self.shape[1])) @ self.soft()

    def write(self, w: _Writer) -> str:
        def build() -> str:
            x = w.value(self.inside)
            top = w.local("exp", self, lambda: f"xp.exp({x} - xp.max({x}, axis=-1, keepdims=True))")
            return f"{top} / xp.sum({top}, axis=-1, keepdims=True)"

        return w.local("softmax", self, build)


@dataclass(frozen=True, eq=False)
class LogSumExp(Rowwise):
    """log Σ exp of every row, as a column."""

    name = "logsumexp"
    latex_name = r"\operatorname{logsumexp}"

    @property
    def shape(self) -> Shape:
        return (self.inside.shape[0], 1)

    def rebuilt(self, *parts: Expr) -> Expr:
        return logsumexp(parts[0])

    def differential(self, leaf: Leaf) -> Expr:
        change = _differential(self.inside, leaf)
        return hadamard(self.soft(), change) @ ones(self.inside.shape[1]) if change.terms else zeros(*self.shape)

    def write(self, w: _Writer) -> str:
        def build() -> str:
            x = w.value(self.inside)
            top = w.local("top", self, lambda: f"xp.max({x}, axis=-1, keepdims=True)")
            return f"{top} + xp.log(xp.sum(xp.exp({x} - {top}), axis=-1, keepdims=True))"

        return w.local("logsumexp", self, build)


# What a mathematician types.


_TAKEN = {"xp", "I", "Sum", "inv", "logdet", "trace", "ones", "diag", "diagonal", "hadamard", "power"}
_TAKEN |= {"softmax", "logsumexp"}


def _name(name: str) -> str:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name) or name in _TAKEN:
        raise ValueError(f"a name must be a Python identifier and no word of the engine; got {name!r}")
    return name


def _dim(dim: Dim) -> Dim:
    if isinstance(dim, str):
        return _name(dim)
    if isinstance(dim, int) and dim >= 1:
        return dim
    raise ValueError(f"a size must be a name or an integer >= 1; got {dim!r}")


def Scalar(name: str, *, positive: bool = True) -> Expr:
    """A scalar by name.

    Args:
        name: a Python identifier; Greek names print as letters.
        positive: whether random draws are positive, as scales, distortions and steps are.

    Returns:
        The expression.
    """
    return _letter(Symbol(_name(name), SCALAR, positive=positive))


def Vector(name: str, n: Dim, *, positive: bool = False) -> Expr:
    """A column of n entries by name; its array has shape (n,).

    Args:
        name: a Python identifier.
        n: name of its size, or a number.
        positive: whether random draws are positive, as weights are.

    Returns:
        The expression, of shape (n, 1).
    """
    return _letter(Symbol(_name(name), (_dim(n), 1), positive=positive))


def Matrix(name: str, rows: Dim, columns: Dim, *, symmetric: bool = False, positive: bool = False) -> Expr:
    """A matrix by name.

    Args:
        name: a Python identifier.
        rows: name of the number of rows, or the number.
        columns: name of the number of columns, or the number.
        symmetric: whether it is its own transpose; then a gradient is taken among symmetric matrices.
        positive: whether random draws have positive entries, as memberships have.

    Returns:
        The expression.

    Raises:
        ValueError: a name that is none, a size below one, a symmetric matrix that is not square.
    """
    if symmetric and rows != columns:
        raise ValueError(f"a symmetric matrix is square; got {name} of {rows} x {columns}")
    if rows == 1 or columns == 1:
        raise ValueError(f"{name} of {rows} x {columns}: write Vector (and its .T), or Scalar")
    return _letter(Symbol(_name(name), (_dim(rows), _dim(columns)), positive=positive, symmetric=symmetric))


@dataclass(frozen=True)
class Family:
    """One scalar or matrix for each head: ``U = Family("U", "d", "p", over="K")``, then ``U["k"]`` inside a Sum.

    Attributes:
        name: a Python identifier; the array has shape (K,) or (K, rows, columns).
        dims: nothing for scalars, rows and columns for matrices.
        over: name of the number of members.
        positive: whether random draws are positive.
    """

    name: str
    dims: tuple[Dim, ...]
    over: Dim
    positive: bool

    def __init__(self, name: str, *dims: Dim, over: Dim, positive: bool | None = None) -> None:
        if len(dims) not in (0, 2) or 1 in dims:
            raise ValueError(f"a family {name} is of scalars or of matrices (rows, columns); got the sizes {dims}")
        object.__setattr__(self, "name", _name(name))
        object.__setattr__(self, "dims", tuple(_dim(dim) for dim in dims))
        object.__setattr__(self, "over", _dim(over))
        object.__setattr__(self, "positive", not dims if positive is None else positive)

    def __getitem__(self, index: str) -> Expr:
        """The member of an index."""
        return _letter(Symbol(self.name, self.dims, _name(index), self.over, positive=self.positive))


@dataclass(frozen=True)
class Function:
    """A function of every entry, given by name only: ``f = Function("f")``, then ``f(X)``; its derivative is f_prime.

    Attributes:
        name: a Python identifier; compiled code asks for ``f``, ``f_prime``, ... as functions of arrays.
        order: how often it was differentiated.
        exponent: the power it is, for the powers of :func:`power`.
        known: whether the engine knows its derivative.
    """

    name: str
    order: int = 0
    exponent: Fraction | None = None
    known: bool = False

    def __post_init__(self) -> None:
        if not self.known and _name(self.name) in _CODE:
            raise ValueError(f"{self.name} is known to the engine: write derive.{self.name}")

    def __call__(self, X: Expr | float) -> Expr:
        """The function of every entry of X."""
        X = _as_expr(X)
        return power(X, self.exponent) if self.exponent is not None else _letter(Apply(X, self))

    @property
    def code_name(self) -> str:
        """Its name in code, such as f, f_prime, f_prime_prime."""
        return self.name + "_prime" * self.order

    def slope(self, X: Expr) -> Expr:
        """Its derivative at every entry of X."""
        if self.exponent is not None:
            return _as_expr(self.exponent) * power(X, self.exponent - 1)
        if self.known:
            return _SLOPES[self.name](X)
        return replace(self, order=self.order + 1)(X)


_CODE = {
    "exp": "xp.exp({0})",
    "log": "xp.log({0})",
    "tanh": "xp.tanh({0})",
    "absolute": "xp.abs({0})",
    "relu": "xp.where({0} > 0, {0}, 0.0 * {0})",
    "sign": "xp.sign({0})",
    "step": "xp.astype({0} > 0, {0}.dtype)",
}
_LATEX = {
    "exp": r"\exp",
    "log": r"\log",
    "tanh": r"\tanh",
    "absolute": r"\operatorname{abs}",
    "relu": r"\operatorname{ReLU}",
    "sign": r"\operatorname{sign}",
    "step": r"\mathbb{1}_{>0}",
}

half: Expr = _as_expr(Fraction(1, 2))
"""One half, exactly."""


def size(dim: Dim) -> Expr:
    """A size as a scalar: ``size("d") / (size("n") * eps**2)``.

    Args:
        dim: its name, or a number.

    Returns:
        The scalar.
    """
    return _letter(Size(_name(dim))) if isinstance(dim, str) else _as_expr(dim)


def eye(n: Dim) -> Expr:
    """Identity matrix.

    Args:
        n: name of its size, or a number.

    Returns:
        The matrix; the scalar one where n is 1.
    """
    return _as_expr(1) if n == 1 else Expr((n, n), (Term(Fraction(1)),))


def ones(n: Dim) -> Expr:
    """Column of ones.

    Args:
        n: name of its size, or a number.

    Returns:
        The column; the scalar one where n is 1.
    """
    return _as_expr(1) if n == 1 else _letter(Ones(_dim(n)))


def _full(shape: Shape) -> Expr:
    return ones(shape[0]) @ ones(shape[1]).T if shape else _as_expr(1)


def zeros(*shape: Dim) -> Expr:
    """Zero.

    Args:
        *shape: nothing for a scalar, rows and columns for a matrix.

    Returns:
        The expression without terms.
    """
    return Expr(SCALAR if shape == (1, 1) else shape, ())


def inv(X: Expr) -> Expr:
    """Inverse of a square matrix; of a product of square matrices the reversed product of their inverses.

    Args:
        X: square matrix, invertible where the expression is used.

    Returns:
        The inverse, of the same shape.

    Raises:
        ValueError: X is not square, or zero.
    """
    n = _square(X, "inv")
    if not X.terms:
        raise ValueError("inv of a zero matrix")
    if len(X.terms) > 1 or X.terms[0].bound:
        return _letter(Inverse(X))
    (t,) = X.terms
    scale = _power(_scale(t), Fraction(-1))
    if not t.word:
        return scale * eye(n)
    if len(t.word) > 1 and all(a.shape == (n, n) for a in t.word):
        return scale * reduce(lambda a, b: a @ b, [inv(_letter(a)) for a in reversed(t.word)])
    (first, *_) = t.word
    if len(t.word) == 1 and isinstance(first, Inverse):
        return scale * first.inside
    if len(t.word) == 1 and isinstance(first, Diag):
        return scale * diag(power(first.inside, -1))
    return scale * _letter(Inverse(_word((n, n), t.word)))


def logdet(X: Expr) -> Expr:
    """Logarithm of the (absolute) determinant of a square matrix.

    Args:
        X: square matrix.

    Returns:
        The scalar.

    Raises:
        ValueError: X is not square, or zero.
    """
    n = _square(X, "logdet")
    if not X.terms:
        raise ValueError("logdet of a zero matrix")
    if len(X.terms) > 1 or X.terms[0].bound:
        return _letter(LogDet(X))
    (t,) = X.terms
    scale = _term(SCALAR, Term(abs(t.coefficient), t.scalars))
    value = zeros() if scale == _as_expr(1) else size(n) * log(scale)
    if len(t.word) > 1 and all(a.shape == (n, n) for a in t.word):
        return value + _add(SCALAR, (logdet(_letter(a)) for a in t.word))
    if len(t.word) == 1 and isinstance(t.word[0], Inverse):
        return value - logdet(t.word[0].inside)
    if not t.word:
        return value
    return value + _letter(LogDet(_word((n, n), t.word)))


def trace(X: Expr) -> Expr:
    """Trace of a square matrix, each word turned to a chosen one of its rotations and their transposes.

    Args:
        X: square matrix.

    Returns:
        The scalar.

    Raises:
        ValueError: X is not square.
    """
    if not X.shape:
        return X
    n = _square(X, "trace")
    return _add(SCALAR, (_inside(t, _trace_of(t.word, n)) for t in X.terms))


def _scale(t: Term) -> Expr:
    """Coefficient and scalar factors of a term."""
    return _term(SCALAR, Term(t.coefficient, t.scalars))


def _inside(t: Term, factor: Expr) -> Expr:
    """The scalars of a term times a factor, under its sums."""
    return _bind(_scale(t) * factor, t.bound)


def _trace_of(word: tuple[Atom, ...], n: Dim) -> Expr:
    if not word:
        return size(n)
    cut = next((i for i, a in enumerate(word) if a.shape[0] == 1), None)
    if cut is not None:
        return _product((1, 1), word[cut:] + word[:cut])
    if len(word) == 1 and isinstance(word[0], Diag):
        return ones(n).T @ word[0].inside
    word = min(_turns(word), key=_order)
    return _letter(Trace(_word((word[0].shape[0], word[0].shape[0]), word)))


def _order(word: tuple[Atom, ...]) -> tuple[int, list[str]]:
    """What decides between a word and its equals: few transposes, then the alphabet."""
    keys = [a.key for a in word]
    return sum(key.count(".T") for key in keys), keys


def _turns(word: tuple[Atom, ...]) -> list[tuple[Atom, ...]]:
    turned = [word[i:] + word[:i] for i in range(len(word))]
    return turned + [_flip(w) for w in turned]


def inner(A: Expr, B: Expr) -> Expr:
    """Inner product ⟨A, B⟩ = tr(AᵀB).

    Args:
        A: matrix or scalar.
        B: another of the same shape.

    Returns:
        The scalar.

    Raises:
        ValueError: two shapes.
    """
    if A.shape != B.shape:
        raise ValueError(f"inner takes two of one shape; got {_named(A)} and {_named(B)}")
    return trace(A.T @ B) if A.shape else A * B


def squared_norm(X: Expr) -> Expr:
    """Squared Frobenius norm ‖X‖² = tr(XᵀX).

    Args:
        X: matrix.

    Returns:
        The scalar.
    """
    return inner(X, X)


def total(X: Expr) -> Expr:
    """Sum of all entries.

    Args:
        X: matrix.

    Returns:
        The scalar.
    """
    return ones(X.shape[0]).T @ X @ ones(X.shape[1]) if X.shape else X


def Sum(index: str, body: Expr) -> Expr:
    """Sum over the members of the families in a body: ``Sum("k", U["k"] @ U["k"].T)``.

    Args:
        index: the index summed over.
        body: expression with members or columns of that index.

    Returns:
        The sum, over one range for all of them.

    Raises:
        ValueError: nothing in the body has the index, or two families with it have different sizes.
    """
    ranges = {s.over for s in _symbols(body) if s.index == index and s.over is not None}
    if not ranges:
        raise ValueError(f"nothing in {_named(body)} has the index {index}")
    if len(ranges) > 1:
        raise ValueError(f"the index {index} runs over several sizes: {', '.join(sorted(map(str, ranges)))}")
    return _bind(body, [(index, ranges.pop())])


def diag(x: Expr) -> Expr:
    """Diagonal matrix of a column.

    Args:
        x: column of shape (n, 1).

    Returns:
        Matrix of shape (n, n).

    Raises:
        ValueError: x is no column.
    """
    if len(x.shape) != 2 or x.shape[1] != 1:
        raise ValueError(f"diag takes a column; got {_named(x)}")
    n = x.shape[0]
    parts = []
    for t in x.terms:
        letter = eye(n) if t.word == (Ones(n),) else _letter(Diag(_word(x.shape, t.word)))
        parts.append(_inside(t, letter))
    return _add((n, n), parts)


def diagonal(X: Expr) -> Expr:
    """Diagonal of a square matrix, as a column.

    Args:
        X: matrix of shape (n, n).

    Returns:
        Column of shape (n, 1).

    Raises:
        ValueError: X is not square.
    """
    n = _square(X, "diagonal")
    return _add((n, 1), (_inside(t, _diagonal_of(t.word, n)) for t in X.terms))


def _diagonal_of(word: tuple[Atom, ...], n: Dim) -> Expr:
    if not word:
        return ones(n)
    if isinstance(word[0], Diag):
        return hadamard(word[0].inside, _diagonal_of(word[1:], n))
    if isinstance(word[-1], Diag):
        return hadamard(word[-1].inside, _diagonal_of(word[:-1], n))
    cut = next((i for i in range(1, len(word)) if word[i].shape[0] == 1), None)
    if cut is not None:
        return hadamard(_product((n, 1), word[:cut]), _product((1, n), word[cut:]).T)
    word = min(word, _flip(word), key=_order)
    return _letter(Diagonal(_word((n, n), word)))


def hadamard(*factors: Expr) -> Expr:
    """Product of entries, expanded; a factor of rank one, x yᵀ, becomes diag(x) · diag(y).

    Args:
        *factors: scalars, or matrices of one shape.

    Returns:
        An expression of that shape.

    Raises:
        ValueError: no factors, or two shapes.
    """
    if not factors:
        raise ValueError("hadamard of nothing")
    for other in factors[1:]:
        if other.shape != factors[0].shape:
            raise ValueError(f"hadamard takes factors of one shape; got {_named(factors[0])} and {_named(other)}")
    return reduce(_hadamard, factors)


def _hadamard(A: Expr, B: Expr) -> Expr:
    if not A.shape:
        return A * B
    parts = []
    for s, t in itertools.product(A.terms, B.terms):
        t = _apart(t, s.free | {k for k, _ in s.bound})
        s = _apart(s, t.free | {k for k, _ in t.bound})
        scale = _term(SCALAR, Term(s.coefficient * t.coefficient, s.scalars + t.scalars))
        parts.append(_bind(scale * _hadamard_of(s.word, t.word, A.shape), s.bound + t.bound))
    return _add(A.shape, parts)


def _hadamard_of(v: tuple[Atom, ...], w: tuple[Atom, ...], shape: Shape) -> Expr:
    A, B = (_word(shape, word) for word in (v, w))
    for X, Y in ((A, B), (B, A)):
        word = X.terms[0].word
        if not word:
            return diag(diagonal(Y))
        if word == (Ones(shape[0]),):
            return Y
        if word == (Transposed(Ones(shape[1])),):
            return Y
        cut = next((i for i in range(1, len(word)) if word[i].shape[0] == 1), None)
        if cut is not None:
            left = diag(_product((shape[0], 1), word[:cut]))
            return left @ Y @ diag(_product((1, shape[1]), word[cut:]).T)
    parts: list[Expr] = []
    for word in (v, w):
        alone = word[0] if len(word) == 1 else None
        parts += alone.factors if isinstance(alone, Hadamard) else [_word(shape, word)]
    return _letter(Hadamard(tuple(sorted(parts, key=lambda part: part.key))))


def power(X: Expr, exponent: float | Fraction) -> Expr:
    """Power of every entry.

    Args:
        X: scalar or matrix.
        exponent: a number.

    Returns:
        An expression of the same shape.
    """
    p = _fraction(exponent)
    if not X.shape:
        return _power(X, p)
    if p == 0:
        return _full(X.shape)
    if p.denominator == 1 and p > 0:
        return hadamard(*[X] * int(p))
    return _letter(Apply(X, Function("power", exponent=p, known=True)))


exp = Function("exp", known=True)
"""Exponential of every entry."""
log = Function("log", known=True)
"""Natural logarithm of every (positive) entry."""
tanh = Function("tanh", known=True)
"""Hyperbolic tangent of every entry."""
absolute = Function("absolute", known=True)
"""Absolute value of every entry; its derivative is the sign, zero at zero."""
relu = Function("relu", known=True)
"""Positive part of every entry; its derivative is one above zero and zero elsewhere."""
_SIGN = Function("sign", known=True)
_STEP = Function("step", known=True)
_SLOPES: dict[str, Callable[[Expr], Expr]] = {
    "exp": exp,
    "log": lambda X: power(X, -1),
    "tanh": lambda X: _full(X.shape) - power(tanh(X), 2),
    "absolute": _SIGN,
    "relu": _STEP,
    "sign": lambda X: zeros(*X.shape),
    "step": lambda X: zeros(*X.shape),
}


def log1p(X: Expr) -> Expr:
    """The function log(1 + x) of every entry.

    Args:
        X: scalar or matrix with entries above −1.

    Returns:
        An expression of the same shape.
    """
    return log(_full(X.shape) + X)


def sqrt(X: Expr) -> Expr:
    """Square root of every entry.

    Args:
        X: scalar or matrix with positive entries.

    Returns:
        An expression of the same shape.
    """
    return power(X, Fraction(1, 2))


def shrink(X: Expr, threshold: Expr | float) -> Expr:
    """Proximal map of t‖·‖₁: every entry moved toward zero by t, and to zero where it is smaller.

    Args:
        X: matrix.
        threshold: scalar t ≥ 0.

    Returns:
        relu(X − t) − relu(−X − t).
    """
    level = _as_expr(threshold) * _full(X.shape)
    return relu(X - level) - relu(-X - level)


def softmax(X: Expr) -> Expr:
    """Softmax of every row.

    Args:
        X: matrix of shape (n, m).

    Returns:
        Matrix of shape (n, m) whose rows sum to one.

    Raises:
        ValueError: X is a scalar.
    """
    if not X.shape:
        raise ValueError(f"softmax takes a matrix; got {_named(X)}")
    return _letter(Softmax(X))


def logsumexp(X: Expr) -> Expr:
    """The log Σ exp of every row.

    Args:
        X: matrix of shape (n, m).

    Returns:
        Column of shape (n, 1).

    Raises:
        ValueError: X is a scalar.
    """
    if not X.shape:
        raise ValueError(f"logsumexp takes a matrix; got {_named(X)}")
    return _letter(LogSumExp(X))


# Derivatives.


def _symbol(x: Expr, what: str) -> Symbol:
    """The symbol an expression consists of."""
    if len(x.terms) == 1 and x.terms[0].coefficient == 1 and not x.terms[0].bound:
        t = x.terms[0]
        atoms = [a for a, e in t.scalars if e == 1] + list(t.word)
        if len(t.scalars) + len(t.word) == 1 and len(atoms) == 1 and isinstance(atoms[0], Symbol):
            return atoms[0]
    raise ValueError(f"{what} a symbol; got {_named(x)}")


def _direction(variable: Symbol, name: str, f: Expr) -> Symbol:
    if any(s.name == name for s in _symbols(f)):
        raise ValueError(f"the direction {name} is a symbol of the expression already: choose another name")
    return replace(variable, name=_name(name), positive=False)


def _toward(variable: Symbol, direction: Symbol) -> Leaf:
    """Vary a symbol, all members of its family together."""

    def leaf(symbol: Symbol) -> Expr | None:
        if symbol.name != variable.name:
            return None
        if symbol.column != variable.column:
            raise ValueError(f"{symbol.name} stands as a whole and by its columns: take one of the two throughout")
        return _letter(replace(direction, index=symbol.index))

    return leaf


def differential(f: Expr, variable: Expr, direction: str) -> Expr:
    """Differential of an expression: its derivative in a direction.

    Args:
        f: scalar or matrix.
        variable: the symbol that varies, a member of a family standing for all of its members.
        direction: name of the direction, a symbol of the same shape.

    Returns:
        D f[direction], of the shape of f and linear in the direction.

    Raises:
        ValueError: variable is no symbol, or the name of the direction is taken.
    """
    symbol = _symbol(variable, "a derivative is taken in")
    return _differential(f, _toward(symbol, _direction(symbol, direction, f)))


def grad(f: Expr, variable: Expr) -> Expr:
    """Gradient of a scalar: the G of df = tr(Gᵀ dX).

    Args:
        f: scalar.
        variable: the symbol X, a member U["k"] of a family for its gradient as a function of the free index.

    Returns:
        Expression of the shape of the variable; of a symmetric variable the symmetric one.

    Raises:
        ValueError: f is a matrix, or variable is no symbol.

    Example:
        >>> from srr import derive as d
        >>> X = d.Matrix("X", "n", "n")
        >>> d.grad(d.logdet(X), X)
        inv(X.T)
    """
    if f.shape:
        raise ValueError(f"a gradient is that of a scalar; got {_named(f)}")
    symbol = _symbol(variable, "a gradient is taken in")
    direction = _direction(symbol, _unused(f, symbol.name), f)
    G = _adjoint(_differential(f, _toward(symbol, direction)), direction, _as_expr(1))
    return half * (G + G.T) if symbol.symmetric else G


def _unused(f: Expr, name: str) -> str:
    taken = {s.name for s in _symbols(f)}
    return next(
        n for n in itertools.chain([f"d{name}"], map(f"d{name}_{{}}".format, itertools.count())) if n not in taken
    )


def hessian_product(f: Expr, variable: Expr, direction: str) -> Expr:
    """Hessian of a scalar applied to a direction: the differential of its gradient.

    Args:
        f: scalar.
        variable: the symbol it is differentiated in.
        direction: name of the direction.

    Returns:
        Expression of the shape of the variable, linear in the direction.

    Raises:
        ValueError: as :func:`grad` and :func:`differential`.
    """
    return differential(grad(f, variable), variable, direction)


def quadratic_form(f: Expr, variable: Expr, direction: str) -> Expr:
    """Second differential D²f[E, E] in one direction twice: the quadratic form of the Hessian.

    Args:
        f: scalar (or a matrix, entry by entry).
        variable: the symbol it is differentiated in.
        direction: name of the direction E.

    Returns:
        Expression of the shape of f.

    Raises:
        ValueError: as :func:`differential`.
    """
    symbol = _symbol(variable, "a derivative is taken in")
    leaf = _toward(symbol, _direction(symbol, direction, f))
    return _differential(_differential(f, leaf), leaf)


# Printing.

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


def _latex_function(f: Function) -> str:
    return _LATEX[f.name] if f.known else _latex_name(f.name) + "'" * f.order


def _quoted(dim: Dim) -> str:
    return f'"{dim}"' if isinstance(dim, str) else str(dim)


def _show(x: Expr, style: str) -> str:
    """The sum, positive terms first."""
    text = ""
    for t in sorted(x.terms, key=lambda t: t.coefficient < 0):
        sign = "-" if t.coefficient < 0 else "+"
        body = _show_term(t, x.shape, style)
        text += f" {sign} {body}" if text else body if sign == "+" else f"-{body}"
    return text or "0"


def _show_term(t: Term, shape: Shape, style: str) -> str:
    above = [str(abs(t.coefficient.numerator))] if abs(t.coefficient.numerator) != 1 else []
    below = [str(t.coefficient.denominator)] if t.coefficient.denominator != 1 else []
    behind: list[str] = []
    for a, e in t.scalars:
        place = below if e < 0 else above if isinstance(a, Symbol | Size | Group) else behind
        place.append(_show_power(a, abs(e), style))
    letters = [a.text(style) for a in t.word]
    if shape and not letters:
        letters = [f"I_{{{shape[0]}}}" if style == "latex" else "I"]
    if style == "latex":
        head = rf"\frac{{{' '.join(above) or '1'}}}{{{' '.join(below)}}}" if below else " ".join(above)
        sums = "".join(rf"\sum_{{{k}=1}}^{{{_latex_name(str(K))}}} " for k, K in t.bound)
        return sums + (" ".join([*([head] if head else []), *behind, *letters]) or "1")
    head = " * ".join(above)
    if below:
        head = f"{head or '1'} / {below[0] if len(below) == 1 else '(' + ' * '.join(below) + ')'}"
    body = " * ".join([part for part in (head, *behind, " @ ".join(letters)) if part]) or "1"
    for k, _ in t.bound:
        body = f'Sum("{k}", {body})'
    return body


def _show_power(a: Atom, e: Fraction, style: str) -> str:
    text = a.text(style)
    if e == 1:
        return text
    if style != "latex":
        return f"{text}**{e}" if e.denominator == 1 else f"{text}**({e})"
    return f"{text}^{{{e}}}" if isinstance(a, Symbol | Size | Group) else rf"\left({text}\right)^{{{e}}}"


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


def _gathered(*xs: Expr) -> dict[str, Symbol]:
    """The symbols of expressions by name; one name must mean one thing."""
    found: dict[str, Symbol] = {}
    for symbol in (s for x in xs for s in _symbols(x)):
        known = found.setdefault(symbol.name, symbol)
        if replace(known, index=None) != replace(symbol, index=None):
            both = " and ".join(_named(_letter(s)) for s in (known, symbol))
            raise ValueError(f"{symbol.name} means two things: {both}")
    return found


class _Writer:
    """Writes an expression as a function: every inverse, softmax and the like once, outside the loops it can leave."""

    def __init__(self, x: Expr) -> None:
        self.x = x
        self.symbols = _gathered(x)
        self.functions = sorted({f.code_name for f in _functions(x) if not f.known})
        self.places: dict[str, str] = {}
        for symbol in self.symbols.values():
            for dim, place in _places(symbol):
                if isinstance(dim, str):
                    self.places.setdefault(dim, place)
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
        return f"def {_name(name)}(*, {', '.join((*self.arguments, 'xp'))}):\n{body}\n"

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
                new = _fresh(taken.union(*(t.free for t in terms)))
                terms, k = list(_reindex(Expr(shape, tuple(terms)), k, new).terms), new
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
            base = _factor(a.write(self))
            (above if e > 0 else below).append(base if abs(e) == 1 else f"{base}**{_code_number(abs(e))}")
        head = " * ".join(above)
        if below:
            head = f"{head or '1.0'} / {below[0] if len(below) == 1 else '(' + ' * '.join(below) + ')'}"
        word = self.word(t.word) if t.word else self.identity(shape[0]) if shape else ""
        return " * ".join(part for part in (head, word) if part) or "1.0"

    def word(self, word: tuple[Atom, ...]) -> str:
        """A product of matrices; a diagonal one scales rows."""
        for i, a in enumerate(word):
            if isinstance(a, Diag) and len(word) > 1:
                scale = _factor(self.expr(a.inside))
                if i + 1 < len(word):
                    rows = f"({scale} * {_factor(self.word(word[i + 1 :]))})"
                    return f"{self.word(word[:i])} @ {rows}" if i else rows
                return f"({_factor(self.word(word[:i]))} * {scale}.mT)"
        return " @ ".join(a.write(self) for a in word)


def _places(s: Symbol) -> list[tuple[Dim, str]]:
    """Where the sizes of a symbol stand in its array."""
    if s.column:
        return [(s.dims[0], f"{s.name}.shape[0]"), (s.over or 0, f"{s.name}.shape[1]")]
    places: list[tuple[Dim, str]] = [] if s.over is None else [(s.over, f"{s.name}.shape[0]")]
    first = len(places)
    if s.dims:
        places.append((s.dims[0], f"{s.name}.shape[{first}]"))
        if s.dims[1] != 1:
            places.append((s.dims[1], f"{s.name}.shape[{first + 1}]"))
    return places


def _functions(x: Expr) -> Iterator[Function]:
    for t in x.terms:
        for a in (*(a for a, _ in t.scalars), *t.word):
            if isinstance(a.letter if isinstance(a, Transposed) else a, Apply):
                yield (a.letter if isinstance(a, Transposed) else a).function  # type: ignore[attr-defined]
            for part in a.parts:
                yield from _functions(part)


def compile(x: Expr, name: str = "function") -> Callable[..., Any]:  # noqa: A001
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

    def function(**values: Any) -> Any:
        odd = set(writer.arguments).symmetric_difference(values)
        if odd:
            need = ", ".join(writer.arguments)
            raise ValueError(f"the arguments are {need}; missing or unknown: {', '.join(sorted(odd))}")
        _check_sizes(writer.symbols.values(), values)
        arrays = [values[s.name] for s in writer.symbols.values() if s.dims or s.over is not None]
        return scope[name](**values, xp=namespace(*arrays) if arrays else namespace(np.ones(1)))

    function.__name__ = name
    function.__doc__ = repr(x)
    return function


def _check_sizes(symbols: Iterable[Symbol], values: Mapping[str, Any]) -> None:
    """Arrays must have the axes of their symbols, and agree on every size."""
    known: dict[str, tuple[int, str]] = {}
    for s in symbols:
        shape = tuple(getattr(values[s.name], "shape", ()))
        dims = (s.dims[0], s.over) if s.column else (*(() if s.over is None else (s.over,)), *s.dims)
        dims = tuple(dim for dim in dims if dim != 1)
        got = tuple(m for m in shape if m != 1) if len(shape) != len(dims) and len(s.dims) == 2 else shape
        if len(got) != len(dims):
            raise ValueError(f"{s.name} must have the shape ({', '.join(map(str, dims))}); got {shape}")
        for dim, m in zip(dims, got, strict=True):
            before, owner = known.setdefault(str(dim), (m if isinstance(dim, str) else int(dim or 0), s.name))
            if before != m:
                raise ValueError(f"{s.name} has {dim} = {m}, and {owner} has {dim} = {before}")


# The normal form.

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
    return _normal(x)


def _normal(x: Expr) -> Expr:
    shape = SCALAR if x.shape == (1, 1) else x.shape
    parts = (_settled(_rebuilt(x.shape, t, _normal_atom)) for t in x.terms)
    return _collect(shape, (_canonical(t, shape) for part in parts for t in part.terms))


def _canonical(t: Term, shape: Shape) -> Term:
    """The indices of a term's own sums named in the order that reads first."""
    if not t.bound:
        return t
    options = []
    for order in itertools.permutations(t.bound) if len(t.bound) <= _ORDERS else (t.bound,):
        body = Expr(shape, (replace(t, bound=()),))
        for i, (k, _) in enumerate(order):
            body = _reindex(body, k, f"_{i}")
        options.append(replace(body.terms[0], bound=tuple((f"_{i}", K) for i, (_, K) in enumerate(order))))
    return min(options, key=lambda option: option.key)


@lru_cache(maxsize=4096)  # one inverse stands in many words
def _normal_atom(a: Atom) -> Expr:
    if isinstance(a, Symbol | Size | Ones):
        return _letter(a)
    if isinstance(a, Transposed):
        return _normal_atom(a.letter).T
    if isinstance(a, Trace):
        return _normal_trace(a.inside)
    parts = [_normal(part) for part in a.parts]
    if isinstance(a, Inverse):
        return _normal_inverse(parts[0])
    if isinstance(a, LogDet):
        return _normal_logdet(parts[0])
    return a.rebuilt(*parts)


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
            todo.extend(_inside(t, new).terms)
    return _collect(x.shape, (*done, *todo))


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
                new = (eye(a.shape[0]) - _letter(a) @ rest) / _scale(longest)
                return _around(word[:i], new, word[end:])
    return None


def _push_left(word: tuple[Atom, ...]) -> Expr | None:
    """A (c + BA)⁻¹ = (c + AB)⁻¹ A, one letter A at a time."""
    for i in range(1, len(word)):
        if isinstance(word[i], Inverse):
            new = _pushed(word, i)
            if new is not None:
                return _around(word[: i - 1], *new, word[i + 1 :])
    return None


def _pushed(word: tuple[Atom, ...], i: int) -> tuple[Expr] | None:
    """Letter i − 1 and the inverse at i, exchanged."""
    b, a = word[i - 1], word[i]
    turned = _turned(a.parts[0], b)
    return None if turned is None else (_normal_inverse(turned) @ _letter(b),)


def _turned(X: Expr, b: Atom) -> Expr | None:
    """The c + AB of X = c + BA, where A is the letter that all words of X end in; None where that is no identity."""
    n = b.shape[0]
    if n == 1 or (all(t.word for t in X.terms) and b.shape[0] != b.shape[1]):
        return None
    parts = []
    for t in X.terms:
        if not t.word:
            parts.append(_inside(t, eye(n)))
        elif t.word[-1] == b and not b.free & {k for k, _ in t.bound}:
            parts.append(_inside(t, _product((n, n), (b, *t.word[:-1]))))
        else:
            return None
    return _add((n, n), parts)


def _join(word: tuple[Atom, ...]) -> Expr | None:
    """Diagonal matrices: diag(x) diag(y) = diag(x ∘ y), diag(x) y = x ∘ y."""
    for i, a in enumerate(word):
        if not isinstance(a, Diag):
            continue
        if i + 1 < len(word) and isinstance(word[i + 1], Diag):
            both = hadamard(a.inside, word[i + 1].parts[0])
            return _around(word[:i], diag(both), word[i + 2 :])
        end = next((j for j in range(i + 1, len(word)) if word[j].shape[1] == 1), None)
        if end is not None:
            column = _product((a.shape[0], 1), word[i + 1 : end + 1])
            return _around(word[:i], hadamard(a.inside, column), word[end + 1 :])
        start = next((j for j in range(i - 1, -1, -1) if word[j].shape[0] == 1), None)
        if start is not None:
            row = _product((1, a.shape[0]), word[start:i])
            return _around(word[:start], hadamard(a.inside, row.T).T, word[i + 1 :])
    return None


def _content(X: Expr) -> Expr:
    """The scalar in front of the identity of a sum, or in front of its first term: what is divided out of it."""
    units = [t for t in X.terms if not t.word]
    t = units[0] if units else X.terms[0]
    return _scale(t) if len(units) <= 1 and not t.bound and len(X.terms) > 1 else _as_expr(1)


def _normal_inverse(X: Expr) -> Expr:
    c = _content(X)
    return inv(X / c) / c


def _normal_logdet(X: Expr) -> Expr:
    c = _content(X)
    value = zeros() if c == _as_expr(1) else size(X.shape[0]) * log(c)
    return value + logdet(_first_form(X / c))


def _first_form(X: Expr) -> Expr:
    """The first in alphabetical order of I + AB, I + BA and their transposes."""
    if all(t.word for t in X.terms):
        return X
    seen, todo = {X.key: X}, [X]
    while todo and len(seen) < _FORMS:
        form = todo.pop()
        new = [form.T]
        lasts = {t.word[-1] for t in form.terms if t.word}
        if len(lasts) == 1:
            turned = _turned(form, lasts.pop())
            new += [] if turned is None else [turned]
        for candidate in new:
            if candidate.key not in seen:
                seen[candidate.key] = candidate
                todo.append(candidate)
    return seen[min(seen)]


def _normal_trace(x: Expr) -> Expr:
    """Trace of one word (the inside of a Trace)."""
    (t,) = x.terms
    if x.shape == (1, 1):
        sides = []
        for word in (t.word, _flip(t.word)):
            column = _normal(_word((word[0].shape[1], 1), word[1:]))
            sides.append(_normal_atom(word[0]) @ column)
        return min(sides, key=lambda side: (len(side.terms), side.key))
    inside = _add(x.shape, (_rebuilt(x.shape, t, _normal_atom),))
    return _add(SCALAR, (_inside(t, _normal_trace_of(t.word, x.shape[0])) for t in inside.terms))


def _normal_trace_of(word: tuple[Atom, ...], n: Dim) -> Expr:
    plain = _trace_of(word, n)
    if not word or not isinstance(plain.terms[0].scalars[0][0], Trace) or any(a.shape[0] == 1 for a in word):
        return plain
    forms = _trace_forms(word)
    for form in sorted(forms):
        for turned in _turns(forms[form]):
            canceled = _cancel(turned) or _join(turned)
            if canceled is not None:
                return _normal(trace(canceled))
    best = forms[min(forms)]
    if len(best) == 1 and isinstance(best[0], Inverse):
        first = _first_form(best[0].inside)
        return _trace_of((Inverse(first),), first.shape[0]) + size(best[0].shape[0]) - size(first.shape[0])
    return _trace_of(best, best[0].shape[0])


def _trace_forms(word: tuple[Atom, ...]) -> dict[str, tuple[Atom, ...]]:
    """Words of one trace, reached by turning, transposing and pushing inverses through."""

    def first(w: tuple[Atom, ...]) -> tuple[Atom, ...]:
        return min(_turns(w), key=_order)

    def key(w: tuple[Atom, ...]) -> str:
        return "@".join(a.key for a in w)

    start = first(word)
    seen, todo = {key(start): start}, [start]
    while todo and len(seen) < _FORMS:
        for turned in _turns(todo.pop()):
            if len(turned) < 2 or not isinstance(turned[1], Inverse):
                continue
            pushed = _pushed(turned, 1)
            if pushed is None or len(pushed[0].terms) != 1 or pushed[0].terms[0].scalars:
                continue
            form = first((*pushed[0].terms[0].word, *turned[2:]))
            if key(form) not in seen:
                seen[key(form)] = form
                todo.append(form)
    return seen


def _vanishes(x: Expr) -> bool:
    """Whether the normal form is zero, after sums in denominators are multiplied out."""
    x = _normal(x)
    depth: dict[Atom, Fraction] = {}
    for t in x.terms:
        for a, e in t.scalars:
            if isinstance(a, Group) and e < 0:
                depth[a] = max(depth.get(a, Fraction(0)), -e)
    for a, e in depth.items():
        factor = Expr(SCALAR, (Term(Fraction(1), ((a, e),)),))
        x = _add(x.shape, (_multiply(Expr(x.shape, (t,)), factor, x.shape) for t in x.terms))
    return not (_normal(x) if depth else x).terms


# The comparison.


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
    closed: Expr | Callable[..., Any],
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
        raise ValueError(f"two shapes: {_named(derived)} and {_named(expression)}")
    symbolic = expression is not None and not turned and _vanishes(derived - expression)
    points = _points((derived, *([expression] if expression is not None else [])), draws, seed, sizes, xp)
    rows = [(point, value) for point in points if (value := _steady(derived, point)) is not None]
    if not rows:
        raise ValueError("no draw gave a finite value: give sizes= that make the inverses exist, or positive=True")
    evaluate = _called(closed) if expression is None else _compiled(expression)
    difference = _difference(rows, evaluate)
    if difference <= rtol:
        return Verdict(True, "symbolic" if symbolic else "numeric", difference, len(rows))
    for text, candidate in _candidates(derived, closed):
        if _difference(rows, candidate) <= rtol:
            return Verdict(False, "numeric", difference, len(rows), text)
    return Verdict(False, "numeric", difference, len(rows))


_SIZES = (7, 5, 3, 4, 2, 6, 8, 9, 10)


def _points(
    xs: Sequence[Expr], draws: int, seed: int, sizes: Mapping[str, int] | None, xp: Namespace
) -> Iterator[Draw]:
    """Random values for every symbol, unknown function and free index; sizes in falling and in rising order."""
    symbols = _gathered(*xs)
    names = list(dict.fromkeys(dim for s in symbols.values() for dim, _ in _places(s) if isinstance(dim, str)))
    functions = {f.code_name: f for x in xs for f in _functions(x) if not f.known}
    lone = {a.name for x in xs for a in _sizes_of(x)} - set(names)
    rng = np.random.default_rng(seed)
    numbers = [*_SIZES, *range(max(_SIZES) + 1, max(_SIZES) + len(names))][: len(names)]
    for i in range(draws):
        values = dict(zip(names, numbers if i % 2 == 0 else reversed(numbers), strict=True))
        values |= dict.fromkeys(lone, 4) | dict(sizes or {})
        point: Draw = dict(values)
        for s in symbols.values():
            shape = [values[dim] if isinstance(dim, str) else dim for dim in _array_dims(s)]
            drawn = rng.uniform(0.5, 1.5, size=shape) if s.positive or s.column else rng.standard_normal(shape)
            if s.symmetric:
                drawn = drawn @ drawn.T / len(drawn) + np.eye(len(drawn))
            point[s.name] = float(drawn) if not shape else drawn if xp is None else xp.asarray(drawn)
        point |= {f.code_name: _stand_in(f) for f in functions.values()}
        for x in xs:
            over = {s.index: s.over for s in _symbols(x)}
            point |= {k: values.get(str(over[k]), 1) - 1 for k in x.free}
        yield point


def _array_dims(s: Symbol) -> tuple[Dim, ...]:
    dims: tuple[Dim | None, ...] = (s.dims[0], s.over) if s.column else (s.over, *s.dims)
    return tuple(dim for dim in dims if dim is not None and dim != 1)


def _sizes_of(x: Expr) -> Iterator[Size]:
    for t in x.terms:
        for a in (*(a for a, _ in t.scalars), *t.word):
            if isinstance(a, Size):
                yield a
            for part in a.parts:
                yield from _sizes_of(part)
    yield from (Size(dim) for dim in x.shape if isinstance(dim, str))


def _stand_in(f: Function) -> Callable[[Array], Array]:
    """sin(x + 0.3) and its derivatives, in the place of a function that is only named."""

    def function(x: Array) -> Array:
        return namespace(x).sin(x + 0.3 + f.order * np.pi / 2)

    return function


Evaluate = Callable[[Draw], "np.ndarray[Any, Any] | None"]


def _compiled(x: Expr) -> Evaluate:
    return lambda point: _evaluate(x, point)


def _evaluate(x: Expr, point: Draw) -> np.ndarray[Any, Any] | None:
    """Value at a point; None where an inverse does not exist or an entry is not finite."""
    function = compile(x)
    try:
        value = to_numpy(function(**{name: point[name] for name in x.arguments}))
    except np.linalg.LinAlgError:
        return None
    return value if np.all(np.isfinite(value)) and np.max(np.abs(value), initial=0.0) < 1e12 else None


def _steady(x: Expr, point: Draw) -> np.ndarray[Any, Any] | None:
    """Value at a point where it can be trusted: small changes of the point change it little."""
    value = _evaluate(x, point)
    moved = _evaluate(x, {k: v if callable(v) or isinstance(v, int) else v * (1 + 1e-13) for k, v in point.items()})
    if value is None or moved is None:
        return None
    return value if np.max(np.abs(moved - value), initial=0.0) <= 1e-9 * np.max(np.abs(value), initial=0.0) else None


def _called(closed: Any) -> Evaluate:
    names = inspect.signature(closed).parameters
    everything = any(p.kind is p.VAR_KEYWORD for p in names.values())

    def evaluate(point: Draw) -> np.ndarray[Any, Any] | None:
        return to_numpy(closed(**{k: v for k, v in point.items() if everything or k in names}))

    return evaluate


def _difference(rows: Sequence[tuple[Draw, np.ndarray[Any, Any]]], evaluate: Evaluate) -> float:
    """Largest difference over the largest entry, over all draws; infinite where shapes differ."""
    worst = 0.0
    for point, value in rows:
        other = evaluate(point)
        if other is None or other.shape != value.shape:
            return float("inf")
        scale = max(float(np.max(np.abs(value), initial=0.0)), float(np.max(np.abs(other), initial=0.0)))
        worst = max(worst, float(np.max(np.abs(value - other), initial=0.0)) / scale if scale else 0.0)
    return worst


_FACTORS = {Fraction(c): f"multiply it by {c}" for c in ("1/2", "2", "-1/2", "-2", "1/4", "4")}
_FACTORS = {Fraction(-1): "its sign is wrong", **_FACTORS}


def _candidates(derived: Expr, closed: Expr | Callable[..., Any]) -> Iterator[tuple[str, Evaluate]]:
    """Common corrections of a closed form, the plainest first."""
    base = _compiled(closed) if isinstance(closed, Expr) else _called(closed)
    hints = _Hints.of(derived, *((closed,) if isinstance(closed, Expr) else ()))
    for c, text in _FACTORS.items():
        yield text, _scaled(base, _as_expr(c))
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
    def evaluate(point: Draw) -> np.ndarray[Any, Any] | None:
        value, scale = base(point), _evaluate(factor, point)
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
        products = dict.fromkeys(_term(SCALAR, Term(Fraction(1), scalars)) for scalars in kept if len(scalars) > 1)
        return _Hints(tuple(sorted(found, key=lambda a: a.key)), tuple(products))

    def factors(self) -> list[Expr]:
        """What a factor too many or too few may be."""
        powers = [_power(_letter(a), Fraction(e)) for a in self.scalars if not a.free for e in (1, -1, 2, -2)]
        return powers + [_power(m, Fraction(e)) for m in self.products for e in (1, -1)]

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
        for a in (*(a for a, _ in t.scalars), *t.word):
            for part in a.parts:
                yield from _terms(part)


def _edits(x: Expr, hints: _Hints, depth: int = 3) -> Iterator[tuple[str, Expr]]:
    """The expression with one mistake in one term undone; also inside the inverses and functions it is made of."""
    for i, t in enumerate(x.terms):
        others = x.terms[:i] + x.terms[i + 1 :]
        shown = ("-" if t.coefficient < 0 else "") + _show_term(t, x.shape, "text")
        for text, new in _term_edits(t, x.shape, hints):
            yield f"in the term {shown}: {text}", _collect(x.shape, (*others, *new.terms))
        for text, new in _inner_edits(t, x.shape, hints, depth) if depth else ():
            yield text, _collect(x.shape, (*others, *new.terms))


def _term_edits(t: Term, shape: Shape, hints: _Hints) -> Iterator[tuple[str, Expr]]:
    """A term with another factor, another scalar, or one letter transposed."""
    for c, text in (*_FACTORS.items(), (Fraction(0), "leave it out")):
        yield text, Expr(shape, (t,)) * _as_expr(c)
    for j, (a, e) in enumerate(t.scalars):
        for b in hints.others(a):
            changed = (*t.scalars[:j], (b, e), *t.scalars[j + 1 :])
            yield f"write {b.text('text')} for {a.text('text')}", _term(shape, replace(t, scalars=changed))
    for m in hints.factors():
        yield f"multiply it by {m}", _multiply(Expr(shape, (t,)), m, shape)
    for j, a in enumerate(t.word):
        if a.shape == a.shape[::-1] and a.flipped() != a:
            changed_word = (*t.word[:j], a.flipped(), *t.word[j + 1 :])
            yield f"transpose {a.text('text')}", Expr(shape, (replace(t, word=changed_word),))


def _inner_edits(t: Term, shape: Shape, hints: _Hints, depth: int) -> Iterator[tuple[str, Expr]]:
    for target in dict.fromkeys((*(a for a, _ in t.scalars), *t.word)):
        for p, part in enumerate(target.parts):
            for text, edited in _edits(part, hints, depth - 1):

                def change(a: Atom, p: int = p, target: Atom = target, edited: Expr = edited) -> Expr:
                    if a != target:
                        return _letter(a)
                    return a.rebuilt(*(edited if q == p else kept for q, kept in enumerate(a.parts)))

                with contextlib.suppress(ValueError):  # nothing is left of what is inverted
                    yield text, _rebuilt(shape, t, change)
