"""Record the operations of this process on the files below a folder, for :mod:`tests.helpers.crash_states`.

The functions of ``os`` that rename, remove and flush are wrapped. The folder is compared with its last known state
before and after each of them, so that the writes of C libraries in between are seen, too.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.crash_states import KINDS, CrashState, Disk, Operation, crash_states, read_tree

WRAPPED = ("fsync", "fdatasync", "rename", "replace", "unlink", "remove", "rmdir", "mkdir")
RECENT_S = 0.1
"""A file changed so recently is read again: its time of change need not differ from the one that is known."""
NOT_RECORDED = ".locks"
"""Folder of leases: those of this process count as held, and it goes on after the crash that is played."""
Stat = tuple[int, int, int]


class Recorder:
    """The operations below a folder since the recorder was made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.operations: list[Operation] = []
        self._files: dict[str, tuple[Stat, bytes]] = {}
        self._folders: set[str] = set()
        self._lock = threading.RLock()
        self.look()
        self.operations.clear()

    def look(self) -> None:
        """Record what changed since the last look."""
        files, folders = self._scan()
        for path in sorted((self._folders - folders) | (self._files.keys() - files.keys()), reverse=True):
            self.operations.append(Operation("remove", path))
            self._files.pop(path, None)
        self.operations.extend(Operation("folder", path) for path in sorted(folders - self._folders))
        self._folders = folders
        for path, stat in files.items():
            self._look_at(path, stat)

    def _look_at(self, path: str, stat: Stat) -> None:
        known, content = self._files.get(path, ((-1, 0, 0), b""))
        if known == stat and time.time_ns() - stat[2] > RECENT_S * 1e9:
            return
        try:
            found = (self.folder / path).read_bytes()
        except FileNotFoundError:  # a thread removed it; the next look records that
            return
        if known[0] != stat[0]:
            self.operations.append(Operation("file", path))
            content = b""
        if len(found) < len(content):
            self.operations.append(Operation("truncate", path, offset=len(found)))
        if found != content[: len(found)]:
            self.operations.append(Operation("write", path, data=found))
        self._files[path] = stat, found

    def _scan(self) -> tuple[dict[str, Stat], set[str]]:
        files: dict[str, Stat] = {}
        folders: set[str] = set()
        waiting = [self.folder]
        while waiting:
            try:
                with os.scandir(waiting.pop()) as entries:
                    for entry in entries:
                        if entry.name == NOT_RECORDED:
                            continue
                        path = Path(entry.path).relative_to(self.folder).as_posix()
                        if entry.is_dir(follow_symlinks=False):
                            folders.add(path)
                            waiting.append(Path(entry.path))
                        else:
                            stat = entry.stat(follow_symlinks=False)
                            files[path] = stat.st_ino, stat.st_size, stat.st_mtime_ns
            except FileNotFoundError:
                continue
        return files, folders

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with a record of its call."""

        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            with self._lock:
                self.look()
                result = function(*arguments, **keywords)
                if name in ("rename", "replace"):
                    self._renamed(Path(arguments[0]).absolute(), Path(arguments[1]).absolute())
                elif name in ("fsync", "fdatasync"):
                    self._synced(arguments[0])
                self.look()
                return result

        return wrapped

    def _renamed(self, old: Path, new: Path) -> None:
        if not (old.is_relative_to(self.folder) and new.is_relative_to(self.folder)):
            return
        a, b = (path.relative_to(self.folder).as_posix() for path in (old, new))
        self.operations.append(Operation("rename", a, b))

        def moved(path: str) -> str:
            return b + path[len(a) :] if path == a or path.startswith(f"{a}/") else path

        self._files = {path: known for path, known in self._files.items() if path != b}
        self._files = {moved(path): known for path, known in self._files.items()}
        self._folders = {moved(path) for path in self._folders}

    def _synced(self, handle: int) -> None:
        stat = os.fstat(handle)
        root = self.folder.stat()
        if (stat.st_dev, stat.st_ino) == (root.st_dev, root.st_ino):
            self.operations.append(Operation("sync", ""))
        for path in [*self._files, *self._folders]:
            try:
                if (self.folder / path).stat().st_ino == stat.st_ino:
                    self.operations.append(Operation("sync", path))
            except FileNotFoundError:
                continue


@contextmanager
def recording(folder: Path) -> Iterator[Recorder]:
    """Record the block's operations below a folder, which exists."""
    recorder = Recorder(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in WRAPPED:
            patch.setattr(os, name, recorder.wrap(name, getattr(os, name)))
        yield recorder
        recorder.look()


def states_of(folder: Path, action: Callable[[], object]) -> tuple[list[CrashState], Disk]:
    """The crash states of an action on the files below a folder, and the disk at its end."""
    before = read_tree(folder)
    with recording(folder) as recorder:
        action()
    disk = Disk(before)
    for operation in recorder.operations:
        disk.apply(operation)
    assert disk.tree("kept") == read_tree(folder)
    return list(crash_states(before, recorder.operations)), disk


def drawn(states: Sequence[CrashState], n: int) -> list[CrashState]:
    """At most ``n`` states of each kind, drawn by a seed."""
    draw = random.Random(0)
    by_kind = [[state for state in states if state.kind == kind] for kind in KINDS]
    return [state for some in by_kind for state in draw.sample(some, min(n, len(some)))]
