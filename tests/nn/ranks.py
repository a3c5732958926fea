"""What each of two processes does in the test of the losses: a user's own loop under DDP, on an uneven split."""

import sys

import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from srr.nn import cross_entropy, mcr2_loss
from tests.nn.losses_of_a_batch import CASES, INPUTS, LABELS, PARTS, gradients_and_value


def main(out: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = {name: gradients_and_value(name, rank, wrap=DistributedDataParallel) for name in CASES}
    alone = [dist.new_group([0]), dist.new_group([1])][rank]
    scores, labels = INPUTS[PARTS[rank]], LABELS[PARTS[rank]]
    found["alone"] = cross_entropy(scores, labels, group=alone), mcr2_loss(scores, labels, group=alone)
    if rank == 0:
        torch.save(found, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
