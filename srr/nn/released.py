"""Names and layouts of the released files, and ours for each, in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from srr.nn.causal import CausalCRATE
from srr.nn.crate import CRATE
from srr.nn.mae import CrateMAE
from srr.nn.network import pair
from srr.nn.pretrained import load_adapted

__all__ = ["load_released", "released_names", "to_released"]

ModelT = TypeVar("ModelT", bound=nn.Module)

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


def _in(folder: str, names: dict[str, str], released: str | None = None) -> tuple[tuple[str, str], ...]:
    """Rules for the parts of numbered layers; ``folder`` and ``released`` are what ours and theirs are kept under."""
    released = folder if released is None else released
    return tuple((rf"^{folder}\.(\d+)\.{ours}$", rf"{released}.\1.{theirs}") for ours, theirs in names.items())


_AFFINE = r"\.(weight|bias)"
_TOST = (
    (r"^embed\.class_token$", "cls_token"),
    (r"^embed\.stem", "patch_embed.proj"),
    (r"^embed\.position_map", "pos_embeder.token_projection"),
    *_in(
        "blocks",
        {
            "attention_norm" + _AFFINE: r"norm1.\2",
            r"attention\.temperature": "attn.temp",
            r"attention\.projection": "attn.qkv.weight",
            r"attention\.projection_bias": "attn.qkv.bias",
            r"attention\.output": "attn.to_out.0.weight",
            r"attention\.bias": "attn.to_out.0.bias",
            "attention_scale": "gamma1",
            "dictionary_norm" + _AFFINE: r"norm2.\2",
            r"dictionary\.0" + _AFFINE: r"mlp.fc1.\2",
            r"dictionary\.2" + _AFFINE: r"mlp.fc2.\2",
            "dictionary_scale": "gamma2",
        },
    ),
    *_in(
        "class_layers",
        {
            "attention_norm" + _AFFINE: r"norm1.\2",
            "maps" + _AFFINE: r"attn.qkv.\2",
            "output" + _AFFINE: r"attn.proj.\2",
            "attention_scale": "gamma1",
            "perceptron_norm" + _AFFINE: r"norm2.\2",
            r"perceptron\.0" + _AFFINE: r"mlp.fc1.\2",
            r"perceptron\.2" + _AFFINE: r"mlp.fc2.\2",
            "perceptron_scale": "gamma2",
        },
        "cls_attn_blocks",
    ),
    (r"^head\.norm", "norm"),
    (r"^head\.linear", "head"),
)
_TOST_LANGUAGE = (
    (r"^embed\.symbols$", "transformer.wte.weight"),
    (r"^embed\.positions$", "transformer.wpe.weight"),
    *_in(
        "blocks",
        {
            "attention_norm" + _AFFINE: r"ln_1.\2",
            r"attention\.temperature": "attn.temp",
            r"attention\.offset": "attn.denom_bias",
            r"attention\.projection": "attn.c_attn.weight",
            r"attention\.projection_bias": "attn.c_attn.bias",
            r"attention\.output": "attn.c_proj.weight",
            r"attention\.bias": "attn.c_proj.bias",
            "attention_scale": "gamma1",
            "dictionary_norm" + _AFFINE: r"ln_2.\2",
            r"dictionary\.0" + _AFFINE: r"mlp.c_fc.\2",
            r"dictionary\.2" + _AFFINE: r"mlp.c_proj.\2",
            "dictionary_scale": "gamma2",
        },
        r"transformer.h",
    ),
    (r"^head\.norm", "transformer.ln_f"),
    (r"^head\.linear", "lm_head"),
)
_CBT = (
    (r"^embed\.stem", "to_patch_embedding.proj"),
    *_in(
        "blocks",
        {
            r"attention\.projection": "0.fn.proj.weight",
            r"attention\.output": "0.fn.to_out.weight",
            r"attention\.bias": "0.fn.to_out.bias",
            r"attention\.contract_step": "0.fn.step_rep",
            r"attention\.broadcast_step": "0.fn.step_x",
        },
        "transformer.layers",
    ),
    *_CRATE,
)
_CONVOLUTIONS = ("conv1.weight", "patch_embed.proj.weight")
_POINTWISE = "pos_embeder.token_projection.weight"


def released_names(model: nn.Module) -> dict[str, str]:
    """Released name of every tensor of a model.

    Args:
        model: a model of one of the released families, as its preset makes it: :class:`srr.nn.CRATE` (CRATE, CRATE-α,
            ToST, CBT), :class:`srr.nn.CrateMAE` or :class:`srr.nn.CausalCRATE` (ToST).

    Returns:
        Released names by ours.

    Raises:
        ValueError: a model of no released family.

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
        ValueError: a model of no released family.

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
    if _POINTWISE in theirs:
        theirs[_POINTWISE] = theirs[_POINTWISE][:, :, None, None]  # (d, 64) -> (d, 64, 1, 1)
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
    config: Any = getattr(model, "config", None)
    block = getattr(config, "block", None)
    if isinstance(model, CrateMAE) and block == "crate":
        return _MAE
    if isinstance(model, CausalCRATE) and block == "tost":
        return _TOST_LANGUAGE
    if isinstance(model, CRATE) and (rules := _CLASSIFIERS.get((config.block, _front(config)))) is not None:
        return rules
    raise ValueError(
        f"released names are known of CRATE, CRATE-α, CRATE-MAE, ToST and CBT; this {type(model).__name__} with "
        f"block={block!r} is none of them as released: see the presets crate_*, crate_alpha_*, crate_mae_*, tost_*, "
        "tost_language_* and cbt_*"
    )


