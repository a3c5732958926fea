"""From measurements to a verdict."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from srr.theory.lab import Lab
from srr.theory.statement import Generator, Refutation, Series, Statement

HOLDS = "holds"
ASSUMED = "holds under its assumptions"
APPROXIMATE = "approximate"
REFUTED = "refuted as stated"
FAILS = "fails"


@dataclass(frozen=True)
class Result:
    """What the ledger found for one statement.

    Attributes:
        label: The statement's label.
        item: Its number in the theory pages.
        section: Its section.
        title: What it says.
        source: Paper and equation number.
        kind: Its kind.
        verdict: holds, holds under its assumptions, approximate, refuted as stated, or fails.
        passed: False exactly when the verdict is ``fails``.
        quantity: What was measured.
        measured: The worst value over the random problems; the slope for order statements.
        bound: What it was held against.
        interval: 95 % confidence interval of a slope, else None.
        outside: The measured value where the assumptions are broken, else None.
        note: The counter-example, or what went wrong.
        series: ``(x, y)`` pairs per problem for order and approximation statements.
        samples: Problems drawn.
        seconds: Wall time.
    """

    label: str
    item: str
    section: int
    title: str
    source: str
    kind: str
    verdict: str
    passed: bool
    quantity: str
    measured: float
    bound: float | tuple[float, float]
    interval: tuple[float, float] | None = None
    outside: float | None = None
    note: str = ""
    series: list[tuple[list[float], list[float]]] = field(default_factory=list)
    samples: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The result as plain, JSON-ready values (a number that is not finite becomes a string)."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def verify(
    statements: Iterable[Statement], lab: Lab | None = None, *, samples: int = 10, seed: int = 0
) -> Iterator[Result]:
    """Check statements one after another.

    Args:
        statements: What to check, from :func:`srr.theory.ledger`.
        lab: Backend and dtype; NumPy in float64 by default.
        samples: Random problems per statement.
        seed: Every statement draws from its own stream of this seed, so filters do not change numbers.

    Yields:
        One :class:`Result` per statement, as soon as it is known.

    Raises:
        ValueError: If samples is not positive.

    Example:
        >>> from srr.theory import ledger, verify
        >>> [result.verdict for result in verify(ledger(labels=["crate-7"]), samples=3)]
        ['holds']
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1; got {samples}")
    lab = Lab() if lab is None else lab
    for entry in statements:
        yield examine(entry, lab, samples=samples, seed=seed)


def examine(entry: Statement, lab: Lab, *, samples: int = 10, seed: int = 0) -> Result:
    """Check one statement; an exception inside it is a failure that carries the message.

    Args:
        entry: What to check.
        lab: Backend and dtype.
        samples: Random problems, at most as many as the statement asks for.
        seed: The statement draws from its own stream of this seed.

    Returns:
        The verdict with what was measured.
    """
    start = time.perf_counter()
    rng = np.random.default_rng([seed, zlib.crc32(entry.label.encode())])
    drawn = min(samples, entry.samples)
    try:
        finding = _JUDGES[entry.kind](entry, lab, rng, drawn)
    except Exception as error:  # noqa: BLE001  (a broken operator is a failed statement, not the end of the ledger)
        finding = {
            "verdict": FAILS,
            "measured": float("nan"),
            "bound": entry.bound,
            "note": f"{type(error).__name__}: {error}",
        }
    return Result(
        **{name: getattr(entry, name) for name in ("label", "item", "section", "title", "source", "kind", "quantity")},
        passed=finding["verdict"] != FAILS,
        samples=drawn,
        seconds=time.perf_counter() - start,
        **finding,
    )


def _judge_error(entry: Statement, lab: Lab, rng: np.random.Generator, samples: int) -> dict[str, Any]:
    bound = max(entry.bound, entry.rounding * lab.eps)
    measured = _worst(entry, lab, entry.inside, rng, samples)
    finding: dict[str, Any] = {"measured": measured, "bound": bound}
    if not measured <= bound:
        return finding | {"verdict": FAILS, "note": "the bound is exceeded inside the assumptions"}
    if entry.outside is None:
        return finding | {"verdict": HOLDS}
    outside = _worst(entry, lab, entry.outside, rng, samples)
    finding |= {"outside": outside, "note": entry.breaks}
    return finding | {"verdict": ASSUMED if outside > 10 * bound else FAILS}


