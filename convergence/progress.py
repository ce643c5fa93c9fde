"""Progress of long work: a bar on a terminal or in a notebook, a plain line every 15 seconds in a log."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 15.0
_shown: ContextVar[bool | None] = ContextVar("bars", default=None)


@contextmanager
def bars(shown: bool) -> Iterator[None]:
    """Show bars in the block, in a notebook as widgets, or show none; by default they are on terminals only."""
    token = _shown.set(shown)
    try:
        yield
    finally:
        _shown.reset(token)


def new_bar(what: str, total: int, done: int) -> Any:
    """A bar of tqdm, or None where none is shown."""
    wanted = _shown.get()
    if wanted is None:
        if sys.stderr is None or sys.stderr.closed or not sys.stderr.isatty():
            return None
        from tqdm import tqdm

        return tqdm(total=total, initial=done, desc=f"  {what}", leave=False, file=sys.stderr)
    if not wanted:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without widgets has plain bars
        from tqdm.auto import tqdm as bar_of_notebook
    return bar_of_notebook(total=total, initial=done, desc=what, leave=False)


class Progress:
    """Context manager that reports progress.

    ``with Progress("moments", total) as progress: … progress.advance()``. ``done`` steps were finished before.
    """

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.what, self.total, self.done = what, total, done
        self._bar = new_bar(what, total, done)
        self._start = self._last = time.monotonic()
        self._first = done

    def __enter__(self) -> Progress:
        return self

    def advance(self, n: int = 1) -> None:
        """Count ``n`` more steps as done."""
        self.done += n
        if self._bar is not None:
            self._bar.update(n)
            return
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES and self.done < self.total:
            self._last = now
            left = (now - self._start) / max(self.done - self._first, 1) * (self.total - self.done)
            logger.info("%s: %d of %d, about %.0f s left", self.what, self.done, self.total, left)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def readable_seconds(seconds: float) -> str:
    """Format a duration like "40 s", "12 min" or "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def readable_bytes(n: float) -> str:
    """Like "40 B", "1.2 kB" or "3 TB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"
