"""Diagnose a file that cannot be read: empty, truncated, a web page, locked, or of another schema."""

from __future__ import annotations

from pathlib import Path

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
HEAD = 1024
"""Number of bytes read from the start of a file for the diagnosis."""
BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"<!doctype html", "a web page", "The address led to a download page or a log-in form: download the file itself."),
    (b"<html", "a web page", "The address led to a download page or a log-in form: download the file itself."),
    (b"<?xml", "an XML text", "It is likely the error message of a server: download the file again."),
    (b"version https://git-lfs", "a pointer of Git LFS", "Download the file itself: git lfs pull."),
    (b"\x1f\x8b", "compressed by gzip", "Unpack it first: gunzip."),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "Unpack it first: unzstd."),
    (b"pk\x03\x04", "a zip archive", "Unpack it first: unzip."),
)
KINDS = {
    "convergence-statistics": "a statistics file",
    "convergence-analysis": "an analysis file",
    "convergence-analysis-part": "a partial result of an analysis",
    "convergence-partial": "a partial result of the statistics",
    "convergence-images": "a file of packed images",
}
"""Description of the files of each schema."""


def is_hdf5(path: Path) -> bool:
    """Check whether a file starts with the HDF5 signature."""
    return _head(path).startswith(HDF5_MAGIC)


def unfinished(path: Path) -> str:
    """Sentence about the partial results of a missing file; "" if there are none."""
    partial = path.with_suffix(".partial")
    return (
        f"{partial.name}/ beside it holds partial results: the file may still be written. " if partial.is_dir() else ""
    )


def unreadable(path: Path, error: OSError, made_by: str) -> str:
    """Explain why HDF5 could not open a file, and how to fix it; ``made_by`` is the command that makes the file."""
    said, again = str(error), f"Copy it again, or remove it and remake it with: {made_by}."
    if path.is_dir():
        return f"this is a folder. Give a file, for example {path / 'statistics.h5'}."
    if isinstance(error, PermissionError) or "errno = 13" in said:
        return "permission denied. Ask the owner of the file for read permission."
    if "already open for write" in said or "consistency flag" in said:
        return f"the file is still being written, or its writer was killed. Wait, or remake it with: {made_by}"
    if "unable to lock" in said:
        return (
            "the file is locked: another process may still be writing it. Wait for that process; on a file system "
            "without locks, set HDF5_USE_FILE_LOCKING=FALSE."
        )
    size, head = path.stat().st_size, _head(path)
    if not size:
        return f"the file is empty: it was never written, or its download did not start. {again}"
    for beginning, what, remedy in BEGINNINGS:
        if head.lstrip().lower().startswith(beginning):
            return f"this is {what}, no HDF5 file. {remedy}"
    if head.startswith(HDF5_MAGIC) or HDF5_MAGIC.startswith(head):
        return (
            f"the file is truncated: it holds {size:,} bytes, fewer than were written "
            f"({said.splitlines()[0]}). Its copy or download may be incomplete. {again}"
        )
    return f"no readable HDF5 file ({said.splitlines()[0]}). {again}"


def another_schema(found: object, wanted: str, made_by: str) -> str:
    """Explain that an HDF5 file has another schema than the ``wanted`` one, and how to make the wanted file."""
    wants = KINDS.get(wanted, "another kind of file")
    what = f"this is {KINDS[str(found)]}" if found in KINDS else "this is a file of another program"
    return (
        f"the file has schema {found!r}: {what}. {wants.capitalize()} ({wanted!r}) is needed; make it with: {made_by}."
    )


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""
