"""Families of images: those of one film, photograph, subject or document, which are not independent of each other.

A setting names the family of each file of an image folder: ``"folder"``, a regular expression on the path below the
split's folder, or ``"file.csv:column"``.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from convergence.data.files import counted, listed
from convergence.errors import FileError, did_you_mean
from convergence.io.seal import check_regular

FOLDER = "folder"
PATH_COLUMN = "path"
_COLUMN = re.compile(r"(.+\.csv):([^:]+)")


def check_setting(setting: str | None) -> str | None:
    """Return the setting; ValueError for a regular expression that does not compile."""
    if setting is None or setting == FOLDER or _COLUMN.fullmatch(setting):
        return setting
    try:
        re.compile(setting)
    except re.error as error:
        raise ValueError(
            f'families = "{setting}" is no regular expression ({error}); valid are "{FOLDER}", a regular expression on '
            'the path of an image, or "file.csv:column"'
        ) from None
    return setting


def families_of(setting: str, names: Sequence[str], root: Path, split: str) -> npt.NDArray[np.int64]:
    """The family of each file, numbered from 0.

    ``names`` are the paths of the images below the folder ``split``, with "/" between folders. A CSV file is below
    ``root``; paths in it may begin with ``split``.

    Raises
    ------
    FileError
        for paths that the expression does not match, and a CSV file that does not name a family for each image.
    """
    column = _COLUMN.fullmatch(setting)
    if column is not None:
        found = _from_csv(root / column[1], column[2], names, split)
    elif setting == FOLDER:
        found = [name.rpartition("/")[0] for name in names]
    else:
        found = _from_expression(setting, names)
    return np.unique(np.array(found, dtype=object).astype(str), return_inverse=True)[1].astype(np.int64)


def family_file(setting: str | None) -> str | None:
    """Name of the CSV file of a setting, below the root of the data; None without one."""
    column = None if setting is None else _COLUMN.fullmatch(setting)
    return None if column is None else column[1]


def _from_expression(setting: str, names: Sequence[str]) -> list[str]:
    expression = re.compile(setting)
    matches = [expression.search(name) for name in names]
    unlike = [name for name, match in zip(names, matches, strict=True) if match is None]
    if unlike:
        raise FileError(
            f'data.families = "{setting}" matches no part of {counted(len(unlike), "path")} of {len(names):,}: '
            f"{listed(unlike)}. The expression is searched in the path below the folder of the split; its first group, "
            "or the whole match, is the family."
        )
    return [(match[1] if expression.groups else match[0]) or "" for match in matches if match is not None]


def _from_csv(path: Path, column: str, names: Sequence[str], split: str) -> list[str]:
    rows = list(csv.reader(_content(path).decode("utf-8-sig", errors="surrogateescape").splitlines()))
    header, rows = (rows[0], [row for row in rows[1:] if row]) if rows else ([], [])
    if column not in header:
        raise FileError(f'{path} has no column "{column}"; {did_you_mean(column, header)}.')
    if any(len(row) != len(header) for row in rows):
        raise FileError(f"{path}: a row has another number of columns than the header. Write the file again.")
    values = [row[header.index(column)] for row in rows]
    if PATH_COLUMN not in header:
        if len(values) != len(names):
            raise FileError(
                f"{path} has {counted(len(values), 'row')} for {len(names):,} images. Give a row for each image in the "
                f'order of their paths, or a column "{PATH_COLUMN}".'
            )
        return values
    paths = [row[header.index(PATH_COLUMN)].removeprefix("./") for row in rows]
    of_path = dict(zip(paths, values, strict=True))
    missing = [name for name in names if name not in of_path and f"{split}/{name}" not in of_path]
    if missing:
        raise FileError(
            f'{path}: the column "{PATH_COLUMN}" does not have {counted(len(missing), "image")} of {len(names):,}: '
            f"{listed(missing)}. Paths are those below the folder of the split, or below data.root."
        )
    return [of_path[f"{split}/{name}"] if f"{split}/{name}" in of_path else of_path[name] for name in names]


def _content(path: Path) -> bytes:
    try:
        check_regular(path)
        return path.read_bytes()
    except OSError as error:
        raise FileError(
            f"{os.fspath(path)}: the file of families cannot be read ({error.strerror or error}). It has to be below "
            "data.root."
        ) from error
