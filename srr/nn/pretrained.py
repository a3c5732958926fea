"""Models in folders and on the Hugging Face Hub: weights as safetensors, the config as JSON, whole or not at all.

``huggingface_hub`` is imported only in a call, and its ``ModelHubMixin`` is not a base class here: importing it took
0.36 s beside the 0.09 s of ``srr.nn``, its ``save_pretrained`` removes the ``config.json`` of the last save before the
new one is written, and its ``from_pretrained`` reads files before the model can check them. The keywords and the
requests to the Hub are the same.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from srr._array.extras import need, sentence
from srr._array.files import remove, write_atomically
from srr.nn.preprocessing import PREPROCESSING_FILE, Preprocessing, read_preprocessing

if TYPE_CHECKING:
    from srr.nn.network import NetworkConfig

__all__ = ["PretrainedModel", "interpolate_positions"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARDS = "model-*.safetensors"
LARGEST_INDEX = 2**24
LARGEST_CONFIG = 2**20
HEAD = ("head.linear.weight", "head.linear.bias")
FIXED = ("positions", "unread.positions")
FIXED_POSITIONS = ("interpolated", "computed")
HUB_OPTIONS = ("revision", "token", "cache_dir", "force_download", "local_files_only")

Patterns = list[str] | str | None


class PretrainedModel(nn.Module):
    """Base of the models: saved to and read from a local folder or the Hugging Face Hub.

    Example:
        >>> import tempfile
        >>> from srr.nn import CRATE, create_model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     create_model("crate_micro").save_pretrained(folder)
        ...     model = CRATE.from_pretrained(folder)
        >>> model.config.dim
        64
    """

    config: NetworkConfig
    config_type: ClassVar[type[NetworkConfig]]
    blocks: nn.ModuleList
    preprocessing: Preprocessing | None = None

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **hub: Any,
    ) -> str | None:
        """Write ``model.safetensors`` and ``config.json``, each under another name first and then renamed.

        A model that knows its :class:`srr.nn.Preprocessing` leaves ``preprocessing.json`` beside them.

        Args:
            folder: created when absent; files of an earlier save are replaced.
            repo_id: repository of the Hub to upload to; the name of the folder when None.
            push_to_hub: whether to upload the model as well.
            **hub: options of :meth:`push_to_hub`.

        Returns:
            Address of the commit when the model was uploaded, None otherwise.

        Raises:
            OSError: the folder cannot be written.
            TypeError: options of an upload without ``push_to_hub=True``.
        """
        if (hub or repo_id) and not push_to_hub:
            raise TypeError(f"{sorted(hub) or ['repo_id']} can be used only with push_to_hub=True")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        places = [tensor.data_ptr() for tensor in tensors.values()]
        if len(set(places)) < len(places):  # a table that is two parts at once is written twice
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        weights = save(tensors, metadata={"format": "pt"})
        write_atomically(folder / WEIGHTS_FILE, lambda file: file.write(weights))
        write_atomically(folder / CONFIG_FILE, lambda file: file.write(self.describe().encode()))
        if (known := self.preprocessing) is not None:
            write_atomically(folder / PREPROCESSING_FILE, lambda file: file.write(known.describe().encode()))
        else:
            remove(folder / PREPROCESSING_FILE)  # of another model that was here
        return self.push_to_hub(repo_id or folder.resolve().name, **hub) if push_to_hub else None

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the saved files to a repository of the Hugging Face Hub in one commit.

        Args:
            repo_id: ``owner/name``, created when absent.
            **options: keywords of the Hub's own mixin: ``commit_message``, ``private``, ``token``, ``branch``,
                ``create_pr``, ``allow_patterns``, ``ignore_patterns``, ``delete_patterns``.

        Returns:
            Address of the commit.

        Raises:
            ImportError: ``huggingface_hub`` is not installed.
        """
        return upload(self.save_pretrained, repo_id, **options)

    def describe(self) -> str:
        """Text of ``config.json``: the class of the model and its config."""
        return json.dumps({"model": type(self).__name__, **asdict(self.config)}, indent=2) + "\n"

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        fixed_positions: str = "interpolated",
        **overrides: Any,
    ) -> Self:
        """Model from a folder, or from a repository of the Hub when there is no such folder.

        Args:
            source: a local folder, the folder of a training run, or ``owner/name`` on the Hub.
            revision: branch, tag or commit of the repository; None is ``main``.
            token: access token; None takes the one of ``hf auth login``.
            cache_dir: folder of the Hub's cache; None takes its own.
            force_download: download even what the cache holds.
            local_files_only: look into the cache only.
            fixed_positions: of an autoencoder on another grid: its table of sines and cosines is ``"interpolated"``,
                as in the released code, or ``"computed"`` anew.
            **overrides: fields of the config to change. For another ``image_size`` or ``patch_size`` grid
                the positions are interpolated, for a shorter ``context`` they are cut; for another ``num_classes``
                the head starts afresh, with a warning; with ``num_classes=0`` it is left out.

        Returns:
            The model, in evaluation mode, on the CPU.

        Raises:
            FileNotFoundError: the folder lacks one of the two files, or neither Hub nor cache has the repository.
            ValueError: a damaged file, a config of another class, weights that do not fit.
        """
        folder = local_folder(
            source,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        values = read_config(folder)
        if (kind := values.pop("model", cls.__name__)) != cls.__name__:
            raise ValueError(f"{folder / CONFIG_FILE} describes a {kind}; wanted a {cls.__name__}")
        saved = cls.config_type.from_dict(values)
        weights = read_weights(folder)
        check_declared(saved, weights, cls)
        model = cls(saved.override(**overrides))
        load_adapted(model, weights, saved=saved, fixed_positions=fixed_positions)
        known = read_preprocessing(folder)
        if known is not None and len(known.classes) != getattr(model.config, "num_classes", 0):
            known = replace(known, classes=())  # names of the classes that the weights were made for
        model.preprocessing = known
        return model.eval()


def local_folder(source: str | os.PathLike[str], **hub: Any) -> Path:
    """The folder itself, its ``model`` folder when it is a training run, or a cached copy of a Hub repository.

    Args:
        source: a folder, or ``owner/name`` on the Hub.
        **hub: options of :func:`srr.nn.pretrained.download`.
    """
    folder = Path(source)
    if (folder / "model" / CONFIG_FILE).is_file():
        return folder / "model"
    if folder.exists() or not isinstance(source, str) or source.count("/") != 1 or source[0] in "./~":
        return folder
    return download(source, files=[CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE, SHARDS, PREPROCESSING_FILE], **hub)


def read_config(folder: Path) -> dict[str, Any]:
    """Parsed ``config.json`` of a folder."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no saved model: it has no {CONFIG_FILE}")
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ValueError(f"it has more than {LARGEST_CONFIG:,} bytes")
        values = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged: it holds no table of options")
    return values


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Tensors of ``model.safetensors``, or of several files and their index; nothing in them can be executed."""
    path = folder / WEIGHTS_FILE
    if not path.is_file() and (folder / INDEX_FILE).is_file():
        return _read_shards(folder / INDEX_FILE)
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no saved model: it has no {WEIGHTS_FILE}")
    return _read_tensors(path)


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Tensors of the files beside an index, in the layout of the Hub for weights in several files."""
    try:
        if index.stat().st_size > LARGEST_INDEX:
            raise ValueError(f"it has more than {LARGEST_INDEX:,} bytes")
        places = dict(json.loads(index.read_text())["weight_map"])
        names = sorted(set(places.values()))
        if outside := [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]:
            raise ValueError(f"it names {outside[0]!r}, which is no file of weights beside it")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is damaged: {error}") from error
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise FileNotFoundError(f"{index} names {missing[0]}, which is not there")
    found: dict[str, Tensor] = {}
    for name in names:
        found |= _read_tensors(index.parent / name)
    if found.keys() != places.keys():
        differ = sorted(found.keys() ^ places.keys())
        raise ValueError(f"{index} and the files beside it differ in {differ[0]}")
    return found


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        utf8 = os.fsencode(path).decode("utf-8", "replace") == str(path)  # what opens it knows no other names
        return load_file(path) if utf8 else load(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def check_declared(config: Any, weights: Mapping[str, Tensor], make: Callable[[Any], nn.Module]) -> None:
    """Refuse a config that asks for more than its weights hold, before a model of that size is made.

    Args:
        config: what ``config.json`` says.
        weights: what ``model.safetensors`` holds.
        make: makes the model of a config.

    Raises:
        ValueError: more layers than there are tensors, a size that no tensor has, or more weights in all.
    """
    sizes = [size for tensor in weights.values() for size in tensor.shape]
    asked = {name: getattr(config, name) for name in config.counts}
    if hasattr(config, "grid"):
        patch = config.patch_size
        area = patch**2 if isinstance(patch, int) else math.prod(patch)
        if getattr(config, "positions", "learned") == "learned":
            asked["patches"] = math.prod(config.grid)
        if getattr(config, "stem", "patches") == "patches":
            asked["patch_size"] = area * config.channels
    for name, value in asked.items():
        most = len(weights) if name.endswith("depth") else max(sizes, default=0)
        if value > most:
            raise ValueError(f"config.json asks for {name}={value}; the weights beside it go to {most}")
    wanted, held = count_weights(config, make), sum(tensor.numel() for tensor in weights.values())
    if wanted > held:
        raise ValueError(f"config.json asks for {wanted:,} weights; model.safetensors holds {held:,}")


class _WithoutNumbers(TorchFunctionMode):
    """Leaves out draws and products on the empty device: for these torch loads its compiler, which takes 2 s."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.mul and isinstance(args[1], int | float):
            return args[0]
        return (torch.empty if func in {torch.randn, torch.rand} else func)(*args, **(kwargs or {}))


def count_weights(config: Any, make: Callable[[Any], nn.Module]) -> int:
    """Number of weights of a model that is not made: one layer and two are counted on torch's empty device."""
    with torch.device("meta"), _WithoutNumbers():
        plain = [config.override(depth=depth, orthogonal=False) for depth in (1, 2)]  # as many, and made of no numbers
        one, two = (sum(p.numel() for p in make(layers).parameters()) for layers in plain)
    return int(one + (config.depth - 1) * (two - one))


def load_adapted(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    saved: NetworkConfig | None = None,
    grid: tuple[int, int] | None = None,
    strict: bool = True,
    unexpected: list[str] | None = None,
    names: Mapping[str, str] | None = None,
    fixed_positions: str = "interpolated",
) -> None:
    """Load weights under our names; positions and head may differ, nothing else may.

    Args:
        model: the model to fill.
        state: tensors by our names.
        saved: the config that the weights were saved with, where it is known.
        grid: rows and columns the positions were made for; that of ``saved``, or a square, by default.
        strict: refuse missing and unexpected names.
        unexpected: names already known to belong to nothing.
        names: other names to call ours by in the error.
        fixed_positions: whether tables that are not learned are ``"interpolated"`` for another grid or ``"computed"``.

    Raises:
        ValueError: another word for ``fixed_positions``; one sentence that lists every missing, unexpected and
            misshapen name; the model is untouched.
    """
    if fixed_positions not in FIXED_POSITIONS:
        raise ValueError(f"fixed_positions must be one of {FIXED_POSITIONS}; got {fixed_positions!r}")
    called = {} if names is None else names
    wanted = model.state_dict()
    ready = _adapt(model, dict(state), wanted, grid or getattr(saved, "grid", None), fixed_positions)
    ready = _fit_head(ready, wanted, headless=getattr(saved, "num_classes", None) == 0)
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
    model: nn.Module,
    state: dict[str, Tensor],
    wanted: Mapping[str, Tensor],
    grid: tuple[int, int] | None,
    fixed_positions: str,
) -> dict[str, Tensor]:
    """Positions carried to the grid or context of the model."""
    from srr.nn.mae import sincos_positions  # a model that can be saved, so it imports this file

    config: Any = model.config
    for name in ("embed.positions", *FIXED):
        table = state.get(name)
        if table is None or not _differs_in(table, wanted.get(name), axis=-2):
            continue
        if table.ndim == 2:
            state[name] = table[: config.context]  # the places of a shorter context; a longer one has none to take
        elif name in FIXED and fixed_positions == "computed":
            state[name] = sincos_positions(config.grid, config.dim)[None].to(table)
        elif (old := grid or _square(table.shape[1] - 1)) is not None:
            state[name] = interpolate_positions(table, old, config.grid, antialias=name not in FIXED)
    for name, offset in state.items():
        if name.endswith("attention.offset") and _differs_in(offset, wanted.get(name), axis=-2):
            state[name] = offset[:, : config.context]
    return state


