"""Checks for derivations of your own: gradients, proximal operators, descent, order and identities.

Each check returns a `Report` when what it checks holds, and raises AssertionError with the same report, which says
where it fails and how, when it does not (``throw=False`` returns it either way). Arrays may be of any backend.
"""

from srr.testing.claims import check_identity, check_inequality, check_order
from srr.testing.gradient import check_gradient
from srr.testing.objects import check_hessian, check_penalty, check_problem, check_solver
from srr.testing.report import Report, assert_close
from srr.testing.steps import check_descent, check_prox

__all__ = [
    "Report",
    "assert_close",
    "check_descent",
    "check_gradient",
    "check_hessian",
    "check_identity",
    "check_inequality",
    "check_order",
    "check_penalty",
    "check_problem",
    "check_prox",
    "check_solver",
]
