"""Diagnose a file that cannot be read: empty, truncated, a web page, locked, or of another schema."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from convergence.io.seal import BLOCK, TITLE, Identity, identity

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
HEAD = BLOCK + 1024
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
    "convergence-pictures": "a file of pictures of units",
    "convergence-functional": "results of a functional experiment",
    "convergence-functional-task": "a partial result of a functional experiment",
}
"""Description of the files of each schema."""
PROBE = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
import h5py
try:
    with h5py.File(sys.argv[1], "r") as file:
        schema = file.attrs.get("schema")
        answer = [schema if isinstance(schema, str) else "", int(file.attrs.get("schema_version", 0))]
except Exception as error:
    answer = str(error)[:500]
print(json.dumps(answer))
"""
PROBE_SECONDS = 30


def is_hdf5(path: Path) -> bool:
    """Check whether a file has the HDF5 signature, at its start or after the user block."""
    head = _head(path)
    return head.startswith(HDF5_MAGIC) or head[BLOCK:].startswith(HDF5_MAGIC)


def unfinished(path: Path) -> str:
    """Sentence about the partial results of a missing file; "" if there are none."""
    partial = path.with_suffix(".partial")
    return (
        f"{partial.name}/ beside it holds partial results: the file may still be written. " if partial.is_dir() else ""
    )


class Named(NamedTuple):
    """What a file without a valid seal says about itself."""

    schema: str
    version: int


def probe(path: Path) -> Named | str:
    """Schema and version that a file without a valid seal names, or what HDF5 says about it.

    HDF5 reads the file in a separate process, because a damaged file can make it hang or crash.
    """
    return _probe(path, identity(path)) if is_hdf5(path) else _open_error(path)


@functools.lru_cache(64)
def _remembered(path: Path, _: Identity) -> Named | str:
    return _probed(path)


def _probe(path: Path, known: Identity | None) -> Named | str:
    return _probed(path) if known is None else _remembered(path, known)


def _probed(path: Path) -> Named | str:
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", PROBE, os.fspath(path.absolute()), json.dumps([p for p in sys.path if p])],
            capture_output=True, timeout=PROBE_SECONDS, check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return "HDF5 cannot read its structure"
    return found if isinstance(found, str) else Named(str(found[0]), int(found[1]))


def _open_error(path: Path) -> str:
    try:
        with path.open("rb"):
            return "no HDF5 signature"
    except OSError as error:
        return str(error)


def damaged(made_by: str) -> str:
    """Explain that the bytes of a file are not those that were written."""
    return (
        "the file does not match its checksum: it was damaged or changed after it was written. Copy it again, or "
        f"remove it and make it again with: {made_by}."
    )


def unreadable(path: Path, error: Exception, made_by: str) -> str:
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
    if (
        "truncated" in said
        or HDF5_MAGIC.startswith(head)
        or TITLE.startswith(head)
        or (head.startswith((TITLE, HDF5_MAGIC)) and size <= BLOCK)
    ):
        return (
            f"the file is truncated: it holds {size:,} bytes, fewer than were written "
            f"({said.splitlines()[0]}). Its copy or download may be incomplete. {again}"
        )
    if is_hdf5(path):
        return f"the file is damaged ({said.splitlines()[0]}). {again}"
    return f"no readable HDF5 file ({said.splitlines()[0]}). {again}"


def another_schema(found: object, wanted: str, made_by: str) -> str:
    """Explain that an HDF5 file has another schema than the ``wanted`` one, and how to make the wanted file."""
    wants = KINDS.get(wanted, "another kind of file")
    what = f"this is {KINDS[str(found)]}" if found in KINDS else "this is a file of another program"
    shown = str(found)[:80]
    return (
        f"the file has schema {shown!r}: {what}. {wants.capitalize()} ({wanted!r}) is needed; make it with: {made_by}."
    )


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""
