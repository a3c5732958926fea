"""Checkpoints that survive a crash: written aside, synced, renamed; whole files, or folders of shards."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any, BinaryIO, ClassVar, cast

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint._traverse import set_element
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from srr._array.files import draft_of, put_in_place, remove, write_atomically
from srr.nn.probe import blocks_of
from srr.training.config import TrainerConfig
from srr.training.optim import AVERAGE

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
FOLDER = "checkpoints"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written so that a crash at any moment leaves a whole one.

    A file is written to a temporary name in the same folder, synced, and renamed over the old one, which is linked to
    ``previous.ckpt`` first when it is ``last.ckpt``. Loading never unpickles code.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write one checkpoint.

        Raises:
            OSError: the disk is full or the folder cannot be written; files already there are untouched.
        """
        path = Path(path)

        def write(file: BinaryIO) -> None:
            torch.save(checkpoint, file)
            if path.name == LAST and path.exists():
                _keep_as_previous(path)

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, write)
        except (OSError, RuntimeError) as error:  # torch's writer hides the reason of the system in its own error
            kept = f"; {path.name} of before is kept" if path.exists() else ""
            raise OSError(f"checkpoint {path} could not be written: {_cause(error)}{kept}") from error

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Read one checkpoint, tensors and plain values only."""
        return read_checkpoint(path)


def _cause(error: BaseException) -> str:
    """The operating system's reason behind an error, or the first line of the error itself."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno:
            return os.strerror(link.errno)
        link = link.__cause__ or link.__context__
    return str(error).split("\n", 1)[0]


def _keep_as_previous(path: Path) -> None:
    """Give the file its second name by a hard link, so that ``path`` exists at every moment."""
    previous = path.with_name(PREVIOUS)
    source = path
    if path.is_dir():
        remove(previous)
    else:
        link = draft_of(previous)
        remove(link)
        with contextlib.suppress(OSError):  # a file system without hard links
            os.link(path, link)
            source = link
    put_in_place(source, previous)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file; tensors and plain values only, so that a file from anyone is safe to open.

    The checksum of every record is compared before anything is used: torch writes them and does not look at them.

    Args:
        path: the file.

    Returns:
        What it holds, tensors on the CPU.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is truncated, damaged, not a checkpoint, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with zipfile.ZipFile(path) as content:
            for record in content.infolist():  # torch does not read a record that says it is a folder, and unpacks any
                if record.external_attr or record.compress_type != zipfile.ZIP_STORED:
                    raise zipfile.BadZipFile(f"{record.filename} is not stored as torch stores it")
            if (bad := content.testzip()) is not None:
                raise zipfile.BadZipFile(f"the checksum of {bad} is wrong")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"checkpoint {path} is damaged or not a checkpoint ({_cause(error)})") from error
    if not isinstance(found, dict) or "state_dict" not in found:
        raise ValueError(f"checkpoint {path} is not one of a training run: it has no state_dict")
    return found


def network_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """Weights of the network that a run exports, from the state of its module: the teacher's where there is one."""
    for prefix in ("teacher.model.", "model."):
        found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if found:
            return found
    return dict(state)


def resumable(run: str | Path) -> tuple[Path, list[str]]:
    """The newest readable checkpoint of a run, and a sentence for each newer one that is not.

    Args:
        run: folder of the run.

    Returns:
        The pair (path, sentences).

    Raises:
        FileNotFoundError: the run has no checkpoint.
        ValueError: none of them can be read.
    """
    folder = Path(run) / FOLDER
    candidates = [p for name in (LAST, PREVIOUS) if (p := folder / name).exists()]
    if not candidates:
        raise FileNotFoundError(f"run {run} has no checkpoint to resume from in {folder}")
    notes: list[str] = []
    for path in candidates:
        try:
            if path.is_dir():
                verify_shards(path)
            else:
                _check_resumable(path, read_checkpoint(path))
        except (ValueError, FileNotFoundError) as error:
            notes.append(f"{error}; falling back to the checkpoint before it")
        else:
            return path, notes
    raise ValueError(f"run {run} has no readable checkpoint: {notes[-1].split(';')[0]}")


