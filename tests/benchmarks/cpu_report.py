"""The tables of docs/performance.md: ``python -m tests.benchmarks.cpu_report [wall|work] [rates|large|models ...]``.

``wall`` times two threads by the clock on the wall and reports medians of ratios taken turn by turn; ``work`` times one
thread by its own processor time and reports ratios of the shortest times, which other processes hardly touch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import srr
from srr.nn import ISTA, MSSA, TSSA, RateCompression
from tests.benchmarks import reference_rates as naive
from tests.benchmarks.cases import EPS, LARGE_RATES, SMALL_RATES, RateCase, arguments, token_counts
from tests.benchmarks.device_models import evaluation, training
from tests.benchmarks.reference_crate import Attention, ThreeProductISTA
from tests.benchmarks.test_models import layer_forms, twins
from tests.benchmarks.test_rates import forms_of
from tests.benchmarks.timing import best_ratio, interleaved, median_ratio

Forms = dict[str, Callable[[], Any]]
WALL = "work" not in sys.argv
TOKEN_LAYERS = {"plain": Attention, "MSSA": MSSA, "TSSA": TSSA, "R^c": RateCompression}


def line(name: str, forms: Forms, *, target: float | str = "", rounds: int = 11) -> None:
    """One row: the shortest times in ms, and every form's ratio to the first."""
    clock = time.perf_counter if WALL else time.process_time
    seconds = interleaved(forms, rounds=rounds, warmup=1, clock=clock)
    first, *others = forms
    ratio = median_ratio if WALL else best_ratio
    cells = [f"{1e3 * min(seconds[first]):.4g}"]
    cells += [f"{form} {1e3 * min(seconds[form]):.3g} (**{ratio(seconds, first, form):.2f}**)" for form in others]
    print(f"| {name} | {' | '.join(cells)} | {target} |", flush=True)


def rates() -> None:
    for case in SMALL_RATES:
        line(str(case), forms_of(case), target=f"{case.target:g}, default {case.default:g}", rounds=15)


def large() -> None:
    """Ours three times; the plain form, which takes minutes and 20 GB, by its share in some classes, scaled up."""
    clock = time.perf_counter if WALL else time.process_time
    for case in LARGE_RATES:
        forms = forms_of(case)
        del forms["reference"]
        fast = interleaved(forms, rounds=3, warmup=1, clock=clock)
        start = clock()
        repeats = plain_share(case)
        seconds = (clock() - start) * repeats
        cells = [f"{k} {1e3 * min(v):.4g} (**{seconds / min(v):.0f}**)" for k, v in fast.items()]
        print(f"| {case} | ~{1e3 * seconds:.3g} | {' | '.join(cells)} | {case.target} |", flush=True)


def plain_share(case: RateCase) -> float:
    """Run a part of the plain form; how often it fits into the whole: 5 of 100 classes, or 1 of 11 eigenproblems."""
    Z, labels = arguments(case)
    if case.d > case.n:
        naive.with_gradient(naive.coding_rate, Z, EPS)
        return case.classes + 1
    members = torch.nn.functional.one_hot(labels, case.classes).float()[:, :5].contiguous()
    naive.with_gradient(naive.partition_coding_rate, Z, members, EPS)
    return case.classes / 5


def models() -> None:
    for size in ("tiny", "base"):
        reference, model, images = twins(size)
        for step, target in ((evaluation, 1.65), (training, 1.4)):
            for each in (reference, model):
                each.train(step is training)
            forms: Forms = {
                "reference": partial(step, reference, images, False),
                "srr": partial(step, model, images, False),
            }
            line(f"CRATE-{size}, {step.__name__}", forms, target=target, rounds=11 if size == "tiny" else 7)


def layers() -> None:
    for dim in (384, 768):
        for train in (False, True):
            forms = layer_forms(dim, ThreeProductISTA(dim), ISTA(dim), train)
            if not train:
                Z, M = torch.randn(8, 197, dim), torch.randn(dim, dim)
                forms["one product"] = lambda Z=Z, M=M: Z @ M
            line(f"ISTA d={dim}, {'train' if train else 'eval'}", forms, target=2.4, rounds=15)
    for train in (False, True):
        line(
            f"MSSA d=384, {'train' if train else 'eval'}",
            layer_forms(384, Attention(384, 6, 64), MSSA(384, 6, 64), train),
        )


def tokens() -> None:
    """One layer of width 384 and 6 heads, one sequence: forward and backward, and evaluation."""
    for n in token_counts():
        Z = torch.randn(1, n, 384, requires_grad=True)
        for step in (training, evaluation):
            forms = {
                name: partial(step, layer(384, 6, 64).train(step is training), Z, False)
                for name, layer in TOKEN_LAYERS.items()
            }
            line(f"{n} tokens, {step.__name__}", forms, rounds=7)


def token_memory() -> None:
    """The same layers: memory, each reading in a fresh process."""
    for n in token_counts():
        for name in TOKEN_LAYERS:
            subprocess.run([sys.executable, "-m", "tests.benchmarks.cpu_report", f"memory:{name}-{n}"], check=True)


def memory(what: str) -> None:
    """Peak resident memory of one call in this process, MiB, the libraries included."""
    from tests.benchmarks.timing import peak_memory_mib

    before = peak_memory_mib()
    if what.startswith("large"):
        Z, y = arguments(LARGE_RATES[0])
        srr.ops.rate_reduction_value_and_grad(Z, y, eps=EPS, core_dtype=torch.float32)
    elif what.partition("-")[0] in TOKEN_LAYERS:
        name, n = what.split("-")
        layer = TOKEN_LAYERS[name](384, 6, 64)
        training(layer, torch.randn(1, 1, 384, requires_grad=True), False)
        before = peak_memory_mib()
        training(layer, torch.randn(1, int(n), 384, requires_grad=True), False)
    else:
        kind, size = what.split("-")
        reference, model, images = twins(size)
        before = peak_memory_mib()
        training(reference if kind == "reference" else model, images, False)
    print(f"| {what} | {before:.0f} | {peak_memory_mib():.0f} | {peak_memory_mib() - before:.0f} |")


if __name__ == "__main__":
    torch.set_num_threads(2 if WALL else 1)
    torch.manual_seed(0)
    print(
        f"{'wall, 2 threads' if WALL else 'work, 1 thread'}; load {os.getloadavg()[0]:.1f}; torch {torch.__version__}"
    )
    jobs = {f.__name__: f for f in (rates, large, models, layers, tokens, token_memory)}
    for word in sys.argv[1:]:
        if word in jobs:
            jobs[word]()
        elif word.startswith("memory:"):
            memory(word.removeprefix("memory:"))
