"""Penalties against brute force, bounded least squares and the defining inequality of a prox."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import lsq_linear
from scipy.spatial.transform import Rotation

import srr
from tests.backends import BACKENDS, Backend, to_numpy

RNG = np.random.default_rng(0)
ORTHOGONAL = np.linalg.qr(RNG.standard_normal((4, 4)))[0]
CONVEX = [
    srr.L1(0.3),
    srr.penalties.ElasticNet(0.3, 0.7),
    srr.NonnegativeL1(0.3),
    srr.Ridge(0.7),
    srr.penalties.RotatedPenalty(srr.L1(0.3), ORTHOGONAL),
]
LABELS = np.asarray([0, 1, 1, 3, 0])
ALL = [*CONVEX, srr.UnitL1(0.2), srr.UnitL1(), srr.ClassSpheres(LABELS)]


def name(penalty):
    return repr(penalty)[:24]


@pytest.mark.parametrize("penalty", CONVEX, ids=name)
@given(seed=st.integers(0, 2**31), step=st.floats(1e-3, 10.0))
def test_prox_satisfies_its_global_inequality(penalty, seed, step):
    """x = prox(v) exactly when g(y) ≥ g(x) + ⟨(v - x)/t, y - x⟩ for every y."""
    rng = np.random.default_rng(seed)
    V = rng.standard_normal((5, 4)) * 2
    X = penalty.prox(V, step=step)
    others = rng.standard_normal((50, 5, 4)) * rng.exponential(2.0, (50, 1, 1))
    others = np.concatenate([others, np.abs(others), X + 1e-3 * others, np.abs(X + 1e-3 * others)])
    bound = penalty.value(X) + np.sum((V - X) / step * (others - X), axis=(-2, -1))
    assert np.all(penalty.value(others) >= bound - 1e-10)


@pytest.mark.parametrize("lam", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("d", [2, 3])
def test_sphere_prox_is_the_best_point_of_a_fine_grid(lam, d):
    penalty = srr.UnitL1(lam)
    if d == 2:
        angle = np.linspace(0, 2 * np.pi, 20001)
        grid = np.stack([np.cos(angle), np.sin(angle)], -1)
    else:
        i = np.arange(200000) + 0.5
        z, angle = 1 - 2 * i / i.size, np.pi * (1 + 5**0.5) * i
        grid = np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z], -1)
    for v in RNG.standard_normal((8, d)):
        x = penalty.prox(v[None], step=1.3)[0]
        assert abs(np.linalg.norm(x) - 1) < 1e-14
        cost = 0.5 * np.sum((grid - v) ** 2, -1) + 1.3 * lam * np.sum(np.abs(grid), -1)
        assert 0.5 * np.sum((x - v) ** 2) + 1.3 * lam * np.sum(np.abs(x)) <= cost.min() + 1e-12


def test_class_sphere_prox_is_the_nearest_feasible_point():
    penalty = srr.ClassSpheres(LABELS)
    V = RNG.standard_normal((5, 3))
    X = penalty.prox(V, step=2.0)
    for k in np.unique(LABELS):
        assert np.sum(X[k == LABELS] ** 2) == pytest.approx(np.sum(k == LABELS), rel=1e-14)
    for Y in RNG.standard_normal((500, 5, 3)):
        for k in np.unique(LABELS):
            Y[k == LABELS] *= np.sqrt(np.sum(k == LABELS)) / np.linalg.norm(Y[k == LABELS])
        assert np.linalg.norm(X - V) <= np.linalg.norm(Y - V) + 1e-12


def test_class_sphere_prox_of_zeros_is_feasible():
    X = srr.ClassSpheres(LABELS).prox(np.zeros((5, 3)), step=1.0)
    assert np.sum(X[LABELS == 1] ** 2) == pytest.approx(2.0)


def _nearest_subgradient(Z, grad, lam, lower, normal):
    """min ‖grad + λs - μ·normal‖ over s in ∂‖Z‖₁ (from `lower` up to +1 where Z = 0) and real μ, by SciPy."""
    free = Z.ravel() == 0
    columns = [lam * np.eye(Z.size)[:, i] for i in np.flatnonzero(free)] + [-v.ravel() for v in normal]
    fixed = grad.ravel() + lam * np.sign(Z.ravel())
    if not columns or (lam == 0 and not normal):
        return np.linalg.norm(fixed)
    low = [lower] * free.sum() + [-np.inf] * len(normal)
    high = [1.0] * free.sum() + [np.inf] * len(normal)
    return np.sqrt(2 * lsq_linear(np.stack(columns, 1), -fixed, (low, high), tol=1e-14).cost)


@pytest.mark.parametrize("seed", range(10))
def test_l1_distances_match_bounded_least_squares(seed):
    rng = np.random.default_rng(seed)
    Z = rng.standard_normal((4, 3)) * (rng.random((4, 3)) < 0.5)
    grad = rng.standard_normal((4, 3))
    assert srr.L1(0.6).distance(Z, grad) == pytest.approx(_nearest_subgradient(Z, grad, 0.6, -1.0, []), abs=1e-7)
    A = np.abs(Z)
    wanted = _nearest_subgradient(A, grad, 0.6, -1e6, [])
    assert srr.NonnegativeL1(0.6).distance(A, grad) == pytest.approx(wanted, abs=1e-6)
    rotated = srr.penalties.RotatedPenalty(srr.L1(0.6), Rotation.random(random_state=seed).as_matrix())
    assert rotated.distance(Z @ rotated.D.T, grad @ rotated.D.T) == pytest.approx(
        _nearest_subgradient(Z, grad, 0.6, -1.0, []), abs=1e-7
    )


@pytest.mark.parametrize("seed", range(10))
def test_sphere_distance_matches_bounded_least_squares(seed):
    """On the sphere the normal cone adds any multiple of each token."""
    rng = np.random.default_rng(seed)
    Z = srr.UnitL1(0.5).prox(rng.standard_normal((3, 4)), step=1.0)
    grad = rng.standard_normal((3, 4))
    normal = [np.eye(3)[:, [i]] * Z for i in range(3)]
    wanted = _nearest_subgradient(Z, grad, 0.3, -1.0, normal)
    assert srr.UnitL1(0.3).distance(Z, grad) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("penalty", ALL, ids=name)
def test_distance_vanishes_at_a_prox(penalty):
    """The prox of V minimizes ‖Z - V‖²/(2t) + g: its distance to optimality for that problem is zero."""
    V = RNG.standard_normal((5, 4))
    X = penalty.prox(V, step=0.5)
    assert penalty.distance(X, (X - V) / 0.5) < 1e-13
    assert penalty.distance(X, (X - V) / 0.5 + 0.5 * RNG.standard_normal(X.shape)) > 1e-3


def test_values_and_domains():
    Z = np.asarray([[0.6, -0.8], [0.0, 1.0]])
    assert srr.L1(2.0).value(Z) == pytest.approx(4.8)
    assert srr.UnitL1(2.0).value(Z) == pytest.approx(4.8)
    assert srr.UnitL1(2.0).value(1.01 * Z) == np.inf
    assert srr.NonnegativeL1(2.0).value(np.abs(Z)) == pytest.approx(4.8)
    assert srr.NonnegativeL1(2.0).value(Z) == np.inf
    assert srr.Ridge(3.0).value(Z) == pytest.approx(3.0)
    np.testing.assert_allclose(srr.Ridge(3.0).grad(Z), 3 * Z)
    spheres = srr.ClassSpheres(np.asarray([0, 2]))
    assert spheres.value(Z) == 0.0
    assert spheres.value(1.1 * Z) == np.inf
    batch = np.stack([Z, 2 * Z])
    np.testing.assert_array_equal(srr.UnitL1(0.0).value(batch), [0.0, np.inf])


@pytest.mark.parametrize(
    ("backend", "index"),
    [
        pytest.param(backend, index, id=f"{backend.name}-{index}")
        for backend in BACKENDS
        for index in (range(len(ALL)) if backend.name != "jax" else (1, 3, 4, 6))  # JAX compiles every line
    ],
)
def test_backends_agree_on_batches(backend: Backend, index):
    """Value, prox with one step per item, and distance on (2, 5, 4) tokens equal NumPy's item by item."""
    reference = ALL[index]
    penalty = reference
    if isinstance(reference, srr.penalties.RotatedPenalty):
        penalty = srr.penalties.RotatedPenalty(reference.penalty, backend.asarray(ORTHOGONAL))
    V, G = np.random.default_rng(1).standard_normal((2, 2, 5, 4))
    steps = [0.5, 1.25]
    wanted = np.stack([reference.prox(v, step=t) for v, t in zip(V, steps, strict=True)])
    step = backend.asarray(np.asarray(steps)[:, None, None])
    X = penalty.prox(backend.asarray(V), step=step)
    backend.close(X, wanted)
    assert str(X.dtype).split(".")[-1] == backend.dtype
    np.testing.assert_allclose(to_numpy(penalty.value(X)), reference.value(wanted), rtol=1e-5, atol=1e-7)
    distance = to_numpy(penalty.distance(X, backend.asarray(G)))
    if backend.dtype == "float64":
        np.testing.assert_allclose(distance, reference.distance(wanted, G), rtol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: srr.L1(-0.1), "lam must be a finite number >= 0"),
        (lambda: srr.UnitL1(float("nan")), "lam must be a finite number >= 0"),
        (lambda: srr.NonnegativeL1(-1.0), "lam must be a finite number >= 0"),
        (lambda: srr.Ridge(-1.0), "lam must be a finite number >= 0"),
        (lambda: srr.penalties.RotatedPenalty(srr.L1(0.1), np.ones((2, 3))), "D must be square"),
        (lambda: srr.penalties.RotatedPenalty(srr.L1(0.1), np.ones((2, 2))), "orthonormal columns"),
        (lambda: srr.ClassSpheres(np.asarray([0.5])), "labels must be a vector of integers"),
        (lambda: srr.ClassSpheres(np.asarray([-1, 0])), "labels must be a vector of integers"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.0, 0.3, 2.0])
def test_sphere_prox_of_easy_rows_is_the_general_one(seed, threshold):
    """Rows without a corner take a short way; one hopeless row in the same array sends all of them the long way."""
    rng = np.random.default_rng(seed)
    V = rng.standard_normal((6, 5)) * 4
    V[:, 0] += np.where(V[:, 0] < 0, -3, 3)
    easy = srr.ops.unit_soft_threshold(V, threshold=threshold)
    general = srr.ops.unit_soft_threshold(np.concatenate([V, np.zeros((1, 5))]), threshold=threshold)[:-1]
    np.testing.assert_allclose(easy, general, rtol=0, atol=4e-16)
    huge = srr.ops.unit_soft_threshold(np.asarray([[3e200, 4e200]]), threshold=1.0)
    np.testing.assert_allclose(huge, [[0.6, 0.8]], rtol=1e-15)
