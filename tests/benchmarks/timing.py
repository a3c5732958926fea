"""Fair timing on a shared machine: the forms take turns, and ratios are taken turn by turn."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

Form = Callable[[], Any]


def interleaved(
    forms: dict[str, Form], *, rounds: int = 11, warmup: int = 2, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every form in every round; within a round each form runs once, in turn.

    ``time.process_time`` with one thread counts the work itself, whatever else the machine is doing.
    """
    for _ in range(warmup):
        for form in forms.values():
            form()
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            start = clock()
            form()
            seconds[name].append(clock() - start)
    return seconds


def median_ratio(seconds: dict[str, list[float]], reference: str, form: str) -> float:
    """Median over the rounds of reference time / form time: a slow spell of the machine touches both."""
    return statistics.median(r / f for r, f in zip(seconds[reference], seconds[form], strict=True))


def best_ratio(seconds: dict[str, list[float]], reference: str, form: str) -> float:
    """Ratio of the shortest times, which other processes disturb least."""
    return min(seconds[reference]) / min(seconds[form])


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far; start a fresh process for every reading."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
