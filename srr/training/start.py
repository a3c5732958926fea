"""Where a run begins: another run, a saved model, a checkpoint, a released file or the Hub, and what sizes it has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from srr.nn.network import NetworkConfig
from srr.nn.presets import MODELS, PRESETS, create_model
from srr.nn.pretrained import CONFIG_FILE, check_declared, load_adapted, local_folder, read_config, read_weights
from srr.nn.released import load_released, strip_wrapping
from srr.training.checkpoint import FOLDER, METADATA, load_sharded, network_weights, read_checkpoint, read_sharded
from srr.training.config import CONFIG, RunConfig

NETWORK = "network"
OF_THE_DATA = frozenset({"image_size", "channels", "num_classes", "vocabulary", "context"})
FREE = OF_THE_DATA - {"channels"}
"""Sizes that a run may change: positions are carried to another grid, and the head begins afresh."""


class Start(NamedTuple):
    """Weights to begin from.

    Args:
        weights: tensors by their names, ours or the released ones.
        config: the network they were made for, None where the file does not say.
    """

    weights: Mapping[str, Tensor]
    config: NetworkConfig | None


def read_start(source: str) -> Start:
    """Read the weights to begin from, and what they are.

    Args:
        source: the folder of a run or of a saved model, a checkpoint (a file or a folder of shards), a file of weights
            (``.safetensors``, ``.pth``, ``.pt``, ``.bin``), or ``owner/name`` on the Hub.

    Returns:
        Weights and config.

    Raises:
        FileNotFoundError: there is nothing of that name, or a run that has no weights yet.
        ValueError: a damaged file, or one that is none of these.
    """
    path = Path(source)
    if path.is_file():
        return _read_file(path)
    if (path / METADATA).is_file():
        config = _network(read_sharded(path).get(NETWORK), path)
        if config is None:
            raise ValueError(f"checkpoint {path} does not say which network it holds")
        model: nn.Module = create_model(config)
        load_sharded(model, path)
        return Start(model.state_dict(), config)
    if (path / CONFIG).is_file() and not (path / "model" / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"run {path} has no model/ yet; its checkpoints are in {path / FOLDER}")
    if not path.is_dir() and path.suffix:
        raise FileNotFoundError(f"there is no file of weights {path}")
    folder = local_folder(source)
    config, weights = _network(read_config(folder), folder / CONFIG_FILE), read_weights(folder)
    if config is not None:
        check_declared(config, weights, create_model)
    return Start(weights, config)


def _read_file(path: Path) -> Start:
    if path.suffix == ".ckpt":
        found = read_checkpoint(path)
        return Start(network_weights(strip_wrapping(found)), _network(found.get(NETWORK), path))
    if path.suffix == ".safetensors":
        if path.name == "model.safetensors" and (path.parent / CONFIG_FILE).is_file():
            return read_start(str(path.parent))
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return Start(load(path.read_bytes()), None)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    if path.suffix not in {".pth", ".pt", ".bin"}:
        raise ValueError(f"model.pretrained must be a folder, .ckpt, .safetensors, .pth, .pt or .bin; got {path}")
    try:
        return Start(strip_wrapping(torch.load(path, map_location="cpu", weights_only=True)), None)
    except Exception as error:
        reason = str(error).split("\n", 1)[0].split(". ", 1)[0]
        raise ValueError(f"{path} is damaged, or holds more than tensors by name: {reason}") from error


def _network(described: Any, path: Path) -> NetworkConfig | None:
    """The config that a file describes.

    Raises:
        ValueError: a network of another name, or options it does not have.
    """
    if described is None:
        return None
    try:
        values = dict(json.loads(described) if isinstance(described, str) else described)
        kinds = {model.__name__: config for config, model in MODELS.items()}
        kind = values.pop("model", None)
        if kind not in kinds:
            raise ValueError(f"it describes a {kind}; there are {', '.join(kinds)}")
        return kinds[kind].from_dict(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def begun_from(config: RunConfig) -> RunConfig:
    """The config of a run with the network of ``model.pretrained`` in it, so that nobody has to type its sizes.

    What the data decide stays theirs, and what the config says goes over what the file says.

    Args:
        config: the config as asked for.

    Returns:
        The same without ``model.pretrained``; otherwise one that names every option in which the network of the file
        differs from the preset.
    """
    if config.model.pretrained is None:
        return config
    saved = read_start(config.model.pretrained).config
    if saved is None:
        return config
    preset = config.model.preset
    if type(PRESETS.get(preset)) is not type(saved):
        preset = next(name for name, known in PRESETS.items() if type(known) is type(saved))
    usual, wanted = asdict(PRESETS[preset]), asdict(saved)
    differs = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in wanted.items()
        if name not in OF_THE_DATA and (value != usual[name] or name == "patch_size")
    }
    section = replace(config.model, preset=preset, overrides={**differs, **config.model.overrides})
    return replace(config, model=section)


def load_weights(model: nn.Module, source: str) -> None:
    """Load the weights to begin from into a model.

    Positions are interpolated for another image size; a head for other classes keeps its own start, with a warning.

    Args:
        model: one of :mod:`srr.nn`.
        source: as for :func:`read_start`.

    Raises:
        FileNotFoundError: there are no such weights.
        ValueError: the file is damaged, or is of another network; one sentence says in what.
    """
    start = read_start(source)
    ours = start.weights.keys() & model.state_dict().keys()
    try:
        if start.config is None and not ours:
            load_released(model, start.weights)
        else:
            load_adapted(model, start.weights, saved=start.config)
    except ValueError as error:
        raise ValueError(f"{source} does not fit: {_misfit(model, start, str(error))}") from error


def _misfit(model: nn.Module, start: Start, reason: str) -> str:
    asked = asdict(cast("Any", model).config)
    if start.config is None:
        short = reason if len(reason) < 200 else reason[:200] + "…"
        return f"{short} (the file does not say its sizes; they come from model.preset and the words after model.)"
    saved = asdict(start.config)
    if type(start.config) is not type(cast("Any", model).config):
        return f"it holds a {type(start.config).__name__}; this run trains a {type(cast('Any', model).config).__name__}"
    differ = [name for name in saved if name not in FREE and saved[name] != asked[name]]
    if not differ:
        return reason[:200]
    return "; ".join(f"it has {name}={saved[name]}, this run asks for {asked[name]}" for name in differ)
