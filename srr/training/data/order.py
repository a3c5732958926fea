"""Which samples form which batch: a pure function of (seed, epoch, batch, rank), so a run can start anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class BatchOrder(Sampler[list[int]]):
    """Batches of a shuffled epoch, sliced across ranks, starting at any batch.

    A global batch b of epoch e takes the entries b·B … (b+1)·B of the permutation drawn from (seed, e); rank r
    of W takes every W-th of them from r. The union over ranks is what one process would see. The last
    incomplete batch is left out, unless it is the only one.

    Args:
        n: number of samples.
        batch_size: samples of a global batch, a multiple of ``world``.
        seed: seed of the permutations.
        rank: this process.
        world: number of processes.
    """

    def __init__(self, n: int, *, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if batch_size < 1 or batch_size % world:
            raise ValueError(f"data.batch_size must be a positive multiple of {world} processes; got {batch_size}")
        if n < world:
            raise ValueError(f"{n} training sample(s) cannot be shared among {world} processes")
        self.n, self.seed, self.rank, self.world = n, seed, rank, world
        self.batch_size = min(batch_size, n - n % world)
        self.epoch = 0
        self.start = 0
        self.sampler = self  # Lightning looks for ``batch_sampler.sampler.set_epoch``

    def __len__(self) -> int:
        return self.n // self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Move to an epoch; a different one begins at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def seek(self, epoch: int, start: int) -> None:
        """Move to a batch of an epoch."""
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
        order = torch.randperm(self.n, generator=generator)
        for b in range(self.start, len(self)):
            batch = order[b * self.batch_size : (b + 1) * self.batch_size]
            yield batch[self.rank :: self.world].tolist()


class EvalOrder(Sampler[list[int]]):
    """Batches in order, sliced across ranks; with several ranks padded with −1 so that each sees as many of one size.

    Args:
        n: number of samples.
        batch_size: samples of a global batch.
        rank: this process.
        world: number of processes.
    """

    def __init__(self, n: int, *, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.n, self.rank, self.world = n, rank, world
        self.batch_size = max(world, batch_size - batch_size % world)

    def __len__(self) -> int:
        return math.ceil(self.n / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for first in range(0, self.n, self.batch_size):
            last = min(first + self.batch_size, self.n)
            last += -(last - first) % self.world
            yield [i if i < self.n else -1 for i in range(first + self.rank, last, self.world)]


def mix(*numbers: int) -> int:
    """One 63-bit seed from several integers (splitmix64 rounds), so that neighboring inputs share no stream."""
    state = 0
    for number in numbers:
        state = (state ^ (number & 0xFFFFFFFFFFFFFFFF)) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1
