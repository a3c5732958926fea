"""Causal language model: embed the symbols, unroll causal layers, score the next symbol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from srr._array.checks import check_count, check_positive
from srr.nn.blocks import Block
from srr.nn.crate import ClassifierHead, build_blocks, layer_steps
from srr.nn.network import NetworkConfig
from srr.nn.pretrained import PretrainedModel
from srr.solvers.driver import unroll

__all__ = ["CausalCRATE", "CausalConfig", "DecodingState", "TokenEmbedding"]


@dataclass(frozen=True)
class CausalConfig(NetworkConfig):
    """Description of a :class:`srr.nn.CausalCRATE` language model.

    Args:
        vocabulary: number of symbols; 256 for bytes.
        context: longest sequence.
        position_std: standard deviation of the initial symbol and position tables.
        offsets: whether token statistics have a learned offset for each head and position.
        tied: whether the scores are products with the table of symbols itself.
        head_bias: whether the scores have a bias.

    Raises:
        ValueError: a count below one, or offsets of a layer that has none.

    Example:
        >>> CausalConfig(context=128).vocabulary
        256
    """

    vocabulary: int = 256
    context: int = 256
    position_std: float = 0.02
    offsets: bool = False
    tied: bool = False
    head_bias: bool = True

    counts: ClassVar[tuple[str, ...]] = (*NetworkConfig.counts, "vocabulary", "context")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self.position_std, "position_std")
        if self.offsets and self.block not in ("tssa", "tost"):
            raise ValueError(f'offsets need block="tssa" or "tost"; got {self.block!r}')

    @property
    def attention_options(self) -> dict[str, Any]:
        """Options of the compressing half that only this kind of layer has."""
        return super().attention_options | ({"context": self.context} if self.offsets else {})


class TokenEmbedding(nn.Module):
    """Symbols to tokens: a row of a table for each symbol plus a learned position.

    Args:
        vocabulary: number of symbols.
        context: longest sequence.
        dim: width of a token.
        std: standard deviation of the initial tables.

    Shapes:
        integers ``(B, n)`` to ``(B, n, dim)``; ``start`` is the position of the first symbol.

    Example:
        >>> TokenEmbedding(256, context=10, dim=8)(torch.zeros(2, 5, dtype=torch.long)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, vocabulary: int, *, context: int, dim: int, std: float = 0.02) -> None:
        super().__init__()
        self.context = context
        self.symbols = nn.Parameter(std * torch.randn(vocabulary, dim))
        self.positions = nn.Parameter(std * torch.randn(context, dim))

    def forward(self, symbols: Tensor, start: int = 0) -> Tensor:
        """Tokens of the symbols at positions ``start`` and on."""
        end = start + symbols.shape[-1]
        if end > self.context:
            raise ValueError(f"a sequence must have at most context={self.context} symbols; got {end}")
        return nn.functional.embedding(symbols, self.symbols) + self.positions[start:end]  # (B, n) -> (B, n, d)


class DecodingState(NamedTuple):
    """What a causal model remembers of the symbols it has read.

    Attributes:
        coordinates: for each layer the tokens in every head's coordinates, (B, K, t, p).
        length: number t of symbols read.
        mask: (B, t), True at real symbols; None when all of them are.
    """

    coordinates: tuple[Tensor | None, ...]
    length: int
    mask: Tensor | None = None

    def join(self, mask: Tensor | None, symbols: Tensor) -> Tensor | None:
        """Mask (B, t + m) of the symbols read and of some more (B, m), whose own mask may be None for all real."""
        if mask is not None and mask.shape != symbols.shape:
            raise ValueError(f"mask must have the shape {tuple(symbols.shape)} of symbols; got {tuple(mask.shape)}")
        if mask is None and self.mask is None:
            return None
        batch, more = symbols.shape
        past = symbols.new_ones(batch, self.length, dtype=torch.bool) if self.mask is None else self.mask
        new = symbols.new_ones(batch, more, dtype=torch.bool) if mask is None else mask
        return torch.cat((past, new), dim=1)


