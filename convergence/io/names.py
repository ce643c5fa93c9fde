"""Names in files that others may have written: they become keys, paths and text of pages."""

from __future__ import annotations

import re

from convergence.errors import FileError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,119}")
"""Names of nets and comparisons, as configs allow them (nets have a number after their label)."""
LONGEST_LABEL = 1000


def check_name(name: str, what: str, path: object) -> str:
    """Return the name of a net or a comparison; FileError for one that no config allows."""
    if not NAME.fullmatch(name):
        raise FileError(
            f"{path}: the {what} is called {name[:80]!r}. Names consist of A–Z, a–z, 0–9, and . _ - after the first "
            "character: the file was not written by this package. Make it again."
        )
    return name


def check_label(name: str, what: str, path: object) -> str:
    """Return a label of free text, as of a layer; FileError for control characters, and for parts of a path."""
    parts = re.split(r"[/\\]", name)
    if not name.isprintable() or len(name) > LONGEST_LABEL or ".." in parts or (len(parts) > 1 and not parts[0]):
        raise FileError(
            f"{path}: the {what} is called {name[:80]!r}. Names are printable and no paths: the file was not written "
            "by this package. Make it again."
        )
    return name
