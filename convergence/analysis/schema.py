"""Descriptions of tables and matrices in HDF5: names, kinds of values, units of measure, meanings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["text", "int", "float", "bool"]
MISSING: dict[Kind, Any] = {"text": "", "int": -1, "float": np.nan, "bool": False}
"""Value of a column in rows to which it does not apply."""
DTYPES: dict[Kind, npt.DTypeLike] = {"text": "U1", "int": "<i8", "float": "<f8", "bool": "?"}


@dataclass(frozen=True)
class ColumnSchema:
    """A column of a table: its name, the kind of its values, their meaning, and their unit ("" for none)."""

    name: str
    kind: Kind
    about: str
    unit: str = ""


@dataclass(frozen=True)
class TableSchema:
    """A table of a comparison: one 1-D compound dataset.

    Attributes
    ----------
    name : of the dataset
    about : what one row is
    columns : in the order of the file
    """

    name: str
    about: str
    columns: tuple[ColumnSchema, ...]

    def description(self) -> str:
        """The columns as JSON, for the attribute ``columns`` of the dataset."""
        return json.dumps([{"name": c.name, "unit": c.unit, "about": c.about} for c in self.columns])


@dataclass(frozen=True)
class MatrixSchema:
    """A matrix of a comparison: one 2-D dataset.

    Attributes
    ----------
    name : of the dataset
    about : what an element is
    axes : labels of both axes; the name of a table says that its rows are the matrix's rows
    kind, unit : of the elements
    empty : value of elements beyond the end of a row, where rows have different lengths
    """

    name: str
    about: str
    axes: tuple[str, str]
    kind: Kind = "float"
    unit: str = ""
    empty: float = np.nan


def _columns(kind: Kind, unit: str, about: dict[str, str]) -> tuple[ColumnSchema, ...]:
    return tuple(ColumnSchema(name, kind, sentence, unit) for name, sentence in about.items())


def text(**about: str) -> tuple[ColumnSchema, ...]:
    """Columns of texts, each with its meaning."""
    return _columns("text", "", about)


def ints(unit: str = "", /, **about: str) -> tuple[ColumnSchema, ...]:
    """Columns of integers of one unit, each with its meaning."""
    return _columns("int", unit, about)


def floats(unit: str = "", /, **about: str) -> tuple[ColumnSchema, ...]:
    """Columns of float64 of one unit, each with its meaning."""
    return _columns("float", unit, about)


def flags(**about: str) -> tuple[ColumnSchema, ...]:
    """Columns of booleans, each with its meaning."""
    return _columns("bool", "", about)


def document(tables: Sequence[TableSchema], matrices: Sequence[MatrixSchema]) -> str:
    """Tables and matrices as Markdown."""
    lines: list[str] = []
    for table in tables:
        lines += [f"### `{table.name}`", "", f"A row is {table.about}.", ""]
        lines += ["| column | unit | meaning |", "|---|---|---|"]
        lines += [f"| `{c.name}` | {c.unit or '–'} | {_escape(c.about)} |" for c in table.columns]
        lines.append("")
    lines += ["### Matrices", "", "| matrix | axes | unit | an element is |", "|---|---|---|---|"]
    lines += [f"| `{m.name}` | {' × '.join(m.axes)} | {m.unit or '–'} | {_escape(m.about)} |" for m in matrices]
    return "\n".join(lines) + "\n"


def _escape(words: str) -> str:
    return words.replace("|", "\\|")
