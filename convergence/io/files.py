"""Atomic file writes: a temporary file is written, flushed to the disk and renamed."""

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
"""File names of the newest and the previous checkpoint of a net in training."""
LONGEST = 180
"""Maximum bytes of a file name before an ending is added; file systems accept 255."""
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{device}{k}" for device in ("COM", "LPT") for k in range(1, 10))}
"""Names that Windows reserves for devices."""
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
"""Error numbers of a full disk and of an exhausted quota."""
_FULL_MESSAGES = re.compile(
    r"No space left on device|Disk quota exceeded|MPI_ERR_NO_SPACE|MPI_ERR_QUOTA|not enough space on the disk", re.I
)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder and rename it to ``path`` when the block ends.

    The file and its folder are flushed to the disk: a crash leaves the old file or the complete new one. An exception
    leaves the old file.
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
    """Flush a finished file and rename it to ``path`` on the same file system, atomically."""
    writable = os.access(finished, os.W_OK)
    with finished.open("r+b" if writable else "rb") as file:  # Windows flushes only files that are open for writing
        os.fsync(file.fileno())
    os.replace(finished, path)
    _flush_folder(path.parent)


def name_beside(path: Path, ending: str) -> Path:
    """Path ``NAME.ending`` beside ``NAME.h5``; a name that is too long for file systems is cut and gets a hash."""
    stem = path.stem
    if len(stem.encode()) > LONGEST:
        stem = f"{_cut(stem, LONGEST - 9)}-{hashlib.sha256(stem.encode()).hexdigest()[:8]}"
    return path.with_name(stem + ending)


def safe_name(name: str) -> str:
    """Replace the characters of a name that some file systems forbid; a changed name gets a hash to stay unique."""
    safe = FORBIDDEN.sub("_", name).rstrip(". ")
    if safe.split(".")[0].upper() in RESERVED:
        safe = f"_{safe}"
    if safe != name:
        safe = f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return safe


def _cut(text: str, max_bytes: int) -> str:
    return text.encode()[:max_bytes].decode(errors="ignore")


def check_writable(folder: Path, remedy: str) -> None:
    """Make a folder if it is missing and check that a file can be written in it.

    Raises
    ------
    FileError
        with the given remedy, if that fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(prefix=".", suffix=".partial", dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"{folder}: the folder is not writable ({reason}). {remedy}.") from error


def is_full(error: BaseException | None) -> bool:
    """Check whether an error or one of its causes reports a full disk or an exhausted quota."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if not isinstance(error, DiskFullError) and _FULL_MESSAGES.search(str(error)):  # libraries without errno
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def full(folder: Path, error: BaseException) -> DiskFullError:
    """Make the error for a full disk or an exhausted quota at a folder."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    quota = any(isinstance(e, OSError) and e.errno == FULL[1] != FULL[0] for e in (error, error.__cause__))
    what = "the quota of its disk is used up" if quota else "its disk is full"
    return DiskFullError(
        f"{folder}: {what}, {shutil.disk_usage(place).free:,} bytes are free. Finished work is kept. "
        "Make room there (see quota and df) and run the same command again: it resumes from the finished work."
    )


@contextmanager
def disk_full_errors(folder: Path) -> Iterator[None]:
    """Turn errors of a full disk in the block into a :class:`~convergence.errors.DiskFullError` about this folder."""
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
    """SHA-256 (hex) of a text, for example as a file name for arbitrary names."""
    return hashlib.sha256(text.encode()).hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder."""
    for leftover in folder.glob(".*.partial"):
        leftover.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Flush a rename to the disk; does nothing on systems that cannot open folders (Windows)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
