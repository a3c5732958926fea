"""scikit-learn's own checks, pipelines, searches, pickles; and agreement with the solvers beneath."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import ElasticNet, LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import srr
from srr.estimators import (
    CodingLengthClustering,
    ReduNetClassifier,
    SparseRateReductionTransformer,
    SparseSubspaceClustering,
    SubspaceMixtureClustering,
    aligned_frame,
)

ALL = [
    CodingLengthClustering(),
    SparseSubspaceClustering(),
    ReduNetClassifier(),
    SparseRateReductionTransformer(),
    SubspaceMixtureClustering(),
]
VARIANTS = [
    CodingLengthClustering(n_clusters=2),
    ReduNetClassifier(n_layers=0, eps=0.2, scale=True),
    SparseRateReductionTransformer(2, 1, n_layers=5, lam=0.001, outside=1.0, affine=False, scale=False),
    SubspaceMixtureClustering(n_clusters=(2, 3), rank=(1,), n_init=2),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@parametrize_with_checks(ALL + VARIANTS)
def test_scikit_learn_checks(estimator, check) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def mix() -> srr.mixtures.Mixture:
    return srr.subspace_mixture(n=240, d=12, K=3, p=2, noise=0.05, coherence=None, rotated=True, seed=0)


@pytest.fixture(scope="module")
def digits() -> list[np.ndarray]:
    X, y = load_digits(return_X_y=True)
    return train_test_split(X, y, test_size=0.2, random_state=0, stratify=y)


def test_importing_srr_does_not_import_scikit_learn() -> None:
    code = "import sys, srr; assert 'sklearn' not in sys.modules; srr.estimators; assert 'sklearn' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("affine", [False, True])
def test_clusterers_find_the_subspaces(mix: srr.mixtures.Mixture, affine: bool) -> None:
    models = (
        SubspaceMixtureClustering(3, 2, affine=affine, random_state=0),
        CodingLengthClustering(0.3, affine=affine),
    )
    for model in models:
        assert adjusted_rand_score(mix.labels, model.fit_predict(mix.Z)) > 0.9  # few tokens lie near the origin
        np.testing.assert_array_equal(model.predict(mix.Z), model.labels_)
    assert models[1].n_clusters_ == 3


def test_affine_subspaces_need_not_pass_the_origin(mix: srr.mixtures.Mixture) -> None:
    """The same subspaces, each moved by an offset of its own."""
    offsets = 2.0 * np.random.default_rng(1).standard_normal((3, 12))
    X = mix.Z + offsets[mix.labels]
    model = SubspaceMixtureClustering(3, 2, random_state=0).fit(X)
    assert adjusted_rand_score(mix.labels, model.labels_) > 0.97
    assert model.bases_.shape == (3, 12, 2)
    np.testing.assert_array_equal(SubspaceMixtureClustering(3, 2, random_state=0).fit(1e3 * X).labels_, model.labels_)


def test_the_mixture_is_the_solver(mix: srr.mixtures.Mixture) -> None:
    model = SubspaceMixtureClustering(3, 2, affine=False, random_state=0).fit(mix.Z)
    fit = srr.SubspaceMixture(3, 2).fit(mix.Z, seed=5)
    match = [np.bincount(fit.labels[model.labels_ == k]).argmax() for k in range(3)]
    for k, j in enumerate(match):
        assert srr.ops.principal_angles(model.bases_[k], fit.U[j]).max() < 1e-3
    assert model.coding_length_ == pytest.approx(fit.coding_length, rel=1e-6)
    assert model.score(mix.Z) == pytest.approx(-float(fit.solution.objective), rel=1e-6)
    np.testing.assert_allclose(model.predict_proba(mix.Z).sum(axis=1), 1.0)
    assert np.linalg.norm(model.denoise(mix.Z) - mix.clean) < 0.8 * np.linalg.norm(mix.Z - mix.clean)


def test_candidates_are_chosen_by_coding_length(mix: srr.mixtures.Mixture) -> None:
    model = SubspaceMixtureClustering(range(2, 5), (1, 2, 3), affine=False, n_init=4, random_state=0).fit(mix.Z)
    assert model.bases_.shape == (3, 12, 2)
    assert min(model.coding_lengths_, key=model.coding_lengths_.get) == (3, 2)


@pytest.mark.filterwarnings("ignore:Solutions leave the subspaces")
@pytest.mark.parametrize("outside", [0.0, 1.0])
def test_codes_are_the_iterates_of_the_solver(mix: srr.mixtures.Mixture, outside: float) -> None:
    """The layers on the training samples are fixed proximal gradient steps of the problem in the frame."""
    options = {"lam": 0.003, "n_layers": 15, "outside": outside, "affine": False, "scale": False}
    model = SparseRateReductionTransformer(3, 2, **options, random_state=0).fit(mix.Z)
    problem = srr.SparseRateReduction(
        model.frame_.T @ model.bases_, eps=0.5, penalty=srr.UnitL1(0.003), outside=outside
    )
    start = mix.Z @ model.frame_ / np.linalg.norm(mix.Z, axis=1, keepdims=True)
    step = 1.0 / float(problem.smoothness(start))
    solution = srr.minimize(problem, start, srr.ProximalGradient(srr.FixedStep(step)), tol=0.0, max_steps=15)
    np.testing.assert_allclose(model.transform(mix.Z), np.sqrt(12) * solution.Z, atol=1e-8)
    assert (np.diff(solution.history.objective) <= 1e-12).all()


@pytest.mark.parametrize("n", [120, 480])
def test_codes_are_sparse_on_the_sphere_and_keep_the_classes(n: int) -> None:
    """Mutually orthogonal subspaces, turned at random: the frame finds them, whatever the number of samples."""
    mix = srr.subspace_mixture(n=n, d=12, K=3, p=4, noise=0.05, rotated=True, seed=0)
    model = SparseRateReductionTransformer(3, 4, lam=0.5 / n, n_layers=50, affine=False, scale=False, random_state=0)
    codes = model.fit_transform(mix.Z)
    np.testing.assert_allclose(np.linalg.norm(codes, axis=1), np.sqrt(12))
    assert (codes == 0).mean() > 0.8
    before = to_sphere_energy(mix.Z, model.bases_)
    energy = to_sphere_energy(codes, model.frame_.T @ model.bases_)
    assert adjusted_rand_score(mix.labels, energy.argmax(axis=0)) > 0.98
    assert (1 - energy.max(axis=0)).mean() < 0.1 * (1 - before.max(axis=0)).mean()  # what lies off the subspaces
    back = model.inverse_transform(codes)
    left = 1 - np.sum((mix.Z - back) ** 2) / np.sum((mix.Z - mix.Z.mean(0)) ** 2)
    assert model.recovered_ == pytest.approx(left, abs=1e-9)
    assert list(model.get_feature_names_out()) == [f"sparseratereductiontransformer{i}" for i in range(12)]


def to_sphere_energy(Z: np.ndarray, U: np.ndarray) -> np.ndarray:
    """Share of every row's energy on every subspace, shape (K, n)."""
    return np.sum((Z @ U) ** 2, axis=-1) / np.sum(Z**2, axis=-1)


