"""Fixtures of the operator tests."""

import numpy as np
import pytest

from tests.backends import BACKENDS, Backend


@pytest.fixture(params=BACKENDS, ids=lambda b: b.name)
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param


@pytest.fixture(params=[b for b in BACKENDS if b.name != "jax"], ids=lambda b: b.name)
def library(request: pytest.FixtureRequest) -> Backend:
    """All but JAX, which compiles every new shape: it meets each operator in the case table, not each shape."""
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
