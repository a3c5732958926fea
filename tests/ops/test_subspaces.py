"""Projection, bases, membership, coherence, angles, signal-to-noise ratio."""

import numpy as np
import pytest
import scipy.stats

import srr
from tests import references as ref
from tests.backends import NUMPY, Backend, to_numpy


def test_lift_is_the_adjoint_of_project(rng: np.random.Generator) -> None:
    Z, U = rng.standard_normal((2, 7, 6)), rng.standard_normal((3, 6, 2))
    W = rng.standard_normal((2, 3, 7, 2))
    forward = np.sum(srr.ops.project(Z, U) * W, axis=(-3, -2, -1))
    backward = np.sum(Z * srr.ops.lift(W, U), axis=(-2, -1))
    np.testing.assert_allclose(forward, backward, rtol=1e-12)


def test_complete_orthonormal_heads_reconstruct(rng: np.random.Generator) -> None:
    Z, U = rng.standard_normal((7, 6)), ref.random_bases(rng, 3, 6, 2, orthogonal=True)
    NUMPY.close(srr.ops.lift(srr.ops.project(Z, U), U), Z, ulps=50)


@pytest.mark.parametrize("shape", [(5, 1), (5, 5), (2, 6, 3), (2, 3, 4, 2)])
def test_orthonormalize_keeps_the_span(rng: np.random.Generator, shape: tuple[int, ...], library: Backend) -> None:
    U = rng.standard_normal(shape)
    Q = to_numpy(srr.ops.orthonormalize(library.asarray(U)))
    eye = np.broadcast_to(np.eye(shape[-1]), (*shape[:-2], shape[-1], shape[-1]))
    library.close(np.swapaxes(Q, -1, -2) @ Q, eye, ulps=50)
    onto = Q @ (np.swapaxes(Q, -1, -2) @ U)
    library.close(onto, U, ulps=50)


def test_orthonormalize_leaves_orthonormal_bases_alone(rng: np.random.Generator) -> None:
    U = ref.random_bases(rng, 3, 6, 2, orthogonal=False)
    NUMPY.close(srr.ops.orthonormalize(U), U, ulps=50)


def test_principal_bases_span_the_leading_singular_subspaces(rng: np.random.Generator, backend: Backend) -> None:
    labels = rng.permutation(np.repeat(np.arange(3), (8, 12, 20)))
    spectrum = 1.0 / np.arange(1, 7)
    Z = rng.standard_normal((40, 6)) * spectrum
    bases = to_numpy(srr.ops.principal_bases(backend.asarray(Z), backend.asarray(labels), rank=2))
    assert bases.shape == (3, 6, 2)
    for k in range(3):
        covariance = Z[labels == k].T @ Z[labels == k]
        leading = np.linalg.eigh(covariance)[1][:, ::-1][:, :2]
        backend.close(bases[k] @ bases[k].T, leading @ leading.T, ulps=2000)


def test_principal_bases_recover_noiseless_subspaces(rng: np.random.Generator) -> None:
    U = ref.random_bases(rng, 3, 10, 3, orthogonal=False)
    labels = np.repeat(np.arange(3), 15)
    Z = np.concatenate([rng.standard_normal((15, 3)) @ B.T for B in U])
    found = srr.ops.principal_bases(Z, labels, rank=3)
    for k in range(3):
        assert ref.scipy_angles(found[k], U[k]).max() < 1e-12


def test_membership_is_the_posterior_of_its_mixture(rng: np.random.Generator) -> None:
    """x = U_k a + σw with unit coefficients: Bayes' rule on Gaussian densities, at t = σ²(1 + σ²)."""
    U = ref.random_bases(rng, 3, 8, 2, orthogonal=False)
    sigma = 0.6
    X = rng.standard_normal((20, 8))
    densities = [scipy.stats.multivariate_normal(np.zeros(8), B @ B.T + sigma**2 * np.eye(8)).logpdf(X) for B in U]
    posterior = np.exp(densities - np.logaddexp.reduce(densities, axis=0)).T
    found = srr.ops.subspace_membership(X, U, temperature=sigma**2 * (1 + sigma**2))
    NUMPY.close(found, posterior)


