"""ε, λ and first guesses by rule: closed forms, brute force and mixtures with known noise."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import adjusted_rand_score

import srr
from srr.fits.mixture import expectation, maximization
from tests.backends import BACKENDS, Backend


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_eps_of_a_noise_level_is_the_length_of_a_noise_vector(backend: Backend) -> None:
    Z = backend.asarray(np.random.default_rng(0).standard_normal((5, 16)))
    assert srr.fits.choose_eps(Z, noise=0.25) == pytest.approx(1.0, rel=1e-15)


@pytest.mark.parametrize("rate", [1e-3, 0.5, 7.0, 300.0])
@pytest.mark.parametrize(("n", "d", "size"), [(4, 4, 1.0), (3, 8, 1e3), (20, 5, 1e-3)])
def test_eps_of_a_rate_is_the_closed_form_for_orthonormal_tokens(rate: float, n: int, d: int, size: float) -> None:
    """R = (r/2) log(1 + α s²) with r equal singular values s."""
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((max(n, d),) * 2))[0][:n, :d]
    r = min(n, d)
    eps = size * np.sqrt(d / n / np.expm1(2 * rate / r))
    assert srr.fits.choose_eps(size * Q, rate=rate) == pytest.approx(eps, rel=1e-9)


def test_eps_of_a_rate_has_that_rate() -> None:
    Z = np.random.default_rng(0).standard_normal((30, 7)) ** 3
    for rate in (0.1, 5.0, 80.0):
        eps = srr.fits.choose_eps(Z, rate=rate)
        truth = 0.5 * np.linalg.slogdet(np.eye(7) + 7 / (30 * eps**2) * Z.T @ Z)[1]
        assert truth == pytest.approx(rate, rel=1e-9)


@pytest.mark.parametrize("noise", [0.005, 0.03, 0.1])
@pytest.mark.parametrize("coherence", [0.0, None])
def test_the_noise_is_found_within_a_quarter(noise: float, coherence: float | None) -> None:
    mix = srr.subspace_mixture(n=400, d=40, K=4, p=4, noise=noise, coherence=coherence, rotated=True, seed=1)
    assert srr.fits.estimate_noise(mix.Z) == pytest.approx(noise, rel=0.25)
    assert srr.fits.estimate_noise(1e5 * mix.Z) == pytest.approx(1e5 * srr.fits.estimate_noise(mix.Z), rel=1e-9)


def test_lam_of_a_share_is_a_quantile_for_an_orthogonal_dictionary() -> None:
    """Soft thresholding: an entry survives when |Z D| exceeds λ."""
    rng = np.random.default_rng(0)
    Z, D = rng.standard_normal((50, 8)), np.linalg.qr(rng.standard_normal((8, 8)))[0]
    problem = srr.SparseCoding(Z, D, srr.L1(1.0))
    for share in (0.05, 0.3, 0.8):
        lam = srr.fits.choose_lam(problem, np.zeros((50, 8)), share=share, tol=1e-9)
        assert lam == pytest.approx(np.quantile(np.abs(Z @ D), 1 - share), rel=0.06)
        assert np.mean(np.abs(Z @ D) > lam) <= share


@pytest.mark.parametrize("rotated", [False, True])
def test_lam_of_a_share_is_met_on_the_sphere(rotated: bool) -> None:
    mix = srr.subspace_mixture(n=16, d=8, K=2, p=4, noise=0.3, rotated=rotated, seed=0)
    frame = {"D": mix.D} if rotated else {}
    problem = srr.SparseRateReduction(mix.U, 0.5, srr.UnitL1(1.0), **frame)
    lines: list[str] = []
    lam = srr.fits.choose_lam(
        problem, mix.Z, share=0.4, max_steps=100, progress=lambda done, total, line: lines.append(line)
    )

    def share(lam: float) -> float:
        Z = srr.minimize(
            srr.SparseRateReduction(mix.U, 0.5, srr.UnitL1(lam), **frame),
            mix.Z,
            srr.ProximalGradient(),
            tol=1e-5,
            max_steps=100,
        ).Z
        return float(np.mean(np.abs(Z @ mix.D) > 1e-9))

    assert share(lam) <= 0.4 < share(lam / 1.3)
    assert "non-zeros" in lines[0]


REFUSED = {
    "both": (lambda Z: srr.fits.choose_eps(Z, noise=1.0, rate=1.0), "noise and rate"),
    "rate": (lambda Z: srr.fits.choose_eps(Z, rate=0.0), "rate"),
    "zero": (lambda Z: srr.fits.choose_eps(0 * Z, rate=1.0), "zero"),
    "one token": (lambda Z: srr.fits.estimate_noise(Z[:1]), "two tokens"),
    "share": (lambda Z: srr.fits.choose_lam(srr.SparseCoding(Z, np.eye(3), srr.L1(1.0)), Z, share=1.0), "share"),
    "guess": (lambda Z: srr.SubspaceMixture(2, 1).fit(Z, seed=0, guess=np.asarray([0, 1, 2, 0])), "guess"),
    "rank": (lambda Z: srr.SubspaceMixture(2, 0), "p must be"),
}


@pytest.mark.parametrize(("act", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_choices_are_named(act, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        act(np.arange(12.0).reshape(4, 3))


def test_a_penalty_without_lam_is_named() -> None:
    problem = srr.RateReduction(np.asarray([0, 1]), 0.5, srr.ClassSpheres(np.asarray([0, 1])))
    with pytest.raises(TypeError, match="penalty with lam"):
        srr.fits.choose_lam(problem, np.eye(2), share=0.5)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
@pytest.mark.parametrize("p", [0, 2])
def test_affine_expectation_is_bayes_rule(backend: Backend, p: int) -> None:
    """Against SciPy's normal densities with means; rank 0 is a mixture of round clusters."""
    rng = np.random.default_rng(0)
    Z, means, weights = rng.standard_normal((30, 5)), rng.standard_normal((3, 5)), rng.dirichlet(np.ones(3))
    U = np.stack([np.linalg.qr(rng.standard_normal((5, 5)))[0][:, :p] for _ in range(3)])
    covariances = [0.3 * np.eye(5) + 1.7 * Uk @ Uk.T for Uk in U]
    pairs = zip(weights, means, covariances, strict=True)
    joint = np.stack([w * scipy.stats.multivariate_normal(m, S).pdf(Z) for w, m, S in pairs], axis=1)
    there = [backend.asarray(a) for a in (U, weights, np.asarray(1.7), np.asarray(0.3), means)]
    membership, objective = expectation(backend.asarray(Z), srr.fits.MixtureParameters(*there))
    backend.close(membership, joint / joint.sum(axis=1, keepdims=True))
    backend.close(objective, -np.log(joint.sum(axis=1)).mean())
    best = maximization(backend.asarray(Z), membership, p, affine=True)
    r = joint / joint.sum(axis=1, keepdims=True)
    backend.close(best.means, r.T @ Z / r.sum(axis=0)[:, None])


