"""Rates as autograd functions: the forward pass keeps the closed-form gradient, the backward pass scales it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from srr import ops
from srr._array.checks import check_bases, check_tokens
from srr._array.namespace import core_cast, namespace

__all__ = ["coding_rate", "rate_reduction", "subspace_coding_rate"]

Pair = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Value (...) and gradient (..., n, d) of a rate at tokens (..., n, d)."""


class _FusedRate(torch.autograd.Function):
    """A rate of tokens whose gradient comes from the factorization that gave its value."""

    @staticmethod
    def forward(ctx: Any, Z: Tensor, pair: Pair) -> Tensor:
        value, slope = pair(Z.detach())
        ctx.save_for_backward(Z, slope)
        ctx.pair = pair
        return value

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        Z, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of the gradient is wanted: differentiate the closed form itself
            with torch.autocast(Z.device.type, enabled=False):
                slope = ctx.pair(Z)[1]
        return cotangent[..., None, None] * slope, None


def _rate(Z: Tensor, value: Callable[[Tensor], Tensor], pair: Pair) -> Tensor:
    """The rate of tokens in at least float32, fused with its gradient when one will be asked for."""
    Z = Z if Z.dtype in (torch.float32, torch.float64) else Z.float()
    with torch.autocast(Z.device.type, enabled=False):
        if torch.is_grad_enabled() and Z.requires_grad:
            return _FusedRate.apply(Z, pair)  # type: ignore[no-untyped-call]
        return value(Z)


def coding_rate(
    Z: Tensor, *, eps: float, weights: Tensor | None = None, core_dtype: torch.dtype | None = None
) -> Tensor:
    r"""Coding rate of tokens, in nats, ready for back-propagation.

    .. math:: R(Z) = \tfrac12 \log\det(I + \alpha Z^\top W Z), \qquad \nabla R = \alpha W Z (I + \alpha Z^\top W Z)^{-1}

    One Gram matrix and one Cholesky factor serve the forward and the backward pass. A second derivative differentiates
    the closed-form gradient.

    Args:
        Z: tokens (..., n, d) of any floating dtype; half precision is computed in the core and returned in float32.
        eps: distortion ε > 0.
        weights: token weights w ≥ 0 of shape (..., n), constants; zero masks a token.
        core_dtype: dtype of the Gram matrix and its factor, float64 by default. ``torch.float32`` is faster and can be
            trusted where 6e-8 · α · λ_max(ZᵀZ) ≪ 1.

    Returns:
        Rate of shape (...), in nats.

    Raises:
        TypeError: Z is not a floating tensor.
        ValueError: too few axes, NaN or infinity, eps not positive, weights that ask for a gradient.

    Source: [CRATE] (7), [MCR2] (1).

    Example:
        >>> Z = torch.eye(4, requires_grad=True)
        >>> coding_rate(Z, eps=1.0).backward()
        >>> Z.grad.diagonal()
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    _refuse_gradient(weights, "weights")
    options: dict[str, Any] = {"eps": eps, "weights": weights, "core_dtype": core_dtype}
    return _rate(Z, partial(ops.coding_rate, **options), partial(ops.coding_rate_value_and_grad, **options))


def subspace_coding_rate(Z: Tensor, U: Tensor, *, eps: float, core_dtype: torch.dtype | None = None) -> Tensor:
    r"""Coding rate of tokens under K subspaces, in nats; gradients reach tokens and bases.

    .. math:: R^c(Z; U) = \sum_k R(Z U_k), \qquad
        \nabla_{V_k} = \beta V_k (I + \beta V_k^\top V_k)^{-1},\ V_k = Z U_k

    Args:
        Z: tokens (..., n, d).
        U: bases (K, d, p); may be in another floating dtype than the tokens, as under autocast.
        eps: distortion ε > 0.
        core_dtype: dtype of the projections, the Gram matrices and their factors, float64 by default.

    Returns:
        Rate of shape (...), in nats.

    Raises:
        TypeError: Z or U is not a floating tensor.
        ValueError: U does not have shape (K, d, p) with the d of Z, NaN or infinity, eps not positive.

    Source: [CRATE] (8)-(9).

    Example:
        >>> U = torch.eye(4).reshape(4, 2, 2).transpose(0, 1)
        >>> float(subspace_coding_rate(torch.eye(4), U, eps=1.0) / torch.tensor(1.5).log())
        2.0
    """
    check_tokens(Z)
    check_bases(U, Z.shape[-1])
    xp = namespace(Z, U)
    dtype = torch.float64 if Z.dtype == torch.float64 else torch.float32
    with torch.autocast(Z.device.type, enabled=False):
        V = ops.project(core_cast(Z, core_dtype, xp), core_cast(U, core_dtype, xp))  # (..., K, n, p)
        return coding_rate(V, eps=eps, core_dtype=V.dtype).sum(-1).to(dtype)


def rate_reduction(Z: Tensor, Pi: Tensor, *, eps: float, core_dtype: torch.dtype | None = None) -> Tensor:
    r"""Rate reduction of tokens under a partition, in nats, ready for back-propagation to the tokens.

    .. math:: \Delta R(Z \mid \Pi) = R(Z) - R^c(Z \mid \Pi)

    Args:
        Z: tokens (..., n, d).
        Pi: integer labels (..., n) or (n,), or membership weights (..., n, K); constants. Labels are sorted on the
            host, so ``torch.compile`` breaks the graph there; memberships compile without a break.
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors, float64 by default.

    Returns:
        Reduction of shape (...), in nats.

    Raises:
        TypeError: Z is not a floating tensor.
        ValueError: labels or memberships of another length, negative, or asking for a gradient; eps not positive.

    Source: [MCR2] (9).

    Example:
        >>> Z = torch.eye(2, requires_grad=True)
        >>> rate_reduction(Z, torch.tensor([0, 1]), eps=1.0).backward()
        >>> Z.grad.diagonal()
        tensor([0.1667, 0.1667])
    """
    _refuse_gradient(Pi, "Pi")
    reduce = _labeled if not Pi.is_floating_point() else _reduce
    return reduce(Z, Pi, eps, core_dtype)


def _reduce(Z: Tensor, Pi: Tensor, eps: float, core_dtype: torch.dtype | None) -> Tensor:
    if Pi.is_floating_point():
        Pi = Pi.to(Z.dtype if Z.dtype == torch.float64 else torch.float32)
    options: dict[str, Any] = {"Pi": Pi, "eps": eps, "core_dtype": core_dtype}
    return _rate(Z, partial(ops.rate_reduction, **options), partial(ops.rate_reduction_value_and_grad, **options))


_labeled: Callable[..., Tensor] = torch.compiler.disable(_reduce)  # type: ignore[no-untyped-call]


def _refuse_gradient(constant: Tensor | None, name: str) -> None:
    if constant is not None and constant.requires_grad:
        raise ValueError(f"{name} must be a constant: no gradient is defined for it; pass {name}.detach()")
