"""Tokens of sixteen bits: computed in more, given back in sixteen, in every operator that takes them."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

import srr
from tests import references as ref
from tests.backends import to_numpy
from tests.ops.cases import _CORE_NDIM, CASES, Case

HALVES = {
    "torch-float16": (lambda x: torch.asarray(x, dtype=torch.float16), torch.float16, 2.0**-10),
    "torch-bfloat16": (lambda x: torch.asarray(x, dtype=torch.bfloat16), torch.bfloat16, 2.0**-7),
    "jax-float16": (lambda x: jnp.asarray(x, dtype=jnp.float16), jnp.float16, 2.0**-10),
    "jax-bfloat16": (lambda x: jnp.asarray(x, dtype=jnp.bfloat16), jnp.bfloat16, 2.0**-7),
    "numpy-float16": (lambda x: np.asarray(x, dtype=np.float16), np.float16, 2.0**-10),
}
EXACT_BASES = {"coherence", "principal_angles", "snr"}  # the reference reads the span of bases, rounded ones lean


@pytest.fixture(params=HALVES)
def half(request):
    return HALVES[request.param]


def widened(x) -> np.ndarray:
    return to_numpy(x.double() if isinstance(x, torch.Tensor) else np.asarray(x).astype(np.float64))


def rounded(x: np.ndarray, name: str) -> np.ndarray:
    kind = ml_dtypes.bfloat16 if "bfloat16" in name else np.float16
    return x.astype(kind).astype(np.float64) if x.dtype.kind == "f" else x


def eighths(Pi: np.ndarray) -> np.ndarray:
    """Memberships that sixteen bits hold exactly, so that they still sum to one."""
    parts = np.floor(8.0 * Pi)
    parts[..., 0] += 8.0 - parts.sum(-1)
    return parts / 8.0


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name.replace(" ", "-"))
def test_every_operator_takes_sixteen_bits_and_gives_them_back(case: Case, kind: str) -> None:
    """The value is the one of the reference at the rounded arguments, to a rounding or two of the result."""
    make, dtype, eps = HALVES[kind]
    given = [
        eighths(x) if name == "Pi" else rounded(x, kind)
        for name, x in zip(case.names, case.inputs(batched=False), strict=True)
    ]
    as_labels = torch.asarray if kind.startswith("torch") else (jnp.asarray if kind.startswith("jax") else np.asarray)
    result = case.call(*(make(x) if x.dtype.kind == "f" else as_labels(x) for x in given))
    assert result.dtype == dtype
    truth = np.asarray(ref.over_batch(case.reference, tuple(_CORE_NDIM.get(n, 2) for n in case.names))(*given))
    roundings = 8.0 if case.name in EXACT_BASES else 2.0
    np.testing.assert_allclose(widened(result), truth, rtol=0.0, atol=roundings * eps * np.abs(truth).max())


def test_layer_norm_of_large_tokens(half) -> None:
    """Squares of 300 are no float16 any more."""
    make, dtype, eps = half
    Z = 300.0 * np.asarray([[1.0, -1.0, 1.0, -1.0]])
    result = srr.ops.layer_norm(make(Z))
    assert result.dtype == dtype
    np.testing.assert_allclose(widened(result), np.sign(Z), rtol=eps)


def test_row_norms_of_large_tokens(half) -> None:
    make, _, eps = half
    Z = make(np.asarray([[3e4, 4e4], [300.0, 400.0], [3e-3, 4e-3]]))
    np.testing.assert_allclose(widened(srr.ops.unit_soft_threshold(Z, threshold=0.0)), [[0.6, 0.8]] * 3, rtol=2 * eps)
    kept = widened(srr.ops.group_soft_threshold(make(np.asarray([[300.0, 400.0]])), threshold=250.0))
    np.testing.assert_allclose(kept, [[150.0, 200.0]], rtol=2 * eps)


def test_attention_of_large_tokens(half) -> None:
    """Scores of 10⁵ leave one weight in every row; the statistics of token attention stay finite."""
    make, _, eps = half
    V = 300.0 * np.eye(3)
    np.testing.assert_allclose(widened(srr.ops.ssa(make(V))), rounded(V, "bfloat16"), rtol=2 * eps)
    np.testing.assert_allclose(widened(srr.ops.attention_weights(make(V))), np.eye(3))
    U = np.stack([np.eye(3)[:, :1], np.eye(3)[:, 1:2]])
    member = widened(srr.ops.subspace_membership(make(V), make(U)))
    np.testing.assert_allclose(member, [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    assert np.isfinite(widened(srr.ops.tssa(make(V), make(U)))).all()
    assert np.isfinite(widened(srr.ops.tssa_heads(make(V[None]), make(np.ones((1, 1)))))).all()


def test_sixteen_bits_of_jax_without_float64() -> None:
    """JAX has no float64 unless asked for: the core is float32 then, never the half type itself."""
    jax.config.update("jax_enable_x64", False)
    try:
        for case in CASES:
            given = case.inputs(batched=False)
            values = [jnp.asarray(x, dtype=jnp.bfloat16 if x.dtype.kind == "f" else None) for x in given]
            result = case.call(*values)
            assert result.dtype == jnp.bfloat16, case.name
            assert np.isfinite(widened(result)).all(), case.name
    finally:
        jax.config.update("jax_enable_x64", True)
