"""CRATE and its halves against the forms the paper prints."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from srr.nn import ISTA, MSSA, create_model
from tests.benchmarks.device_models import evaluation, training
from tests.benchmarks.reference_crate import Attention, ThreeProductISTA, reference_crate, twin_weights

EVAL, TRAIN = 1.65, 1.4


def twins(size: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """The reference and ours with the same weights, and eight images."""
    torch.manual_seed(0)
    reference, model = reference_crate(size), create_model(f"crate_{size}")
    twin_weights(reference, model)
    return reference, model, torch.randn(8, 3, 224, 224)


@pytest.mark.benchmark(group="models")
@pytest.mark.parametrize("size", ["tiny", "base"])
@pytest.mark.parametrize(("step", "target"), [(evaluation, EVAL), (training, TRAIN)], ids=["eval", "train"])
def test_crate(compare, size, step, target):
    reference, model, images = twins(size)
    for each in (reference, model):
        each.train(step is training)
    forms = {"reference": partial(step, reference, images, False), "srr": partial(step, model, images, False)}
    compare(f"CRATE-{size}, {step.__name__}", forms, target=target)


@pytest.mark.benchmark(group="models")
@pytest.mark.parametrize(("step", "target"), [(evaluation, EVAL), (training, TRAIN)], ids=["eval", "train"])
def test_crate_compiled(compare, step, target):
    """``fullgraph=True`` refuses a graph break; the table gives the time against the eager reference."""
    reference, model, images = twins("tiny")
    for each in (reference, model):
        each.train(step is training)
    forms = {
        "reference": partial(step, reference, images, False),
        "compiled": partial(step, torch.compile(model, fullgraph=True), images, False),
        "reference compiled": partial(step, torch.compile(reference), images, False),
    }
    compare(f"CRATE-tiny compiled, {step.__name__}", forms, target=target)


def layer_forms(dim: int, plain: nn.Module, ours: nn.Module, train: bool) -> dict[str, Callable[[], Any]]:
    Z = torch.randn(8, 197, dim, requires_grad=train)
    step = training if train else evaluation
    return {
        "reference": partial(step, plain.train(train), Z, False),
        "srr": partial(step, ours.train(train), Z, False),
    }


@pytest.mark.benchmark(group="layers")
@pytest.mark.parametrize("dim", [384, 768])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_ista(compare, dim, train):
    forms = layer_forms(dim, ThreeProductISTA(dim), ISTA(dim), train)
    if not train:
        Z, M = torch.randn(8, 197, dim), torch.randn(dim, dim)
        forms["one product"] = lambda: Z @ M
    ratios = compare(f"ISTA d={dim}, {'training' if train else 'evaluation'}", forms, target=2.4)
    if not train:
        print(f"of the one-product floor: {ratios['srr'] / ratios['one product']:.2f}")


@pytest.mark.benchmark(group="layers")
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_mssa(compare, train):
    forms = layer_forms(384, Attention(384, 6, 64), MSSA(384, 6, 64), train)
    compare(f"MSSA d=384, {'training' if train else 'evaluation'}", forms, target=1.0)
