"""The public checks: they pass what is right and say what is wrong."""

import dataclasses

import numpy as np
import pytest

import srr
from srr._array.namespace import to_numpy
from srr.testing import (
    Report,
    assert_close,
    check_descent,
    check_gradient,
    check_identity,
    check_order,
    check_prox,
)
from tests.backends import BACKENDS

RNG = np.random.default_rng(3)
Z = RNG.standard_normal((5, 3))


def rate(X):
    return srr.coding_rate(X, eps=0.5)


def absolute(X):
    return np.sum(np.abs(to_numpy(X)))


def slope(X):
    return srr.coding_rate_grad(X, eps=0.5)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_checks_run_on_every_backend(backend):
    X, coarse = backend.asarray(Z), backend.eps > 1e-10
    assert check_gradient(rate, slope, X, rtol=1e-2 if coarse else 1e-6).passed
    prox = check_prox(lambda V: srr.ops.soft_threshold(V, threshold=0.2), absolute, X, step=0.2, samples=50, tol=1e-6)
    assert prox.passed
    assert check_descent(rate, lambda A: A - 0.1 * slope(A), X, steps=3, tol=1e-6).passed
    assert_close(X, Z, rtol=1e-6)


def test_wrong_factor_is_named():
    report = check_gradient(rate, lambda X: 2 * slope(X), Z, throw=False)
    assert not report.passed
    assert "2 times" in report.message
    assert "constant factor" in report.message
    with pytest.raises(AssertionError, match="check_gradient FAILS"):
        check_gradient(rate, lambda X: 2 * slope(X), Z)


def test_wrong_entry_is_named():
    def one_off(X):
        G = slope(X).copy()
        G[2, 1] += 0.1
        return G

    report = check_gradient(rate, one_off, Z, throw=False)
    assert "(2, 1)" in report.message
    assert "1 of 15 entries" in report.message


def test_wrong_sign_nan_and_shape_of_gradients():
    assert "-1 times" in check_gradient(rate, lambda X: -slope(X), Z, throw=False).message
    assert not check_gradient(rate, lambda X: np.nan * X, Z, throw=False).passed
    with pytest.raises(ValueError, match="grad must return the shape"):
        check_gradient(rate, lambda X: slope(X).T, Z)


def test_gradient_of_a_large_array_is_sampled():
    X = RNG.standard_normal((60, 20))
    report = check_gradient(lambda A: 0.5 * np.sum(A**2), lambda A: A, X, entries=30)
    assert report.passed


def test_prox_of_a_non_convex_penalty():
    V = RNG.standard_normal((4, 3))

    def on_sphere(X):
        return np.inf if np.any(np.abs(np.linalg.norm(X, axis=-1) - 1) > 1e-9) else np.abs(X).sum()

    assert check_prox(lambda A: srr.ops.unit_soft_threshold(A, threshold=0.4), on_sphere, V, step=0.4).passed
    wrong = check_prox(lambda A: A / np.linalg.norm(A, axis=-1, keepdims=True), on_sphere, V, step=0.4, throw=False)
    assert not wrong.passed
    assert "better point" in wrong.message
    assert not check_prox(lambda A: 0 * A, on_sphere, V, step=0.4, throw=False).passed


@pytest.mark.parametrize("threshold", [0.1, 0.29, 0.31, 1.0])
def test_prox_with_another_threshold_is_found_out(threshold):
    V = RNG.standard_normal((4, 3))
    report = check_prox(
        lambda A: srr.ops.soft_threshold(A, threshold=threshold), lambda A: np.abs(A).sum(), V, step=0.3, throw=False
    )
    assert not report.passed


def test_descent_counts_the_promise():
    step = 1 / srr.ops.coding_rate_smoothness(Z, eps=0.5)
    half = check_descent(
        rate, lambda X: X - step * slope(X), Z, steps=5, decrease=lambda X: step / 2 * np.sum(slope(X) ** 2)
    )
    assert half.passed
    greedy = check_descent(
        rate, lambda X: X - step * slope(X), 1e-3 * Z, decrease=lambda X: step * np.sum(slope(X) ** 2), throw=False
    )
    assert not greedy.passed
    assert "step 1" in greedy.message
    assert not check_descent(np.sum, lambda X: X * np.nan, Z, throw=False).passed


def test_order():
    assert check_order(lambda h: abs(np.exp(h) - 1 - h), np.geomspace(1e-3, 1e-2, 6), order=2).passed
    wrong = check_order(lambda h: h**2, np.geomspace(1e-3, 1e-2, 6), order=3, throw=False)
    assert wrong.measured == pytest.approx(2.0)
    assert "claimed 3" in wrong.message
    with pytest.raises(ValueError, match="four or more positive"):
        check_order(lambda h: h, [1.0, 2.0], order=1)


