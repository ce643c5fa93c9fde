"""Walltime and pre-emption signals: finish the current unit of work, stop, and exit with "try again".

Schedulers send SIGTERM, or SIGUSR2 if the user requested a warning, before they kill a job. Long work calls
:func:`check` between its units of work; each finished unit is on the disk. A second signal stops at once. A lost lease
(:mod:`convergence.runs.job_lease`, :mod:`convergence.runs.lease`) stops at once too, without writing.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from convergence.runs import job_lease
from convergence.runs.lease import lost_lease

logger = logging.getLogger(__name__)
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR2") if hasattr(signal, name)]  # Windows has no USR2
_received: list[int] = []


class Stopped(Exception):
    """Work stopped at a point from which it can resume (exit code 75: try again)."""


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Record signals during the block, for :func:`is_stopping` and :func:`check`."""
    _received.clear()
    before = {number: signal.signal(number, _note) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


def is_stopping() -> bool:
    """Check whether a signal was received or a lease was lost."""
    return bool(_received) or job_lease.is_lost() or lost_lease() is not None


def check() -> None:
    """Raise :class:`Stopped` if a signal was received or the lease was lost."""
    check_lease(now=False)
    if _received:
        raise Stopped(f"stopped by {signal.Signals(_received[0]).name}")


def check_lease(now: bool = True) -> None:
    """Raise :class:`Stopped` if the lease was lost; call this before writes that must not happen twice."""
    if job_lease.is_lost(now):
        raise Stopped("stopped: a later attempt holds the lease of this task; this attempt writes nothing more")
    path = lost_lease(now)
    if path is not None:
        raise Stopped(f"stopped: another command took over ({path} was removed); this command writes nothing more")


def _note(number: int, frame: FrameType | None) -> None:
    if _received:
        raise Stopped(f"stopped by {signal.Signals(number).name}, twice")
    _received.append(number)
    logger.warning("%s: finishing the current unit of work; the same command resumes", signal.Signals(number).name)
