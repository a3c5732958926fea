"""Rates and gradients against multi-precision truth, in float64 and float32, inside and outside the float32 core."""

import numpy as np
import pytest
import torch
from mpmath import mp

import srr
from tests import references as ref

PROBLEMS = list(ref.random_problems(200, seed=1))
FLOAT64_BOUND = 1e-13
FLOAT32_BOUND = 1e-5


def relative_error(value: object, truth: mp.mpf) -> float:
    return float(abs(mp.mpf(float(value)) - truth) / abs(truth))


def carried(Z: np.ndarray, eps: float) -> float:
    """First-order relative change of R when each entry of Z moves by one rounding, at worst.

    |dR| ≤ Σ |∇R ∘ Z| u = u · (what a perturbed input can lose), so no algorithm is asked for more digits than these.
    """
    gradient = ref.mp_coding_rate_grad(Z, eps)
    truth = ref.mp_coding_rate(Z, eps)
    return float(np.sum(np.abs(gradient) * np.max(np.abs(Z))) / truth) * np.finfo(np.float64).eps


def test_the_problems_cover_what_they_should() -> None:
    assert {kind for kind, _, _ in PROBLEMS} == set(ref.KINDS)
    sizes = [np.abs(Z).max() for _, Z, _ in PROBLEMS]
    assert min(sizes) < 1e-7
    assert max(sizes) > 1e7


def test_coding_rate_in_float64_over_200_random_problems() -> None:
    worst = max(relative_error(srr.coding_rate(Z, eps=eps), ref.mp_coding_rate(Z, eps)) for _, Z, eps in PROBLEMS)
    assert worst <= FLOAT64_BOUND


@pytest.mark.parametrize("kind", ref.KINDS)
def test_coding_rate_is_invariant_under_a_change_of_units(kind: str) -> None:
    rng = np.random.default_rng(2)
    Z = ref.problem_of_kind(rng, kind)
    values = [float(srr.coding_rate(Z * s, eps=0.3 * s)) for s in 2.0 ** np.arange(-26, 27, 13)]
    assert np.ptp(values) <= FLOAT64_BOUND * abs(values[0])


def test_torch_and_numpy_reach_the_same_accuracy() -> None:
    errors = [
        relative_error(srr.coding_rate(torch.from_numpy(Z), eps=eps), ref.mp_coding_rate(Z, eps))
        for _, Z, eps in PROBLEMS[:80]
    ]
    assert max(errors) <= FLOAT64_BOUND


def test_weighted_coding_rate_in_float64() -> None:
    rng = np.random.default_rng(3)
    errors = []
    for _, Z, eps in PROBLEMS[:80]:
        weights = rng.uniform(0.0, 2.0, size=len(Z)) * (rng.uniform(size=len(Z)) < 0.8)
        weights[0] = 1.0
        errors.append(relative_error(srr.coding_rate(Z, eps=eps, weights=weights), ref.mp_coding_rate(Z, eps, weights)))
    assert max(errors) <= FLOAT64_BOUND


