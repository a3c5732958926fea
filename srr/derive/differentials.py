r"""Differentials and their adjoints: one rule for each operation.

A **differential** is linear in the direction that a symbol varies in; the **adjoint** of that linear map collects it
into :math:`\operatorname{tr}(G^\top dX)`, whose G is the gradient.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from srr.derive.expressions import (
    SCALAR,
    Atom,
    Bound,
    Diag,
    Diagonal,
    Expr,
    Group,
    Hadamard,
    Inverse,
    LogDet,
    LogSumExp,
    Ones,
    Size,
    Softmax,
    Symbol,
    Term,
    Trace,
    Transposed,
    add,
    apart,
    around,
    as_expr,
    bind,
    checked_name,
    everything,
    eye,
    flip,
    half,
    letter,
    named,
    occurs,
    product,
    scale_of,
    symbol_of,
    symbols,
    term,
    zeros,
)
from srr.derive.operations import Apply, diag, diagonal, hadamard, inner, inv, ones, softmax, trace
from srr.derive.printing import show_atom


def _change(a: Atom, X: Symbol, E: Symbol) -> Expr:  # noqa: C901 - one rule for each operation
    """Differential of an atom where X varies in the direction E, all members of a family together."""
    match a:
        case Symbol():
            if a.name != X.name:
                return zeros(*a.dims)
            if a.column != X.column:
                raise ValueError(f"{a.name} stands as a whole and by its columns: take one of the two throughout")
            return letter(replace(E, index=a.index))
        case Transposed():
            return _change(a.letter, X, E).T
        case Size() | Ones():
            return zeros(*a.shape)
        case Hadamard():
            changes = [_differential(part, X, E) for part in a.parts]
            return add(a.shape, (hadamard(*_others(a, i), c) for i, c in enumerate(changes) if c.terms))
    (Y,) = a.parts
    dY = _differential(Y, X, E)
    if not dY.terms:
        return zeros(*a.shape)
    match a:
        case Group():
            return dY
        case LogDet():
            return trace(inv(Y) @ dY)
        case Trace():
            return trace(dY)
        case Inverse():
            return -(letter(a) @ dY @ letter(a))
        case Diag():
            return diag(dY)
        case Diagonal():
            return diagonal(dY)
        case Apply():
            return hadamard(a.function.slope(Y), dY)
        case Softmax():
            weighted = hadamard(softmax(Y), dY)
            return weighted - diag(weighted @ ones(Y.shape[1])) @ softmax(Y)
        case LogSumExp():
            return hadamard(softmax(Y), dY) @ ones(Y.shape[1])
    raise TypeError(f"no rule for {show_atom(a)}")


def _differential(x: Expr, X: Symbol, E: Symbol) -> Expr:
    """Product rule over every factor of every term."""
    parts = []
    for t in x.terms:
        for i, (a, e) in enumerate(t.scalars):
            change = _change(a, X, E)
            if change.terms:
                rest = (*t.scalars[:i], (a, e - 1), *t.scalars[i + 1 :])
                parts.append(bind(term(x.shape, Term(t.coefficient * e, rest, t.word)) * change, t.bound))
        for i, a in enumerate(t.word):
            change = _change(a, X, E)
            if change.terms:
                parts.append(bind(scale_of(t) * around(t.word[:i], change, t.word[i + 1 :]), t.bound))
    return add(SCALAR if x.shape == (1, 1) else x.shape, parts)


def _others(a: Hadamard, i: int) -> tuple[Expr, ...]:
    return a.factors[:i] + a.factors[i + 1 :]


def _collected(a: Atom, E: Symbol, G: Expr) -> Expr:
    """Gradient of ⟨G, a⟩ in E, where a is linear in E."""
    match a:
        case Symbol():
            if a.index != E.index:
                raise ValueError(f"{show_atom(E)} is no variable where {show_atom(a)} has a free index")
            return G
        case Transposed():
            return _collected(a.letter, E, G.T)
        case Trace():
            return _adjoint(a.inside, E, G)
        case Diag():
            return _adjoint(a.inside, E, diagonal(G))
        case Diagonal():
            return _adjoint(a.inside, E, diag(G))
        case Hadamard():
            (i,) = [i for i, part in enumerate(a.factors) if any(s.name == E.name for s in symbols(part))]
            return _adjoint(a.factors[i], E, hadamard(*_others(a, i), G))
    raise ValueError(f"{show_atom(a)} is not linear in {E.name}")


def _adjoint(x: Expr, E: Symbol, G: Expr) -> Expr:
    """Gradient of ⟨G, x⟩ in E, where every term of x is linear in E."""
    parts = []
    for t in x.terms:
        t, bound = _opened(apart(t, G.free | ({E.index} if E.index else set())), E)
        scalar = [i for i, (a, _) in enumerate(t.scalars) if occurs(a, E)]
        if scalar:
            (i,) = scalar
            rest = term(x.shape, Term(t.coefficient, t.scalars[:i] + t.scalars[i + 1 :], t.word))
            parts.append(bind(_collected(t.scalars[i][0], E, inner(rest, G) if x.shape else rest * G), bound))
            continue
        (i,) = [i for i, a in enumerate(t.word) if occurs(a, E)]
        left, right = flip(t.word[:i]), flip(t.word[i + 1 :])
        scale = scale_of(t)
        if G.shape:
            inside = around(left, G, right)
        elif left or right:
            inside = G * product(t.word[i].shape, left + right)
        else:
            inside = G * eye(t.word[i].shape[0])
        parts.append(bind(_collected(t.word[i], E, scale * inside), bound))
    return add(E.dims, parts)


def _opened(t: Term, E: Symbol) -> tuple[Term, tuple[Bound, ...]]:
    """A term without its sums, E's own index (if it is one of them) set to the index asked for."""
    bound = {k for k, _ in t.bound}
    found = ((s, a.free) for a in t.atoms for s in everything(a) if isinstance(s, Symbol) and s.name == E.name)
    own = next((s.index for s, free in found if s.index in bound & free), None)
    left = tuple(b for b in t.bound if b[0] != own)
    t = replace(t, bound=())
    if own is not None and E.index is not None:
        scalars = tuple((a.reindexed(own, E.index), e) for a, e in t.scalars)
        t = replace(t, scalars=scalars, word=tuple(a.reindexed(own, E.index) for a in t.word))
    return t, left


def _direction(variable: Symbol, name: str, f: Expr) -> Symbol:
    if any(s.name == name for s in symbols(f)):
        raise ValueError(f"the direction {name} is a symbol of the expression already: choose another name")
    return replace(variable, name=checked_name(name), positive=False)


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
    symbol = symbol_of(variable, "a derivative is taken in")
    return _differential(f, symbol, _direction(symbol, direction, f))


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
        raise ValueError(f"a gradient is that of a scalar; got {named(f)}")
    symbol = symbol_of(variable, "a gradient is taken in")
    direction = _direction(symbol, _unused(f, symbol.name), f)
    G = _adjoint(_differential(f, symbol, direction), direction, as_expr(1))
    return half * (G + G.T) if symbol.symmetric else G


def _unused(f: Expr, name: str) -> str:
    taken = {s.name for s in symbols(f)}
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
    symbol = symbol_of(variable, "a derivative is taken in")
    E = _direction(symbol, direction, f)
    return _differential(_differential(f, symbol, E), symbol, E)