@pytest.mark.parametrize(("K", "d", "p"), [(3, 12, 2), (2, 4, 2), (3, 4, 2), (1, 5, 1)])
def test_the_frame_is_orthogonal_and_aligned(K: int, d: int, p: int) -> None:
    rng = np.random.default_rng(0)
    U = np.stack([np.linalg.qr(rng.standard_normal((d, p)))[0] for _ in range(K)])
    D = aligned_frame(U)
    np.testing.assert_allclose(D.T @ D, np.eye(d), atol=1e-13)
    if K * p <= d:  # of all orthogonal frames the nearest: orthogonal bases come back themselves
        Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
        axes = np.stack([Q[:, k * p : (k + 1) * p] for k in range(K)])
        np.testing.assert_allclose(aligned_frame(axes)[:, : K * p], Q[:, : K * p], atol=1e-12)


def test_the_classifier_is_the_network(digits: list[np.ndarray]) -> None:
    Z, test, labels, truth = digits
    model = ReduNetClassifier(0.5, 5, affine=False, scale=False).fit(Z, labels + 3)
    network = srr.fits.build_redunet(Z, labels, eps=0.5, depth=5)
    np.testing.assert_allclose(model.residuals(test), network.class_residuals(test))
    np.testing.assert_allclose(model.transform(test), network(test))
    np.testing.assert_array_equal(model.predict(test), network.class_residuals(test).argmin(axis=1) + 3)
    assert model.classes_.tolist() == list(range(3, 13))
    assert model.predict_proba(test).argmax(axis=1).tolist() == (model.predict(test) - 3).tolist()
    assert model.score(test, truth + 3) >= 0.97


