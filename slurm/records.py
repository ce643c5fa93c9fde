"""Records of submissions and jobs below ``runs/<name>/jobs/``, all plain JSON and text.

    0001/submitted.json     the jobs of a submission: ids, tasks, dependencies, environment
    0001/config.toml        the submitted config, which the jobs read
    0001/<id>_submission.sh the script of each job
    0001/logs/              output of the jobs
    attempts/<task>/        one record for each attempt at a task, written by the job itself
    code-<hash>/            the source code that the jobs run

A *task* is the unit of work of one job or one array task: "train net1", "statistics", … This module imports only the
standard library and light modules of :mod:`convergence`: a job with a broken environment must still write its record.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from convergence.errors import FileError, UserError
from convergence.functional import EXPERIMENTS
from convergence.io.files import atomic_write, confined, create_for_owner, is_full
from convergence.runs import job_lease

HEARTBEAT_S = 15.0
"""Seconds between two updates of the modification time of a running job's record."""
TAIL_LINES = 25
STATE_REASONS = {
    "TIMEOUT": "TIMEOUT: it reached its time limit; raise walltime_min, or requeue.signal_s if it stopped too late",
    "OUT_OF_MEMORY": "OOM: it used more memory than it requested; raise memory_gb of the stage",
    "NODE_FAIL": "NODE_FAIL: its node failed",
    "CANCELLED": "CANCELLED: it was cancelled",
    "PREEMPTED": "PREEMPTED: a job of higher priority took its resources",
    "DEADLINE": "DEADLINE: it could not finish before its deadline",
    "BOOT_FAIL": "BOOT_FAIL: its node did not boot",
}
"""Explanations of Slurm's states of ended jobs, with remedies."""
_OOM = re.compile(r"oom[-_ ]kill|out[-_ ]of[-_ ]memory|MemoryError|exceeded memory limit", re.I)
_GPU_OOM = re.compile(r"CUDA.*out of memory", re.I)
_EXCEPTION = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Warning)\b(?::.*)?$")
AttemptState = Literal["running", "done", "stopped", "failed", "lost"]


@dataclass(frozen=True)
class SubmittedJob:
    """One call of sbatch.

    Attributes
    ----------
    name : "train", "statistics", …; "train-net1" without an array, "statistics-link2" in a chain
    stage : the verb that it runs
    tasks : its tasks; for an array in the order of the array
    array : whether it is an array job
    after : names of the jobs that must succeed before it starts
    after_any : names of the jobs that must have ended before it starts
    job : Slurm's id
    log : path of its log, with Slurm's patterns
    script : name of the file with its script
    first : array index of its first task
    cluster : name of the cluster, if sbatch printed one
    """

    name: str
    stage: str
    tasks: tuple[str, ...]
    array: bool
    after: tuple[str, ...]
    job: str
    log: str
    script: str
    after_any: tuple[str, ...] = ()
    first: int = 0
    cluster: str = ""

    def job_id(self, task: str) -> str:
        """Slurm's id of the job, or of the array task, that runs a task."""
        return f"{self.job}_{self.array_index(task)}" if self.array else self.job

    def log_path(self, task: str) -> Path:
        """Path of the log of a task."""
        values = {"%%": "%", "%A": self.job, "%j": self.job, "%a": str(self.array_index(task))}
        return Path(re.sub("%[%Aja]", lambda match: values[match[0]], self.log))

    def array_index(self, task: str) -> int:
        """Array index of a task."""
        return self.first + self.tasks.index(task)


@dataclass(frozen=True)
class Submission:
    """All jobs of one ``convergence submit``."""

    number: int
    submitted: str
    profile: str
    config: str
    overrides: tuple[str, ...]
    environment: dict[str, Any]
    jobs: tuple[SubmittedJob, ...] = ()
    complete: bool = False
    cancelled: str | None = None

    def jobs_of(self, task: str) -> list[SubmittedJob]:
        """The jobs that run a task, in order of submission."""
        return [job for job in self.jobs if task in job.tasks]

    def tasks(self) -> list[str]:
        """Names of all tasks."""
        return list(dict.fromkeys(task for job in self.jobs for task in job.tasks))


@dataclass(frozen=True)
class Attempt:
    """One attempt of a job at a task.

    Attributes
    ----------
    task : name of the task
    submission : number of the submission
    job : Slurm's id, "12" or "12_3"
    restart : how often the job was requeued before
    node, host, pid : where it runs; node is Slurm's name
    log : path of the job's log
    state : "running"; "done"; "stopped" by a signal, resumable; "failed"; "lost": ended without updating its record
    started, ended : times (ISO 8601, UTC)
    code : exit code of the stage
    reason : why it stopped, failed or was lost, in one sentence
    tail : last lines of its output
    """

    task: str
    submission: int
    job: str
    restart: int
    node: str
    host: str
    pid: int
    log: str
    started: str
    state: AttemptState = "running"
    ended: str | None = None
    code: int | None = None
    reason: str = ""
    tail: tuple[str, ...] = field(default=())


