"""HDF5 on a full disk.

HDF5 cannot close a file whose last bytes find no room: it goes on complaining and takes the process down when that
ends. It is therefore given a :class:`Disk`, which takes everything, and the error is raised once HDF5 is out of the
way.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from convergence.io.files import FULL


class Disk(io.RawIOBase):
    """A file for HDF5 that drops what finds no room, and keeps the error."""

    def __init__(self, path: Path, mode: str) -> None:
        self._file = io.FileIO(path, mode)
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of the bytes, or note why that was not possible."""
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
        """Read as many bytes as there are, and zeros for what was dropped."""
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
        """As of any file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of any file."""
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        """As of any file; a sparse one needs no room."""
        return self._file.truncate(size)

    def readable(self) -> bool:
        """Yes."""
        return True

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
        super().close()


@contextmanager
def open_hdf5(path: Path, mode: str) -> Iterator[h5py.File]:
    """Open an HDF5 file to write a new one ("w") or change one ("r+").

    Raises
    ------
    OSError
        when the block is over, if the disk is full: the file is then no good.
    """
    with Disk(path, "w+" if mode == "w" else "r+") as disk:
        try:
            with h5py.File(disk, mode) as file:
                yield file
        except Exception as error:
            if disk.error is not None:
                raise disk.error from error
            raise
        if disk.error is not None:
            raise disk.error
