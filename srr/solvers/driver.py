"""The one driver that stops: a solver's steps, item by item, and why each item ended.

An algorithm is a frozen set of hyper-parameters with ``init`` and ``step``. The step knows nothing of stopping, the
driver knows nothing of mathematics: it reads ``state.objective`` and ``state.residual``, one number per batch item,
and decides item by item. Callbacks observe a run and may ask it to stop; they never change it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from srr._array.cards import card, lines
from srr._array.checks import check_count, check_nonnegative
from srr._array.files import write_atomically
from srr._array.namespace import Array, asarray_like, namespace, to_numpy

__all__ = [
    "Callback",
    "Checkpoint",
    "EarlyStop",
    "History",
    "NotConvergedError",
    "Observation",
    "Progress",
    "Solution",
    "Solver",
    "Startable",
    "State",
    "Status",
    "minimize",
    "unroll",
]


PATIENCE = 100  # steps without any gain in objective or residual before an item may count as stalled
FLAT = 1e-9  # an objective that moves by less (relative) stands still; momentum makes it rise and fall by more
RESIDUAL_GAIN = 1e-3  # a residual this much lower (relative) counts as a gain
RISE = 0.1  # an objective this much above the best one (relative) after PATIENCE steps is on its way up
OBJECTIVE_GAIN = 1e-15  # so does an objective lower by more than its rounding error (relative)

Numbers = npt.NDArray[Any]
"""Numbers about a run, on the host."""
X = TypeVar("X")
X_co = TypeVar("X_co", covariant=True)


class Status(Enum):
    """Why a solver stopped on one batch item; the value is a sentence for people."""

    RUNNING = "The item is still being solved."
    CONVERGED = "The distance to optimality fell to tol or below."
    MAX_STEPS = "The step limit was reached before the distance to optimality fell to tol."
    DIVERGED = "The objective kept rising or stopped being finite; the last finite iterate is returned."
    STALLED = "No further step lowered the objective or the distance to optimality at this precision."
    STOPPED = "A callback asked for an early stop."


class History(NamedTuple):
    """What a run measured at every iterate, the first one included.

    Args:
        objective: objective, shape (steps + 1, ...).
        residual: distance to optimality, shape (steps + 1, ...).
    """

    objective: Numbers
    residual: Numbers


class Solution(NamedTuple, Generic[X_co]):
    """Result of `minimize`. Numbers about the run live on the host, `Z` stays on its backend and device.

    Args:
        Z: last iterate, or the last finite one of an item that diverged.
        status: a `Status`; an object array of shape (...) for a batched problem.
        steps: steps taken, per batch item.
        objective: objective at `Z`, per batch item.
        residual: distance to optimality at `Z`, per batch item.
        history: objective and residual at every step.
    """

    Z: X_co
    status: Status | npt.NDArray[np.object_]
    steps: Numbers
    objective: Numbers
    residual: Numbers
    history: History

    @property
    def converged(self) -> bool:
        """True where every batch item converged."""
        return all(status is Status.CONVERGED for status in np.ravel(np.asarray(self.status, dtype=object)))

    def save(self, path: str | Path) -> None:
        """Write the solution to a file that `load` reads, whole or not at all.

        Args:
            path: file to write, ending in ``.npz``; one that exists is replaced.

        Raises:
            ValueError: `path` does not end in ``.npz``.
            TypeError: `Z` is not one array.
        """
        target = _npz(path)
        if not hasattr(self.Z, "shape"):
            raise TypeError(f"Z must be one array to be saved; got {type(self.Z).__name__}")
        statuses = np.asarray(self.status, dtype=object)
        names = np.asarray([status.name for status in statuses.ravel()]).reshape(statuses.shape)
        arrays: dict[str, Any] = {
            "Z": to_numpy(cast("Array", self.Z)),
            "status": names,
            "steps": self.steps,
            "objective": self.objective,
            "residual": self.residual,
            "history_objective": self.history.objective,
            "history_residual": self.history.residual,
        }
        write_atomically(target, lambda file: np.savez(file, **arrays))

    @staticmethod
    def load(path: str | Path) -> Solution[Numbers]:
        """Solution that `save` wrote, with `Z` as a NumPy array; `minimize` goes on from it.

        Args:
            path: file to read.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file does not hold a solution.
        """
        try:
            with np.load(_npz(path), allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
        except (ValueError, EOFError, OSError, BadZipFile, KeyError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(f"path must be a file that Solution.save wrote; {path} is not: {error}") from error
        if missing := set(_SAVED) - set(found):
            raise ValueError(f"path must be a file that Solution.save wrote; {path} lacks {', '.join(sorted(missing))}")
        names, known = found["status"], Status.__members__
        if strange := sorted({str(name) for name in np.ravel(names)} - set(known)):
            raise ValueError(f"path must hold statuses of this library; {path} has {', '.join(strange)}")
        status = np.asarray([known[str(name)] for name in np.ravel(names)], dtype=object).reshape(names.shape)
        steps, objective, residual = (found[name][()] for name in ("steps", "objective", "residual"))
        history = History(found["history_objective"], found["history_residual"])
        return Solution(found["Z"], status[()], steps, objective, residual, history)

    def __repr__(self) -> str:
        return f"Solution({', '.join(f'{name} {value}' for name, value in self._summary().items())})"

    def _repr_html_(self) -> str:
        """The same for a notebook, with the curve of every measure (of the first batch item)."""
        steps = len(self.history.objective)
        curves = {
            name: np.reshape(getattr(self.history, name), (steps, -1))[:, 0] for name in ("objective", "residual")
        }
        with np.errstate(divide="ignore"):
            picture = lines({"objective": curves["objective"], "log10 residual": np.log10(curves["residual"])})
        return card("Solution", self._summary(), picture)

    def _summary(self) -> dict[str, str]:
        statuses = [status.name for status in np.ravel(np.asarray(self.status, dtype=object))]
        counts = ", ".join(f"{statuses.count(name)} {name}" for name in dict.fromkeys(statuses))
        several = len(statuses) > 1
        Z: Any = self.Z
        shape = f"{tuple(Z.shape)} {Z.dtype}" if hasattr(Z, "dtype") else type(Z).__name__
        return {
            "status": counts if several else statuses[0] if statuses else "of no item",
            "steps": _range(self.steps, "d"),
            "objective": _range(self.objective, ".6g"),
            "residual": _range(self.residual, ".2g"),
            "Z": shape,
        }


_SAVED = ("Z", "status", "steps", "objective", "residual", "history_objective", "history_residual")


def _npz(path: str | Path) -> Path:
    if Path(path).suffix != ".npz":
        raise ValueError(f"path must end in .npz; got {str(path)!r}")
    return Path(path)


def _range(values: Numbers, form: str) -> str:
    """A number, or the smallest and the largest of several."""
    flat = np.ravel(values)
    ends = dict.fromkeys(format(end, form) for end in (flat.min(), flat.max())) if flat.size else []
    return " to ".join(ends)


class NotConvergedError(RuntimeError):
    """Raised by ``minimize(..., throw=True)`` when an item did not converge; carries the `solution`."""

    def __init__(self, solution: Solution[object]) -> None:
        """Keep the solution and put the sentence of the first item that failed into the message."""
        self.solution = solution
        statuses = np.ravel(np.asarray(solution.status, dtype=object))
        failed = [status for status in statuses if status is not Status.CONVERGED]
        super().__init__(f"{len(failed)} of {len(statuses)} items did not converge: {failed[0].value}")


class State(Protocol):
    """What the driver reads from a solver's state: one number per batch item each.

    A state is a ``NamedTuple``. Every array in it carries the batch axes first, so that the driver can freeze
    the items that are done while the others go on.
    """

    @property
    def objective(self) -> Array:
        """Value being minimized at the current iterate, shape (...)."""

    @property
    def residual(self) -> Array:
        """Distance of the current iterate to optimality, shape (...)."""


S = TypeVar("S", bound=State)
S_co = TypeVar("S_co", bound=State, covariant=True)


class Startable(Protocol[X]):
    """What the driver needs of a problem; a solver asks for more, by the type of its ``problem``."""

    def start(self, Z: X, /) -> X:
        """Feasible point of the problem nearest to `Z`, of the type of `Z`, after every check."""


P = TypeVar("P", bound=Startable[Any])
P_contra = TypeVar("P_contra", bound=Startable[Any], contravariant=True)


class Solver(Protocol[P_contra, X, S]):
    """An algorithm for problems P with points X: hyper-parameters, a first state S and one step.

    Both are pure: what comes out depends on nothing but what went in. A network of the solver folds ``step``, or
    ``layer(problem, Z, memory)`` where a solver has one: the same step without the numbers that only a driver reads.
    """

    def init(self, problem: P_contra, Z: X) -> S:
        """State at the first iterate `Z`."""

    def step(self, problem: P_contra, Z: X, state: S) -> tuple[X, S]:
        """Next iterate and its state."""


class Observation(NamedTuple, Generic[X_co, S_co]):
    """What a callback sees after each step; callbacks observe and never change the run.

    Args:
        step: number of steps taken, 0 for the first iterate.
        Z: current iterate.
        state: the solver's state at `Z`.
        objective: objective per batch item on the host, shape (...).
        residual: distance to optimality per batch item on the host, shape (...).
        active: True for the batch items that are still being solved, shape (...).
    """

    step: int
    Z: X_co
    state: S_co
    objective: Numbers
    residual: Numbers
    active: Numbers


Callback = Callable[[Observation[X, S]], object]
"""Called with every observation; one that returns True stops the run. A callback that has a method ``finish`` is
called there once more with the last observation, however the run ended."""


def unroll(steps: Iterable[Callable[[X], X]], Z: X) -> X:
    """Fold `Z` through `steps`: a network is an unrolled solver.

    Args:
        steps: callables, each taking tokens to tokens.
        Z: tokens (..., n, d).

    Returns:
        The tokens after the last step.

    Example:
        >>> unroll([lambda z: z + 1, lambda z: 2 * z], 3)
        8
    """
    for step in steps:
        Z = step(Z)
    return Z


def minimize(
    problem: P,
    Z0: X | Solution[X],
    solver: Solver[P, X, S],
    *,
    tol: float = 1e-6,
    max_steps: int = 1000,
    callbacks: Sequence[Callback[X, S]] = (),
    throw: bool = False,
) -> Solution[X]:
    r"""Minimize `problem` from `Z0` with `solver`, and say per batch item why it stopped.

    .. math:: \min_Z f(Z) + g(Z)

    An item whose objective stops being finite keeps its last finite iterate and the status `Status.DIVERGED`;
    items that are done are frozen, so one failure never loses the batch. A solver never raises for not
    converging unless `throw` is set.

    Args:
        problem: what is solved; its ``start(Z)`` maps `Z0` to a feasible first iterate.
        Z0: first iterate (..., n, d), or a `Solution` to start from warm. Never modified.
        solver: the algorithm, for example `ProximalGradient()`.
        tol: distance to optimality at which an item counts as converged.
        max_steps: largest number of steps.
        callbacks: called with an `Observation` at the first iterate and after each step; one that returns
            True stops the run.
        throw: raise `NotConvergedError` when an item did not converge.

    Returns:
        The `Solution`.

    Raises:
        ValueError: if `tol` is negative or not finite, or `max_steps` is negative.
        TypeError: if `max_steps` is not an integer.
        NotConvergedError: if `throw` is set and an item did not converge.
    """
    check_nonnegative(tol, "tol")
    check_count(max_steps, "max_steps", least=0)
    Z = problem.start(Z0.Z if isinstance(Z0, Solution) else Z0)
    state = solver.init(problem, Z)
    ledger = _Ledger(state, tol)
    stop = ledger.observe(callbacks, Z, state)
    while ledger.active.any() and not stop and ledger.step < max_steps:
        Z_new, state_new = solver.step(problem, Z, state)
        keep = ledger.accept(state_new)
        Z, state = _select(keep, Z_new, Z), _select(keep, state_new, state)
        ledger.record(state)
        stop = ledger.observe(callbacks, Z, state)
    solution = ledger.close(callbacks, Z, state, Status.STOPPED if stop else Status.MAX_STEPS)
    if throw and not solution.converged:
        raise NotConvergedError(solution)
    return solution


class _Ledger:
    """Host-side record of a run: which items are active, why the others ended, and the history."""

    def __init__(self, state: State, tol: float) -> None:
        objective, residual = _host(state)
        self.tol, self.step = tol, 0
        self.status = np.full(objective.shape, Status.RUNNING, dtype=object)
        self.active = np.ones(objective.shape, dtype=bool)
        self.steps = np.zeros(objective.shape, dtype=int)
        self.best_objective, self.best_residual = objective.copy(), residual.copy()
        self.gained_at = np.zeros(objective.shape, dtype=int)
        self.moved_at = np.zeros(objective.shape, dtype=int)
        self.objectives, self.residuals = [objective], [residual]
        self._end(~np.isfinite(objective) | ~np.isfinite(residual), Status.DIVERGED)
        self._end(residual <= tol, Status.CONVERGED)

    def accept(self, state: State) -> Numbers:
        """Items that take the new iterate: active ones whose numbers are finite; the others diverged."""
        objective, residual = _host(state)
        finite = np.isfinite(objective) & np.isfinite(residual)
        self._end(~finite, Status.DIVERGED)
        self.step += 1
        self.steps[self.active] = self.step
        return self.active.copy()

    def record(self, state: State) -> None:
        """Append the numbers of this step and end the items that converged or stalled."""
        objective, residual = _host(state)
        self.objectives.append(objective)
        self.residuals.append(residual)
        gained = objective < self.best_objective - OBJECTIVE_GAIN * np.abs(self.best_objective)
        gained |= residual < (1 - RESIDUAL_GAIN) * self.best_residual
        self.gained_at[gained] = self.step
        moved = np.abs(objective - self.objectives[-2]) > FLAT * np.abs(objective)
        self.moved_at[gained | moved] = self.step
        self.best_objective = np.minimum(self.best_objective, objective)
        self.best_residual = np.where(gained, np.minimum(self.best_residual, residual), self.best_residual)
        self._end(residual <= self.tol, Status.CONVERGED)
        waited = self.step - self.gained_at >= PATIENCE
        risen = objective > self.best_objective + RISE * (1 + np.abs(self.best_objective))
        self._end(waited & risen, Status.DIVERGED)
        self._end(self.step - self.moved_at >= PATIENCE, Status.STALLED)

    def observe(self, callbacks: Sequence[Callback[X, S]], Z: X, state: S) -> bool:
        """Show every callback the current step; True when one of them asks to stop."""
        seen = self._seen(Z, state)
        answers = [callback(seen) for callback in callbacks]
        return any(_asks_to_stop(answer) for answer in answers)

    def close(self, callbacks: Sequence[Callback[X, S]], Z: X, state: S, reason: Status) -> Solution[X]:
        """Give the items that still run their `reason`, let callbacks finish, and put the solution together."""
        self._end(self.active.copy(), reason)
        for callback in callbacks:
            if hasattr(callback, "finish"):
                callback.finish(self._seen(Z, state))
        history = History(np.stack(self.objectives), np.stack(self.residuals))
        numbers = (self.status[()], self.steps[()], self.objectives[-1][()], self.residuals[-1][()])
        return Solution(Z, *numbers, history)

    def _seen(self, Z: X, state: S) -> Observation[X, S]:
        return Observation(self.step, Z, state, self.objectives[-1], self.residuals[-1], self.active.copy())

    def _end(self, where: Numbers, status: Status) -> None:
        where = where & self.active
        self.status[where] = status
        self.active = self.active & ~where


def _asks_to_stop(answer: object) -> bool:
    """Whether a callback returned True, of Python or of an array library; other values are not an answer."""
    return bool(answer) if isinstance(answer, bool | np.bool_) or getattr(answer, "ndim", None) == 0 else False


def _host(state: State) -> tuple[Numbers, Numbers]:
    objective = np.array(to_numpy(state.objective), dtype=np.float64)
    return objective, np.array(to_numpy(state.residual), dtype=np.float64)


def _select(keep: Numbers, new: Any, old: Any) -> Any:
    """Items of `new` where `keep`, of `old` elsewhere, through nested tuples; plain numbers are taken new."""
    if keep.all():
        return new
    if isinstance(new, tuple):
        parts = [_select(keep, a, b) for a, b in zip(new, old, strict=True)]
        return type(new)(*parts) if hasattr(new, "_fields") else tuple(parts)
    if new is None or isinstance(new, bool | int | float):
        return new
    mask: Array = keep.reshape(keep.shape + (1,) * (new.ndim - keep.ndim))
    xp = namespace(new)
    return xp.where(asarray_like(mask, new, dtype=xp.bool), new, old)


class Progress(Generic[X, S]):
    """Hand every so many steps to a function, for a progress display or a log; without a function, print them.

    Args:
        show: called with the `Observation`; None for a line with step, objective, residual and items still running.
        every: steps between two calls; the first iterate and the last one are always shown.

    Raises:
        ValueError: `every` is below 1.

    Example:
        >>> import numpy as np, srr
        >>> lines = []
        >>> progress = srr.solvers.Progress(lambda seen: lines.append(seen.step), every=10)
        >>> problem = srr.SparseCoding(np.ones((1, 2)), np.eye(2), srr.L1(0.1))
        >>> _ = srr.minimize(problem, np.zeros((1, 2)), srr.Accelerated(), callbacks=[progress])
        >>> lines
        [0, 1]
    """

    def __init__(self, show: Callable[[Observation[X, S]], object] | None = None, *, every: int = 1) -> None:
        check_count(every, "every")
        self.show, self.every = _print_step if show is None else show, every

    def __call__(self, seen: Observation[X, S]) -> None:
        """Show the step when it is its turn."""
        if seen.step % self.every == 0:
            self.show(seen)

    def finish(self, seen: Observation[X, S]) -> None:
        """Show the last step, unless it just was."""
        if seen.step % self.every:
            self.show(seen)


def _print_step(seen: Observation[Any, Any]) -> None:
    """One line on standard output."""
    running = f"  {int(np.sum(seen.active))} of {seen.active.size} running" if seen.active.size > 1 else ""
    numbers = f"objective {_range(seen.objective, '.8g')}  residual {_range(seen.residual, '.2e')}"
    sys.stdout.write(f"step {seen.step}  {numbers}{running}\n")


class EarlyStop:
    """Ask for a stop when the objective has not fallen enough for a while on any item that still runs.

    Args:
        patience: steps to wait for a gain.
        gain: how much lower, in nats, the objective must become to count.

    Raises:
        ValueError: `patience` is below 1 or `gain` negative.
    """

    def __init__(self, *, patience: int, gain: float = 0.0) -> None:
        check_count(patience, "patience")
        check_nonnegative(gain, "gain")
        self.patience, self.gain = patience, gain
        self._best: Numbers | None = None
        self._since = 0

    def __call__(self, seen: Observation[object, State]) -> bool:
        """True when the wait is over."""
        if self._best is None or seen.step == 0:
            self._best, self._since = seen.objective.copy(), seen.step
            return False
        if ((seen.objective < self._best - self.gain) & seen.active).any():
            self._since = seen.step
        self._best = np.minimum(self._best, seen.objective)
        return seen.step - self._since >= self.patience


class Checkpoint:
    """Save the current iterate every so many steps: written to a temporary name, synced, renamed.

    The file holds ``Z``, ``step``, ``objective`` and ``residual`` and loads with ``numpy.load``; handing its
    ``Z`` to `minimize` goes on from there.

    Args:
        path: file to write, ending in ``.npz``.
        every: steps between two saves; the last step is always saved.

    Raises:
        ValueError: `path` does not end in ``.npz``, or `every` is below 1.
    """

    def __init__(self, path: str | Path, *, every: int = 100) -> None:
        check_count(every, "every")
        self.path, self.every = _npz(path), every

    def __call__(self, seen: Observation[Array, State]) -> None:
        """Write the iterate when it is its turn."""
        if seen.step % self.every == 0:
            self._save(seen)

    def finish(self, seen: Observation[Array, State]) -> None:
        """Write the last iterate, unless it just was."""
        if seen.step % self.every:
            self._save(seen)

    def _save(self, seen: Observation[Array, State]) -> None:
        Z, objective, residual = to_numpy(seen.Z), seen.objective, seen.residual
        write_atomically(
            self.path, lambda file: np.savez(file, Z=Z, step=seen.step, objective=objective, residual=residual)
        )
