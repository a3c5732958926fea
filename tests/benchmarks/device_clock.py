"""Time and memory of forms on a CUDA device (on the CPU where there is none, to try the scripts out)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

Row = dict[str, Any]
Form = Callable[[], Any]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def milliseconds(forms: dict[str, Form], rounds: int = 11, warmup: int = 3) -> dict[str, float]:
    """Median time of each form; the forms take turns."""
    for _ in range(warmup):
        for form in forms.values():
            form()
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            times[name].append(once(form))
    return {name: statistics.median(values) for name, values in times.items()}


def once(form: Form) -> float:
    """Milliseconds of one call, between two CUDA events."""
    if DEVICE == "cpu":
        begin = time.perf_counter()
        form()
        return (time.perf_counter() - begin) * 1e3
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    form()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def peak_mib(form: Form) -> float:
    """Memory a form takes on top of what is allocated before it; zero where nobody counts."""
    if DEVICE == "cpu":
        form()
        return 0.0
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    form()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
