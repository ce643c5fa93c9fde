"""At most one process writes an output of a run folder.

The grain is the task: a net, the statistics, the analysis, each experiment, the report. Slurm jobs of one submission
write different tasks of one folder side by side, so a lock of the whole folder would stop them. A command claims all
tasks that it will write and all that it reads, once, before it starts. Two claims conflict if one writes what the other
writes or reads. So several commands may read one net, and no net is trained again while the statistics read it.

Claims are leases (:mod:`convergence.runs.lease`). A file that is created exclusively guards the moment in which leases
are compared and written; this works on network file systems without locks. Verbs that only read take no lease.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convergence.errors import FileError, SharedError, UserError
from convergence.io.files import full, is_full
from convergence.runs import signals
from convergence.runs.lease import HeldLease, Lease, Owner, ask_scheduler, this_process
from convergence.runs.tasks import StageTask

logger = logging.getLogger(__name__)
FOLDER = ".locks"
GUARD = "guard"
POLL_S = 1.0
GUARD_POLL_S = 0.02
GUARD_STALE_S = 30.0
"""Age after which the guard of an unknown process counts as left behind; processes hold it for milliseconds."""


@dataclass(frozen=True)
class Claim:
    """Tasks that a command writes and reads in a folder.

    Attributes
    ----------
    wait : wait for other commands instead of raising an error
    take_over : end the leases of other commands
    remedy : end of the message for a folder that cannot be written
    """

    folder: Path
    writes: Sequence[StageTask]
    reads: Sequence[StageTask] = ()
    wait: bool = False
    take_over: bool = False
    remedy: str = "Choose another place with --runs"

    def names(self, tasks: Sequence[StageTask]) -> dict[str, str]:
        """Names of tasks by the paths of their records below the folder."""
        here = os.path.realpath(self.folder)
        return {os.path.relpath(os.path.realpath(task.record), here): task.name for task in tasks}


@contextmanager
def holding(claim: Claim, comm: Any = None) -> Iterator[None]:
    """Hold a claim during the block; one that writes nothing needs no lease.

    Rank 0 holds the lease for all ranks of ``comm``.

    Raises
    ------
    UserError
        on all ranks, if another command holds what the claim needs; names that command and how to stop it.
    FileError
        if the folder cannot be written.
    """
    held: HeldLease | None = None
    refusal = ""
    if comm is None or comm.rank == 0:
        held, refusal = _acquire(claim) if claim.writes else (None, "")
    waits = bool(refusal) and claim.wait
    if waits:
        logger.info("waiting: %s", refusal)
    while comm.share(waits) if comm is not None else waits:
        time.sleep(POLL_S)
        stopping = signals.is_stopping()
        if comm.share(stopping) if comm is not None else stopping:
            signals.check()
            raise signals.Stopped("stopped by a signal to the first process")
        if comm is None or comm.rank == 0:
            held, refusal = _acquire(claim)
            waits = bool(refusal)
    if comm.share(bool(refusal)) if comm is not None else refusal:
        raise SharedError(refusal or "another command holds the lease")
    try:
        yield
    finally:
        if held is not None:
            held.release()
            with suppress(OSError):  # not empty: other commands hold leases
                (claim.folder / FOLDER).rmdir()


def _acquire(claim: Claim) -> tuple[HeldLease | None, str]:
    """Make a lease for a claim; returns the lease, or who stands against it as a message."""
    mine = this_process()
    writes, reads = claim.names(claim.writes), claim.names(claim.reads)
    folder = claim.folder / FOLDER
    jobs = {
        lease.owner.job: ask_scheduler(lease.owner.job)
        for lease in _leases(folder)
        if lease.owner.job and not lease.owner.is_on_this_machine() and lease.shared_with(writes, reads)
    }
    try:
        with _guard(folder, mine):
            for lease in _leases(folder):
                conflict = lease.shared_with(writes, reads)
                if not conflict and not lease.owner.is_on_this_machine():
                    continue
                ended = lease.why_ended(mine, jobs)
                if not ended and conflict and not claim.take_over:
                    return None, _refusal(claim, lease, [(writes | reads)[name] for name in conflict])
                if ended or conflict:
                    if conflict:
                        logger.warning(
                            "taking over from %s: %s", lease.owner.describe(), ended or "--take-over was given"
                        )
                    lease.path.unlink(missing_ok=True)
            path = folder / f"{mine.host}-{mine.pid}-{uuid.uuid4().hex[:8]}.json"
            return HeldLease(Lease(path, mine, frozenset(writes), frozenset(reads))), ""
    except OSError as error:
        if is_full(error):
            raise full(claim.folder, error) from error
        raise FileError(
            f"{claim.folder}: the folder cannot be written ({error.strerror or error}). {claim.remedy}, or make the "
            "folder writable."
        ) from error


def _refusal(claim: Claim, lease: Lease, tasks: list[str]) -> str:
    owner = lease.owner
    shown = ", ".join(tasks[:4]) + (", …" if len(tasks) > 4 else "")
    return (
        f"{claim.folder}: in use by another command ({shown}): {owner.describe()}. Wait for it with --wait, or "
        f"stop it: {owner.how_to_stop()}. If it no longer runs, give --take-over, or remove {lease.path}."
    )


def _leases(folder: Path) -> Iterator[Lease]:
    """Leases in a folder; those released meanwhile are left out."""
    for path in sorted(folder.glob("*.json")):
        with suppress(FileNotFoundError):
            yield Lease.read(path)


@contextmanager
def _guard(folder: Path, mine: Owner) -> Iterator[None]:
    """Hold the guard of a folder of leases.

    Raises
    ------
    OSError
        if the folder cannot be written.
    UserError
        if another process holds the guard for long.
    """
    path = folder / GUARD
    end = time.monotonic() + 2 * GUARD_STALE_S
    while True:
        try:
            folder.mkdir(exist_ok=True)
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            break
        except FileNotFoundError:  # another command removed the empty folder
            if not folder.parent.is_dir():
                raise
        except FileExistsError:
            if not folder.is_dir():
                raise
            _remove_stale_guard(path)
        if time.monotonic() > end:
            raise UserError(f"{path}: another process holds this file for long. Remove it, and try again.")
        time.sleep(GUARD_POLL_S)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"{mine.boot} {mine.pid_namespace} {mine.pid}")
        yield
    finally:
        path.unlink(missing_ok=True)


def _remove_stale_guard(path: Path) -> None:
    """Remove the guard of a process that was killed while it held it."""
    import psutil

    try:
        found = path.read_text(encoding="utf-8")
        age = time.time() - path.stat().st_mtime
    except OSError:
        return
    mine = this_process()
    boot_and_namespace, _, pid = found.rpartition(" ")
    here = boot_and_namespace == f"{mine.boot} {mine.pid_namespace}" and pid.isdigit()
    if not (here and not psutil.pid_exists(int(pid))) and age < GUARD_STALE_S:
        return
    aside = path.with_name(f"{GUARD}.{uuid.uuid4().hex}")
    with suppress(OSError):
        os.rename(path, aside)
        if aside.read_text(encoding="utf-8") != found:  # a new guard, made after the stale one was removed
            os.link(aside, path)
    aside.unlink(missing_ok=True)
