"""Tables of one comparison of ``analysis.h5``, each read and verified once, when it is used."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.analysis.file import Columns, open_analysis
from convergence.errors import FileError
from convergence.inference import Estimate
from convergence.io import hdf5

Array = npt.NDArray[Any]
LEVELS = ("value", "standard_error", "low", "high", "bias", "null", "null_sd", "shifted", "ceiling")
PAIR = ("x", "y")
KEYS = {
    **dict.fromkeys(("semi_matching", "sparse", "sparse_paths", "forward", "sparse_targets"), (*PAIR, "direction")),
    **dict.fromkeys(("units", "members", "map"), ("member",)),
    **dict.fromkeys(
        ("consensus", "consensus_measures", "consensus_units", "consensus_members", "consensus_dimensions"), ("kind",)
    ),
    **dict.fromkeys(("over_time", "over_time_units"), ("layer",)),
    "unit_cycles": ("kind", "member"),
}
"""Columns that select consecutive rows of a table; x and y in the other tables."""


class ComparisonSource:
    """The tables of a comparison; the file is open only while one of them is read.

    Raises
    ------
    FileError
        from any method: where a table is missing or damaged, or the file was replaced by another analysis.
    """

    def __init__(self, path: Path, digest: str, name: str) -> None:
        self.path, self._digest, self._name = path, digest, name
        self._tables: dict[str, Columns] = {}
        self._matrices: dict[str, Array] = {}
        self._spans: dict[str, dict[tuple[str, ...], slice]] = {}

    def table(self, name: str) -> Columns:
        """All rows of a table, by columns."""
        if name not in self._tables:
            with open_analysis(self.path) as file:
                self._check(file.digest)
                self._tables[name] = file.table(self._name, name)
        return self._tables[name]

    def matrix(self, name: str) -> Array:
        """A matrix."""
        if name not in self._matrices:
            with open_analysis(self.path) as file:
                self._check(file.digest)
                self._matrices[name] = file.matrix(self._name, name)
        return self._matrices[name]

    def correlation_block(self, rows: slice, columns: slice) -> Array:
        """Some of the correlations, read without keeping the others."""
        if "correlation" in self._matrices:
            return self._matrices["correlation"][rows, columns]
        with open_analysis(self.path) as file:
            self._check(file.digest)
            return hdf5.large_array(file.raw(self._name), "correlation")[rows, columns]

    def rows(self, table: str, key: tuple[str, ...]) -> Columns:
        """The rows of a table with a key, by columns; of no length if there are none."""
        span = self.span(table, key)
        return {name: values[span] for name, values in self.table(table).items()}

    def matrix_rows(self, matrix: str, table: str, key: tuple[str, ...]) -> Array:
        """The rows of a matrix that belong to the rows of a table with a key."""
        return self.matrix(matrix)[self.span(table, key)]

    def span(self, table: str, key: tuple[str, ...]) -> slice:
        """Where the rows with a key are: rows of one key follow each other."""
        if table not in self._spans:
            self._spans[table] = spans(self.table(table), KEYS.get(table, PAIR))
        return self._spans[table].get(key, slice(0, 0))

    @cached_property
    def estimates(self) -> dict[tuple[str, str, str, str], dict[str, Estimate]]:
        """Numbers of pairs by x, y, measure and evaluation, and then by direction."""
        found: dict[tuple[str, str, str, str], dict[str, Estimate]] = {}
        table = self.table("measures")
        keys = zip(*(table[name].tolist() for name in (*PAIR, "measure", "evaluation", "direction")), strict=True)
        for (x, y, measure, evaluation, direction), estimate in zip(keys, self.all_estimates("measures"), strict=True):
            found.setdefault((x, y, measure, evaluation), {})[direction] = estimate
        return found

    def all_estimates(self, table: str) -> list[Estimate]:
        """The estimates in the rows of a table, with their replicates."""
        rows, without = self.table(table), self.matrix(f"{table}_without")
        draws = self.matrix("measures_draws") if table == "measures" else np.zeros((len(without), 0))
        levels = zip(*(rows[name].tolist() for name in LEVELS), strict=True)
        counts = zip(rows["n_replicates"].tolist(), rows["null_draws"].tolist(), strict=True)
        return [
            Estimate(**dict(zip(LEVELS, numbers, strict=True)), without=without[k, :n], draws=draws[k, :n_draws])
            for k, (numbers, (n, n_draws)) in enumerate(zip(levels, counts, strict=True))
        ]

    def _check(self, digest: str) -> None:
        if digest != self._digest:
            raise FileError(f"{self.path}: the file was replaced by another analysis while it was read. Open it again.")


def spans(columns: Columns, names: tuple[str, ...]) -> dict[tuple[str, ...], slice]:
    """Runs of equal values of some columns; a key whose rows do not follow each other is refused with FileError."""
    keys = [columns[name] for name in names]
    if not len(keys[0]):
        return {}
    changes = np.flatnonzero(np.any([key[1:] != key[:-1] for key in keys], axis=0)) + 1
    edges = [0, *changes.tolist(), len(keys[0])]
    found: dict[tuple[str, ...], slice] = {}
    for start, stop in pairwise(edges):
        value = tuple(str(key[start]) for key in keys)
        if value in found:
            raise FileError(f"rows of {', '.join(value)} do not follow each other: the file is damaged.")
        found[value] = slice(start, stop)
    return found
