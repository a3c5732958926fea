"""The theory as properties: identities, bounds with their constants, symmetries, descent, approximations."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import srr
from tests import references as ref
from tests.backends import NUMPY

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.floats(1e-3, 1e3)
EPSILONS = st.floats(0.05, 3.0)
SMALL = st.integers(1, 7)


def tokens(seed: int, n: int, d: int, size: float = 1.0) -> np.ndarray:
    """Random tokens, rank-deficient for half of the seeds."""
    rng = np.random.default_rng(seed)
    if seed % 2:
        return size * rng.standard_normal((n, 1)) @ rng.standard_normal((1, d))
    return size * rng.standard_normal((n, d))


def heads(seed: int, K: int, d: int, p: int, *, orthogonal: bool = True) -> np.ndarray:
    return ref.random_bases(np.random.default_rng(seed + 1), K, d, p, orthogonal=orthogonal)


# --------------------------------------------------------------------------- identities and symmetries


@given(seed=SEEDS, n=SMALL, d=SMALL, size=SIZES, eps=EPSILONS)
def test_both_sides_of_the_determinant_agree(seed: int, n: int, d: int, size: float, eps: float) -> None:
    """logdet(I_d + αZᵀZ) = logdet(I_n + αZZᵀ): the transpose, with n and d exchanged in α."""
    Z = tokens(seed, n, d, size)
    other = eps * math.sqrt(n * n / (d * d))  # n/(d·ε'²) = d/(n·ε²)
    assert float(srr.coding_rate(Z, eps=eps)) == pytest.approx(float(srr.coding_rate(Z.T, eps=other)), rel=1e-12)


@given(seed=SEEDS, n=SMALL, d=SMALL, size=SIZES, eps=EPSILONS)
def test_permutations_and_rotations_leave_rates_alone(seed: int, n: int, d: int, size: float, eps: float) -> None:
    """Statement 8: the rate is invariant, the gradient follows the tokens."""
    rng = np.random.default_rng(seed)
    Z, Q, order = tokens(seed, n, d, size), ref.random_rotation(rng, d), rng.permutation(n)
    value, grad = srr.ops.coding_rate_value_and_grad(Z, eps=eps)
    moved, moved_grad = srr.ops.coding_rate_value_and_grad(Z[order] @ Q, eps=eps)
    alpha = d / (n * eps**2)
    noise = 1e-13 * alpha * np.abs(Z).max()
    assert float(moved) == pytest.approx(float(value), rel=1e-12)
    np.testing.assert_allclose(moved_grad, grad[order] @ Q, atol=100 * noise)


@given(seed=SEEDS, size=SIZES, eps=EPSILONS)
def test_symmetries_of_the_subspace_rate(seed: int, size: float, eps: float) -> None:
    """Statement 8: heads permuted, bases turned inside their span, everything rotated together."""
    rng = np.random.default_rng(seed)
    Z, U = tokens(seed, 6, 6, size), heads(seed, 3, 6, 2, orthogonal=False)
    truth = float(srr.subspace_coding_rate(Z, U, eps=eps))
    turned = np.stack([B @ ref.random_rotation(rng, 2) for B in U])
    Q = ref.random_rotation(rng, 6)
    for other in ((Z, U[rng.permutation(3)]), (Z, turned), (Z @ Q, Q.T @ U), (Z[rng.permutation(6)], U)):
        assert float(srr.subspace_coding_rate(*other, eps=eps)) == pytest.approx(truth, rel=1e-11)


@given(seed=SEEDS)
def test_symmetries_of_attention(seed: int) -> None:
    """Token order, head order and a common rotation commute with MSSA; U_k → U_kQ_k leaves it alone."""
    rng = np.random.default_rng(seed)
    Z, U = rng.standard_normal((6, 6)), heads(seed, 3, 6, 2, orthogonal=False)
    truth, order, Q = srr.mssa(Z, U), rng.permutation(6), ref.random_rotation(rng, 6)
    NUMPY.close(srr.mssa(Z[order], U), truth[order])
    NUMPY.close(srr.mssa(Z, U[::-1]), truth)
    NUMPY.close(srr.mssa(Z, np.stack([B @ ref.random_rotation(rng, 2) for B in U])), truth)
    NUMPY.close(srr.mssa(Z @ Q, Q.T @ U), truth @ Q)


@given(seed=SEEDS, eps=EPSILONS)
def test_class_order_and_relabeling_leave_the_reduction_alone(seed: int, eps: float) -> None:
    rng = np.random.default_rng(seed)
    Z, labels, order = tokens(seed, 9, 4), rng.integers(0, 3, 9), rng.permutation(9)
    truth = float(srr.partition_coding_rate(Z, labels, eps=eps))
    assert float(srr.partition_coding_rate(Z[order], labels[order], eps=eps)) == pytest.approx(truth, rel=1e-12)
    assert float(srr.partition_coding_rate(Z, 5 + 2 * labels, eps=eps)) == pytest.approx(truth, rel=1e-12)


# --------------------------------------------------------------------------- bounds


@given(seed=SEEDS, n=SMALL, d=SMALL, size=SIZES, eps=EPSILONS)
def test_rate_lies_between_zero_and_its_energy_bound(seed: int, n: int, d: int, size: float, eps: float) -> None:
    """Statement 7: R ≤ (r/2) log(1 + α‖Z‖²/r), with equality for equal singular values."""
    Z = tokens(seed, n, d, size)
    r, alpha = min(n, d), d / (n * eps**2)
    value = float(srr.coding_rate(Z, eps=eps))
    assert 0 <= value <= r / 2 * math.log1p(alpha * np.sum(Z**2) / r) * (1 + 1e-12)
    flat = size * np.eye(n, d)
    assert float(srr.coding_rate(flat, eps=eps)) == pytest.approx(r / 2 * math.log1p(alpha * size**2), rel=1e-12)


@given(seed=SEEDS, d=st.integers(2, 8), size=SIZES, eps=EPSILONS)
def test_rate_is_below_the_sum_of_its_column_blocks(seed: int, d: int, size: float, eps: float) -> None:
    """Statement 7, Fischer: R(Z) ≤ Σ R(blocks) at the same α."""
    Z, cut = tokens(seed, 6, d, size), 1 + seed % (d - 1)
    alpha = d / (6 * eps**2)
    blocks = sum(0.5 * float(srr.ops.gram_logdet(B, alpha)) for B in (Z[:, :cut], Z[:, cut:]))
    assert float(srr.coding_rate(Z, eps=eps)) <= blocks * (1 + 1e-12)


@given(seed=SEEDS, K=st.integers(1, 5), size=SIZES, eps=EPSILONS, soft=st.booleans())
def test_rate_reduction_is_never_negative(seed: int, K: int, size: float, eps: float, soft: bool) -> None:
    """Statement 7: R^c(Z|Π) ≤ R(Z) for every partition, soft or hard."""
    rng = np.random.default_rng(seed)
    Z = tokens(seed, 8, 4, size)
    Pi = rng.dirichlet(np.ones(K), 8) if soft else rng.integers(0, K, 8)
    whole = float(srr.coding_rate(Z, eps=eps))
    assert float(srr.rate_reduction(Z, Pi, eps=eps)) >= -1e-13 * whole


@given(seed=SEEDS, size=SIZES, eps=EPSILONS, t=st.floats(0.0, 1.0))
def test_partition_rate_is_concave_in_the_membership(seed: int, size: float, eps: float, t: float) -> None:
    """Statement 7."""
    rng = np.random.default_rng(seed)
    Z = tokens(seed, 7, 4, size)
    first, second = rng.dirichlet(0.3 * np.ones(3), (2, 7))
    a, b, mixed = (
        float(srr.partition_coding_rate(Z, P, eps=eps)) for P in (first, second, t * first + (1 - t) * second)
    )
    assert mixed >= t * a + (1 - t) * b - 1e-12 * max(a, b)


@given(seed=SEEDS, K=st.sampled_from([1, 2, 3, 6]), size=SIZES, eps=EPSILONS)
def test_a_complete_frame_bounds_the_reduction_by_half_d_log_k(seed: int, K: int, size: float, eps: float) -> None:
    """Statement 7: Kp = d, orthonormal."""
    Z, U = tokens(seed, 8, 6, size), heads(seed, K, 6, 6 // K)
    reduction = float(srr.sparse_rate_reduction(Z, U, eps=eps, lam=0.0))
    assert reduction <= 3 * math.log(K) + 1e-11


@given(seed=SEEDS, size=st.floats(0.5, 100.0))
def test_rank_one_tokens_spread_over_the_heads_are_negative(seed: int, size: float) -> None:
    """The same frame, z with equal energy in every head: ½log(1 + αx) − (K/2)log(1 + αx/K²) < 0 for αx ≥ 1."""
    U = heads(seed, 3, 6, 2)
    direction = sum(B @ np.array([1.0, 1.0]) for B in U)
    Z = size * np.ones((8, 1)) * direction / np.linalg.norm(direction)
    x = 6 / (8 * 0.25) * 8 * size**2
    exact = 0.5 * (math.log1p(x) - 3 * math.log1p(x / 9))
    assert float(srr.sparse_rate_reduction(Z, U, eps=0.5, lam=0.0)) == pytest.approx(exact, rel=1e-9, abs=1e-12)
    if x > 27:
        assert exact < 0


# --------------------------------------------------------------------------- descent


@given(seed=SEEDS, size=SIZES, eps=EPSILONS, fraction=st.floats(0.01, 1.0), orthogonal=st.booleans())
def test_the_exact_step_descends_by_the_stated_amount(
    seed: int, size: float, eps: float, fraction: float, orthogonal: bool
) -> None:
    """Statement 5: κ ≤ 1/L_c lowers R^c by at least κ‖∇‖²/2; both rates by the naive definition."""
    Z, U = tokens(seed, 6, 6, size), heads(seed, 3, 6, 2, orthogonal=orthogonal)
    beta = 2 / (6 * eps**2)
    kappa = fraction / (beta * np.linalg.norm(sum(B @ B.T for B in U), 2))
    moved = srr.ops.compression_step(Z, U, step=kappa, eps=eps)
    gradient = ref.naive_subspace_grad(Z, U, eps)
    before, after = ref.naive_subspace_coding_rate(Z, U, eps), ref.naive_subspace_coding_rate(moved, U, eps)
    assert before - after >= kappa * np.sum(gradient**2) / 2 - 1e-11 * before


def test_three_times_the_safe_step_may_rise() -> None:
    """Outside κ ≤ 1/L_c: near zero R^c is a parabola of curvature β, and κ = 3/β overshoots to −2Z."""
    U = np.eye(4)[None]
    Z = 1e-3 * np.random.default_rng(0).standard_normal((4, 4))
    beta = 4 / (4 * 0.25)
    moved = srr.ops.compression_step(Z, U, step=3 / beta, eps=0.5)
    assert ref.naive_subspace_coding_rate(moved, U, 0.5) > ref.naive_subspace_coding_rate(Z, U, 0.5)


@given(seed=SEEDS, size=SIZES, eps=EPSILONS, lam=st.floats(0.0, 1.0))
def test_proximal_gradient_with_step_one_over_l_is_monotone(seed: int, size: float, eps: float, lam: float) -> None:
    """Statement 6: F = R^c − R + λ‖Z‖₁ never rises, and falls by at least ‖Z⁺ − Z‖²·L/2."""
    Z, U = tokens(seed, 6, 6, size), heads(seed, 3, 6, 2)
    L = float(srr.ops.sparse_rate_reduction_smoothness(Z, U, eps=eps))

    def cost(X: np.ndarray) -> float:
        return -ref.naive_sparse_rate_reduction(X, U, eps, lam)

    moved = srr.ops.soft_threshold(Z + srr.sparse_rate_reduction_grad(Z, U, eps=eps) / L, threshold=lam / L)
    noise = 1e-11 * (ref.naive_coding_rate(Z, eps) + lam * np.abs(Z).sum())
    assert cost(Z) - cost(moved) >= L / 2 * np.sum((moved - Z) ** 2) - noise


@given(seed=SEEDS, size=SIZES, eps=EPSILONS)
def test_majorization_by_the_tight_and_by_the_printed_constant(seed: int, size: float, eps: float) -> None:
    """Statements 4 and 19: −R(Y) ≤ −R(Z) − ⟨∇R, Y − Z⟩ + (c α/2)‖Y − Z‖² with c = 9/4, already with c = 1/8."""
    rng = np.random.default_rng(seed)
    Z = tokens(seed, 5, 4, size)
    Y = Z + size * 10.0 ** rng.uniform(-3, 1) * rng.standard_normal((5, 4))
    alpha, grad = 4 / (5 * eps**2), srr.coding_rate_grad(Z, eps=eps)
    linear = ref.naive_coding_rate(Z, eps) + np.sum(grad * (Y - Z))
    noise = 1e-11 * (abs(linear) + ref.naive_coding_rate(Y, eps))
    for c in (1 / 8, 1.0, 9 / 4):
        assert ref.naive_coding_rate(Y, eps) >= linear - c * alpha / 2 * np.sum((Y - Z) ** 2) - noise


# --------------------------------------------------------------------------- Neumann series


def _spectral(Z: np.ndarray, U: np.ndarray, eps: float) -> list[tuple[float, float]]:
    """‖V_k‖₂ and ‖V_k‖_F of each head."""
    return [(np.linalg.norm(Z @ B, 2), np.linalg.norm(Z @ B)) for B in U]


@given(seed=SEEDS, size=st.floats(1e-2, 1e2), eps=EPSILONS, orthogonal=st.booleans())
def test_first_order_error_is_within_its_bound(seed: int, size: float, eps: float, orthogonal: bool) -> None:
    """Statement 10 with its exponent set right: β³(Σ‖V_k‖₂⁸‖V_k‖_F²)^½, the plain sum if heads overlap; any size."""
    Z, U = tokens(seed, 6, 6, size), heads(seed, 3, 6, 2, orthogonal=orthogonal)
    beta = 2 / (6 * eps**2)
    error = np.linalg.norm(srr.ops.neumann_grad(Z, U, eps=eps) - ref.naive_subspace_grad(Z, U, eps))
    terms = [two**4 * frobenius for two, frobenius in _spectral(Z, U, eps)]
    bound = beta**3 * (math.sqrt(sum(t**2 for t in terms)) if orthogonal else sum(terms))
    assert error <= bound * (1 + 1e-9) + 1e-12 * beta * np.linalg.norm(Z)


@pytest.mark.parametrize("terms", [0, 1, 2, 3, 4])
def test_a_series_of_k_terms_has_order_2k_plus_3(terms: int) -> None:
    """The first neglected term is β(βVᵀV)^{k+1}: the error falls as size^(2k+3)."""
    rng = np.random.default_rng(3)
    Z, U = rng.standard_normal((6, 6)), heads(5, 3, 6, 2)
    sizes = np.geomspace(0.05, 0.2, 6)
    with_size = [s * Z / np.linalg.norm(Z, 2) for s in sizes]
    errors = [
        np.linalg.norm(srr.ops.neumann_grad(X, U, eps=0.5, terms=terms) - ref.naive_subspace_grad(X, U, 0.5))
        for X in with_size
    ]
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert slope == pytest.approx(2 * terms + 3, abs=0.15)


def test_the_series_converges_only_where_its_validity_is_below_one() -> None:
    rng = np.random.default_rng(4)
    Z, U = rng.standard_normal((6, 6)), heads(6, 3, 6, 2)
    unit = float(srr.ops.neumann_validity(Z, U, eps=1.0))
    for validity, useful in ((0.25, True), (0.8, True), (1.5, False), (4.0, False)):
        eps = math.sqrt(unit / validity)
        assert float(srr.ops.neumann_validity(Z, U, eps=eps)) == pytest.approx(validity, rel=1e-12)
        truth = ref.naive_subspace_grad(Z, U, eps)
        errors = [np.linalg.norm(srr.ops.neumann_grad(Z, U, eps=eps, terms=k) - truth) for k in (1, 5, 9, 13)]
        assert (np.diff(errors) < 0).all() if useful else (np.diff(errors) > 0).all()


def _unit_tokens(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The data of statements 12-13: d = 48, K = 6, p = 8, n = 64, unit tokens, a complete orthonormal frame."""
    Z = np.random.default_rng(seed).standard_normal((64, 48))
    return Z / np.linalg.norm(Z, axis=-1, keepdims=True), heads(seed, 6, 48, 8)


