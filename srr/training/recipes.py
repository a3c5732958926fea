"""What a run begins from when the user names data and nothing else."""

from __future__ import annotations

from typing import Any

from srr.training.config import Config, merge, resolve

SMALL_IMAGES: dict[str, Any] = {
    "augment": {"shift": 1},
    "objective": {"label_smoothing": 0.1},
    "optim": {"lr": 3e-3},
    "trainer": {"max_epochs": 40},
}

LARGER: dict[str, Any] = {
    "data": {"batch_size": 256},
    "optim": {"warmup_epochs": 0.5},
    "trainer": {"max_epochs": 5},
}

RECIPES: dict[str, dict[str, Any]] = {
    "digits": SMALL_IMAGES,
    "mnist": merge(SMALL_IMAGES, {"augment": {"shift": 2}, **LARGER}),
    "fashion-mnist": merge(SMALL_IMAGES, {"augment": {"flip": True}, **LARGER}),
    "mixture": {"optim": {"lr": 3e-3}, "trainer": {"max_epochs": 20}},
    "text": {
        "model": {"preset": "crate_causal_micro"},
        "objective": {"name": "next_token"},
        "optim": {"lr": 3e-3, "warmup_epochs": 0.1},
        "trainer": {"max_epochs": 1, "clip_norm": 1.0},
    },
}
"""By the part of ``data.name`` before a colon; other data begin from the defaults of the sections."""


def resolve_with_recipe(values: dict[str, Any]) -> Config:
    """Resolve a config over the recipe of the data it names.

    Args:
        values: nested plain values from a file and from overrides.

    Returns:
        The config: defaults, then the recipe, then the values.

    Raises:
        ValueError: an unknown key or a value of the wrong type.
    """
    section = values.get("data")
    name = section.get("name", "digits") if isinstance(section, dict) else "digits"
    return resolve(merge(RECIPES.get(str(name).partition(":")[0], {}), values))
