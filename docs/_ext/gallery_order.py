"""Order of the examples: the four everyday ones first, the others by name."""

from pathlib import Path

FIRST = ("plot_verify_gradient.py", "plot_solve_mixture.py", "plot_trace_network.py", "plot_train_digits.py")


def example_order(name: str) -> tuple[int, str]:
    """Sorting key of an example's file name."""
    name = Path(name).name
    return (FIRST.index(name) if name in FIRST else len(FIRST), name)
