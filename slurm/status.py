"""``convergence status`` and ``convergence logs``: the state of every task of a run, and what its jobs print.

Evidence in order of precedence: the records of the run folder, the records of the jobs, the queue, the accounting.
Each of them may be missing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from convergence.config.load import read_config
from convergence.errors import UserError, did_you_mean
from convergence.io.files import confined
from convergence.runs.run_folder import RunFolder
from convergence.runs.stages import OPTIONAL
from convergence.runs.tasks import read_record
from slurm import slurm_commands
from slurm.jobs import stage_of
from slurm.records import HEARTBEAT_S, STATE_REASONS, Attempt, Records, Submission, failure_reason
from slurm.slurm_commands import QueuedJob

State = Literal["done", "running", "waiting", "stopped", "failed", "cancelled", "not run", "missing"]
LOG_LINES = 8
MIN_FREE_BYTES = 10_000_000
QUEUE_EVERY = 5
"""``logs --follow`` asks the scheduler once in this many readings of the logs."""
NO_SCHEDULER = "(the scheduler does not answer)"


@dataclass(frozen=True)
class JobStatus:
    """State of one task of a run, one line about it, and the last lines of the log of a failed one."""

    name: str
    state: State
    about: str = ""
    log_lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunStatus:
    """State of a run.

    Attributes
    ----------
    experiment, folder : name and path of the run
    submission : number of the latest submission; None if the run was never submitted
    submitted, profile, cancelled : of that submission: times and the path of its profile
    jobs : state of every task, in order
    report : path of the report; None unless all required stages are done
    free_bytes : on the disk of the run; None if the run folder does not exist
    """

    experiment: str
    folder: str
    submission: int | None
    submitted: str | None
    profile: str | None
    cancelled: str | None
    jobs: tuple[JobStatus, ...]
    report: str | None
    free_bytes: int | None


@dataclass(frozen=True)
class Evidence:
    """What is known about one task.

    Attributes
    ----------
    is_done : whether the run folder records it as done
    seconds : duration
    attempts : attempts of the latest submission
    jobs : ids of the jobs that run it, in order
    queued : the queue by job id; None if the scheduler does not answer
    ended : Slurm's states of ended jobs, as far as they are known
    silence_s : seconds since the last heartbeat
    log : last lines of its log
    cancelled : when the submission was cancelled
    """

    is_done: bool
    seconds: float | None
    attempts: Sequence[Attempt]
    jobs: Sequence[str]
    queued: Mapping[str, QueuedJob] | None
    ended: Mapping[str, str]
    silence_s: float = 0.0
    log: tuple[str, ...] = ()
    cancelled: str | None = None


def run_status(run: str, runs: str, overrides: Sequence[str] = ()) -> RunStatus:
    """State of a run, given by its config or its folder."""
    folder, submission = open_run(run, runs, overrides)
    jobs = job_states(folder, submission)
    complete = all(job.state == "done" or stage_of(job.name) in OPTIONAL for job in jobs)
    return RunStatus(
        experiment=folder.experiment.name,
        folder=str(folder.path.resolve()),
        submission=submission.number if submission else None,
        submitted=submission.submitted if submission else None,
        profile=submission.profile if submission else None,
        cancelled=submission.cancelled if submission else None,
        jobs=tuple(jobs),
        report=str(folder.report_page.resolve()) if complete else None,
        free_bytes=shutil.disk_usage(folder.path).free if folder.path.exists() else None,
    )


def render(status: RunStatus) -> str:
    """The text that ``status`` prints."""
    lines = [f"{status.experiment}: {status.folder}"]
    if status.submission is None:
        lines.append("never submitted")
    else:
        cancelled = f", cancelled {status.cancelled}" if status.cancelled else ""
        lines.append(f"submission {status.submission} of {status.submitted}{cancelled}, profile {status.profile}")
    width = max(len(job.name) for job in status.jobs) + 2
    for job in status.jobs:
        lines.append(f"  {job.name:<{width}}{job.state:<10} {job.about}".rstrip())
        lines += [f"  {'':<{width}}| {line}" for line in job.log_lines[-LOG_LINES:]]
    states = {job.state for job in status.jobs}
    if status.free_bytes is not None and status.free_bytes < MIN_FREE_BYTES and states != {"done"}:
        lines.append(f"only {status.free_bytes:,} bytes are free in {status.folder}: free some space first")
    if status.report is not None:
        lines.append(status.report)
    if states & {"failed", "cancelled", "stopped", "not run"} and not states & {"running", "waiting"}:
        lines.append("`convergence submit` with the same config runs the unfinished stages")
    return "\n".join(lines)


def judge(task: str, seen: Evidence) -> JobStatus:
    """State of a task; a pure function of the evidence."""
    last = seen.attempts[-1] if seen.attempts else None
    if seen.is_done:
        duration = [] if seen.seconds is None else [f"{seen.seconds:.1f} s"]
        repeated = [f"{len(seen.attempts)} attempts"] if len(seen.attempts) > 1 else []
        return JobStatus(task, "done", ", ".join(duration + repeated))
    if not seen.jobs:
        return JobStatus(task, "missing", "not submitted")
    queued = [seen.queued[job] for job in seen.jobs if job in seen.queued] if seen.queued is not None else []
    active = [q for q in queued if q.is_active]
    running = next((q for q in active if q.state not in ("PENDING", "COMPLETING")), None)
    if last is not None and last.state == "failed":
        return JobStatus(task, "failed", f"job {last.job} on {last.node}: {last.reason}", last.tail)
    if last is not None and last.state == "running" and (running is not None or seen.queued is None):
        quiet = f", no heartbeat for {seen.silence_s / 60:.0f} min" if seen.silence_s > 8 * HEARTBEAT_S else ""
        unknown = "" if seen.queued is not None else f", by its record {NO_SCHEDULER}"
        where = f"job {last.job} on {last.node} since {last.started[:19]}"
        return JobStatus(task, "running", f"{where}, attempt {len(seen.attempts)}{quiet}{unknown}")
    if running is not None:
        return JobStatus(task, "running", f"job {running.job} on {running.node}, just started")
    if active:
        reason = f"; {last.reason}" if last is not None and last.reason else ""
        if active[0].state == "COMPLETING":
            return JobStatus(task, "stopped", f"job {active[0].job} is ending{reason}")
        return JobStatus(task, "waiting", f"job {active[0].job}: {active[0].reason}{reason}")
    if seen.queued is None and last is None:
        return JobStatus(task, "waiting", f"job {seen.jobs[0]}, by its record {NO_SCHEDULER}")
    return _judge_ended(task, seen, last, queued)


def _judge_ended(task: str, seen: Evidence, last: Attempt | None, queued: Sequence[QueuedJob]) -> JobStatus:
    """State of an unfinished task none of whose jobs waits or runs."""
    job = last.job if last is not None else seen.jobs[-1]
    ended = seen.ended.get(job) or next((q.state for q in queued if q.job == job), "")
    where = f"job {job}" + (f" on {last.node}" if last is not None else "")
    if last is None and any(q.reason == "DependencyNeverSatisfied" for q in queued):
        return JobStatus(task, "not run", f"{where}: a job that it depends on failed")
    if ended == "CANCELLED" or (seen.cancelled and not ended):
        kept = "; its partial results are kept" if last is not None else ""
        state: State = "not run" if last is None and not seen.cancelled else "cancelled"
        return JobStatus(task, state, f"{where} was cancelled{kept}")
    known = STATE_REASONS.get(ended, "")
    if last is None:
        reason = known or (failure_reason(1, seen.log) if seen.log else "it ended before it started the stage")
        return JobStatus(task, "failed", f"{where}: {reason}", seen.log)
    if last.state == "stopped" and not known:
        return JobStatus(task, "stopped", f"{where}: {last.reason}; submit again to resume")
    guess = failure_reason(137, seen.log)
    unknown = "ended without a record (time limit, memory or node failure)" if guess.startswith("killed by") else guess
    return JobStatus(task, "failed", f"{where}: {known or unknown}", last.tail or seen.log)


def job_states(folder: RunFolder, submission: Submission | None) -> list[JobStatus]:
    """State of every task of a run, in order."""
    records = Records(folder.path.resolve() / "jobs")
    cluster = records.clusters()
    queued = slurm_commands.queue(cluster) if submission is not None else {}
    works = folder.tasks()
    jobs = {
        work.name: [job.job_id(work.name) for job in submission.jobs_of(work.name)] if submission is not None else []
        for work in works
    }
    unfinished = {work.name for work in works if folder.state(work) != "done"}
    unlisted = [job for name in unfinished for job in jobs[name] if job not in (queued or {})]
    ended = slurm_commands.ended_states(unlisted, cluster)
    found = []
    for work in works:
        attempts = records.attempts(work.name, submission.number) if submission is not None else []
        record = read_record(work.record)
        shows_log = submission is not None and jobs[work.name] and work.name in unfinished
        evidence = Evidence(
            is_done=work.name not in unfinished,
            seconds=record["seconds"] if record else None,
            attempts=attempts,
            jobs=jobs[work.name],
            queued=queued,
            ended=ended,
            silence_s=time.time() - records.last_beat(attempts[-1]) if attempts else 0.0,
            log=tail(log_path(records, submission, work.name), LOG_LINES) if submission and shows_log else (),
            cancelled=submission.cancelled if submission is not None else None,
        )
        found.append(judge(work.name, evidence))
    return found


def open_run(run: str, runs: str, overrides: Sequence[str] = ()) -> tuple[RunFolder, Submission | None]:
    """A run, given by its config or its folder, with its submitted settings, and its latest submission.

    Raises
    ------
    UserError
        for a folder without a submission.
    """
    is_folder = Path(run).is_dir()
    experiment = None if is_folder else read_config(run, overrides)
    path = Path(run) if experiment is None else Path(runs) / experiment.name
    records = Records(path / "jobs")
    submission = records.latest()
    if submission is not None and (is_folder or not overrides):
        submitted = records.submission_folder(submission.number) / "config.toml"
        return RunFolder(path, read_config(submitted, submission.overrides)), submission
    if experiment is None:
        raise UserError(f"{run}: nothing was submitted from this run folder. Give the config instead.")
    return RunFolder(path, experiment), submission


def logs(run: str, runs: str, names: Sequence[str], n_lines: int) -> str:
    """The path and the last lines of each task's latest log.

    ``names`` selects tasks: "statistics", "train" for all nets, "net1" for "train net1"; all tasks if it is empty.

    Raises
    ------
    UserError
        for a run that was never submitted, or an unknown name.
    """
    _, submission, records = _open_submission(run, runs)
    blocks = []
    for task in _select(submission, names):
        path = log_path(records, submission, task)
        lines = tail(path, n_lines)
        if lines or names:
            blocks.append("\n".join([f"== {task}: {path}", *(lines or ("(no output yet)",))]))
    return "\n\n".join(blocks) or "no job has printed anything yet"


def follow(run: str, runs: str, names: Sequence[str], n_lines: int, every_s: float = 1.0) -> Iterator[str]:
    """The last lines of each selected task, then new lines until none of the tasks waits or runs.

    Raises
    ------
    UserError
        as :func:`logs`.
    """
    positions: dict[Path, int] = {}
    shown: Path | None = None
    asked, started, n_idle = 0.0, False, 0
    while True:
        folder, submission, records = _open_submission(run, runs)
        tasks = _select(submission, names)
        if time.monotonic() - asked >= QUEUE_EVERY * every_s:
            asked = time.monotonic()
            states = {job.name: job.state for job in job_states(folder, submission)}
            n_idle = 0 if {states[task] for task in tasks} & {"running", "waiting"} else n_idle + 1
        for task in tasks:
            path = log_path(records, submission, task)
            if path not in positions:
                positions[path] = 0 if started else _tail_start(path, n_lines)
            lines, positions[path] = _read_from(path, positions[path])
            if lines and path != shown:
                yield f"== {task}: {path}"
                shown = path
            yield from lines
        started = True
        if n_idle >= 2:  # a job that is being requeued neither waits nor runs for a moment
            return
        time.sleep(every_s)


def log_path(records: Records, submission: Submission, task: str) -> Path:
    """Path of the log of the latest attempt at a task, or of the job that will run it.

    A path outside the folder of the run's jobs, as in a run folder that was moved or written by others, becomes that of
    the log of this name in the submission's folder.
    """
    attempts = records.attempts(task, submission.number)
    path = Path(str(attempts[-1].log)) if attempts else submission.jobs_of(task)[-1].log_path(task)
    if path.resolve().is_relative_to(records.path.resolve()):
        return path
    return confined(records.submission_folder(submission.number), f"logs/{path.name}")


def tail(path: Path, n_lines: int) -> tuple[str, ...]:
    """The last non-empty lines of a file; none if it does not exist."""
    if path.exists() and not path.is_file():
        return ()
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 300 * n_lines))
            text = file.read().decode(errors="replace")
    except OSError:
        return ()
    return tuple(line for line in text.splitlines() if line.strip())[-n_lines:]


def _open_submission(run: str, runs: str) -> tuple[RunFolder, Submission, Records]:
    folder, submission = open_run(run, runs)
    if submission is None:
        raise UserError(f"{folder.path}: the run was never submitted, so it has no logs. Submit it first.")
    return folder, submission, Records(folder.path.resolve() / "jobs")


def _select(submission: Submission, names: Sequence[str]) -> list[str]:
    """The tasks that names select."""
    known = submission.tasks()
    chosen = []
    for name in names:
        found = [task for task in known if name in (task, task.removeprefix("train "), stage_of(task))]
        if not found:
            hint = did_you_mean(name, {task.removeprefix("train ") for task in known})
            raise UserError(f'submission {submission.number} has no job "{name}"; {hint}.')
        chosen += found
    return list(dict.fromkeys(chosen or known))


def _tail_start(path: Path, n_lines: int) -> int:
    """Position of the last lines of a file."""
    try:
        content = path.read_bytes()
    except OSError:
        return 0
    position = len(content)
    for _ in range(n_lines + content.endswith(b"\n")):
        position = content.rfind(b"\n", 0, position)
        if position < 0:
            break
    return position + 1


def _read_from(path: Path, position: int) -> tuple[list[str], int]:
    """The complete lines of a file after a position, and the position after them."""
    try:
        with path.open("rb") as file:
            file.seek(position)
            content = file.read()
    except OSError:
        return [], position
    complete = content[: content.rfind(b"\n") + 1]
    return complete.decode(errors="replace").splitlines(), position + len(complete)
