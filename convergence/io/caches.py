"""Caches of libraries where neither the package folder nor the home of the user can be written.

Containers, shared installations and service accounts have such folders. Libraries then get a folder below the temporary
folder that belongs to this user only: other users could otherwise plant compiled code in it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from convergence.errors import FileError
from convergence.io.files import keeps_folders, private_folder

HOMES = {"MPLCONFIGDIR": (".config", ".cache"), "TRITON_CACHE_DIR": ("",), "TORCHINDUCTOR_CACHE_DIR": (".cache",)}
"""Variables that move caches (of matplotlib, Triton, torch.compile), and the folders of the home that they replace."""


def use_writable_caches() -> None:
    """Set the variables of :data:`HOMES` to private folders if the home cannot be written; set ones are kept.

    The variables are inherited by worker processes and jobs. Call this before the libraries are imported.
    """
    for variable, places in HOMES.items():
        if variable in os.environ or all(is_writable(home_folder(place)) for place in places):
            continue
        folder = cache_folder(variable.lower())
        if folder is not None:
            os.environ[variable] = str(folder)


def home_folder(place: str) -> Path | None:
    """Folder of the user's settings or caches, as the XDG variables say; None without a home."""
    moved = os.environ.get({".config": "XDG_CONFIG_HOME", ".cache": "XDG_CACHE_HOME"}.get(place, ""))
    if moved:
        return Path(moved)
    try:
        return Path.home() / place
    except RuntimeError:  # no HOME, and the user is in no password file
        return None


def is_writable(folder: Path | None) -> bool:
    """Whether files can be made in a folder, or the folder itself in the nearest one that exists."""
    if folder is None:
        return False
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def cache_folder(name: str) -> Path | None:
    """Make a folder below the temporary folder that is the same for all processes of this user; None if that fails.

    A folder that other users can write to or replace is not used.
    """
    place = Path(tempfile.gettempdir())
    try:
        base = private_folder(place / f"convergence-{os.getuid() if hasattr(os, 'getuid') else 'user'}")
        folder = private_folder(base / name)
        with tempfile.TemporaryFile(dir=folder):
            return folder if keeps_folders(place) else None
    except (FileError, OSError):
        return None
