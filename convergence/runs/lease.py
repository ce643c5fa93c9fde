"""Leases: which process writes and reads which outputs of a folder, and whether it still runs.

A lease is a JSON file in ``.locks/`` of the folder. Its process holds an operating-system lock on the file and updates
its modification time every ``HEARTBEAT_S`` seconds. A process whose lease file is gone stops without writing: another
command took over.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from convergence.io.files import printable
from convergence.progress import readable_seconds
from convergence.registry import load_object
from convergence.runs import job_lease

try:
    import fcntl
except ImportError:  # Windows: the process id decides
    fcntl = None  # type: ignore[assignment]

HEARTBEAT_S = 30.0
STALE_S = 600.0
"""Seconds without heartbeat after which a process on another machine counts as ended."""
SCHEDULER = "slurm.slurm_commands:job_has_ended"
"""Function that says whether a job has ended, or None if the scheduler does not answer; given by its import path."""
START_TOLERANCE_S = 5.0


@dataclass(frozen=True)
class Owner:
    """A process that holds a lease.

    Attributes
    ----------
    command : its command line
    host, boot, pid_namespace : its machine, the start of the machine, and the scope of process ids (a container)
    pid, started : process id, and the start of the process in seconds since 1970
    job, restart : id and number of restarts of its Slurm job; "" without
    job_lease : its attempt and the lease file of its task in a submission, see :mod:`convergence.runs.job_lease`
    since : date and time of the lease
    """

    command: str
    host: str
    boot: str
    pid_namespace: str
    pid: int
    started: float
    job: str
    restart: str
    job_lease: str
    since: str

    def is_on_this_machine(self) -> bool:
        """Whether the process runs under the same kernel as this one."""
        return self.boot == _boot() if self.boot else self.host == platform.node()

    def describe(self) -> str:
        """Name the command, where it runs and since when, as one phrase."""
        job = f", Slurm job {self.job}" if self.job else ""
        text = f"`{self.command}` (host {self.host}, process {self.pid}{job}), since {self.since}"
        return printable(text, 600)

    def how_to_stop(self) -> str:
        """The shell command that ends the process."""
        if self.job:
            return printable(f"`scancel {self.job}`")
        return printable(f"`kill {self.pid}` on {self.host}")


UNKNOWN = Owner("an unknown command", "unknown", "", "", 0, 0.0, "", "", "", "an unknown time")
"""Owner of a lease file that cannot be read."""


@dataclass(frozen=True)
class Lease:
    """Outputs that a process writes and reads, by the paths of their records in the folder."""

    path: Path
    owner: Owner
    writes: frozenset[str]
    reads: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> Lease:
        """Read a lease file; a damaged one claims everything.

        Raises
        ------
        FileNotFoundError
            if the lease was released.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            owner = Owner(**{f.name: _typed(values[f.name], str(f.type)) for f in fields(Owner)})
            return cls(path, owner, frozenset(map(str, values["writes"])), frozenset(map(str, values["reads"])))
        except FileNotFoundError:
            raise
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return cls(path, UNKNOWN, frozenset({"*"}), frozenset())

    def shared_with(self, writes: Iterable[str], reads: Iterable[str]) -> list[str]:
        """Outputs that this lease and another one claim, at least one of them for writing."""
        theirs = self.writes | self.reads
        if "*" in self.writes:
            return sorted(writes)
        return sorted((theirs & set(writes)) | (self.writes & set(reads)))

    def why_ended(self, mine: Owner, jobs: dict[str, bool | None]) -> str:
        """Say why the process of the lease no longer runs; "" if it runs.

        On the same machine, the lock of the operating system decides, or the process id and its start time on file
        systems without locks. For other machines ``jobs`` decides (Slurm's answers by job id), then the heartbeat.
        """
        owner = self.owner
        if any(held.lease.path == self.path for held in _held):
            return ""
        attempt, _, task = owner.job_lease.partition(":")
        my_attempt, _, my_task = mine.job_lease.partition(":")
        if task and task == my_task and attempt != my_attempt:  # the lease of the job decides between attempts
            return "a later attempt at its task has started"
        if owner.job and owner.job == mine.job and owner.restart != mine.restart:
            return "its job was restarted"
        if owner is UNKNOWN:  # a lease is complete before others look for it, unless its machine stopped meanwhile
            if is_locked(self.path) is False:
                return "its lease file is damaged, and no process holds it"
        elif owner.is_on_this_machine():
            locked = is_locked(self.path)
            if locked is None and owner.pid_namespace == mine.pid_namespace:
                locked = _runs(owner.pid, owner.started)
            if locked is not None:
                return "" if locked else "its process has ended"
        elif owner.job and jobs.get(owner.job) is not None:
            return f"Slurm job {owner.job} has ended" if jobs[owner.job] else ""
        silent = _age(self.path)
        return f"it gave no sign of life for {readable_seconds(silent)}" if silent > STALE_S else ""


