"""What a run is made of: frozen sections, read from YAML or TOML, overridden by dotted words."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from srr.training._coerce import coerce

Section = TypeVar("Section")


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from and how they are batched.

    ``name`` is ``digits``, ``mnist``, ``fashion-mnist``, ``mixture``, ``folder:PATH``, ``hf:NAME`` or ``text:FILE``;
    ``root`` is the folder of idx files, ``corrupt_labels`` the fraction of training labels redrawn at random.
    """

    name: str = "digits"
    root: str | None = None
    batch_size: int = 64
    eval_batch_size: int = 256
    workers: int = 0
    held_out: float = 0.2
    image_size: int | None = None
    limit: int | None = None
    corrupt_labels: float = 0.0
    tokenizer: str = "bytes"
    vocab_size: int = 512
    context: int = 128
    classes: int = 4
    samples: int = 1000
    tokens: int = 32
    token_dim: int = 32
    noise: float = 0.3


@dataclass(frozen=True)
class ModelConfig:
    """A preset of :func:`srr.nn.create_model`; every further key is one of its overrides."""

    preset: str = "crate_micro"
    pretrained: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimized: ``cross_entropy``, ``mcr2``, ``masked`` or ``next_token``, plus λ·SRR on chosen layers.

    ``srr_scope`` is ``image`` (the tokens of one image form one set) or ``batch`` (one set across all ranks).
    """

    name: str = "cross_entropy"
    label_smoothing: float = 0.0
    eps: float = 0.5
    srr_weight: float = 0.0
    srr_layers: tuple[int, ...] = (-1,)
    srr_scope: str = "image"
    srr_lam: float = 0.1


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training images, made on the device; zero or False leaves one out."""

    crop_scale: tuple[float, ...] = ()
    shift: int = 0
    flip: bool = False
    randaugment_ops: int = 0
    randaugment_magnitude: float = 9.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0


@dataclass(frozen=True)
class OptimConfig:
    """``adamw``, ``lion`` or ``muon``; linear warm-up and then a cosine down to ``min_lr_ratio`` of ``lr``."""

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, ...] = ()
    momentum: float = 0.95
    warmup_epochs: float = 2.0
    min_lr_ratio: float = 0.0


@dataclass(frozen=True)
class TrainerConfig:
    """How long, on what and how carefully.

    ``max_steps`` (−1: no limit) ends a run before ``max_epochs``; ``ema`` is the decay of the averaged weights
    (0: none); a checkpoint is written every ``checkpoint_every`` optimizer steps (0: only after each epoch).
    """

    max_epochs: int = 40
    max_steps: int = -1
    accumulate: int = 1
    clip_norm: float = 0.0
    ema: float = 0.0
    precision: str = "32"
    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    compile: bool = False
    check_finite: bool = True
    checkpoint_every: int = 0
    log_every: int = 10
    trace_every: int = 0
    progress: str = "auto"


@dataclass(frozen=True)
class Config:
    """Everything that decides a run; equal configs on one machine give equal weights.

    Args:
        data: which data, and how they are read.
        model: preset and its overrides, or a folder of weights to begin from.
        objective: what is minimized.
        augment: what happens to training images.
        optim: optimizer and schedule.
        trainer: how long, on what and how carefully.
        seed: seed of weights, order and augmentation.
        out: folder of the run.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    seed: int = 0
    out: str = "runs/run"


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a YAML or TOML file as plain dictionaries, lists, strings and numbers; nothing in it is executed.

    Args:
        path: file ending in .yaml, .yml or .toml.

    Returns:
        Nested plain values, one dictionary a section.

    Raises:
        ValueError: another ending, or a text that does not parse, or that is not a mapping.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".toml":
            found: Any = tomllib.loads(text)
        elif path.suffix in {".yaml", ".yml"}:
            found = _yaml().safe_load(text)
        else:
            raise ValueError(f"config must end in .yaml, .yml or .toml; got {path.name}")
    except (tomllib.TOMLDecodeError, _yaml().YAMLError) as error:
        raise ValueError(f"config {path} does not parse: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"config {path} must be a mapping of sections; got {type(found).__name__}")
    return found


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Turn words like ``trainer.max_epochs=5`` into nested dictionaries; values are read as YAML scalars or lists.

    Args:
        words: dotted keys with their values.

    Returns:
        The nested dictionaries.

    Raises:
        ValueError: a word without a key or ``=``, or a value that does not parse.

    Example:
        >>> parse_overrides(["trainer.max_epochs=5", "seed=1"])
        {'trainer': {'max_epochs': 5}, 'seed': 1}
    """
    nested: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ValueError(f"an override must look like section.key=value; got {word!r}")
        try:
            value = _yaml().safe_load(text)
        except _yaml().YAMLError as error:
            raise ValueError(f"the value of override {word!r} does not parse") from error
        _set(nested, key.split("."), value, word)
    return nested


def _set(nested: dict[str, Any], path: list[str], value: Any, word: str) -> None:
    for name in path[:-1]:
        nested = nested.setdefault(name, {})
        if not isinstance(nested, dict):
            raise ValueError(f"override {word!r} goes inside a value that is not a section")
    nested[path[-1]] = value


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested dictionary over another; sections merge, values replace.

    Args:
        base: what is below.
        over: what lies over it.

    Returns:
        A new dictionary.
    """
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def resolve(values: Mapping[str, Any]) -> Config:
    """Build the config from nested plain values; a key that does not exist is refused with the closest one that does.

    Args:
        values: nested plain values.

    Returns:
        The config, defaults where nothing is named.

    Raises:
        ValueError: an unknown key or a value of the wrong type, named with its section.
    """
    return _build(Config, values, "")


def _build(cls: type[Section], values: Mapping[str, Any], where: str) -> Section:
    hints = get_type_hints(cls)
    free = "overrides" in hints
    given: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{where}{key}"
        if key not in hints:
            if not free:
                raise ValueError(f"config has no key {name!r}{_closest(key, list(hints))}")
            given.setdefault("overrides", {})[key] = value
        elif dataclasses.is_dataclass(hints[key]):
            given[key] = _build(hints[key], _mapping(value, name), f"{name}.")
        elif key == "overrides":
            given[key] = {**given.get(key, {}), **_mapping(value, name)}
        else:
            given[key] = coerce(value, hints[key], name)
    return cls(**given)


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"config section {name!r} must be a mapping; got {value!r}")
    return value


def _closest(key: str, names: list[str]) -> str:
    found = difflib.get_close_matches(key, names, n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; there are {', '.join(sorted(names))}"


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested values of a config, ready for :func:`resolve` again."""
    plain = dataclasses.asdict(config)
    plain["model"] = {**{k: v for k, v in plain["model"].items() if k != "overrides"}, **plain["model"]["overrides"]}
    return {
        k: {a: list(b) if isinstance(b, tuple) else b for a, b in v.items()} if isinstance(v, dict) else v
        for k, v in plain.items()
    }


def dump_config(config: Config) -> str:
    """The config as YAML text.

    Args:
        config: a resolved config.

    Returns:
        Text that :func:`read_config` of a file with it gives back.
    """
    return str(_yaml().safe_dump(to_dict(config), sort_keys=False))


def _yaml() -> Any:
    import yaml

    return yaml
