"""A task that needs tokens to meet: pairs of a key and a value, and one key whose value is asked for."""

from __future__ import annotations

import torch

from srr.training.sources import DataSpec, Source, TensorSamples

PAIRS, SIDE = 8, 4
TEST = 5000


def recall_data(samples: int) -> Source:
    """Sequences of nine tokens, drawn as a strip of 4 × 4 patches: half of a patch names a key, half of it a value.

    Keys and values are two random orders of eight, so every key and every value is there once, and what is asked for
    says nothing by itself: without mixing tokens no rule is right more often than one time in eight.
    """
    sets = [_drawn(count, seed) for count, seed in ((samples, 1), (TEST, 2))]
    shape = tuple(sets[0].x.shape[1:])
    mean, std = (float(f(sets[0].x.float() / 255)) for f in (torch.mean, torch.std))
    spec = DataSpec("own:recall", "image", shape, tuple(map(str, range(PAIRS))), (mean,), (std,), (SIDE, SIDE))
    return Source(spec, *sets)


def _drawn(count: int, seed: int) -> TensorSamples:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.rand(count, PAIRS, generator=generator).argsort(1) for _ in range(2))
    asked = torch.randint(PAIRS, (count, 1), generator=generator)
    tokens = torch.zeros(count, PAIRS + 1, 2 * PAIRS, dtype=torch.uint8)
    tokens[:, :PAIRS, :PAIRS].scatter_(2, keys[..., None], 255)
    tokens[:, :PAIRS, PAIRS:].scatter_(2, values[..., None], 255)
    tokens[:, PAIRS].scatter_(1, keys.gather(1, asked), 255)
    patches = tokens.view(count, PAIRS + 1, SIDE, SIDE).transpose(1, 2)  # (N, 4, 9, 4)
    return TensorSamples(patches.reshape(count, 1, SIDE, -1), values.gather(1, asked)[:, 0])
