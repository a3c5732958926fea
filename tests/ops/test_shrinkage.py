"""Proximal operators against their global inequality, brute force and hand computations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import srr
from tests import references as ref
from tests.backends import Backend, to_numpy

PENALTIES = {
    "soft": (srr.ops.soft_threshold, lambda Y, t: t * np.abs(Y).sum(-1), None),
    "relu": (srr.ops.relu_threshold, lambda Y, t: t * np.abs(Y).sum(-1), "nonnegative"),
    "group": (srr.ops.group_soft_threshold, lambda Y, t: t * np.linalg.norm(Y, axis=-1), None),
}


@given(
    seed=st.integers(0, 2**32 - 1),
    name=st.sampled_from(sorted(PENALTIES)),
    d=st.integers(1, 5),
    threshold=st.floats(0.0, 4.0),
    size=st.floats(1e-3, 1e3),
)
def test_global_inequality_of_convex_proxes(seed: int, name: str, d: int, threshold: float, size: float) -> None:
    """Statement 20: g(y) ≥ g(x) + ⟨v − x, y − x⟩ for every feasible y, near x and far from it."""
    rng = np.random.default_rng(seed)
    prox, penalty, feasible = PENALTIES[name]
    v = size * rng.standard_normal((1, d))
    x = prox(v, threshold=threshold)
    spread = 10.0 ** rng.uniform(-6, 3, size=(200, 1))
    Y = x + spread * rng.standard_normal((200, d))
    Y = np.concatenate([Y, np.zeros((1, d)), v])
    if feasible:
        Y = np.maximum(Y, 0.0)
        assert (x >= 0).all()
    gap = penalty(Y, threshold) - penalty(x, threshold) - (Y - x) @ (v - x)[0]
    noise = 1e-13 * (np.abs(Y).max(-1) + np.abs(x).max()) * (threshold + np.abs(v).max()) * d
    assert (gap >= -noise).all()


@pytest.mark.parametrize("name", sorted(PENALTIES))
def test_proxes_against_brute_force_on_a_grid(name: str) -> None:
    prox, penalty, feasible = PENALTIES[name]
    axis = np.linspace(-2.0, 2.0, 401)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    if feasible:
        grid = grid[(grid >= 0).all(-1)]
    rng = np.random.default_rng(0)
    for v in rng.uniform(-1.5, 1.5, size=(20, 2)):
        objective = lambda Y: ref.prox_objective(Y, v, lambda W: penalty(W, 0.6))  # noqa: B023, E731
        found = to_numpy(prox(v[None], threshold=0.6))
        assert objective(found)[0] <= objective(grid).min() + 1e-14
        assert np.abs(found - grid[objective(grid).argmin()]).max() <= 0.0101


def test_hard_threshold_against_brute_force() -> None:
    """Keep z when ½z² > ½t², the prox of ½t²‖·‖₀, with a grid that holds zero and z itself."""
    values = np.linspace(-3, 3, 241)
    found = srr.ops.hard_threshold(values, threshold=1.01)
    for v, x in zip(values, found, strict=True):
        candidates = np.array([0.0, v])
        costs = 0.5 * (candidates - v) ** 2 + 0.5 * 1.01**2 * (candidates != 0)
        assert x == candidates[costs.argmin()]


@pytest.mark.parametrize(("d", "size"), [(2, 20000), (3, 400)])
def test_sphere_prox_against_brute_force_on_a_fine_grid(d: int, size: int, library: Backend) -> None:
    """Statement 20, not convex: no point of a fine grid of the sphere is better."""
    grid = ref.sphere_grid(d, size)
    rng = np.random.default_rng(1)
    V = rng.standard_normal((60, d)) * 10.0 ** rng.uniform(-2, 1, size=(60, 1))
    V[:5] = np.abs(V[:5])
    V[5] = [0.3, -0.3, 0.3][:d]
    thresholds = 10.0 ** rng.uniform(-2, 0.5, size=60)
    for v, t in zip(V, thresholds, strict=True):
        found = to_numpy(srr.ops.unit_soft_threshold(library.asarray(v[None]), threshold=float(t)))
        assert np.linalg.norm(found) == pytest.approx(1.0, rel=4 * library.eps)
        objective = ref.prox_objective(found, v, lambda Y: t * np.abs(Y).sum(-1))[0]  # noqa: B023
        best = ref.prox_objective(grid, v, lambda Y: t * np.abs(Y).sum(-1)).min()  # noqa: B023
        assert objective <= best + 8 * library.eps * (1 + np.abs(v).max() + t) ** 2


def test_sphere_prox_in_high_dimension_beats_random_sparse_directions(rng: np.random.Generator) -> None:
    V = rng.standard_normal((20, 30))
    found = srr.ops.unit_soft_threshold(V, threshold=0.8)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1.0, rtol=1e-14)
    for v, x in zip(V, found, strict=True):
        Y = rng.standard_normal((2000, 30)) * (rng.uniform(size=(2000, 30)) < rng.uniform(size=(2000, 1)))
        Y = np.concatenate(
            [Y[np.abs(Y).sum(-1) > 0], x + 0.05 * rng.standard_normal((500, 30)), np.eye(30), -np.eye(30)]
        )
        Y /= np.linalg.norm(Y, axis=-1, keepdims=True)
        best = ref.prox_objective(Y, v, lambda W: 0.8 * np.abs(W).sum(-1)).min()
        assert ref.prox_objective(x[None], v, lambda W: 0.8 * np.abs(W).sum(-1))[0] <= best + 1e-13


def test_sphere_prox_at_zero_and_at_ties() -> None:
    found = srr.ops.unit_soft_threshold(np.array([[0.0, 0.0, 0.0], [-0.2, 0.2, 0.1], [1.0, -1.0, 0.0]]), threshold=0.5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1.0, rtol=1e-15)
    np.testing.assert_array_equal(found[1], [-1.0, 0.0, 0.0])
    np.testing.assert_allclose(found[2], [np.sqrt(0.5), -np.sqrt(0.5), 0.0], rtol=1e-15)


@pytest.mark.parametrize(
    "operator", [srr.ops.soft_threshold, srr.ops.relu_threshold, srr.ops.hard_threshold, srr.ops.group_soft_threshold]
)
def test_zero_threshold(operator: object, rng: np.random.Generator) -> None:
    Z = rng.standard_normal((5, 4))
    expected = np.maximum(Z, 0) if operator is srr.ops.relu_threshold else Z
    np.testing.assert_array_equal(operator(Z, threshold=0.0), expected)


@pytest.mark.parametrize("operator", [srr.ops.group_soft_threshold, srr.ops.unit_soft_threshold])
@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e160, 1e300])
def test_row_norms_neither_overflow_nor_underflow(operator: object, size: float) -> None:
    Z = size * np.array([[3.0, 4.0], [0.0, 0.0]])
    found = operator(Z, threshold=0.0)
    wanted = Z if operator is srr.ops.group_soft_threshold else np.array([[0.6, 0.8], [1.0, 0.0]])
    np.testing.assert_allclose(found, wanted, rtol=1e-14)


def test_zero_rows_stay_zero_under_the_group_threshold(backend: Backend) -> None:
    found = to_numpy(srr.ops.group_soft_threshold(backend.asarray(np.zeros((3, 4))), threshold=0.5))
    assert not found.any()


@pytest.mark.parametrize(("d", "size"), [(2, 20000), (3, 400)])
def test_sphere_prox_with_a_threshold_for_every_coordinate(d: int, size: int, library: Backend) -> None:
    """Brute force over the sphere: ½‖x − z‖² + Σ tᵢ|xᵢ|, where something survives and where nothing does."""
    grid = ref.sphere_grid(d, size)
    rng = np.random.default_rng(3)
    V = rng.standard_normal((60, d))
    t = np.abs(V) * rng.uniform(0.2, 2.5, size=(60, d))
    t[:20] = np.abs(V[:20]) * rng.uniform(1.01, 4.0, size=(20, d))  # nothing survives
    V[0], t[0] = np.eye(d)[0] * 1.2 + 1.0, [6.0] + [1.5] * (d - 1)  # the largest entry is the wrong corner
    found = to_numpy(srr.ops.unit_soft_threshold(library.asarray(V), threshold=library.asarray(t)))
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1.0, rtol=4 * library.eps)
    for v, x, w in zip(V, found, t, strict=True):
        objective = ref.prox_objective(x[None], v, lambda Y: (w * np.abs(Y)).sum(-1))[0]  # noqa: B023
        best = ref.prox_objective(grid, v, lambda Y: (w * np.abs(Y)).sum(-1)).min()  # noqa: B023
        assert objective <= best + 8 * library.eps * (1 + np.abs(v).max() + w.max()) ** 2


def test_a_group_threshold_is_one_number_for_each_row(rng: np.random.Generator) -> None:
    Z, t = rng.standard_normal((3, 3)), np.array([[0.1], [0.5], [9.0]])
    wanted = [max(0.0, 1.0 - s / np.linalg.norm(z)) * z for z, s in zip(Z, t[:, 0], strict=True)]
    np.testing.assert_allclose(srr.ops.group_soft_threshold(Z, threshold=t), wanted, rtol=1e-14)
    with pytest.raises(ValueError, match=r"^threshold must be one number for each row"):
        srr.ops.group_soft_threshold(Z, threshold=t[:, 0])  # (n,) would be read as one for every coordinate


@pytest.mark.parametrize("shape", [(2, 3), (1, 4, 3), (4, 2)])
def test_thresholds_that_would_change_the_shape_are_refused(shape: tuple[int, ...]) -> None:
    for operator in (srr.ops.soft_threshold, srr.ops.unit_soft_threshold, srr.ops.group_soft_threshold):
        with pytest.raises(ValueError, match=r"^threshold must broadcast to the shape of Z, \(4, 3\); got"):
            operator(np.ones((4, 3)), threshold=np.ones(shape))
