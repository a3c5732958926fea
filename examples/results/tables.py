"""The tables of the results page as Markdown, from a summary."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Rows = dict[str, dict[str, Any]]
MISSING = "–"

COLUMNS: dict[str, tuple[str, float, int]] = {
    "val_accuracy": ("accuracy, %", 100, 2),
    "train_accuracy": ("last training batch, %", 100, 0),
    "nearest_subspace": ("nearest subspace, %", 100, 2),
    "val_bits": ("bits a byte", 1, 3),
    "val_loss": ("loss", 1, 4),
    "probe_trained": ("probe, trained, %", 100, 2),
    "probe_untrained": ("probe, untrained, %", 100, 2),
    "probe_pixels": ("probe, pixels, %", 100, 2),
}
"""Title, factor and decimals of a measured number."""

NAMES = {
    "crate": "CRATE",
    "vit_parameters": "ViT, equal parameters",
    "vit_flops": "ViT, equal operations",
    "vit_width": "ViT, equal width",
    "gpt_parameters": "GPT block, equal parameters",
}

OBJECTIVES = {"cross_entropy": "cross-entropy", "mcr2": "MCR²"}


def spread(values: Sequence[float], factor: float = 1.0, digits: int = 2) -> str:
    """Mean ± standard deviation (n − 1) of the seeds."""
    if not values:
        return MISSING
    scaled = [factor * v for v in values]
    deviation = f" ± {statistics.stdev(scaled):.{digits}f}" if len(scaled) > 1 else ""
    return f"{statistics.fmean(scaled):.{digits}f}{deviation}"


def cell(row: dict[str, Any], metric: str) -> str:
    """One number of a row with its spread."""
    _, factor, digits = COLUMNS[metric]
    return spread(row.get(metric, []), factor, digits)


def difference(row: dict[str, Any], other: dict[str, Any], metric: str) -> str:
    """Mean ± standard deviation of the differences seed by seed, signed."""
    if metric not in row or metric not in other:
        return MISSING
    _, factor, digits = COLUMNS[metric]
    pairs = dict(zip(other["seeds"], other[metric], strict=True))
    values = [v - pairs[s] for s, v in zip(row["seeds"], row[metric], strict=True) if s in pairs]
    text = spread(values, factor, digits)
    return text if text == MISSING or text.startswith("-") else f"+{text}"


def cost(row: dict[str, Any]) -> list[str]:
    """Parameters, operations of one sample, seconds of a run."""
    return [f"{row['parameters'][0]:,}", f"{row['flops'][0] / 1e6:.2f}", spread(row["seconds"], digits=0)]


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def measured(rows: Rows, metrics: Sequence[str], base: str | None = None, title: Callable[[str], str] = str) -> str:
    """One line a row: what was measured, the difference from a base row, what it cost."""
    head = ["", *(COLUMNS[m][0] for m in metrics)]
    head += [f"minus {title(base)}"] if base else []
    body = []
    for name, row in rows.items():
        line = [title(name), *(cell(row, m) for m in metrics)]
        if base:
            own = name == base or base not in rows
            line.append("" if own else difference(row, rows[base], metrics[0]))
        body.append([*line, *cost(row)])
    return table([*head, "parameters", "MFLOP a sample", "seconds"], body)


def vit(rows: Rows) -> str:
    """Two tables, one for each data set."""
    parts = []
    for data, title in (("fashion-mnist", "Fashion-MNIST"), ("mnist", "MNIST")):
        own = {name.partition("/")[2]: row for name, row in rows.items() if name.startswith(f"{data}/")}
        text = measured(own, ["val_accuracy", "val_loss"], "crate", lambda name: NAMES.get(name, name))
        parts.append(f"**{title}**\n\n{text}")
    return "\n\n".join(parts)


def layers(rows: Rows) -> str:
    """First and last layer, and the share of layers whose compressing half lowers either measure."""
    head = ["width x depth", "network", "accuracy, %", "raw R^c", "normalized R^c", "non-zero, %"]
    head += ["attention lowers raw R^c", "attention lowers normalized R^c", "parameters", "seconds"]
    body = []
    for name, row in rows.items():
        for state in ("untrained", "trained"):
            trace = {field: np.asarray(values) for field, values in row[state].items()}  # (seeds, L, 3)
            trained = state == "trained"
            line = [name, state, cell(row, "val_accuracy") if trained else ""]
            line += [ends(trace["compression_raw"]), ends(trace["compression_normalized"])]
            line += [ends(100 * trace["sparsity"]), lowered(trace["compression_raw"])]
            line += [lowered(trace["compression_normalized"])]
            body.append([*line, *([cost(row)[0], cost(row)[2]] if trained else ["", ""])])
    return table(head, body)


def ends(trace: np.ndarray) -> str:
    """After the first layer → after the last, means over seeds."""
    first, last = trace[:, 0, 2].mean(), trace[:, -1, 2].mean()
    return f"{first:.1f} → {last:.1f}"


def lowered(trace: np.ndarray) -> str:
    """In how many layers of all seeds the compressing half-step lowers a measure."""
    falls = trace[:, :, 1] < trace[:, :, 0]
    return f"{int(falls.sum())} of {falls.size}"


def variants(rows: Rows) -> str:
    """Accuracy with every change, seed by seed against CRATE; the losses are not one loss."""
    return measured(rows, ["val_accuracy"], "CRATE")


def steps(rows: Rows) -> str:
    """Accuracy for each step and sparsity weight, with the share of non-zeros after the last layer."""
    body = []
    for name, row in rows.items():
        step, _, lam = name.partition("/")
        last = [100 * trace[-1][2] for trace in row["trained"]["sparsity"]]
        change = "" if name == "0.1/0.1" or "0.1/0.1" not in rows else difference(row, rows["0.1/0.1"], "val_accuracy")
        body.append(
            [step, lam, cell(row, "val_accuracy"), change, spread(last, digits=1), spread(row["seconds"], digits=0)]
        )
    head = ["step η", "λ", "accuracy, %", "minus η = λ = 0.1", "non-zero after the last layer, %", "seconds"]
    return table(head, body)


def language(rows: Rows) -> str:
    """Bits a byte of the held-out tenth."""
    return measured(
        rows, ["val_bits", "val_accuracy"], "crate", lambda name: NAMES.get(name, name).replace("CRATE", "CausalCRATE")
    )


def masked(rows: Rows) -> str:
    """Error of hidden patches and accuracy of linear probes."""
    return measured(rows, ["val_loss", "probe_trained", "probe_untrained", "probe_pixels"])


def labels(rows: Rows) -> str:
    """Both objectives side by side for every number of images and share of redrawn labels."""
    metrics = ("train_accuracy", "val_accuracy", "nearest_subspace")
    body = []
    for name, row in rows.items():
        images, fraction, objective = name.split("/")
        line = [images, f"{100 * float(fraction):.0f}", OBJECTIVES[objective], *(cell(row, m) for m in metrics)]
        body.append([*line, spread(row["seconds"], digits=0)])
    head = ["images", "labels redrawn, %", "objective", "last training batch, %", "head, %", "nearest subspace, %"]
    return table([*head, "seconds"], body)


def rates(rows: Rows) -> str:
    """A line for each kind of network, a column for each learning rate."""
    found: dict[str, dict[str, str]] = {}
    for name, row in rows.items():
        kind, _, lr = name.partition("/")
        metric = next(m for m in ("val_bits", "val_accuracy", "val_loss") if m in row)
        line = found.setdefault(kind, {"": COLUMNS[metric][0]})
        line[lr] = cell(row, metric)
    tried = sorted({lr for line in found.values() for lr in line if lr}, key=float)
    body = [[kind, *(line.get(lr, MISSING) for lr in ("", *tried))] for kind, line in found.items()]
    return table(["", "", *(f"lr {lr}" for lr in tried)], body)


TABLES: dict[str, Callable[[Rows], str]] = {
    f.__name__: f for f in (vit, layers, variants, steps, language, masked, labels, rates)
}
