"""Named sizes of the family and the one function that builds a model from a name."""

from __future__ import annotations

import os
from typing import Any, overload

from srr.nn.causal import CausalConfig, CausalCRATE
from srr.nn.crate import CRATE, CrateConfig
from srr.nn.mae import CrateMAE, MaeConfig
from srr.nn.network import NetworkConfig
from srr.nn.pretrained import HUB_OPTIONS, PretrainedModel, local_folder, read_config

__all__ = ["PRESETS", "create_model", "load_model"]

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"dim": 384, "heads": 6, "head_dim": 64, "depth": 12},
    "small": {"dim": 576, "heads": 12, "head_dim": 48, "depth": 12},
    "base": {"dim": 768, "heads": 12, "head_dim": 64, "depth": 12},
    "large": {"dim": 1024, "heads": 16, "head_dim": 64, "depth": 24},
}
MICRO: dict[str, Any] = {"dim": 64, "heads": 4, "head_dim": 16, "depth": 4}
ALPHA: dict[str, Any] = {"block": "alpha", "patch_norm": False, "norm_eps": 1e-6}

TOST: dict[str, Any] = {
    "block": "tost",
    "stem": "convolutions",
    "positions": "fourier",
    "class_layers": 2,
    "layer_scale": 1.0,
    "norm_eps": 1e-6,
    "head_eps": 1e-6,
    "position_std": 0.02,
}
TOST_SIZES: dict[str, dict[str, Any]] = {
    "micro": {"dim": 64, "heads": 4, "head_dim": 16, "depth": 4, "image_size": 32, "patch_size": 8, "num_classes": 10},
    "tiny": {"dim": 192, "heads": 4, "head_dim": 48, "depth": 12},
    "small": {"dim": 384, "heads": 8, "head_dim": 48, "depth": 12},
}
TOST_LANGUAGE: dict[str, Any] = {
    "block": "tost",
    "layer_scale": 1.0,
    "bias": False,
    "projection_bias": False,
    "offsets": True,
    "tied": True,
    "head_bias": False,
}
TOST_LANGUAGE_SIZES: dict[str, dict[str, Any]] = {
    "micro": {"dim": 64, "heads": 4, "head_dim": 16, "depth": 4, "context": 64},
    "base": {"dim": 768, "heads": 12, "head_dim": 64, "depth": 12, "context": 1024, "vocabulary": 50304},
    "medium": {"dim": 1024, "heads": 16, "head_dim": 64, "depth": 24, "context": 1024, "vocabulary": 50304},
    "large": {"dim": 1280, "heads": 20, "head_dim": 64, "depth": 36, "context": 1024, "vocabulary": 50304},
}
CBT: dict[str, Any] = {"block": "cbsa", "stem": "convolutions", "grid_means": True}
CBT_SIZES: dict[str, dict[str, Any]] = {
    "micro": {**TOST_SIZES["micro"], "position_std": 0.02},
    "tiny": {"dim": 192, "heads": 3, "head_dim": 64, "depth": 12},
    "small": {"dim": 384, "heads": 6, "head_dim": 64, "depth": 12},
    "base": {"dim": 768, "heads": 12, "head_dim": 64, "depth": 12},
    "large": {"dim": 1024, "heads": 16, "head_dim": 64, "depth": 24},
}

DESCENT: dict[
    str, dict[str, Any]
] = {  # as many parameters as the CRATE of that size, within 3 %: no output map, so wider
    "tiny": {"dim": 464, "heads": 8, "head_dim": 58, "depth": 12},
    "small": {"dim": 696, "heads": 12, "head_dim": 58, "depth": 12},
    "base": {"dim": 936, "heads": 12, "head_dim": 78, "depth": 12},
}

