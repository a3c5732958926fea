"""What a mathematician types: symbols, and operations that simplify as they are written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce

from srr.derive.expressions import (
    SCALAR,
    Atom,
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
    Softmax,
    Symbol,
    Term,
    Trace,
    Transposed,
    Unary,
    add,
    as_expr,
    bare,
    bind,
    checked_name,
    eye,
    flip,
    fraction,
    framed,
    letter,
    named,
    order,
    pairs,
    power_of,
    product,
    scale_of,
    size,
    symbols,
    term,
    zeros,
)


def _square(x: Expr, what: str) -> Dim:
    if len(x.shape) != 2 or x.shape[0] != x.shape[1]:
        raise ValueError(f"{what} takes a square matrix; got {named(x)}")
    return x.shape[0]


def _checked_dim(dim: Dim) -> Dim:
    if isinstance(dim, str):
        return checked_name(dim)
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
    return letter(Symbol(checked_name(name), SCALAR, positive=positive))


def Vector(name: str, n: Dim, *, positive: bool = False) -> Expr:
    """A column of n entries by name; its array has shape (n,).

    Args:
        name: a Python identifier.
        n: name of its size, or a number.
        positive: whether random draws are positive, as weights are.

    Returns:
        The expression, of shape (n, 1).
    """
    return letter(Symbol(checked_name(name), (_checked_dim(n), 1), positive=positive))


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
    return letter(
        Symbol(checked_name(name), (_checked_dim(rows), _checked_dim(columns)), positive=positive, symmetric=symmetric)
    )


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
        object.__setattr__(self, "name", checked_name(name))
        object.__setattr__(self, "dims", tuple(_checked_dim(dim) for dim in dims))
        object.__setattr__(self, "over", _checked_dim(over))
        object.__setattr__(self, "positive", not dims if positive is None else positive)

    def __getitem__(self, index: str) -> Expr:
        """The member of an index."""
        return letter(Symbol(self.name, self.dims, checked_name(index), self.over, positive=self.positive))


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
        if not self.known and checked_name(self.name) in _SLOPES:
            raise ValueError(f"{self.name} is known to the engine: write derive.{self.name}")

    def __call__(self, X: Expr | float) -> Expr:
        """The function of every entry of X."""
        X = as_expr(X)
        return power(X, self.exponent) if self.exponent is not None else letter(Apply(X, self))

    @property
    def code_name(self) -> str:
        """Its name in code, such as f, f_prime, f_prime_prime."""
        return self.name + "_prime" * self.order

    def slope(self, X: Expr) -> Expr:
        """Its derivative at every entry of X."""
        if self.exponent is not None:
            return as_expr(self.exponent) * power(X, self.exponent - 1)
        if self.known:
            return _SLOPES[self.name](X)
        return replace(self, order=self.order + 1)(X)


@dataclass(frozen=True, eq=False)
class Apply(Unary):
    """A function of every entry."""

    function: Function

    @property
    def name(self) -> str:  # type: ignore[override]
        """Its name in code, with its exponent."""
        exponent = self.function.exponent
        return self.function.code_name if exponent is None else f"{self.function.code_name}[{exponent}]"

    def flipped(self) -> Atom:
        return Apply(self.inside.T, self.function)


def ones(n: Dim) -> Expr:
    """Column of ones.

    Args:
        n: name of its size, or a number.

    Returns:
        The column; the scalar one where n is 1.
    """
    return as_expr(1) if n == 1 else letter(Ones(_checked_dim(n)))


def _full(shape: Shape) -> Expr:
    return ones(shape[0]) @ ones(shape[1]).T if shape else as_expr(1)


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
        return letter(Inverse(X))
    (t,) = X.terms
    scale = power_of(scale_of(t), Fraction(-1))
    if not t.word:
        return scale * eye(n)
    if len(t.word) > 1 and all(a.shape == (n, n) for a in t.word):
        return scale * reduce(lambda a, b: a @ b, [inv(letter(a)) for a in reversed(t.word)])
    (first, *_) = t.word
    if len(t.word) == 1 and isinstance(first, Inverse):
        return scale * first.inside
    if len(t.word) == 1 and isinstance(first, Diag):
        return scale * diag(power(first.inside, -1))
    return scale * letter(Inverse(bare((n, n), t.word)))


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
        return letter(LogDet(X))
    (t,) = X.terms
    scale = term(SCALAR, Term(abs(t.coefficient), t.scalars))
    value = zeros() if scale == as_expr(1) else size(n) * log(scale)
    if len(t.word) > 1 and all(a.shape == (n, n) for a in t.word):
        return value + add(SCALAR, (logdet(letter(a)) for a in t.word))
    if len(t.word) == 1 and isinstance(t.word[0], Inverse):
        return value - logdet(t.word[0].inside)
    if not t.word:
        return value
    return value + letter(LogDet(bare((n, n), t.word)))


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
    return add(SCALAR, (framed(t, trace_of(t.word, n)) for t in X.terms))


def trace_of(word: tuple[Atom, ...], n: Dim) -> Expr:
    """Trace of a word."""
    if not word:
        return size(n)
    cut = next((i for i, a in enumerate(word) if a.shape[0] == 1), None)
    if cut is not None:
        return product((1, 1), word[cut:] + word[:cut])
    if len(word) == 1 and isinstance(word[0], Diag):
        return ones(n).T @ word[0].inside
    word = min(turns(word), key=order)
    return letter(Trace(bare((word[0].shape[0], word[0].shape[0]), word)))


def turns(word: tuple[Atom, ...]) -> list[tuple[Atom, ...]]:
    """The words whose trace is that of a word: turned, and transposed."""
    turned = [word[i:] + word[:i] for i in range(len(word))]
    return turned + [flip(w) for w in turned]


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
        raise ValueError(f"inner takes two of one shape; got {named(A)} and {named(B)}")
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
    ranges = {s.over for s in symbols(body) if s.index == index and s.over is not None}
    if not ranges:
        raise ValueError(f"nothing in {named(body)} has the index {index}")
    if len(ranges) > 1:
        raise ValueError(f"the index {index} runs over several sizes: {', '.join(sorted(map(str, ranges)))}")
    return bind(body, [(index, ranges.pop())])


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
        raise ValueError(f"diag takes a column; got {named(x)}")
    n = x.shape[0]
    parts = []
    for t in x.terms:
        square = eye(n) if t.word == (Ones(n),) else letter(Diag(bare(x.shape, t.word)))
        parts.append(framed(t, square))
    return add((n, n), parts)


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
    return add((n, 1), (framed(t, _diagonal_of(t.word, n)) for t in X.terms))


def _diagonal_of(word: tuple[Atom, ...], n: Dim) -> Expr:
    if not word:
        return ones(n)
    if isinstance(word[0], Diag):
        return hadamard(word[0].inside, _diagonal_of(word[1:], n))
    if isinstance(word[-1], Diag):
        return hadamard(word[-1].inside, _diagonal_of(word[:-1], n))
    cut = next((i for i in range(1, len(word)) if word[i].shape[0] == 1), None)
    if cut is not None:
        return hadamard(product((n, 1), word[:cut]), product((1, n), word[cut:]).T)
    word = min(word, flip(word), key=order)
    return letter(Diagonal(bare((n, n), word)))


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
            raise ValueError(f"hadamard takes factors of one shape; got {named(factors[0])} and {named(other)}")
    return reduce(_hadamard, factors)


def _hadamard(A: Expr, B: Expr) -> Expr:
    if not A.shape:
        return A * B
    parts = []
    for s, t in pairs(A, B):
        scale = term(SCALAR, Term(s.coefficient * t.coefficient, s.scalars + t.scalars))
        parts.append(bind(scale * _hadamard_of(s.word, t.word, A.shape), s.bound + t.bound))
    return add(A.shape, parts)


def _hadamard_of(v: tuple[Atom, ...], w: tuple[Atom, ...], shape: Shape) -> Expr:
    A, B = (bare(shape, word) for word in (v, w))
    for X, Y in ((A, B), (B, A)):
        word = X.terms[0].word
        if not word:
            return diag(diagonal(Y))
        if word in ((Ones(shape[0]),), (Transposed(Ones(shape[1])),)):
            return Y
        cut = next((i for i in range(1, len(word)) if word[i].shape[0] == 1), None)
        if cut is not None:
            left = diag(product((shape[0], 1), word[:cut]))
            return left @ Y @ diag(product((1, shape[1]), word[cut:]).T)
    parts: list[Expr] = []
    for word in (v, w):
        alone = word[0] if len(word) == 1 else None
        parts += alone.factors if isinstance(alone, Hadamard) else [bare(shape, word)]
    return letter(Hadamard(tuple(sorted(parts, key=lambda part: part.key))))


def power(X: Expr, exponent: float | Fraction) -> Expr:
    """Power of every entry.

    Args:
        X: scalar or matrix.
        exponent: a number.

    Returns:
        An expression of the same shape.
    """
    p = fraction(exponent)
    if not X.shape:
        return power_of(X, p)
    if p == 0:
        return _full(X.shape)
    if p.denominator == 1 and p > 0:
        return hadamard(*[X] * int(p))
    return letter(Apply(X, Function("power", exponent=p, known=True)))


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
    level = as_expr(threshold) * _full(X.shape)
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
        raise ValueError(f"softmax takes a matrix; got {named(X)}")
    return letter(Softmax(X))


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
        raise ValueError(f"logsumexp takes a matrix; got {named(X)}")
    return letter(LogSumExp(X))


def rebuilt(a: Atom, *parts: Expr) -> Expr:
    """The operation of an atom on other parts."""
    match a:
        case Transposed():
            return rebuilt(a.letter, *parts).T
        case Apply():
            return a.function(*parts)
        case Group():
            return parts[0]
        case _ if type(a) in _OPERATIONS:
            return _OPERATIONS[type(a)](*parts)
        case _:
            return letter(a)


_OPERATIONS: dict[type[Atom], Callable[..., Expr]] = {
    LogDet: logdet,
    Trace: trace,
    Inverse: inv,
    Diag: diag,
    Diagonal: diagonal,
    Hadamard: hadamard,
    Softmax: softmax,
    LogSumExp: logsumexp,
}
