"""Writing HDF5 files on disks that become full."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from convergence.io.files import FULL
from convergence.io.seal import BLOCK


@contextmanager
def open_hdf5(path: Path, mode: str) -> Iterator[h5py.File]:
    """Open an HDF5 file for writing: a new one ("w"), with room for its seal, or an existing one ("r+").

    Raises
    ------
    OSError
        at the end of the block, if the disk is full; the file is then unusable.
    """
    with _FullDiskTolerantFile(path, "w+" if mode == "w" else "r+") as disk:
        try:
            with h5py.File(disk, mode, userblock_size=BLOCK if mode == "w" else None) as file:
                yield file
        except Exception as error:
            if disk.error is not None:
                raise disk.error from error
            raise
        if disk.error is not None:
            raise disk.error


class _FullDiskTolerantFile(io.RawIOBase):
    """A file object for HDF5 that discards the bytes a full disk refuses, and keeps the error.

    HDF5 cannot close a file whose last bytes could not be written: the library ends the process at exit. With this
    file object HDF5 never sees the error, and :func:`open_hdf5` raises it after HDF5 has closed the file.
    """

    def __init__(self, path: Path, mode: str) -> None:
        self._file = io.FileIO(path, mode)
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all bytes, or keep the error of a full disk."""
        view = memoryview(data).cast("B")
        size = len(view)
        try:
            while self.error is None and len(view):
                view = view[self._file.write(view) or 0 :]
        except OSError as error:
            if error.errno not in FULL:
                raise
            self.error = error
        if len(view):
            self._file.seek(len(view), io.SEEK_CUR)
        return size

    def readinto(self, buffer: Any) -> int:
        """Read bytes into a buffer; discarded bytes read as zeros."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            n = self._file.readinto(view[done:]) or 0
            if not n:
                break
            done += n
        view[done:] = bytes(len(view) - done)
        return len(view)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        """Set the size; a sparse file needs no space on the disk."""
        return self._file.truncate(size)

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
