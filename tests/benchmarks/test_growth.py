"""The arithmetic of the table of growth, on numbers worked by hand, and one row of each kind."""

import pytest
import torch

from tests.benchmarks import growth


def test_the_exponent_is_the_power() -> None:
    assert growth.exponent((1, 2, 4), (3.0, 12.0, 48.0)) == pytest.approx(2.0)
    assert growth.exponent((1, 10, 100), (5.0, 5.0, 5.0)) == pytest.approx(0.0, abs=1e-12)


def test_the_shortest_call_counts() -> None:
    ticks = iter([0.0, 9.0, 10.0, 12.0, 20.0, 25.0])
    calls: list[int] = []
    assert growth.seconds(lambda: calls.append(1), rounds=3, clock=lambda: next(ticks)) == 2.0
    assert len(calls) == 4


def test_a_row_of_every_operator() -> None:
    for name in growth.OPERATORS:
        row = growth.operator_row(name, "n", (8, 16))
        assert row.startswith(f"| {name} | n = 8, 16 |")
        assert "nan" not in row


def test_a_row_of_a_model() -> None:
    assert growth.model_row("crate", "depth", (1, 2)).startswith("| crate | depth = 1, 2 |")


def test_operations_are_counted_and_planned() -> None:
    """One product of 3·224·224 numbers with 5 columns; 1e9 operations an image take 3·1,281,167·90 of them."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 224 * 224, 5))
    assert growth.operations(model) == 2 * 3 * 224 * 224 * 5
    hours = 3 * 1e9 * 1_281_167 * 90 / (0.4 * 989e12) / 3600
    assert f"{hours:.2g} to" in growth.plan_row("x", 1e9)
