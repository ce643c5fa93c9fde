"""Job leases: at most one attempt of a job may write its results.

A node that the scheduler considers down may still run a process. Such an orphaned process can run at the same time as
the attempt that replaced it. Each attempt therefore writes its name into the lease file of its task before it starts.
Its processes get the file and the name through the environment. They check the file regularly, and stop without writing
once it holds another name.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

VARIABLE = "CONVERGENCE_LEASE"
"""Environment variable: name of the attempt, a colon, and the path of the lease file; unset without a scheduler."""
EVERY_S = 1.0
"""Seconds between two checks of the lease file."""
_checked: dict[str, tuple[float, bool]] = {}


def variable(path: Path, name: str) -> dict[str, str]:
    """Environment variable for the processes of an attempt that holds the lease."""
    return {VARIABLE: f"{name}:{path}"}


def is_lost(now: bool = False) -> bool:
    """Check whether another attempt holds the lease of this process.

    The lease file is read at most once in ``EVERY_S`` seconds; ``now`` reads it in any case. A lease file that is
    missing or unreadable does not end the lease.
    """
    lease = os.environ.get(VARIABLE)
    if not lease:
        return False
    at, lost = _checked.get(lease, (-EVERY_S, False))
    if lost:
        return True
    if now or time.monotonic() - at >= EVERY_S:
        name, _, path = lease.partition(":")
        try:
            lost = Path(path).read_text(encoding="utf-8") != name
        except (OSError, UnicodeDecodeError):
            lost = False
        _checked[lease] = time.monotonic(), lost
    return lost