class HeldLease:
    """The lease of this process on a folder, from its creation to :meth:`release`."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        handle = os.open(lease.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        self._file: IO[str] = os.fdopen(handle, "w", encoding="utf-8")
        try:
            _lock(self._file)
            values: dict[str, Any] = asdict(lease.owner)
            json.dump(values | {"writes": sorted(lease.writes), "reads": sorted(lease.reads)}, self._file, indent=1)
            self._file.flush()
            os.fsync(self._file.fileno())  # other machines and a restarted one read it whole
        except BaseException:
            lease.path.unlink(missing_ok=True)
            self._file.close()
            raise
        self._ended = threading.Event()
        self._checked, self._lost = time.monotonic(), False
        threading.Thread(target=self._beat, name="lease", daemon=True).start()
        _held.append(self)

    def is_lost(self, now: bool = False) -> bool:
        """Whether the lease file was removed; looked up at most once a second unless ``now``."""
        if not self._lost and (now or time.monotonic() - self._checked >= job_lease.EVERY_S):
            self._checked = time.monotonic()
            with suppress(OSError):  # a file server that does not answer ends no lease
                self._lost = not _exists(self.lease.path)
        return self._lost

    def release(self) -> None:
        """Remove the lease file."""
        self._ended.set()
        _held.remove(self)
        with suppress(OSError):
            self.lease.path.unlink(missing_ok=True)
        with suppress(OSError):
            self._file.close()

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            with suppress(OSError):
                os.utime(self.lease.path)


_held: list[HeldLease] = []


def lost_lease(now: bool = False) -> Path | None:
    """Path of a lease of this process that another command took over; None if there is none."""
    return next((held.lease.path for held in _held if held.is_lost(now)), None)


def this_process() -> Owner:
    """Describe this process, for a lease that begins now."""
    import psutil

    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    return Owner(
        command=printable(shlex.join(["convergence", *sys.argv[1:]])),
        host=platform.node(),
        boot=_boot(),
        pid_namespace=_pid_namespace(),
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        job=job,
        restart=os.environ.get("SLURM_RESTART_COUNT", ""),
        job_lease=os.environ.get(job_lease.VARIABLE, ""),
        since=datetime.now(UTC).astimezone().isoformat(sep=" ", timespec="seconds"),
    )


def is_locked(path: Path) -> bool | None:
    """Whether a process holds the operating system's lock on a file; None if the file system has no locks."""
    if fcntl is None:
        return None
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def _lock(file: IO[str]) -> None:
    """Lock an open file until it is closed, where the file system has locks."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _exists(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def ask_scheduler(job: str) -> bool | None:
    """Whether a Slurm job has ended; None if that cannot be found out."""
    answer: bool | None = load_object(SCHEDULER)(job)
    return answer


def _runs(pid: int, started: float) -> bool:
    import psutil

    try:
        return abs(psutil.Process(pid).create_time() - started) < START_TOLERANCE_S
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _age(path: Path) -> float:
    """Seconds since the last heartbeat, by the clock of the file system."""
    try:
        beat = path.stat().st_mtime
        probe = path.with_name(f"{path.name}.{os.getpid()}.now")
        probe.touch()
        try:
            return probe.stat().st_mtime - beat
        finally:
            probe.unlink(missing_ok=True)
    except OSError:
        return 0.0


def _boot() -> str:
    """Identify the start of this machine; "" where the system does not."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _typed(value: Any, kind: str) -> Any:
    """Check the type of a value of a lease file."""
    wanted: Any = {"str": str, "int": int, "float": (int, float)}[kind]
    if not isinstance(value, wanted):
        raise TypeError(f"{value!r} is not {kind}")
    return value
