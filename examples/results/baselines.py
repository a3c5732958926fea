"""The standard transformers CRATE is compared with, from ``torch.nn.TransformerEncoder`` alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from srr.nn.crate import ClassifierHead
from srr.nn.embed import PatchEmbedding, TokenEmbedding


def encoder(dim: int, depth: int, heads: int) -> nn.TransformerEncoder:
    """Pre-norm layers with a GELU MLP four times as wide as the tokens."""
    layer = nn.TransformerEncoderLayer(
        dim, heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


class ViT(nn.Module):
    """Vision transformer with the embedding, pooling and head of the CRATE it is compared with."""

    def __init__(self, like: nn.Module, *, dim: int) -> None:
        super().__init__()
        config: Any = like.config
        self.embed = PatchEmbedding(
            config.image_size,
            config.patch_size,
            channels=config.channels,
            dim=dim,
            norm=config.patch_norm,
            position_std=config.position_std,
        )
        self.encoder = encoder(dim, config.depth, config.heads)
        self.head = ClassifierHead(dim, config.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of images (B, C, H, W)."""
        return self.head(self.encoder(self.embed(images)).mean(dim=1))


class GPT(nn.Module):
    """Causal transformer with the embedding and head of the CausalCRATE it is compared with."""

    def __init__(self, like: nn.Module, *, dim: int) -> None:
        super().__init__()
        config: Any = like.config
        self.embed = TokenEmbedding(config.vocabulary, context=config.context, dim=dim, std=config.position_std)
        self.encoder = encoder(dim, config.depth, config.heads)
        self.head = ClassifierHead(dim, config.vocabulary)

    def forward(self, symbols: Tensor) -> Tensor:
        """Scores of the next symbol for symbols (B, n)."""
        mask = nn.Transformer.generate_square_subsequent_mask(symbols.shape[1], device=symbols.device)
        return self.head(self.encoder(self.embed(symbols), mask=mask, is_causal=True))


def parameters(model: nn.Module) -> int:
    """Number of trained numbers."""
    return sum(p.numel() for p in model.parameters())


def flops(model: nn.Module, sample: Tensor) -> int:
    """Floating-point operations of the matrix products for one sample at inference (a multiply-add counts two)."""
    was_training = model.training
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused kernel is invisible to the counter
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(sample)  # whatever is cached for inference is cached now
        with FlopCounterMode(display=False) as counter:
            model(sample)
    model.train(was_training)
    return counter.get_total_flops()


def matched(build: Callable[[int], nn.Module], heads: int, cost: Callable[[nn.Module], int], target: int) -> nn.Module:
    """The width, a multiple of the heads, whose cost is closest to the target."""
    widths = range(heads * 4, heads * 129, heads)
    best = min(widths, key=lambda dim: abs(cost(build(dim)) - target))
    return build(best)


def build_baseline(kind: str, crate: nn.Module, sample: Tensor) -> nn.Module:
    """``vit_parameters``, ``vit_flops``, ``vit_width`` or ``gpt_parameters``, next to a given CRATE."""
    config: Any = crate.config
    family = GPT if kind.startswith("gpt") else ViT
    if kind == "vit_width":
        return ViT(crate, dim=config.dim)
    if kind == "vit_flops":
        return matched(lambda dim: ViT(crate, dim=dim), config.heads, lambda m: flops(m, sample), flops(crate, sample))
    if kind in {"vit_parameters", "gpt_parameters"}:
        return matched(lambda dim: family(crate, dim=dim), config.heads, parameters, parameters(crate))
    raise ValueError(f"unknown baseline {kind!r}")
