"""Files that are either whole or not there: written aside, flushed to the disk, renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convergence.errors import DiskFullError, FileError

CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")
"""What a net in training keeps in its folder until it is done: the newest checkpoint and the one before."""
LONGEST = 180
"""Bytes of a name to which endings are added; file systems take 255."""
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{device}{k}" for device in ("COM", "LPT") for k in range(1, 10))}
"""What Windows forbids in names, and names that it keeps for devices."""
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
"""What systems say of a full disk and of a quota that is used up."""
_SAYS = re.compile(
    r"No space left on device|Disk quota exceeded|MPI_ERR_NO_SPACE|MPI_ERR_QUOTA|not enough space on the disk", re.I
)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; what was written there takes ``path``'s place when the block ends.

    The file and its folder are flushed to the disk, so that a crash leaves the old file or the new one. An exception
    leaves the old one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{_cut(path.name, 100)}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def put_in_place(finished: Path, path: Path) -> None:
    """Flush a finished file and rename it, on one file system: ``path`` is the old file or the whole new one."""
    writable = os.access(finished, os.W_OK)
    with finished.open("r+b" if writable else "rb") as file:  # Windows flushes only what is open for writing
        os.fsync(file.fileno())
    os.replace(finished, path)
    _flush_folder(path.parent)


def name_beside(path: Path, ending: str) -> Path:
    """``NAME.ending`` beside ``NAME.h5``; a name that would be too long for file systems is cut, and told by a hash."""
    stem = path.stem
    if len(stem.encode()) > LONGEST:
        stem = f"{_cut(stem, LONGEST - 9)}-{hashlib.sha256(stem.encode()).hexdigest()[:8]}"
    return path.with_name(stem + ending)


def safe_name(name: str) -> str:
    """A name without what some file systems forbid; one that had to be changed is told from others by a hash."""
    safe = FORBIDDEN.sub("_", name).rstrip(". ")
    if safe.split(".")[0].upper() in RESERVED:
        safe = f"_{safe}"
    if safe != name:
        safe = f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return safe


def _cut(text: str, most: int) -> str:
    return text.encode()[:most].decode(errors="ignore")


def check_writable(folder: Path, remedy: str) -> None:
    """Make a folder if it is not there, and a file in it and away again; FileError with a remedy if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(prefix=".", suffix=".partial", dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"{folder}: nothing can be written there ({reason}). {remedy}.") from error


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that a disk is full or a quota used up."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if not isinstance(error, DiskFullError) and _SAYS.search(str(error)):  # libraries that keep no number
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def full(folder: Path, error: BaseException) -> DiskFullError:
    """What to say of a full disk that has this folder."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    quota = any(isinstance(e, OSError) and e.errno == FULL[1] != FULL[0] for e in (error, error.__cause__))
    what = "the quota of its disk is used up" if quota else "its disk is full"
    return DiskFullError(
        f"{folder}: {what}, {shutil.disk_usage(place).free:,} bytes are free. What was finished before is kept. "
        "Make room there (quota and df say of what), and start the same command again: it goes on from what is kept."
    )


@contextmanager
def disk_full_errors(folder: Path) -> Iterator[None]:
    """Turn what a full disk raises in the block into a :class:`~convergence.errors.DiskFullError` on this folder."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        raise full(folder, error) from error


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_sha256(text: str) -> str:
    """SHA-256 (hex) of a text: a file name for names that may hold characters that file names may not."""
    return hashlib.sha256(text.encode()).hexdigest()


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
