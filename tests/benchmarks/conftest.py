"""Two threads, float32, and a table of ratios at the end."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.benchmarks.timing import interleaved, median_ratio

ROWS: list[dict[str, Any]] = []


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def compare(benchmark: Any) -> Callable[..., dict[str, float]]:
    """Time forms in turns; the first is the reference, the second ours. The ratio and its target go into the table."""

    def run(name: str, forms: dict[str, Callable[[], Any]], *, target: float, rounds: int = 11) -> dict[str, float]:
        reference, ours = list(forms)[:2]
        seconds = interleaved(forms, rounds=rounds, warmup=2 if rounds >= 11 else 1)
        benchmark.pedantic(forms[ours], rounds=rounds, warmup_rounds=1)
        ratios = {form: median_ratio(seconds, reference, form) for form in forms if form != reference}
        milliseconds = {form: 1e3 * statistics.median(times) for form, times in seconds.items()}
        benchmark.extra_info.update({"ratios": ratios, "target": target, "milliseconds": milliseconds})
        ROWS.append({"case": name, "target": target, "ratios": ratios, "ms": milliseconds})
        return ratios

    return run


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Ratios of the reference's time to that of each form, as Markdown."""
    if not ROWS:
        return
    write = terminalreporter.write_line
    write("")
    write("| case | reference, ms | form: ms, ratio | target |")
    write("|---|---|---|---|")
    for row in ROWS:
        reference = next(iter(row["ms"].values()))
        forms = "; ".join(f"{form}: {row['ms'][form]:.3g}, **{ratio:.2f}**" for form, ratio in row["ratios"].items())
        write(f"| {row['case']} | {reference:.4g} | {forms} | {row['target']:g} |")