@pytest.mark.parametrize("seed", range(5))
def test_reference_cosines_of_the_first_order_step(seed: int) -> None:
    """Statement 13: a good direction at ε = 1, none at ε = 0.1, where the step even raises R^c."""
    Z, U = _unit_tokens(seed)
    cosines = {}
    for eps in (1.0, 0.5, 0.1):
        exact, first = ref.naive_subspace_grad(Z, U, eps), srr.ops.neumann_grad(Z, U, eps=eps)
        cosines[eps] = np.sum(exact * first) / np.linalg.norm(exact) / np.linalg.norm(first)
    assert cosines[1.0] > 0.99
    assert cosines[1.0] > cosines[0.5] > cosines[0.1]
    assert cosines[0.1] < -0.4
    assert float(srr.ops.neumann_validity(Z, U, eps=0.1)) > 20
    beta = 8 / (64 * 0.01)
    moved = srr.ops.neumann_step(Z, U, step=1 / beta, eps=0.1)
    assert ref.naive_subspace_coding_rate(moved, U, 0.1) > ref.naive_subspace_coding_rate(Z, U, 0.1) + 10


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("eps", [1.0, 0.5, 0.1])
def test_raw_and_normalized_rates_disagree_about_attention(seed: int, eps: float) -> None:
    """Statement 12: Z + MSSA raises the raw rate and lowers the normalized one; (10)'s step lowers the raw rate."""
    Z, U = _unit_tokens(seed)

    def rate(X: np.ndarray) -> float:
        return ref.naive_subspace_coding_rate(X, U, eps)

    def normalized(X: np.ndarray) -> float:
        return rate(X / np.linalg.norm(X, axis=-1, keepdims=True))

    beta = 8 / (64 * eps**2)
    attended = srr.mssa(Z, U)
    step = min(1 / beta, 1.0) * 0.5
    assert rate(Z + attended) > rate(Z)
    assert normalized(Z + attended) < normalized(Z)
    assert rate((1 - step * beta) * Z + step * beta * attended) < rate(Z)


