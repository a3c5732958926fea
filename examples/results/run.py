"""Make the numbers of the results page: ``python examples/results/run.py networks --data DIR``.

DIR holds ``mnist/`` and ``fashion-mnist/`` (idx files) and ``moby-dick.txt``; ``fetch.sh`` puts them there. Runs
already made are kept, so an interrupted call goes on where it stopped. ``choices`` looks for learning rates and for a
better descending network on held-out training samples; ``all`` makes what the page reports of this state of the code;
``--quick`` makes a trial of each run on few samples.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from pathlib import Path

from budgets import BUDGETS
from experiments import CHOICES, EXPERIMENTS, REPORTED, Job, jobs


def main() -> int:
    """Start the missing runs, ``--jobs`` at a time, seed by seed, the longest first; 1 when one failed."""
    given = arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    names = {"all": REPORTED, "choices": CHOICES}.get(given.experiment, [given.experiment])
    wanted = {j.key: j for j in jobs(names, BUDGETS[given.budget], seeds=given.seeds, quick=given.quick)}
    missing = [j for key, j in wanted.items() if not (given.out / f"{key}.json").exists()]
    missing.sort(key=lambda j: (j.seed, -j.cost))
    print(f"{len(missing)} runs to make, {len(wanted) - len(missing)} are there", flush=True)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(given.threads)  # before the workers import torch
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        made = {pool.submit(make, job, given.out / f"{job.key}.json", words(job, given)): job for job in missing}
        failed = sum(follow(made))
    print(f"{failed} failed" if failed else "all made", flush=True)
    return int(failed > 0)


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=[*EXPERIMENTS, "all", "choices"])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--budget", choices=list(BUDGETS), default="small", help="small: two cores; large: a GPU")
    parser.add_argument("--out", type=Path, default=Path("runs/results"), help="folder of the result files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side (default: cores)")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="one epoch on few samples: a trial of the machinery")
    return parser.parse_args()


def end_with_parent() -> None:
    """Let a worker end when the process that started it is killed; its unfinished run leaves no file."""
    parent = parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def make(job: Job, target: Path, extra: tuple[str, ...]) -> float:
    """Make one run in a worker, which imports torch once."""
    from job import make

    return make(job, target, extra)


def follow(made: dict[Future[float], Job]) -> Iterator[bool]:
    """Print a line for every run that ends; whether it failed."""
    begun, total, done = time.perf_counter(), sum(job.cost for job in made.values()), 0.0
    for count, future in enumerate(as_completed(made), 1):
        job, error = made[future], future.exception()
        done += job.cost
        past = time.perf_counter() - begun
        left = past * (total - done) / done
        state = f"FAILED: {error!r}\n{error.__cause__ or ''}" if error else f"{future.result():.0f} s"
        clock = f"{past / 60:.1f} min gone, about {left / 60:.1f} min left"
        print(f"[{count}/{len(made)}; {clock}] {job.experiment} {job.name}, seed {job.seed}: {state}", flush=True)
        yield error is not None


def words(job: Job, given: argparse.Namespace) -> tuple[str, ...]:
    """Where the data of a job are, and the device."""
    kind, _, file = job.data.partition(":")
    place = f"data.name=text:{given.data / file}" if kind == "text" else f"data.root={given.data / kind}"
    return f"trainer.device={given.device}", place


if __name__ == "__main__":
    sys.exit(main())
