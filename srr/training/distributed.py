"""What processes agree on: whether a flag is raised on any of them."""

from __future__ import annotations

import torch
from torch import distributed as dist

from srr.nn.losses import world_size

__all__ = ["any_rank"]


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether a flag is raised on any process."""
    if world_size() == 1:
        return flag
    found = torch.tensor([int(flag)], device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return bool(found.item())
