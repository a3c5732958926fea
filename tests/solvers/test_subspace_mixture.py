"""Unknown subspaces: EM against SciPy's densities, the Bayes rule, and scikit-learn on the same data."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

import srr
from srr.fits.mixture import expectation, maximization
from tests.backends import BACKENDS, Backend, to_numpy

N, DIM, K, P = 2000, 64, 6, 5


def accuracy(labels: np.ndarray, truth: np.ndarray) -> float:
    """Share of tokens in the right cluster under the best matching of clusters with classes."""
    table = np.zeros((labels.max() + 1, truth.max() + 1))
    np.add.at(table, (labels, truth), 1)
    rows, columns = scipy.optimize.linear_sum_assignment(-table)
    return float(table[rows, columns].sum() / len(truth))


def largest_angle(fit: srr.fits.SubspaceMixtureFit, mix: srr.mixtures.Mixture) -> float:
    """Largest principal angle between a true subspace and the one most of its tokens went to."""
    pairs = [(k, np.bincount(fit.labels[mix.labels == k]).argmax()) for k in range(len(mix.U))]
    return max(float(srr.ops.principal_angles(mix.U[k], fit.U[j]).max()) for k, j in pairs)


def random_parameters(rng: np.random.Generator, d: int, K: int, p: int) -> srr.fits.MixtureParameters:
    U = np.stack([np.linalg.qr(rng.standard_normal((d, p)))[0] for _ in range(K)])
    return srr.fits.MixtureParameters(
        U, rng.dirichlet(np.ones(K)), np.asarray(rng.uniform(0.5, 2)), np.asarray(rng.uniform(0.05, 0.5))
    )


def densities(Z: np.ndarray, parameters: srr.fits.MixtureParameters) -> np.ndarray:
    """π_k N(z | 0, σ²I + s²U_kU_kᵀ) by SciPy's multivariate normal, shape (n, K)."""
    U, weights, signal, noise = parameters[:4]
    covariances = [noise * np.eye(U.shape[1]) + signal * Uk @ Uk.T for Uk in U]
    return np.stack(
        [w * scipy.stats.multivariate_normal(cov=S).pdf(Z) for w, S in zip(weights, covariances, strict=True)], axis=1
    )


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_expectation_is_bayes_rule_with_full_covariances(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    Z, parameters = rng.standard_normal((40, 5)), random_parameters(rng, 5, 3, 2)
    joint = densities(Z, parameters)
    there = srr.fits.MixtureParameters(*(backend.asarray(a) for a in parameters[:4]))
    membership, objective = expectation(backend.asarray(Z), there)
    backend.close(membership, joint / joint.sum(axis=1, keepdims=True))
    backend.close(objective, -np.log(joint.sum(axis=1)).mean())


def test_expectation_is_the_softmax_membership_of_the_attention_model() -> None:
    """Unit signal and equal probabilities: the operator at temperature σ²(1 + σ²)."""
    rng = np.random.default_rng(1)
    Z, parameters = rng.standard_normal((30, 6)), random_parameters(rng, 6, 3, 2)
    parameters = parameters._replace(weights=np.full(3, 1 / 3), signal=np.asarray(1.0), noise=np.asarray(0.2))
    np.testing.assert_allclose(
        expectation(Z, parameters)[0], srr.ops.subspace_membership(Z, parameters.U, temperature=0.2 * 1.2), atol=1e-13
    )


def test_maximization_beats_every_neighbor() -> None:
    """The closed form against the expected log-likelihood it maximizes, at 200 random perturbations."""
    rng = np.random.default_rng(2)
    Z, r = rng.standard_normal((50, 5)) @ np.diag([3, 2, 1, 0.5, 0.3]), rng.dirichlet(np.ones(3), 50)

    def expected(parameters: srr.fits.MixtureParameters) -> float:
        return float(np.sum(r * np.log(densities(Z, parameters))))

    best = maximization(Z, r, 2)
    np.testing.assert_allclose(best.U.swapaxes(1, 2) @ best.U, np.broadcast_to(np.eye(2), (3, 2, 2)), atol=1e-13)
    for _ in range(200):
        size = 10 ** rng.uniform(-3, 0)
        U = np.linalg.qr(best.U + size * rng.standard_normal(best.U.shape))[0]
        weights = best.weights * np.exp(size * rng.standard_normal(3))
        scales = np.exp(size * rng.standard_normal(2))
        other = srr.fits.MixtureParameters(U, weights / weights.sum(), best.signal * scales[0], best.noise * scales[1])
        assert expected(best) > expected(other)


@given(seed=st.integers(0, 2**32 - 1))
def test_the_likelihood_never_falls(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(5, 40)), int(rng.integers(3, 8))
    Z = rng.standard_normal((n, d)) * np.exp(rng.standard_normal(d))
    classes, p = int(rng.integers(1, 4)), int(rng.integers(1, d))
    solution = srr.minimize(
        srr.fits.MixtureLikelihood(Z),
        random_parameters(rng, d, classes, p),
        srr.fits.ExpectationMaximization(p),
        tol=0.0,
        max_steps=15,
    )
    history = solution.history.objective
    assert (np.diff(history) <= 1e-12 * np.maximum(1.0, np.abs(history[1:]))).all()


@pytest.mark.parametrize("seed", range(3))
def test_noise_of_three_tenths_of_the_signal(seed: int) -> None:
    """Noise vector 0.3 × as long as the signal vector: σ√d = 0.3 √p."""
    mix = srr.subspace_mixture(
        n=N, d=DIM, K=K, p=P, noise=0.3 * np.sqrt(P / DIM), coherence=None, rotated=True, seed=seed
    )
    fit = srr.SubspaceMixture(K, P).fit(mix.Z, seed=0)
    assert fit.solution.status is srr.Status.CONVERGED
    assert accuracy(fit.labels, mix.labels) >= 0.99
    assert largest_angle(fit, mix) <= 0.1
    assert np.sqrt(fit.parameters.noise) == pytest.approx(0.3 * np.sqrt(P / DIM), rel=0.02)
    assert fit.parameters.signal == pytest.approx(1.0, rel=0.05)


def test_at_three_tenths_in_every_coordinate_nobody_does_better_than_bayes() -> None:
    """σ = 0.3 in each of 64 coordinates: noise outweighs signal, and the rule that knows the truth errs."""
    mix = srr.subspace_mixture(n=N, d=DIM, K=K, p=P, noise=0.3, coherence=None, rotated=True, seed=0)
    fit = srr.SubspaceMixture(K, P).fit(mix.Z, seed=0)
    bayes = srr.ops.subspace_membership(mix.Z, mix.U, temperature=0.09 * 1.09).argmax(axis=1)
    best = float((bayes == mix.labels).mean())
    assert best < 0.99
    assert accuracy(fit.labels, mix.labels) > best - 0.01
    assert largest_angle(fit, mix) < 0.25


def test_side_by_side_with_scikit_learn(record_property) -> None:
    """K-means and full Gaussian mixtures on the same tokens, with the true K given to all."""
    mix = srr.subspace_mixture(n=N, d=DIM, K=K, p=P, noise=0.3 * np.sqrt(P / DIM), coherence=None, rotated=True, seed=0)
    fit = srr.SubspaceMixture(K, P).fit(mix.Z, seed=0)
    scores = {
        "SubspaceMixture": accuracy(fit.labels, mix.labels),
        "KMeans": accuracy(KMeans(K, n_init=10, random_state=0).fit_predict(mix.Z), mix.labels),
        "GaussianMixture": accuracy(GaussianMixture(K, random_state=0, max_iter=200).fit_predict(mix.Z), mix.labels),
    }
    record_property("accuracy", scores)
    assert scores["SubspaceMixture"] >= 0.99
    assert scores["KMeans"] < 0.6
    assert scores["GaussianMixture"] < 0.9


@pytest.mark.parametrize(("n", "d", "classes", "p"), [(400, 16, 8, 3), (1000, 16, 20, 2), (300, 64, 6, 5)])
def test_many_subspaces_with_few_tokens_each(n: int, d: int, classes: int, p: int) -> None:
    mix = srr.subspace_mixture(n=n, d=d, K=classes, p=p, noise=0.02, coherence=None, seed=1)
    fits = [srr.SubspaceMixture(classes, p).fit(mix.Z, seed=seed) for seed in range(3)]
    bayes = srr.ops.subspace_membership(mix.Z, mix.U, temperature=0.02**2 * (1 + 0.02**2)).argmax(axis=1)
    best = float((bayes == mix.labels).mean())
    assert np.median([accuracy(fit.labels, mix.labels) for fit in fits]) >= best - 0.01


@pytest.mark.parametrize(("classes", "p"), [(3, 2), (2, 4), (1, 3)])
def test_coding_length_chooses_k_and_p(classes: int, p: int) -> None:
    mix = srr.subspace_mixture(n=300, d=12, K=classes, p=p, noise=0.1, rotated=True, seed=3)
    fit = srr.SubspaceMixture(range(1, 6), range(1, 6), restarts=4).fit(mix.Z, seed=0)
    assert fit.U.shape == (classes, 12, p)
    assert fit.coding_length == min(fit.coding_lengths.values())
    assert len(fit.coding_lengths) == 25
    assert accuracy(fit.labels, mix.labels) >= 0.98


def test_coding_length_is_likelihood_and_half_a_logarithm_per_parameter() -> None:
    mix = srr.subspace_mixture(n=100, d=6, K=2, p=2, noise=0.2, seed=0)
    fit = srr.SubspaceMixture(2, 2).fit(mix.Z, seed=0)
    nats = -np.log(densities(mix.Z, fit.parameters).sum(axis=1)).sum()
    free = 2 * 2 * (6 - 2) + 1 + 2
    assert fit.coding_length == pytest.approx(nats + 0.5 * free * np.log(100), rel=1e-10)


def test_denoising_is_the_posterior_mean() -> None:
    """Tweedie: z + σ² ∇ log density, the gradient by central differences of SciPy's density, minus nothing else."""
    mix = srr.subspace_mixture(n=200, d=5, K=2, p=2, noise=0.3, coherence=None, seed=0)
    fit = srr.SubspaceMixture(2, 2).fit(mix.Z, seed=0)
    Z, h = mix.Z[:10], 1e-5
    step = h * np.eye(5)[:, None]
    logs = [
        np.log(densities((Z + s * step).reshape(-1, 5), fit.parameters).sum(axis=1)).reshape(5, 10) for s in (1, -1)
    ]
    score = (logs[0] - logs[1]).T / (2 * h)
    np.testing.assert_allclose(fit.denoise(Z), Z + float(fit.parameters.noise) * score, atol=1e-7)
    clean, noisy = np.linalg.norm(fit.denoise(mix.Z) - mix.clean), np.linalg.norm(mix.Z - mix.clean)
    assert clean < 0.8 * noisy


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b.name != "numpy"], ids=lambda b: b.name)
def test_backends_agree(backend: Backend) -> None:
    mix = srr.subspace_mixture(n=120, d=6, K=2, p=2, noise=0.1, seed=0)
    truth = srr.SubspaceMixture(2, 2, restarts=2).fit(mix.Z, seed=0)
    fit = srr.SubspaceMixture(2, 2, restarts=2).fit(backend.asarray(mix.Z), seed=0)
    assert fit.U.dtype == backend.floating
    np.testing.assert_array_equal(to_numpy(fit.labels), truth.labels)
    backend.close(fit.U @ fit.U.mT, truth.U @ truth.U.swapaxes(1, 2), ulps=1e6 if "32" not in backend.dtype else 2000)
    backend.close(fit.posterior(backend.asarray(mix.Z)), truth.membership, ulps=1e6)
    assert fit.coding_length == pytest.approx(truth.coding_length, rel=1e-5)


