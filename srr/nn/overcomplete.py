"""Sparsifying layer with an overcomplete dictionary and a separate one to come back by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srr._array.checks import check_count, check_nonnegative, check_positive
from srr.ops.sparse import folded_ista_step, ista_step

__all__ = ["OvercompleteISTA"]


class OvercompleteISTA(nn.Module):
    r"""Two non-negative ISTA steps from zero in an overcomplete dictionary, decoded by another dictionary.

    .. math::

        A_1 = \mathrm{ReLU}(\eta\, Z D - \eta\lambda), \quad
        A_2 = \mathrm{ReLU}\big(A_1 - \eta\,(A_1 D^\top - Z) D - \eta\lambda\big), \quad
        \text{out} = A_2 D_1^\top

    The first step is the folded one with M = ηD: from A = 0 the gradient is −Z D.

    Args:
        dim: width d of a token.
        expansion: atoms per dimension, m = expansion · d.
        step: η > 0.
        lam: λ ≥ 0.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``; D and D1 are (dim, expansion · dim).

    Source: [ALPHA], overcomplete and decoupled form.

    Example:
        >>> layer = OvercompleteISTA(dim=8)
        >>> layer(torch.zeros(3, 5, 8)).shape, layer.D.shape
        (torch.Size([3, 5, 8]), torch.Size([8, 32]))
    """

    def __init__(self, dim: int, *, expansion: int = 4, step: float = 0.1, lam: float = 0.1) -> None:
        super().__init__()
        check_count(dim, "dim")
        check_count(expansion, "expansion")
        check_positive(step, "step")
        check_nonnegative(lam, "lam")
        self.step, self.lam = step, lam
        self.D = nn.Parameter(torch.empty(dim, expansion * dim))
        self.D1 = nn.Parameter(torch.empty(dim, expansion * dim))
        nn.init.kaiming_uniform_(self.D)
        nn.init.kaiming_uniform_(self.D1)

    def codes(self, Z: Tensor) -> Tensor:
        """Sparse codes A₂ of the tokens: (..., n, d) to (..., n, m)."""
        A = folded_ista_step(Z, self.step * self.D, step=self.step, lam=self.lam)  # (..., n, d) -> (..., n, m)
        return ista_step(A, Z, self.D, step=self.step, lam=self.lam)

    def forward(self, Z: Tensor) -> Tensor:
        """Tokens rebuilt from their codes."""
        return self.codes(Z) @ self.D1.mT  # (..., n, m) -> (..., n, d)

    def extra_repr(self) -> str:
        """Sizes shown by ``print(layer)``."""
        return f"dim={self.D.shape[0]}, atoms={self.D.shape[1]}, step={self.step}, lam={self.lam}"
