"""FSDP2: parameters, gradients and optimizer state cut into one shard a rank; the engine is torch's and Lightning's."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from srr.training.checkpoint import BEST, _keep_as_previous, _remove, _sync_folder
from srr.training.config import TrainerConfig
from srr.training.ema import AVERAGE


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
        found = super().load_checkpoint(checkpoint_path, weights_only=True)
        folder = Path(self.broadcast(str(checkpoint_path))) / AVERAGE
        if folder.is_dir():
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
    """
    folder = Path(folder)
    if not (folder / ".metadata").is_file():
        raise FileNotFoundError(f"{folder} is not a sharded checkpoint: it has no .metadata")
    state = {"state_dict": {f"model.{name}": torch.empty_like(p) for name, p in model.state_dict().items()}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(state, checkpoint_id=folder, no_dist=True)
    model.load_state_dict({name.removeprefix("model."): value for name, value in state["state_dict"].items()})
