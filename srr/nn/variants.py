"""Every kind of layer by name, and the stack of layers a config asks for."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrizations

from srr.nn.blocks import AlphaBlock, AttentionOnlyBlock, CrateBlock
from srr.nn.cbsa import ContractBroadcastBlock
from srr.nn.config import Config
from srr.nn.investigations import (
    FixedBlock,
    NegatedBlock,
    ProxMMBlock,
    StrictBlock,
    TiedBlock,
    TransposedBlock,
)
from srr.nn.tssa import TokenStatisticsBlock, TostBlock

__all__ = ["BLOCKS", "build_blocks"]

BLOCKS: dict[str, type[nn.Module]] = {
    "crate": CrateBlock,
    "crate_c": TiedBlock,
    "crate_n": NegatedBlock,
    "crate_t": TransposedBlock,
    "crate_fix": FixedBlock,
    "crate_strict": StrictBlock,
    "crate_prox_mm": ProxMMBlock,
    "alpha": AlphaBlock,
    "attention_only": AttentionOnlyBlock,
    "tssa": TokenStatisticsBlock,
    "tost": TostBlock,
    "cbsa": ContractBroadcastBlock,
}
"""Layers by the name a config gives them."""


def build_blocks(config: Config, *, causal: bool = False) -> nn.ModuleList:
    """The layers of a model.

    Args:
        config: kind, number and sizes of the layers.
        causal: whether a token sees only those before it and itself.

    Returns:
        ``config.depth`` layers of the kind ``config.block``.

    Raises:
        ValueError: an unknown kind of layer, or orthonormal bases that do not fit.

    Example:
        >>> from srr.nn import CrateConfig
        >>> len(build_blocks(CrateConfig(dim=8, heads=2, head_dim=4, depth=3)))
        3
    """
    if config.block not in BLOCKS:
        raise ValueError(f"block must be one of {sorted(BLOCKS)}; got {config.block!r}")
    blocks = nn.ModuleList(_build(config, causal) for _ in range(config.depth))
    if config.orthogonal:
        for block in blocks:
            keep_orthonormal(block)
    return blocks


def _build(config: Config, causal: bool) -> nn.Module:
    return BLOCKS[config.block](
        config.dim,
        config.heads,
        config.head_dim,
        step=config.step,
        lam=config.lam,
        norm_eps=config.norm_eps,
        causal=causal,
    )


def keep_orthonormal(block: nn.Module) -> nn.Module:
    """Keep the bases of all heads of a layer orthonormal and orthogonal to each other during training.

    Args:
        block: a layer whose ``attention.projection`` is a parameter with heads·head_dim ≤ dim.

    Returns:
        The same layer, its projection parametrized on the Stiefel manifold.

    Raises:
        ValueError: the bases do not fit in the token space.

    Example:
        >>> import torch
        >>> U = keep_orthonormal(CrateBlock(dim=8, heads=2, head_dim=4)).attention.projection
        >>> torch.allclose(U @ U.T, torch.eye(8), atol=1e-5)
        True
    """
    attention = block.get_submodule("attention")
    projection = attention.projection
    if not isinstance(projection, nn.Parameter):
        return block  # fixed bases stay as they are
    rows, columns = projection.shape
    if rows > columns:
        raise ValueError(f"orthonormal bases need heads * head_dim <= dim; got {rows} and {columns}")
    parametrizations.orthogonal(attention, "projection")
    return block
