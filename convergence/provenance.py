"""Provenance of a result: versions of the packages, git commit of the source, and platform."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from convergence import __version__

STATISTICS_SCHEMA_VERSION = 9
ANALYSIS_SCHEMA_VERSION = 6
PICTURES_SCHEMA_VERSION = 2
FUNCTIONAL_SCHEMA_VERSION = 4
"""Versions of the layouts of results files: part of their digests, so that files of other versions are set aside."""
PACKAGES = ("numpy", "scipy", "scikit-learn", "numba", "h5py", "torch", "torchvision", "mpi4py", "dask")
FETCH_RECORD = ".fetched"
"""Name of the file that marks a folder whose files came from another machine (`convergence fetch`)."""
COMMIT_FILE = "git_commit.txt"
"""Name of the file beside a copy of the packages that holds the commit of the original."""


@functools.cache
def _provenance() -> tuple[tuple[str, str], ...]:
    entries = {
        "convergence": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in PACKAGES:
        try:
            entries[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    commit = git_commit(Path(__file__).resolve().parent)
    if commit:
        entries["git commit"] = commit
    return tuple(entries.items())


def provenance() -> dict[str, str]:
    """Return names and versions of the software that computes a result; packages that are not installed are omitted."""
    return dict(_provenance())


def git_commit(folder: Path) -> str | None:
    """Return the git commit of a package folder, with "+changes" if tracked files differ from it; None outside git."""
    copied_from = folder.parent / COMMIT_FILE
    if copied_from.is_file():
        return copied_from.read_text(encoding="utf-8").strip()
    try:
        tracked = subprocess.run(
            ["git", "-C", str(folder), "ls-files", "--error-unmatch", "provenance.py"],
            capture_output=True,
            timeout=10,
        )
        if tracked.returncode:
            return None
        head = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10
        )
        dirty = subprocess.run(
            ["git", "-C", str(folder), "status", "--porcelain", "-uno"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "") or None
