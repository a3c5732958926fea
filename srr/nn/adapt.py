"""Weights into a model: strict checks, another grid of patches or another number of classes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

from torch import Tensor, nn

from srr.nn.positions import interpolate_positions

__all__ = ["load_adapted"]

HEAD = ("head.linear.weight", "head.linear.bias")


def load_adapted(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    grid: tuple[int, int] | None = None,
    strict: bool = True,
    unexpected: list[str] | None = None,
    names: Mapping[str, str] | None = None,
) -> None:
    """Load weights under our names; positions and head may differ, nothing else may.

    Args:
        model: the model to fill.
        state: tensors by our names.
        grid: rows and columns the positions were made for, a square by default.
        strict: refuse missing and unexpected names.
        unexpected: names already known to belong to nothing.
        names: other names to call ours by in the error.

    Raises:
        ValueError: one sentence that lists every missing, unexpected and misshapen name; the model is
            untouched.
    """
    called = {} if names is None else names
    wanted = model.state_dict()
    ready = _adapt(model, dict(state), wanted, grid)
    missing = [called.get(name, name) for name in wanted if name not in ready]
    misshapen = [
        f"{called.get(name, name)} {tuple(ready[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in ready and ready[name].shape != tensor.shape
    ]
    extra = [*(unexpected or []), *sorted(ready.keys() - wanted.keys())]
    problems = {"misshapen": misshapen}
    if strict:
        problems = {"missing": missing, "unexpected": extra, **problems}
    if found := [f"{kind}: {', '.join(which)}" for kind, which in problems.items() if which]:
        raise ValueError(f"weights do not fit a {type(model).__name__}; " + "; ".join(found))
    model.load_state_dict({name: tensor for name, tensor in ready.items() if name in wanted}, strict=False)


def _adapt(
    model: nn.Module, state: dict[str, Tensor], wanted: Mapping[str, Tensor], grid: tuple[int, int] | None
) -> dict[str, Tensor]:
    """Positions carried to the grid of the model, and its own head where the class count differs."""
    table = state.get("embed.positions")
    if table is not None and _differs_in(table, wanted.get("embed.positions"), axis=1):
        old = grid or _square(table.shape[1] - 1)
        if old is not None:
            state["embed.positions"] = interpolate_positions(table, old, model.config.grid)  # type: ignore[union-attr, arg-type]
    for fixed in ("positions", "unread.positions"):
        if fixed in state and _differs_in(state[fixed], wanted.get(fixed), axis=1):
            state[fixed] = wanted[fixed]
    weight = state.get(HEAD[0])
    if weight is not None and _differs_in(weight, wanted.get(HEAD[0]), axis=0):
        warnings.warn(
            f"the head starts afresh: the weights have {weight.shape[0]} classes and the model "
            f"{wanted[HEAD[0]].shape[0]}",
            stacklevel=4,
        )
        state.update({name: wanted[name] for name in HEAD})
    return state


def _differs_in(tensor: Tensor, wanted: Tensor | None, *, axis: int) -> bool:
    """Whether two shapes are the same but for the size of one axis."""
    if wanted is None or tensor.ndim != wanted.ndim or tensor.shape[axis] == wanted.shape[axis]:
        return False
    others = [i for i in range(tensor.ndim) if i != axis]
    return all(tensor.shape[i] == wanted.shape[i] for i in others)


def _square(patches: int) -> tuple[int, int] | None:
    side = math.isqrt(max(patches, 0))
    return (side, side) if side and side * side == patches else None
