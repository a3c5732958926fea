"""The losses of the family, and their only place: rates with closed-form gradients, MCR², reconstruction."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from srr import ops
from srr._array.checks import check_bases, check_nonnegative, check_positive, check_tokens
from srr._array.namespace import core_cast, namespace
from srr.nn.probe import layer_states

__all__ = [
    "fused_coding_rate",
    "fused_rate_reduction",
    "fused_subspace_coding_rate",
    "mcr2_loss",
    "reconstruction_loss",
    "srr_regularizer",
    "total_coding_rate_regularizer",
]

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
            return _FusedRate.apply(Z, pair)  # type: ignore[no-any-return, no-untyped-call]
        return value(Z)


def fused_coding_rate(
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
        >>> fused_coding_rate(Z, eps=1.0).backward()
        >>> Z.grad.diagonal()
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    _refuse_gradient(weights, "weights")
    options: dict[str, Any] = {"eps": eps, "weights": weights, "core_dtype": core_dtype}
    return _rate(Z, partial(ops.coding_rate, **options), partial(ops.coding_rate_value_and_grad, **options))


def fused_subspace_coding_rate(Z: Tensor, U: Tensor, *, eps: float, core_dtype: torch.dtype | None = None) -> Tensor:
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
        >>> float(fused_subspace_coding_rate(torch.eye(4), U, eps=1.0) / torch.tensor(1.5).log())
        2.0
    """
    check_tokens(Z)
    check_bases(U, Z.shape[-1])
    xp = namespace(Z, U)
    dtype = torch.float64 if Z.dtype == torch.float64 else torch.float32
    with torch.autocast(Z.device.type, enabled=False):
        V = ops.project(core_cast(Z, core_dtype, xp), core_cast(U, core_dtype, xp))  # (..., K, n, p)
        return fused_coding_rate(V, eps=eps, core_dtype=V.dtype).sum(-1).to(dtype)


def fused_rate_reduction(Z: Tensor, Pi: Tensor, *, eps: float, core_dtype: torch.dtype | None = None) -> Tensor:
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
        >>> fused_rate_reduction(Z, torch.tensor([0, 1]), eps=1.0).backward()
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


def mcr2_loss(
    Z: Tensor, Pi: Tensor, *, eps: float = 0.5, normalize: bool = True, core_dtype: torch.dtype | None = None
) -> Tensor:
    r"""Maximal coding rate reduction as a loss, :math:`-\Delta R(Z \mid \Pi)`, in nats.

    Args:
        Z: features (..., n, d), one row a sample.
        Pi: integer labels (..., n) or membership weights (..., n, K).
        eps: distortion ε > 0.
        normalize: put every feature on the unit sphere first; without a constraint on the scale the loss has no
            minimum.
        core_dtype: dtype of the Gram matrices and their factors, float64 by default.

    Returns:
        Mean over the batch axes, a scalar.

    Raises:
        TypeError: Z is not a floating tensor.
        ValueError: as :func:`srr.nn.fused_rate_reduction`.

    Source: [MCR2] (11).

    Example:
        >>> round(float(mcr2_loss(3.0 * torch.eye(2), torch.tensor([0, 1]))), 4)
        -0.5108
    """
    return -fused_rate_reduction(_on_sphere(Z) if normalize else Z, Pi, eps=eps, core_dtype=core_dtype).mean()


def total_coding_rate_regularizer(
    Z: Tensor, *, eps: float = 0.5, normalize: bool = True, core_dtype: torch.dtype | None = None
) -> Tensor:
    r"""Minus the total coding rate of a batch of features, in nats: a term that keeps them from collapsing.

    .. math:: -R(\hat Z),\qquad \hat z_i = z_i / \lVert z_i \rVert

    Args:
        Z: features (..., n, d); leading axes are views or groups, each with a rate of its own.
        eps: distortion ε > 0.
        normalize: put every feature on the unit sphere first.
        core_dtype: dtype of the Gram matrix and its factor, float64 by default.

    Returns:
        Mean over the leading axes, a scalar; add it, weighted, to an alignment loss.

    Raises:
        TypeError: Z is not a floating tensor.
        ValueError: as :func:`srr.nn.fused_coding_rate`.

    Source: [SIMDINO], its expansion term.

    Example:
        >>> collapsed = torch.ones(8, 4)
        >>> bool(total_coding_rate_regularizer(torch.eye(8, 4)) < total_coding_rate_regularizer(collapsed))
        True
    """
    return -fused_coding_rate(_on_sphere(Z) if normalize else Z, eps=eps, core_dtype=core_dtype).mean()


