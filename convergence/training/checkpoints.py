"""Checkpoints of a net in training: two generations with checksums, written in a thread during training.

A checkpoint file holds a title line, the SHA-256 of the payload, and the payload: torch's container of plain tensors
and numbers. A new checkpoint is written to a temporary file. Then the newest checkpoint becomes the previous one and
the temporary file becomes the newest, so a complete checkpoint exists at any time. A checkpoint that does not match its
checksum is removed with a warning.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable
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
    folder : folder of the net
    key : digest of the settings of the net; checkpoints of other settings are not used
    keeper : whether this process writes and removes checkpoints; true for one process of a group
    """

    def __init__(self, folder: Path, key: str, keeper: bool = True) -> None:
        self.newest, self.previous = (folder / name for name in CHECKPOINTS)
        self.key, self.keeper = key, keeper
        self._pool: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def load(self, check: Callable[[State], None] = lambda state: None) -> State | None:
        """Load the newest state to the CPU that is undamaged and passes ``check``; None if there is none.

        ``check`` raises FileError for a state that cannot be restored.
        """
        for path in (self.newest, self.previous):
            if not path.exists():
                continue
            try:
                state = read(path)
                if state.get("key") == self.key:
                    _check(path, state, check)
                    return state
            except FileError as error:
                logger.warning("%s", error)
                if self.keeper:
                    path.unlink()
                continue
            logger.warning("%s: checkpoint of other settings; not used", path)
        return None

    def save(self, state: State, wait: bool = False) -> bool:
        """Copy a state to the host and write it in a thread; return whether the state was accepted.

        A state is skipped while the last one is being written. With ``wait`` it is not skipped, and the method returns
        when the state is on the disk. A state is also skipped after the lease was lost.

        Raises
        ------
        FileError
            if this state or the last one could not be written.
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
        """Wait until no checkpoint is being written.

        Raises
        ------
        FileError
            if the last checkpoint could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except OSError as error:
            if is_full(error):
                raise full(self.newest.parent, error) from error
            raise FileError(
                f"{self.newest}: the checkpoint could not be written ({error}). The previous checkpoint is kept; run "
                "the same command again."
            ) from error

    def close(self) -> None:
        """Wait until no checkpoint is being written, and end the thread."""
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


def _check(path: Path, state: State, check: Callable[[State], None]) -> None:
    try:
        check(state)
    except FileError as error:
        raise FileError(f"{path} holds {error}; not used") from error


def write(path: Path, state: State) -> None:
    """Write a state and its checksum in one pass.

    Raises
    ------
    OSError
        if the disk is full.
    """
    with path.open("wb") as file:
        file.write(TITLE + b"0" * 64 + b"\n")
        hashing = _HashingFile(file)
        try:
            torch.save(state, cast(IO[bytes], hashing))
        except RuntimeError as error:  # torch reports a wrong position if the disk is full
            raise hashing.error or error from error
        file.seek(len(TITLE))
        file.write(hashing.digest.hexdigest().encode())


def read(path: Path) -> State:
    """Read a state and verify its checksum; runs no code from the file.

    Raises
    ------
    FileError
        for a file that is truncated, damaged, or no checkpoint.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: the checkpoint cannot be read ({error})") from error
    payload = memoryview(content)[HEAD:]
    if content[: len(TITLE)] != TITLE or content[HEAD - 1 : HEAD] != b"\n":
        raise FileError(f"{path} is damaged or no checkpoint of this version; not used")
    if hashlib.sha256(payload).hexdigest().encode() != content[len(TITLE) : HEAD - 1]:
        raise FileError(f"{path} is damaged (it does not match its checksum); not used")
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # what the unpickler raises for content of other hands has no common type
        raise FileError(f"{path} holds more than plain arrays and numbers; not used") from error
    if not isinstance(state, dict):
        raise FileError(f"{path} holds no state of a training; not used")
    return state


def to_host(value: Any) -> Any:
    """Copy nested tensors to the CPU; later steps do not change the copy."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: to_host(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_host(item) for item in value)
    return value


class _HashingFile:
    """A file object that computes the SHA-256 of the written bytes."""

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
