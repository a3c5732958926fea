"""Layers that change one choice of the released one: the ablations of the papers."""

from __future__ import annotations

from torch import Tensor

from srr.nn.blocks import CrateBlock
from srr.nn.mssa_variants import FixedMSSA, StrictMSSA, TiedMSSA, TransposedMSSA
from srr.nn.prox_mm import ProxMM

__all__ = ["FixedBlock", "NegatedBlock", "ProxMMBlock", "StrictBlock", "TiedBlock", "TransposedBlock"]


class TiedBlock(CrateBlock):
    r"""CRATE-C: the output map of attention is U itself.

    .. math::

        Z^{\ell+1/2} = Z^\ell + \sum_k \mathrm{softmax}(p^{-1/2} V_k V_k^\top) V_k U_k^\top

    Objective step: the softmax form of a step on R^c(Z; U) as derived; raw R^c may rise and R^c of unit
    tokens fall, see the measurement of both in :func:`srr.layer_trace`.

    Source: CRATE-C of [INDEPTH].

    Example:
        >>> import torch
        >>> TiedBlock(dim=8, heads=2, head_dim=4)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    attention_type = TiedMSSA


class NegatedBlock(TiedBlock):
    r"""CRATE-N: the tied attention is subtracted.

    .. math::

        Z^{\ell+1/2} = Z^\ell - \sum_k \mathrm{softmax}(p^{-1/2} V_k V_k^\top) V_k U_k^\top

    Objective step: the sign that lowers raw R^c(Z; U). With a free output map the sign would be absorbed,
    so the map is tied to U.

    Source: CRATE-N of [INDEPTH].

    Example:
        >>> import torch
        >>> NegatedBlock(dim=8, heads=2, head_dim=4)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def move(self, Z: Tensor, attended: Tensor) -> Tensor:
        """Tokens moved against what attention returned."""
        return Z - attended


class TransposedBlock(CrateBlock):
    r"""CRATE-T: the output map of attention is the transpose of the tied one.

    .. math::

        Z^{\ell+1/2} = Z^\ell + [\,\mathrm{softmax}(p^{-1/2} V_k V_k^\top) V_k\,]_{k=1..K}\, [U_1 \dots U_K]

    Objective step: none is exact; it keeps the parameters of CRATE-C and leaves the descent direction.

    Source: CRATE-T of [INDEPTH].

    Example:
        >>> import torch
        >>> TransposedBlock(dim=8, heads=2, head_dim=4)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    attention_type = TransposedMSSA


class FixedBlock(CrateBlock):
    """CRATE-Fix: the subspaces are random, orthonormal and never trained; the output map is.

    Objective step: as :class:`CrateBlock`, for an R^c(Z; U) that is the same all through training.

    Source: CRATE-Fix of [INDEPTH].

    Example:
        >>> import torch
        >>> FixedBlock(dim=8, heads=2, head_dim=4)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    attention_type = FixedMSSA


class StrictBlock(CrateBlock):
    r"""CRATE with attention as printed: output map U, scale 1 in the softmax.

    .. math::

        Z^{\ell+1/2} = Z^\ell + \sum_k \mathrm{softmax}(V_k V_k^\top) V_k U_k^\top

    Objective step: the step on R^c(Z; U) of (10) with κβ = 1 in front of attention and 1 in front of Z.

    Source: [CRATE] (11)-(12) in (18); its ablation of the attention block.

    Example:
        >>> import torch
        >>> StrictBlock(dim=8, heads=2, head_dim=4)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    attention_type = StrictMSSA


class ProxMMBlock(CrateBlock):
    """CRATE whose sparsifying half majorizes −R instead of fitting a dictionary.

    Objective step: the second half is a proximal step on λ‖A‖₁ − R, A ≥ 0, of a quadratic majorizer of −R.

    Source: [CRATE] appendix A.3, (92); its ablation of the sparsifying block.

    Example:
        >>> import torch
        >>> ProxMMBlock(dim=8, heads=2, head_dim=4)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    dictionary_type = ProxMM
