"""What two processes do in the distributed tests; started by torchrun."""

import json
import os
import shutil
import sys

import torch
from torch import distributed as dist

import srr
from srr.nn.losses import sum_over_ranks
from srr.training.config import merge, parse_overrides, resolve
from srr.training.run import train


def losses(out):
    """SRR and MCR² of tokens split unevenly over ranks, and their gradients as DDP would average them."""
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(0)
    Z = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (30,), generator=generator)
    U = torch.linalg.qr(torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)).Q
    W = torch.eye(6, dtype=torch.float64, requires_grad=True)  # a parameter every rank holds
    mine = slice(0, 11) if rank == 0 else slice(11, 30)
    tokens = Z[mine] @ W
    moment = srr.ops.SecondMoment.zeros(6, like=Z, classes=3).update(tokens, labels=labels[mine]).map(sum_over_ranks)
    values = torch.stack(
        [moment.rate_reduction(eps=0.5), moment.coding_rate(eps=0.5) - moment.subspace_coding_rate(U, eps=0.5)]
    )
    gradients = [torch.autograd.grad(v, W, retain_graph=True)[0] for v in values]
    for g in gradients:
        dist.all_reduce(g)
        g /= world
    if rank == 0:
        torch.save({"values": values.detach(), "gradients": gradients, "Z": Z, "labels": labels, "U": U}, out)


def runs(out):
    """The same run under DDP and under FSDP2, then one epoch more of a copy of each."""
    for strategy, words in json.loads(os.environ["SRR_TEST_RUNS"]).items():
        train(resolve(merge({"out": f"{out}/{strategy}"}, parse_overrides(words))))
        longer = f"{out}/{strategy}_longer"
        if dist.get_rank() == 0:
            shutil.copytree(f"{out}/{strategy}", longer)
        dist.barrier()
        train(resolve(merge({"out": longer}, parse_overrides([*words, "trainer.max_epochs=3"]))), resume=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    losses(f"{sys.argv[1]}/losses.pt")
    runs(sys.argv[1])
