"""Checks and look-ups happen at the wall: a layer in eager mode makes few calls into the package."""

import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import pytest
import torch

import srr
from srr.nn import BLOCKS, Block, create_model

HOME = str(Path(srr.__file__).parent)
MOST = 40  # calls of functions of the package in one layer; the walls of its operators alone made it 135
DESCENDING = 130  # a layer that descends also bounds two norms, and one factorizes with derivatives of any order


def calls(function, *inputs) -> Counter[str]:
    found: Counter[str] = Counter()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(HOME):
            found[frame.f_code.co_name] += 1

    sys.setprofile(note)
    try:
        function(*inputs)
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_a_layer_makes_few_calls(block, masked, training):
    layer = Block(block, 16, 4, 4).train(training)
    mask = torch.arange(9).expand(2, 9) < 7 if masked else None
    with torch.set_grad_enabled(training):
        layer(torch.randn(2, 9, 16), mask)  # the matrix that evaluation keeps is made
        found = calls(layer, torch.randn(2, 9, 16), mask)
    assert 0 < found.total() <= (DESCENDING if BLOCKS[block].moves else MOST), found


@pytest.mark.parametrize("training", [True, False])
def test_another_layer_adds_few_calls_to_a_model(training):
    totals = []
    for depth in (1, 2):
        model = create_model("crate_micro", depth=depth).train(training)
        model(torch.zeros(2, 1, 8, 8))
        totals.append(calls(model, torch.zeros(2, 1, 8, 8)).total())
    assert totals[1] - totals[0] <= MOST