def _bases(rng: np.random.Generator, d: int) -> np.ndarray:
    return ref.random_bases(rng, 2, d, max(1, d // 2), orthogonal=False)


def test_subspace_coding_rate_in_float64() -> None:
    rng = np.random.default_rng(4)
    errors = []
    for _, Z, eps in PROBLEMS:
        U = _bases(rng, Z.shape[1])
        truth = ref.mp_subspace_coding_rate(Z, U, eps)
        errors.append(relative_error(srr.subspace_coding_rate(Z, U, eps=eps), truth))
    assert max(errors) <= FLOAT64_BOUND


@pytest.mark.parametrize("soft", [True, False], ids=["membership", "labels"])
def test_partition_coding_rate_in_float64(soft: bool) -> None:
    rng = np.random.default_rng(5)
    errors = []
    for _, Z, eps in PROBLEMS[:120]:
        labels = rng.integers(0, 3, size=len(Z))
        Pi = rng.dirichlet(np.ones(3), size=len(Z)) if soft else ref.one_hot(labels, 3)
        truth = ref.mp_partition_coding_rate(Z, Pi, eps)
        errors.append(relative_error(srr.partition_coding_rate(Z, Pi if soft else labels, eps=eps), truth))
    assert max(errors) <= FLOAT64_BOUND


def test_rate_reduction_in_float64_relative_to_the_rate_it_is_a_difference_of() -> None:
    rng = np.random.default_rng(6)
    for _, Z, eps in PROBLEMS[:80]:
        Pi = rng.dirichlet(np.ones(3), size=len(Z))
        whole = ref.mp_coding_rate(Z, eps)
        truth = whole - ref.mp_partition_coding_rate(Z, Pi, eps)
        error = abs(float(srr.rate_reduction(Z, Pi, eps=eps)) - truth)
        assert error <= 2 * FLOAT64_BOUND * whole


def test_gradient_in_float64_against_a_multi_precision_solve() -> None:
    """Normwise, ‖error‖ ≤ 1e-13 ‖∇R‖ — up to the digits the 2-norm condition of the input leaves.

    A singular value σ of Z answers with ασ/(1 + ασ²), so rounding of the input alone moves the gradient by
    u·α‖Z‖; where α‖Z‖² is huge and a small σ survives, ‖∇R‖ may be as small as that.
    """
    for kind, Z, eps in PROBLEMS[:120]:
        truth = ref.mp_coding_rate_grad(Z, eps)
        alpha = Z.shape[1] / (len(Z) * eps**2)
        error = np.linalg.norm(srr.coding_rate_grad(Z, eps=eps) - truth)
        unavoidable = 20 * np.finfo(np.float64).eps * alpha * np.linalg.norm(Z)
        assert error <= FLOAT64_BOUND * np.linalg.norm(truth) + unavoidable, kind


# --------------------------------------------------------------------------- float32


def _float32_problems(count: int, seed: int) -> list[tuple[np.ndarray, float]]:
    """Tokens that float32 represents exactly; α‖Z‖² reaches 1e12."""
    rng = np.random.default_rng(seed)
    problems = []
    for i in range(count):
        Z = ref.problem_of_kind(rng, ref.KINDS[i % len(ref.KINDS)]) * 10.0 ** rng.uniform(-3, 3)
        problems.append((Z.astype(np.float32), float(10.0 ** rng.uniform(-3.0, 0.3))))
    return problems


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_float32_tokens_in_the_default_core_match_the_truth_of_the_same_numbers(library: str) -> None:
    for Z, eps in _float32_problems(96, seed=8):
        truth = ref.mp_coding_rate(Z.astype(np.float64), eps)
        value = srr.coding_rate(Z if library == "numpy" else torch.from_numpy(Z), eps=eps)
        assert str(value.dtype).endswith("float32")
        assert relative_error(value, truth) <= FLOAT32_BOUND


def test_float32_subspace_rate_and_partition_rate() -> None:
    rng = np.random.default_rng(9)
    for Z, eps in _float32_problems(96, seed=10):
        exact = Z.astype(np.float64)
        U = _bases(rng, Z.shape[1]).astype(np.float32)
        labels = rng.integers(0, 2, size=len(Z))
        compressed = ref.mp_subspace_coding_rate(exact, U.astype(np.float64), eps)
        assert relative_error(srr.subspace_coding_rate(Z, U, eps=eps), compressed) <= FLOAT32_BOUND
        partitioned = ref.mp_partition_coding_rate(exact, ref.one_hot(labels, 2), eps)
        assert relative_error(srr.partition_coding_rate(Z, labels, eps=eps), partitioned) <= FLOAT32_BOUND


def _core_problem(kind: str) -> np.ndarray:
    rng = np.random.default_rng(11)
    Z = rng.standard_normal((24, 16))
    if kind == "rank 10":
        Z = rng.standard_normal((24, 10)) @ rng.standard_normal((10, 16))
    Z = Z / np.linalg.norm(Z, axis=-1, keepdims=True)
    if kind == "equal rows":
        Z = np.broadcast_to(Z[:1], Z.shape)
    return np.ascontiguousarray(Z, dtype=np.float32)


def _gradient_errors(Z: np.ndarray, eps: float) -> tuple[float, float, float, float]:
    """Trust number 6e-8·α·λ_max, then relative gradient errors of the float32, the default and the float64 core."""
    truth = ref.mp_coding_rate_grad(Z.astype(np.float64), eps)
    alpha = Z.shape[1] / (len(Z) * eps**2)
    trust = 6e-8 * alpha * np.linalg.norm(Z.astype(np.float64), 2) ** 2
    tokens = torch.from_numpy(Z)
    fast = srr.coding_rate_grad(tokens, eps=eps, core_dtype=torch.float32).numpy()
    safe = srr.coding_rate_grad(tokens, eps=eps).numpy()
    size = np.linalg.norm(truth)
    full = srr.ops.coding_rate_grad(tokens, eps=eps, core_dtype=torch.float64).numpy()
    return trust, *(float(np.linalg.norm(found - truth) / size) for found in (fast, safe, full))


@pytest.mark.parametrize("kind", ["full rank", "rank 10", "equal rows"])
@pytest.mark.parametrize("eps", [1.0, 0.5])
def test_float32_core_inside_its_region_of_trust(kind: str, eps: float) -> None:
    trust, fast, safe, full = _gradient_errors(_core_problem(kind), eps)
    assert trust < 2e-5
    assert fast <= 100 * np.finfo(np.float32).eps + 10 * trust
    assert safe <= 32 * np.finfo(np.float32).eps
    assert full <= 2 * np.finfo(np.float32).eps


@pytest.mark.parametrize("kind", ["rank 10", "equal rows"])
def test_float64_core_stays_accurate_where_the_float32_core_may_not(kind: str) -> None:
    """ε = 0.001 is far outside; the input itself carries about u·α‖Z‖/‖∇R‖ there, which the bound allows."""
    Z = _core_problem(kind)
    trust, _, safe, _ = _gradient_errors(Z, 0.001)
    assert trust > 0.05
    assert safe <= 2 * np.finfo(np.float32).eps


def test_a_float32_core_loses_digits_outside_its_region() -> None:
    """Its singular values carry no more than float32 has: the reason for the default."""
    Z = torch.from_numpy(_core_problem("rank 10")).requires_grad_()
    truth = ref.mp_coding_rate_grad(Z.detach().numpy().astype(np.float64), 0.002)
    fast = srr.coding_rate_grad(Z, eps=0.002, core_dtype=torch.float32).detach().numpy()
    safe = srr.coding_rate_grad(Z, eps=0.002).detach().numpy()
    size = np.linalg.norm(truth)
    assert np.linalg.norm(fast - truth) / size > 1e-3
    assert np.linalg.norm(safe - truth) / size < 1e-6


def test_smaller_side_keeps_a_rank_four_rate_in_float32() -> None:
    """The case d = 64, four tokens, α = 1e8. The d-side determinant loses everything, the smaller side nothing."""
    rng = np.random.default_rng(12)
    Z = rng.standard_normal((4, 64)).astype(np.float32)
    eps = float(np.sqrt(64 / (4 * 1e8)))
    truth = ref.mp_coding_rate(Z.astype(np.float64), eps)
    wide_side = 0.5 * np.linalg.slogdet(np.eye(64, dtype=np.float32) + np.float32(1e8) * Z.T @ Z)[1]
    assert relative_error(wide_side, truth) > 0.1
    assert relative_error(srr.coding_rate(Z, eps=eps), truth) <= FLOAT32_BOUND
    assert relative_error(srr.coding_rate(Z, eps=eps, core_dtype=np.float32), truth) <= FLOAT32_BOUND


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tokens_use_the_same_core(dtype: torch.dtype) -> None:
    Z = torch.from_numpy(np.random.default_rng(13).standard_normal((12, 8))).to(dtype)
    truth = float(ref.mp_coding_rate(Z.double().numpy(), 0.5))
    value = srr.coding_rate(Z, eps=0.5)
    assert value.dtype == dtype
    assert abs(float(value) - truth) <= torch.finfo(dtype).eps * truth
    grad = srr.coding_rate_grad(Z, eps=0.5)
    assert grad.dtype == dtype
    exact = ref.mp_coding_rate_grad(Z.double().numpy(), 0.5)
    assert np.abs(grad.double().numpy() - exact).max() <= torch.finfo(dtype).eps * np.abs(exact).max()