def test_the_classifier_recognizes_shifted_images(digits: list[np.ndarray]) -> None:
    """Digits on a torus, shifted at random: the same answers exactly, where pixels know nothing of shifts."""
    images = [np.pad(X.reshape(-1, 1, 8, 8), [(0, 0), (0, 0), (0, 4), (0, 4)]) for X in digits[:2]]
    rng = np.random.default_rng(0)
    moved = np.stack([np.roll(x, rng.integers(0, 12, 2), axis=(1, 2)) for x in images[1]])
    Z, test, shifted = (A.reshape(len(A), -1) for A in (*images, moved))
    model = ReduNetClassifier(0.5, 1, signal_shape=(1, 12, 12), n_filters=16, random_state=0).fit(Z, digits[2])
    np.testing.assert_allclose(model.residuals(shifted), model.residuals(test), atol=1e-10)
    assert model.score(shifted, digits[3]) >= 0.96
    assert ReduNetClassifier(0.5, 1).fit(Z, digits[2]).score(shifted, digits[3]) < 0.4


def test_pipeline_and_grid_search(digits: list[np.ndarray]) -> None:
    Z, test, labels, truth = digits
    pipeline = make_pipeline(PCA(20, random_state=0), ReduNetClassifier(n_layers=2))
    search = GridSearchCV(pipeline, {"redunetclassifier__eps": [0.3, 0.6], "redunetclassifier__n_layers": [0, 2]}, cv=3)
    assert search.fit(Z[:600], labels[:600]).score(test, truth) > 0.9
    codes = make_pipeline(SparseRateReductionTransformer(5, 3, n_layers=3, random_state=0), KNeighborsClassifier())
    assert cross_val_score(codes, Z[:400], labels[:400], cv=3).mean() > 0.8


def test_grid_search_by_likelihood(mix: srr.mixtures.Mixture) -> None:
    search = GridSearchCV(
        SubspaceMixtureClustering(affine=False, n_init=4, random_state=0),
        {"n_clusters": [1, 2, 3], "rank": [1, 2]},
        cv=3,
    )
    assert search.fit(mix.Z).best_params_ == {"n_clusters": 3, "rank": 2}


@pytest.mark.filterwarnings("ignore:Clusters that halves")
@pytest.mark.parametrize("estimator", ALL, ids=lambda e: type(e).__name__)
def test_pickles_and_clones(estimator, mix: srr.mixtures.Mixture) -> None:
    model = clone(estimator)
    model.fit(mix.Z, mix.labels)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(*(m.labels_ if hasattr(m, "labels_") else m.transform(mix.Z) for m in (again, model)))
    act = "transform" if hasattr(model, "transform") else "predict"
    if not hasattr(model, act):
        return
    with pytest.raises(NotFittedError):
        getattr(clone(model), act)(mix.Z)


@pytest.mark.parametrize("estimator", ALL, ids=lambda e: type(e).__name__)
def test_float32_stays_float32(estimator, mix: srr.mixtures.Mixture) -> None:
    model = clone(estimator).fit(mix.Z.astype(np.float32), mix.labels)
    if hasattr(model, "transform"):
        assert model.transform(mix.Z.astype(np.float32)).dtype == np.float32
    if hasattr(model, "bases_"):
        assert model.bases_.dtype == np.float32


BAD = {
    "eps": (CodingLengthClustering(0.0), "eps"),
    "too many clusters": (CodingLengthClustering(n_clusters=1000), "K=1000"),
    "rank": (SubspaceMixtureClustering(2, 12), "rank=12"),
    "restarts": (SubspaceMixtureClustering(2, 1, n_init=0), "restarts"),
    "subspaces": (SparseRateReductionTransformer(500, 1), "n_samples=240"),
    "lam": (SparseRateReductionTransformer(2, 1, lam=-1.0), "lam"),
    "layers": (ReduNetClassifier(n_layers=-1), "n_layers"),
    "word": (ReduNetClassifier(eps="best"), 'eps must be "auto"'),
    "scale": (CodingLengthClustering(scale="maybe"), "scale"),
    "signal": (ReduNetClassifier(signal_shape=(3, 5)), "signal_shape"),
}


