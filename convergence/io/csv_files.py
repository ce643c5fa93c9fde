"""CSV files that a spreadsheet can open without executing what is in them.

Spreadsheets take a cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return for a formula, and
names of nets and layers come from files of other people. Such a text gets an apostrophe in front. So does a text that
begins with an apostrophe, so that :func:`cell_text` restores every text. Numbers are written unchanged.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from convergence.io.files import atomic_write

ESCAPED = ("=", "+", "-", "@", "\t", "\r", "'")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as UTF-8: a header and rows; cells with commas, quotes and line breaks are quoted."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([_cell(column) for column in columns])
        writer.writerows([_cell(value) for value in row] for row in rows)


def cell_text(cell: str) -> str:
    """The text that a cell was written from."""
    return cell[1:] if cell.startswith("'") and cell[1:2] in ESCAPED else cell


def _cell(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith(ESCAPED) or _is_number(value):
        return value
    return f"'{value}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()
