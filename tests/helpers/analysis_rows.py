"""Rows of ``analysis.h5`` as a stranger reads them, with h5py and numpy alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np


def rows(path: Path, comparison: str, table: str, **keys: Any) -> Any:
    """The rows of a table with these values, as a structured array."""
    with h5py.File(path) as file:
        found = file["comparisons"][comparison][table][:]
    kept = np.ones(len(found), dtype=bool)
    for name, value in keys.items():
        kept &= found[name] == (value.encode() if isinstance(value, str) else value)
    return found[kept]


def row(path: Path, comparison: str, table: str, **keys: Any) -> Any:
    """The only row with these values."""
    (found,) = rows(path, comparison, table, **keys)
    return found


def rewrite(path: Path, comparison: str, table: str, change: Callable[[Any], Any]) -> None:
    """Replace the rows of a table by ``change(rows)``, with a checksum that holds."""
    from convergence.io import hdf5
    from tests.helpers.hdf5_edits import resealed

    with resealed(path) as file:
        place = file["comparisons"][comparison]
        found, columns = place[table][:], place[table].attrs["columns"]
        del place[table]
        hdf5.write_array(place, table, change(found)).attrs["columns"] = columns