@pytest.mark.parametrize(("estimator", "words"), BAD.values(), ids=BAD.keys())
def test_bad_parameters_are_named(estimator, words: str, mix: srr.mixtures.Mixture) -> None:
    with pytest.raises(ValueError, match=words):
        clone(estimator).fit(mix.Z, mix.labels)


BUNDLED = {"iris": load_iris, "wine": load_wine, "cancer": load_breast_cancer}


@pytest.fixture(scope="module", params=BUNDLED)
def table(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    return BUNDLED[request.param](return_X_y=True)


def test_defaults_do_not_hurt_a_logistic_regression(table: tuple[np.ndarray, np.ndarray]) -> None:
    """Features in their own units, as a table comes: the codes keep what the classes differ in."""
    X, y = table
    alone, coded = (
        cross_val_score(make_pipeline(*steps, LogisticRegression(max_iter=2000)), X, y, cv=5).mean()
        for steps in ([StandardScaler()], [SparseRateReductionTransformer(random_state=0)])
    )
    assert coded >= alone - 0.02


def test_a_default_redunet_is_no_worse_than_a_logistic_regression(table: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = table
    alone = cross_val_score(make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)), X, y, cv=5).mean()
    assert cross_val_score(ReduNetClassifier(random_state=0), X, y, cv=5).mean() >= alone - 0.02


def matched_accuracy(labels: np.ndarray, truth: np.ndarray) -> float:
    counts = contingency_matrix(truth, labels)
    return float(counts[linear_sum_assignment(-counts)].sum() / len(truth))


