"""Looking into a model: the tokens at every layer, and what attends to what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from srr.nn.cbsa import CBSA
from srr.nn.mssa import MSSA
from srr.nn.tssa import TSSA
from srr.ops.attention import attention_weights

__all__ = ["attention_maps", "layer_tokens"]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation without gradients; the mode comes back afterward."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def layer_tokens(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Tokens before the first layer and after each.

    Args:
        model: :class:`srr.nn.CRATE`, :class:`srr.nn.CrateMAE` or :class:`srr.nn.CausalCRATE`.
        inputs: images (B, C, H, W) or symbols (B, n).

    Returns:
        depth + 1 arrays (B, n, d), the class token first where there is one.

    Example:
        >>> from srr.nn import create_model
        >>> tokens = layer_tokens(create_model("crate_micro"), torch.zeros(2, 1, 8, 8))
        >>> len(tokens), tokens[-1].shape
        (5, torch.Size([2, 5, 64]))
    """
    with evaluating(model):
        tokens = [model.embed(inputs)]  # type: ignore[operator]
        for block in model.blocks:  # type: ignore[union-attr]
            tokens.append(block(tokens[-1]))
    return tokens


def attention_maps(model: nn.Module, inputs: Tensor, *, layer: int = -1) -> Tensor:
    """Attention of every head of one layer.

    Args:
        model: as for :func:`layer_tokens`.
        inputs: images (B, C, H, W) or symbols (B, n).
        layer: which layer, counted from the end when negative.

    Returns:
        Weights (B, K, n, n); row i is what token i attends to and sums to one. In row 0 of an image model the class
        token attends to itself first, then to the patches in reading order.

    Raises:
        ValueError: no such layer, or one without pairwise attention.

    Source: [CRATE] (11), the softmax.

    Example:
        >>> from srr.nn import create_model
        >>> attention_maps(create_model("crate_micro"), torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 4, 5, 5])
    """
    depth = len(model.blocks)  # type: ignore[arg-type]
    if not -depth <= layer < depth:
        raise ValueError(f"layer must lie in {-depth} … {depth - 1}; got {layer}")
    block: Any = model.blocks[layer]  # type: ignore[index]
    attention = getattr(block, "attention", None)
    if not isinstance(attention, MSSA) or isinstance(attention, (TSSA, CBSA)):
        raise ValueError(f"layer {layer} has no pairwise attention; it is a {type(block).__name__}")
    Z = layer_tokens(model, inputs)[layer % depth]
    with evaluating(model):
        V = attention.coordinates(block.attention_norm(Z))  # (B, n, d) -> (B, K, n, p)
        return attention_weights(V, scale=attention.scale, causal=attention.causal)
