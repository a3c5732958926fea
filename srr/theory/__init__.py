"""The ledger: every statement of the theory, checked by machine.

One module per section; each statement is one small function that measures, registered with its formula, source,
assumptions and bound. :func:`verify` draws random problems and turns the measurements into verdicts.
"""

from __future__ import annotations

from srr.theory import (  # noqa: F401  (importing a section registers its statements)
    section_1,
    section_2_bounds,
    section_2_constants,
    section_2_descent,
    section_2_gradients,
    section_2_symmetries,
    section_3_attention,
    section_3_denoising,
    section_3_heuristic,
    section_3_neumann,
    section_4_networks,
    section_4_proximal,
    section_4_sparse_coding,
    section_5_optima,
    section_5_problem,
    section_5_redunet,
    section_5_token_statistics,
    section_7_errata,
)
from srr.theory.lab import Lab
from srr.theory.statement import Refutation, Series, Statement, ledger
from srr.theory.verdicts import Result, examine, fit_slope, verify

__all__ = ["Lab", "Refutation", "Result", "Series", "Statement", "examine", "fit_slope", "ledger", "verify"]