def test_default_clusters_are_no_worse_than_k_means(table: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = table
    K = len(np.unique(y))
    plain = KMeans(K, n_init=10, random_state=0).fit_predict(StandardScaler().fit_transform(X))
    model = SubspaceMixtureClustering(K, random_state=0).fit(X)
    assert matched_accuracy(model.labels_, y) >= matched_accuracy(plain, y) - 0.02
    assert {rank for _, rank in model.agreement_} > {0, 1}


def test_clusters_without_subspaces_are_said_to_be_none(table: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.warns(UserWarning, match=r"do not lie near \d low-dimensional subspaces"):
        CodingLengthClustering(n_clusters=len(np.unique(table[1]))).fit(table[0])


def test_ranks_by_agreement_find_the_subspaces_that_are_there() -> None:
    mix = srr.subspace_mixture(n=400, d=16, K=4, p=4, noise=0.1, coherence=None, seed=0)
    model = SubspaceMixtureClustering(4, random_state=0).fit(1e3 * mix.Z)
    assert model.bases_.shape == (4, 16, 4)
    assert adjusted_rand_score(mix.labels, model.labels_) > 0.95
    assert max(model.agreement_, key=model.agreement_.get) == (4, 4)


def test_poor_agreement_warns() -> None:
    X = np.random.default_rng(0).standard_normal((120, 6))  # one round cloud, in four parts
    with pytest.warns(UserWarning, match="halves of the samples"):
        SubspaceMixtureClustering(4, random_state=0).fit(X)


def test_verbose_prints_every_candidate_and_threads_change_nothing(
    mix: srr.mixtures.Mixture, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"affine": False, "n_init": 2, "random_state": 0}
    model = SubspaceMixtureClustering((2, 3), (1, 2), verbose=True, **options).fit(mix.Z)
    assert capsys.readouterr().out.count("K=3, rank=2") >= 1
    again = SubspaceMixtureClustering((2, 3), (1, 2), n_jobs=2, **options).fit(mix.Z)
    np.testing.assert_array_equal(again.labels_, model.labels_)
    assert again.coding_lengths_ == model.coding_lengths_


def test_units_do_not_matter() -> None:
    """Features in other units: the same clusters and predictions, since "auto" notices the difference."""
    X, y = load_iris(return_X_y=True)
    units = np.asarray([1e-3, 1.0, 1e3, 1e6])
    mixtures = [
        SubspaceMixtureClustering(3, random_state=0, scale=s).fit(A) for A, s in ((X, True), (X * units, "auto"))
    ]
    np.testing.assert_array_equal(mixtures[0].labels_, mixtures[1].labels_)
    np.testing.assert_allclose(mixtures[0].means_ * units, mixtures[1].means_, rtol=1e-6)
    np.testing.assert_allclose(mixtures[0].denoise(X) * units, mixtures[1].denoise(X * units), rtol=1e-6)
    nets = [ReduNetClassifier(random_state=0, scale=s).fit(A, y) for A, s in ((X, True), (X * units, "auto"))]
    np.testing.assert_allclose(nets[0].residuals(X), nets[1].residuals(X * units), rtol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("size", [1e-200, 1e150])
def test_extreme_sizes_change_nothing(size: float) -> None:
    X, y = load_iris(return_X_y=True)
    for model in (
        SubspaceMixtureClustering(3, 0, random_state=0),
        CodingLengthClustering(),
        ReduNetClassifier(0.5, 0),
        SparseSubspaceClustering(3, random_state=0),
    ):
        plain, other = (clone(model).fit(A, y) for A in (X, size * X))
        labels = [m.labels_ if hasattr(m, "labels_") else m.predict(A) for m, A in ((plain, X), (other, size * X))]
        assert adjusted_rand_score(*labels) > 0.9  # roundings end at another of many near solutions


@pytest.mark.filterwarnings("error")
def test_fewer_distinct_samples_than_clusters() -> None:
    assert len(
        SubspaceMixtureClustering(3, random_state=0).fit(np.repeat([[1.0, 2.0], [3.0, 1.0]], 12, axis=0)).labels_
    )


def test_layers_are_chosen_on_folds(digits: list[np.ndarray]) -> None:
    """Accuracy by number of layers is that of networks built so deep."""
    Z, test, labels, _ = digits
    network = srr.fits.build_redunet(Z[:300], labels[:300], eps=0.5, depth=3)
    for depth, residuals in enumerate(network.residuals_by_layer(test)):
        shallow = srr.fits.build_redunet(Z[:300], labels[:300], eps=0.5, depth=depth)
        np.testing.assert_allclose(residuals, shallow.class_residuals(test), atol=1e-12)
    model = ReduNetClassifier(random_state=0).fit(Z[:300], labels[:300])
    assert len(model.network_.layers) == model.n_layers_ <= 20
    assert model.eps_ in (0.1, 0.2, 0.5, 1.0, 2.0)


def test_codes_are_the_elastic_net_of_every_sample() -> None:
    """Row by row scikit-learn's elastic net of a sample on the others; it divides its objective by the d features."""
    mix = srr.subspace_mixture(n=40, d=10, K=2, p=3, noise=0.1, seed=0)
    model = SparseSubspaceClustering(2, affine=False, scale=False, l1_ratio=0.8, tol=1e-8, max_iter=5000).fit(mix.Z)
    Z = mix.Z / np.linalg.norm(mix.Z, axis=1, keepdims=True)
    products = np.abs(Z @ Z.T - np.eye(40)).max(axis=1)
    ridge = 0.2 / 20.0 * products.mean()
    for i in (0, 7, 31):
        lam, others = 0.8 / 20.0 * products[i], np.arange(40) != i
        share, options = lam / (lam + ridge), {"fit_intercept": False, "tol": 1e-12, "max_iter": 100_000}
        net = ElasticNet(alpha=(lam + ridge) / 10, l1_ratio=share, **options)
        np.testing.assert_allclose(model.codes_[i, others], net.fit(Z[others].T, Z[i]).coef_, atol=1e-6)
        assert model.codes_[i, i] == 0


@pytest.mark.parametrize("affine", [False, True])
def test_self_expression_finds_the_subspaces(affine: bool) -> None:
    mix = srr.subspace_mixture(n=120, d=20, K=4, p=3, noise=0.02, coherence=None, seed=0)
    labels = SparseSubspaceClustering(4, affine=affine, random_state=0).fit_predict(mix.Z + affine * 5.0)
    assert adjusted_rand_score(mix.labels, labels) > 0.95