def _on_sphere(Z: Tensor) -> Tensor:
    """Rows of unit norm in at least float32; a zero row stays zero."""
    Z = Z if Z.dtype in (torch.float32, torch.float64) else Z.float()
    return functional.normalize(Z, dim=-1)


@contextlib.contextmanager
def srr_regularizer(
    model: nn.Module,
    layers: Sequence[int] | None = None,
    *,
    eps: float = 0.5,
    lam: float = 0.1,
    normalize: bool = True,
    core_dtype: torch.dtype | None = None,
) -> Iterator[Callable[[], Tensor]]:
    r"""Minus the sparse rate reduction of the tokens that leave chosen layers, in nats.

    .. math::

        \frac{1}{|L|} \sum_{\ell \in L} R^c(Z^{\ell+1}; U_\ell) - R(Z^{\ell+1})
            + \lambda\, \tfrac1n \lVert Z^{\ell+1} \rVert_1

    Inside the context every forward pass of the model leaves its tokens with the layers; calling the yielded function
    gives the term of the latest pass, with gradients to everything that made the tokens and to the bases.

    Args:
        model: a network with ``blocks`` that have ``attention.U``.
        layers: their numbers, negative ones from the end; all of them by default.
        eps: distortion ε > 0.
        lam: sparsity weight λ ≥ 0 of the mean ℓ1 norm of a token.
        normalize: scale tokens to unit norm first, so that the term cannot be lowered by scale alone.
        core_dtype: dtype of the Gram matrices and their factors, float64 by default.

    Yields:
        A function of no arguments: the term, a scalar, mean over the images and the chosen layers.

    Raises:
        ValueError: a layer the model does not have or one without bases, no layer at all, eps not positive, lam
            negative; or the term asked for before any forward pass.

    Source: The regularizer of [INDEPTH], with ‖·‖₁ in place of ‖·‖₀.

    Example:
        >>> from srr.nn import create_model
        >>> model = create_model("crate_micro")
        >>> with srr_regularizer(model, layers=[-1]) as penalty:
        ...     loss = model(torch.zeros(2, 1, 8, 8)).square().mean() + 0.01 * penalty()
        >>> loss.backward()
        >>> model.blocks[-1].attention.projection.grad is not None
        True
    """
    check_positive(eps, "eps")
    check_nonnegative(lam, "lam")
    measure = partial(_negative_srr, eps=eps, lam=lam, normalize=normalize, core_dtype=core_dtype)
    with layer_states(model, layers) as seen:
        for layer in range(len(model.blocks)) if layers is None else layers:
            if not hasattr(getattr(model.blocks[layer], "attention", None), "U"):
                raise ValueError(f"layers must have bases, attention.U; got layer {layer} without")

        def penalty() -> Tensor:
            if not seen:
                raise ValueError("penalty must be asked for after a forward pass of the model; got none")
            return torch.stack([measure(state.after, state.block.attention.U) for state in seen.values()]).mean()

        yield penalty


def _negative_srr(
    Z: Tensor, U: Tensor, *, eps: float, lam: float, normalize: bool, core_dtype: torch.dtype | None
) -> Tensor:
    """R^c − R + λ·(mean ℓ1 norm of a token), mean over the batch axes of Z (..., n, d)."""
    Z = Z if Z.dtype in (torch.float32, torch.float64) else Z.float()
    Z = functional.normalize(Z, dim=-1) if normalize else Z
    compressed = fused_subspace_coding_rate(Z, U, eps=eps, core_dtype=core_dtype)
    expanded = fused_coding_rate(Z, eps=eps, core_dtype=core_dtype)
    return (compressed - expanded).mean() + lam * Z.abs().sum(-1).mean()


def reconstruction_loss(predicted: Tensor, targets: Tensor, hidden: Tensor) -> Tensor:
    r"""Mean over hidden patches of the mean squared error of a patch.

    Args:
        predicted: (B, n, patch_dim).
        targets: (B, n, patch_dim).
        hidden: boolean (B, n).

    Returns:
        One number; NaN when no patch is hidden.

    Source: [MAE], training objective.

    Example:
        >>> reconstruction_loss(torch.ones(1, 2, 3), torch.zeros(1, 2, 3), torch.tensor([[True, False]]))
        tensor(1.)
    """
    error = (predicted - targets).square().mean(dim=-1)  # (B, n, patch_dim) -> (B, n)
    weight = hidden.to(error.dtype)
    return (error * weight).sum() / weight.sum()
