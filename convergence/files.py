"""Files that are either whole or not there: written aside, flushed to the disk, renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")
"""What a net in training keeps in its folder until it is done: the newest checkpoint and the one before."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; what was written there takes ``path``'s place when the block ends.

    The file and its folder are flushed to the disk, so that a crash leaves the old file or the new one. An exception
    leaves the old one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def put_in_place(finished: Path, path: Path) -> None:
    """Flush a finished file and rename it, on one file system: ``path`` is the old file or the whole new one."""
    with finished.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(finished, path)
    _flush_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing aside."""
    for leftover in folder.glob(".*.partial"):
        leftover.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make a rename last; systems that cannot open folders (Windows) do without."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
