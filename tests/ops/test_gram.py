"""Gram matrices, log-determinants and resolvents on either side."""

import numpy as np
import pytest
import torch
from mpmath import mp

import srr
from srr._array.derivatives import gram_factor
from tests import references as ref
from tests.backends import NUMPY

SHAPES = [(1, 1), (1, 5), (5, 1), (4, 9), (9, 4), (7, 7)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e6])
def test_logdet_and_resolvent_against_multi_precision(
    rng: np.random.Generator, shape: tuple[int, int], scale: float
) -> None:
    A = rng.standard_normal(shape)
    truth = float(ref.mp_logdet(A, scale))
    assert float(srr.ops.gram_logdet(A, scale)) == pytest.approx(truth, rel=1e-13, abs=0.0 if scale else 1e-300)
    exact = mp.matrix(A.tolist())
    with mp.workdps(50):
        inverse = mp.inverse(mp.eye(shape[1]) + scale * exact.T * exact)
        wanted = np.array((exact * inverse).tolist(), dtype=float)
    condition = 1.0 + scale * np.linalg.norm(A, 2) ** 2 if min(shape) == 1 else np.sqrt(1 + scale) * 100
    NUMPY.close(srr.ops.gram_resolvent(A, scale), wanted, ulps=100 * condition)


@pytest.mark.parametrize("wide", [True, False])
def test_one_factor_gives_value_resolvent_and_application(rng: np.random.Generator, wide: bool) -> None:
    A = rng.standard_normal((4, 9) if wide else (9, 4))
    X = rng.standard_normal((3, A.shape[1]))
    inverse = np.linalg.inv(np.eye(A.shape[1]) + 0.7 * A.T @ A)
    factor = gram_factor(A, 0.7, rtol=1e-14, xp=np)
    NUMPY.close(factor.apply(X), X @ inverse)
    NUMPY.close(factor.resolvent(), A @ inverse)
    NUMPY.close(factor.logdet(), -np.linalg.slogdet(inverse)[1])


@pytest.mark.parametrize("wide", [True, False])
def test_both_branches_agree_where_both_are_trusted(rng: np.random.Generator, wide: bool) -> None:
    """rtol = 0 sends the same problem to the singular values, rtol = inf to Cholesky."""
    A = rng.standard_normal((2, 4, 9) if wide else (2, 9, 4))
    X = rng.standard_normal((2, 3, A.shape[-1]))
    spectral, cholesky = (gram_factor(A, 0.7, rtol=rtol, xp=np) for rtol in (0.0, np.inf))
    assert type(spectral) is not type(cholesky)
    NUMPY.close(spectral.logdet(), cholesky.logdet())
    NUMPY.close(spectral.resolvent(), cholesky.resolvent())
    NUMPY.close(spectral.apply(X), cholesky.apply(X))


def test_scale_may_differ_per_item(rng: np.random.Generator) -> None:
    A = rng.standard_normal((3, 5, 4))
    scales = np.array([0.0, 0.5, 20.0])
    together = srr.ops.gram_logdet(A, scales)
    apart = [2 * ref.half_logdet(a, s) for a, s in zip(A, scales, strict=True)]
    NUMPY.close(together, np.array(apart))


@pytest.mark.parametrize("d", [511, 512, 515, 600])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocked_torch_gram_equals_the_plain_product(d: int, dtype: torch.dtype) -> None:
    A = torch.randn(2, 20, d, dtype=dtype, generator=torch.Generator().manual_seed(d))
    G = srr.ops.gram(A)
    truth = A.double().mT @ A.double()
    assert G.dtype == dtype
    assert (G - G.mT).abs().max() <= 4 * torch.finfo(dtype).eps * truth.abs().max()
    assert (G - truth).abs().max() <= 20 * torch.finfo(dtype).eps * truth.abs().max()


def test_blocked_torch_gram_is_differentiable() -> None:
    A = torch.randn(3, 520, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    G = srr.ops.gram(A)
    cotangent = torch.randn(G.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    G.backward(cotangent)
    expected = A.detach() @ (cotangent + cotangent.mT)
    assert torch.allclose(A.grad, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("operator", [srr.ops.gram_logdet, srr.ops.gram_resolvent])
@pytest.mark.parametrize(
    "scale", [None, "1.0", 1j, True, -1.0, np.nan, np.inf, np.asarray([1j, 1.0]), np.asarray([1.0, -1.0]), np.ones(3)]
)
def test_a_scale_that_is_no_number_is_refused(operator, scale: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^scale must"):
        operator(np.ones((2, 4, 3)), scale)
