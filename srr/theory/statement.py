r"""A statement of the theory is a function that measures, decorated by its kind.

Six kinds are six small types, each with only what applies to it. The docstring says the rest::

    @identity("mine-1", source="my notes (3)", inside=draw)
    def trace_of_a_product(lab, p):
        r'''The trace does not see the order of two factors.

        $$\mathrm{tr}(AB) = \mathrm{tr}(BA)$$

        Assumes: AB and BA are square.
        Proof: Both are the sum of all A_ij B_ji.
        '''
        return abs(np.trace(p.A @ p.B) - np.trace(p.B @ p.A))

``Corrected:`` ($$form$$), ``Measured:`` (what the number is) and ``Outside:`` (which assumption is broken) are
further parts, where they apply.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import stats

from srr._array.namespace import Array
from srr.theory import truth

if TYPE_CHECKING:
    from pathlib import Path

    from srr.theory.lab import Lab
    from srr.theory.proof import Claim

PROVED = "proved"
HOLDS = "holds"
ASSUMED = "holds under its assumptions"
APPROXIMATE = "approximate"
REFUTED = "refuted as stated"
FAILS = "fails"

SECTIONS = {
    0: "Statements of your own",
    1: "Objects",
    2: "Gradients and constants",
    3: "Attention is a compression step",
    4: "The MLP is a sparse-coding step",
    5: "The problem itself",
    6: "What the algorithms stand on",
    7: "Errata",
}
TRIES = 30  # problems drawn in search of one that breaks a statement, or shows what refutes it


class Sample(SimpleNamespace):
    """One random problem: named arrays and numbers that a statement is measured on."""

    def but(self, **changes: object) -> Sample:
        """The same with some entries changed or added."""
        return Sample(**vars(self) | changes)


Value: TypeAlias = npt.NDArray[np.float64] | float
Curve = tuple[list[float], list[float]]
Draw = Callable[[np.random.Generator], Sample]


class Series(NamedTuple):
    """A measured gap as a function of one parameter.

    Attributes:
        x: values of the parameter, positive.
        y: the gap at each value, positive.
        inside: true where the assumptions hold; read by approximations only.
    """

    x: Array | Sequence[float]
    y: Array | Sequence[float]
    inside: Array | Sequence[bool] | None = None


class Refutation(NamedTuple):
    """The error of a form as printed, beside the error of its corrected form.

    Attributes:
        printed: how far the printed form misses; it must exceed the statement's margin.
        corrected: how far the corrected form misses; it must stay within the statement's bound.
        witness: the counter-example, in words and numbers.
    """

    printed: float
    corrected: float
    witness: str = ""


class Sides(NamedTuple):
    """Both sides of an identity, or of left ≤ right; where they differ the right side's terms are searched for a slip.

    Attributes:
        left: a number or an array.
        right: the same, or a dictionary of named terms whose sum it is.
    """

    left: Value
    right: Value | Mapping[str, Value]

    def named(self) -> dict[str, Value]:
        """The terms of the right side by name, in a new dictionary."""
        return dict(self.right) if isinstance(self.right, Mapping) else {"right": self.right}


class Finding(NamedTuple):
    """What a statement's kind makes of its measurements.

    Attributes:
        verdict: proved, holds, holds under its assumptions, approximate, refuted as stated, or fails.
        measured: the worst value over the random problems; the slope for order statements.
        bound: what it was held against.
        interval: 95 % confidence interval of a slope, else None.
        outside: the measured value where the assumptions are broken, else None.
        note: the counter-example, or what went wrong.
        series: ``(x, y)`` pairs per problem for order and approximation statements.
    """

    verdict: str
    measured: float
    bound: float | tuple[float, float]
    interval: tuple[float, float] | None = None
    outside: float | None = None
    note: str = ""
    series: tuple[Curve, ...] = ()


M = TypeVar("M")
_REGISTER: dict[str, Statement[Any]] = {}
_PART = re.compile(r"^(Corrected|Assumes|Measured|Outside|Proof):\s*", re.MULTILINE)


@dataclass(eq=False)
class Statement(ABC, Generic[M]):
    """One equation, lemma, approximation or erratum; calling it with the function that measures registers it.

    Attributes:
        label: stable name, such as ``crate-9``.
        at: section and number in the theory pages, such as ``"3.10b"``; section 0 is for statements of your own.
        source: paper and equation number.
        inside: draws a random problem that meets the assumptions.
        samples: most problems worth drawing, where one is enough or costly.
        measure: ``measure(lab, problem)``: a float for identities (error) and inequalities (violation) or their
            :class:`Sides`, a :class:`Series` for orders and approximations, a :class:`Refutation` otherwise.
        title: what it says, in a few words.
        formula: LaTeX, without delimiters.
        corrected: LaTeX of the corrected form (counter-examples and errata).
        assumes: the assumptions, in words.
        quantity: what is measured, in words.
        breaks: the broken assumption, in words.
        proof: proof sketch.
        claims: lists what proves it, step by step; None without a proof by machine. See :func:`srr.theory.proves`.
    """

    kind: ClassVar[str]
    label: str
    at: str = "0.0"
    _: KW_ONLY
    source: str
    inside: Draw
    samples: int = 1_000_000
    measure: Callable[[Lab, Sample], M] = field(init=False)
    title: str = field(init=False)
    formula: str = field(init=False)
    corrected: str = field(init=False, default="")
    assumes: str = field(init=False)
    quantity: str = field(init=False, default="relative error")
    breaks: str = field(init=False, default="")
    proof: str = field(init=False)
    claims: Callable[[], Sequence[Claim]] | None = field(init=False, default=None)

    def __call__(self, measure: Callable[[Lab, Sample], M]) -> Self:
        """Read the docstring of the measurement and enter the statement into the register.

        Raises:
            ValueError: if the label is taken, or the docstring lacks what this kind of statement needs.
        """
        self.read(measure)
        if self.label in _REGISTER:
            raise ValueError(f"label must be new; got {self.label!r} a second time")
        _REGISTER[self.label] = self
        return self

    def read(self, measure: Callable[[Lab, Sample], M]) -> Self:
        """Take the measurement and what its docstring says, without entering it anywhere."""
        self.measure = measure
        head, *parts = _PART.split(inspect.cleandoc(measure.__doc__ or ""))
        texts = {name: " ".join(text.split()) for name, text in zip(parts[::2], parts[1::2], strict=True)}
        title, _, formula = head.partition("\n")
        self.title, self.formula = title.strip().rstrip("."), _latex(formula)
        self.corrected = _latex(texts.get("Corrected", ""))
        self.assumes, self.proof = texts.get("Assumes", ""), texts.get("Proof", "")
        self.quantity = texts.get("Measured", self.quantity).rstrip(".")
        self.breaks = texts.get("Outside", "").rstrip(".")
        needed = {"a title": self.title, "a formula between $$": self.formula, "Assumes:": self.assumes}
        missing = [name for name, text in (needed | {"Proof:": self.proof} | self._needed()).items() if not text]
        if missing:
            raise ValueError(f"the docstring of {self.label!r} must have {', '.join(missing)}")
        return self

    def _needed(self) -> dict[str, str]:
        """Further parts of the docstring that this kind cannot do without."""
        return {}

    @property
    def section(self) -> int:
        """Section of the theory pages."""
        return int(self.at.partition(".")[0])

    @property
    def item(self) -> str:
        """Number within the section, such as ``"10b"``, or ``"a"`` for an erratum."""
        return self.at.partition(".")[2]

    @abstractmethod
    def judge(self, lab: Lab, rng: np.random.Generator, samples: int) -> Finding:
        """Measure random problems and say what came out."""

    def draw(self, lab: Lab, rng: np.random.Generator, draw: Draw | None = None) -> M:
        """The measurement on one random problem, as the tested dtype sees it."""
        return self.measure(lab, lab.quantize((draw or self.inside)(rng)))


@dataclass(eq=False)
class _Bounded(Statement[M]):
    """What is held against a number.

    Attributes:
        bound: what the measured value must not exceed, before rounding.
        rounding: allowance for rounding, in units of the machine epsilon of the tested dtype.
    """

    _: KW_ONLY
    bound: float = 0.0
    rounding: float = 1e4

    def allowed(self, lab: Lab) -> float:
        """The bound, or the allowance for rounding where that is larger."""
        return max(self.bound, self.rounding * lab.eps)


@dataclass(eq=False)
class inequality(_Bounded[float | Sides]):
    """The measured violation must stay within the bound, and exceed it tenfold somewhere outside the assumptions.

    Attributes:
        outside: draws a problem that breaks the assumptions, and with them the statement.
    """

    kind = "inequality"
    _: KW_ONLY
    outside: Draw | None = None

    def _needed(self) -> dict[str, str]:
        return {} if self.outside is None else {"Outside:": self.breaks}

    def judge(self, lab: Lab, rng: np.random.Generator, samples: int) -> Finding:
        """Worst value inside, and largest outside."""
        allowed = self.allowed(lab)
        problems = [lab.quantize(self.inside(rng)) for _ in range(samples)]
        measured = [self.measure(lab, problem) for problem in problems]
        worst = float(np.max([self.distance(m) for m in measured]))  # a NaN stays a NaN
        if not worst <= allowed:
            note = "the bound is exceeded inside the assumptions"
            pairs = [(m, p) for m, p in zip(measured, problems, strict=True) if isinstance(m, Sides)]
            slip = self.slip(pairs, allowed) if len(pairs) == samples else ""
            return Finding(FAILS, worst, allowed, note=note + ("; " + slip if slip else ""))
        if self.outside is None:
            return Finding(HOLDS, worst, allowed)
        found = [self.distance(self.draw(lab, rng, self.outside)) for _ in range(samples)]
        while not max(found) > 10 * allowed and len(found) < TRIES:
            found.append(self.distance(self.draw(lab, rng, self.outside)))
        verdict = ASSUMED if max(found) > 10 * allowed else FAILS
        return Finding(verdict, worst, allowed, outside=max(found), note=self.breaks)

    def distance(self, measured: float | Sides) -> float:
        """The violation; that of two sides is relative to the right one."""
        if not isinstance(measured, Sides):
            return float(measured)
        left, right = np.asarray(measured.left), np.asarray(sum(measured.named().values()))
        size = float(np.max(np.abs(right), initial=0.0))
        return float(np.max(left - right)) / (size if size > 0 else 1.0)

    def slip(self, found: list[tuple[Sides, Sample]], allowed: float) -> str:
        """What explains two sides that should be equal; a bound has no such explanation."""
        return ""


@dataclass(eq=False)
class identity(inequality):
    """The measured error must stay within the bound, and exceed it tenfold somewhere outside the assumptions."""

    kind = "identity"

    def distance(self, measured: float | Sides) -> float:
        """The error; that of two sides is relative to the right one."""
        if not isinstance(measured, Sides):
            return float(measured)
        return truth.error(measured.left, sum(measured.named().values()))

    def slip(self, found: list[tuple[Sides, Sample]], allowed: float) -> str:
        """The common correction that makes the sides agree, in words."""
        from srr.theory.diagnose import diagnose

        return diagnose(found, allowed)


@dataclass(eq=False)
class order(Statement[Series]):
    """The 95 % interval of a log-log slope must lie within a range.

    Attributes:
        slope: the range.
        parameter: what the series varies, in words.
    """

    kind = "order"
    _: KW_ONLY
    slope: tuple[float, float]
    parameter: str

    def judge(self, lab: Lab, rng: np.random.Generator, samples: int) -> Finding:
        """Fit one slope to all series."""
        series = [self.draw(lab, rng) for _ in range(min(samples, 5))]
        found, low, high = fit_slope(series)
        verdict = HOLDS if self.slope[0] <= low and high <= self.slope[1] else FAILS
        return Finding(verdict, found, self.slope, (low, high), series=_curves(series))


@dataclass(eq=False)
class approximation(_Bounded[Series]):
    """A gap that has no proved bound stays within one inside the assumptions and leaves it outside.

    Attributes:
        parameter: what the series varies, in words.
    """

    kind = "approximation"
    _: KW_ONLY
    parameter: str

    def _needed(self) -> dict[str, str]:
        return {"Outside:": self.breaks}

    def judge(self, lab: Lab, rng: np.random.Generator, samples: int) -> Finding:
        """Largest gap on either side of the assumptions."""
        series = [self.draw(lab, rng) for _ in range(min(samples, 5))]
        inside, outside = (
            max(float(np.max(np.asarray(s.y)[np.asarray(s.inside) == side])) for s in series) for side in (True, False)
        )
        verdict = APPROXIMATE if inside <= self.allowed(lab) < outside else FAILS
        return Finding(verdict, inside, self.bound, outside=outside, note=self.breaks, series=_curves(series))


@dataclass(eq=False)
class counterexample(_Bounded[Refutation]):
    """The form as stated misses by more than a margin, the corrected form stays within the bound.

    Attributes:
        margin: what the error of the stated form must exceed.
    """

    kind = "counter-example"
    _: KW_ONLY
    margin: float = 1e-3

    def _needed(self) -> dict[str, str]:
        return {"Corrected:": self.corrected}

    def judge(self, lab: Lab, rng: np.random.Generator, samples: int) -> Finding:
        """One problem must refute the stated form, none the corrected one."""
        allowed = self.allowed(lab)
        found = [self.draw(lab, rng) for _ in range(samples)]
        while not max(r.printed for r in found) > self.margin and len(found) < min(TRIES, self.samples):
            found.append(self.draw(lab, rng))
        best = max(found, key=lambda r: r.printed)
        corrected = float(np.max([r.corrected for r in found]))
        if best.printed > self.margin and corrected <= allowed:
            return Finding(REFUTED, corrected, allowed, outside=best.printed, note=best.witness)
        note = f"printed form off by {best.printed:.3g}, corrected by {corrected:.3g}"
        return Finding(FAILS, corrected, allowed, outside=best.printed, note=note)


@dataclass(eq=False)
class erratum(counterexample):
    """A counter-example to what is printed somewhere."""

    kind = "erratum"


KINDS = tuple(kind.kind for kind in (identity, inequality, order, approximation, counterexample, erratum))


def load(path: Path) -> list[Statement[Any]]:
    """The statements that a Python file of your own decorates; the library's ledger stays as it is.

    Args:
        path: the file.

    Returns:
        Its statements, in the order in which they stand.

    Raises:
        ValueError: if the file does not run, or decorates nothing.
    """
    spec = importlib.util.spec_from_file_location(f"srr_statements_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"statements must stand in a Python file; got {path}")
    loader, module = spec.loader, importlib.util.module_from_spec(spec)
    return _added(lambda: loader.exec_module(module), str(path))


def load_package(name: str) -> list[Statement[Any]]:
    """The statements of an installed package, whose module is an entry point of the group ``srr.statements``.

    Args:
        name: of the entry point.

    Returns:
        Its statements, in the order in which they stand.

    Raises:
        ValueError: if no installed package has the entry point, if its module does not run, or decorates nothing.
    """
    known = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if name not in known:
        names = ", ".join(sorted(known)) or "none is installed"
        raise ValueError(f"package must be an entry point of the group {ENTRY_POINTS!r} ({names}); got {name!r}")
    if name not in _PACKAGES:  # a module runs once in a process
        _PACKAGES[name] = _added(known[name].load, f"the entry point {name!r}")
    return _PACKAGES[name]


ENTRY_POINTS = "srr.statements"
_PACKAGES: dict[str, list[Statement[Any]]] = {}


def _added(run: Callable[[], object], what: str) -> list[Statement[Any]]:
    """The statements that some code decorates; the register is as before when it is done."""
    before = dict(_REGISTER)
    try:
        run()
        added = [entry for label, entry in _REGISTER.items() if label not in before]
    except Exception as error:
        raise ValueError(f"{what} must run; it raises {type(error).__name__}: {error}") from error
    finally:
        _REGISTER.clear()
        _REGISTER.update(before)
    if not added:
        raise ValueError(f"{what} must decorate at least one statement; got none")
    return added


def ledger(
    *,
    labels: Iterable[str] = (),
    source: str = "",
    kinds: Iterable[str] = (),
    section: int | None = None,
    among: Iterable[Statement[Any]] | None = None,
) -> list[Statement[Any]]:
    """The registered statements in reading order, optionally filtered.

    Args:
        labels: keep statements whose label, or the beginning of it, is listed.
        source: keep statements whose source contains this text, whatever its case.
        kinds: keep statements of these kinds.
        section: keep statements of one section.
        among: what to choose from, such as what :func:`load` gave; the registered statements by default.

    Returns:
        The statements, by section, then number.

    Raises:
        ValueError: if a kind is unknown or a filter leaves nothing.
    """
    labels, kinds = tuple(labels), tuple(kinds)
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    known = list(_REGISTER.values() if among is None else among)
    kept = [
        entry
        for entry in sorted(known, key=_reading_order)
        if (not labels or entry.label.startswith(labels))
        and source.lower() in entry.source.lower()
        and (not kinds or entry.kind in kinds)
        and section in (None, entry.section)
    ]
    if not kept:
        raise ValueError(
            f"the filters must leave a statement; got none for labels={labels}, source={source!r}, kinds={kinds}"
        )
    for label in labels:
        if not any(entry.label.startswith(label) for entry in known):
            raise ValueError(f"labels must each begin a statement's label; got {label!r}, which begins none")
    return kept


def fit_slope(series: Iterable[Series], *, confidence: float = 0.95) -> tuple[float, float, float]:
    """Common slope of log y against log x, one intercept per series.

    Args:
        series: at least one series of three or more positive points.
        confidence: level of the interval.

    Returns:
        Slope, and the ends of its Student-t confidence interval.
    """
    pairs = [(np.log(np.asarray(s.x, dtype=float)), np.log(np.asarray(s.y, dtype=float))) for s in series]
    dx = np.concatenate([x - x.mean() for x, _ in pairs])
    dy = np.concatenate([y - y.mean() for _, y in pairs])
    slope = float(dx @ dy / (dx @ dx))
    freedom = dx.size - len(pairs) - 1
    deviation = float(np.sqrt(np.sum((dy - slope * dx) ** 2) / freedom / (dx @ dx)))
    reach = float(stats.t.ppf(0.5 + confidence / 2, freedom)) * deviation
    return slope, slope - reach, slope + reach


def _latex(text: str) -> str:
    found = re.fullmatch(r"\s*\$\$(.*?)\$\$\s*", text, flags=re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def _reading_order(entry: Statement[Any]) -> tuple[int, int, str]:
    digits = entry.item.rstrip("abcdefghijklmnopqrstuvwxyz")
    return entry.section, int(digits or 0), entry.item


def _curves(series: Iterable[Series]) -> tuple[Curve, ...]:
    return tuple((np.asarray(s.x, dtype=float).tolist(), np.asarray(s.y, dtype=float).tolist()) for s in series)
