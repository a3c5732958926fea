"""Layers of the family: a compressing half-step, then a sparsifying half-step."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from srr.nn.ista import ISTA
from srr.nn.mssa import MSSA
from srr.nn.overcomplete import OvercompleteISTA
from srr.nn.prox_mm import ProxMM

__all__ = ["AlphaBlock", "AttentionOnlyBlock", "CrateBlock"]


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

    Source: [CRATE] (18) and (17).

    Example:
        >>> import torch
        >>> CrateBlock(dim=8, heads=2, head_dim=4)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    attention_type: ClassVar[type[MSSA]] = MSSA
    attention_bias: ClassVar[bool] = True
    dictionary_type: ClassVar[type[ISTA | OvercompleteISTA | ProxMM]] = ISTA

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
        self.attention = self.attention_type(dim, heads, head_dim, bias=self.attention_bias, causal=causal)
        self._make_sparsifier(dim, step, lam, norm_eps)

    def _make_sparsifier(self, dim: int, step: float, lam: float, norm_eps: float) -> None:
        self.dictionary_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.dictionary = self.dictionary_type(dim, step=step, lam=lam)

    def forward(self, Z: Tensor, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """Both halves; only the first ``rows`` tokens after the layer where that is a number."""
        return self.sparsify(self.compress(Z, mask, rows))

    def compress(self, Z: Tensor, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """First half: Z^{ℓ+1/2}."""
        attended = self.attention(self.attention_norm(Z), mask, rows)
        return self.move(Z[..., :rows, :], attended)

    def sparsify(self, Z: Tensor) -> Tensor:
        """Second half: Z^{ℓ+1} from Z^{ℓ+1/2}."""
        return self.dictionary(self.dictionary_norm(Z))

    def move(self, Z: Tensor, attended: Tensor) -> Tensor:
        """Tokens moved by what attention returned."""
        return Z + attended

    def extend(self, Z: Tensor, past: Tensor | None = None, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Both halves for the newest tokens of a causal sequence.

        Args:
            Z: tokens (..., m, d) that follow those of ``past``.
            past: coordinates (..., K, t, p) of the tokens before, None at the start.
            mask: (..., t + m), True at real tokens; all are by default.

        Returns:
            The new tokens after the layer, and the coordinates of all t + m.
        """
        attended, coordinates = self.attention.extend(self.attention_norm(Z), past, mask)
        return self.sparsify(self.move(Z, attended)), coordinates


class AlphaBlock(CrateBlock):
    r"""CRATE-α layer: an overcomplete dictionary, a separate one to come back, residuals around both halves.

    .. math::

        Z^{\ell+1/2} = Z^\ell + \mathrm{MSSA}(\mathrm{LN}\, Z^\ell), \qquad
        Z^{\ell+1} = Z^{\ell+1/2} + A_2(\mathrm{LN}\, Z^{\ell+1/2})\, D_1^\top

    Objective step: the second half is two proximal steps on ½‖Z − A Dᵀ‖² + λ‖A‖₁, A ≥ 0, from A = 0.

    Source: [ALPHA].

    Example:
        >>> import torch
        >>> AlphaBlock(dim=8, heads=2, head_dim=4)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    attention_bias = False
    dictionary_type = OvercompleteISTA

    def sparsify(self, Z: Tensor) -> Tensor:
        """Second half, with its residual."""
        return Z + super().sparsify(Z)


class AttentionOnlyBlock(CrateBlock):
    r"""Attention-only layer: compress and nothing else.

    .. math::

        Z^{\ell+1} = Z^\ell + \mathrm{MSSA}(\mathrm{LN}\, Z^\ell)

    Objective step: one denoising step of a mixture of low-rank Gaussians; there is no sparsity term.

    Source: [AOT].

    Example:
        >>> import torch
        >>> AttentionOnlyBlock(dim=8, heads=2, head_dim=4)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def _make_sparsifier(self, dim: int, step: float, lam: float, norm_eps: float) -> None:
        """There is none."""

    def sparsify(self, Z: Tensor) -> Tensor:
        """The tokens as they are."""
        return Z