def test_identity():
    def draw(rng):
        return rng.standard_normal((4, 3))

    assert check_identity(np.trace, lambda A: np.sum(np.diag(A)), draw).passed
    wrong = check_identity(lambda A: A.T @ A, lambda A: 2 * A.T @ A, draw, throw=False)
    assert "ratio 0.5" in wrong.message
    assert "shapes" in check_identity(lambda A: A, lambda A: A.T, draw, throw=False).message
    assert not check_identity(lambda A: np.nan, lambda A: 1.0, draw, throw=False).passed


def test_assert_close_names_the_worst_entry():
    with pytest.raises(AssertionError, match=r"entry \(1,\) is 2.5, wanted 2: off by 0.5"):
        assert_close(np.asarray([1.0, 2.5]), np.asarray([1.0, 2.0]))
    with pytest.raises(AssertionError, match="shapes differ"):
        assert_close(np.ones(2), np.ones(3))
    with pytest.raises(AssertionError):
        assert_close(np.asarray([np.nan]), np.asarray([1.0]))


def test_report_reads_as_a_sentence():
    assert str(Report("check_order", True, 2.0, (1.9, 2.1), "slope 2")) == "check_order holds: slope 2"


def test_layer_norm_is_torchs():
    torch = pytest.importorskip("torch")
    X = torch.as_tensor(3 * Z + 1)
    want = torch.nn.functional.layer_norm(X, (3,))
    assert_close(srr.ops.layer_norm(X), want, rtol=1e-14)
    assert_close(srr.ops.layer_norm(np.ones((2, 3))), np.zeros((2, 3)))


# --- A gradient that is zero everywhere, or at the point: quotients are rounding, and errors are still seen


def constant_problem(size, turned):
    """One subspace that is the whole space: R^c(Z; U) = R(Z) for every Z."""
    rng = np.random.default_rng(size)
    U = np.linalg.qr(rng.standard_normal((size, size)))[0] if turned else np.eye(size)
    return srr.SparseRateReduction(U[None], 0.5, srr.UnitL1(0.01)), rng.standard_normal((size + 2, size))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("size", [2, 5])
def test_a_gradient_that_is_zero_everywhere_holds_and_errors_beside_it_are_seen(size, turned):
    problem, Z = constant_problem(size, turned)
    assert srr.testing.check_problem(problem, Z, pairs=3).passed
    for factor, passes in ((1e-3, False), (-1e-6, False)):
        report = check_gradient(
            problem.value, lambda Z, by=factor: problem.grad(Z) + by * srr.coding_rate_grad(Z, eps=0.5), Z, throw=False
        )
        assert report.passed == passes, report
    one = np.zeros_like(Z)
    one[1, 1] = 1e-6
    assert "(1, 1)" in check_gradient(problem.value, lambda Z: problem.grad(Z) + one, Z, throw=False).message
    steady = srr.testing.check_hessian(problem.grad, lambda Z, V: 0 * V, Z)
    assert steady.passed
    assert not srr.testing.check_hessian(problem.grad, lambda Z, V: 1e-6 * V, Z, throw=False).passed


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_zero_gradients_of_functions_that_cancel_and_of_flat_points(scale):
    Z = RNG.standard_normal((4, 3))

    def cancels(Z):
        return scale * (np.sum(Z**2) - np.trace(Z @ Z.T))

    assert check_gradient(cancels, lambda Z: scale * (2 * Z - 2 * Z), Z).passed
    assert not check_gradient(cancels, lambda Z: scale * 2e-3 * Z, Z, throw=False).passed
    flat = check_gradient(lambda Z: scale * np.sum(Z**5), lambda Z: 5 * scale * Z**4, np.zeros((3, 2)))
    assert "the quotients are rounding" in flat.message
    assert not check_gradient(lambda Z: scale * np.sum(Z**5), lambda Z: Z + 1e-3 * scale, 0 * Z, throw=False).passed


def test_kinks_are_named_and_excuse_nothing_else():
    Z = np.abs(RNG.standard_normal((5, 4))) + 1
    Z[0, 0], Z[1], Z[2] = 1e-4, 2e-4, 3e-4  # within reach of the differences, in nine entries of twenty
    for factor in (1, 1 + 1e-3):
        report = check_gradient(lambda Z: np.sum(np.abs(Z)), lambda Z, by=factor: by * np.sign(Z), Z, throw=False)
        assert not report.passed
        assert "9 of 20 entries have another quotient at twice the step" in report.message
    with pytest.raises(ValueError, match="f must be a function of Z"):
        check_gradient(lambda Z: RNG.standard_normal(), lambda Z: Z, Z)


