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

Files in the order to read them: expressions (sums of terms and the letters in them), operations (what is typed),
differentials, normal (the form compared), comparison, printing, code.

Example:
    >>> from srr import derive as d
    >>> Z, alpha = d.Matrix("Z", "n", "d"), d.Scalar("alpha")
    >>> R = d.half * d.logdet(d.eye("d") + alpha * Z.T @ Z)
    >>> d.grad(R, Z)
    alpha * Z @ inv(I + alpha * Z.T @ Z)
    >>> print(d.equal(d.grad(R, Z), alpha * d.inv(d.eye("n") + alpha * Z @ Z.T) @ Z))
    equal, symbolically: one normal form; largest relative difference 0.0e+00 on 3 draws
"""

from srr.derive.code import compile  # noqa: A004 - its public name
from srr.derive.comparison import Verdict, equal
from srr.derive.differentials import differential, grad, hessian_product, quadratic_form
from srr.derive.expressions import Expr, eye, half, size, zeros
from srr.derive.normal import normal_form
from srr.derive.operations import (
    Family,
    Function,
    Matrix,
    Scalar,
    Sum,
    Vector,
    absolute,
    diag,
    diagonal,
    exp,
    hadamard,
    inner,
    inv,
    log,
    log1p,
    logdet,
    logsumexp,
    ones,
    power,
    relu,
    shrink,
    softmax,
    sqrt,
    squared_norm,
    tanh,
    total,
    trace,
)

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
