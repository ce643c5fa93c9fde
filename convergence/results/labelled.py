"""Arrays whose axes are named and tables whose columns are, of numpy alone; pandas and xarray on request."""

from __future__ import annotations

import html
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence.errors import UserError, did_you_mean

Array = npt.NDArray[Any]
SHOWN = 12
"""Rows that a notebook shows of a longer table."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """An array with names for its axes and labels along them. numpy takes it as an array: ``np.mean(labelled)``.

    Attributes
    ----------
    values : the numbers
    dims : a name for each axis
    labels : by name of an axis, (length of the axis,) label of each element
    name : what the numbers are
    """

    values: Array
    dims: tuple[str, ...]
    labels: Mapping[str, Array]
    name: str = ""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.values, dtype=dtype) if copy else np.asarray(self.values, dtype=dtype)

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return self.values.shape

    def to_dataframe(self) -> Any:
        """A pandas DataFrame, of two axes; UserError without pandas."""
        if len(self.dims) != 2:
            raise UserError(f"a DataFrame has two axes, and this has {len(self.dims)}; use to_xarray().")
        rows, columns = self.dims
        pandas = _optional("pandas")
        return pandas.DataFrame(
            self.values,
            index=pandas.Index(self.labels[rows], name=rows),
            columns=pandas.Index(self.labels[columns], name=columns),
        )

    def to_xarray(self) -> Any:
        """An xarray DataArray; UserError without xarray."""
        return _optional("xarray").DataArray(
            self.values, dims=self.dims, coords={dim: self.labels[dim] for dim in self.dims}, name=self.name or None
        )

    def __repr__(self) -> str:
        axes = ", ".join(f"{dim}: {length}" for dim, length in zip(self.dims, self.shape, strict=True))
        return f"<{self.name or 'array'} ({axes})>\n{self.values!r}"

    def _repr_html_(self) -> str:
        head = f"<p>{html.escape(self.name or 'array')}: " + html.escape(
            " × ".join(f"{length} {dim}" for dim, length in zip(self.dims, self.shape, strict=True))
        )
        if self.values.ndim != 2:
            return f"{head}</p><pre>{html.escape(repr(self.values))}</pre>"
        rows, columns = (self.labels[dim][:SHOWN] for dim in self.dims)
        cells = [[str(label), *self.values[i, : len(columns)]] for i, label in enumerate(rows)]
        return f"{head}</p>{_html(['', *map(str, columns)], cells, self.shape[0] - len(rows))}"


@dataclass(frozen=True, eq=False)
class ResultsTable:
    """Columns of equal length by name: ``table["correlation"]``; a dict a row when iterated over."""

    columns: Mapping[str, Array]

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> ResultsTable:
        """From rows; every row has all columns."""
        return cls({name: np.array([row[name] for row in rows]) for name in columns})

    def __getitem__(self, name: str) -> Array:
        if name not in self.columns:
            raise UserError(f'the table has no column "{name}"; {did_you_mean(name, self.columns)}.')
        return self.columns[name]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for k in range(len(self)):
            yield {name: values[k] for name, values in self.columns.items()}

    def where(self, **wanted: Any) -> ResultsTable:
        """Rows in which columns have these values: ``table.where(measure="matching", kind="trained")``."""
        kept = np.ones(len(self), dtype=bool)
        for name, value in wanted.items():
            kept &= self[name] == value
        return ResultsTable({name: values[kept] for name, values in self.columns.items()})

    def sorted(self, by: str, descending: bool = True) -> ResultsTable:
        """Rows in the order of a column; of equal ones the first comes first."""
        order = np.argsort(-self[by] if descending else self[by], kind="stable")
        return ResultsTable({name: values[order] for name, values in self.columns.items()})

    def to_structured(self) -> Array:
        """A numpy array of records, one a row."""
        names = [(name, values.dtype) for name, values in self.columns.items()]
        out = np.empty(len(self), dtype=names)
        for name, values in self.columns.items():
            out[name] = values
        return out

    def to_dataframe(self) -> Any:
        """A pandas DataFrame; UserError without pandas."""
        return _optional("pandas").DataFrame(dict(self.columns))

    def __repr__(self) -> str:
        rows = [[_text(row[name]) for name in self.columns] for row in self.head()]
        widths = [max(map(len, (name, *(row[k] for row in rows)))) for k, name in enumerate(self.columns)]
        lines = [
            "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in [[*self.columns], *rows]
        ]
        left = len(self) - len(rows)
        return "\n".join(lines + ([f"… and {left} more rows"] if left else []))

    def head(self, n: int = SHOWN) -> list[dict[str, Any]]:
        """The first rows."""
        return [row for row, _ in zip(self, range(n), strict=False)]

    def _repr_html_(self) -> str:
        rows = [list(row.values()) for row in self.head()]
        return _html(list(self.columns), rows, len(self) - len(rows))


def to_dataset(variables: Mapping[str, Labelled]) -> Any:
    """An xarray Dataset of arrays with the same axes; UserError without xarray."""
    xarray = _optional("xarray")
    return xarray.Dataset({name: array.to_xarray() for name, array in variables.items()})


def _html(header: Sequence[str], rows: Sequence[Sequence[Any]], left: int) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line([_text(cell) for cell in row], "td") for row in rows)
    more = f"<p>… and {left:,} more rows</p>" if left > 0 else ""
    return f"<table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>{more}"


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "–" if np.isnan(value) else f"{value:.4g}"
    return str(value)


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{name} is not installed: pip install {name}, or use .values and .columns.") from None
