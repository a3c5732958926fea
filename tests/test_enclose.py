"""Enclosures hold the truth: 80-digit arithmetic from the definitions, on exact binary inputs."""

import time

import numpy as np
import pytest

import srr
from srr import enclose
from srr._array.namespace import to_numpy
from tests.backends import BACKENDS

mpmath = pytest.importorskip("mpmath")
pytest.importorskip("flint")
RNG = np.random.default_rng(5)
Z, U = RNG.standard_normal((5, 4)), RNG.standard_normal((2, 4, 3))
PI = RNG.dirichlet(np.ones(3), size=5)
LABELS = np.array([0, 2, 2, 0, 2])
ONE_HOT = np.eye(3)[LABELS]
HARD = {
    "plain": (Z, 0.5),
    "rank two": (RNG.integers(-3, 4, (6, 2)) @ RNG.standard_normal((2, 4)), 1e-6),
    "duplicated": (np.repeat(Z[:2], 3, axis=0), 1e-4),
    "tiny": (1e-160 * Z, 0.5),
    "large": (1e12 * Z, 1e-3),
    "zero": (0 * Z, 1.0),
    "one token": (Z[:1], 0.1),
}


def matrix(X):
    return mpmath.matrix(np.asarray(X, dtype=float).tolist())


def rate(A, dimension, mass, eps):
    """½ logdet(I + s·AᵀA) and its gradient s·A(I + s·AᵀA)⁻¹ in 80 digits, on the d side."""
    A = matrix(A) if isinstance(A, np.ndarray) else A
    scale = mpmath.mpf(dimension) / (mass * mpmath.mpf(float(eps)) ** 2)
    M = mpmath.eye(A.cols) + scale * A.T * A
    return mpmath.log(mpmath.det(M)) / 2, scale * A * mpmath.inverse(M)


def definitions(X, eps):
    """R, R^c(·;U), R^c(·|Π) and ΔR with their gradients."""
    with mpmath.workdps(80 if np.max(np.abs(X)) > 1e-100 else 700):  # 1 + x² must not round to 1
        n, d = X.shape
        whole = rate(X, d, n, eps)
        heads = [rate(matrix(X) * matrix(B), B.shape[1], n, eps) for B in U]
        value = sum((v for v, _ in heads), mpmath.mpf(0))
        slope = sum((g * matrix(B).T for (_, g), B in zip(heads, U, strict=True)), mpmath.zeros(n, d))
        found = {"coding_rate": whole, "subspace_coding_rate": (value, slope)}
        parts, pull = mpmath.mpf(0), mpmath.zeros(n, d)
        for w in np.resize(PI, (n, 3)).T:
            mass = mpmath.fsum(mpmath.mpf(float(x)) for x in w)
            roots = mpmath.diag([mpmath.sqrt(mpmath.mpf(float(x))) for x in w])
            v, g = rate(roots * matrix(X), d, mass, eps)
            parts, pull = parts + mass / n * v, pull + mass / n * (roots * g)
        found |= {"partition_coding_rate": (parts, pull), "rate_reduction": (whole[0] - parts, whole[1] - pull)}
        return found


def inside(found, want):
    """Whether every 80-digit value lies between the float64 ends."""
    low, high = np.ravel(found.low), np.ravel(found.high)
    values = list(want) if isinstance(want, mpmath.matrix) else [want]
    return all(mpmath.mpf(float(a)) <= v <= mpmath.mpf(float(b)) for a, v, b in zip(low, values, high, strict=True))


@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("name", ["coding_rate", "subspace_coding_rate", "partition_coding_rate", "rate_reduction"])
def test_the_truth_is_inside(name, case):
    X, eps = HARD[case]
    second = {"coding_rate": (), "subspace_coding_rate": (U,)}.get(name, (np.resize(PI, (len(X), 3)),))
    value, slope = definitions(X, eps)[name]
    for function, want in ((getattr(enclose, name), value), (getattr(enclose, f"{name}_grad"), slope)):
        found = function(X, *second, eps=eps)
        assert inside(found, want)
        assert np.max(found.high - found.low) <= max(1e-14 * np.max(np.abs(found.low)), 2.3e-308)


