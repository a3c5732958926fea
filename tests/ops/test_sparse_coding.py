"""ISTA, its folded form, FISTA, the majorized sparsifier: against the definition and against long runs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import srr
from tests import references as ref
from tests.backends import NUMPY, Backend, to_numpy

LAM = 0.05


@pytest.fixture
def coding(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    D = rng.standard_normal((6, 10)) / np.sqrt(6)
    Z = rng.standard_normal((5, 6))
    return np.abs(rng.standard_normal((5, 10))), Z, D


def lasso_descent(Z: np.ndarray, D: np.ndarray, lam: float, *, nonnegative: bool) -> np.ndarray:
    """Coordinate descent to convergence, one code entry at a time: another algorithm for the same minimizer."""
    A = np.zeros((len(Z), D.shape[1]))
    squared = np.sum(D**2, axis=0)
    for _ in range(3000):
        before = A.copy()
        for j in range(D.shape[1]):
            residual = Z - A @ D.T + np.outer(A[:, j], D[:, j])
            target = residual @ D[:, j]
            size = np.maximum(target - lam, 0) if nonnegative else ref.naive_soft(target, lam)
            A[:, j] = size / squared[j]
        if np.abs(A - before).max() < 1e-15:
            break
    return A


def safe_step(D: np.ndarray) -> float:
    return 1.0 / np.linalg.norm(D, 2) ** 2


@pytest.mark.parametrize("nonnegative", [True, False])
def test_the_minimizer_is_a_fixed_point(coding: tuple, nonnegative: bool) -> None:
    _, Z, D = coding
    A = lasso_descent(Z, D, LAM, nonnegative=nonnegative)
    moved = srr.ista_step(A, Z, D, step=safe_step(D), lam=LAM, nonnegative=nonnegative)
    np.testing.assert_allclose(moved, A, atol=1e-12)


@pytest.mark.parametrize("nonnegative", [True, False])
def test_iterating_ista_and_fista_reaches_the_minimum(coding: tuple, nonnegative: bool) -> None:
    _, Z, D = coding
    best = ref.naive_lasso(lasso_descent(Z, D, LAM, nonnegative=nonnegative), Z, D, LAM)
    A = np.zeros((5, 10))
    for _ in range(3000):
        A = srr.ista_step(A, Z, D, step=safe_step(D), lam=LAM, nonnegative=nonnegative)
    assert ref.naive_lasso(A, Z, D, LAM) == pytest.approx(best, rel=1e-9)
    previous = current = np.zeros((5, 10))
    t = 1.0
    for _ in range(1500):
        following = 0.5 * (1 + np.sqrt(1 + 4 * t**2))
        new = srr.ops.fista_step(
            current, previous, Z, D, step=safe_step(D), lam=LAM, momentum=(t - 1) / following, nonnegative=nonnegative
        )
        previous, current, t = current, new, following
    assert ref.naive_lasso(current, Z, D, LAM) == pytest.approx(best, rel=1e-9)


def test_fista_bound_of_its_theorem(coding: tuple) -> None:
    """F(A_k) − F* ≤ 2L‖A₀ − A*‖²/(k+1)², Beck and Teboulle's constant; ISTA's is L‖A₀ − A*‖²/2k."""
    _, Z, D = coding
    L = np.linalg.norm(D, 2) ** 2
    optimum = lasso_descent(Z, D, LAM, nonnegative=True)
    best = ref.naive_lasso(optimum, Z, D, LAM)
    distance = np.sum(optimum**2)
    plain = previous = current = np.zeros_like(optimum)
    before = t = 1.0
    for k in range(1, 200):
        plain = srr.ista_step(plain, Z, D, step=1 / L, lam=LAM)
        momentum = (before - 1) / t
        previous, current = current, srr.ops.fista_step(current, previous, Z, D, step=1 / L, lam=LAM, momentum=momentum)
        before, t = t, 0.5 * (1 + np.sqrt(1 + 4 * t**2))
        assert ref.naive_lasso(plain, Z, D, LAM) - best <= L * distance / (2 * k) + 1e-13
        assert ref.naive_lasso(current, Z, D, LAM) - best <= 2 * L * distance / (k + 1) ** 2 + 1e-13


def test_fista_without_momentum_is_ista(coding: tuple, backend: Backend) -> None:
    A, Z, D = map(backend.asarray, coding)
    options = {"step": 0.2, "lam": LAM}
    plain = srr.ista_step(A, Z, D, **options)
    backend.close(srr.ops.fista_step(A, 0 * A, Z, D, momentum=0.0, **options), to_numpy(plain), ulps=20)


@given(seed=st.integers(0, 2**32 - 1), step=st.floats(0.01, 1.5), lam=st.floats(0.0, 0.5), nonnegative=st.booleans())
def test_ista_is_a_proximal_gradient_step(seed: int, step: float, lam: float, nonnegative: bool) -> None:
    """Statement 15: the gradient of ½‖Z − ADᵀ‖² by central differences (exact for a quadratic), then the prox."""
    rng = np.random.default_rng(seed)
    A, Z, D = rng.standard_normal((3, 5)), rng.standard_normal((3, 4)), rng.standard_normal((4, 5))
    gradient = ref.central_gradient(lambda X: ref.naive_lasso(X, Z, D, 0.0), A, step=1e-2)
    moved = A - step * gradient
    wanted = np.maximum(moved - step * lam, 0) if nonnegative else ref.naive_soft(moved, step * lam)
    found = srr.ista_step(A, Z, D, step=step, lam=lam, nonnegative=nonnegative)
    np.testing.assert_allclose(found, wanted, atol=1e-10 * (1 + np.abs(moved).max()))


@given(seed=st.integers(0, 2**32 - 1), fraction=st.floats(0.01, 1.0), m=st.integers(1, 9))
def test_ista_descends_from_feasible_codes(seed: int, fraction: float, m: int) -> None:
    """Statement 15: η ≤ 1/‖D‖², A ≥ 0; the descent is at least ‖A⁺ − A‖²/2η."""
    rng = np.random.default_rng(seed)
    D, Z = rng.standard_normal((4, m)), rng.standard_normal((6, 4))
    A = np.abs(rng.standard_normal((6, m)))
    step = fraction * safe_step(D)
    moved = srr.ista_step(A, Z, D, step=step, lam=LAM)
    before, after = ref.naive_lasso(A, Z, D, LAM), ref.naive_lasso(moved, Z, D, LAM)
    assert before - after >= np.sum((moved - A) ** 2) / (2 * step) - 1e-12 * before


def test_ista_may_rise_from_the_networks_infeasible_start() -> None:
    """Statement 15: A = Z has negative entries; clipping them is not a descent step. The smallest counter-example."""
    Z = np.array([[-1.0]])
    D = np.array([[1.0]])
    moved = srr.ista_step(Z, Z, D, step=1.0, lam=0.1)
    assert ref.naive_lasso(moved, Z, D, 0.1) > ref.naive_lasso(Z, Z, D, 0.1)


def test_ista_may_rise_beyond_the_safe_step(rng: np.random.Generator) -> None:
    D = rng.standard_normal((4, 4))
    A, Z = np.abs(rng.standard_normal((6, 4))), rng.standard_normal((6, 4))
    moved = srr.ista_step(A, Z, D, step=3.0 * safe_step(D), lam=LAM)
    assert ref.naive_lasso(moved, Z, D, LAM) > ref.naive_lasso(A, Z, D, LAM)


@pytest.mark.parametrize("d", [1, 4, 9])
def test_folded_step_equals_the_three_products_from_a_equal_z(
    rng: np.random.Generator, d: int, library: Backend
) -> None:
    """Statement 17: M = I + η(D − DᵀD)."""
    D, Z = rng.standard_normal((d, d)), rng.standard_normal((2, 7, d))
    M = srr.ops.ista_matrix(library.asarray(D), step=0.3)
    library.close(M, np.eye(d) + 0.3 * (D - D.T @ D))
    folded = srr.ops.folded_ista_step(library.asarray(Z), M, step=0.3, lam=0.2)
    library.close(folded, np.stack([ref.naive_ista(z, z, D, 0.3, 0.2) for z in Z]))


def test_folded_step_is_the_networks_ista_block(rng: np.random.Generator) -> None:
    """The released block: x + η(Dᵀx − DᵀDx) − ηλ then ReLU, for column vectors x."""
    D, Z = rng.standard_normal((5, 5)), rng.standard_normal((7, 5))
    columns = [np.maximum(x + 0.1 * (D.T @ x - D.T @ D @ x) - 0.01, 0) for x in Z]
    NUMPY.close(srr.ops.folded_ista_step(Z, srr.ops.ista_matrix(D, step=0.1), step=0.1, lam=0.1), np.stack(columns))


@pytest.mark.parametrize("nonnegative", [True, False])
def test_an_orthogonal_dictionary_is_solved_in_one_step(rng: np.random.Generator, nonnegative: bool) -> None:
    """Statement 16: from any start, one step of size one is coordinate descent's solution."""
    D, Z = ref.random_rotation(rng, 6), rng.standard_normal((8, 6))
    solved = srr.ista_step(rng.standard_normal((8, 6)), Z, D, step=1.0, lam=LAM, nonnegative=nonnegative)
    NUMPY.close(solved, lasso_descent(Z, D, LAM, nonnegative=nonnegative))


