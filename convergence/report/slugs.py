"""Names that come from configs and files as parts of file names and addresses."""

from __future__ import annotations

import hashlib
import re


def slug(name: str) -> str:
    """The name itself if it is safe in a file name and an address; else what is safe of it, and a mark of the rest.

    >>> slug("conv1"), slug("net1:conv2@5")
    ('conv1', 'net1-conv2-5-93711b')
    """
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:80] or "x"
    return (
        safe if safe == name and not name.startswith("_") else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    )
