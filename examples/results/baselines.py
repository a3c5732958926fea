"""The networks beside CRATE, as large as it is: standard transformers, other layers, signed features."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any

import torch
from changed import CHANGED, rebuilt
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from srr.nn import BLOCKS, ClassifierHead, PatchEmbedding, TokenEmbedding, create_model

Shape = tuple[int, int]


def encoder(dim: int, hidden: int, depth: int, heads: int) -> nn.TransformerEncoder:
    """Pre-norm layers with a GELU MLP of the given width."""
    layer = nn.TransformerEncoderLayer(
        dim, heads, hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)


class ViT(nn.Module):
    """Vision transformer with the embedding, pooling and head of the CRATE it is compared with."""

    def __init__(self, like: nn.Module, *, dim: int, hidden: int) -> None:
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
        self.encoder = encoder(dim, hidden, config.depth, config.heads)
        self.head = ClassifierHead(dim, config.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of images (B, C, H, W)."""
        return self.head(self.encoder(self.embed(images)).mean(dim=1))


class Featured(nn.Module):
    """CRATE whose pooled token goes through layer norm and a linear map before the head.

    The last layer of CRATE ends in a ReLU. Under MCR² such features turn sparser step by step until they are zero
    for most images and ΔR falls back to nothing; the features of a linear map cannot die that way.
    """

    def __init__(self, crate: nn.Module) -> None:
        super().__init__()
        dim = crate.config.dim  # type: ignore[union-attr]
        self.crate, self.head = crate, crate.head
        self.crate.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of images (B, C, H, W)."""
        return self.head(self.crate(images))  # type: ignore[no-any-return, operator]


class GPT(nn.Module):
    """Causal transformer with the embedding and head of the CausalCRATE it is compared with."""

    def __init__(self, like: nn.Module, *, dim: int, hidden: int) -> None:
        super().__init__()
        config: Any = like.config
        self.embed = TokenEmbedding(config.vocabulary, context=config.context, dim=dim, std=config.position_std)
        self.encoder = encoder(dim, hidden, config.depth, config.heads)
        self.head = ClassifierHead(dim, config.vocabulary)

    def forward(self, symbols: Tensor) -> Tensor:
        """Scores of the next symbol for symbols (B, n)."""
        mask = nn.Transformer.generate_square_subsequent_mask(symbols.shape[1], device=symbols.device)
        return self.head(self.encoder(self.embed(symbols), mask=mask, is_causal=True))


def parameters(model: nn.Module) -> int:
    """Number of trained numbers."""
    return sum(p.numel() for p in model.parameters())


def flops(model: nn.Module, sample: Tensor) -> int:
    """Floating-point operations of the matrix products of one sample at inference (a multiply-add counts two).

    It is what a second sample adds to a batch: what is worked out once for a batch, however large, is left out.
    """
    was_training = model.training
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused kernel is invisible to the counter
    found = []
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(sample)  # whatever is cached for inference is cached now
        for count in (1, 2):
            with FlopCounterMode(display=False) as counter:
                model(sample.expand(count, *sample.shape[1:]))
            found.append(counter.get_total_flops())
    model.train(was_training)
    return found[1] - found[0]


def closest(values: range, cost: Callable[[int], int], target: int) -> int:
    """The value whose cost, which grows with it, is closest to the target."""
    above = bisect.bisect_left(values, target, key=cost)
    near = values[max(above - 1, 0) : above + 1]
    return min(near, key=lambda value: abs(cost(value) - target))


def matched(build: Callable[[int, int], nn.Module], cost: Callable[[nn.Module], int], target: int, heads: int) -> Shape:
    """Width, a multiple of the heads, with an MLP four times as wide; then the MLP width that meets the target."""
    dim = closest(range(heads * 2, heads * 129, heads), lambda d: cost(build(d, 4 * d)), target)
    return dim, closest(range(dim, 8 * dim), lambda hidden: cost(build(dim, hidden)), target)


def build_baseline(kind: str, crate: nn.Module, sample: Tensor, *, seed: int) -> nn.Module:
    """The network of a name beside a CRATE: its layers replaced, or a standard transformer.

    Args:
        kind: a row of :data:`srr.nn.BLOCKS`, of :data:`changed.CHANGED`, ``crate_features``, or ``vit_`` or ``gpt_``
            followed by what is equal: ``parameters``, ``flops`` or ``width``.
        crate: the network it is compared with.
        sample: one input, by which operations are counted.
        seed: seed of the weights.
    """
    if kind == "crate_features":
        return Featured(crate)
    config: Any = crate.config
    if kind in BLOCKS or kind in CHANGED:
        with torch.device("meta"):
            widths = range(config.heads * 2, config.heads * 65, config.heads)
            dim = closest(widths, lambda d: parameters(other_layers(kind, config, d)), parameters(crate))
        torch.manual_seed(seed)
        return other_layers(kind, config, dim)
    family: Any = GPT if kind.startswith("gpt") else ViT
    costs: dict[str, Callable[[nn.Module], int]] = {"parameters": parameters, "flops": lambda m: flops(m, sample)}
    rule = kind.partition("_")[2]
    if rule == "width":
        dim, hidden = config.dim, 4 * config.dim
    elif rule in costs:
        cost = costs[rule]
        dim, hidden = matched(lambda d, h: family(crate, dim=d, hidden=h), cost, cost(crate), config.heads)
    else:
        raise ValueError(f"unknown baseline {kind!r}")
    torch.manual_seed(seed)
    model: nn.Module = family(crate, dim=dim, hidden=hidden)
    return model


def other_layers(kind: str, config: Any, dim: int) -> nn.Module:
    """The network of a config with other layers, so wide."""
    sizes = {"dim": dim, "head_dim": dim // config.heads}
    if kind in BLOCKS:
        return create_model(config, block=kind, **sizes)
    return rebuilt(create_model(config, **sizes), CHANGED[kind])
