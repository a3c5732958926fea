"""Rates with their gradients: both cores against eigenvalues, one-hot memberships and autograd."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import srr
from tests.benchmarks import reference_rates as naive
from tests.benchmarks.cases import EPS, SMALL_RATES, RateCase, arguments, floor_of


def forms_of(case: RateCase) -> dict[str, Callable[[], Any]]:
    """The plain form, ours on both cores, and the floor."""
    Z, second = arguments(case)
    rest = () if second is None else (second,)
    plain = rest
    if case.rate == "rate_reduction":
        plain = (torch.nn.functional.one_hot(second, case.classes).float(),)
    fast = getattr(srr.ops, case.rate + "_value_and_grad")
    return {
        "reference": partial(naive.with_gradient, getattr(naive, case.rate), Z, *plain, EPS),
        "float32 core": partial(fast, Z, *rest, eps=EPS, core_dtype=torch.float32),
        "default": partial(fast, Z, *rest, eps=EPS),
        "floor": floor_of(case, Z, second),
    }


@pytest.mark.benchmark(group="rates")
@pytest.mark.parametrize("case", SMALL_RATES, ids=str)
def test_rate_and_gradient(compare, case):
    compare(str(case), forms_of(case), target=case.target)
