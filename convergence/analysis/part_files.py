"""Part files of the analysis: the nested results of one task.

A task has hundreds of results, nearly all of them numbers or short arrays, and a dataset for each would take longer to
write and read than most of them take to compute. So small arrays are joined to one dataset of bytes, ``packed``, with
an ``index`` of their names, types and places; larger ones are datasets. All have checksums.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from convergence.io import hdf5

PARTIAL_SCHEMA = "convergence-analysis-part"
PARTIAL_VERSION = 5
LARGE_BYTES = 1 << 18
"""Bytes above which an array is stored as a separate dataset."""
GROUP, TEXT, LARGE = "group", "text", "large"
"""Kinds of entries of the index that are no types of packed arrays: an empty group, texts, and a large array."""


class Entry(NamedTuple):
    """A result: its path, its kind or numpy type, its shape, and its texts, its place or its number."""

    path: list[str]
    kind: str
    shape: list[int]
    content: Any


def write_tree(place: h5py.Group, tree: Mapping[str, Any]) -> None:
    """Write nested dicts of arrays, numbers and texts; a "/" in a name separates two levels."""
    index: list[Entry] = []
    packed: list[npt.NDArray[np.uint8]] = []
    at = 0
    for path, value in sorted(_leaves(tree, ()), key=lambda leaf: leaf[0]):
        if isinstance(value, Mapping):
            index.append(Entry([*path], GROUP, [], 0))
            continue
        values = np.asarray(value, dtype=object if isinstance(value, str) else None)
        shape = [*values.shape]
        if values.dtype.kind in "UO":
            index.append(Entry([*path], TEXT, shape, [str(text) for text in values.ravel().tolist()]))
        elif values.nbytes > LARGE_BYTES:
            hdf5.write_array(place, f"{LARGE}{len(index)}", values)
            index.append(Entry([*path], LARGE, shape, len(index)))
        else:
            values = hdf5.little_endian(values)
            index.append(Entry([*path], values.dtype.str, shape, at))
            packed.append(values.reshape(-1).view(np.uint8))
            at += values.nbytes
    hdf5.write_array(place, "index", np.asarray(json.dumps(index), dtype=object))
    hdf5.write_array(place, "packed", np.concatenate(packed) if packed else np.zeros(0, np.uint8))


def read_tree(place: h5py.Group) -> dict[str, Any]:
    """Read what :func:`write_tree` wrote and verify checksums; scalars become Python numbers and texts.

    Raises
    ------
    FileError
        for a damaged file.
    """
    tree: dict[str, Any] = {}
    packed = hdf5.read_array(place, "packed")
    with hdf5.reading(place.file.filename):
        for entry in _index(place):
            level = tree
            for name in entry.path[:-1]:
                level = level.setdefault(name, {})
            level[entry.path[-1]] = _value(place, packed, entry)
    return tree


def read_leaf(place: h5py.Group, *path: str) -> Any:
    """One result of a file; None if it is not there."""
    with hdf5.reading(place.file.filename):
        found = [entry for entry in _index(place) if entry.path == [*path]]
        return _value(place, hdf5.read_array(place, "packed"), found[0]) if found else None


def _leaves(tree: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Results with their paths, and empty dicts."""
    for name, value in tree.items():
        path = (*above, *name.split("/"))
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, path)
        else:
            yield path, value


def _index(place: h5py.Group) -> list[Entry]:
    return [Entry(*entry) for entry in json.loads(hdf5.read_array(place, "index").item())]


def _value(place: h5py.Group, packed: npt.NDArray[np.uint8], entry: Entry) -> Any:
    if entry.kind == GROUP:
        return {}
    if entry.kind == LARGE:
        values = hdf5.read_array(place, f"{LARGE}{entry.content}")
    elif entry.kind == TEXT:
        values = np.array(entry.content, dtype=object).reshape(entry.shape)
    else:
        n = math.prod(entry.shape)
        values = np.zeros(n, np.dtype(entry.kind))
        if n:
            values[:] = np.frombuffer(packed, values.dtype, n, entry.content)
        values = values.reshape(entry.shape)
    return values.item() if values.ndim == 0 else values
