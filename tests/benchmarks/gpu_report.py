"""Correctness and speed on a CUDA machine, in one run of a few minutes: ``python -m tests.benchmarks.gpu_report OUT``.

Writes ``gpu.json`` and ``gpu.md`` into OUT after every section, so that a section that fails (its error is reported) or
a run that is cut short loses nothing else. Needs torch; CuPy where it is present.
"""

from __future__ import annotations

import json
import platform
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.cases import LARGE_RATES, SMALL_RATES, token_counts
from tests.benchmarks.device_clock import DEVICE, Row
from tests.benchmarks.device_models import (
    attention_row,
    bf16_peak,
    evaluation,
    kernels,
    model_row,
    models_agree,
    training,
)
from tests.benchmarks.device_operators import correctness, rate_row

SECONDS = 440.0  # after this no further section is begun


def environment() -> list[Row]:
    rows = {"date": time.strftime("%Y-%m-%d"), "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"}
    rows |= {"Python": platform.python_version(), "torch": torch.__version__, "CUDA": str(torch.version.cuda)}
    return [{"what": k, "value": v} for k, v in rows.items()] + [
        {"what": "bfloat16 product, TFLOP/s", "value": bf16_peak()}
    ]


def jobs() -> list[tuple[str, Callable[[], Any]]]:
    """Sections in the order of their worth; single rows are jobs of their own, so that one failure costs one row."""
    found: list[tuple[str, Callable[[], Any]]] = [
        ("Environment", environment),
        ("Operators against NumPy, float64, relative difference", correctness),
        ("Models", models_agree),
        ("Kernels", kernels),
    ]
    found += [("Rates with their gradients, ms", partial(rate_row, case)) for case in SMALL_RATES]
    steps = [(s, step, half) for s in ("tiny", "base") for step in (evaluation, training) for half in (False, True)]
    found += [("Models, ms", partial(model_row, s, 8, step, half, False)) for s, step, half in steps]
    found += [("Models, ms", partial(model_row, s, 256, step, True, False)) for s, step, half in steps if half]
    found += [
        ("Attention by tokens, ms", partial(attention_row, n, half)) for half in (False, True) for n in token_counts()
    ]
    found += [("Rates with their gradients, ms", partial(rate_row, case)) for case in LARGE_RATES]
    found += [("Models compiled, ms", partial(model_row, s, 256, step, True, True)) for s, step, half in steps if half]
    return found


def markdown(report: dict[str, list[Row]]) -> str:
    def show(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "/").replace("\n", " ")

    lines = []
    for title, rows in report.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += [f"\n## {title}\n", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(show(row.get(c, "")) for c in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def write(report: dict[str, list[Row]], out: Path) -> None:
    """What there is so far."""
    (out / "gpu.json").write_text(json.dumps(report, indent=1, default=str))
    (out / "gpu.md").write_text(markdown(report))


def main(out: Path) -> int:
    """Run every job that still fits; 1 if one failed."""
    out.mkdir(parents=True, exist_ok=True)
    report: dict[str, list[Row]] = {}
    failures, deadline = 0, time.monotonic() + SECONDS
    torch.set_float32_matmul_precision("highest")  # float32 means float32: no TF32
    for title, job in jobs():
        if time.monotonic() > deadline:
            report.setdefault("Left out for lack of time", []).append({"section": title, "job": str(job)[:80]})
            continue
        start = time.monotonic()
        try:
            result = job()
        except Exception as error:  # noqa: BLE001 - the report goes on and says so
            failures += 1
            traceback.print_exc()
            result = {"error": f"{type(error).__name__}: {error}"[:400], "in": str(getattr(job, "args", ""))[:100]}
        report.setdefault(title, []).extend(result if isinstance(result, list) else [result])
        print(f"{title}: {time.monotonic() - start:.1f} s", flush=True)
        write(report, out)
    write(report, out)
    print(markdown(report))
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/gpu")))