class Records:
    """The folder ``jobs`` of a run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def submission_folder(self, number: int) -> Path:
        """Folder of a submission."""
        return self.path / f"{number:04d}"

    def submissions(self) -> list[Submission]:
        """All submissions, the latest last."""
        return [
            _read(Submission, path, jobs=lambda jobs: tuple(_build(SubmittedJob, job) for job in jobs))
            for path in sorted(self.path.glob("[0-9]*/submitted.json"))
        ]

    def latest(self) -> Submission | None:
        """The latest submission; None if there is none."""
        return (self.submissions() or [None])[-1]  # type: ignore[list-item]

    def clusters(self) -> str:
        """Names of the clusters of all submitted jobs, separated by commas; "" if sbatch printed none."""
        return ",".join(sorted({job.cluster for each in self.submissions() for job in each.jobs if job.cluster}))

    def write_submission(self, submission: Submission) -> None:
        """Write or replace the record of a submission."""
        _write(self.submission_folder(submission.number) / "submitted.json", submission)

    def is_finished(self, task: str) -> bool:
        """Whether the run folder records a task as finished, for any settings."""
        stage, _, net = task.partition(" ")
        name = {"train": f"nets/{net}/record.json", "analyze": "analysis.json"}.get(stage, f"{stage}.json")
        try:
            path = confined(self.path.parent, f"functional/{name}" if stage in EXPERIMENTS else name)
            return bool(json.loads(path.read_text(encoding="utf-8"))["finished"])
        except (OSError, ValueError, KeyError, TypeError, FileError):
            return False

    def attempt_path(self, attempt: Attempt) -> Path:
        """Path of the record of an attempt."""
        return self._attempts(attempt.task) / f"{attempt.submission:04d}-{attempt.job}-{attempt.restart}.json"

    def write_attempt(self, attempt: Attempt) -> None:
        """Write or replace the record of an attempt; on a full disk without the tail, into the existing file."""
        path = self.attempt_path(attempt)
        try:
            _write(path, attempt)
        except OSError as error:
            if not is_full(error) or not path.exists():
                raise
            with path.open("r+b") as file:
                file.write(json.dumps(dataclasses.asdict(dataclasses.replace(attempt, tail=()))).encode())
                file.truncate()

    def attempts(self, task: str, submission: int | None = None) -> list[Attempt]:
        """Attempts at a task, the latest last; only those of one submission if its number is given."""
        found = [_read(Attempt, path) for path in self._attempts(task).glob("*.json")]
        found = [attempt for attempt in found if submission in (None, attempt.submission)]
        return sorted(found, key=lambda attempt: (attempt.submission, attempt.started))

    def claim(self, attempt: Attempt) -> dict[str, str]:
        """Take the lease of a task; return the environment variables for its processes."""
        path, name = self._attempts(attempt.task) / "claim", self.attempt_path(attempt).stem
        with atomic_write(path) as temporary:
            temporary.write_text(name, encoding="utf-8")
        return job_lease.variable(path, name)

    def beat(self, attempt: Attempt) -> None:
        """Update the modification time of an attempt's record."""
        os.utime(self.attempt_path(attempt))

    def last_beat(self, attempt: Attempt) -> float:
        """Time of the last heartbeat, by the clock of the file system; 0 if there is no record."""
        try:
            return self.attempt_path(attempt).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    @contextmanager
    def lock(self, timeout_s: float = 0.0) -> Iterator[None]:
        """Hold the lock of the run's jobs; the system releases it when its process dies.

        Raises
        ------
        UserError
            if another process holds it longer than ``timeout_s`` seconds, or filelock is not installed.
        """
        try:
            import filelock
        except ImportError as error:
            raise UserError("the package filelock is missing: pip install 'convergent-learning[slurm]'.") from error

        create_for_owner(self.path)
        try:
            with filelock.FileLock(self.path / "lock", timeout=timeout_s):
                yield
        except filelock.Timeout:
            raise UserError(
                f"{self.path}: another process is submitting jobs of this run. Wait a moment, then look at "
                "`convergence status`."
            ) from None

    def _attempts(self, task: str) -> Path:
        return confined(self.path, f"attempts/{task.replace(' ', '-')}")


def failure_reason(code: int, tail: Sequence[str]) -> str:
    """Why a stage failed, in one sentence, from its exit code and the last lines of its output."""
    for line in reversed(tail):
        if _GPU_OOM.search(line):
            return f"OOM: the GPU ran out of memory ({line.strip()})"
        for pattern, state in (
            (_OOM, "OUT_OF_MEMORY"),
            ("DUE TO TIME LIMIT", "TIMEOUT"),
            ("DUE TO NODE FAILURE", "NODE_FAIL"),
        ):
            if re.search(pattern, line):
                return STATE_REASONS[state]
    printed = [line.removeprefix("convergence: ") for line in tail if line.startswith("convergence: ")]
    exceptions = [line.strip() for line in reversed(tail) if _EXCEPTION.match(line.strip())]
    if printed or exceptions:
        return (printed or exceptions)[0]
    try:
        name = signal.Signals(code - 128).name
    except ValueError:
        return f"exit code {code}"
    return f"killed by {name}" + (", probably for lack of memory" if name == "SIGKILL" else "")


def _write(path: Path, value: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(value), indent=1), encoding="utf-8")


def _read(kind: type[Any], path: Path, **convert: Any) -> Any:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        for name, build in convert.items():
            values[name] = build(values[name])
        return _build(kind, values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FileError(f"{path}: the record of a job is damaged ({error!r}). Remove the file and repeat.") from error


def _build(kind: type[Any], values: dict[str, Any]) -> Any:
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
