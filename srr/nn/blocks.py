"""Layers of the family: a compressing half-step, then a sparsifying half-step."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from srr.nn.ista import ISTA
from srr.nn.mssa import MSSA

__all__ = ["CrateBlock"]


class CrateBlock(nn.Module):
    r"""One released CRATE layer: compress against the subspaces, then sparsify in the dictionary.

    .. math::

        Z^{\ell+1/2} = Z^\ell + \mathrm{MSSA}(\mathrm{LN}\, Z^\ell), \qquad
        Z^{\ell+1} = \mathrm{ISTA}(\mathrm{LN}\, Z^{\ell+1/2})

    Objective step: the first half is the softmax stand-in for a gradient step on R^c(Z; U), without the (1
    - κβ) in front of Z and with a free output map; the second half is one proximal step on ½‖Z − A Dᵀ‖² +
    λ‖A‖₁, A ≥ 0, from A = Z. There is no residual around the second half.

    Args:
        dim: width d of a token.
        heads: number K of subspaces.
        head_dim: dimension p of each.
        step: step η of the sparsifying half.
        lam: sparsity weight λ.
        norm_eps: variance floor of the layer norms.
        causal: whether a token sees only those before it and itself.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``; ``mask`` is ``(..., n)``, True at real tokens.

    Source:
        [CRATE] (18) and (17).

    Example:
        >>> CrateBlock(dim=8, heads=2, head_dim=4)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    attention_type: ClassVar[type[MSSA]] = MSSA

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        *,
        step: float = 0.1,
        lam: float = 0.1,
        norm_eps: float = 1e-5,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.attention: MSSA = self.attention_type(dim, heads, head_dim, causal=causal)
        self.dictionary_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.dictionary: nn.Module = ISTA(dim, step=step, lam=lam)

    def compress(self, Z: Tensor, mask: Tensor | None = None) -> Tensor:
        """First half: Z^{ℓ+1/2}."""
        return Z + self.attention(self.attention_norm(Z), mask)  # type: ignore[no-any-return]

    def sparsify(self, Z: Tensor) -> Tensor:
        """Second half: Z^{ℓ+1} from Z^{ℓ+1/2}."""
        return self.dictionary(self.dictionary_norm(Z))  # type: ignore[no-any-return]

    def forward(self, Z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Both halves."""
        return self.sparsify(self.compress(Z, mask))
