"""Multi-head subspace self-attention layers: one projection per head, queries = keys = values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srr._array import check_count
from srr.ops.attention import mssa, ssa

__all__ = ["MSSA", "FixedMSSA", "StrictMSSA", "TiedMSSA", "TransposedMSSA"]


def attend_real(mask: Tensor | None) -> Tensor | None:
    """Attention mask (..., 1, n) from a token mask (..., n) that is True at real tokens."""
    return None if mask is None else mask[..., None, :]


class MSSA(nn.Module):
    r"""Multi-head subspace self-attention with a free output map: the compressing half of a CRATE layer.

    .. math::

        \mathrm{MSSA}(Z) = \sum_k \mathrm{softmax}(s\, V_k V_k^\top)\, V_k O_k^\top + b, \qquad V_k = Z U_k

    The projection is stored as one ``(heads * head_dim, dim)`` matrix, so that all heads cost one product;
    :attr:`U` is a view of it. The output map is left out when there is one head of full width, as in the
    released network.

    Args:
        dim: width d of a token.
        heads: number K of subspaces.
        head_dim: dimension p of each.
        bias: whether the output map has a bias.
        causal: whether row i sees the tokens up to i only.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``; ``mask`` is ``(..., n)``, True at real tokens.

    Source:
        [CRATE] (11)-(12) with the output map and scale p^{-1/2} of the released network.

    Example:
        >>> import torch
        >>> layer = MSSA(dim=8, heads=2, head_dim=4)
        >>> layer(torch.zeros(3, 5, 8)).shape, layer.U.shape
        (torch.Size([3, 5, 8]), torch.Size([2, 8, 4]))
    """

    projection: Tensor
    output: Tensor | None
    bias: Tensor | None

    def __init__(
        self, dim: int, heads: int, head_dim: int, *, bias: bool = True, causal: bool = False
    ) -> None:
        super().__init__()
        check_count(dim, "dim")
        check_count(heads, "heads")
        check_count(head_dim, "head_dim")
        self.dim, self.heads, self.head_dim = dim, heads, head_dim
        self.causal = causal
        self.lifted = heads > 1 or head_dim != dim
        self.scale = head_dim**-0.5
        self._make_projection()
        self._make_output(bias)

    def _make_projection(self) -> None:
        self.projection = nn.Parameter(uniform(self.heads * self.head_dim, self.dim, fan_in=self.dim))

    def _make_output(self, bias: bool) -> None:
        width = self.heads * self.head_dim
        self.output = nn.Parameter(uniform(self.dim, width, fan_in=width)) if self.lifted else None
        self.bias = nn.Parameter(uniform(self.dim, fan_in=width)) if bias and self.lifted else None

    @property
    def U(self) -> Tensor:
        """Bases of the subspaces, shape (K, d, p): a view of the projection."""
        return self.projection.view(self.heads, self.head_dim, self.dim).mT  # (K, d, p)

    @property
    def out(self) -> Tensor | None:
        """Output bases, shape (K, d, p), or None where the tokens are lifted by U itself."""
        return None if self.output is None else self._bases_of(self.output)

    def _bases_of(self, weight: Tensor) -> Tensor:
        return weight.view(self.dim, self.heads, self.head_dim).transpose(0, 1)  # (d, K p) -> (K, d, p)

    def forward(self, Z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attended tokens, without the residual."""
        allowed = attend_real(mask)
        if not self.lifted:
            return ssa(Z @ self.projection.mT, scale=self.scale, causal=self.causal, mask=allowed)  # type: ignore[no-any-return]
        return mssa(  # type: ignore[no-any-return]
            Z, self.U, out=self.out, bias=self.bias, scale=self.scale, causal=self.causal, mask=allowed
        )

    def extra_repr(self) -> str:
        """Sizes shown by ``print(layer)``."""
        return f"dim={self.dim}, heads={self.heads}, head_dim={self.head_dim}, causal={self.causal}"