def _front(config: Any) -> str:
    """What of a classifier's choices decides under which names it was released."""
    if config.stem == "patches":
        return "norms" if config.patch_norm else "patches"
    if config.class_layers and config.positions == "fourier":
        return "class attention"
    return "grid means" if config.grid_means else "convolutions"


_CLASSIFIERS = {
    ("crate", "norms"): _CRATE,
    ("alpha", "patches"): _ALPHA,
    ("tost", "class attention"): _TOST,
    ("cbsa", "grid means"): _CBT,
}


def _rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name


def load_released(
    model: ModelT,
    state_dict: Mapping[str, Any],
    *,
    strict: bool = True,
    grid: tuple[int, int] | None = None,
    fixed_positions: str = "interpolated",
) -> ModelT:
    """Load released weights of CRATE, CRATE-α, CRATE-MAE, ToST or CBT into the model of the same size.

    Positions of another grid are interpolated, those of a longer context are cut; a head of another class
    count is left as initialized, with a warning. ``module.`` and ``_orig_mod.`` in front of the names and nesting
    under ``state_dict`` or ``model`` are taken off.

    Args:
        model: as for :func:`released_names`.
        state_dict: tensors by their released names, read with ``weights_only=True``.
        strict: refuse missing and unexpected names; tensors of a wrong shape are always refused.
        grid: rows and columns of patches the file was made for, a square by default.
        fixed_positions: of an autoencoder on another grid: ``"interpolated"``, as the released code does with its
            table of sines and cosines, or ``"computed"`` for the new grid.

    Returns:
        The model, with the weights.

    Raises:
        ValueError: one sentence that lists every missing, unexpected and misshapen name.

    Source: names and shapes of the files published with [CRATE], [ALPHA], [MAE], [TOST] and [CBSA].

    Example:
        >>> from srr.nn import create_model, to_released
        >>> model, twin = create_model("crate_micro"), create_model("crate_micro")
        >>> twin = load_released(twin, {"state_dict": to_released(model)})
        >>> bool((model.head.linear.weight == twin.head.linear.weight).all())
        True
    """
    theirs = strip_wrapping(state_dict)
    names, shapes = released_names(model), model.state_dict()
    ours = {}
    for name, released in names.items():
        if released in theirs:
            found = theirs[released]
            ours[name] = found if shapes[name].ndim == 4 else conv_to_linear(found)
    unexpected = sorted(theirs.keys() - set(names.values())) if strict else []
    load_adapted(
        model, ours, grid=grid, strict=strict, unexpected=unexpected, names=names, fixed_positions=fixed_positions
    )
    return model
