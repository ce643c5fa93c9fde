"""What a Dask worker does before its first task: it removes folders from the search path for imports.

Dask puts the scratch folder of every server on ``sys.path``, and Python the working folder. A file there named like a
package would be imported in its place.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
"""Folder of the packages; it stays on the search path, even as the working folder."""


def dask_setup(worker: Any) -> None:
    """Remove the scratch folders and the working folder; Dask calls this in a worker that starts."""
    sys.path[:] = without_working_folder(without_scratch(sys.path, Path(worker.local_directory).parent))


def without_scratch(paths: Sequence[str], scratch: Path) -> list[str]:
    """The search path without folders below ``scratch``."""
    inside = scratch.resolve()
    return [path for path in paths if not path or not Path(path).resolve().is_relative_to(inside)]


def without_working_folder(paths: Sequence[str]) -> list[str]:
    """The search path without the working folder, unless the packages are in it."""
    here = Path.cwd()
    return [path for path in paths if Path(path).resolve() != here or here == ROOT]
