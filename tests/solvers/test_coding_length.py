"""Clustering by coding length against the plainest version of itself, and on mixtures with known truth."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import srr

EPS = 0.3


def naive_cluster_length(Z: np.ndarray, n: int, eps: float) -> float:
    m, d = Z.shape
    logdet = np.linalg.slogdet(np.eye(d) + d / (m * eps**2) * Z.T @ Z)[1]
    return float(0.5 * (m + d) * logdet + m * np.log(n / m))


def naive_clustering(Z: np.ndarray, eps: float, K: int | None = None) -> tuple[np.ndarray, list[float]]:
    """Every pair of clusters tried afresh at every merge."""
    n, clusters = len(Z), [[i] for i in range(len(Z))]
    lengths = [naive_cluster_length(Z[c], n, eps) for c in clusters]
    history = [sum(lengths)]
    while len(clusters) > (K or 1):
        pairs = itertools.combinations(range(len(clusters)), 2)
        gains = [
            (lengths[i] + lengths[j] - naive_cluster_length(Z[clusters[i] + clusters[j]], n, eps), i, j)
            for i, j in pairs
        ]
        gain, i, j = max(gains)
        if K is None and gain <= 0:
            break
        clusters[i] += clusters.pop(j)
        lengths.pop(j)
        lengths[i] = naive_cluster_length(Z[clusters[i]], n, eps)
        history.append(sum(lengths))
    labels = np.empty(n, dtype=int)
    for k, members in enumerate(sorted(clusters, key=lambda c: (-len(c), min(c)))):
        labels[members] = k
    return labels, history


@given(
    n=st.integers(1, 24),
    d=st.integers(1, 6),
    rank=st.integers(1, 3),
    eps=st.floats(0.03, 2.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_merge_is_the_one_of_the_plain_algorithm(n: int, d: int, rank: int, eps: float, seed: int) -> None:
    """Fewer tokens than dimensions and more, full and deficient rank: same labels, same length after every merge."""
    rng = np.random.default_rng(seed)
    bases = rng.standard_normal((2, min(rank, d), d))
    Z = np.stack([rng.standard_normal(len(bases[i % 2])) @ bases[i % 2] for i in range(n)])
    Z = Z + 0.05 * rng.standard_normal((n, d))
    fit = srr.CodingLengthSegmentation(eps).fit(Z)
    labels, history = naive_clustering(Z, eps)
    np.testing.assert_array_equal(fit.labels, labels)
    np.testing.assert_allclose(fit.history, history, rtol=1e-9)


@pytest.mark.parametrize("clusters", [1, 2, 7])
def test_a_given_number_of_clusters(clusters: int) -> None:
    Z = srr.subspace_mixture(n=24, d=5, K=2, p=2, noise=0.05, seed=0).Z
    fit = srr.CodingLengthSegmentation(EPS, K=clusters).fit(Z)
    np.testing.assert_array_equal(fit.labels, naive_clustering(Z, EPS, clusters)[0])
    assert clusters == fit.K


@pytest.mark.parametrize("eps", [0.01, 0.3, 3.0])
def test_the_length_of_a_labeling_is_its_definition(eps: float) -> None:
    rng = np.random.default_rng(0)
    Z, labels = rng.standard_normal((30, 5)), rng.integers(3, 7, 30)
    truth = sum(naive_cluster_length(Z[labels == k], 30, eps) for k in np.unique(labels))
    assert srr.coding_length(Z, labels, eps=eps) == pytest.approx(truth, rel=1e-12)
    assert srr.coding_length(torch.from_numpy(Z), torch.from_numpy(labels), eps=eps) == pytest.approx(truth, rel=1e-12)


def test_the_length_of_one_cluster_is_its_rate() -> None:
    """(n + d) R(Z) and no nat for the membership."""
    Z = np.random.default_rng(0).standard_normal((9, 4))
    length = srr.coding_length(Z, np.zeros(9, dtype=int), eps=EPS)
    assert length == pytest.approx((9 + 4) * float(srr.coding_rate(Z, eps=EPS)), rel=1e-12)


@pytest.mark.parametrize("eps", [0.1, 0.3, 1.0])
@pytest.mark.parametrize(
    ("sizes", "d", "dims"),
    [([60, 60, 60], 16, [2, 2, 2]), ([80, 40, 20], 20, [4, 3, 2]), ([120], 8, [3]), ([30] * 8, 32, [3] * 8)],
    ids=["alike", "unequal", "one", "eight"],
)
def test_the_number_of_subspaces_comes_out(sizes: list[int], d: int, dims: list[int], eps: float) -> None:
    """Separated mixtures, noise vector 0.1 long: K, sizes and every label over a decade of distortions."""
    mix = srr.subspace_mixture(n=sizes, d=d, K=len(sizes), p=dims, noise=0.1 / np.sqrt(d), rotated=True, seed=0)
    fit = srr.CodingLengthSegmentation(eps).fit(mix.Z)
    assert len(sizes) == fit.K
    for k in range(fit.K):
        found, counts = np.unique(mix.labels[fit.labels == k], return_counts=True)
        assert counts.max() / counts.sum() >= 0.98, (found, counts)
    truth = srr.coding_length(mix.Z, mix.labels, eps=eps)
    assert fit.coding_length <= truth * (1 + 1e-9)


@pytest.mark.parametrize("eps", [0.2, 0.6])
def test_many_noisy_tokens_without_being_told_k(eps: float) -> None:
    """d = 64, K = 6, p = 5 independent subspaces; the noise vector 0.3 long, the signal vector √5."""
    mix = srr.subspace_mixture(n=600, d=64, K=6, p=5, noise=0.3 / 8, coherence=None, rotated=True, seed=0)
    fit = srr.CodingLengthSegmentation(eps).fit(mix.Z)
    assert fit.K == 6
    assert sum(np.bincount(mix.labels[fit.labels == k]).max() for k in range(6)) >= 0.99 * 600


def test_greedy_merging_can_miss_the_shortest_code() -> None:
    """Outside the separated mixtures: more noise, and merging ends at a longer code than the truth has."""
    mix = srr.subspace_mixture(n=600, d=64, K=6, p=5, noise=0.3 * np.sqrt(5 / 64), coherence=None, rotated=True, seed=0)
    fit = srr.CodingLengthSegmentation(0.67).fit(mix.Z)
    assert fit.coding_length > 1.05 * srr.coding_length(mix.Z, mix.labels, eps=0.67)
    assert fit.K != 6


def test_new_tokens_go_where_they_add_least() -> None:
    mix = srr.subspace_mixture(n=60, d=6, K=3, p=2, noise=0.05, seed=0)
    fit = srr.CodingLengthSegmentation(EPS).fit(mix.Z[:50])
    lengths = fit.incremental_lengths(mix.Z[50:])
    for i, z in enumerate(mix.Z[50:]):
        for k in range(fit.K):
            members = mix.Z[:50][fit.labels == k]
            grown = np.vstack([members, z])
            d, m = 6, len(members)
            before, after = (
                (len(A) + d) / 2 * np.linalg.slogdet(np.eye(d) + d / (len(A) * EPS**2) * A.T @ A)[1]
                for A in (members, grown)
            )
            assert lengths[i, k] == pytest.approx(after - before + np.log(50 / m), rel=1e-10)
    np.testing.assert_array_equal(fit.assign(mix.Z[50:]), lengths.argmin(axis=1))


def test_order_of_the_tokens_does_not_count() -> None:
    mix = srr.subspace_mixture(n=[30, 20, 10], d=8, K=3, p=2, noise=0.05, seed=0)
    order = np.random.default_rng(1).permutation(60)
    a, b = (srr.CodingLengthSegmentation(EPS).fit(mix.Z[i]) for i in (np.arange(60), order))
    np.testing.assert_array_equal(a.labels[order], b.labels)


@pytest.mark.parametrize("eps", [1e-3, 1.0])
@pytest.mark.parametrize(
    "Z",
    [np.zeros((6, 3)), np.ones((6, 3)), np.eye(3)[[0, 1, 2] * 4], np.vstack([np.eye(3), 1e2 * np.eye(3)])],
    ids=["zeros", "duplicates", "axes", "scales"],
)
def test_degenerate_tokens(Z: np.ndarray, eps: float) -> None:
    fit = srr.CodingLengthSegmentation(eps).fit(Z)
    assert np.isfinite(fit.history).all()
    assert (np.diff(fit.history) < 0).all()
    assert fit.coding_length == pytest.approx(srr.coding_length(Z, fit.labels, eps=eps), rel=1e-6)


Z3 = np.ones((3, 2))
BAD = {
    "eps": (lambda: srr.CodingLengthSegmentation(0.0), ValueError, "eps"),
    "eps without digits": (lambda: srr.CodingLengthSegmentation(1e-9).fit(Z3), ValueError, "eps"),
    "K": (lambda: srr.CodingLengthSegmentation(1.0, K=0), ValueError, "K"),
    "K not whole": (lambda: srr.CodingLengthSegmentation(1.0, K=1.5), TypeError, "K"),
    "more clusters than tokens": (lambda: srr.CodingLengthSegmentation(1.0, K=4).fit(Z3), ValueError, "K=4"),
    "three axes": (lambda: srr.CodingLengthSegmentation(1.0).fit(np.ones((2, 3, 2))), ValueError, "shape"),
    "integers": (lambda: srr.CodingLengthSegmentation(1.0).fit(np.ones((3, 2), dtype=int)), TypeError, "Z"),
    "infinite": (lambda: srr.CodingLengthSegmentation(1.0).fit(np.full((3, 2), np.inf)), ValueError, "finite"),
    "labels": (lambda: srr.coding_length(Z3, np.zeros(2, dtype=int), eps=1.0), ValueError, "labels"),
    "other size": (lambda: srr.CodingLengthSegmentation(1.0).fit(Z3).assign(np.ones((3, 5))), ValueError, "d=2"),
}


@pytest.mark.parametrize(("call", "error", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(call, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
