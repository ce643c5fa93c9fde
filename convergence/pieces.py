"""Pieces of long work: a file each, so that a killed stage does again only what it had not finished."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py

from convergence.errors import FileError
from convergence.io import hdf5


def is_done(
    path: Path, schema: str, version: int, digest: str, verify: Callable[[h5py.File], object] = hdf5.verify
) -> bool:
    """Whether a piece is on disk, whole, and of these settings; a damaged one is removed, to be done again.

    ``verify`` raises FileError for a file that does not match its checksums.
    """
    if not path.exists():
        return False
    try:
        with hdf5.open_checked(path, schema, version, "this stage") as file:
            if file.attrs["digest"] == digest:
                verify(file)
                return True
    except (FileError, OSError, KeyError, AttributeError, ValueError, RuntimeError):
        pass  # a damaged file may open, and have parts that are nothing
    path.unlink(missing_ok=True)
    return False
