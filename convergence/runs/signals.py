"""Walltime and pre-emption signals: finish the piece at hand, stop, and ask to be started again.

Schedulers send SIGTERM or, where the user asked for a warning, SIGUSR2 before they kill. Long work calls :func:`check`
between its pieces, each of which is on the disk when it is done. A second signal stops at once. So does, with nothing
more written, that another attempt has taken the work over (:mod:`convergence.runs.job_lease`).
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from convergence.runs import job_lease

logger = logging.getLogger(__name__)
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR2") if hasattr(signal, name)]  # Windows has no USR2
_received: list[int] = []


class Stopped(Exception):
    """Work stopped at a place from which it goes on (exit code 75: try again)."""


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """While the block runs, signals are noted; :func:`is_stopping` and :func:`check` see them."""
    _received.clear()
    before = {number: signal.signal(number, _note) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


def is_stopping() -> bool:
    """Whether a signal came, or another attempt has taken the work over."""
    return bool(_received) or job_lease.is_lost()


def check() -> None:
    """Raise :class:`Stopped` if a signal came, or another attempt has taken the work over."""
    check_lease(now=False)
    if _received:
        raise Stopped(f"stopped by {signal.Signals(_received[0]).name}")


def check_lease(now: bool = True) -> None:
    """Raise :class:`Stopped` if another attempt has taken the work over; before what must not be written twice."""
    if job_lease.is_lost(now):
        raise Stopped("stopped: a later attempt has taken this over, and this one writes no more")


def _note(number: int, frame: FrameType | None) -> None:
    if _received:
        raise Stopped(f"stopped by {signal.Signals(number).name}, twice")
    _received.append(number)
    logger.warning("%s: finishing the piece at hand; the same command goes on from there", signal.Signals(number).name)
