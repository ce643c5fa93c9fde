"""A checksum over the bytes of an HDF5 file, verified before HDF5 reads any of them.

The user block (the first 4096 bytes of the file, which HDF5 ignores) names the schema, the version and the size of the
file, and holds a SHA-256 over the bytes that follow: structure, attributes and texts. Damaged structure can make HDF5
hang, crash or return other values, so it never reaches HDF5. The bytes of numeric datasets are left out, the largest
ones first; their own checksums, which are attributes, cover them. The block lists their offsets and sizes.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from convergence.errors import FileError

BLOCK = 4096
"""Bytes of the user block."""
TITLE = b"convergence seal 1\n"
STEP = 1 << 20
LIST_BYTES = BLOCK - 512
"""Most characters of the list of datasets."""
RACY_NS = 50_000_000
"""A file that changed less than this time ago may change again without another time stamp."""
Identity = tuple[str, int, int, int, int, int]


@dataclass(frozen=True)
class Seal:
    """The content of a user block.

    Attributes
    ----------
    schema, version : of the file
    size : bytes of the file, the user block included
    apart : offset and bytes of each dataset that is left out because it has its own checksum, ascending
    sha256 : over ``head()`` and the bytes after the user block, without those of these datasets
    """

    schema: str
    version: int
    size: int
    apart: tuple[tuple[int, int], ...]
    sha256: str = ""

    def head(self) -> bytes:
        """What the seal says besides the checksum, as JSON."""
        values = {"schema": self.schema, "version": self.version, "size": self.size, "apart": self.apart}
        return json.dumps(values, separators=(",", ":")).encode()

    def block(self) -> bytes:
        """The user block: title, JSON and checksum, each a line, filled up with blanks."""
        return (TITLE + self.head() + b"\n" + self.sha256.encode() + b"\n").ljust(BLOCK)


def write_seal(path: Path, schema: str, version: int, extents: Iterable[tuple[int, int]]) -> None:
    """Write the user block of a finished file; ``extents`` are offset and bytes of datasets with own checksums."""
    size = path.stat().st_size
    unsigned = Seal(schema, version, size, tuple(sorted(_largest(extents))))
    sealed = Seal(schema, version, size, unsigned.apart, _checksum(path, unsigned))
    with path.open("r+b") as file:
        file.write(sealed.block())


def _largest(extents: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The largest extents, as many as the user block has room for."""
    room = LIST_BYTES
    for offset, n_bytes in sorted(extents, key=lambda extent: (-extent[1], extent[0])):
        room -= len(f"[{offset},{n_bytes}],")
        if room < 0:
            return
        yield offset, n_bytes


def read_seal(path: Path) -> Seal | None:
    """The seal of a file; None for a file without one, or with a damaged one."""
    try:
        with path.open("rb") as file:
            block = file.read(BLOCK)
        title, text, digest, _ = block.split(b"\n", 3)
        found = json.loads(text)
        apart = tuple((int(offset), int(n_bytes)) for offset, n_bytes in found["apart"])
        seal = Seal(str(found["schema"]), int(found["version"]), int(found["size"]), apart, digest.decode("ascii"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None
    return seal if title + b"\n" == TITLE and seal.block() == block else None


def is_intact(path: Path, seal: Seal) -> bool:
    """Whether the bytes of a file are those that were sealed."""
    try:
        return path.stat().st_size == seal.size and _checksum(path, seal) == seal.sha256
    except (OSError, ValueError):
        return False


def identity(path: str | Path) -> Identity | None:
    """The state of a file, to remember that it was verified; None if it may change without a trace, or is missing."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < RACY_NS:
        return None
    return str(path), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def check_regular(path: Path) -> None:
    """Raise FileError for a device, a pipe or a socket, which would block or never end."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise FileError(f"{path}: this is a device, a pipe or a socket, no file. Give a file on a disk.")


def _checksum(path: Path, seal: Seal) -> str:
    """SHA-256 of what a seal covers; ValueError for a list of datasets that is out of bounds."""
    digest = hashlib.sha256(seal.head())
    with path.open("rb") as file:
        start = BLOCK
        for offset, n_bytes in (*seal.apart, (seal.size, 0)):
            if not start <= offset <= offset + n_bytes <= seal.size:
                raise ValueError("the list of datasets is out of bounds")
            file.seek(start)
            left = offset - start
            while left > 0:
                content = file.read(min(left, STEP))
                if not content:
                    raise ValueError("the file ends early")
                digest.update(content)
                left -= len(content)
            start = offset + n_bytes
    return digest.hexdigest()
