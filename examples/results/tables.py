"""The tables of the results page as Markdown, from a summary."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from changed import ATTEMPTS

Rows = dict[str, dict[str, Any]]
MISSING = "–"
ACCURACY = "accuracy, %"

COLUMNS: dict[str, tuple[str, float, int]] = {
    "val_accuracy": (ACCURACY, 100, 2),
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
    "crate_descent": "descending, exact compression",
    "crate_descent_zero": "descending, codes from zero",
    "crate_energy": "descending, softmax energy",
    "tost": "ToST",
    "alpha": "CRATE-α",
    "attention_only": "attention only",
    "no_attention": "no attention",
    "vit_parameters": "ViT",
    "gpt_parameters": "GPT block",
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
    """Parameters, operations of one sample, seconds of a run, how many seeds."""
    return [f"{row['parameters'][0]:,}", f"{row['flops'][0] / 1e6:.2f}", seconds(row), str(len(row["seeds"]))]


def seconds(row: dict[str, Any]) -> str:
    """Processor time of training; wall time of runs that were made before it was kept."""
    return spread(row.get("processor_seconds", row.get("seconds", [])), digits=0)


def clock(rows: Rows) -> str:
    """What the seconds of these rows are."""
    return "wall seconds" if any("seconds" in row for row in rows.values()) else "processor seconds"


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
    return table([*head, "parameters", "MFLOP a sample", clock(rows), "seeds"], body)


def named(name: str) -> str:
    """The title of a network."""
    return NAMES.get(name) or ATTEMPTS.get(name, name)


def parted(rows: Rows) -> str:
    """A table for each data set and size of patches."""
    parts = []
    for data, title in (("fashion-mnist", "Fashion-MNIST"), ("mnist", "MNIST")):
        for patch in ("7", "4"):
            begin = f"{data}/{patch}/"
            own = {name.removeprefix(begin): row for name, row in rows.items() if name.startswith(begin)}
            if own:
                text = measured(own, ["val_accuracy", "val_loss"], "crate", named)
                parts.append(f"**{title}, patches of {patch} × {patch}**\n\n{text}")
    return "\n\n".join(parts)


def networks(rows: Rows) -> str:
    """Every network on both data sets, at two sizes of patches."""
    return parted(rows)


def improved(rows: Rows) -> str:
    """The chosen change on the test sets."""
    return parted(rows)


def attempts(rows: Rows) -> str:
    """Accuracy on held-out training images, one seed."""
    return measured(rows, ["val_accuracy", "val_loss"], "crate_descent", lambda name: ATTEMPTS.get(name, named(name)))


def recall(rows: Rows) -> str:
    """Share of values recalled."""
    return measured(rows, ["val_accuracy", "val_loss"], title=named)


def traced(rows: Rows) -> Rows:
    """The networks whose layers were measured."""
    return {name.rpartition("/")[2]: row for name, row in rows.items() if "trained" in row}


def layers(rows: Rows) -> str:
    """In how many layers attention lowers the rates of that layer; one measure and the non-zeros over depth."""
    head = ["", "network", "attention lowers raw R^c", "attention lowers normalized R^c"]
    head += ["common R^c, nats", "non-zero, %"]
    body = []
    for name, row in traced(rows).items():
        for state in ("untrained", "trained"):
            trace = {field: np.asarray(values) for field, values in row[state].items()}  # (seeds, L, 3)
            line = [named(name), state, *(lowered(trace[f"compression_{m}"]) for m in ("raw", "normalized"))]
            body.append([*line, path(trace["compression_common"]), path(100 * trace["sparsity"])])
    return table(head, body)


def path(trace: np.ndarray) -> str:
    """Before the first layer and after each, means over seeds."""
    places = np.concatenate([trace[:, :1, 0], trace[:, :, 2]], axis=1).mean(axis=0)
    return " → ".join(f"{place:.1f}" for place in places)


def lowered(trace: np.ndarray) -> str:
    """In how many layers of all seeds the compressing half-step lowers a measure."""
    falls = trace[:, :, 1] < trace[:, :, 0]
    return f"{int(falls.sum())} of {falls.size}"


def halves(rows: Rows) -> str:
    """What every half did to its own objective, a line a layer; rises are counted over seeds and images."""
    head = ["", "layer", "compression before → after", "images where it rose", "coding before → after"]
    head += ["images where it rose", "guarantees broken"]
    body = []
    for name, row in traced(rows).items():
        for layer in range(len(row["trained"]["sparsity"][0])):
            line = [named(name), str(layer + 1)]
            broken, proved = 0, False
            for half in ("compress", "sparsify"):
                found = [h for seed in row["halves"] for h in seed if (h["layer"], h["half"]) == (layer, half)]
                before, after = (statistics.fmean(h[key] for h in found) for key in ("before", "after"))
                rises, inputs = (sum(h[key] for h in found) for key in ("rises", "inputs"))
                broken, proved = broken + sum(h["violations"] for h in found), proved or found[0]["proved"]
                line += [f"{before:.1f} → {after:.1f}", f"{rises} of {inputs}"]
            body.append([*line, str(broken) if proved else "none is given"])
    return table(head, body)


def depth(rows: Rows) -> str:
    """A line for each number of layers, a column for each network."""
    return grid(rows, "layers")


def steps(rows: Rows) -> str:
    """A line for each number of steps, a column for each half."""
    return grid(rows, "steps", {"steps": "exact compression", "codes": "codes"})


def grid(rows: Rows, what: str, titles: dict[str, str] | None = None) -> str:
    """Accuracy and seconds of ``column/number`` as a table of numbers by columns."""
    columns = list(dict.fromkeys(name.partition("/")[0] for name in rows))
    numbers = sorted({int(name.partition("/")[2]) for name in rows})
    title = (titles or {}).get
    head = [what, *(f"{title(c) or named(c)}{unit}" for c in columns for unit in (", %", f", {clock(rows)}"))]
    body = []
    for number in numbers:
        line = [str(number)]
        for column in columns:
            row = rows.get(f"{column}/{number}")
            line += [MISSING, MISSING] if row is None else [cell(row, "val_accuracy"), seconds(row)]
        body.append(line)
    return table(head, body)


def unrolled(rows: Rows) -> str:
    """Shares of the converged solver's whole decrease, on held-out mixtures."""
    head = ["objective", "layers", "steps of 1/L, %", "learned steps, %", "steps of 1/L that reach as far"]
    head += ["longest learned step, in 1/L", "steps of the solver", "sets where it converged, %", "processor seconds"]
    body = []
    for name, row in rows.items():
        kind, _, layers = name.partition("/")
        line = [{"srr": "sparse rate reduction", "mcr2": "MCR²"}[kind], layers]
        line += [spread(row[key], 100, 1) for key in ("share_plain", "share_learned")]
        line += [spread(row[key], digits=1) for key in ("plain_steps", "longest", "solver_steps")]
        line.append(spread(row["solved"], 100, 0))
        body.append([*line, spread(row["processor_seconds"], digits=1)])
    return table(head, body)


