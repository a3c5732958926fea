"""Operators on a device: equal to NumPy, and how fast against the plain forms and the floor."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

import srr
from tests.benchmarks import reference_rates as naive
from tests.benchmarks.cases import EPS, RateCase, arguments, floor_of
from tests.benchmarks.device_clock import DEVICE, Form, Row, milliseconds, peak_mib


def operators(xp: Any, move: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    """Results of the operators on one library, on the same numbers everywhere."""
    rng = np.random.default_rng(0)
    Z = move(rng.standard_normal((2, 60, 24)))
    U = move(np.linalg.qr(rng.standard_normal((24, 24)))[0].reshape(24, 4, 6).transpose(1, 0, 2).copy())
    D, y, Pi = (
        move(rng.standard_normal((24, 24)) / 5),
        move(np.arange(60) % 4),
        move(rng.dirichlet(np.ones(3), (2, 60))),
    )
    keep = move(np.arange(60)[:, None] % 7 != np.arange(60)[None, :] % 5)
    calls: dict[str, Form] = {
        "coding_rate": lambda: srr.ops.coding_rate_value_and_grad(Z, eps=EPS),
        "subspace_coding_rate": lambda: srr.ops.subspace_coding_rate_value_and_grad(Z, U, eps=EPS),
        "rate_reduction of labels": lambda: srr.ops.rate_reduction_value_and_grad(Z, y, eps=EPS),
        "rate_reduction of one set": lambda: srr.ops.rate_reduction_value_and_grad(Z[0], y % 2, eps=EPS),
        "rate_reduction of memberships": lambda: srr.ops.rate_reduction_value_and_grad(Z, Pi, eps=EPS),
        "mssa": lambda: srr.mssa(Z, U, scale=0.4),
        "mssa causal": lambda: srr.mssa(Z, U, scale=0.4, causal=True),
        "mssa masked": lambda: srr.mssa(Z, U, scale=0.4, mask=keep),
        "neumann_step": lambda: srr.ops.neumann_step(Z, U, step=0.1, eps=EPS, terms=2),
        "compression_step": lambda: srr.ops.compression_step(Z, U, step=0.1, eps=EPS),
        "tssa": lambda: srr.ops.tssa(Z, U),
        "ista_step": lambda: srr.ista_step(Z, Z, D, step=0.1, lam=0.1),
        "folded_ista_step": lambda: srr.ops.folded_ista_step(Z, srr.ops.ista_matrix(D, step=0.1), step=0.1, lam=0.1),
        "unit_soft_threshold": lambda: srr.ops.unit_soft_threshold(Z, threshold=0.1),
        "orthonormalize": lambda: srr.ops.project(Z, srr.ops.orthonormalize(U)),
    }
    return {name: attempt(call) for name, call in calls.items()}


def attempt(call: Form) -> Any:
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - a report goes on
        return error


def host(x: Any) -> np.ndarray:
    return x.cpu().numpy() if isinstance(x, torch.Tensor) else x.get() if hasattr(x, "get") else np.asarray(x)


def difference(got: Any, wanted: Any) -> str | float:
    """Largest relative difference, or the error that came instead."""
    if isinstance(got, Exception) or isinstance(wanted, Exception):
        return f"{type(got).__name__}: {got}"[:300] if isinstance(got, Exception) else f"host: {wanted}"[:300]
    pairs = zip(got, wanted, strict=True) if isinstance(got, tuple) else [(got, wanted)]
    return max(float(np.abs(host(a) - host(b)).max() / max(np.abs(host(b)).max(), 1e-300)) for a, b in pairs)


def correctness() -> list[Row]:
    truth = operators(np, lambda a: a)
    places: dict[str, Form] = {f"torch {DEVICE}": lambda: operators(torch, lambda a: torch.asarray(a, device=DEVICE))}
    try:
        import cupy
    except ImportError as error:
        print("CuPy:", error)
    else:
        places["CuPy"] = lambda: operators(cupy, cupy.asarray)
    found = {place: form() for place, form in places.items()}
    return [
        {"operator": name, **{place: difference(results[name], truth[name]) for place, results in found.items()}}
        for name in truth
    ]


def rate_row(case: RateCase, rounds: int = 11) -> Row:
    Z, second = arguments(case, DEVICE)
    fast = getattr(srr.ops, case.rate + "_value_and_grad")
    rest = () if second is None else (second,)
    plain = rest
    if case.rate == "rate_reduction":
        plain = (torch.nn.functional.one_hot(second, case.classes).float(),)
    forms: dict[str, Form] = {
        "reference": partial(naive.with_gradient, getattr(naive, case.rate), Z, *plain, EPS),
        "float32 core": partial(fast, Z, *rest, eps=EPS, core_dtype=torch.float32),
        "default": partial(fast, Z, *rest, eps=EPS),
        "floor": floor_of(case, Z, second),
    }
    row: Row = {"case": str(case)}
    slow = case.n * case.classes > 4_000_000 or case.d > 4_000
    row.update(milliseconds(forms, rounds=1 if slow else rounds, warmup=1 if slow else 3))
    row.update({f"cupy {name}": t for name, t in cupy_times(case.rate, Z, rest, rounds).items()})
    row["ratio"] = row["reference"] / row["float32 core"]
    row["of floor"] = row["floor"] / row["float32 core"]
    row["peak MiB"], row["reference MiB"] = peak_mib(forms["float32 core"]), peak_mib(forms["reference"])
    return row


def cupy_times(rate: str, Z: torch.Tensor, rest: tuple[torch.Tensor, ...], rounds: int) -> dict[str, float]:
    try:
        import cupy
    except ImportError:
        return {}
    fast, args = getattr(srr.ops, rate + "_value_and_grad"), [cupy.asarray(a.cpu().numpy()) for a in (Z, *rest)]
    found = {}
    for name, core in (("float32", cupy.float32), ("float64", cupy.float64)):
        times = []
        for _ in range(rounds + 2):
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            start.record()
            fast(*args, eps=EPS, core_dtype=core)
            end.record()
            end.synchronize()
            times.append(cupy.cuda.get_elapsed_time(start, end))
        found[name] = statistics.median(times[2:])
    return found
