"""Sparsifying layer that majorizes −R instead of fitting a dictionary."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srr._array.checks import check_count, check_nonnegative, check_positive
from srr.ops.sparse import prox_mm_step

__all__ = ["ProxMM"]

CURVATURE = 9 / 4
"""Curvature bound of −R in units of α that the paper uses."""


class ProxMM(nn.Module):
    r"""One majorization step on λ‖A‖₁ − R in a learned frame, A ≥ 0.

    .. math::

        A = \mathrm{ReLU}\Big(\big(1 + \tfrac{4}{9(1 + \alpha)}\big) Z D - \tfrac{4\lambda}{9\alpha}\Big),
        \qquad \alpha = \tfrac{4}{9\eta}

    α = d/(nε²) is written through the step η = 4/(9α) of the majorizer, so that ηλ is the threshold as it
    is in :class:`srr.nn.ISTA`. D starts orthogonal and is free afterward.

    Args:
        dim: width d of a token; D is d × d.
        step: η > 0.
        lam: λ ≥ 0.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``, non-negative.

    Source: [CRATE] appendix A.3, (92).

    Example:
        >>> import torch
        >>> ProxMM(dim=8)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, *, step: float = 0.1, lam: float = 0.1) -> None:
        super().__init__()
        check_count(dim, "dim")
        check_positive(step, "step")
        check_nonnegative(lam, "lam")
        self.step, self.lam = step, lam
        self.D = nn.Parameter(nn.init.orthogonal_(torch.empty(dim, dim)))

    def forward(self, Z: Tensor) -> Tensor:
        """Sparse codes of the tokens."""
        alpha = 1.0 / (CURVATURE * self.step)
        return prox_mm_step(Z, self.D, alpha=alpha, lam=self.lam, curvature=CURVATURE)

    def extra_repr(self) -> str:
        """Sizes shown by ``print(layer)``."""
        return f"dim={self.D.shape[0]}, step={self.step}, lam={self.lam}"
