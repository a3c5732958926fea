"""ReduNet built forward: the ascent, the network on new tokens, circular shifts, and real digits."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import srr
from srr.ops.redunet import to_sphere
from tests import references as ref
from tests.backends import BACKENDS, Backend, to_numpy


def gaussians_on_the_sphere(
    K: int, n: int, seed: int, d: int = 3, spread: float = 0.12
) -> tuple[np.ndarray, np.ndarray]:
    """K Gaussians around orthogonal directions, each token divided by its norm."""
    rng = np.random.default_rng(seed)
    centers = np.linalg.qr(rng.standard_normal((d, d)))[0][:K]
    labels = np.arange(n) % K
    Z = centers[labels] + spread * rng.standard_normal((n, d))
    return Z / np.linalg.norm(Z, axis=1, keepdims=True), labels


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_gaussians_on_the_sphere_are_told_apart_without_error(K: int, seed: int) -> None:
    Z, labels = gaussians_on_the_sphere(K, 300, seed)
    test, truth = gaussians_on_the_sphere(K, 600, seed)  # the same centers, since they are drawn first
    test, truth = test[300:], truth[300:]
    assert not np.isin(test, Z).all(axis=1).any()
    network = srr.fits.build_redunet(Z, labels, eps=0.5, depth=15)
    gains = np.diff(network.rate_reduction)
    assert (gains > 0).all()
    assert network.rate_reduction[-1] > 1.1 * network.rate_reduction[0]
    assert (network.class_residuals(test).argmin(axis=1) == truth).all()


def test_layers_drive_the_classes_to_orthogonal_directions() -> None:
    """[MCR2]'s optimum with one direction a class: cosines within a class to 1, across classes to 0."""
    Z, labels = gaussians_on_the_sphere(3, 300, 0)
    features = srr.fits.build_redunet(Z, labels, eps=0.5, depth=200).solution.Z
    cosines = np.abs(features @ features.T)
    same = labels[:, None] == labels
    before = np.abs(Z @ Z.T)
    assert cosines[same].mean() > 0.999 > before[same].mean()
    assert cosines[~same].mean() < 0.03 < before[~same].mean()


@given(seed=st.integers(0, 2**32 - 1), eps=st.floats(0.05, 2.0), fraction=st.floats(0.01, 1.0))
def test_no_layer_up_to_the_safe_step_lowers_the_rate_reduction(seed: int, eps: float, fraction: float) -> None:
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(4, 30)), int(rng.integers(2, 8))
    Z, labels = to_sphere(rng.standard_normal((n, d))), rng.integers(0, 3, n)
    safe = 8 * n * eps**2 / (9 * d)
    network = srr.fits.build_redunet(Z, labels, eps=eps, depth=8, step=fraction * safe)
    values = [ref.naive_coding_rate(Z, eps) - ref.naive_partition_coding_rate(Z, ref.one_hot(labels, 3), eps)]
    assert network.rate_reduction[0] == pytest.approx(values[0], rel=1e-10, abs=1e-12)
    assert (np.diff(network.rate_reduction) >= -1e-12 * np.abs(network.rate_reduction).max()).all()


def test_a_step_far_beyond_the_safe_one_can_lower_it() -> None:
    """Outside the assumption: a tiny distortion and a long step."""
    rng = np.random.default_rng(0)
    Z, labels = to_sphere(rng.standard_normal((30, 6))), np.arange(30) % 3
    safe = 8 * 30 * 0.05**2 / (9 * 6)
    network = srr.fits.build_redunet(Z, labels, eps=0.05, depth=8, step=50 * safe)
    assert np.diff(network.rate_reduction).min() < 0


def test_the_ascent_ends_at_the_optimum_of_a_general_solver() -> None:
    """The same problem by L-BFGS over unnormalized tokens, best of five starts."""
    rng = np.random.default_rng(3)
    Z, labels = to_sphere(rng.standard_normal((12, 4))), np.arange(12) % 2
    problem = srr.fits.SphereRateReduction(labels, 0.5)
    solution = srr.minimize(problem, Z, srr.fits.ReduNet(), tol=1e-7, max_steps=20000)
    assert solution.status is srr.Status.CONVERGED

    def negative(flat: np.ndarray) -> float:
        X = flat.reshape(12, 4)
        X = X / np.linalg.norm(X, axis=1, keepdims=True)
        return float(ref.naive_partition_coding_rate(X, ref.one_hot(labels, 2), 0.5) - ref.naive_coding_rate(X, 0.5))

    found = min(scipy.optimize.minimize(negative, rng.standard_normal(48), method="L-BFGS-B").fun for _ in range(5))
    assert solution.objective == pytest.approx(found, rel=1e-5)


