"""The problems that are timed, with their targets."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

EPS = 0.5


class RateCase(NamedTuple):
    """One size of a rate, and what the reference's time over ours should reach in float32 and by default."""

    rate: str
    n: int
    d: int
    classes: int
    target: float
    default: float

    def __str__(self) -> str:
        return f"{self.rate}-{self.n}x{self.d}" + (f"-{self.classes}" if self.classes else "")


SMALL_RATES = (
    RateCase("rate_reduction", 1_000, 128, 10, 7.0, 4.5),
    RateCase("rate_reduction", 10_000, 128, 10, 15.0, 13.0),
    RateCase("rate_reduction", 197, 768, 4, 95.0, 80.0),
    RateCase("coding_rate", 197, 768, 0, 27.0, 22.0),
    RateCase("subspace_coding_rate", 197, 768, 12, 1.35, 1.35),  # projection and lift, in both forms, are the floor
)
LARGE_RATES = (
    RateCase("rate_reduction", 50_000, 512, 100, 60.0, 28.0),
    RateCase("rate_reduction", 200, 4_096, 10, 1_000.0, 1_000.0),
)


def arguments(case: RateCase, device: str = "cpu") -> tuple[Tensor, Tensor | None]:
    """Unit tokens, and labels or orthonormal bases where the rate takes them."""
    generator = torch.Generator().manual_seed(0)
    Z = functional.normalize(torch.randn(case.n, case.d, generator=generator), dim=-1)
    second = None
    if case.rate == "rate_reduction":
        second = torch.randint(case.classes, (case.n,), generator=generator)
    elif case.rate == "subspace_coding_rate":
        frame = torch.linalg.qr(torch.randn(case.d, case.d, generator=generator))[0]
        second = frame.reshape(case.d, case.classes, -1).movedim(1, 0).contiguous()
    return Z.to(device), None if second is None else second.to(device)


class Floor(NamedTuple):
    """Matrices of the unavoidable work of one case, and that work: Gram, Cholesky, inverse, product."""

    stacks: tuple[Tensor, ...]

    def __call__(self) -> None:
        """One symmetric Gram of the smaller side a matrix, its factor, the resolvent matrix, and one product."""
        for A in self.stacks:
            tall = A.shape[-2] >= A.shape[-1]
            M = A.mT @ A if tall else A @ A.mT
            M.diagonal(dim1=-2, dim2=-1).add_(1.0)
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(M))
            _ = A @ inverse if tall else inverse @ A


def floor_of(case: RateCase, Z: Tensor, second: Tensor | None) -> Floor:
    """For R: the tokens; for R^c: the heads; for ΔR: the classes as equal blocks, and the whole where the Gram
    matrices of the classes, taken on their smaller side, do not give its own."""
    if case.rate == "coding_rate":
        return Floor((Z,))
    if case.rate == "subspace_coding_rate":
        assert second is not None
        return Floor((torch.matmul(Z, second),))
    size = case.n // case.classes
    blocks = Z[: size * case.classes].reshape(case.classes, size, case.d)
    return Floor((blocks,) if 4 * size >= 3 * case.d else (blocks, Z))


def token_counts(smallest: int = 64, largest: int = 4_096) -> list[int]:
    """Powers of two."""
    return [n for n in itertools.accumulate([smallest] * 12, lambda a, _: 2 * a) if n <= largest]
