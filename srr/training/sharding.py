"""FSDP2: parameters, gradients and optimizer state cut into one shard a rank; the engine is torch's and Lightning's."""

from __future__ import annotations

import io
import pickle
import warnings
from pathlib import Path, PurePath
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from srr.training.checkpoint import BEST, _keep_as_previous, _remove, _sync_folder
from srr.training.config import TrainerConfig
from srr.training.ema import AVERAGE

METADATA, PLAIN = ".metadata", "meta.pt"
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


class _DescriptionUnpickler(pickle.Unpickler):
    """Reads sizes, types and places of shards; any other name in the pickle is refused before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) not in _DESCRIPTION and not dtype:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which describes no shard")
        return super().find_class(module, name)


def check_sharded(folder: str | Path) -> None:
    """Make sure that a sharded checkpoint holds tensors and plain values only, before torch opens it.

    torch unpickles the description and every value that is no tensor without a limit on what they may name; here both
    are read with one.

    Args:
        folder: a checkpoint written by a sharded run.

    Raises:
        FileNotFoundError: the folder is no sharded checkpoint.
        ValueError: it is damaged, names anything but what describes shards, or points outside the folder.
    """
    folder = Path(folder)
    if not (folder / METADATA).is_file():
        raise FileNotFoundError(f"{folder} is not a sharded checkpoint: it has no {METADATA}")
    try:
        found = _DescriptionUnpickler(io.BytesIO((folder / METADATA).read_bytes())).load()
        if not isinstance(found, Metadata):
            raise pickle.UnpicklingError("it describes no shards")
        for index, place in found.storage_data.items():
            if PurePath(place.relative_path).name != place.relative_path or place.transform_descriptors:
                raise pickle.UnpicklingError(f"it points to {place.relative_path!r}")
            if isinstance(found.state_dict_metadata[index.fqn], BytesStorageMetadata):
                with open(folder / place.relative_path, "rb") as file:
                    file.seek(place.offset)
                    torch.load(io.BytesIO(file.read(place.length)), weights_only=True)
    except Exception as error:
        raise ValueError(
            f"sharded checkpoint {folder} is damaged or not one of ours, and is not opened: {error}"
        ) from error


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's FSDP2 strategy; a checkpoint is a folder of shards, written aside and renamed when it is whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write one folder by :mod:`torch.distributed.checkpoint`; every rank writes its shard."""
        path = Path(self.broadcast(str(filepath)))
        draft = path.with_name(f".{path.name}.tmp")
        if self.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove(draft)
        self.barrier()
        average = checkpoint.get("callbacks", {}).get(AVERAGE, {}).pop("average", {})
        super().save_checkpoint(checkpoint, draft)
        if average:
            save({"average": average}, checkpoint_id=draft / AVERAGE)
        self.barrier()
        if self.is_global_zero:
            if path.exists() and path.name != BEST:
                _keep_as_previous(path)
            _remove(path)
            draft.replace(path)
            _sync_folder(path.parent)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read one folder, every rank its shard; tensors and plain values only."""
        path = Path(self.broadcast(str(checkpoint_path)))
        check_sharded(path)
        found = super().load_checkpoint(path, weights_only=True)
        folder = path / AVERAGE
        if folder.is_dir():
            check_sharded(folder)
            model: Any = self.lightning_module.model  # type: ignore[union-attr]
            average = {name: torch.empty_like(p) for name, p in model.named_parameters()}
            load({"average": average}, checkpoint_id=folder)
            found["callbacks"][AVERAGE]["average"] = average
        return found


def sharding_strategy(config: TrainerConfig) -> ShardedStrategy:
    """The strategy for all processes of a run: pure data parallelism with sharded state."""
    return ShardedStrategy(
        data_parallel_size=config.devices * config.nodes, tensor_parallel_size=1, save_distributed_checkpoint=True
    )


def shard(model: nn.Module, mesh: Any) -> None:
    """Cut each layer, then the rest of the model, over the data-parallel ranks."""
    from torch.distributed.fsdp import fully_shard

    ranks = mesh["data_parallel"]
    for block in model.blocks:  # type: ignore[union-attr]
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
    folder = Path(folder)
    check_sharded(folder)
    state = {"state_dict": {f"model.{name}": torch.empty_like(p) for name, p in model.state_dict().items()}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(state, checkpoint_id=folder, no_dist=True)
    model.load_state_dict({name.removeprefix("model."): value for name, value in state["state_dict"].items()})


def read_sharded(folder: Path) -> dict[str, Any]:
    """The plain values beside the shards.

    Raises:
        FileNotFoundError: the folder is no sharded checkpoint.
        ValueError: it is damaged, or holds more than tensors and plain values.
    """
    check_sharded(folder)
    try:
        found: dict[str, Any] = torch.load(folder / PLAIN, map_location="cpu", weights_only=True)
        int(found["global_step"])
    except Exception as error:
        raise ValueError(f"sharded checkpoint {folder} is damaged ({type(error).__name__} in {PLAIN})") from error
    return found
