"""Subspace attention with other output maps, another scale, or fixed bases."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srr.nn.mssa import MSSA

__all__ = ["FixedMSSA", "StrictMSSA", "TiedMSSA", "TransposedMSSA"]


class TiedMSSA(MSSA):
    r"""MSSA whose output map is U itself: tokens come back through the subspaces they were projected on.

    .. math::

        \mathrm{MSSA}(Z) = \sum_k \mathrm{softmax}(p^{-1/2} V_k V_k^\top)\, V_k U_k^\top

    Source: CRATE-C of [INDEPTH]; [CRATE] (12) up to its constant.

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

    Source: [CRATE] (11)-(12).

    Example:
        >>> StrictMSSA(dim=8, heads=2, head_dim=4).scale
        1.0
    """

    def __init__(self, dim: int, heads: int, head_dim: int, *, bias: bool = True, causal: bool = False) -> None:
        super().__init__(dim, heads, head_dim, bias=bias, causal=causal)
        self.scale = 1.0


class TransposedMSSA(TiedMSSA):
    r"""MSSA whose output map is the transpose of the tied one, where heads·head_dim = dim.

    .. math::

        \mathrm{MSSA}(Z) = [\,\mathrm{softmax}(p^{-1/2} V_k V_k^\top) V_k\,]_{k=1..K}\, [U_1 \dots U_K]

    Raises:
        ValueError: ``heads * head_dim`` differs from ``dim``.

    Source: CRATE-T of [INDEPTH].

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

    Source: CRATE-Fix of [INDEPTH].

    Example:
        >>> import torch
        >>> layer = FixedMSSA(dim=8, heads=2, head_dim=4)
        >>> torch.allclose(layer.projection @ layer.projection.T, torch.eye(8), atol=1e-5)
        True
    """

    def _make_projection(self) -> None:
        self.register_buffer("projection", orthonormal_rows(self.heads, self.head_dim, self.dim))


def orthonormal_rows(heads: int, head_dim: int, dim: int) -> Tensor:
    """Projection with orthonormal rows: over all heads where they fit, else head by head."""
    if head_dim > dim:
        raise ValueError(f"orthonormal bases need head_dim <= dim={dim}; got {head_dim}")
    if heads * head_dim <= dim:
        return nn.init.orthogonal_(torch.empty(heads * head_dim, dim))
    return torch.cat([nn.init.orthogonal_(torch.empty(head_dim, dim)) for _ in range(heads)])
