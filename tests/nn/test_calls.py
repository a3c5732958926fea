"""Checks and look-ups happen once: what a layer costs in calls, beside the arithmetic of torch."""

import sys
from pathlib import Path

import pytest
import torch

import srr
from srr.nn import Block

PACKAGE = str(Path(srr.__file__).parent)


def calls_into_the_package(function, *arguments) -> int:
    """Python calls of functions that are written in srr."""
    count = 0

    def saw(frame, event, _):
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    before = sys.getprofile()
    sys.setprofile(saw)
    try:
        function(*arguments)
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("tokens", [9, 100], ids=["fewer-tokens-than-dimensions", "more"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_layer_makes_few_calls(tokens, training):
    block = Block("crate", dim=64, heads=4, head_dim=16).train(training)
    Z = torch.randn(2, tokens, 64, generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(training):
        block(Z)  # evaluation keeps the folded matrix of its dictionary
        assert calls_into_the_package(block, Z) <= 40