def _check_resumable(path: Path, found: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that holds weights and not the state of a run."""
    kinds = {"global_step": int, "epoch": int, "loops": dict, "optimizer_states": list, "lr_schedulers": list}
    for key, kind in kinds.items():
        if not isinstance(found.get(key), kind):
            got = f"its {key} is {type(found[key]).__name__}" if key in found else f"it has no {key}"
            raise ValueError(f"checkpoint {path} cannot be resumed: {got}, and a run keeps {kind.__name__} there")


METADATA, PLAIN, DIGESTS = ".metadata", "meta.pt", "sha256.json"
_CHECKPOINT = "torch.distributed.checkpoint."
_DESCRIPTION = frozenset(
    [(_CHECKPOINT + "filesystem", "_StorageInfo"), ("torch", "Size"), ("torch.serialization", "_get_layout")]
    + [("pathlib", name) for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")]
    + [
        (_CHECKPOINT + "metadata", name)
        for name in (
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    ]
)
"""Every class a description of shards is made of; torch pickles it, so nothing else may be named in it."""
_BUILT = (
    _StorageInfo,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)


class _DescriptionUnpickler(pickle._Unpickler):
    """Reads sizes, types and places of shards; any other name in the pickle is refused before it is looked up.

    Only what describes shards may be given attributes. A pickle that could set them on a class or a function could
    leave behind what it reads the next time, and so say one thing here and another to torch, which reads it again.
    """

    def find_class(self, module: str, name: str) -> Any:
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) not in _DESCRIPTION and not dtype:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which describes no shard")
        return super().find_class(module, name)

    def load_build(self) -> None:
        built = cast("Any", self).stack[-2]
        if type(built) not in _BUILT:
            raise pickle.UnpicklingError(f"it sets attributes of {built!r}, which describes no shard")
        cast("Any", super()).load_build()

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


def read_description(folder: str | Path) -> Metadata:
    """What a sharded checkpoint says it holds, once it is sure that these are tensors and plain values only.

    torch unpickles the description, and every value that is no tensor, without a limit on what they may name; here both
    are read with one. The file is read once, so that nobody can put another in its place between check and use.

    Args:
        folder: a checkpoint written by a sharded run.

    Raises:
        FileNotFoundError: the folder is no sharded checkpoint.
        ValueError: it is damaged, names anything but what describes shards, points outside the folder, or leaves a part
            of a file undescribed.
    """
    folder = Path(folder)
    if not (folder / METADATA).is_file():
        raise FileNotFoundError(f"{folder} is not a sharded checkpoint: it has no {METADATA}")
    try:
        found = _DescriptionUnpickler(io.BytesIO((folder / METADATA).read_bytes())).load()
        if not isinstance(found, Metadata):
            raise pickle.UnpicklingError("it describes no shards")
        places: Any = found.storage_data
        if not isinstance(places, dict) or not isinstance(found.state_dict_metadata, dict):
            raise pickle.UnpicklingError("it describes no shards")
        for index, place in places.items():
            if not isinstance(index, MetadataIndex) or not isinstance(place, _StorageInfo):
                raise pickle.UnpicklingError("it describes no shards")
            if PurePath(place.relative_path).name != place.relative_path or place.transform_descriptors:
                raise pickle.UnpicklingError(f"it points to {place.relative_path!r}")
        _check_covered(folder, places.values())
        for index, place in places.items():
            if isinstance(found.state_dict_metadata[index.fqn], BytesStorageMetadata):
                with open(folder / place.relative_path, "rb") as file:
                    file.seek(place.offset)
                    torch.load(io.BytesIO(file.read(place.length)), weights_only=True)
    except Exception as error:
        raise ValueError(
            f"sharded checkpoint {folder} is damaged or not one of ours, and is not opened: {error}"
        ) from error
    return found


def _check_covered(folder: Path, places: Iterable[_StorageInfo]) -> None:
    """Every file of shards is an ordinary one, and what is described fills it from its first byte to its last."""
    reached: dict[str, int] = {}
    for place in sorted(places, key=lambda p: (p.relative_path, p.offset)):
        if place.length < 0 or place.offset != reached.get(place.relative_path, 0):
            raise pickle.UnpicklingError(f"it leaves out a part of {place.relative_path!r}, or tells one twice")
        reached[place.relative_path] = place.offset + place.length
    for name, end in reached.items():
        shard = folder / name
        size = 0 if shard.is_symlink() else shard.stat().st_size
        if end != size:
            word = "outside" if end > size else "to a part of"
            raise pickle.UnpicklingError(f"it points {word} {name!r}: it describes {end:,} bytes of {size:,}")


class _Reader(FileSystemReader):
    """Gives torch the description that was checked, and no other."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.description = read_description(folder)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        self.description.storage_meta = self.description.storage_meta or StorageMeta()
        self.description.storage_meta.load_id = self.load_id
        return self.description


class _Planner(DefaultLoadPlanner):
    """Reads the values that are no tensors as plain values; torch's own would run what they name."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        found = torch.load(value, weights_only=True)
        set_element(self.original_state_dict, self.mappings[read_item.dest_index.fqn], found)


def verify_shards(folder: Path) -> None:
    """Compare every file of a sharded checkpoint with the digest written beside it.

    Raises:
        FileNotFoundError: the folder is no sharded checkpoint.
        ValueError: a file is missing or changed, or holds more than tensors and plain values.
    """
    read_description(folder)
    try:
        digests = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
        changed = [name for name, digest in digests.items() if _digest(folder / name) != digest]
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"sharded checkpoint {folder} is damaged: {_cause(error)}") from error
    if changed:
        raise ValueError(f"sharded checkpoint {folder} is damaged: {changed[0]} is not what was written")


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's FSDP2 strategy; a checkpoint is a folder of shards, written aside and renamed when it is whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write one folder by :mod:`torch.distributed.checkpoint`, every rank its shard, and each file's digest."""
        path = Path(self.broadcast(str(filepath)))
        draft = path.with_name(f".{path.name}.tmp")
        if self.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove(draft)
        self.barrier()
        average = checkpoint.get("callbacks", {}).get(AVERAGE, {}).pop("average", {})
        super().save_checkpoint(checkpoint, draft)
        if average:
            save({"average": average}, checkpoint_id=draft / AVERAGE)
        self.barrier()
        if self.is_global_zero:
            digests = {
                str(file.relative_to(draft)): _digest(file) for file in sorted(draft.rglob("*")) if file.is_file()
            }
            (draft / DIGESTS).write_text(json.dumps(digests, indent=1), encoding="utf-8")
            if path.exists() and path.name != BEST:
                _keep_as_previous(path)
            remove(path)
            put_in_place(draft, path)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read one folder, every rank its shard; tensors and plain values only."""
        path = Path(self.broadcast(str(checkpoint_path)))
        reader, options = _Reader(path), StateDictOptions(cpu_offload=True)
        module = cast("pl.LightningModule", self.lightning_module)
        model = cast("nn.Module", self.model)
        state: dict[str, Any] = {"state_dict": get_model_state_dict(model)}
        load(state, storage_reader=reader, planner=_Planner())
        model.load_state_dict(state["state_dict"], strict=module.strict_loading)
        for index, optimizer in enumerate(self.optimizers):
            state = {f"optimizer_{index}": get_optimizer_state_dict(model, optimizer)}
            load(state, storage_reader=reader, planner=_Planner())
            set_optimizer_state_dict(model, optimizer, optim_state_dict=state.popitem()[1], options=options)
        found = read_sharded(path)
        folder = path / AVERAGE
        if folder.is_dir():
            average = {name: torch.empty_like(p) for name, p in cast("nn.Module", module.model).named_parameters()}
            load({"average": average}, storage_reader=_Reader(folder), planner=_Planner())
            found["callbacks"][AVERAGE]["average"] = average
        return found


def sharding_strategy(config: TrainerConfig) -> ShardedStrategy:
    """The strategy for all processes of a run: pure data parallelism with sharded state."""
    return ShardedStrategy(
        data_parallel_size=config.devices * config.nodes, tensor_parallel_size=1, save_distributed_checkpoint=True
    )


def shard(model: nn.Module, mesh: DeviceMesh | None) -> None:
    """Cut each layer, then the rest of the model, over the data-parallel ranks."""
    if mesh is None:
        raise ValueError("a model is sharded over the processes of a mesh; there is none")
    ranks = mesh["data_parallel"]
    for block in blocks_of(model):
        fully_shard(block, mesh=ranks)
    fully_shard(model, mesh=ranks)


def load_sharded(model: nn.Module, folder: str | Path) -> None:
    """Load the weights of a sharded checkpoint into a whole model in one process, with no process group.

    Args:
        model: the network, on one device.
        folder: a checkpoint written by a sharded run.

    Raises:
        FileNotFoundError: the folder is no sharded checkpoint.
        ValueError: it is damaged, or holds more than tensors and plain values.
    """
    reader = _Reader(Path(folder))
    state = {"state_dict": {f"model.{name}": torch.empty_like(p) for name, p in model.state_dict().items()}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(state, storage_reader=reader, planner=_Planner(), no_dist=True)
    model.load_state_dict({name.removeprefix("model."): value for name, value in state["state_dict"].items()})


def read_sharded(folder: Path) -> dict[str, Any]:
    """The plain values beside the shards.

    Raises:
        FileNotFoundError: the folder is no sharded checkpoint.
        ValueError: it is damaged, or holds more than tensors and plain values.
    """
    read_description(folder)
    try:
        found: dict[str, Any] = torch.load(folder / PLAIN, map_location="cpu", weights_only=True)
        int(found["global_step"])
    except Exception as error:
        raise ValueError(f"sharded checkpoint {folder} is damaged ({type(error).__name__} in {PLAIN})") from error
    return found