def variants(rows: Rows) -> str:
    """Accuracy with every change, seed by seed against CRATE; the losses are not one loss."""
    return measured(rows, ["val_accuracy"], "CRATE")


def ista(rows: Rows) -> str:
    """Accuracy for each step and sparsity weight, with the share of non-zeros after the last layer."""
    body = []
    for name, row in rows.items():
        step, _, lam = name.partition("/")
        last = [100 * trace[-1][2] for trace in row["trained"]["sparsity"]]
        change = "" if name == "0.1/0.1" or "0.1/0.1" not in rows else difference(row, rows["0.1/0.1"], "val_accuracy")
        body.append([step, lam, cell(row, "val_accuracy"), change, spread(last, digits=1), seconds(row)])
    head = ["step η", "λ", ACCURACY, "minus η = λ = 0.1", "non-zero after the last layer, %", clock(rows)]
    return table(head, body)


def language(rows: Rows) -> str:
    """Bits a byte of the held-out tenth."""
    return measured(rows, ["val_bits", "val_accuracy"], "crate", named)


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
        body.append([*line, seconds(row)])
    head = ["images", "labels redrawn, %", "objective", "last training batch, %", "head, %", "nearest subspace, %"]
    return table([*head, clock(rows)], body)


def rates(rows: Rows) -> str:
    """A line for each network and kind of data, a column for each learning rate; the best is bold."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for name, row in rows.items():
        kind, network, lr = name.split("/")
        found.setdefault((kind, network), {})[lr] = row
    tried = sorted({lr for line in found.values() for lr in line}, key=float)
    body = []
    for (kind, network), line in found.items():
        metric, best = headline(kind), best_rate(kind, line)
        cells = [cell(line[lr], metric) if lr in line else MISSING for lr in tried]
        bold = [f"**{text}**" if lr == best else text for lr, text in zip(tried, cells, strict=True)]
        body.append([KINDS[kind], named(network), COLUMNS[metric][0], *bold])
    return table(["", "", "", *(f"lr {lr}" for lr in tried)], body)


KINDS = {"images": "Fashion-MNIST", "text": "book", "recall": "recall"}


def headline(kind: str) -> str:
    """What a choice is made by."""
    return {"images": "val_accuracy", "text": "val_bits", "recall": "val_loss"}[kind]


def best_rate(kind: str, line: Rows) -> str:
    """The learning rate that was best on held-out training samples."""
    sign = -1 if kind == "images" else 1
    return min(line, key=lambda lr: sign * line[lr][headline(kind)][0])


TABLES: dict[str, Callable[[Rows], str]] = {
    f.__name__: f
    for f in (
        networks,
        attempts,
        improved,
        recall,
        language,
        depth,
        steps,
        unrolled,
        rates,
        variants,
        ista,
        masked,
        labels,
    )
}
OF_NETWORKS = {"layers": layers, "halves": halves}
"""Tables of what was measured inside the networks of another table."""
