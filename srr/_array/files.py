"""Files and folders that are whole or not there: made beside their place, synced, renamed into it; and their names."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in its place; on an error nothing is left.

    Args:
        path: file to replace or create.
        write: called with the open file.

    Raises:
        OSError: the folder cannot be written, or the disk is full; `path` is as it was.
    """
    draft = draft_of(path)
    try:
        remove(draft)
        with draft.open("xb") as file:  # a link in its place would be followed
            write(file)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(draft, path)
    except BaseException:
        remove(draft)
        raise


@contextlib.contextmanager
def made_atomically(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` to fill, which takes its place at the end; on an error nothing is left.

    Args:
        folder: folder to create; one that is there must be empty.

    Yields:
        The folder to write into.

    Raises:
        OSError: the folder cannot be written, or holds something.
    """
    draft = draft_of(folder)
    try:
        draft.mkdir(parents=True)
        yield draft
        put_in_place(draft, folder)
    except BaseException:
        remove(draft)
        raise


def draft_of(path: Path) -> Path:
    """Where a file or folder is made before it is renamed: hidden, beside its place, this process's own."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def put_in_place(draft: Path, path: Path) -> None:
    """Rename what is whole over `path`, and have the file system remember it after a loss of power."""
    draft.replace(path)
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all it holds, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def printable(text: str) -> str:
    """One line that any terminal takes: what is no letter, sign or space in it is shown as an escape.

    A name of a file may hold ends of lines, the escape that colors a terminal, marks that turn the direction of
    writing, or bytes that are no UTF-8.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
