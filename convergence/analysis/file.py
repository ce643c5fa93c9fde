"""``analysis.h5``: trees of results, written and read as they are. Format: docs/files.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from convergence.errors import FileError, did_you_mean
from convergence.io import hdf5

SCHEMA = "convergence-analysis"
PARTIAL_SCHEMA = "convergence-analysis-part"
VERSION = 2
MADE_BY = "convergence analyze CONFIG"


def write_tree(place: h5py.Group, tree: Mapping[str, Any]) -> None:
    """Nested dicts become groups; arrays, numbers and strings become datasets with a checksum."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            write_tree(place.require_group(name), value)
        else:
            hdf5.write_array(place, name, np.asarray(value, dtype=object if isinstance(value, str) else None))


def read_tree(place: h5py.Group) -> dict[str, Any]:
    """What :func:`write_tree` wrote; scalars come back as Python numbers and strings. Checksums are verified."""
    tree: dict[str, Any] = {}
    for name, item in place.items():
        if isinstance(item, h5py.Group):
            tree[name] = read_tree(item)
        else:
            values = hdf5.read_dataset(item)
            tree[name] = values.item() if values.ndim == 0 else values
    return tree


class AnalysisFile:
    """An open ``analysis.h5``."""

    def __init__(self, file: h5py.File) -> None:
        self._file = self.raw_file = file
        self.digest = str(file.attrs["digest"])
        self.statistics_digest = str(file.attrs.get("statistics_digest", ""))
        self.provenance: dict[str, str] = json.loads(file.attrs.get("provenance", "{}"))
        self.comparisons = list(file["comparisons"])

    def about(self, comparison: str) -> dict[str, list[Any]]:
        """Per member: name, net and epoch, whether it was trained, the layer asked for and the graph node read."""
        if comparison not in self.comparisons:
            raise FileError(
                f'{self._file.filename} has no comparison "{comparison}"; {did_you_mean(comparison, self.comparisons)}.'
            )
        attributes = self._file["comparisons"][comparison].attrs
        return {
            "nets": [str(net) for net in attributes["nets"]],
            "trained": [bool(flag) for flag in attributes["trained"]],
            "of_net": [str(net) for net in attributes.get("of_net", attributes["nets"])],
            "epochs": [int(epoch) for epoch in attributes.get("epochs", [-1] * len(attributes["nets"]))],
            "layers": [str(layer) for layer in attributes["layers"]],
            "sources": [str(source) for source in attributes["sources"]],
        }

    def units(self, comparison: str) -> dict[str, Any]:
        """Per unit of the joined axis: see docs/files.md."""
        return read_tree(self._file["comparisons"][comparison]["units"])

    def correlation(self, comparison: str) -> Any:
        """(n_units, n_units) pooled correlations of the joined axis."""
        return hdf5.read_array(self._file["comparisons"][comparison], "correlation")

    def all_nets(self, comparison: str) -> dict[str, Any]:
        """What is about all nets at once: consensus units, the map, trajectories; {} in files of version 1."""
        place = self._file["comparisons"][comparison]
        return read_tree(place["all_nets"]) if "all_nets" in place else {}

    def pairs(self, comparison: str) -> list[tuple[str, str]]:
        """Pairs of nets, in the order of the nets."""
        pairs = self._file["comparisons"][comparison]["pairs"]
        return [(str(pairs[key].attrs["x"]), str(pairs[key].attrs["y"])) for key in pairs]

    def measures(self, comparison: str, x: str, y: str) -> list[str]:
        """Names of the measures of one pair of nets; none if it has no results."""
        return list(self._file["comparisons"][comparison]["pairs"][f"{x}|{y}"].get("measures", ()))

    def pair(self, comparison: str, x: str, y: str) -> dict[str, Any]:
        """The results of one pair of nets."""
        return read_tree(self._file["comparisons"][comparison]["pairs"][f"{x}|{y}"])


@contextmanager
def open_analysis(path: str | Path) -> Iterator[AnalysisFile]:
    """Open an analysis file; FileError says what is wrong with one that cannot be used."""
    with hdf5.open_checked(Path(path), SCHEMA, VERSION, MADE_BY) as file:
        yield AnalysisFile(file)
