"""``analysis.h5`` as tables and matrices of :mod:`convergence.analysis.layout`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from convergence.analysis.layout import MADE_BY, MATRIX_BY_NAME, SCHEMA, TABLE_BY_NAME, VERSION
from convergence.analysis.schema import DTYPES, MISSING, ColumnSchema, MatrixSchema, TableSchema
from convergence.errors import FileError, did_you_mean
from convergence.io import hdf5
from convergence.io.names import check_label, check_name

Array = npt.NDArray[Any]
Columns = dict[str, Array]
"""Columns of a table by name, all of one length; texts are numpy strings."""


class TableRows:
    """Rows of a table or matrix, collected in blocks and joined when they are written."""

    def __init__(self) -> None:
        self._tables: dict[str, list[tuple[int, Mapping[str, Any]]]] = {name: [] for name in TABLE_BY_NAME}
        self._matrices: dict[str, list[Array]] = {name: [] for name in MATRIX_BY_NAME}

    def add(self, table: str, n_rows: int = 1, /, **columns: Any) -> None:
        """Append rows; a column is an array (n_rows,) or one value for all rows, a missing one does not apply."""
        unknown = set(columns) - {column.name for column in TABLE_BY_NAME[table].columns}
        if unknown:
            raise ValueError(f"table {table} has no columns {', '.join(sorted(unknown))}")
        self._tables[table].append((n_rows, columns))

    def add_matrix(self, matrix: str, rows: npt.ArrayLike) -> None:
        """Append rows (n, m) to a matrix; rows of fewer columns than others are filled up when they are written."""
        self._matrices[matrix].append(np.atleast_2d(np.asarray(rows)))

    def table(self, name: str) -> Columns:
        """The rows of a table so far, by columns."""
        return self._joined(TABLE_BY_NAME[name])

    def matrix(self, name: str) -> Array:
        """The rows of a matrix so far."""
        return self._stacked(MATRIX_BY_NAME[name])

    def write(self, place: h5py.Group) -> None:
        """Write every table and matrix of a comparison, empty ones included; rows are forgotten as they are written."""
        for table in TABLE_BY_NAME.values():
            write_table(place, table, self._joined(table))
            del self._tables[table.name]
        for matrix in MATRIX_BY_NAME.values():
            hdf5.write_array(place, matrix.name, self._stacked(matrix), matrix.axes, matrix.unit, matrix.about)
            del self._matrices[matrix.name]

    def _joined(self, table: TableSchema) -> Columns:
        blocks = self._tables[table.name]
        total = sum(n for n, _ in blocks)
        joined: Columns = {}
        for column in table.columns:
            found = [
                np.broadcast_to(np.asarray(columns.get(column.name, MISSING[column.kind])), (n,))
                for n, columns in blocks
            ]
            values = np.concatenate(found) if found else np.zeros(0, DTYPES[column.kind])
            joined[column.name] = values if column.kind == "text" else values.astype(DTYPES[column.kind])
            assert len(joined[column.name]) == total
        return joined

    def _stacked(self, matrix: MatrixSchema) -> Array:
        blocks = self._matrices[matrix.name]
        dtype = DTYPES[matrix.kind]
        if len(blocks) == 1:
            return np.asarray(blocks[0], dtype)
        width = max((block.shape[1] for block in blocks), default=0)
        out = np.full((sum(len(block) for block in blocks), width), matrix.empty, dtype)
        start = 0
        for block in blocks:
            out[start : start + len(block), : block.shape[1]] = block
            start += len(block)
        return out


def write_table(place: h5py.Group, table: TableSchema, columns: Columns) -> None:
    """Write a table as one compound dataset with its checksum, its meaning and the description of its columns."""
    packed: Columns = {}
    fields: list[tuple[str, Any]] = []
    for column in table.columns:
        values = columns[column.name]
        if column.kind == "text":
            values = np.array([text.encode() for text in values.tolist()], dtype=np.bytes_)
            fields.append((column.name, h5py.string_dtype("utf-8", max(values.dtype.itemsize, 1))))
        else:
            fields.append((column.name, np.dtype(DTYPES[column.kind])))
        packed[column.name] = values
    rows = np.zeros(len(next(iter(packed.values()))), np.dtype(fields))
    for name, values in packed.items():
        rows[name] = values
    dataset = hdf5.write_array(place, table.name, rows, about=f"A row is {table.about}.")
    dataset.attrs["columns"] = table.description()


def read_table(place: h5py.Group, table: TableSchema) -> Columns:
    """Read a table by columns and verify its checksum; FileError for a damaged table, or one of other columns."""
    rows = hdf5.read_array(place, table.name)
    where = f"{place.file.filename}: {place.name}/{table.name}"
    columns: Columns = {}
    for column in table.columns:
        if rows.ndim != 1 or not _is_kind(rows.dtype, column):
            raise FileError(f"{where} has no column {column.name} of its type. Make the file again with: {MADE_BY}.")
        values = np.ascontiguousarray(rows[column.name])
        with hdf5.reading(where, column.name, MADE_BY):
            columns[column.name] = _decoded(values) if column.kind == "text" else values
    for name in {"member", "x", "y", "net"} & set(columns):
        for text in np.unique(columns[name]).tolist():
            check_label(text, name, where)
    return columns


def _is_kind(dtype: np.dtype[Any], column: ColumnSchema) -> bool:
    if column.name not in (dtype.names or ()):
        return False
    found = dtype[column.name]
    return found.kind == "S" if column.kind == "text" else found == np.dtype(DTYPES[column.kind])


def _decoded(values: Array) -> Array:
    try:
        return values.astype(f"U{max(values.dtype.itemsize, 1)}")  # of ASCII; fast
    except UnicodeDecodeError:
        return np.char.decode(values, "utf-8")


class AnalysisFile:
    """An open ``analysis.h5``.

    Attributes
    ----------
    raw_file : the HDF5 file
    digest, statistics_digest : of the analysis, and of the statistics that it was made from
    provenance : versions of what computed it
    comparisons : their names
    """

    def __init__(self, file: h5py.File) -> None:
        self.raw_file = file
        self.digest = str(file.attrs["digest"])
        self.statistics_digest = str(file.attrs["statistics_digest"])
        self.provenance: dict[str, str] = json.loads(file.attrs["provenance"])
        self.comparisons: list[str] = [check_name(name, "comparison", file.filename) for name in file["comparisons"]]

    def table(self, comparison: str, name: str) -> Columns:
        """A table by columns; FileError if it is missing or damaged."""
        return read_table(self.raw(comparison), TABLE_BY_NAME[name])

    def matrix(self, comparison: str, name: str) -> Array:
        """A matrix; FileError if it is missing, damaged or of another type."""
        matrix = MATRIX_BY_NAME[name]
        values = hdf5.read_array(self.raw(comparison), matrix.name)
        if values.ndim != 2 or values.dtype != np.dtype(DTYPES[matrix.kind]):
            raise FileError(
                f"{self.raw_file.filename}: {comparison}/{name} has another type. Make it again: {MADE_BY}."
            )
        return values

    def raw(self, comparison: str) -> h5py.Group:
        """The group of a comparison; FileError with the nearest name if there is none."""
        if comparison not in self.comparisons:
            raise FileError(
                f'{self.raw_file.filename} has no comparison "{comparison}"; '
                f"{did_you_mean(comparison, self.comparisons)}."
            )
        return self.raw_file["comparisons"][comparison]


@contextmanager
def open_analysis(path: str | Path) -> Iterator[AnalysisFile]:
    """Open an analysis file; FileError says what is wrong with one that cannot be used."""
    with hdf5.open_checked(Path(path), SCHEMA, VERSION, MADE_BY) as file:
        with hdf5.reading(path, made_by=MADE_BY):
            found = AnalysisFile(file)
        yield found