def test_a_user_can_own_the_loop() -> None:
    Z, labels = gaussians_on_the_sphere(2, 60, 1)
    problem, solver = srr.fits.SphereRateReduction(labels, 0.5), srr.fits.ReduNet()
    state, by_hand = solver.init(problem, Z), Z
    for _ in range(5):
        by_hand, state = solver.step(problem, by_hand, state)
    built = srr.fits.build_redunet(Z, labels, eps=0.5, depth=5).solution
    np.testing.assert_allclose(by_hand, built.Z, atol=1e-15)
    assert float(state.objective) == pytest.approx(float(built.objective))


@pytest.mark.parametrize("sizes", [(8,), (5,), (4, 5)])
def test_the_network_is_exactly_equivariant_under_circular_shifts(sizes: tuple[int, ...]) -> None:
    rng, axes = np.random.default_rng(0), len(sizes)
    around = tuple(range(-axes, 0))
    X, labels = rng.standard_normal((24, 3, *sizes)), np.arange(24) % 3
    network = srr.fits.build_redunet(X, labels, eps=0.3, depth=12, shift_axes=axes)
    assert (np.diff(network.rate_reduction) > 0).all()
    test = rng.standard_normal((10, 3, *sizes))
    straight, residuals = network(test), network.class_residuals(test)
    for shift in [(1,) * axes, tuple(s // 2 for s in sizes), tuple(s - 1 for s in sizes)]:
        moved = np.roll(test, shift, around)
        np.testing.assert_allclose(network(moved), np.roll(straight, shift, around), atol=1e-10)
        np.testing.assert_allclose(network.class_residuals(moved), residuals, atol=1e-10)


def test_the_signal_network_is_the_vector_network_on_the_orbit() -> None:
    """All shifts as plain vectors, with the vector code: same features, same residuals, layer after layer."""
    rng = np.random.default_rng(1)
    X, labels = rng.standard_normal((10, 2, 4)), np.arange(10) % 2
    orbit = np.concatenate([np.roll(X, s, axis=-1).reshape(10, 8) for s in range(4)])
    signals = srr.fits.build_redunet(X, labels, eps=0.5, depth=5, shift_axes=1)
    vectors = srr.fits.build_redunet(orbit, np.tile(labels, 4), eps=0.5, depth=5)
    test = rng.standard_normal((6, 2, 4))
    np.testing.assert_allclose(signals(test).reshape(6, 8), vectors(test.reshape(6, 8)), atol=1e-11)
    np.testing.assert_allclose(signals.class_residuals(test), vectors.class_residuals(test.reshape(6, 8)), atol=1e-11)
    np.testing.assert_allclose(4 * signals.rate_reduction, vectors.rate_reduction, rtol=1e-11)


@pytest.mark.parametrize(
    "backend", [b for b in BACKENDS if b.name in ("torch", "torch-float32", "strict")], ids=lambda b: b.name
)
def test_backends_build_the_same_network(backend: Backend) -> None:
    Z, labels = gaussians_on_the_sphere(3, 30, 0)
    truth = srr.fits.build_redunet(Z, labels, eps=0.5, depth=4)
    network = srr.fits.build_redunet(backend.asarray(Z), backend.asarray(labels), eps=0.5, depth=4)
    backend.close(network(backend.asarray(Z)), truth(Z))
    backend.close(network.class_residuals(backend.asarray(Z)), truth.class_residuals(Z))
    assert network(backend.asarray(Z)).dtype == backend.floating
    np.testing.assert_allclose(network.rate_reduction, truth.rate_reduction, rtol=1e-5)


def nearest_subspace(Z: np.ndarray, labels: np.ndarray, test: np.ndarray, rank: int) -> np.ndarray:
    """The honest baseline: most energy in the leading right singular vectors of a class."""
    energies = []
    for k in range(labels.max() + 1):
        V = np.linalg.svd(Z[labels == k], full_matrices=False)[2][:rank].T
        energies.append(np.sum((test @ V) ** 2, axis=1))
    return np.argmax(energies, axis=0)


def test_digits_without_back_propagation(record_property) -> None:
    """At least 97 %, beside nearest subspace on raw pixels, which needs no layer and is as good."""
    X, y = load_digits(return_X_y=True)
    scores = []
    for seed in range(3):
        Z, test, labels, truth = train_test_split(X, y, test_size=0.2, random_state=seed, stratify=y)
        network = srr.fits.build_redunet(Z, labels, eps=0.5, depth=20)
        accuracy = float((network.class_residuals(test).argmin(axis=1) == truth).mean())
        baseline = float((nearest_subspace(Z, labels, test, 16) == truth).mean())
        assert (np.diff(network.rate_reduction) > 0).all()
        scores.append((accuracy, baseline))
    record_property("redunet_and_nearest_subspace", scores)
    assert min(accuracy for accuracy, _ in scores) >= 0.97
    assert all(abs(accuracy - baseline) < 0.015 for accuracy, baseline in scores)  # the layers do not buy accuracy


def test_zero_tokens_stay_where_they_are() -> None:
    Z, labels = gaussians_on_the_sphere(2, 20, 0)
    Z[3] = 0.0
    network = srr.fits.build_redunet(Z, labels, eps=0.5, depth=3)
    assert not network.solution.Z[3].any()
    assert np.isfinite(network(Z)).all()


@pytest.mark.parametrize("scale", [1e-160, 1e160])
def test_the_scale_of_the_tokens_does_not_count(scale: float) -> None:
    Z, labels = gaussians_on_the_sphere(2, 20, 0)
    a, b = (srr.fits.build_redunet(s * Z, labels, eps=0.5, depth=3).solution.Z for s in (1.0, scale))
    np.testing.assert_allclose(a, b, atol=1e-13)


BAD = {
    "depth": ({"depth": -1}, ValueError, "depth"),
    "depth not whole": ({"depth": 1.5}, TypeError, "depth"),
    "eps": ({"eps": 0.0}, ValueError, "eps"),
    "step": ({"step": -1.0}, ValueError, "step"),
    "sharpness": ({"sharpness": -1.0}, ValueError, "sharpness"),
    "axes": ({"shift_axes": 1}, ValueError, "axes"),
}


@pytest.mark.parametrize(("change", "error", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(change: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        srr.fits.build_redunet(np.ones((4, 3)), np.asarray([0, 1, 0, 1]), **{"eps": 0.5, "depth": 2, **change})


def test_tokens_of_another_size_are_refused() -> None:
    network = srr.fits.build_redunet(*gaussians_on_the_sphere(2, 20, 0), eps=0.5, depth=1)
    with pytest.raises(ValueError, match="fit"):
        network(np.ones((4, 5)))
    assert to_numpy(network(np.ones((4, 3)))).shape == (4, 3)


def test_training_tokens_that_move_by_the_estimated_membership_are_those_of_the_network() -> None:
    """Layer by layer from the definition: operators of the labels, softmax of -λ‖C_k z‖, explicit inverses."""
    Z, labels = gaussians_on_the_sphere(3, 60, 0)
    step, sharpness, eps = 0.4, 7.0, 0.5
    options = {"eps": eps, "depth": 3, "step": step, "sharpness": sharpness}
    network = srr.fits.build_redunet(Z, labels, membership="estimated", **options)
    n, d = Z.shape
    wanted = Z
    for _ in range(3):
        alpha, parts = d / (n * eps**2), [wanted[labels == k] for k in range(3)]
        E = alpha * np.linalg.inv(np.eye(d) + alpha * wanted.T @ wanted)
        alphas = [d / (len(part) * eps**2) for part in parts]
        C = [a * np.linalg.inv(np.eye(d) + a * part.T @ part) for a, part in zip(alphas, parts, strict=True)]
        scores = np.exp(-sharpness * np.stack([np.linalg.norm(wanted @ c, axis=1) for c in C], axis=1))
        pi = scores / scores.sum(1, keepdims=True)
        gamma = [len(part) / n for part in parts]
        move = wanted @ E - sum(g * pi[:, [k]] * (wanted @ c) for k, (g, c) in enumerate(zip(gamma, C, strict=True)))
        moved = wanted + step * move
        wanted = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(network.solution.Z, wanted, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(network(Z), network.solution.Z, rtol=1e-11, atol=1e-12)
    by_labels = srr.fits.build_redunet(Z, labels, **options)
    assert np.abs(by_labels(Z) - by_labels.solution.Z).max() > 1e-3  # there the two differ
    with pytest.raises(ValueError, match="membership must be one of"):
        srr.fits.build_redunet(Z, labels, eps=0.5, depth=1, membership="guessed")


def test_lifting_is_convolution_on_the_circle_and_relu() -> None:
    filters = srr.fits.random_filters(4, channels=2, size=(3,), seed=0)
    Z = np.random.default_rng(1).normal(size=(5, 2, 7))
    wanted = np.zeros((5, 4, 7))
    for c in range(4):
        for b in range(2):
            for s in range(3):
                wanted[:, c] += filters[c, b, s] * np.roll(Z[:, b], s, axis=-1)
    np.testing.assert_allclose(srr.fits.lift_signals(Z, filters), np.maximum(wanted, 0), atol=1e-12)
    with pytest.raises(ValueError, match="one or two numbers"):
        srr.fits.random_filters(4, channels=2, size=(3, 3, 3), seed=0)
