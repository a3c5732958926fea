"""Sums over processes that gradients flow through, so that a rate of all tokens is exact on any number of ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks, whose gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        (g,) = grads
        g = g.contiguous().clone()
        dist.all_reduce(g)
        return g


def world_size() -> int:
    """Number of processes of the group; 1 outside any."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum of a tensor over all processes, differentiable; the tensor itself where there is one process.

    Every rank then holds the same loss of the same total, and DDP and FSDP *average* gradients: the backward
    pass adds the equal gradients of all ranks, and the average divides by their number again, so the result is
    the exact gradient.

    Args:
        x: a tensor of the same shape on every rank.

    Returns:
        The sum, on every rank.
    """
    return x if world_size() == 1 else _SumOverRanks.apply(x)  # type: ignore[no-untyped-call]


def mean_over_ranks(x: Tensor) -> Tensor:
    """Mean of a detached tensor over all processes."""
    if world_size() == 1:
        return x
    x = x.detach().clone()
    dist.all_reduce(x)
    return x / world_size()


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether a flag is raised on any process."""
    if world_size() == 1:
        return flag
    found = torch.tensor([int(flag)], device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return bool(found.item())
