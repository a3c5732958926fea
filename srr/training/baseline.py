"""What a trained network has to beat: the nearest linear subspace on raw pixels, fitted without any training."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from srr.nn.losses import IGNORE
from srr.ops.streaming import SecondMoment
from srr.training.sources import EvalOrder, Source

LARGEST, RANKS = 4096, (2, 4, 6, 8, 12, 16, 24, 32, 48)


class Baseline(NamedTuple):
    """Held-out accuracy of the nearest subspace and the rank it used."""

    accuracy: float
    rank: int


def nearest_subspace(source: Source) -> Baseline | None:
    """Fit one subspace a class to the raw pixels and classify by the largest projection.

    The rank is chosen on a tenth of the training set that the fit does not see; the subspaces are then fitted
    to all of it.

    Args:
        source: the data.

    Returns:
        Accuracy on the held-out set and the rank, or None for text, for images of more than 4096 numbers, and
        for data that do not fit in memory.
    """
    shape = source.spec.shape
    if source.spec.kind != "image" or int(np.prod(shape)) > LARGEST or not hasattr(source.train, "x"):
        return None
    return choose_subspaces(*pixels(source, train=True), *pixels(source, train=False), classes=source.spec.num_classes)


def choose_subspaces(x: Tensor, y: Tensor, x_val: Tensor, y_val: Tensor, classes: int) -> Baseline:
    """One subspace a class of rows (N, d); the rank is chosen on the first tenth, which that fit does not see."""
    tenth = max(1, len(y) // 10)
    inner = subspaces(x[tenth:], y[tenth:], classes)
    ranks = [r for r in RANKS if r < x.shape[1]] or [1]
    rank = max(ranks, key=lambda r: score(x[:tenth], y[:tenth], inner, r))
    return Baseline(score(x_val, y_val, subspaces(x, y, classes), rank), rank)


def pixels(source: Source, *, train: bool) -> tuple[Tensor, Tensor]:
    """Flat images (N, C·H·W) in float32 and labels (N,) of one of the sets."""
    samples = source.train if train else source.val
    order = EvalOrder(len(samples), batch_size=4096)
    batches = [samples.__getitems__(indices) for indices in order]
    x = torch.cat([b["x"] for b in batches]).flatten(1)
    y = torch.cat([b["y"] for b in batches])
    return (x.float() / 255 if x.dtype == torch.uint8 else x.float())[y != IGNORE], y[y != IGNORE]


def subspaces(x: Tensor, y: Tensor, classes: int) -> Tensor:
    """Principal directions of each class, largest first: (K, d, d)."""
    moment = SecondMoment.zeros(x.shape[1], like=x, classes=classes).update(x, labels=y).moment
    directions: Tensor = torch.linalg.eigh(moment).eigenvectors.flip(-1)
    return directions.to(x.dtype)


def score(x: Tensor, y: Tensor, bases: Tensor, rank: int) -> float:
    """Share of images whose largest projection is on their own class."""
    energy = torch.stack([(x @ U[:, :rank]).square().sum(-1) for U in bases])  # (K, N)
    return float((energy.argmax(0) == y).float().mean())
