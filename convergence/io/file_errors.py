"""What is wrong with a file that should be one of ours and is not: empty, cut short, a web page, locked, another's."""

from __future__ import annotations

from pathlib import Path

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
HEAD = 1024
"""Bytes that are looked at."""
BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"<!doctype html", "a web page", "The address led to a download page or a log-in form: download the file itself."),
    (b"<html", "a web page", "The address led to a download page or a log-in form: download the file itself."),
    (b"<?xml", "an XML text", "It is likely the error message of a server: download the file again."),
    (b"version https://git-lfs", "a pointer of Git LFS", "Fetch what it points to: git lfs pull."),
    (b"\x1f\x8b", "compressed by gzip", "Unpack it first: gunzip."),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "Unpack it first: unzstd."),
    (b"pk\x03\x04", "a zip archive", "Unpack it first: unzip."),
)
KINDS = {
    "convergence-statistics": "a statistics file",
    "convergence-analysis": "an analysis file",
    "convergence-analysis-part": "an unfinished piece of an analysis",
    "convergence-partial": "an unfinished piece of the statistics",
    "convergence-images": "a file of packed images",
}
"""What files of a schema are called."""


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 files do."""
    return _head(path).startswith(HDF5_MAGIC)


def unfinished(path: Path) -> str:
    """A sentence on work beside a missing file that is to become it; "" if there is none."""
    partial = path.with_suffix(".partial")
    return f"{partial.name}/ beside it is unfinished work: it may still be being written. " if partial.is_dir() else ""


def unreadable(path: Path, error: OSError, made_by: str) -> str:
    """Why HDF5 could not open a file, and what to do, as one sentence or two."""
    said, again = str(error), f"Copy it again, or remove it and make it anew with: {made_by}."
    if path.is_dir():
        return f"this is a folder. Give a file, for example {path / 'statistics.h5'}."
    if isinstance(error, PermissionError) or "errno = 13" in said:
        return "you may not read it. Ask its owner, or copy it to a place of your own."
    if "already open for write" in said or "consistency flag" in said:
        return (
            "the file is still being written, or its writer was killed. Wait for it, or make it anew with: " + made_by
        )
    if "unable to lock" in said:
        return (
            "the file is locked: another process may still be writing it. Wait for that, or, on a file system without "
            "locks, set HDF5_USE_FILE_LOCKING=FALSE."
        )
    size, head = path.stat().st_size, _head(path)
    if not size:
        return f"the file is empty: it was never written, or its download never began. {again}"
    for beginning, what, remedy in BEGINNINGS:
        if head.lstrip().lower().startswith(beginning):
            return f"this is {what}, no HDF5 file. {remedy}"
    if head.startswith(HDF5_MAGIC) or HDF5_MAGIC.startswith(head):
        return (
            f"the file is truncated: it holds {size:,} bytes, fewer than it was written with "
            f"({said.splitlines()[0]}). Its copy or download may not have ended. {again}"
        )
    return f"this is no readable HDF5 file ({said.splitlines()[0]}). {again}"


def another_schema(found: object, wanted: str, made_by: str) -> str:
    """What to say of a readable HDF5 file that is of another kind."""
    wants = KINDS.get(wanted, "another kind of file")
    what = f"this is {KINDS[str(found)]}" if found in KINDS else "this is another program's file"
    return f"the file's schema is {found!r}: {what}, and {wants} ({wanted!r}) is needed, which is made by: {made_by}."


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""