class CausalCRATE(PretrainedModel):
    r"""Language model of causal CRATE layers: embed → unroll(blocks) → head.

    Each token compresses against those before it and itself only.

    Args:
        config: sizes and choices, see :class:`srr.nn.CausalConfig`.

    Shapes:
        symbols ``(B, n)`` to scores of the next symbol ``(B, n, vocabulary)``; ``mask`` is ``(B, n)``, True
        at real symbols.

    Source: [CRATE] (17)-(18) under a causal mask.

    Example:
        >>> from srr.nn import create_model
        >>> model = create_model("crate_causal_micro", vocabulary=256)
        >>> model(torch.zeros(2, 5, dtype=torch.long)).shape
        torch.Size([2, 5, 256])
    """

    config: CausalConfig
    config_type = CausalConfig

    def __init__(self, config: CausalConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = TokenEmbedding(config.vocabulary, context=config.context, dim=config.dim, std=config.position_std)
        self.blocks = build_blocks(config, causal=True)
        self.head = ClassifierHead(config.dim, config.vocabulary, bias=config.head_bias, norm_bias=config.bias)
        if config.tied:
            self.head.linear.weight = self.embed.symbols

    def forward(self, symbols: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores of the symbol after each of the sequence."""
        return self.head(self.forward_features(symbols, mask))  # (B, n, d) -> (B, n, vocabulary)

    def forward_features(self, symbols: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens after the last layer, which ``model.head`` reads: (B, n) to (B, n, d)."""
        recompute = self.config.checkpoint_blocks and self.training
        return unroll(layer_steps(self.blocks, mask, recompute=recompute), self.embed(symbols))

    def start(self) -> DecodingState:
        """State before the first symbol."""
        return DecodingState((None,) * len(self.blocks), 0)

    def extend(self, symbols: Tensor, state: DecodingState, mask: Tensor | None = None) -> tuple[Tensor, DecodingState]:
        """Scores after each of some further symbols, equal to those of the full forward pass with the same mask.

        Args:
            symbols: (B, m), the symbols that follow those already read.
            state: what :meth:`start` or the last :meth:`extend` returned.
            mask: (B, m), True at real symbols; all are by default. Positions count padding too.

        Returns:
            Scores (B, m, vocabulary) and the new state.

        Raises:
            ValueError: more symbols than the context holds.

        Example:
            >>> from srr.nn import create_model
            >>> model = create_model("crate_causal_micro").eval()
            >>> text = torch.randint(256, (1, 6))
            >>> first, state = model.extend(text[:, :4], model.start())
            >>> rest, state = model.extend(text[:, 4:], state)
            >>> torch.allclose(torch.cat((first, rest), dim=1), model(text), atol=1e-5)
            True
        """
        Z = self.embed(symbols, start=state.length)  # (B, m) -> (B, m, d)
        real = state.join(mask, symbols)  # (B, t + m)
        memory = []
        for block, past in zip(self._layers(), state.coordinates, strict=True):
            Z, coordinates = block.extend(Z, past, real)
            memory.append(coordinates)
        return self.head(Z), DecodingState(tuple(memory), state.length + symbols.shape[-1], real)

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        count: int,
        *,
        mask: Tensor | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int | torch.Generator = 0,
    ) -> Tensor:
        """Continue sequences by sampling one symbol at a time.

        When the context is full, the model reads the newer half of it again and goes on from there.

        Args:
            prompt: (B, n) symbols, n ≥ 1.
            count: symbols to add.
            mask: (B, n), True at real symbols: prompts of unequal length are padded on the left.
            temperature: scores are divided by it; 0 always takes the likeliest symbol.
            top_k: draw among the likeliest k only.
            seed: seed or generator of the draws, on the device of the model.

        Returns:
            (B, n + count), the prompt first.

        Raises:
            ValueError: an empty prompt or one longer than the context, a prompt that ends in padding, a negative
                temperature, a count below one.

        Example:
            >>> from srr.nn import create_model
            >>> model = create_model("crate_causal_micro")
            >>> model.generate(torch.zeros(2, 3, dtype=torch.long), 4, seed=1).shape
            torch.Size([2, 7])
        """
        check_count(count, "count")
        if prompt.ndim != 2 or prompt.shape[1] < 1:
            raise ValueError(f"prompt must have shape (batch, symbols >= 1); got {tuple(prompt.shape)}")
        if mask is not None and not mask[:, -1].all():
            raise ValueError("mask must be True at the last symbol of every prompt: pad on the left")
        if temperature < 0:
            raise ValueError(f"temperature must be >= 0; got {temperature}")
        if not isinstance(seed, torch.Generator):
            seed = torch.Generator(prompt.device).manual_seed(seed)
        text, state, unread, real = prompt, self.start(), prompt, mask
        for _ in range(count):
            if state.length + unread.shape[1] > self.config.context and state.length:
                half, read = max(1, self.config.context // 2), state.join(None, unread)
                real = None if read is None else read[:, -half:]
                state, unread = self.start(), text[:, -half:]
            scores, state = self.extend(unread, state, real)
            real = None
            unread = draw(scores[:, -1], temperature=temperature, top_k=top_k, generator=seed)  # (B, 1)
            text = torch.cat((text, unread), dim=1)
        return text

    def _layers(self) -> Iterator[Block]:
        for block in self.blocks:
            yield cast("Block", block)


def draw(scores: Tensor, *, temperature: float, top_k: int | None, generator: torch.Generator) -> Tensor:
    """One symbol for each row of scores: (B, vocabulary) to (B, 1)."""
    if temperature == 0:
        return scores.argmax(dim=-1, keepdim=True)
    if top_k is not None:
        check_count(top_k, "top_k")
        least = scores.topk(min(top_k, scores.shape[-1]), dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < least, -float("inf"))
    return torch.multinomial((scores / temperature).softmax(dim=-1), 1, generator=generator)
