"""Tokens between the layers of a model, read by forward hooks so that wrappers and sharding stay in charge."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from torch import Tensor, nn


@contextlib.contextmanager
def layer_outputs(model: nn.Module, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Collect the output of some blocks during the forward passes inside the block.

    Args:
        model: a network with ``blocks``.
        layers: their numbers; negative ones count from the end.

    Yields:
        A dictionary filled by each forward pass: number as given → tokens (B, n, d).

    Raises:
        ValueError: a layer that the model does not have.
    """
    blocks = list(model.blocks)  # type: ignore[arg-type]
    found: dict[int, Tensor] = {}
    for layer in layers:
        if not -len(blocks) <= layer < len(blocks):
            raise ValueError(f"layer must be in [{-len(blocks)}, {len(blocks)}); got {layer}")

    def keeper(layer: int) -> object:
        def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
            found[layer] = output

        return keep

    handles = [blocks[layer].register_forward_hook(keeper(layer)) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
