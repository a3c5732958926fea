"""A plain text file as windows of bytes or of byte-pair tokens for next-token prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from srr.training.config import DataConfig
from srr.training.data.base import IGNORE, Batch, DataSpec, Source


@dataclass(frozen=True)
class TextSamples:
    """Windows of ``context`` + 1 symbols of one long sequence; ``stride`` symbols lie between their starts."""

    symbols: torch.Tensor
    context: int
    stride: int

    def __len__(self) -> int:
        return max(0, (len(self.symbols) - self.context - 1) // self.stride + 1)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Inputs (B, context) and the symbols that follow each of them."""
        at = torch.as_tensor(indices, dtype=torch.int64)
        start = at.clamp(min=0)[:, None] * self.stride
        window = self.symbols[start + torch.arange(self.context + 1)].to(torch.int64)
        y = torch.where(at[:, None] < 0, IGNORE, window[:, 1:])
        return {"x": window[:, :-1], "y": y}


def text_file(config: DataConfig) -> Source:
    """The file named in ``text:FILE``; the last ``held_out`` of it is kept for validation.

    Training windows overlap by half, held-out windows not at all. A byte-pair vocabulary is learned from the
    training part only and kept in the run as ``tokenizer.json``.
    """
    path = Path(config.name.partition(":")[2])
    content = path.read_bytes()
    cut = round(len(content) * (1 - config.held_out))
    parts = content[:cut], content[cut:]
    files: dict[str, str] = {}
    if config.tokenizer == "bytes":
        sets, classes = [_bytes(p) for p in parts], tuple(str(b) for b in range(256))
    elif config.tokenizer == "bpe":
        sets, classes, files = _byte_pairs(parts, config.vocab_size)
    else:
        raise ValueError(f"data.tokenizer must be 'bytes' or 'bpe'; got {config.tokenizer!r}")
    stride = max(1, config.context // 2)
    train, val = TextSamples(sets[0], config.context, stride), TextSamples(sets[1], config.context, config.context)
    if not len(train) or not len(val):
        raise ValueError(f"{path} is too short for windows of {config.context} symbols; got {len(content)} bytes")
    bits = len(parts[1]) / max(1, len(sets[1]))
    note = f"{bits:.6f} bytes per symbol in the held-out part"
    return Source(DataSpec("text", "text", (config.context,), classes, notes=(note,)), train, val, files)


def _bytes(content: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())


def _byte_pairs(parts: tuple[bytes, bytes], size: int) -> tuple[list[torch.Tensor], tuple[str, ...], dict[str, str]]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = [p.decode("utf-8", errors="replace") for p in parts]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts[:1], trainer)
    sets = [torch.tensor(tokenizer.encode(t).ids, dtype=torch.int32) for t in texts]
    classes = tuple(str(i) for i in range(tokenizer.get_vocab_size()))
    return sets, classes, {"tokenizer.json": tokenizer.to_str()}
