"""One at a time changes the jobs of a run: a lock file that the second to come is told of, on any file system."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convergence.errors import UserError

OLD_LOCK_S = 900.0


@contextmanager
def lock(folder: Path, patience_s: float = 0.0) -> Iterator[None]:
    """Hold a run's lock while its jobs change; the second to come waits so long and is told, and a dead holder is seen.

    Raises
    ------
    UserError
        when somebody else holds it all the time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
    end = time.monotonic() + patience_s
    while True:
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(holder, file)
            break
        except FileExistsError:
            if not _is_stale(path):
                if time.monotonic() < end:
                    time.sleep(0.2)
                    continue
                raise UserError(
                    f"{path}: somebody is submitting this run just now ({_holder(path)}). Wait a moment and look at "
                    "`convergence status`."
                ) from None
            path.unlink(missing_ok=True)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _is_stale(path: Path) -> bool:
    """Whether the holder of a lock has died: on this machine its process is gone, elsewhere the lock is old."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        if holder["host"] == socket.gethostname():
            try:
                os.kill(holder["pid"], 0)
            except ProcessLookupError:
                return True
            return False
    except (OSError, ValueError, KeyError, TypeError):
        pass  # torn, or just being written
    try:
        return time.time() - path.stat().st_mtime > OLD_LOCK_S
    except FileNotFoundError:
        return True


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return "who has just let go"
