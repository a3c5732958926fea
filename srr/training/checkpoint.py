"""Checkpoints that survive a crash: written aside, synced, renamed; the one before is kept."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

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
        with writing(path) as temporary, open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Read one checkpoint, tensors and plain values only."""
        return read_checkpoint(path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``; what was written there replaces ``path`` when the block ends well.

    Raises:
        OSError: with the path and the reason; nothing that was there before is lost.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if path.name == LAST and path.exists():
            _keep_as_previous(path)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        _remove(temporary)
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else _cause(error)
        kept = f"; {path.name} of before is kept" if path.exists() else ""
        raise OSError(f"checkpoint {path} could not be written: {reason}{kept}") from error
    except BaseException:
        _remove(temporary)
        raise


def _cause(error: BaseException) -> str:
    """Reason of the operating system behind an error of torch's writer, or its own first line."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno:
            return os.strerror(link.errno)
        link = link.__cause__ or link.__context__
    return str(error).split("\n", 1)[0]


def _keep_as_previous(path: Path) -> None:
    """Give the file its second name by a hard link, so that ``path`` exists at every moment."""
    if path.is_dir():
        _remove(path.with_name(PREVIOUS))
        os.replace(path, path.with_name(PREVIOUS))
        return
    link = path.with_name(f".{PREVIOUS}.{os.getpid()}.tmp")
    _remove(link)
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        os.replace(path, path.with_name(PREVIOUS))
        return
    os.replace(link, path.with_name(PREVIOUS))


def _sync_folder(folder: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file; tensors and plain values only, so that a file from anyone is safe to open.

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
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"checkpoint {path} is damaged or not a checkpoint ({type(error).__name__})") from error
    if not isinstance(found, dict) or "state_dict" not in found:
        raise ValueError(f"checkpoint {path} is not one of a training run: it has no state_dict")
    return found


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
        if path.is_dir():  # one folder of shards: torch.distributed.checkpoint checks it when it loads
            return path, notes
        try:
            read_checkpoint(path)
        except ValueError as error:
            notes.append(f"{error}; falling back to the checkpoint before it")
        else:
            return path, notes
    raise ValueError(f"run {run} has no readable checkpoint: {notes[-1].split(';')[0]}")
