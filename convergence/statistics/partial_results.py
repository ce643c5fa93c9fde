"""Partial results: one file per finished item of a long stage, so that a killed stage repeats only unfinished items."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from convergence.errors import FileError
from convergence.io import hdf5
from convergence.io.files import create_for_owner, remove_leftovers
from convergence.statistics.group_sums import NewMatrix, in_memory

SCHEMA = "convergence-partial"
VERSION = 11
MADE_BY = "convergence statistics CONFIG"
KEPT_OPEN = 32
"""Files that stay open."""
MATRIX_BYTES = 1 << 28
"""A larger matrix is accumulated in its file, with one band of rows in memory."""
Arrays = Iterable[tuple[str, Any]]
"""Named arrays: (path in the file, array)."""


def is_done(
    path: Path, schema: str, version: int, digest: str, verify: Callable[[h5py.File], object] = hdf5.verify
) -> bool:
    """Whether a partial result is on disk, intact and of these settings; any other file at ``path`` is removed.

    ``verify`` raises FileError for a file that does not match its checksums.
    """
    if not path.exists():
        return False
    try:
        with hdf5.open_checked(path, schema, version, "this stage") as file, hdf5.reading(path):
            if file.attrs["digest"] == digest:
                verify(file)
                return True
    except FileError:
        pass
    path.unlink(missing_ok=True)
    return False


class PartialResults:
    """The folder of the partial results of the statistics with one digest."""

    def __init__(self, folder: Path, digest: str) -> None:
        self.folder, self.digest = folder, digest
        self._open: OrderedDict[str, ExitStack] = OrderedDict()
        self._files: dict[str, h5py.File] = {}

    def prepare(self) -> None:
        """Make the folder, and remove files that killed processes left unfinished."""
        create_for_owner(self.folder)
        remove_leftovers(self.folder)

    def is_done(self, name: str) -> bool:
        """Whether a partial result is on disk, intact and of this digest."""
        self._close(name)
        return is_done(self._path(name), SCHEMA, VERSION, self.digest)

    def exists(self, name: str) -> bool:
        """Whether there is a partial result, which :meth:`is_done` verifies."""
        return self._path(name).exists()

    def write(self, name: str, compute: Callable[[NewMatrix], Arrays]) -> None:
        """Write the arrays that ``compute`` yields, one after the other; it gets a factory of matrices.

        Matrices above ``MATRIX_BYTES`` are datasets of the file. Float64 matrices are stored with checksums of blocks
        of rows, so they can be written and verified without being in memory.
        """
        self._close(name)
        with hdf5.create(self._path(name), SCHEMA, VERSION, {"digest": self.digest}) as file:

            def new_matrix(path: str, shape: int | tuple[int, int]) -> Any:
                sides = (shape, shape) if isinstance(shape, int) else shape
                if 8 * math.prod(sides) <= MATRIX_BYTES:
                    return in_memory(path, shape)
                return _create_blocks(file, path, sides, "float64" if isinstance(shape, int) else "float32")

            for path, array in compute(new_matrix):
                _write(file, path, array)

    @contextmanager
    def open(self, name: str) -> Iterator[h5py.File]:
        """Open a partial result to read; a number of files stay open for the next time."""
        if name not in self._files:
            while len(self._open) >= KEPT_OPEN:
                self._close(next(iter(self._open)))
            self._open[name] = stack = ExitStack()
            self._files[name] = stack.enter_context(hdf5.open_checked(self._path(name), SCHEMA, VERSION, MADE_BY))
        self._open.move_to_end(name)
        yield self._files[name]

    def close(self) -> None:
        """Close all files."""
        for name in list(self._open):
            self._close(name)

    def _close(self, name: str) -> None:
        self._files.pop(name, None)
        if name in self._open:
            self._open.pop(name).close()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.h5"


def _write(file: h5py.File, path: str, array: Any) -> None:
    if len(array.shape) != 2 or (isinstance(array, np.ndarray) and array.dtype != np.float64):
        hdf5.write_array(file, path, array)
        return
    dataset = array
    if not isinstance(array, h5py.Dataset):
        dataset = _create_blocks(file, path, array.shape)
        for index in hdf5.blocks(array.shape):
            dataset[index] = array[index]
    hdf5.write_checksum(dataset, (hdf5.block_digest(dataset[index]) for index in hdf5.blocks(array.shape)))


def _create_blocks(file: h5py.File, path: str, shape: tuple[int, ...], dtype: str = "float64") -> h5py.Dataset:
    place, _, name = path.rpartition("/")
    return hdf5.create_blocks(file.require_group(place or "/"), name, shape, dtype=dtype)
