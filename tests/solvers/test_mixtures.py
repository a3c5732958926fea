"""Mixtures: the truth they return is the truth they were drawn from."""

import tracemalloc

import numpy as np
import pytest

import srr
from tests.backends import BACKENDS, Backend, to_numpy


def gram_of(U):
    wide = np.concatenate(list(U), axis=-1)
    return wide.T @ wide


def test_sizes_dimensions_and_labels():
    mix = srr.subspace_mixture(n=[5, 7, 1], d=9, K=3, p=[2, 3, 1], seed=0)
    assert np.bincount(mix.labels).tolist() == [5, 7, 1]
    assert mix.dims.tolist() == [2, 3, 1]
    assert [np.linalg.matrix_rank(u) for u in mix.U] == [2, 3, 1]
    assert not np.any(mix.U[2][:, 1:])
    np.testing.assert_array_equal(mix.Z, mix.clean)
    even = srr.subspace_mixture(n=11, d=9, K=3, p=2, seed=0)
    assert np.bincount(even.labels).tolist() == [4, 4, 3]


@pytest.mark.parametrize("rotated", [False, True])
def test_orthogonal_bases(rotated):
    mix = srr.subspace_mixture(n=20, d=12, K=3, p=4, rotated=rotated, seed=1)
    np.testing.assert_allclose(gram_of(mix.U), np.eye(12), atol=1e-14)
    np.testing.assert_allclose(mix.D.T @ mix.D, np.eye(12), atol=1e-14)
    assert np.all(np.isin(mix.U, [0.0, 1.0])) is np.bool_(not rotated)
    assert np.all(np.isclose(mix.D.T @ mix.U, 0, atol=1e-13) | np.isclose(mix.D.T @ mix.U, 1))


@pytest.mark.parametrize("c", [0.2, 0.9])
def test_coherent_bases_meet_at_the_angle_asked_for(c):
    mix = srr.subspace_mixture(n=20, d=12, K=3, p=3, coherence=c, rotated=True, seed=1)
    for k in range(3):
        np.testing.assert_allclose(mix.U[k].T @ mix.U[k], np.eye(3), atol=1e-14)
        for other in range(k):
            cosines = np.linalg.svd(mix.U[k].T @ mix.U[other])[1]
            np.testing.assert_allclose(cosines, c, atol=1e-13)


def test_independent_bases_may_overlap():
    mix = srr.subspace_mixture(n=20, d=4, K=5, p=3, coherence=None, seed=1)
    np.testing.assert_allclose(mix.U.mT @ mix.U, np.broadcast_to(np.eye(3), (5, 3, 3)), atol=1e-14)


def test_tokens_lie_on_their_subspace_up_to_noise_of_the_size_asked_for():
    mix = srr.subspace_mixture(n=4000, d=20, K=2, p=5, noise=0.3, rotated=True, seed=0)
    for k in range(2):
        own = mix.clean[mix.labels == k]
        np.testing.assert_allclose(own @ mix.U[k] @ mix.U[k].T, own, atol=1e-12)
        coordinates = own @ mix.U[k]
        np.testing.assert_allclose(coordinates.T @ coordinates / len(own), np.eye(5), atol=0.15)
    assert np.std(mix.Z - mix.clean) == pytest.approx(0.3, rel=0.01)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_one_seed_is_one_mixture_everywhere(backend: Backend):
    options = {"n": 30, "d": 6, "K": 2, "p": 2, "noise": 0.1, "rotated": True, "seed": 7}
    mix = srr.subspace_mixture(**options)
    other = srr.subspace_mixture(**options, xp=backend.xp, dtype=backend.floating)
    for name in ("Z", "U", "clean", "D"):
        assert str(getattr(other, name).dtype).endswith(backend.dtype)
        backend.close(getattr(other, name), getattr(mix, name))
    np.testing.assert_array_equal(to_numpy(other.labels), mix.labels)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n": [3, 4, 5]}, ValueError, "n must have K=2 entries; got 3"),
        ({"n": [0, 4]}, ValueError, "n must be >= 1"),
        ({"p": 0}, ValueError, "p must be >= 1"),
        ({"p": 2.5}, TypeError, "p must be"),
        ({"p": 5}, ValueError, "d must be at least 10"),
        ({"p": 3, "coherence": 0.5}, ValueError, "d must be at least 9"),
        ({"p": 9, "coherence": None}, ValueError, "d must be at least 9"),
        ({"coherence": 1.0}, ValueError, "coherence must be"),
        ({"noise": -0.1}, ValueError, "noise must be"),
        ({"K": 0}, ValueError, "K must be"),
        ({"n": 1}, ValueError, "n must be >= 2"),
        ({"n": 2.5}, TypeError, "n must be an integer"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    with pytest.raises(error, match=message):
        srr.subspace_mixture(**{"n": 20, "d": 8, "K": 2, "p": 2, "seed": 0, **change})


def test_many_subspaces_cost_what_their_tokens_cost() -> None:
    """K beyond n is refused before K of anything are made; a new token costs no pass over all tokens."""
    tracemalloc.start()
    with pytest.raises(ValueError, match="n must be"):
        srr.subspace_mixture(n=100, d=4, K=10**9, p=1, coherence=None, seed=0)
    with pytest.raises(ValueError, match="at most 10,000"):
        srr.SubspaceMixture(range(1, 10**9), 1)
    with pytest.raises(ValueError, match="K=1000000000"):
        srr.SubspaceMixture(10**9, 1).fit(np.eye(5), seed=0)
    with pytest.raises(ValueError, match="K=1000000000"):
        srr.CodingLengthSegmentation(0.5, K=10**9).fit(np.eye(5))
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
    mix = srr.subspace_mixture(n=20_000, d=3, K=5_000, p=1, coherence=None, seed=0)
    np.testing.assert_allclose(
        np.abs(np.sum(mix.clean * mix.U[mix.labels, :, 0], axis=1)), np.linalg.norm(mix.clean, axis=1)
    )
    assert len(repr(mix)) < 200
    assert len(mix._repr_html_()) < 400_000
