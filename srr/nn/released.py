"""Names and layouts of the released files, and ours for each, in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from srr.nn.crate import CRATE, pair
from srr.nn.mae import CrateMAE
from srr.nn.pretrained import load_adapted

__all__ = ["load_released", "released_names", "to_released"]

_CRATE = (
    (r"embed\.positions", "pos_embedding"),
    (r"embed\.class_token", "cls_token"),
    (r"embed\.patch_norm", "to_patch_embedding.1"),
    (r"embed\.linear", "to_patch_embedding.2"),
    (r"embed\.token_norm", "to_patch_embedding.3"),
    (r"blocks\.(\d+)\.attention_norm", r"transformer.layers.\1.0.norm"),
    (r"blocks\.(\d+)\.attention\.projection", r"transformer.layers.\1.0.fn.qkv.weight"),
    (r"blocks\.(\d+)\.attention\.output", r"transformer.layers.\1.0.fn.to_out.0.weight"),
    (r"blocks\.(\d+)\.attention\.bias", r"transformer.layers.\1.0.fn.to_out.0.bias"),
    (r"blocks\.(\d+)\.dictionary_norm", r"transformer.layers.\1.1.norm"),
    (r"blocks\.(\d+)\.dictionary\.D$", r"transformer.layers.\1.1.fn.weight"),
    (r"head\.norm", "mlp_head.0"),
    (r"head\.linear", "mlp_head.1"),
)
_ALPHA = (
    (r"embed\.linear", "conv1"),
    (r"blocks\.(\d+)\.dictionary\.(D1?)$", r"transformer.layers.\1.1.fn.\2"),
    *_CRATE,
)
_ATTENTION = (
    (r"attention\.projection", "fn.qkv.weight"),
    (r"attention\.output", "fn.to_out.0.weight"),
    (r"attention\.bias", "fn.to_out.0.bias"),
)
_MAE = (
    (r"^linear", "patch_embed.proj"),
    (r"^class_token", "cls_token"),
    (r"^positions", "decoder_pos_embed"),
    (r"^unread\.positions", "pos_embed"),
    (r"^unread", "decoder_embed"),
    (r"^blocks\.(\d+)\.attention_norm", r"blocks.\1.layers.0.0.norm"),
    (r"^blocks\.(\d+)\.dictionary_norm", r"blocks.\1.layers.0.1.norm"),
    (r"^blocks\.(\d+)\.dictionary\.D$", r"blocks.\1.layers.0.1.fn.weight"),
    *((r"^blocks\.(\d+)\." + ours, r"blocks.\1.layers.0.0." + theirs) for ours, theirs in _ATTENTION),
    (r"^decoder_blocks\.(\d+)\.dictionary_norm", r"decoder_blocks.\1.layers.0.0.norm"),
    (r"^decoder_blocks\.(\d+)\.D$", r"decoder_blocks.\1.layers.0.0.fn.weight"),
    (r"^decoder_blocks\.(\d+)\.attention_norm", r"decoder_blocks.\1.layers.0.1.norm"),
    *((r"^decoder_blocks\.(\d+)\." + ours, r"decoder_blocks.\1.layers.0.1." + theirs) for ours, theirs in _ATTENTION),
    (r"^predict", "decoder_pred"),
)
_CONVOLUTIONS = ("conv1.weight", "patch_embed.proj.weight")


def released_names(model: nn.Module) -> dict[str, str]:
    """Released name of every tensor of a model.

    Args:
        model: a :class:`srr.nn.CRATE` of blocks ``"crate"`` or ``"alpha"``, or a :class:`srr.nn.CrateMAE`.

    Returns:
        Released names by ours.

    Raises:
        ValueError: a model of which no weights were released.

    Example:
        >>> from srr.nn import create_model
        >>> released_names(create_model("crate_micro"))["embed.positions"]
        'pos_embedding'
    """
    rules = _rules(model)
    return {name: _rename(name, rules) for name in model.state_dict()}


def to_released(model: nn.Module) -> dict[str, Tensor]:
    """Weights of a model under the released names and in the released layouts.

    Args:
        model: as for :func:`released_names`.

    Returns:
        Tensors by released name, detached.

    Raises:
        ValueError: a model of which no weights were released.

    Example:
        >>> from srr.nn import create_model
        >>> to_released(create_model("crate_micro"))["transformer.layers.3.1.fn.weight"].shape
        torch.Size([64, 64])
    """
    tensors = model.state_dict()
    config: Any = model.config
    theirs = {released: tensors[name].detach().clone() for name, released in released_names(model).items()}
    for name in theirs.keys() & set(_CONVOLUTIONS):
        p1, p2 = pair(config.patch_size)
        weight = theirs[name].reshape(theirs[name].shape[0], p1, p2, -1)  # (d, p1, p2, C), channel fastest
        theirs[name] = weight.permute(0, 3, 1, 2).contiguous()  # (d, C, p1, p2)
    return theirs


def conv_to_linear(tensor: Tensor) -> Tensor:
    """Weight of a strided convolution (d, C, p1, p2) as that of a linear map on patches; others as they are."""
    return tensor.permute(0, 2, 3, 1).flatten(1) if tensor.ndim == 4 else tensor  # (d, p1 · p2 · C)


def strip_wrapping(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of a checkpoint without its nesting and without the prefixes of wrappers.

    Raises:
        ValueError: something else than tensors by name.
    """
    for key in ("state_dict", "model"):
        if isinstance(state_dict.get(key), Mapping):
            return strip_wrapping(state_dict[key])
    tensors = {}
    for name, tensor in state_dict.items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"state_dict must hold tensors by name; got {type(tensor).__name__} at {name!r}")
        tensors[re.sub(r"^(module\.|_orig_mod\.)+", "", name)] = tensor
    return tensors


def _rules(model: nn.Module) -> tuple[tuple[str, str], ...]:
    block = getattr(getattr(model, "config", None), "block", None)
    if isinstance(model, CrateMAE) and block == "crate":
        return _MAE
    if isinstance(model, CRATE) and block == "alpha" and not model.config.patch_norm:
        return _ALPHA
    if isinstance(model, CRATE) and block == "crate" and model.config.patch_norm:
        return _CRATE
    raise ValueError(f"no weights were released for this {type(model).__name__}; got block {block!r}")


def _rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name


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