def test_lasso_value_has_the_half(rng: np.random.Generator) -> None:
    """Statement 15, erratum (b): ½‖Z‖² at A = 0."""
    Z, D = rng.standard_normal((3, 4)), rng.standard_normal((4, 5))
    assert float(srr.ops.lasso(np.zeros((3, 5)), Z, D, lam=1.0)) == pytest.approx(0.5 * np.sum(Z**2), rel=1e-14)


def test_codes_broadcast_over_a_shared_dictionary_and_a_batch_of_dictionaries(rng: np.random.Generator) -> None:
    A, Z = np.abs(rng.standard_normal((2, 5, 4))), rng.standard_normal((2, 5, 3))
    D = rng.standard_normal((2, 3, 4))
    expected = [ref.naive_ista(a, z, dic, 0.1, LAM) for a, z, dic in zip(A, Z, D, strict=True)]
    NUMPY.close(srr.ista_step(A, Z, D, step=0.1, lam=LAM), np.stack(expected))


# --------------------------------------------------------------------------- the majorized sparsifier


def test_prox_mm_is_the_printed_formula(rng: np.random.Generator, backend: Backend) -> None:
    """Statement 19: ReLU((1 + 4/(9(1+α))) Z − 4λ/(9α))."""
    Z = rng.standard_normal((2, 7, 5))
    alpha = 3.0
    expected = np.maximum((1 + 4 / (9 * (1 + alpha))) * Z - 4 * 0.2 / (9 * alpha), 0.0)
    backend.close(srr.ops.prox_mm_step(backend.asarray(Z), alpha=alpha, lam=0.2), expected)


