"""Where a result comes from: versions of the packages, the source's git commit, and the platform."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from convergence import __version__

ANALYSIS_SCHEMA_VERSION = 3
"""Version of the layout of analysis.h5; part of the digest of an analysis, so a new layout remakes the file."""
PACKAGES = ("numpy", "scipy", "scikit-learn", "numba", "h5py", "torch", "torchvision", "mpi4py", "dask")
COMMIT_FILE = "git_commit.txt"
"""Beside a copy of the packages: the commit that they were copied from."""


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
    """Names and versions of what computed a result; packages that are not installed are left out."""
    return dict(_provenance())


def git_commit(folder: Path) -> str | None:
    """The commit of the checkout that this package is in, with "+changes" if it differs; None outside of git."""
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
