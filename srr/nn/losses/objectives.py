"""What a network minimizes: MCR², and the total coding rate that keeps features from collapsing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from srr.nn.losses.rates import coding_rate, rate_reduction

__all__ = ["mcr2_loss", "total_coding_rate_regularizer"]


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
        ValueError: as :func:`srr.nn.losses.rate_reduction`.

    Source: [MCR2] (11).

    Example:
        >>> round(float(mcr2_loss(3.0 * torch.eye(2), torch.tensor([0, 1]))), 4)
        -0.5108
    """
    return -rate_reduction(_on_sphere(Z) if normalize else Z, Pi, eps=eps, core_dtype=core_dtype).mean()


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
        ValueError: as :func:`srr.nn.losses.coding_rate`.

    Source: [SIMDINO], its expansion term.

    Example:
        >>> collapsed = torch.ones(8, 4)
        >>> bool(total_coding_rate_regularizer(torch.eye(8, 4)) < total_coding_rate_regularizer(collapsed))
        True
    """
    return -coding_rate(_on_sphere(Z) if normalize else Z, eps=eps, core_dtype=core_dtype).mean()


def _on_sphere(Z: Tensor) -> Tensor:
    """Rows of unit norm in at least float32; a zero row stays zero."""
    Z = Z if Z.dtype in (torch.float32, torch.float64) else Z.float()
    return functional.normalize(Z, dim=-1)
