"""How time and memory grow: ``python -m tests.benchmarks.growth`` prints the tables of docs/performance.md.

Every operator is timed while one of n, d, K and the batch grows and the others stay, every family of models while its
depth and its number of tokens grow: processor time of one thread, the shortest of a few calls. The exponent is the
slope of a line through the logarithms. Memory is what one call holds at most beside its arguments, as NumPy counts it.
The plan for ImageNet comes from counted operations and a stated share of the peak; it is no measurement.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import srr

BASE = {"n": 400, "d": 64, "K": 4, "batch": 1}
GROWTH = {"n": (400, 800, 1_600), "d": (64, 128, 256), "K": (2, 4, 8), "batch": (1, 2, 4)}
FAMILIES = ("crate", "crate_descent", "tost")
H100_BF16 = 989e12  # operations a second, dense, as its data sheet says
SHARE = (0.25, 0.4)  # of the peak that a training run of this size may reach
IMAGES, EPOCHS = 1_281_167, 90


def problem(n: int, d: int, K: int, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit tokens, orthonormal bases and labels in float32."""
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((batch, n, d)) if batch > 1 else rng.standard_normal((n, d))
    U = np.linalg.qr(rng.standard_normal((d, d)))[0].reshape(d, K, d // K).transpose(1, 0, 2)
    Z /= np.linalg.norm(Z, axis=-1, keepdims=True)
    return Z.astype(np.float32), np.ascontiguousarray(U, dtype=np.float32), np.arange(n) % K


OPERATORS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "R and gradient": lambda Z, U, y: srr.ops.coding_rate_value_and_grad(Z, eps=0.5),
    "R^c(·; U) and gradient": lambda Z, U, y: srr.ops.subspace_coding_rate_value_and_grad(Z, U, eps=0.5),
    "ΔR of labels and gradient": lambda Z, U, y: srr.ops.rate_reduction_value_and_grad(Z, y, eps=0.5),
    "mssa": lambda Z, U, y: srr.mssa(Z, U, scale=0.4),
    "tssa": lambda Z, U, y: srr.ops.tssa(Z, U),
    "ista_step": lambda Z, U, y: srr.ista_step(Z, Z, np.eye(Z.shape[-1], dtype=Z.dtype), step=0.1, lam=0.1),
}


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of the line through the logarithms, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def seconds(form: Callable[[], Any], rounds: int = 5, clock: Callable[[], float] = time.process_time) -> float:
    """Shortest of a few calls, after one that is not counted."""
    form()
    found = []
    for _ in range(rounds):
        start = clock()
        form()
        found.append(clock() - start)
    return min(found)


def held(form: Callable[[], Any]) -> float:
    """MiB that one call holds at most."""
    form()
    tracemalloc.start()
    form()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def operator_row(name: str, axis: str, sizes: Sequence[int]) -> str:
    """One line: milliseconds and MiB at every size, and both exponents."""
    times, memory = [], []
    for size in sizes:
        given = problem(**{**BASE, axis: size})
        times.append(seconds(lambda given=given: OPERATORS[name](*given)))
        memory.append(held(lambda given=given: OPERATORS[name](*given)))
    shown = ", ".join(f"{1e3 * t:.2g}" for t in times)
    power = f"{exponent(sizes, times):.1f} | {exponent(sizes, memory):.1f}"
    return f"| {name} | {axis} = {', '.join(map(str, sizes))} | {shown} | {memory[-1]:.2g} | {power} |"


def model_row(block: str, axis: str, sizes: Sequence[int]) -> str:
    """One line: milliseconds of an evaluation of one image while depth or tokens grow."""
    from srr.nn import CRATE, CrateConfig

    times, counts = [], []
    for size in sizes:
        side, depth = (int(size**0.5), 4) if axis == "tokens" else (8, size)
        shape = {"image_size": 4 * side, "patch_size": 4, "dim": 96, "depth": depth, "heads": 4, "head_dim": 24}
        model = CRATE(CrateConfig(**shape, num_classes=10, block=block)).eval()
        images = torch.randn(4, 3, 4 * side, 4 * side)
        with torch.inference_mode():
            times.append(seconds(lambda model=model, images=images: model(images)))
            counts.append(size)
    shown = ", ".join(f"{1e3 * t:.3g}" for t in times)
    return f"| {block} | {axis} = {', '.join(map(str, sizes))} | {shown} | {exponent(counts, times):.1f} |"


def operations(model: torch.nn.Module) -> float:
    """Multiplications and additions of products in one evaluation of one image of 224×224."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.randn(1, 3, 224, 224))
    return float(counter.get_total_flops())


def plan_row(name: str, forward: float) -> str:
    """Hours for ImageNet: three times the operations of an evaluation for every image of every epoch."""
    total = 3.0 * forward * IMAGES * EPOCHS
    hours = [[total / (share * H100_BF16 * cards) / 3600 for share in SHARE[::-1]] for cards in (1, 8)]
    one, eight = (f"{low:.2g} to {high:.2g}" for low, high in hours)
    return f"| {name} | {forward / 1e9:.2f} | {total:.2g} | {one} | {eight} |"


def main() -> None:
    """Print the three tables."""
    from srr.nn import create_model

    torch.set_num_threads(1)
    print(
        "| operator | what grows | ms | MiB at the largest | exponent of time | of memory |\n|---|---|---|---|---|---|"
    )
    for name in OPERATORS:
        for axis, sizes in GROWTH.items():
            print(operator_row(name, axis, sizes), flush=True)
    print("\n| model | what grows | ms | exponent |\n|---|---|---|---|")
    for block in FAMILIES:
        for axis, sizes in (("depth", (2, 4, 8)), ("tokens", (64, 256, 1_024))):
            print(model_row(block, axis, sizes), flush=True)
    print("\n| model | GFLOP an image | FLOP in all | hours on one H100 | on eight |\n|---|---|---|---|---|")
    for name in ("crate_tiny", "crate_small", "crate_base", "crate_large"):
        print(plan_row(name, operations(create_model(name))), flush=True)


if __name__ == "__main__":
    main()