def test_prox_mm_is_a_majorized_step_for_isotropic_tokens(rng: np.random.Generator) -> None:
    """With ZᵀZ = I the approximation of its derivation is exact: prox of (λ/L)‖·‖₁ at Z + ∇R/L, L = 9α/4."""
    Z = np.linalg.qr(rng.standard_normal((12, 5)))[0]
    eps = 0.5
    alpha = 5 / (12 * eps**2)
    gradient = ref.complex_step_gradient(lambda X: ref.analytic_coding_rate(X, eps), Z)
    L = 9 * alpha / 4
    expected = np.maximum(Z + gradient / L - 0.2 / L, 0.0)
    NUMPY.close(srr.ops.prox_mm_step(Z, alpha=alpha, lam=0.2), expected)


def test_prox_mm_lowers_its_objective_for_isotropic_feasible_tokens(rng: np.random.Generator) -> None:
    """λ‖Z‖₁ − R on Z ≥ 0 falls, from disjointly supported non-negative columns (ZᵀZ = I)."""
    Z = np.zeros((12, 4))
    for j in range(4):
        block = np.abs(rng.standard_normal(3))
        Z[3 * j : 3 * j + 3, j] = block / np.linalg.norm(block)
    eps, lam = 0.7, 0.3
    alpha = 4 / (12 * eps**2)
    moved = srr.ops.prox_mm_step(Z, alpha=alpha, lam=lam)
    before = lam * np.abs(Z).sum() - ref.naive_coding_rate(Z, eps)
    assert lam * np.abs(moved).sum() - ref.naive_coding_rate(moved, eps) < before