def _fit_head(state: dict[str, Tensor], wanted: Mapping[str, Tensor], *, headless: bool) -> dict[str, Tensor]:
    """The model's own head where the class count differs, and none for a model that has none."""
    weight, own = state.get(HEAD[0]), wanted.get(HEAD[0])
    if own is None and "head.norm.weight" in wanted:  # num_classes=0: features, and no scores
        return {name: tensor for name, tensor in state.items() if name not in HEAD}
    if own is not None and (headless or (weight is not None and _differs_in(weight, own, axis=0))):
        had = 0 if weight is None else weight.shape[0]
        warnings.warn(
            f"the head starts afresh: the weights have {had} classes and the model {own.shape[0]}", stacklevel=4
        )
        state.update({name: wanted[name] for name in HEAD if name in wanted})
    return state


def _differs_in(tensor: Tensor, wanted: Tensor | None, *, axis: int) -> bool:
    """Whether two shapes are the same but for the size of one axis."""
    if wanted is None or tensor.ndim != wanted.ndim or tensor.shape[axis] == wanted.shape[axis]:
        return False
    others = [i for i in range(tensor.ndim) if i != axis % tensor.ndim]
    return all(tensor.shape[i] == wanted.shape[i] for i in others)


def _square(patches: int) -> tuple[int, int] | None:
    side = math.isqrt(max(patches, 0))
    return (side, side) if side and side * side == patches else None


