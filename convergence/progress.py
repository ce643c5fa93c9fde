"""Progress of long work: a bar on a terminal, a plain line every 15 seconds in a log."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

logger = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Context manager that reports progress.

    ``with Progress("moments", total) as progress: … progress.advance()``. ``done`` steps were finished before.
    """

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.what, self.total, self.done = what, total, done
        self._bar = None
        if sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, desc=f"  {what}", leave=False, file=sys.stderr)
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