PRESETS: dict[str, NetworkConfig] = {
    "crate_micro": CrateConfig(
        **MICRO, image_size=8, patch_size=4, channels=1, num_classes=10, pool="mean", position_std=0.02
    ),
    **{f"crate_{size}": CrateConfig(**sizes) for size, sizes in SIZES.items()},
    "crate_descent_micro": CrateConfig(
        dim=78,
        heads=6,
        head_dim=13,
        depth=4,
        block="crate_descent",
        image_size=8,
        patch_size=4,
        channels=1,
        num_classes=10,
        pool="mean",
        position_std=0.02,
    ),
    **{f"crate_descent_{size}": CrateConfig(**sizes, block="crate_descent") for size, sizes in DESCENT.items()},
    "crate_alpha_base": CrateConfig(**SIZES["base"], **ALPHA),
    "crate_alpha_large": CrateConfig(**SIZES["large"], **ALPHA, patch_size=14),
    "crate_causal_micro": CausalConfig(**MICRO, context=64),
    **{f"crate_causal_{size}": CausalConfig(**sizes, context=1024) for size, sizes in SIZES.items()},
    "crate_mae_micro": MaeConfig(**MICRO, decoder_depth=4, image_size=8, patch_size=2, channels=1),
    **{f"tost_{size}": CrateConfig(**sizes, **TOST) for size, sizes in TOST_SIZES.items()},
    **{f"tost_language_{size}": CausalConfig(**sizes, **TOST_LANGUAGE) for size, sizes in TOST_LANGUAGE_SIZES.items()},
    **{f"cbt_{size}": CrateConfig(**sizes, **CBT) for size, sizes in CBT_SIZES.items()},
    **{f"crate_mae_{size}": MaeConfig(**sizes, decoder_depth=sizes["depth"]) for size, sizes in SIZES.items()},
}
"""Configs by name."""

MODELS: dict[type[NetworkConfig], type[PretrainedModel]] = {
    CrateConfig: CRATE,
    CausalConfig: CausalCRATE,
    MaeConfig: CrateMAE,
}


@overload
def create_model(model: CrateConfig, **overrides: Any) -> CRATE: ...
@overload
def create_model(model: CausalConfig, **overrides: Any) -> CausalCRATE: ...
@overload
def create_model(model: MaeConfig, **overrides: Any) -> CrateMAE: ...
@overload
def create_model(model: str | NetworkConfig, **overrides: Any) -> PretrainedModel: ...
def create_model(model: str | NetworkConfig, **overrides: Any) -> PretrainedModel:
    """Model of a named size or of a config, freshly initialized.

    Args:
        model: a key of :data:`PRESETS`, or one of the configs of :mod:`srr.nn`.
        **overrides: fields of its config, such as ``image_size``, ``patch_size``, ``channels``,
            ``num_classes``, ``dim``, ``depth``, ``heads``, ``head_dim``, ``pool``, ``step``, ``lam`` or
            ``block``.

    Returns:
        :class:`srr.nn.CRATE`, :class:`srr.nn.CausalCRATE` or :class:`srr.nn.CrateMAE`, in training mode.

    Raises:
        ValueError: an unknown name, field or value.

    Example:
        >>> model = create_model("crate_tiny", num_classes=10)
        >>> sum(p.numel() for p in model.parameters())
        5709706
        >>> type(create_model(CausalConfig(depth=1))).__name__
        'CausalCRATE'
    """
    if isinstance(model, str):
        if model not in PRESETS:
            raise ValueError(f"model must be one of {sorted(PRESETS)}; got {model!r}")
        model = PRESETS[model]
    config = model.override(**overrides)
    return MODELS[type(config)](config)


def load_model(source: str | os.PathLike[str], **overrides: Any) -> PretrainedModel:
    """Model saved by :meth:`srr.nn.PretrainedModel.save_pretrained`, of whichever class it is.

    Args:
        source: a local folder, or ``owner/name`` on the Hugging Face Hub.
        **overrides: fields of the config to change and options of the Hub (``revision``, ``token``, …), see
            :meth:`srr.nn.PretrainedModel.from_pretrained`.

    Returns:
        The model, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: the folder lacks one of the two files.
        ValueError: a damaged file, an unknown class, weights that do not fit.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     create_model("crate_mae_micro").save_pretrained(folder)
        ...     type(load_model(folder)).__name__
        'CrateMAE'
    """
    hub = {option: overrides.pop(option) for option in HUB_OPTIONS if option in overrides}
    folder = local_folder(source, **hub)
    kinds = {kind.__name__: kind for kind in MODELS.values()}
    kind = read_config(folder).get("model")
    if kind not in kinds:
        raise ValueError(f"config.json must name a model among {sorted(kinds)}; got {kind!r}")
    return kinds[kind].from_pretrained(folder, **overrides)
