"""Make the numbers of the results page: ``python examples/results/run.py vit --data DIR``.

DIR holds ``mnist/`` and ``fashion-mnist/`` (idx files) and ``moby-dick.txt``. Runs already made are kept, so an
interrupted call goes on where it stopped. ``all`` makes every experiment, ``--quick`` a small version of each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from experiments import EXPERIMENTS, Job

HERE = Path(__file__).parent
QUICK = {
    "images": ("trainer.max_epochs=1", "data.limit=3000"),
    "text": ("trainer.max_epochs=1", "trainer.max_steps=50"),
}


def main() -> int:
    """Start the missing runs, ``--jobs`` at a time; the number that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=[*EXPERIMENTS, "all"])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("runs/results"), help="folder of the result files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="one epoch on few samples: a trial of the machinery")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    names = list(EXPERIMENTS) if given.experiment == "all" else [given.experiment]
    jobs = [replace(j, seed=s) for name in names for s in range(given.seeds) for j in EXPERIMENTS[name]()]
    missing = list({j.key: j for j in jobs if not (given.out / f"{j.key}.json").exists()}.values())
    print(f"{len(missing)} runs to make, {len(jobs) - len(missing)} there or shared", flush=True)
    with ThreadPoolExecutor(given.jobs) as pool:
        return sum(pool.map(lambda job: start(job, given), missing))


def start(job: Job, given: argparse.Namespace) -> int:
    """Make one run in a process of its own; 1 when it failed."""
    begun = time.perf_counter()
    threads = str(max(1, (os.cpu_count() or 1) // given.jobs))
    command = [
        sys.executable,
        str(HERE / "job.py"),
        job.to_json(),
        str(given.out / f"{job.key}.json"),
        *words(job, given),
    ]
    made = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": threads}
    )
    state = "done" if made.returncode == 0 else "FAILED"
    print(f"{state} {job.experiment} {job.name} seed {job.seed}: {time.perf_counter() - begun:.0f} s", flush=True)
    if made.returncode:
        print(made.stderr[-2000:], flush=True)
    return int(made.returncode != 0)


def words(job: Job, given: argparse.Namespace) -> list[str]:
    """Where the data of a job are, the device, and the quick version's changes."""
    found = [f"trainer.device={given.device}"]
    name = next(w for w in reversed(job.words) if w.startswith("data.name=")).partition("=")[2]
    if name.startswith("text:"):
        found.append(f"data.name=text:{given.data / name.partition(':')[2]}")
    else:
        found.append(f"data.root={given.data / name}")
    return found + list(QUICK["text" if name.startswith("text:") else "images"] if given.quick else ())


if __name__ == "__main__":
    sys.exit(main())