class TiedMSSA(MSSA):
    r"""MSSA whose output map is U itself: tokens come back through the subspaces they were projected on.

    .. math::

        \mathrm{MSSA}(Z) = \sum_k \mathrm{softmax}(p^{-1/2} V_k V_k^\top)\, V_k U_k^\top

    Source:
        CRATE-C of [INDEPTH]; [CRATE] (12) up to its constant.

    Example:
        >>> import torch
        >>> layer = TiedMSSA(dim=8, heads=2, head_dim=4)
        >>> [name for name, _ in layer.named_parameters()]
        ['projection']
    """

    def _make_output(self, bias: bool) -> None:
        self.lifted, self.output, self.bias = True, None, None  # no parameters of its own


class StrictMSSA(TiedMSSA):
    r"""MSSA exactly as printed: output map U and scale 1 inside the softmax.

    .. math::

        \mathrm{MSSA}(Z) = \sum_k \mathrm{softmax}(V_k V_k^\top)\, V_k U_k^\top

    The constant β = p/(nε²) of (12) is left to the step in front of it: (10) and (12) together would count
    it twice.

    Source:
        [CRATE] (11)-(12).

    Example:
        >>> StrictMSSA(dim=8, heads=2, head_dim=4).scale
        1.0
    """

    def __init__(
        self, dim: int, heads: int, head_dim: int, *, bias: bool = True, causal: bool = False
    ) -> None:
        super().__init__(dim, heads, head_dim, bias=bias, causal=causal)
        self.scale = 1.0


class TransposedMSSA(TiedMSSA):
    r"""MSSA whose output map is the transpose of the tied one, where heads·head_dim = dim.

    .. math::

        \mathrm{MSSA}(Z) = [\,\mathrm{softmax}(p^{-1/2} V_k V_k^\top) V_k\,]_{k=1..K}\, [U_1 \dots U_K]

    Raises:
        ValueError: ``heads * head_dim`` differs from ``dim``.

    Source:
        CRATE-T of [INDEPTH].

    Example:
        >>> import torch
        >>> TransposedMSSA(dim=8, heads=2, head_dim=4).out.shape
        torch.Size([2, 8, 4])
    """

    def _make_output(self, bias: bool) -> None:
        if self.heads * self.head_dim != self.dim:
            raise ValueError(
                f"the transposed output map needs heads * head_dim = dim; got {self.heads} * {self.head_dim} "
                f"and {self.dim}"
            )
        super()._make_output(bias)

    @property
    def out(self) -> Tensor:
        """Output bases (K, d, p) read from the same matrix as U, transposed."""
        return self._bases_of(self.projection)


class FixedMSSA(MSSA):
    r"""MSSA with fixed orthonormal subspaces and a trained output map.

    U is drawn once, uniformly among orthonormal frames (orthonormal over all heads when heads·head_dim ≤ dim,
    else within each head), and kept as a buffer.

    Source:
        CRATE-Fix of [INDEPTH].

    Example:
        >>> import torch
        >>> layer = FixedMSSA(dim=8, heads=2, head_dim=4)
        >>> torch.allclose(layer.projection @ layer.projection.T, torch.eye(8), atol=1e-5)
        True
    """

    def _make_projection(self) -> None:
        self.register_buffer("projection", orthonormal_rows(self.heads, self.head_dim, self.dim))


def uniform(*shape: int, fan_in: int) -> Tensor:
    """Tensor uniform in ±1/√fan_in, the initialisation of linear maps in the released network."""
    bound = fan_in**-0.5
    return torch.empty(shape).uniform_(-bound, bound)


def orthonormal_rows(heads: int, head_dim: int, dim: int) -> Tensor:
    """Projection with orthonormal rows: over all heads where they fit, else head by head."""
    if head_dim > dim:
        raise ValueError(f"orthonormal bases need head_dim <= dim={dim}; got {head_dim}")
    if heads * head_dim <= dim:
        return nn.init.orthogonal_(torch.empty(heads * head_dim, dim))
    return torch.cat([nn.init.orthogonal_(torch.empty(head_dim, dim)) for _ in range(heads)])
