"""The ledger: every statement of the theory, checked by machine.

One module per section of the mathematics; each statement is one small function that measures, decorated by its kind
with source, random problems and bound. :func:`verify` turns the measurements into verdicts.
"""

from __future__ import annotations

import importlib.util

from srr._array.extras import need

need("mpmath", by="srr.theory")

from srr.theory import section_1, section_2, section_3, section_4, section_5, section_6, section_7  # noqa: F401  (they register)
from srr.theory.lab import Lab
from srr.theory.proof import Proof, Step, prove, proves
from srr.theory.results import Result, verify
from srr.theory.statement import (
    Finding,
    Refutation,
    Sample,
    Series,
    Sides,
    Statement,
    approximation,
    counterexample,
    erratum,
    fit_slope,
    identity,
    inequality,
    ledger,
    load,
    load_package,
    order,
)

if importlib.util.find_spec("sympy") is not None:
    from srr.theory import proofs  # noqa: F401  (it hands the statements their proofs)

__all__ = [
    "Finding",
    "Lab",
    "Proof",
    "Sample",
    "Refutation",
    "Result",
    "Series",
    "Sides",
    "Statement",
    "Step",
    "approximation",
    "counterexample",
    "erratum",
    "fit_slope",
    "identity",
    "inequality",
    "ledger",
    "load",
    "load_package",
    "order",
    "prove",
    "proves",
    "verify",
]
