"""Who may write a piece of work, where a scheduler can begin it again while a process of the last attempt lives on.

A node that goes down for the scheduler need not stop: a task on it may go on beside the attempt that has taken its
place. Each attempt writes its name into the claim file of the piece before it starts; its processes know file and name
by the environment, look now and then whether the name is still theirs, and stop, without writing, when it is not.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

VARIABLE = "CONVERGENCE_LEASE"
"""Name of the attempt, a colon, and the path of the claim file; not set where nothing can begin work again."""
EVERY_S = 1.0
"""A process looks so often."""
_looked: dict[str, tuple[float, bool]] = {}


def variable(path: Path, name: str) -> dict[str, str]:
    """What the environment of an attempt's processes says, once it has claimed the piece."""
    return {VARIABLE: f"{name}:{path}"}


def is_lost(now: bool = False) -> bool:
    """Whether another attempt has claimed the work of this process; ``now`` looks, however short ago it was done.

    A claim file that is gone or cannot be read takes nothing away.
    """
    claim = os.environ.get(VARIABLE)
    if not claim:
        return False
    at, lost = _looked.get(claim, (-EVERY_S, False))
    if lost:
        return True
    if now or time.monotonic() - at >= EVERY_S:
        name, _, path = claim.partition(":")
        try:
            lost = Path(path).read_text(encoding="utf-8") != name
        except (OSError, UnicodeDecodeError):
            lost = False
        _looked[claim] = time.monotonic(), lost
    return lost