@pytest.mark.parametrize("name", ["partition_coding_rate", "rate_reduction"])
def test_labels_are_memberships(name):
    for function in (getattr(enclose, name), getattr(enclose, f"{name}_grad")):
        by_label, by_weight = function(Z, LABELS, eps=0.5), function(Z, ONE_HOT, eps=0.5)
        assert np.array_equal(by_label.low, by_weight.low)
        assert np.array_equal(by_label.high, by_weight.high)


def test_operators_are_near():
    assert enclose.coding_rate(Z, eps=0.5).distance(srr.coding_rate(Z, eps=0.5)) < 1e-14
    assert (
        enclose.subspace_coding_rate_grad(Z, U, eps=0.5).distance(srr.subspace_coding_rate_grad(Z, U, eps=0.5)) < 1e-14
    )
    assert enclose.rate_reduction_grad(Z, PI, eps=0.5).distance(srr.rate_reduction_grad(Z, PI, eps=0.5)) < 1e-13
    assert not enclose.coding_rate(Z, eps=0.5).contains(srr.coding_rate(Z, eps=0.5) * (1 + 1e-12))


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_arrays_are_read_as_they_are(backend):
    X = backend.asarray(Z)
    host = np.asarray(to_numpy(X), dtype=np.float64)
    assert enclose.coding_rate(X, eps=0.5) == enclose.coding_rate(host, eps=0.5)


def test_precision_rises_where_it_must():
    assert enclose.coding_rate(Z, eps=0.5).bits == 128
    assert enclose.rate_reduction(1e-25 * Z, PI, eps=0.5).bits > 128


def test_two_hundred_tokens_take_seconds():
    X, y = RNG.standard_normal((200, 64)), RNG.integers(0, 4, 200)
    start = time.process_time()
    enclose.rate_reduction_grad(X, y, eps=0.5)
    assert time.process_time() - start < 5.0


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: enclose.coding_rate(np.zeros((2, 3, 4)), eps=1.0), "one matrix of tokens"),
        (lambda: enclose.coding_rate(Z, eps=0.0), "eps must be"),
        (lambda: enclose.coding_rate(Z, eps=1.0, rtol=1e-17), "rtol must be at least 4 units"),
        (lambda: enclose.subspace_coding_rate(Z, U[:, :3], eps=1.0), "d=4"),
        (lambda: enclose.subspace_coding_rate(Z, U[None], eps=1.0), "U must have shape"),
        (lambda: enclose.partition_coding_rate(Z, PI[:3], eps=1.0), "Pi as membership must"),
    ],
)
def test_bad_input_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_without_the_library_one_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "flint", None)
    with pytest.raises(ImportError, match=r"pip install 'srr\[verify\]'"):
        enclose.coding_rate(Z, eps=1.0)


# --- Curvature and steps


def pairs(X, V, eps):
    """Quadratic form of the Hessian of R by mpmath: the second derivative of R(X + tV) at 0."""
    with mpmath.workdps(60):
        X, V = matrix(X), matrix(V)
        n, d = X.rows, X.cols

        def along(t):
            A = X + t * V
            return mpmath.log(mpmath.det(mpmath.eye(d) + d / (n * mpmath.mpf(eps) ** 2) * A.T * A)) / 2

        return mpmath.diff(along, 0, 2)