def _judge_order(entry: Statement, lab: Lab, rng: np.random.Generator, samples: int) -> dict[str, Any]:
    series = [_measure(entry, lab, entry.inside, rng) for _ in range(min(samples, 5))]
    slope, low, high = fit_slope(series)
    held = entry.slope[0] <= low and high <= entry.slope[1]
    return {
        "measured": slope,
        "bound": entry.slope,
        "interval": (low, high),
        "series": _curves(series),
        "verdict": HOLDS if held else FAILS,
    }


def _judge_approximation(entry: Statement, lab: Lab, rng: np.random.Generator, samples: int) -> dict[str, Any]:
    series = [_measure(entry, lab, entry.inside, rng) for _ in range(min(samples, 5))]
    inside = max(float(np.max(np.asarray(s.y)[np.asarray(s.inside)])) for s in series)
    outside = max(float(np.max(np.asarray(s.y)[~np.asarray(s.inside)])) for s in series)
    held = inside <= max(entry.bound, entry.rounding * lab.eps) < outside
    return {
        "measured": inside,
        "bound": entry.bound,
        "outside": outside,
        "note": entry.breaks,
        "series": _curves(series),
        "verdict": APPROXIMATE if held else FAILS,
    }


def _judge_refutation(entry: Statement, lab: Lab, rng: np.random.Generator, samples: int) -> dict[str, Any]:
    found = [_measure(entry, lab, entry.inside, rng) for _ in range(samples)]
    bound = max(entry.bound, entry.rounding * lab.eps)
    best: Refutation = max(found, key=lambda item: item.printed)
    corrected = max(item.corrected for item in found)
    held = best.printed > entry.margin and corrected <= bound
    note = best.witness if held else f"printed form off by {best.printed:.3g}, corrected by {corrected:.3g}"
    return {
        "measured": corrected,
        "bound": bound,
        "outside": best.printed,
        "note": note,
        "verdict": REFUTED if held else FAILS,
    }


_JUDGES = {
    "identity": _judge_error,
    "inequality": _judge_error,
    "order": _judge_order,
    "approximation": _judge_approximation,
    "counter-example": _judge_refutation,
    "erratum": _judge_refutation,
}


def fit_slope(series: Iterable[Series], *, confidence: float = 0.95) -> tuple[float, float, float]:
    """Common slope of log y against log x, one intercept per series.

    Args:
        series: At least one series of three or more positive points.
        confidence: Level of the interval.

    Returns:
        Slope, and the ends of its Student-t confidence interval.
    """
    x, y, count = [], [], 0
    for one in series:
        log_x, log_y = np.log(np.asarray(one.x, dtype=float)), np.log(np.asarray(one.y, dtype=float))
        x.append(log_x - log_x.mean())
        y.append(log_y - log_y.mean())
        count += 1
    dx, dy = np.concatenate(x), np.concatenate(y)
    slope = float(dx @ dy / (dx @ dx))
    freedom = dx.size - count - 1
    deviation = float(np.sqrt(np.sum((dy - slope * dx) ** 2) / freedom / (dx @ dx)))
    reach = float(stats.t.ppf(0.5 + confidence / 2, freedom)) * deviation
    return slope, slope - reach, slope + reach


def _worst(entry: Statement, lab: Lab, draw: Generator, rng: np.random.Generator, samples: int) -> float:
    return float(np.max([_measure(entry, lab, draw, rng) for _ in range(samples)]))  # a NaN stays a NaN


def _measure(entry: Statement, lab: Lab, draw: Generator, rng: np.random.Generator) -> Any:
    return entry.measure(lab, lab.quantize(draw(rng)))


def _curves(series: Iterable[Series]) -> list[tuple[list[float], list[float]]]:
    return [(np.asarray(s.x, dtype=float).tolist(), np.asarray(s.y, dtype=float).tolist()) for s in series]


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else str(float(value))
    return value.item() if isinstance(value, np.generic) else value