@given(seed=SEEDS, kappa=st.floats(0.0, 2.0), eps=EPSILONS)
def test_equation_ten_is_the_neumann_step_with_softmax_in_place_of_the_gram(
    seed: int, kappa: float, eps: float
) -> None:
    """Under ΣU_kU_kᵀ = I, Z − κβ(Z − ΣP_kV_kU_kᵀ) = (1 − κβ)Z + κβ·MSSA, P_k the softmax for Neumann's βV_kV_kᵀ."""
    rng = np.random.default_rng(seed)
    Z, U = rng.standard_normal((6, 6)), heads(seed, 3, 6, 2)
    beta = 2 / (6 * eps**2)
    from_gram = Z - kappa * beta * (Z - sum(beta * (Z @ B) @ (Z @ B).T @ (Z @ B) @ B.T for B in U))
    NUMPY.close(srr.ops.neumann_step(Z, U, step=kappa, eps=eps), from_gram, ulps=2000 * (1 + kappa * beta**2))
    replaced = Z - kappa * beta * (Z - sum(ref.naive_ssa(Z @ B) @ B.T for B in U))
    printed = (1 - kappa * beta) * Z + kappa * beta * srr.mssa(Z, U)
    NUMPY.close(printed, replaced, ulps=2000, scale=(1 + kappa * beta) * np.abs(Z).max())


@given(seed=SEEDS)
def test_beta_belongs_to_equation_ten_once(seed: int) -> None:
    """Erratum (a): mssa is the plain sum of heads, it does not carry β (nor ε at all)."""
    rng = np.random.default_rng(seed)
    Z, U = rng.standard_normal((5, 4)), heads(seed, 2, 4, 2)
    NUMPY.close(srr.mssa(Z, U), ref.naive_mssa(Z, U))


def test_subspace_rate_does_not_know_membership() -> None:
    """Statement 14: R^c sees Z only through ZᵀZ; clustered and mixed tokens with one Gram matrix cost the same."""
    rng = np.random.default_rng(0)
    U = heads(2, 2, 6, 3)
    clustered = np.concatenate([rng.standard_normal((30, 3)) @ B.T for B in U])
    mixed = ref.random_rotation(rng, 60) @ clustered
    NUMPY.close(srr.subspace_coding_rate(mixed, U, eps=0.5), srr.subspace_coding_rate(clustered, U, eps=0.5))
    shares = np.sum((mixed @ U[0]) ** 2, -1) / np.sum(mixed**2, -1)
    assert np.mean((shares > 0.1) & (shares < 0.9)) > 0.9
