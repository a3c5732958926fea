"""Named sizes of the family and the one function that builds a model from a name."""

from __future__ import annotations

from typing import Any

from torch import nn

from srr.nn.config import Config, CrateConfig
from srr.nn.crate import CRATE
from srr.nn.mae import CrateMAE, MaeConfig

__all__ = ["PRESETS", "create_model"]

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"dim": 384, "heads": 6, "head_dim": 64, "depth": 12},
    "small": {"dim": 576, "heads": 12, "head_dim": 48, "depth": 12},
    "base": {"dim": 768, "heads": 12, "head_dim": 64, "depth": 12},
    "large": {"dim": 1024, "heads": 16, "head_dim": 64, "depth": 24},
}
MICRO: dict[str, Any] = {"dim": 64, "heads": 4, "head_dim": 16, "depth": 4}
ALPHA: dict[str, Any] = {"block": "alpha", "patch_norm": False, "norm_eps": 1e-6}

PRESETS: dict[str, Config] = {
    "crate_micro": CrateConfig(
        **MICRO, image_size=8, patch_size=4, channels=1, num_classes=10, pool="mean", position_std=0.02
    ),
    **{f"crate_{size}": CrateConfig(**sizes) for size, sizes in SIZES.items()},
    "crate_alpha_base": CrateConfig(**SIZES["base"], **ALPHA),
    "crate_alpha_large": CrateConfig(**SIZES["large"], **ALPHA, patch_size=14),
    "crate_mae_micro": MaeConfig(**MICRO, decoder_depth=4, image_size=8, patch_size=2, channels=1),
    **{f"crate_mae_{size}": MaeConfig(**sizes, decoder_depth=sizes["depth"]) for size, sizes in SIZES.items()},
}
"""Configs by name."""

MODELS: dict[type[Config], type[nn.Module]] = {CrateConfig: CRATE, MaeConfig: CrateMAE}


def create_model(name: str, **overrides: Any) -> nn.Module:
    """Model of a named size, freshly initialised.

    Args:
        name: a key of :data:`PRESETS`.
        **overrides: fields of its config, such as ``image_size``, ``patch_size``, ``channels``,
            ``num_classes``, ``dim``, ``depth``, ``heads``, ``head_dim``, ``pool``, ``step``, ``lam`` or
            ``block``.

    Returns:
        The model, in training mode, on the CPU.

    Raises:
        ValueError: an unknown name, field or value.

    Example:
        >>> model = create_model("crate_tiny", num_classes=10)
        >>> sum(p.numel() for p in model.parameters())
        5709706
    """
    if name not in PRESETS:
        raise ValueError(f"model must be one of {sorted(PRESETS)}; got {name!r}")
    return build_model(PRESETS[name].override(**overrides))


def build_model(config: Config) -> nn.Module:
    """Model a config describes."""
    return MODELS[type(config)](config)