def test_membership_rows_sum_to_one_and_survive_large_energies(rng: np.random.Generator, library: Backend) -> None:
    U = library.asarray(ref.random_bases(rng, 3, 8, 2, orthogonal=True))
    for size in (0.0, 1.0, 1e6):
        pi = to_numpy(
            srr.ops.subspace_membership(library.asarray(size * rng.standard_normal((2, 5, 8))), U, temperature=0.1)
        )
        assert pi.shape == (2, 5, 3)
        assert np.isfinite(pi).all()
        assert (pi >= 0).all()
        np.testing.assert_allclose(pi.sum(-1), 1.0, rtol=10 * library.eps)


def test_coherence_against_scipy_angles(rng: np.random.Generator, library: Backend) -> None:
    U = ref.random_bases(rng, 4, 9, 2, orthogonal=False)
    expected = max(np.cos(ref.scipy_angles(U[i], U[j]).min()) for i in range(4) for j in range(i))
    library.close(srr.ops.coherence(library.asarray(U)), expected)


def test_coherence_extremes(rng: np.random.Generator) -> None:
    orthogonal = ref.random_bases(rng, 3, 9, 3, orthogonal=True)
    assert float(srr.ops.coherence(orthogonal)) < 1e-14
    shared = np.stack([orthogonal[0], orthogonal[1], np.roll(orthogonal[0], 1, axis=1)])
    assert float(srr.ops.coherence(shared)) == pytest.approx(1.0, rel=1e-14)
    assert float(srr.ops.coherence(orthogonal[:1])) == 0.0


@pytest.mark.parametrize(("p", "q"), [(1, 1), (3, 3), (4, 2), (6, 6), (5, 4)])
def test_principal_angles_against_scipy(rng: np.random.Generator, p: int, q: int, library: Backend) -> None:
    A, B = (np.linalg.qr(rng.standard_normal((6, k)))[0] for k in (p, q))
    expected = ref.scipy_angles(A, B)
    library.close(srr.ops.principal_angles(library.asarray(A), library.asarray(B)), expected, scale=1.0)


@pytest.mark.parametrize("angle", [1e-12, 1e-8, 1e-4, 0.5, np.pi / 2 - 1e-8, np.pi / 2])
def test_small_and_right_angles_keep_their_digits(angle: float) -> None:
    A = np.eye(5)[:, :2]
    B = np.zeros((5, 2))
    B[:, 0] = np.cos(angle) * np.eye(5)[0] + np.sin(angle) * np.eye(5)[3]
    B[:, 1] = np.eye(5)[1]
    found = srr.ops.principal_angles(A, B)
    assert found[1] == pytest.approx(angle, abs=1e-15, rel=1e-12)
    assert found[0] == pytest.approx(0.0, abs=1e-15)


def test_principal_angles_broadcast(rng: np.random.Generator) -> None:
    A = np.stack([np.linalg.qr(rng.standard_normal((6, 3)))[0] for _ in range(4)])
    B = np.linalg.qr(rng.standard_normal((6, 2)))[0]
    NUMPY.close(srr.ops.principal_angles(A, B), np.stack([ref.scipy_angles(a, B) for a in A]), scale=1.0)


def test_snr_of_tokens_built_to_order(rng: np.random.Generator) -> None:
    """Signal of norm 3 on the subspace, noise of norm ½ off it: ratio 6 for every class."""
    U = ref.random_bases(rng, 2, 8, 2, orthogonal=True)
    labels = np.array([0, 0, 0, 1, 1])
    off = ref.random_rotation(rng, 8)
    Z = np.empty((5, 8))
    for k in range(2):
        rows = labels == k
        signal = rng.standard_normal((rows.sum(), 2)) @ U[k].T
        noise = off[: rows.sum()] - off[: rows.sum()] @ U[k] @ U[k].T
        Z[rows] = 3.0 * signal / np.linalg.norm(signal) + 0.5 * noise / np.linalg.norm(noise)
    np.testing.assert_allclose(srr.ops.snr(Z, U, labels), [6.0, 6.0], rtol=1e-12)
