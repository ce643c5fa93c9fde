"""HDF5 files with a schema and version, a checksum per dataset, labelled axes and helpful errors.

The files are readable with h5py and numpy alone. Every dataset is plain and uncompressed and has labelled axes. Its
attributes hold the unit of measure and the SHA-256 of its bytes (little-endian, C order). Matrices that may be too
large for the memory are written, and their checksums computed, in blocks of rows.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from convergence.errors import FileError
from convergence.io.file_errors import another_schema, unfinished, unreadable
from convergence.io.files import FULL, atomic_write

BLOCK_ROWS = 1024
"""Rows of a block, the part of a large matrix that is in memory at a time."""
WHOLE_BYTES = 1 << 26
"""A dataset above this size is verified in slices of its first axis."""
Index = tuple[int | slice, ...]


@contextmanager
def create(path: Path, schema: str, version: int, attributes: Mapping[str, Any]) -> Iterator[h5py.File]:
    """Create a file atomically: it gets its name when the block ends; an exception leaves no file."""
    with atomic_write(path) as temporary, open_hdf5(temporary, "w") as file:
        file.attrs["schema"] = schema
        file.attrs["schema_version"] = version
        for name, value in attributes.items():
            file.attrs[name] = value
        yield file


@contextmanager
def open_checked(path: Path, schema: str, version: int, made_by: str, oldest: int = 1) -> Iterator[h5py.File]:
    """Open a file for reading.

    Raises
    ------
    FileError
        if it is missing, truncated, no HDF5 file, of another schema, or of a version before ``oldest`` or after
        ``version``; ``made_by`` is the command that makes such a file.
    """
    if not path.exists():
        raise FileError(f"{path}: there is no such file. {unfinished(path)}Make it with: {made_by}.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise FileError(f"{path}: {unreadable(path, error, made_by)}") from error
    with file:
        found = file.attrs.get("schema")
        if found != schema:
            raise FileError(f"{path}: {another_schema(found, schema, made_by)}")
        found_version = int(file.attrs["schema_version"])
        if found_version < oldest:
            raise FileError(
                f"{path}: the file has version {found_version} of its schema, and version {oldest} or later is needed. "
                f"Make it again with: {made_by}."
            )
        if found_version > version:
            raise FileError(
                f"{path}: the file has schema version {found_version}, written by a newer convergence; this one reads "
                f"versions up to {version}. Update the package: pip install --upgrade convergent-learning."
            )
        yield file


def write_array(
    group: h5py.Group,
    name: str,
    array: npt.ArrayLike,
    axes: tuple[str, ...] = (),
    unit: str = "",
    about: str = "",
) -> h5py.Dataset:
    """Write one dataset with its axis labels, unit of measure, description and checksum."""
    values = np.asarray(array, order="C")  # not ascontiguousarray, which turns a number into an array of one
    if values.dtype.kind in "UO":
        values = values.astype(object)
        dataset = group.create_dataset(name, data=values, dtype=h5py.string_dtype())
    else:
        dataset = group.create_dataset(name, data=values)
    dataset.attrs["sha256"] = _checksum(values)
    _describe(dataset, axes, unit, about)
    return dataset


class Growing:
    """A dataset that is written in consecutive slices of its first axis, with a checksum of the whole."""

    def __init__(
        self,
        group: h5py.Group,
        name: str,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        axes: tuple[str, ...] = (),
        about: str = "",
    ) -> None:
        self._dataset = group.create_dataset(name, shape, np.dtype(dtype).newbyteorder("<"))
        self._hash, self._n = hashlib.sha256(), 0
        _describe(self._dataset, axes, "", about)
        self._seal_if_full()

    def add(self, values: npt.ArrayLike) -> None:
        """Write the next slice (n, …); the last slice completes the dataset and sets its checksum."""
        array = np.asarray(values, self._dataset.dtype, order="C")
        self._dataset[self._n : self._n + len(array)] = array
        self._hash.update(array.data)
        self._n += len(array)
        self._seal_if_full()

    def _seal_if_full(self) -> None:
        if self._n == self._dataset.shape[0]:
            self._dataset.attrs["sha256"] = self._hash.hexdigest()


def create_blocks(
    group: h5py.Group, name: str, shape: tuple[int, ...], axes: tuple[str, ...] = (), unit: str = "", about: str = ""
) -> h5py.Dataset:
    """Allocate an empty float64 dataset, to be written in the blocks of :func:`blocks`.

    :func:`seal` sets its checksum once all blocks are written.
    """
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.Dataset(h5py.h5d.create(group.id, name.encode(), h5py.h5t.IEEE_F64LE, space, layout))
    dataset.attrs["sha256_rows"] = BLOCK_ROWS
    _describe(dataset, axes, unit, about)
    return dataset


def blocks(shape: tuple[int, ...], rows: int | None = None) -> list[Index]:
    """List the blocks of an array in order: ``rows`` rows (default ``BLOCK_ROWS``) of one of its matrices each."""
    step = rows or BLOCK_ROWS
    starts = range(0, shape[-2], step)
    return [
        (*matrix, slice(start, min(start + step, shape[-2]))) for matrix in np.ndindex(*shape[:-2]) for start in starts
    ]


def block_digest(values: npt.NDArray[Any]) -> bytes:
    """SHA-256 of a block's bytes."""
    return hashlib.sha256(little_endian(values).data).digest()


