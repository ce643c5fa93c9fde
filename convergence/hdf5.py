"""HDF5 the same way everywhere: schema and version, a checksum per dataset, labelled axes, errors that teach.

Files need nothing but h5py and numpy to be read: every dataset is plain and uncompressed, its axes are labelled, and
its attributes say the unit of measure and the SHA-256 of its bytes (little-endian, C order).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from convergence.errors import FileError
from convergence.files import atomic_write


@contextmanager
def create(path: Path, schema: str, version: int, attributes: Mapping[str, Any]) -> Iterator[h5py.File]:
    """A new file, written aside and renamed when the block ends; an exception leaves nothing behind."""
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["schema"] = schema
        file.attrs["schema_version"] = version
        for name, value in attributes.items():
            file.attrs[name] = value
        yield file


@contextmanager
def open_checked(path: Path, schema: str, version: int, made_by: str) -> Iterator[h5py.File]:
    """Open a file for reading.

    Raises
    ------
    FileError
        if it is missing, truncated, no HDF5 file, of another schema, or of a newer version than ``version``;
        ``made_by`` is the command that makes such a file.
    """
    if not path.exists():
        raise FileError(f"{path}: there is no such file. It is made by: {made_by}.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if "truncated" in str(error):
            raise FileError(
                f"{path}: the file is truncated: it holds {path.stat().st_size:,} bytes, fewer than it was written "
                f"with. Copy it again, or remove it and make it anew with: {made_by}."
            ) from error
        if "lock" in str(error):
            raise FileError(
                f"{path}: the file is locked: another process may still be writing it. Wait for that, or, on a file "
                "system without locks, set HDF5_USE_FILE_LOCKING=FALSE."
            ) from error
        raise FileError(
            f"{path}: this is no readable HDF5 file ({str(error).splitlines()[0]}). Copy it again, or remove it and "
            f"make it anew with: {made_by}."
        ) from error
    with file:
        found = file.attrs.get("schema")
        if found != schema:
            raise FileError(
                f"{path}: the file's schema is {found!r}, and {schema!r} is needed. It may be another stage's file; "
                f"this one is made by: {made_by}."
            )
        found_version = int(file.attrs["schema_version"])
        if found_version > version:
            raise FileError(
                f"{path}: the file has version {found_version} of its schema, written by a newer convergence "
                f"(this one reads up to {version}). Update the package: pip install --upgrade convergent-learning."
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
    """Write one dataset with its axis labels, unit of measure, a sentence about it and its checksum."""
    values = np.asarray(array, order="C")  # not ascontiguousarray, which turns a number into an array of one
    if values.dtype.kind in "UO":
        values = values.astype(object)
        dataset = group.create_dataset(name, data=values, dtype=h5py.string_dtype())
        checksum = hashlib.sha256("\0".join(map(str, values.ravel())).encode()).hexdigest()
    else:
        dataset = group.create_dataset(name, data=values)
        checksum = _checksum(values)
    for axis, label in enumerate(axes):
        dataset.dims[axis].label = label
    if unit:
        dataset.attrs["unit"] = unit
    if about:
        dataset.attrs["about"] = about
    dataset.attrs["sha256"] = checksum
    return dataset


class GrowingArray:
    """A float64 dataset written one item of its first axis at a time, so that the whole never has to be in memory."""

    def __init__(self, group: h5py.Group, name: str, shape: tuple[int, ...], axes: tuple[str, ...], about: str) -> None:
        self._dataset = group.create_dataset(name, shape, dtype="<f8")
        self._dataset.attrs["about"] = about
        for axis, label in enumerate(axes):
            self._dataset.dims[axis].label = label
        self._digest = hashlib.sha256()
        self._next = 0

    def append(self, item: npt.NDArray[np.float64]) -> None:
        """Write the next item, (shape[1:]) float64."""
        values = np.ascontiguousarray(item, dtype="<f8")
        self._dataset[self._next] = values
        self._digest.update(values.tobytes())
        self._next += 1

    def close(self) -> None:
        """Set the checksum; every item must have been written."""
        if self._next != self._dataset.shape[0]:
            raise ValueError(f"{self._dataset.name}: {self._next} of {self._dataset.shape[0]} items were written")
        self._dataset.attrs["sha256"] = self._digest.hexdigest()


def read_array(group: h5py.Group, name: str) -> npt.NDArray[Any]:
    """Read one dataset and hold it against its checksum; FileError if it is missing or damaged."""
    where = f"{group.file.filename}: {group.name.rstrip('/')}/{name}"
    if name not in group:
        raise FileError(f"{where} is missing: the file is incomplete. Remove it and make it anew.")
    dataset = group[name]
    try:
        values = dataset.asstr()[()] if h5py.check_string_dtype(dataset.dtype) else dataset[()]
    except OSError as error:
        raise FileError(f"{where} could not be read ({error}). Copy the file again or make it anew.") from error
    values = np.asarray(values)
    if values.dtype == object:
        checksum = hashlib.sha256("\0".join(map(str, values.ravel())).encode()).hexdigest()
    else:
        checksum = _checksum(values)
    if checksum != dataset.attrs.get("sha256"):
        raise FileError(
            f"{where} does not match its checksum: the file was damaged after it was written. Copy it again, or "
            "remove it and make it anew."
        )
    return values


def _checksum(values: npt.NDArray[Any]) -> str:
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(np.ascontiguousarray(little).tobytes()).hexdigest()