@pytest.mark.parametrize("shape", [(5, 4), (3, 5), (4, 4), (1, 3)])
def test_extreme_curvatures(shape):
    X, eps = 0.7 * np.random.default_rng(1).standard_normal(shape), 0.5
    found = enclose.coding_rate_curvature(X, eps=eps)
    basis = np.eye(X.size).reshape(-1, *shape)
    H = np.stack([srr.ops.coding_rate_hvp(X, V, eps=eps).ravel() for V in basis])
    assert np.allclose([found.low, found.high], np.linalg.eigvalsh(H)[[0, -1]], rtol=1e-11, atol=1e-13)
    alpha = shape[1] / (shape[0] * eps**2)
    assert -alpha / 8 <= found.low[0] <= found.high[1] <= alpha
    assert np.max(found.high - found.low) < 1e-13 * alpha


def test_extreme_curvatures_of_special_tokens():
    flat = enclose.coding_rate_curvature(np.ones((4, 3)), eps=0.5)  # rank one: singular values of zero, repeated
    H = [srr.ops.coding_rate_hvp(np.ones((4, 3)), V, eps=0.5).ravel() for V in np.eye(12).reshape(-1, 4, 3)]
    assert np.allclose(flat.low, np.linalg.eigvalsh(np.stack(H))[[0, -1]], rtol=1e-11)
    spike = np.diag([np.sqrt(0.75), 0.0])  # α = 4 at ε = ½: the singular value √(3/α)
    assert enclose.coding_rate_curvature(spike, eps=0.5).distance(np.array([-0.5, 4.0])) < 1e-14


def test_curvature_along_a_direction():
    V = RNG.standard_normal(Z.shape)
    found = enclose.coding_rate_quadratic(Z, V, eps=0.5)
    assert abs(float(pairs(Z, V, 0.5)) - float(found.low)) < 1e-12 * abs(float(found.low))
    heads = enclose.subspace_coding_rate_quadratic(Z, V, U, eps=0.5)
    want = sum(float(pairs(Z @ B, V @ B, 0.5)) for B in U)
    assert abs(want - float(heads.low)) < 1e-12 * abs(want)
    with pytest.raises(ValueError, match="V must have the shape"):
        enclose.coding_rate_quadratic(Z, V[1:], eps=0.5)


def test_objective_is_the_sum_of_its_terms():
    value = enclose.sparse_rate_reduction(Z, U, eps=0.5, lam=0.1)
    with mpmath.workdps(60):
        found = definitions(Z, 0.5)
        size = mpmath.fsum(abs(mpmath.mpf(float(x))) for x in Z.ravel())
        want = found["coding_rate"][0] - found["subspace_coding_rate"][0] - mpmath.mpf(0.1) * size
        assert inside(value, want)


@pytest.mark.parametrize("unit", [False, True])
def test_a_proximal_step_and_its_increase(unit):
    X = Z / np.linalg.norm(Z, axis=1, keepdims=True) if unit else Z
    step = 1 / srr.ops.sparse_rate_reduction_smoothness(X, U, eps=0.5)
    shrink = srr.ops.unit_soft_threshold if unit else srr.ops.soft_threshold
    for lam in (0.1, 1e4):  # the second thresholds everything
        moved = shrink(X + step * srr.sparse_rate_reduction_grad(X, U, eps=0.5), threshold=step * lam)
        found = enclose.proximal_step(X, U, eps=0.5, lam=lam, step=step, unit=unit)
        assert found.distance(moved) < 1e-13
        gain = enclose.proximal_increase(X, U, eps=0.5, lam=lam, step=step, unit=unit)
        assert gain.low > 0
        before, after = (srr.sparse_rate_reduction(A, U, eps=0.5, lam=lam) for A in (X, moved))
        assert abs(after - before - gain.low) < 1e-11 * (abs(before) + abs(after))
    still = enclose.proximal_increase(X, U, eps=0.5, lam=0.1, step=0.0)
    assert still.contains(0.0)
    assert still.high - still.low < 1e-300


def test_a_step_that_is_too_long_is_proved_to_fall():
    X = 0.01 * Z
    step = 300 / srr.ops.sparse_rate_reduction_smoothness(X, U, eps=0.5)
    assert enclose.proximal_increase(X, U, eps=0.5, lam=0.1, step=step).high < 0
