"""Second-order facts: Hessian products, the spectrum [−α/8, α], smoothness constants."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import srr
from tests import references as ref
from tests.backends import NUMPY, Backend, to_numpy

EPS = 0.5


def hessian(product: object, shape: tuple[int, ...]) -> np.ndarray:
    """The matrix of a Hessian-vector product, column by column."""
    size = int(np.prod(shape))
    return np.stack([product(e.reshape(shape)).ravel() for e in np.eye(size)], axis=-1)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5), (1, 4), (4, 1)])
def test_products_against_differences_of_numerical_gradients(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    Z, V = rng.standard_normal(shape), rng.standard_normal(shape)
    h = 1e-5

    def gradient(X: np.ndarray) -> np.ndarray:
        return ref.complex_step_gradient(lambda Y: ref.analytic_coding_rate(Y, EPS), X)

    difference = (gradient(Z + h * V) - gradient(Z - h * V)) / (2 * h)
    found = srr.ops.coding_rate_hvp(Z, V, eps=EPS)
    np.testing.assert_allclose(found, difference, atol=1e-8 * np.abs(difference).max())


def test_subspace_products_against_differences(rng: np.random.Generator) -> None:
    Z, V, U = rng.standard_normal((7, 6)), rng.standard_normal((7, 6)), rng.standard_normal((3, 6, 2))
    h = 1e-5

    def gradient(X: np.ndarray) -> np.ndarray:
        return ref.complex_step_gradient(lambda Y: ref.analytic_subspace_coding_rate(Y, U, EPS), X)

    difference = (gradient(Z + h * V) - gradient(Z - h * V)) / (2 * h)
    np.testing.assert_allclose(
        srr.ops.subspace_coding_rate_hvp(Z, V, U, eps=EPS), difference, atol=1e-8 * np.abs(difference).max()
    )


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_the_hessian_is_symmetric(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    Z, U = rng.standard_normal(shape), rng.standard_normal((2, shape[1], 2))
    for product in (
        lambda V: srr.ops.coding_rate_hvp(Z, V, eps=EPS),
        lambda V: srr.ops.subspace_coding_rate_hvp(Z, V, U, eps=EPS),
    ):
        H = hessian(product, shape)
        NUMPY.close(H, H.T)


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 5),
    d=st.integers(1, 5),
    size=st.floats(1e-3, 1e3),
    eps=st.floats(0.05, 3),
)
def test_spectrum_lies_in_its_interval(seed: int, n: int, d: int, size: float, eps: float) -> None:
    """Statement 4: every eigenvalue of ∇²R is in [−α/8, α]."""
    Z = size * np.random.default_rng(seed).standard_normal((n, d))
    alpha = d / (n * eps**2)
    eigenvalues = np.linalg.eigvalsh(hessian(lambda V: srr.ops.coding_rate_hvp(Z, V, eps=eps), (n, d)))
    assert eigenvalues[-1] <= alpha * (1 + 1e-9)
    assert eigenvalues[0] >= -alpha / 8 * (1 + 1e-9)


def test_both_ends_of_the_interval_are_reached() -> None:
    """α at Z = 0; −α/8 along a singular value √(3/α): from f(σ) = ½log(1 + ασ²), f″(√(3/α)) = −α/8."""
    alpha = 3 / (4 * EPS**2)
    at_zero = hessian(lambda V: srr.ops.coding_rate_hvp(np.zeros((4, 3)), V, eps=EPS), (4, 3))
    NUMPY.close(at_zero, alpha * np.eye(12))
    Z = np.zeros((4, 3))
    Z[1, 2] = np.sqrt(3 / alpha)
    eigenvalues = np.linalg.eigvalsh(hessian(lambda V: srr.ops.coding_rate_hvp(Z, V, eps=EPS), (4, 3)))
    assert eigenvalues[0] == pytest.approx(-alpha / 8, rel=1e-13)


def test_lemma_six_constant_is_valid_and_loose() -> None:
    """9α/4 bounds the spectrum, and twice the tight constant never occurs."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for size in np.geomspace(1e-2, 1e2, 25):
        Z = size * rng.standard_normal((3, 4))
        H = hessian(functools.partial(srr.ops.coding_rate_hvp, Z, eps=EPS), (3, 4))
        worst = max(worst, np.abs(np.linalg.eigvalsh(H)).max() / (4 / (3 * EPS**2)))
    assert 0.9 < worst <= 1.0 + 1e-12 < 9 / 4