@pytest.mark.parametrize("p", [0, 1, 3])
def test_affine_likelihood_never_falls_and_offsets_do_not_matter(p: int) -> None:
    rng = np.random.default_rng(1)
    Z = np.concatenate([rng.standard_normal((60, 4)) * [3, 1, 0.2, 0.2] + 3 * rng.standard_normal(4) for _ in range(3)])
    fit = srr.SubspaceMixture(3, p, affine=True).fit(Z, seed=0)
    assert (np.diff(fit.solution.history.objective) <= 1e-10).all()
    moved = srr.SubspaceMixture(3, p, affine=True).fit(Z + 100.0, seed=0)
    assert adjusted_rand_score(moved.labels, fit.labels) == 1.0
    np.testing.assert_allclose(moved.denoise(Z + 100.0) - 100.0, fit.denoise(Z), atol=1e-6)


def test_candidates_in_threads_with_progress() -> None:
    mix = srr.subspace_mixture(n=120, d=8, K=2, p=2, noise=0.1, seed=0)
    seen: list[tuple[int, int]] = []
    solver = srr.SubspaceMixture((1, 2), (1, 2), restarts=2)
    fits = [
        solver.fit(mix.Z, seed=0, n_jobs=jobs, progress=lambda done, total, line: seen.append((done, total)))
        for jobs in (1, 2)
    ]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)] * 2
    assert fits[0].coding_lengths == fits[1].coding_lengths
