"""Models on a device: equal to the reference, and time and memory against it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from tests.benchmarks.device_clock import DEVICE, Form, Row, milliseconds, peak_mib
from tests.benchmarks.reference_crate import reference_crate, twin_weights


def twins(size: str, batch: int) -> tuple[Any, Any, torch.Tensor]:
    """The reference and ours with the same weights, and images."""
    from srr.nn import create_model

    torch.manual_seed(0)
    reference, model = reference_crate(size), create_model(f"crate_{size}")
    twin_weights(reference, model)
    return reference.to(DEVICE), model.to(DEVICE), torch.randn(batch, 3, 224, 224, device=DEVICE)


def evaluation(model: Any, images: torch.Tensor, half: bool) -> None:
    with torch.inference_mode(), torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=half):
        model(images)


def training(model: Any, images: torch.Tensor, half: bool) -> None:
    model.zero_grad(set_to_none=True)
    with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=half):
        loss = model(images).square().mean()
    loss.backward()


def models_agree() -> list[Row]:
    """Outputs and gradients of ours against the reference in float32, and of bfloat16 against float32."""
    from srr.nn import released_names

    reference, model, images = twins("tiny", batch=4)
    for each in (reference, model):
        training(each, images, False)
    names, theirs = released_names(model), dict(reference.named_parameters())
    gaps = [relative(p.grad, theirs[names[name]].grad) for name, p in model.named_parameters()]
    rows: list[Row] = [
        {"check": "logits against the reference", "value": relative(model(images), reference(images))},
        {"check": "gradients against the reference, worst parameter", "value": max(gaps)},
    ]
    full = torch.cat([p.grad.flatten() for p in model.parameters()])
    training(model, images, True)
    half = torch.cat([p.grad.flatten() for p in model.parameters()])
    rows.append(
        {"check": "cosine of bfloat16 and float32 gradients", "value": float(torch.cosine_similarity(half, full, 0))}
    )
    return rows


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference over the largest entry."""
    return float((a - b).abs().max() / b.abs().max())


def bf16_peak() -> float:
    """Measured TFLOP/s of one large bfloat16 product."""
    A, B = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / milliseconds({"product": lambda: A @ B}, rounds=21)["product"] / 1e9


def model_row(size: str, batch: int, step: Callable[..., None], half: bool, compiled: bool) -> Row:
    from torch.utils.flop_counter import FlopCounterMode

    reference, model, images = twins(size, batch)
    for each in (reference, model):
        each.train(step is training)
    forms: dict[str, Form] = {
        "reference": partial(step, reference, images, half),
        "srr": partial(step, model, images, half),
    }
    with FlopCounterMode(display=False) as counter:
        forms["srr"]()
    if compiled:
        torch._dynamo.reset()
        forms["compiled"] = partial(step, torch.compile(model, fullgraph=True), images, half)
        forms["reference compiled"] = partial(step, torch.compile(reference), images, half)
    row: Row = {"model": size, "batch": batch, "step": step.__name__, "dtype": "bfloat16" if half else "float32"}
    row.update(milliseconds(forms))
    row["ratio"] = row["reference"] / row["srr"]
    row["images/s"] = batch / min(row["srr"], row.get("compiled", row["srr"])) * 1e3
    if half:
        row["of bf16 peak"] = counter.get_total_flops() / min(row["srr"], row.get("compiled", 1e9)) / 1e9 / bf16_peak()
    row["peak MiB"], row["reference MiB"] = peak_mib(forms["srr"]), peak_mib(forms["reference"])
    return row


def attention_row(n: int, half: bool) -> Row:
    """One MSSA and one TSSA layer of width 384 on (8, n, 384) tokens, forward and backward."""
    from srr.nn import MSSA, TSSA

    Z = torch.randn(8, n, 384, device=DEVICE, requires_grad=True)
    layers = {"mssa": MSSA(384, 6, 64).to(DEVICE), "tssa": TSSA(384, 6, 64).to(DEVICE)}
    forms: dict[str, Form] = {name: partial(training, layer, Z, half) for name, layer in layers.items()}
    row: Row = {"tokens": n, "dtype": "bfloat16" if half else "float32", **milliseconds(forms)}
    return row | {f"{name} MiB": peak_mib(form) for name, form in forms.items()}


def kernels() -> list[Row]:
    """CUDA kernels that one bfloat16 step of CRATE-tiny spends its time in: the fused attention must be among them."""
    _, model, images = twins("tiny", batch=8)
    training(model, images, True)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        training(model, images, True)
    events = [e for e in profile.key_averages() if "attention" in e.key or "flash" in e.key or "fmha" in e.key]
    return [{"event": e.key[:100], "calls": e.count, "device ms": e.device_time_total / 1e3} for e in events]