def test_smoothness_of_r_is_alpha(rng: np.random.Generator) -> None:
    assert float(srr.ops.coding_rate_smoothness(rng.standard_normal((2, 10, 6)), eps=0.5)) == pytest.approx(
        6 / 2.5, rel=1e-15
    )


@pytest.mark.parametrize("orthogonal", [True, False])
def test_subspace_smoothness_is_beta_times_the_frame_norm(
    rng: np.random.Generator, orthogonal: bool, library: Backend
) -> None:
    """Statement 5: β‖Σ U_kU_kᵀ‖₂, β alone for mutually orthogonal heads, reached at Z = 0."""
    U = ref.random_bases(rng, 3, 6, 2, orthogonal=orthogonal)
    Z = rng.standard_normal((7, 6))
    beta = 2 / (7 * EPS**2)
    frame = np.linalg.eigvalsh(sum(B @ B.T for B in U))[-1]
    found = srr.ops.subspace_coding_rate_smoothness(library.asarray(Z), library.asarray(U), eps=EPS)
    library.close(to_numpy(found), beta * frame)
    if orthogonal:
        assert frame == pytest.approx(1.0, rel=1e-13)
    H = hessian(lambda V: srr.ops.subspace_coding_rate_hvp(np.zeros((2, 6)), V, U, eps=EPS), (2, 6))
    assert np.linalg.eigvalsh(H)[-1] == pytest.approx(2 / (2 * EPS**2) * frame, rel=1e-12)


@given(seed=st.integers(0, 2**32 - 1), size=st.floats(1e-2, 1e2), orthogonal=st.booleans())
def test_upper_curvature_of_the_smooth_cost(seed: int, size: float, orthogonal: bool) -> None:
    """Statement 6: the spectrum of ∇²(R^c − R) stays below L_c + α/8; L_c bounds that of R^c."""
    rng = np.random.default_rng(seed)
    Z, U = size * rng.standard_normal((3, 4)), ref.random_bases(rng, 2, 4, 2, orthogonal=orthogonal)
    compressed = hessian(lambda V: srr.ops.subspace_coding_rate_hvp(Z, V, U, eps=EPS), (3, 4))
    expanded = hessian(lambda V: srr.ops.coding_rate_hvp(Z, V, eps=EPS), (3, 4))
    beta, alpha = 2 / (3 * EPS**2), 4 / (3 * EPS**2)
    L_c = beta * np.linalg.eigvalsh(sum(B @ B.T for B in U))[-1]
    assert np.linalg.eigvalsh(compressed)[-1] <= L_c * (1 + 1e-10)
    assert np.linalg.eigvalsh(compressed - expanded)[-1] <= L_c + alpha / 8 * (1 + 1e-10)
    assert float(srr.ops.sparse_rate_reduction_smoothness(Z, U, eps=EPS)) == pytest.approx(L_c + alpha / 8, rel=1e-12)


def test_products_are_linear_in_the_direction(rng: np.random.Generator) -> None:
    Z, V, W = rng.standard_normal((3, 5, 4))
    together = srr.ops.coding_rate_hvp(Z, V + 2 * W, eps=EPS)
    NUMPY.close(together, srr.ops.coding_rate_hvp(Z, V, eps=EPS) + 2 * srr.ops.coding_rate_hvp(Z, W, eps=EPS))


def test_float32_products_use_the_float64_core(rng: np.random.Generator) -> None:
    Z = (rng.standard_normal((9, 2)) @ rng.standard_normal((2, 6))).astype(np.float32)
    V = rng.standard_normal((9, 6)).astype(np.float32)
    exact = srr.ops.coding_rate_hvp(Z.astype(np.float64), V.astype(np.float64), eps=0.05)
    found = srr.ops.coding_rate_hvp(Z, V, eps=0.05)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, atol=2 * np.finfo(np.float32).eps * np.abs(exact).max())
