"""SHA-256 of files and of names."""

from __future__ import annotations

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_sha256(text: str) -> str:
    """SHA-256 (hex) of a text: a file name for names that may hold what a file name may not."""
    return hashlib.sha256(text.encode()).hexdigest()
