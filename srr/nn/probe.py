"""Looking into a network while it runs: the only place with hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = [
    "LayerState",
    "attention_maps",
    "head_inputs",
    "layer_states",
    "layer_tokens",
    "modules_entered",
    "patch_maps",
    "patch_tokens",
]


class LayerState(NamedTuple):
    """Tokens on either side of a layer in one forward pass.

    Args:
        block: the layer.
        before: Z^ℓ, (..., n, d).
        after: Z^{ℓ+1}, (..., n, d).
        mask: (..., n), True at real tokens, where the layer was given one.
    """

    block: nn.Module
    before: Tensor
    after: Tensor
    mask: Tensor | None = None


@contextmanager
def layer_states(model: nn.Module, layers: Sequence[int] | None = None) -> Iterator[dict[int, LayerState]]:
    """Tokens before and after the layers of a network, kept during the forward passes inside the context.

    Hooks read them, so that wrappers (sharding, recomputation) stay in charge and gradients flow.

    Args:
        model: a network with ``blocks``, or any network of torch that has a :class:`srr.nn.Block` somewhere inside.
        layers: their numbers in the order they were registered, negative ones from the end; all of them by default.

    Yields:
        A dictionary that every forward pass fills anew: number as given → :class:`LayerState`; of a layer that runs
        more than once, its last run.

    Raises:
        ValueError: a network without blocks, no layer at all, or one that the network does not have.

    Example:
        >>> from srr.nn import create_model
        >>> model = create_model("crate_micro")
        >>> with layer_states(model, [0, -1]) as seen:
        ...     scores = model(torch.zeros(2, 1, 8, 8))
        >>> seen[-1].after.shape
        torch.Size([2, 5, 64])
    """
    seen: dict[int, LayerState] = {}
    with _watched(chosen_blocks(model, layers), seen.__setitem__):
        yield seen


@contextmanager
def layer_runs(model: nn.Module) -> Iterator[list[LayerState]]:
    """Tokens before and after every run of a layer, in the order of the forward pass: a layer used twice comes twice.

    Args:
        model: as for :func:`layer_states`.

    Yields:
        A list to which every forward pass adds.
    """
    seen: list[LayerState] = []
    with _watched(chosen_blocks(model, None), lambda layer, state: seen.append(state)):
        yield seen


@contextmanager
def _watched(blocks: dict[int, nn.Module], keep: Callable[[int, LayerState], None]) -> Iterator[None]:
    """Hands every run of the blocks to a function."""

    def seen(layer: int, block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
        given = dict(zip(("Z", "mask"), inputs, strict=False)) | named
        keep(layer, LayerState(block, given["Z"], output, given.get("mask")))

    with ExitStack() as hooks:
        for layer, block in blocks.items():
            hooks.callback(block.register_forward_hook(partial(seen, layer), with_kwargs=True).remove)
        yield


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a network: its ``blocks``, or all that it holds anywhere, in the order they were registered."""
    blocks = list(getattr(model, "blocks", ()))
    if not blocks or not all(_is_block(block) for block in blocks):
        blocks = [part for part in model.modules() if _is_block(part)] or blocks
    if not blocks:
        raise ValueError(f"model must be a network with blocks; got a {type(model).__name__} without")
    return blocks


def _is_block(part: nn.Module) -> bool:
    """Whether a module is a layer of two halves, the first of them attention."""
    return hasattr(part, "compress") and hasattr(part, "attention")


def chosen_blocks(model: nn.Module, layers: Sequence[int] | None) -> dict[int, nn.Module]:
    """Layers by their numbers as given, or all of them."""
    blocks = blocks_of(model)
    chosen = range(len(blocks)) if layers is None else layers
    if not chosen:
        raise ValueError(f"layers must name at least one of the {len(blocks)} blocks of the model; got none")
    for layer in chosen:
        if not -len(blocks) <= layer < len(blocks):
            raise ValueError(f"layers must be in [{-len(blocks)}, {len(blocks)}); got {layer}")
    return {layer: blocks[layer] for layer in chosen}


