"""Checkpoints of a net in training: two generations, each with its checksum, written while the training goes on.

A checkpoint is a line that says what it is, the SHA-256 of all that follows, and torch's container of plain tensors and
numbers. A new one is written aside; then the last one becomes the previous one and the new one takes its place, so that
at any instant a whole one is there. One that does not match its checksum is named in a warning, removed and not used.
"""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, cast

import torch

from convergence.errors import FileError
from convergence.io.files import CHECKPOINTS, atomic_write, full, is_full
from convergence.runs import job_lease

logger = logging.getLogger(__name__)
TITLE = b"convergence checkpoint 1\n"
HEAD = len(TITLE) + 64 + 1
State = dict[str, Any]


class Checkpoints:
    """The checkpoints of one net.

    Parameters
    ----------
    folder : where they are
    key : what the state belongs to (a digest of settings); a checkpoint of something else is not used
    keeper : whether this process writes and clears up; of several that train together one does
    """

    def __init__(self, folder: Path, key: str, keeper: bool = True) -> None:
        self.newest, self.previous = (folder / name for name in CHECKPOINTS)
        self.key, self.keeper = key, keeper
        self._pool: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def load(self) -> State | None:
        """The newest state that is whole, on the CPU; None without one."""
        for path in (self.newest, self.previous):
            if not path.exists():
                continue
            try:
                state = read(path)
            except FileError as error:
                logger.warning("%s", error)
                if self.keeper:
                    path.unlink()
                continue
            if state.get("key") == self.key:
                return state
            logger.warning("%s is of other settings and is not used", path)
        return None

    def save(self, state: State, wait: bool = False) -> bool:
        """Copy a state to the host and write it in a thread; whether it was taken.

        While the last one is being written, a state is passed over, unless the caller waits: then it returns when the
        state is on the disk. Nothing is taken when another attempt has claimed the work.

        Raises
        ------
        FileError
            when this one, or the last one, could not be written.
        """
        if not self.keeper or (self._writing is not None and not self._writing.done() and not wait):
            return False
        self.wait()
        if job_lease.is_lost(now=True):
            return False
        self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing = self._pool.submit(self._write, to_host(state | {"key": self.key}))
        if wait:
            self.wait()
        return True

    def wait(self) -> None:
        """Return when nothing is being written."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except OSError as error:
            if is_full(error):
                raise full(self.newest.parent, error) from error
            raise FileError(
                f"{self.newest}: the checkpoint could not be written ({error}). The one before it still stands; start "
                "the same command again."
            ) from error

    def close(self) -> None:
        """Wait, and end the thread."""
        try:
            self.wait()
        finally:
            if self._pool is not None:
                self._pool.shutdown()
                self._pool = None

    def _write(self, state: State) -> None:
        with atomic_write(self.newest) as temporary:
            write(temporary, state)
            if self.newest.exists():
                self.newest.replace(self.previous)


def write(path: Path, state: State) -> None:
    """Write a state and its checksum in one pass."""
    with path.open("wb") as file:
        file.write(TITLE + b"0" * 64 + b"\n")
        hashing = _Hashing(file)
        try:
            torch.save(state, cast(IO[bytes], hashing))
        except RuntimeError as error:  # torch speaks of positions where the disk was full
            raise hashing.error or error from error
        file.seek(len(TITLE))
        file.write(hashing.digest.hexdigest().encode())


def read(path: Path) -> State:
    """A state whose checksum holds. Runs no code from the file.

    Raises
    ------
    FileError
        for a file that is torn, damaged, or no checkpoint.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: the checkpoint cannot be read ({error})") from error
    payload = memoryview(content)[HEAD:]
    if content[: len(TITLE)] != TITLE:
        raise FileError(f"{path} is damaged or no checkpoint of this version, and is not used")
    if hashlib.sha256(payload).hexdigest().encode() != content[len(TITLE) : HEAD - 1]:
        raise FileError(f"{path} is damaged (it does not match its checksum), and is not used")
    try:
        state: State = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise FileError(f"{path} holds more than plain arrays and numbers, and is not used") from error
    return state


def to_host(value: Any) -> Any:
    """A copy of nested tensors on the CPU, which later steps do not change."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: to_host(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_host(item) for item in value)
    return value


class _Hashing:
    """A file that digests what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()
