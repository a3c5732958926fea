"""The driver: why it stops, batches, warm starts, callbacks, and a loop of one's own."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import srr
from srr.solvers import Status


class DescentState(NamedTuple):
    objective: Any
    residual: Any


class Bowl:
    """Half the squared norm of 2×2 tokens, solved by gradient steps of the length each item is given."""

    def start(self, Z):
        return Z


class Descent:
    def __init__(self, *lengths):
        self.lengths = np.asarray(lengths)[:, None, None]

    def init(self, problem, Z):
        size = np.sum(Z**2, axis=(-2, -1))
        return DescentState(size / 2, np.sqrt(size))

    def step(self, problem, Z, state):
        Z = Z - self.lengths * Z
        return Z, self.init(problem, Z)


def start(items):
    return np.ones((items, 2, 2))


def test_every_item_gets_its_own_status():
    """Lengths 0.5 and 1 converge, 3 blows up, 0 never moves, 0.01 is too slow for the limit."""
    solution = srr.minimize(Bowl(), start(5), Descent(0.5, 1.0, 3.0, 0.0, 0.01), tol=1e-6, max_steps=150)
    assert [status.name for status in solution.status] == [
        "CONVERGED",
        "CONVERGED",
        "DIVERGED",
        "STALLED",
        "MAX_STEPS",
    ]
    assert list(solution.steps) == [21, 1, 100, 100, 150]
    np.testing.assert_allclose(solution.objective[3], 2.0)
    np.testing.assert_allclose(solution.Z[4], 0.99**150, rtol=1e-12)
    assert not solution.converged
    assert all(status.value.endswith(".") for status in Status)


def test_an_item_that_overflows_keeps_its_last_finite_iterate():
    with np.errstate(over="ignore"):
        solution = srr.minimize(Bowl(), start(2), Descent(0.5, -1e60), tol=1e-6, max_steps=50)
    assert [status.name for status in solution.status] == ["CONVERGED", "DIVERGED"]
    assert np.all(np.isfinite(solution.Z))
    assert np.all(np.isfinite(solution.history.objective))


def test_items_that_are_done_are_frozen():
    solution = srr.minimize(Bowl(), start(2), Descent(0.5, 0.1), tol=1e-6, max_steps=1000)
    alone = srr.minimize(Bowl(), start(1), Descent(0.5), tol=1e-6, max_steps=1000)
    np.testing.assert_array_equal(solution.Z[0], alone.Z[0])
    assert solution.steps[0] == alone.steps[0] < solution.steps[1]
    assert len(solution.history.objective) == solution.steps.max() + 1
    assert np.all(solution.history.objective[alone.steps[0] :, 0] == alone.objective[0])


def test_a_start_at_the_optimum_takes_no_step():
    solution = srr.minimize(Bowl(), np.zeros((1, 2, 2)), Descent(0.5))
    assert solution.converged
    assert solution.steps[0] == 0
    assert solution.history.objective.shape == (1, 1)


def test_throw():
    with pytest.raises(srr.solvers.NotConvergedError, match="1 of 2 items did not converge: The step limit") as caught:
        srr.minimize(Bowl(), start(2), Descent(1.0, 0.1), max_steps=5, throw=True)
    assert caught.value.solution.status[0] is Status.CONVERGED


@pytest.mark.parametrize(("options", "error"), [({"tol": -1.0}, ValueError), ({"max_steps": -1}, ValueError)])
def test_limits_are_checked(options, error):
    with pytest.raises(error, match=next(iter(options))):
        srr.minimize(Bowl(), start(1), Descent(0.5), **options)


def problem_and_start(seed=0, n=40):
    mix = srr.subspace_mixture(n=n, d=8, K=2, p=3, noise=0.2, seed=seed)
    return srr.SparseRateReduction(mix.U, 0.5, srr.UnitL1(0.002)), mix.Z


def test_an_unbatched_problem_has_plain_numbers():
    solution = srr.minimize(*problem_and_start(), srr.ProximalGradient())
    assert solution.status is Status.CONVERGED
    assert solution.steps == len(solution.history.objective) - 1
    assert float(solution.objective) == solution.history.objective[-1]


def test_the_first_iterate_is_feasible_and_the_input_untouched():
    problem, Z = problem_and_start()
    copy = Z.copy()
    solution = srr.minimize(problem, Z, srr.ProximalGradient(), max_steps=0)
    np.testing.assert_allclose(np.linalg.norm(solution.Z, axis=-1), 1.0)
    assert np.isfinite(solution.objective)
    np.testing.assert_array_equal(Z, copy)


def test_warm_start_goes_on_where_a_solution_ended():
    problem, Z = problem_and_start()
    solver = srr.ProximalGradient(srr.FixedStep())
    whole = srr.minimize(problem, Z, solver, tol=0.0, max_steps=30)
    half = srr.minimize(problem, Z, solver, tol=0.0, max_steps=18)
    rest = srr.minimize(problem, half, solver, tol=0.0, max_steps=12)
    np.testing.assert_allclose(rest.Z, whole.Z, atol=1e-13)


def test_a_user_can_own_the_loop():
    problem, Z0 = problem_and_start()
    solver = srr.ProximalGradient()
    Z = problem.start(Z0)
    state = solver.init(problem, Z)
    for _ in range(7):
        Z, state = solver.step(problem, Z, state)
    driven = srr.minimize(problem, Z0, solver, tol=0.0, max_steps=7)
    np.testing.assert_array_equal(Z, driven.Z)
    assert float(state.objective) == driven.objective


def test_a_batch_is_its_items():
    problem, _ = problem_and_start()
    Z = np.stack([problem_and_start(seed)[1] for seed in range(3)])
    for options in ({"tol": 0.0, "max_steps": 20}, {"tol": 1e-6}):
        batch = srr.minimize(problem, Z, srr.ProximalGradient(), **options)
        assert batch.status.shape == (3,)
        for i in range(3):
            alone = srr.minimize(problem, Z[i], srr.ProximalGradient(), **options)
            assert alone.status == batch.status[i]
            # sums in another order, and the path magnifies them: the last step of a long run may be one earlier
            assert abs(int(alone.steps) - int(batch.steps[i])) <= (0 if "max_steps" in options else 2)
            np.testing.assert_allclose(alone.Z, batch.Z[i], atol=1e-12 if "max_steps" in options else 1e-6)


def test_one_failure_never_loses_the_batch():
    """A fixed step far too long for one lasso of two: that one diverges, the other is solved."""
    Z = np.random.default_rng(0).standard_normal((2, 4, 3))
    D = np.diag([1.0, 1.0, 1.0])
    scale = np.asarray([1.0, 40.0])[:, None, None]

    class Stretched(srr.SparseCoding):
        def value_and_grad(self, A):
            error = scale * A - self.Z
            return 0.5 * np.sum(error**2, axis=(-2, -1)), scale * error

    problem = Stretched(Z, D, srr.L1(0.1))
    solution = srr.minimize(problem, np.zeros_like(Z), srr.ProximalGradient(srr.FixedStep(0.5)), max_steps=400)
    assert [status.name for status in solution.status] == ["CONVERGED", "DIVERGED"]
    np.testing.assert_allclose(solution.Z[0], srr.ops.soft_threshold(Z[0], threshold=0.1), atol=1e-6)
    assert np.all(np.isfinite(solution.Z))


def test_unroll_is_a_fold():
    problem, Z0 = problem_and_start()
    Z, t = problem.start(Z0), 1 / problem.smoothness(Z0)
    layers = [lambda Z: problem.regularizer.prox(Z - t * problem.grad(Z), step=t)] * 6
    fixed = srr.minimize(problem, Z0, srr.ProximalGradient(srr.FixedStep()), tol=0.0, max_steps=6)
    np.testing.assert_allclose(srr.solvers.unroll(layers, Z), fixed.Z, atol=1e-14)


def test_report_shows_every_so_many_steps():
    seen = []
    report = srr.solvers.Progress(lambda step: seen.append((step.step, float(step.objective))), every=5)
    solution = srr.minimize(*problem_and_start(), srr.ProximalGradient(), tol=0.0, max_steps=12, callbacks=[report])
    assert [step for step, _ in seen] == [0, 5, 10, 12]
    assert [value for _, value in seen] == list(solution.history.objective[[0, 5, 10, 12]])


@pytest.mark.parametrize("end", ["limit", "converged", "stopped"])
def test_the_last_step_is_shown_and_saved_once(tmp_path, end):
    """Whatever ends a run between two turns: the step limit, convergence, or another callback."""
    seen, path = [], tmp_path / "run.npz"
    callbacks = [
        srr.solvers.Progress(lambda step: seen.append(step.step), every=4),
        srr.solvers.Checkpoint(path, every=4),
    ]
    options = {"limit": {"max_steps": 6, "tol": 0.0}, "converged": {"tol": 2.01 * 0.5**6}, "stopped": {"tol": 0.0}}[end]
    if end == "stopped":
        callbacks.append(lambda step: step.step == 6)
    solution = srr.minimize(Bowl(), start(1), Descent(0.5), callbacks=callbacks, **options)
    last = int(solution.steps[0])
    assert last % 4
    assert seen == [*range(0, last, 4), last]
    with np.load(path) as saved:
        assert int(saved["step"]) == last
        np.testing.assert_array_equal(saved["Z"], solution.Z)


@pytest.mark.parametrize("answer", [True, np.True_, np.asarray(True), torch.tensor(True)], ids=repr)
def test_a_true_of_any_library_stops(answer):
    solution = srr.minimize(Bowl(), start(1), Descent(0.5), tol=0.0, callbacks=[lambda seen: answer])
    assert solution.status[0] is Status.STOPPED
    assert solution.steps[0] == 0


@pytest.mark.parametrize("answer", [None, False, np.False_, 1, "stop", [True], np.asarray([True])], ids=repr)
def test_other_answers_do_not(answer):
    solution = srr.minimize(Bowl(), start(1), Descent(0.5), tol=0.0, max_steps=3, callbacks=[lambda seen: answer])
    assert solution.status[0] is Status.MAX_STEPS


def test_early_stop():
    problem, Z = problem_and_start()
    stop = srr.solvers.EarlyStop(patience=3, gain=1e-2)
    solution = srr.minimize(problem, Z, srr.ProximalGradient(), tol=0.0, callbacks=[stop])
    assert solution.status is Status.STOPPED
    fallen = solution.history.objective
    assert fallen[-4] - fallen[-1] <= 3e-2
    assert fallen[-5] - fallen[-4] > 1e-2


def test_early_stop_waits_for_the_slowest_item():
    solution = srr.minimize(
        Bowl(), start(2), Descent(0.5, 0.02), tol=1e-3, callbacks=[srr.solvers.EarlyStop(patience=4)], max_steps=60
    )
    assert [status.name for status in solution.status] == ["CONVERGED", "MAX_STEPS"]


def test_checkpoint_is_whole_and_goes_on(tmp_path):
    problem, Z = problem_and_start()
    solver = srr.ProximalGradient(srr.FixedStep())
    path = tmp_path / "run.npz"
    srr.minimize(problem, Z, solver, tol=0.0, max_steps=20, callbacks=[srr.solvers.Checkpoint(path, every=10)])
    with np.load(path) as saved:
        assert int(saved["step"]) == 20
        rest = srr.minimize(problem, saved["Z"], solver, tol=0.0, max_steps=5)
    whole = srr.minimize(problem, Z, solver, tol=0.0, max_steps=25)
    np.testing.assert_allclose(rest.Z, whole.Z, atol=1e-13)
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]


def test_a_checkpoint_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    path.write_bytes(b"earlier")

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space left"):
        srr.minimize(*problem_and_start(), srr.ProximalGradient(), callbacks=[srr.solvers.Checkpoint(path)])
    assert path.read_bytes() == b"earlier"
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: srr.solvers.Checkpoint("run.txt"),
        lambda: srr.solvers.Checkpoint("run.npz", every=0),
        lambda: srr.solvers.Progress(print, every=0),
        lambda: srr.solvers.EarlyStop(patience=0),
        lambda: srr.solvers.EarlyStop(patience=1, gain=-1.0),
        lambda: srr.Backtracking(grow=0.5),
        lambda: srr.Backtracking(shrink=1.0),
        lambda: srr.BarzilaiBorwein(memory=0),
        lambda: srr.FixedStep(0.0),
        lambda: srr.Accelerated(srr.FixedStep(-1.0)),
    ],
)
def test_bad_arguments(make):
    with pytest.raises(ValueError, match=r"must (be|end)"):
        make()