@contextmanager
def head_inputs(model: nn.Module, *, detach: bool = False) -> Iterator[list[Tensor]]:
    """What reaches the head of a classifier, kept during the forward passes inside the context.

    Args:
        model: a network with a ``head``.
        detach: give the head a copy without history, so that its loss reaches the head alone.

    Yields:
        A list to which every forward pass adds the pooled tokens (B, d), with their history.

    Example:
        >>> from srr.nn import create_model
        >>> model = create_model("crate_micro")
        >>> with head_inputs(model) as pooled:
        ...     scores = model(torch.zeros(2, 1, 8, 8))
        >>> pooled[0].shape
        torch.Size([2, 64])
    """
    found: list[Tensor] = []

    def keep(head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        found.append(inputs[0])
        return (inputs[0].detach(), *inputs[1:]) if detach else None

    hook = model.get_submodule("head").register_forward_pre_hook(keep)
    try:
        yield found
    finally:
        hook.remove()


@contextmanager
def modules_entered(model: nn.Module) -> Iterator[list[str]]:
    """Names of the modules a forward pass is inside of, the innermost last, while the context lasts.

    Args:
        model: any network.

    Yields:
        A list that grows on entry into a module and shrinks on the way out, through errors too.
    """
    inside: list[str] = []

    def enter(name: str, module: nn.Module, inputs: Any) -> None:
        inside.append(name)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        inside.pop()

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if name:
                hooks.callback(module.register_forward_pre_hook(partial(enter, name)).remove)
                hooks.callback(module.register_forward_hook(leave, always_call=True).remove)
        yield inside


def is_watched(block: nn.Module) -> bool:
    """Whether a hook on the layer or inside it may read tokens."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in block.modules())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation without gradients; the mode comes back afterward.

    Args:
        model: any network.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def layer_tokens(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Tokens before the first layer and after each, in evaluation mode.

    Args:
        model: :class:`srr.nn.CRATE`, :class:`srr.nn.CrateMAE` or :class:`srr.nn.CausalCRATE`, or any network of torch
            that has a :class:`srr.nn.Block` somewhere inside.
        inputs: images (B, C, H, W) or symbols (B, n), or what the network takes.

    Returns:
        depth + 1 arrays (B, n, d), the class token first where there is one. With other layers in between, the tokens
        before a layer are not those after the one before it: :func:`layer_states` has both.

    Example:
        >>> from srr.nn import create_model
        >>> tokens = layer_tokens(create_model("crate_micro"), torch.zeros(2, 1, 8, 8))
        >>> len(tokens), tokens[-1].shape
        (5, torch.Size([2, 5, 64]))
    """
    with evaluating(model), layer_runs(model) as seen:
        model(inputs)
    return [seen[0].before, *(state.after for state in seen)]


def attention_maps(model: nn.Module, inputs: Tensor, *, layer: int = -1) -> Tensor:
    """Attention of every head of one layer.

    Args:
        model: as for :func:`layer_tokens`.
        inputs: images (B, C, H, W) or symbols (B, n), or what the network takes.
        layer: which layer, in the order they were registered, counted from the end when negative.

    Returns:
        Weights (B, K, n, n); row i is what token i attends to and sums to one. In row 0 of an image model the class
        token attends to itself first, then to the patches in reading order. Layers of representatives (``cbsa``) are
        seen through them, AᵀA with its rows normalized. Layers of token statistics (``tssa``, ``tost``), in which no
        token attends to another, give the memberships Π of their tokens in the heads, (B, K, n), which sum to one over
        the heads.

    Raises:
        ValueError: no such layer, one that did not run, or one that has neither: one sentence, fit to be shown.

    Source: [CRATE] (11), the softmax; Π of [TOST]; the map that the released code of [CBSA] draws.

    Example:
        >>> from srr.nn import Block, create_model
        >>> attention_maps(create_model("crate_micro"), torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 4, 5, 5])
        >>> own = nn.Sequential(nn.Linear(3, 8), Block("crate", 8, 2, 4), nn.GELU(), Block("crate", 8, 2, 4))
        >>> attention_maps(own, torch.zeros(1, 6, 3), layer=0).shape
        torch.Size([1, 2, 6, 6])
    """
    depth = len(blocks_of(model))
    if not -depth <= layer < depth:
        raise ValueError(f"layer must lie in {-depth} … {depth - 1}; got {layer}")
    with evaluating(model), layer_states(model, [layer]) as seen:
        model(inputs)
        if layer not in seen:
            raise ValueError(f"layer {layer} did not run in the forward pass of this {type(model).__name__}")
        if seen[layer].mask is not None:
            raise ValueError(f"layer {layer} was given a mask; attention maps are drawn of tokens without padding")
        block: Any = seen[layer].block
        maps: Tensor = block.attention.attention_map(block.attention_norm(seen[layer].before))
    return maps


def patch_maps(model: nn.Module, images: Tensor, *, layer: int = -1) -> Tensor:
    """What there is to draw over the patches: attention of the class token, or memberships of the patches in the heads.

    Args:
        model: :class:`srr.nn.CRATE` or :class:`srr.nn.CrateMAE`.
        images: (B, C, H, W).
        layer: which layer, counted from the end when negative.

    Returns:
        Numbers in [0, 1] for every head and patch, (B, K, n), patches in reading order.

    Raises:
        ValueError: no such layer, one that has neither, or pairwise attention among patches without a class token.

    Example:
        >>> from srr.nn import create_model
        >>> patch_maps(create_model("crate_micro", block="tssa"), torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 4, 4])
    """
    maps = attention_maps(model, images, layer=layer)
    late = bool(getattr(model.config, "class_layers", 0))
    if maps.ndim == 3:
        return maps if late else maps[..., 1:]  # (B, K, n), or (B, K, 1 + n) with the class token
    if late:
        raise ValueError("the class token joins after the layers of this network: in them it attends to nothing")
    return maps[:, :, 0, 1:]  # (B, K, 1 + n, 1 + n) -> (B, K, n)


def patch_tokens(model: nn.Module, images: Tensor, *, layer: int = -1) -> Tensor:
    """Tokens of the patches after one layer.

    Args:
        model: :class:`srr.nn.CRATE` or :class:`srr.nn.CrateMAE`.
        images: (B, C, H, W).
        layer: which layer, counted from the end when negative.

    Returns:
        (B, n, d), patches in reading order, without the class token.

    Example:
        >>> from srr.nn import create_model
        >>> patch_tokens(create_model("crate_micro"), torch.zeros(2, 1, 8, 8), layer=0).shape
        torch.Size([2, 4, 64])
    """
    with evaluating(model), layer_states(model, [layer]) as seen:
        model(images)
    late = bool(getattr(model.config, "class_layers", 0))
    return seen[layer].after if late else seen[layer].after[:, 1:]
