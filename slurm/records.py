"""What submissions and jobs leave below ``runs/<name>/jobs/``, all plain JSON and text.

    0001/submitted.json     the jobs of a submission: ids, what each does, and the environment they run in
    0001/config.toml        the config as it was submitted; jobs read this one
    0001/<id>_submission.sh the sbatch text of every job
    0001/logs/              what jobs printed
    attempts/<piece>/       a marker for each attempt at a piece, written by the job itself
    code-<hash>/            the source that jobs run

A *piece* is what one job has to get done, by the name of its record: "train net1", "statistics", … Nothing here
imports more than the standard library: a marker must get written also where the environment of a job is broken.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from convergence.errors import FileError
from convergence.functional import EXPERIMENTS
from convergence.io.files import atomic_write, is_full
from convergence.runs import job_lease

BEAT_S = 15.0
"""A running job touches its marker so often."""

AttemptState = Literal["running", "done", "stopped", "failed", "lost"]


@dataclass(frozen=True)
class SubmittedJob:
    """One sbatch.

    Attributes
    ----------
    name : "train", "statistics", …; "train-net1" for nets without an array, "statistics-link2" in a chain
    stage : the verb that it runs
    pieces : what it gets done; of an array, in the order of its members
    array : whether its pieces are members of an array
    after : names of the jobs that must end well before it starts
    after_any : names of the jobs that must have ended before it starts, well or not
    job : Slurm's id
    log : path of what it prints, with Slurm's patterns
    script : name of the file with its sbatch text
    first : number of the first member of an array
    """

    name: str
    stage: str
    pieces: tuple[str, ...]
    array: bool
    after: tuple[str, ...]
    job: str
    log: str
    script: str
    after_any: tuple[str, ...] = ()
    first: int = 0

    def member(self, piece: str) -> str:
        """Slurm's id for a piece of it."""
        return f"{self.job}_{self._index(piece)}" if self.array else self.job

    def log_of(self, piece: str) -> Path:
        """Where the output of a piece goes."""
        return Path(self.log.replace("%A", self.job).replace("%j", self.job).replace("%a", str(self._index(piece))))

    def _index(self, piece: str) -> int:
        return self.first + self.pieces.index(piece)


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

    def jobs_of(self, piece: str) -> list[SubmittedJob]:
        """The jobs that were to get a piece done, in order."""
        return [job for job in self.jobs if piece in job.pieces]


@dataclass(frozen=True)
class Attempt:
    """A marker: one attempt of a job at a piece.

    Attributes
    ----------
    piece : what was to be done
    submission : number of the submission
    job : Slurm's id, "12" or "12_3"
    restart : how often the job had been put back into the queue before
    node, host, pid : where; the node as Slurm calls it
    log : what the job prints
    state : "running"; "done"; "stopped" by a signal with everything kept; "failed"; "lost": ended without a word
    started, ended : times (ISO 8601, UTC)
    code : exit code of the stage
    reason : one sentence on why it stopped, failed or was lost
    tail : the last lines that it printed
    """

    piece: str
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
        """Where a submission keeps its files."""
        return self.path / f"{number:04d}"

    def submissions(self) -> list[Submission]:
        """All submissions, the latest last."""
        return [
            _read(Submission, path, jobs=lambda jobs: tuple(_build(SubmittedJob, job) for job in jobs))
            for path in sorted(self.path.glob("[0-9]*/submitted.json"))
        ]

    def latest(self) -> Submission | None:
        """The latest submission; None if there was none."""
        return (self.submissions() or [None])[-1]  # type: ignore[list-item]

    def write_submission(self, submission: Submission) -> None:
        """Keep a submission, in the place of what was known of it before."""
        _write(self.submission_folder(submission.number) / "submitted.json", submission)

    def is_finished(self, piece: str) -> bool:
        """Whether the record of a piece says that it was finished, for whatever settings."""
        stage, _, net = piece.partition(" ")
        name = {"train": f"nets/{net}/record.json", "analyze": "analysis.json"}.get(stage, f"{stage}.json")
        name = f"functional/{name}" if stage in EXPERIMENTS else name
        path = self.path.parent / name
        try:
            return bool(json.loads(path.read_text(encoding="utf-8"))["finished"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def attempt_path(self, attempt: Attempt) -> Path:
        """The marker of an attempt."""
        return self._attempts(attempt.piece) / f"{attempt.submission:04d}-{attempt.job}-{attempt.restart}.json"

    def write_attempt(self, attempt: Attempt) -> None:
        """Leave or replace a marker; on a full disk a shorter one in the place of the last, which needs no room."""
        path = self.attempt_path(attempt)
        try:
            _write(path, attempt)
        except OSError as error:
            if not is_full(error) or not path.exists():
                raise
            with path.open("r+b") as file:
                file.write(json.dumps(dataclasses.asdict(dataclasses.replace(attempt, tail=()))).encode())
                file.truncate()

    def attempts(self, piece: str) -> list[Attempt]:
        """All attempts at a piece, the latest last."""
        found = [_read(Attempt, path) for path in self._attempts(piece).glob("*.json")]
        return sorted(found, key=lambda attempt: (attempt.submission, attempt.started))

    def claim(self, attempt: Attempt) -> dict[str, str]:
        """Take a piece over for an attempt (:mod:`convergence.runs.job_lease`); what the environment of its processes says."""
        path, name = self._attempts(attempt.piece) / "claim", self.attempt_path(attempt).stem
        with atomic_write(path) as temporary:
            temporary.write_text(name, encoding="utf-8")
        return job_lease.variable(path, name)

    def beat(self, attempt: Attempt) -> None:
        """Say that an attempt is alive."""
        os.utime(self.attempt_path(attempt))

    def last_beat(self, attempt: Attempt) -> float:
        """When an attempt last said that it is alive, by the clock of the file system; 0 if its marker is gone."""
        try:
            return self.attempt_path(attempt).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _attempts(self, piece: str) -> Path:
        return self.path / "attempts" / piece.replace(" ", "-")


def _write(path: Path, value: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(value), indent=1), encoding="utf-8")


def _read(kind: type[Any], path: Path, **convert: Any) -> Any:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        for name, build in convert.items():
            values[name] = build(values[name])
        return _build(kind, values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise FileError(
            f"{path}: the record of a job is damaged ({error!r}). Remove it to go on without it."
        ) from error


def _build(kind: type[Any], values: dict[str, Any]) -> Any:
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
