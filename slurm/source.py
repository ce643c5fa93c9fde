"""The code and environment that jobs run: those they were submitted from, whatever is edited while they wait.

The three packages are copied beside the records, named by their content, so that submissions of the same code share a
copy. Packages from elsewhere (torch, …) are not copied: their versions are recorded.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from convergence.provenance import COMMIT_FILE, git_commit, provenance

PACKAGES = ("convergence", "hpc", "slurm")
ROOT = Path(__file__).resolve().parents[1]


def digest() -> str:
    """Twelve hex digits over the packages' files and the commit that they are of."""
    hashing = hashlib.sha256(str(_commit()).encode())
    for path in _files():
        hashing.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return hashing.hexdigest()[:12]


def place(jobs_folder: Path) -> Path:
    """Where the copy of the code for jobs of a run is, or would be."""
    return jobs_folder / f"code-{digest()}"


def keep(jobs_folder: Path) -> Path:
    """Copy the code, unless it is there; times are kept, so that compiled files beside it stay valid."""
    folder = place(jobs_folder)
    if folder.exists():
        return folder
    jobs_folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".code-", dir=jobs_folder))
    try:
        for package in PACKAGES:
            shutil.copytree(ROOT / package, temporary / package, copy_function=_copy)
        commit = _commit()
        if commit:
            (temporary / COMMIT_FILE).write_text(commit + "\n", encoding="utf-8")
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def search_path(code: Path) -> list[str]:
    """PYTHONPATH of the jobs: the copy first, then what this process searches beyond its own installation."""
    installed = {os.path.realpath(place) for place in sysconfig.get_paths().values()}
    installed.add(os.path.realpath(os.path.join(sysconfig.get_path("stdlib"), "lib-dynload")))
    found = [str(code)]
    for entry in sys.path:
        real = os.path.realpath(entry or os.getcwd())
        usual = real in installed or real.endswith(".zip") or real == str(ROOT)
        if not usual and os.path.isdir(real) and real != os.path.dirname(sys.executable) and real not in found:
            found.append(real)
    return found


def environment(code: Path) -> dict[str, Any]:
    """What to record of the environment."""
    return {
        "python": sys.executable,
        "prefix": sys.prefix,
        "host": platform.node(),
        "cwd": os.getcwd(),
        "code": str(code),
        "search_path": search_path(code),
        "provenance": provenance(),
    }


def _commit() -> str | None:
    return git_commit(ROOT / "convergence")


def _files() -> list[Path]:
    return sorted(
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )


def _copy(source: str, target: str) -> None:
    """A file that goes while the folder is read (a compiler's own) is not missed."""
    try:
        shutil.copy2(source, target)
    except FileNotFoundError:
        if "__pycache__" not in source:
            raise