def interpolate_positions(
    positions: Tensor, old: tuple[int, int], new: tuple[int, int], *, antialias: bool = True
) -> Tensor:
    """Positions of a model carried to another number of patches, the class token's kept.

    Args:
        positions: (1, 1 + rows · columns, d) for the old grid.
        old: rows and columns they were learned on.
        new: rows and columns wanted.
        antialias: torch's antialiased bicubic kernel (a = −½), wider when the grid shrinks; otherwise its plain one
            (a = −¾), which the released code of [MAE] takes.

    Returns:
        (1, 1 + new rows · new columns, d), bicubic between patch centers.

    Raises:
        ValueError: the table does not have 1 + rows · columns rows.

    Example:
        >>> interpolate_positions(torch.zeros(1, 5, 8), (2, 2), (3, 4)).shape
        torch.Size([1, 13, 8])
    """
    if positions.shape[1] != 1 + old[0] * old[1]:
        raise ValueError(f"positions must have {1 + old[0] * old[1]} rows; got {positions.shape[1]}")
    if old == new:
        return positions
    first, patches = positions[:, :1], positions[:, 1:]
    picture = patches.reshape(1, *old, -1).permute(0, 3, 1, 2)  # (1, n, d) -> (1, d, rows, columns)
    resized = torch.nn.functional.interpolate(picture, size=new, mode="bicubic", antialias=antialias)
    return torch.cat((first, resized.flatten(2).mT), dim=1)  # (1, 1 + new n, d)