def test_the_seed_decides() -> None:
    Z = np.random.default_rng(0).standard_normal((80, 6))
    fits = [srr.SubspaceMixture(3, 2, restarts=2).fit(Z, seed=s) for s in (0, 0, 1)]
    np.testing.assert_array_equal(fits[0].U, fits[1].U)
    assert not np.array_equal(fits[0].U, fits[2].U)


@pytest.mark.parametrize(
    "Z",
    [np.zeros((10, 4)), np.ones((10, 4)), np.eye(4)[[0, 1] * 5], 1e-140 * np.eye(4)[[0, 1] * 5]],
    ids=["zeros", "all the same", "on the axes", "tiny"],
)
def test_degenerate_tokens_give_finite_fits(Z: np.ndarray) -> None:
    fit = srr.SubspaceMixture(2, 1).fit(Z, seed=0)
    assert all(np.isfinite(a).all() for a in (*fit.parameters[:4], fit.membership, fit.denoise(Z)))
    np.testing.assert_allclose(fit.membership.sum(axis=1), 1.0)


BAD = {
    "integers": (lambda: srr.SubspaceMixture(2, 1).fit(np.ones((5, 3), dtype=int), seed=0), TypeError, "Z"),
    "nan": (lambda: srr.SubspaceMixture(2, 1).fit(np.full((5, 3), np.nan), seed=0), ValueError, "finite"),
    "three axes": (lambda: srr.SubspaceMixture(2, 1).fit(np.ones((2, 5, 3)), seed=0), ValueError, "shape"),
    "too few": (lambda: srr.SubspaceMixture(6, 1).fit(np.ones((5, 3)), seed=0), ValueError, "K=6"),
    "too deep": (lambda: srr.SubspaceMixture(2, (1, 3)).fit(np.ones((5, 3)), seed=0), ValueError, "p=3"),
    "no K": (lambda: srr.SubspaceMixture((), 1), ValueError, "candidate"),
    "K": (lambda: srr.SubspaceMixture(0, 1), ValueError, "K"),
    "p": (lambda: srr.SubspaceMixture(2, 1.5), TypeError, "p"),
    "restarts": (lambda: srr.SubspaceMixture(2, 1, restarts=0), ValueError, "restarts"),
    "tol": (lambda: srr.SubspaceMixture(2, 1, tol=-1.0), ValueError, "tol"),
}


@pytest.mark.parametrize(("call", "error", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named(call, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
