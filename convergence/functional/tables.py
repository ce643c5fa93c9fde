"""Results as tables: a frozen dataclass per row, one compound HDF5 dataset per table, readable with h5py alone.

A *results class* is a frozen dataclass whose fields are tuples of rows; each field is a table of its name. A column is
a number, a boolean, a text (fixed-length UTF-8) or one of

``Estimate``  columns ``x``, ``x_standard_error``, ``x_low``, ``x_high``, ``x_bias``, ``x_null`` and ``x_null_sd``; the
              jackknife replicates of all estimates of a table are in ``<table>_replicates`` (row, estimate, group)
``Scores``    the dataset ``<table>_<column>`` (row, sum, group): images, correct answers and summed loss of each group

A missing estimate or score is NaN.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from convergence.functional.scores import Scores
from convergence.inference import Estimate
from convergence.io import hdf5

Results = TypeVar("Results")
PARTS = ("value", "standard_error", "low", "high", "bias", "null", "null_sd")
NUMBERS: dict[type, str] = {int: "<i8", float: "<f8", bool: "?"}


def joined(kind: type[Results], parts: Iterable[Results]) -> Results:
    """The rows of several results, one after the other."""
    several = list(parts)
    return kind(**{name: tuple(row for part in several for row in getattr(part, name)) for name in _tables(kind)})


def write_tables(place: h5py.Group, results: Any) -> None:
    """Write each table of a results object, with a checksum per dataset."""
    for name, row in _tables(type(results)).items():
        _write_table(place, name, row, getattr(results, name))


def read_tables(place: h5py.Group, kind: type[Results]) -> Results:
    """Read what :func:`write_tables` wrote; checksums are verified.

    Raises
    ------
    FileError
        when a dataset is missing or damaged.
    """
    return kind(**{name: tuple(_read_table(place, name, row)) for name, row in _tables(kind).items()})


def records(rows: Sequence[Any]) -> dict[str, list[Any]]:
    """Rows as columns, estimates as several: ``pandas.DataFrame(records(results.maps))``."""
    found: dict[str, list[Any]] = {}
    for name, (kind, _) in (_columns(type(rows[0])) if rows else {}).items():
        values = [getattr(row, name) for row in rows]
        if kind is Estimate:
            for part in PARTS:
                found[_part(name, part)] = [np.nan if e is None else getattr(e, part) for e in values]
        elif kind is not Scores:
            found[name] = values
    return found


def _tables(kind: type) -> dict[str, type]:
    """The row class of each table of a results class."""
    return {name: typing.get_args(hint)[0] for name, hint in _hints(kind).items()}


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _columns(row: type) -> dict[str, tuple[type, bool]]:
    """By column: its type, and whether it may be None."""
    found = {}
    for name, hint in _hints(row).items():
        optional = isinstance(hint, types.UnionType)
        found[name] = (typing.get_args(hint)[0] if optional else hint, optional)
    return found


def _part(name: str, part: str) -> str:
    return name if part == "value" else f"{name}_{part}"


def _write_table(place: h5py.Group, name: str, row: type, rows: Sequence[Any]) -> None:
    about = (row.__doc__ or "").split("\n")[0]
    dtype: list[tuple[str, Any]] = []
    columns: dict[str, list[Any]] = {}
    replicates: list[list[npt.NDArray[np.float64]]] = []
    for column, (kind, _) in _columns(row).items():
        values = [getattr(one, column) for one in rows]
        if kind is Estimate:
            for part in PARTS:
                dtype.append((_part(column, part), "<f8"))
                columns[_part(column, part)] = [np.nan if e is None else getattr(e, part) for e in values]
            replicates.append([np.zeros(0) if e is None else np.asarray(e.without, np.float64) for e in values])
        elif kind is Scores:
            n_groups = max((len(s.count) for s in values if s is not None), default=0)
            sums = np.full((len(rows), 3, n_groups), np.nan)
            for k, scores in enumerate(values):
                if scores is not None:
                    sums[k] = scores.count, scores.correct, scores.loss
            about_sums = "images, correct answers and summed loss in nats"
            hdf5.write_array(place, f"{name}_{column}", sums, ("row", "sum", "group"), about=about_sums)
        elif kind is str:
            texts = [value.encode("utf-8") for value in values]
            dtype.append((column, h5py.string_dtype("utf-8", max([1, *map(len, texts)]))))
            columns[column] = texts
        else:
            dtype.append((column, NUMBERS[kind]))
            columns[column] = values
    table = np.zeros(len(rows), np.dtype(dtype))
    for column, cells in columns.items():
        table[column] = cells
    hdf5.write_array(place, name, table, ("row",), about=about)
    if replicates:
        width = max((len(values) for several in replicates for values in several), default=0)
        padded = np.full((len(rows), len(replicates), width), np.nan)
        for k, several in enumerate(replicates):
            for at, found in enumerate(several):
                padded[at, k, : len(found)] = found
        axes = ("row", "estimate", "group")
        hdf5.write_array(place, f"{name}_replicates", padded, axes, about="each estimate without one image group")


def _read_table(place: h5py.Group, name: str, row: type) -> Iterable[Any]:
    table = hdf5.read_array(place, name)
    found: dict[str, list[Any]] = {}
    n_estimates = 0
    for column, (kind, optional) in _columns(row).items():
        if kind is Estimate:
            replicates = hdf5.read_array(place, f"{name}_replicates")[:, n_estimates]
            parts = [table[_part(column, part)].tolist() for part in PARTS]
            n_estimates += 1
            found[column] = [
                None if optional and np.isnan(numbers[0])
                else Estimate(**dict(zip(PARTS, numbers, strict=True)), without=_trimmed(without))
                for *numbers, without in zip(*parts, replicates, strict=True)
            ]  # fmt: skip
        elif kind is Scores:
            sums = hdf5.read_array(place, f"{name}_{column}")
            found[column] = [None if optional and np.isnan(one).all() else Scores(*one) for one in sums]
        elif kind is str:
            found[column] = [text.decode("utf-8") for text in table[column].tolist()]
        else:
            found[column] = table[column].tolist()
    for values in zip(*found.values(), strict=True):
        yield row(**dict(zip(found, values, strict=True)))


def _trimmed(replicates: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Replicates without the NaN at the end that pad shorter ones."""
    there = np.flatnonzero(~np.isnan(replicates))
    return replicates[: there[-1] + 1] if len(there) else replicates[:0]