def upload(
    save: Callable[[str], object],
    repo_id: str,
    *,
    commit_message: str = "Upload model",
    private: bool | None = None,
    token: str | bool | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
    allow_patterns: Patterns = None,
    ignore_patterns: Patterns = None,
    delete_patterns: Patterns = None,
) -> str:
    """Upload what ``save`` writes into an empty folder, in one commit.

    Args:
        save: writes the files into a folder.
        repo_id: ``owner/name``, created when absent.
        commit_message: message of the commit.
        private: whether a created repository is private; None takes the owner's default.
        token: access token; None takes the one of ``hf auth login``.
        branch: branch to commit to; None is ``main``.
        create_pr: whether to open a pull request with the commit.
        allow_patterns: files to upload, all when None.
        ignore_patterns: files not to upload.
        delete_patterns: files of the repository to delete in the same commit.

    Returns:
        Address of the commit.

    Raises:
        ImportError: ``huggingface_hub`` is not installed.
    """
    need("huggingface_hub", by="push_to_hub")
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
    with TemporaryDirectory() as folder:
        save(folder)
        commit = api.upload_folder(
            repo_id=repo_id,
            repo_type="model",
            folder_path=folder,
            commit_message=commit_message,
            revision=branch,
            create_pr=create_pr,
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
            delete_patterns=delete_patterns,
        )
    return str(commit)


def download(
    repo_id: str,
    *,
    files: list[str],
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """Folder of the Hub's cache that holds some files of a repository.

    Args:
        repo_id: ``owner/name``.
        files: names or patterns of the wanted files.
        revision: branch, tag or commit; None is ``main``.
        token: access token; None takes the one of ``hf auth login``.
        cache_dir: folder of the cache; None takes the Hub's own.
        force_download: download even what the cache holds.
        local_files_only: look into the cache only.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: ``huggingface_hub`` is not installed, or neither Hub nor cache has the repository.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        wanted = sentence("huggingface_hub", f"there is no folder {repo_id}, and looking on the Hub")
        raise FileNotFoundError(wanted) from error
    try:
        folder = snapshot_download(
            repo_id,
            revision=revision,
            token=token,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            force_download=force_download,
            local_files_only=local_files_only,
            allow_patterns=files,
        )
    except OSError as error:  # the errors of the Hub and of its cache are kinds of it
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise FileNotFoundError(f"there is no folder {repo_id}, and the Hub gave none: {reason}") from error
    return Path(folder)
