"""Released weights into our models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from srr.nn.adapt import load_adapted
from srr.nn.released import conv_to_linear, released_names, strip_wrapping

__all__ = ["load_released"]


def load_released(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    *,
    strict: bool = True,
    grid: tuple[int, int] | None = None,
) -> None:
    """Load released weights of CRATE, CRATE-α or CRATE-MAE into the model of the same size.

    Learned positions of another grid are interpolated, fixed ones are made anew; a head of another class
    count is left as initialized, with a warning. ``module.`` in front of the names and nesting under
    ``state_dict`` or ``model`` are taken off.

    Args:
        model: a :class:`srr.nn.CRATE` or :class:`srr.nn.CrateMAE`.
        state_dict: tensors by their released names, read with ``weights_only=True``.
        strict: refuse missing and unexpected names; tensors of a wrong shape are always refused.
        grid: rows and columns of patches the file was made for, a square by default.

    Raises:
        ValueError: one sentence that lists every missing, unexpected and misshapen name.

    Source: names and shapes of the files published with [CRATE], [ALPHA] and [MAE].

    Example:
        >>> from srr.nn import create_model, to_released
        >>> model, twin = create_model("crate_micro"), create_model("crate_micro")
        >>> load_released(twin, {"state_dict": to_released(model)})
        >>> bool((model.head.linear.weight == twin.head.linear.weight).all())
        True
    """
    theirs = strip_wrapping(state_dict)
    names = released_names(model)
    ours = {}
    for name, released in names.items():
        if released in theirs:
            ours[name] = conv_to_linear(theirs[released])
    unexpected = sorted(theirs.keys() - set(names.values())) if strict else []
    load_adapted(model, ours, grid=grid, strict=strict, unexpected=unexpected, names=names)