# --- Power, precision, and checks of inequalities, Hessians, penalties, problems and solvers


@pytest.mark.parametrize("shape", [(10, 6), (200, 64)])
@pytest.mark.parametrize("penalty", [srr.UnitL1(1.0), srr.L1(1.0)], ids=["sphere", "plain"])
def test_prox_with_a_threshold_off_by_a_hundredth_is_found_out(shape, penalty):
    V = np.random.default_rng(0).standard_normal(shape)
    verdicts = [
        srr.testing.check_prox(
            lambda A, t=0.3 * factor: penalty.prox(A, step=t), penalty.value, V, step=0.3, samples=100, throw=False
        ).passed
        for factor in (1.0, 1.01, 0.99)
    ]
    assert verdicts == [True, False, False]


def single(f):
    """A function computed in float32, as JAX does unless told otherwise."""
    return lambda Z: np.asarray(f(np.asarray(Z, dtype=np.float32)), dtype=np.float32)


def test_gradient_in_single_precision_holds_and_says_what_it_could_see():
    Z = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    report = check_gradient(single(lambda Z: np.sum(Z**4)), single(lambda Z: 4 * Z**3), Z)
    assert report.passed
    assert "differences in float32" in report.message
    wrong = check_gradient(single(lambda Z: np.sum(Z**4)), single(lambda Z: 4.4 * Z**3), Z, throw=False)
    assert not wrong.passed


def test_gradient_of_a_batch_of_values():
    Z = np.random.default_rng(0).standard_normal((2, 3, 4))
    assert check_gradient(lambda Z: np.sum(Z**2, axis=(-2, -1)), lambda Z: 2 * Z, Z).passed


def test_errors_by_row_and_column_are_named():
    Z = np.random.default_rng(0).standard_normal((4, 6))
    by_row = np.array([[1.0], [2.0], [3.0], [4.0]])
    one_column = np.where(np.arange(6) == 2, 1.5, 1.0)
    for factor, sentence in ((by_row, "every row has a factor of its own"), (one_column, "are in column 2")):
        report = check_gradient(lambda Z: np.sum(Z**2), lambda Z, factor=factor: 2 * Z * factor, Z, throw=False)
        assert not report.passed
        assert sentence in report.message


def test_inequality():
    def draw(rng):
        return rng.exponential(size=3)

    assert srr.testing.check_inequality(np.log1p, lambda x: x, draw).passed
    broken = srr.testing.check_inequality(lambda x: x, np.log1p, draw, throw=False)
    assert not broken.passed
    assert "problem" in broken.message


def test_hessian():
    Z = np.random.default_rng(0).standard_normal((4, 3))
    assert srr.testing.check_hessian(np.sin, lambda Z, V: np.cos(Z) * V, Z).passed
    assert not srr.testing.check_hessian(np.sin, lambda Z, V: np.cos(Z) * V * 1.001, Z, throw=False).passed
    assert not srr.testing.check_hessian(np.sin, lambda Z, V: np.roll(V, 1) * np.cos(Z), Z, throw=False).passed


class HalfThreshold(srr.L1):
    def prox(self, V, *, step):
        return super().prox(V, step=step / 2)


class WrongDistance(srr.L1):
    def distance(self, Z, grad):
        return super().distance(Z, 2 * grad)


class TooSmooth(srr.SparseRateReduction):
    def smoothness(self, Z):
        return super().smoothness(Z) / 20


@dataclasses.dataclass(frozen=True)
class Lying(srr.ProximalGradient):
    def init(self, problem, Z):
        return super().init(problem, Z)._replace(residual=np.asarray(0.0))


def test_penalties_problems_and_solvers():
    Z = np.random.default_rng(0).standard_normal((8, 4))
    U = np.stack([np.eye(4)[:, :2], np.eye(4)[:, 2:]])
    assert srr.testing.check_penalty(srr.UnitL1(0.3), Z).passed
    assert not srr.testing.check_penalty(HalfThreshold(0.3), Z, throw=False).passed
    assert not srr.testing.check_penalty(WrongDistance(0.3), Z, throw=False).passed
    problem = srr.SparseRateReduction(U, 0.5, srr.UnitL1(0.01))
    assert srr.testing.check_problem(problem, Z).passed
    assert "curvature" in srr.testing.check_problem(TooSmooth(U, 0.5), Z, throw=False).message
    assert not srr.testing.check_problem(TooSmooth(U, 0.5), Z, throw=False).passed
    assert srr.testing.check_solver(srr.ProximalGradient(), problem, Z).passed
    lied = srr.testing.check_solver(Lying(), problem, Z, throw=False)
    assert "not the problem's" in lied.message