def seal(dataset: h5py.Dataset, digests: Iterable[bytes]) -> None:
    """Set the checksum of a dataset: the SHA-256 of the concatenated digests of its blocks, in order."""
    dataset.attrs["sha256"] = hashlib.sha256(b"".join(digests)).hexdigest()


def verify(file: h5py.File) -> None:
    """Verify the checksum of every dataset, of large ones block by block.

    Raises
    ------
    FileError
        for the first damaged dataset.
    """

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            if "sha256_rows" in item.attrs:
                _compare(item, (block_digest(item[index]) for index in _sealed_blocks(item)))
            elif item.nbytes > WHOLE_BYTES and item.ndim > 1:
                _compare_runs(item)
            else:
                read_array(item.parent, name.rsplit("/", 1)[-1])

    file.visititems(visit)


def read_array(group: h5py.Group, name: str) -> npt.NDArray[Any]:
    """Read one dataset and verify its checksum.

    Raises
    ------
    FileError
        if the dataset is missing or damaged.
    """
    if name not in group:
        where = f"{group.file.filename}: {group.name.rstrip('/')}/{name}"
        raise FileError(f"{where} is missing: the file is incomplete. Remove it and remake it.")
    return read_dataset(group[name])


def read_dataset(dataset: h5py.Dataset) -> npt.NDArray[Any]:
    """Read an open dataset and verify its checksum.

    Raises
    ------
    FileError
        if the dataset is damaged.
    """
    try:
        is_text = dataset.dtype.kind == "O"
        values = np.asarray(dataset.asstr()[()] if is_text else dataset[()], dtype=object if is_text else None)
    except OSError as error:
        where = f"{dataset.file.filename}: {dataset.name}"
        raise FileError(f"{where} could not be read ({error}). Copy the file again or remake it.") from error
    attributes = dataset.attrs
    if values.ndim > 1 and "sha256_rows" in attributes:
        _compare(dataset, (block_digest(values[index]) for index in _sealed_blocks(dataset)))
    elif _checksum(values) != attributes.get("sha256"):
        raise _damaged(dataset)
    return values


def _sealed_blocks(dataset: h5py.Dataset) -> list[Index]:
    return blocks(dataset.shape, int(dataset.attrs["sha256_rows"]))


def _compare(dataset: h5py.Dataset, digests: Iterable[bytes]) -> None:
    if hashlib.sha256(b"".join(digests)).hexdigest() != dataset.attrs.get("sha256"):
        raise _damaged(dataset)


def _compare_runs(dataset: h5py.Dataset) -> None:
    """Verify the checksum of a large dataset in slices of its first axis."""
    digest, step = hashlib.sha256(), max(1, WHOLE_BYTES * dataset.shape[0] // dataset.nbytes)
    for start in range(0, dataset.shape[0], step):
        digest.update(little_endian(dataset[start : start + step]).data)
    if digest.hexdigest() != dataset.attrs.get("sha256"):
        raise _damaged(dataset)


def _damaged(dataset: h5py.Dataset) -> FileError:
    return FileError(
        f"{dataset.file.filename}: {dataset.name} does not match its checksum: the file was damaged after it was "
        "written. Copy it again, or remove it and remake it."
    )


def _checksum(values: npt.NDArray[Any]) -> str:
    if values.dtype == object:
        return hashlib.sha256("\0".join(map(str, values.ravel())).encode()).hexdigest()
    return hashlib.sha256(little_endian(values).data).hexdigest()


def little_endian(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Convert to contiguous little-endian values, so that files have the same bytes on every machine."""
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))


def _describe(dataset: h5py.Dataset, axes: tuple[str, ...], unit: str, about: str) -> None:
    for axis, label in enumerate(axes):
        dataset.dims[axis].label = label
    if unit:
        dataset.attrs["unit"] = unit
    if about:
        dataset.attrs["about"] = about


@contextmanager
def open_hdf5(path: Path, mode: str) -> Iterator[h5py.File]:
    """Open an HDF5 file for writing: a new one ("w") or an existing one ("r+").

    Raises
    ------
    OSError
        at the end of the block, if the disk is full; the file is then unusable.
    """
    with _FullDiskTolerantFile(path, "w+" if mode == "w" else "r+") as disk:
        try:
            with h5py.File(disk, mode) as file:
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
