"""HDF5 files with a schema and version, checksums of everything, labelled axes and helpful errors.

The files are readable with h5py and numpy alone. Every dataset is plain and uncompressed and has labelled axes. Its
attributes hold the unit of measure and the SHA-256 of its bytes (little-endian, C order). A seal over the bytes of the
file covers structure and attributes (:mod:`convergence.io.seal`). Matrices that may be too large for the memory are
written, and their checksums computed, in blocks of rows.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
import numpy.typing as npt

from convergence.errors import FileError, UserError
from convergence.io.file_errors import another_schema, damaged, probe, unfinished, unreadable
from convergence.io.files import atomic_write
from convergence.io.full_disk import open_hdf5
from convergence.io.plain_hdf5 import check_plain, extents
from convergence.io.seal import Identity, Seal, check_regular, identity, is_intact, read_seal, write_seal

BLOCK_ROWS = 1024
"""Rows of a block, the part of a large matrix that is in memory at a time."""
WHOLE_BYTES = 1 << 26
"""A dataset above this size is verified in slices of its first axis."""
ERRORS = (
    OSError,
    KeyError,
    ValueError,
    RuntimeError,
    OverflowError,
    MemoryError,
    TypeError,
    IndexError,
    AttributeError,
)
"""What reading a file with unexpected content may raise."""
Index = tuple[int | slice, ...]
_intact: set[Identity] = set()
"""Files whose seal and structure this process has verified."""
_verified: set[tuple[Identity, str]] = set()
"""Large datasets that this process has verified."""
_verifying = threading.Lock()


@contextmanager
def create(
    path: Path, schema: str, version: int, attributes: Mapping[str, Any], sealed: bool = True
) -> Iterator[h5py.File]:
    """Create a file atomically: it gets its name when the block ends; an exception leaves no file.

    A file that is not ``sealed`` yet is completed, and sealed, by :func:`complete`.
    """
    with atomic_write(path) as temporary:
        with open_hdf5(temporary, "w") as file:
            file.attrs["schema"] = schema
            file.attrs["schema_version"] = version
            for name, value in attributes.items():
                file.attrs[name] = value
            yield file
        if sealed:
            seal_file(temporary)


@contextmanager
def complete(path: Path) -> Iterator[h5py.File]:
    """Open an unsealed file for the last changes, and seal it when the block ends."""
    with open_hdf5(path, "r+") as file:
        yield file
    seal_file(path)


def seal_file(path: Path, apart: Iterable[str] = ()) -> None:
    """Seal a finished file; changes its user block only.

    Datasets named in ``apart`` are left out of the seal although they have no checksum among their attributes.
    """
    with h5py.File(path, "r") as file:
        schema, version = str(file.attrs["schema"]), int(file.attrs["schema_version"])
        found = extents(file, apart)
    write_seal(path, schema, version, found)


@contextmanager
def open_checked(path: Path, schema: str, version: int, made_by: str) -> Iterator[h5py.File]:
    """Open a file for reading, after its seal and its structure were verified.

    Raises
    ------
    FileError
        if it is missing, truncated, damaged, no HDF5 file, of another schema or of another version; ``made_by`` is the
        command that makes such a file.
    """
    check_there(path, made_by)
    seal, known = read_seal(path), identity(path)
    if seal is None or not (known in _intact or is_intact(path, seal)):
        _refuse(path, seal, schema, version, made_by)
    _check_schema(path, seal.schema, seal.version, schema, version, made_by)
    try:
        file = h5py.File(path, "r")
    except ERRORS as error:
        raise FileError(f"{path}: {unreadable(path, error, made_by)}") from error
    with file:
        if known is None or known not in _intact:
            check_plain(file, seal.size)
            if known is not None:
                _intact.add(known)
        yield file


def check_there(path: Path, made_by: str) -> None:
    """Raise FileError for a path without a file, or of a folder, a device or a pipe."""
    try:
        if not path.exists():
            raise FileError(f"{path}: there is no such file. {unfinished(path)}Make it with: {made_by}.")
        check_regular(path)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}. Give the path of a file.") from error


def schema_of(path: Path) -> str:
    """The schema that the seal of a file names; "" for a file without a seal, whose reader reports why."""
    try:
        check_there(path, "")
    except FileError:
        return ""
    seal = read_seal(path)
    return seal.schema if seal is not None else ""


def _refuse(path: Path, seal: Seal | None, schema: str, version: int, made_by: str) -> NoReturn:
    """Raise FileError for a file whose seal is missing or does not match."""
    is_short = seal is not None and path.stat().st_size < seal.size
    found = "truncated" if is_short else probe(path)
    if isinstance(found, str):
        raise FileError(f"{path}: {unreadable(path, OSError(found), made_by)}")
    _check_schema(path, found.schema, found.version, schema, version, made_by)
    raise FileError(f"{path}: {damaged(made_by)}")


def _check_schema(path: Path, found: object, found_version: int, schema: str, version: int, made_by: str) -> None:
    if found != schema:
        raise FileError(f"{path}: {another_schema(found, schema, made_by)}")
    if found_version < version:
        raise FileError(
            f"{path}: the file has version {found_version} of its schema, and version {version} is needed. "
            f"Make it again with: {made_by}."
        )
    if found_version > version:
        raise FileError(
            f"{path}: the file has schema version {found_version}, written by a newer convergence; this one reads "
            f"version {version}. Update the package: pip install --upgrade convergent-learning."
        )


@contextmanager
def reading(path: str | Path, what: str = "", made_by: str = "") -> Iterator[None]:
    """Turn whatever reading unexpected content raises in the block into a FileError about the file."""
    try:
        yield
    except UserError:
        raise
    except ERRORS as error:
        remedy = f"make it again with: {made_by}" if made_by else "remove it and make it again"
        place = f"{path}: {what}" if what else str(path)
        raise FileError(
            f"{place} cannot be read ({type(error).__name__}: {str(error)[:200]}). Copy the file again, or {remedy}."
        ) from error


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
    group: h5py.Group,
    name: str,
    shape: tuple[int, ...],
    axes: tuple[str, ...] = (),
    unit: str = "",
    about: str = "",
    dtype: str = "float64",
) -> h5py.Dataset:
    """Allocate an empty dataset of little-endian numbers, to be written in the blocks of :func:`blocks`.

    :func:`write_checksum` sets its checksum once all blocks are written.
    """
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_obj_track_times(False)  # times would make the bytes of two equal files differ
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.Dataset(
        h5py.h5d.create(group.id, name.encode(), h5py.h5t.py_create(np.dtype(dtype).newbyteorder("<")), space, layout)
    )
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


def write_checksum(dataset: h5py.Dataset, digests: Iterable[bytes]) -> None:
    """Set the checksum of a dataset: the SHA-256 of the concatenated digests of its blocks, in order."""
    dataset.attrs["sha256"] = hashlib.sha256(b"".join(digests)).hexdigest()


def verify(place: h5py.Group) -> None:
    """Verify the checksum of every dataset of an open file, or of a group of it, of large ones block by block.

    Raises
    ------
    FileError
        for the first damaged dataset.
    """
    found: list[str] = []
    place.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    for name in found:
        verify_dataset(place[name])


def verify_dataset(dataset: h5py.Dataset) -> None:
    """Verify the checksum of a dataset, block by block where it is large, once per process.

    Raises
    ------
    FileError
        for a damaged dataset.
    """
    known = identity(dataset.file.filename)
    key = None if known is None else (known, str(dataset.name))
    with _verifying:
        if key in _verified:
            return
        with reading(dataset.file.filename, str(dataset.name)):
            if "sha256_rows" in dataset.attrs:
                _compare(dataset, (block_digest(dataset[index]) for index in _sealed_blocks(dataset)))
            elif dataset.nbytes > WHOLE_BYTES and dataset.ndim > 1:
                _compare_runs(dataset)
            elif "sha256" in dataset.attrs:
                read_dataset(dataset)
            else:
                raise FileError(f"{dataset.file.filename}: {dataset.name} has no checksum. Make the file again.")
        if key is not None:
            _verified.add(key)


HELD_BYTES = 8_000_000
"""A dataset of at most this size is kept in memory once a part of it was read."""


class LargeArray:
    """A dataset of an open file that is read in parts, and verified as a whole before its first part is read.

    A dataset of at most :data:`HELD_BYTES` is read once, with its first part.

    Attributes
    ----------
    shape, dtype, ndim : of the dataset
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset, self._is_verified = dataset, False
        self._held: npt.NDArray[Any] | None = None
        self.shape: tuple[int, ...] = tuple(dataset.shape)
        self.dtype, self.ndim = dataset.dtype, dataset.ndim

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Read a part; FileError if the dataset is damaged."""
        if not self._is_verified:
            verify_dataset(self._dataset)
            if self._dataset.nbytes <= HELD_BYTES:
                with reading(self._dataset.file.filename, str(self._dataset.name)):
                    self._held = np.asarray(self._dataset[()])
                self._held.flags.writeable = False
            self._is_verified = True
        if self._held is not None:
            return np.array(self._held[index])
        with reading(self._dataset.file.filename, str(self._dataset.name)):
            return np.asarray(self._dataset[index])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[()], dtype)


def read_array(group: h5py.Group, name: str) -> npt.NDArray[Any]:
    """Read one dataset and verify its checksum.

    Raises
    ------
    FileError
        if the dataset is missing or damaged.
    """
    return read_dataset(_dataset(group, name))


def large_array(group: h5py.Group, name: str) -> LargeArray:
    """A dataset to be read in parts, see :class:`LargeArray`; FileError if it is missing."""
    return LargeArray(_dataset(group, name))


def _dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    found = group.get(name)
    if not isinstance(found, h5py.Dataset):
        where = f"{group.file.filename}: {group.name.rstrip('/')}/{name}"
        raise FileError(f"{where} is missing: the file is incomplete. Remove it and make it again.")
    return found


def read_dataset(dataset: h5py.Dataset) -> npt.NDArray[Any]:
    """Read an open dataset and verify its checksum.

    Raises
    ------
    FileError
        if the dataset is damaged.
    """
    with reading(dataset.file.filename, str(dataset.name)):
        is_text = dataset.dtype.kind == "O"
        values = np.asarray(dataset.asstr()[()] if is_text else dataset[()], dtype=object if is_text else None)
        attributes = dataset.attrs
        if values.ndim > 1 and "sha256_rows" in attributes:
            _compare(dataset, (block_digest(values[index]) for index in _sealed_blocks(dataset)))
        elif _checksum(values) != attributes.get("sha256"):
            raise _damaged(dataset)
    return values


def _sealed_blocks(dataset: h5py.Dataset) -> list[Index]:
    return blocks(dataset.shape, max(1, int(dataset.attrs["sha256_rows"])))


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
