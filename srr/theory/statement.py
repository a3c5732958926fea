"""What a statement of the theory is, and the register that holds them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import numpy as np

Kind = Literal["identity", "inequality", "order", "approximation", "counter-example", "erratum"]
KINDS: tuple[Kind, ...] = ("identity", "inequality", "order", "approximation", "counter-example", "erratum")

Problem = SimpleNamespace
Generator = Callable[[np.random.Generator], Problem]


class Series(NamedTuple):
    """A measured gap as a function of one parameter.

    Attributes:
        x: Values of the parameter, positive.
        y: The gap at each value, positive.
        inside: True where the assumptions hold; read by approximations only.
    """

    x: Any
    y: Any
    inside: Any = None


class Refutation(NamedTuple):
    """The error of a form as printed, beside the error of its corrected form.

    Attributes:
        printed: How far the printed form misses; it must exceed the statement's margin.
        corrected: How far the corrected form misses; it must stay within the statement's bound.
        witness: The counter-example, in words and numbers.
    """

    printed: float
    corrected: float
    witness: str = ""


@dataclass(frozen=True)
class Statement:
    """One equation, lemma, approximation or erratum, with everything needed to check it.

    Attributes:
        label: Stable name, such as ``crate-9``.
        item: Number in the theory pages, such as ``"7"`` or ``"a"`` for an erratum.
        section: Section of the theory pages that holds it.
        title: What it says, in a few words.
        formula: LaTeX, without delimiters.
        source: Paper and equation number.
        kind: identity, inequality, order, approximation, counter-example or erratum.
        measure: ``measure(lab, problem)``: a float for identities (error) and inequalities
            (violation), a :class:`Series` for orders and approximations, a :class:`Refutation` otherwise.
            Its docstring is the proof sketch.
        inside: Draws a random problem that meets the assumptions.
        assumes: The assumptions, in words.
        quantity: What is measured, in words.
        bound: What the measured value must not exceed, before rounding.
        rounding: Allowance for rounding, in units of the machine epsilon of the tested dtype.
        slope: Range that the fitted log-log slope must lie in (order statements).
        margin: What the error of a refuted form must exceed (counter-examples and errata).
        outside: Draws a problem that breaks the assumptions, and with them the statement.
        breaks: The broken assumption, in words.
        corrected: LaTeX of the corrected form (counter-examples and errata).
        parameter: Name of a series' parameter.
        samples: Most problems worth drawing, where one is enough or costly.
    """

    label: str
    item: str
    section: int
    title: str
    formula: str
    source: str
    kind: Kind
    measure: Callable[[Any, Problem], Any]
    inside: Generator
    assumes: str
    quantity: str = "relative error"
    bound: float = 0.0
    rounding: float = 1e4
    slope: tuple[float, float] = (-np.inf, np.inf)
    margin: float = 1e-3
    outside: Generator | None = None
    breaks: str = ""
    corrected: str = ""
    parameter: str = ""
    samples: int = 1_000_000

    @property
    def proof(self) -> str:
        """Proof sketch, which is the docstring of the measurement."""
        return self.measure.__doc__ or ""


_REGISTER: dict[str, Statement] = {}


def statement(**fields: Any) -> Callable[[Callable[[Any, Problem], Any]], Statement]:
    """Register the decorated measurement as a statement of the ledger.

    Args:
        **fields: The fields of :class:`Statement`, all but ``measure``.

    Returns:
        A decorator that turns the measurement into its :class:`Statement`.

    Raises:
        ValueError: If the label is taken or the measurement has no docstring (its proof sketch).
    """

    def register(measure: Callable[[Any, Problem], Any]) -> Statement:
        entry = Statement(measure=measure, **fields)
        if entry.label in _REGISTER:
            raise ValueError(f"label must be new; got {entry.label!r} a second time")
        if not entry.proof.strip():
            raise ValueError(f"measure must carry a proof sketch as its docstring; got none for {entry.label!r}")
        _REGISTER[entry.label] = entry
        return entry

    return register


def ledger(
    *, labels: Iterable[str] = (), source: str = "", kinds: Iterable[str] = (), section: int | None = None
) -> list[Statement]:
    """The registered statements in reading order, optionally filtered.

    Args:
        labels: Keep statements whose label, or the beginning of it, is listed.
        source: Keep statements whose source contains this text, whatever its case.
        kinds: Keep statements of these kinds.
        section: Keep statements of one section.

    Returns:
        The statements, by section, then number.

    Raises:
        ValueError: If a kind is unknown or nothing is left.
    """
    labels, kinds = tuple(labels), tuple(kinds)
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    kept = [
        entry
        for entry in sorted(_REGISTER.values(), key=_reading_order)
        if (not labels or entry.label.startswith(labels))
        and source.lower() in entry.source.lower()
        and (not kinds or entry.kind in kinds)
        and section in (None, entry.section)
    ]
    if not kept:
        raise ValueError(
            f"the filters must leave a statement; got none for labels={labels}, source={source!r}, kinds={kinds}"
        )
    return kept


def _reading_order(entry: Statement) -> tuple[int, int, str]:
    digits = entry.item.rstrip("abcdefghijklmnopqrstuvwxyz")
    return entry.section, int(digits or 0), entry.item


def amended(entry: Statement, **fields: Any) -> Statement:
    """A copy of a statement with some fields changed; the register is left alone."""
    return replace(entry, **fields)
