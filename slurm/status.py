"""``convergence status``: stage by stage what is done, running, waiting and failed, and why.

The records of the run come first, then the markers of the jobs, then the queue, then the accounting; each may be
missing.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from convergence.config.load import read_config
from convergence.errors import UserError
from convergence.runs.run_folder import RunFolder
from convergence.runs.stages import OPTIONAL
from convergence.runs.tasks import read_record
from slurm import scheduler
from slurm.graph import stage_of
from slurm.reasons import WORDS, reason_of
from slurm.records import BEAT_S, Attempt, Records, Submission
from slurm.scheduler import Queued

Word = Literal["done", "running", "waiting", "stopped", "failed", "cancelled", "not run", "missing"]
SHOWN_LINES = 8
LITTLE_SPACE = 10_000_000


@dataclass(frozen=True)
class PieceStatus:
    """Where one piece stands.

    Attributes
    ----------
    piece : its name
    word : where it stands
    about : one line on it
    lines : the last lines that it printed, of a failed one
    """

    piece: str
    word: Word
    about: str = ""
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """What is known of one piece.

    Attributes
    ----------
    is_done : by its record
    seconds : that it took
    attempts : markers of the latest submission
    jobs : ids of the jobs that were to do it, in order
    queued : what the queue says of each of them; None if the scheduler does not answer
    ended : Slurm's word for those that have ended, as far as it is known
    silence_s : seconds since the last attempt showed that it is alive
    log : the last lines of its log, for an attempt that left no word
    cancelled : when the submission was cancelled
    """

    is_done: bool
    seconds: float | None
    attempts: Sequence[Attempt]
    jobs: Sequence[str]
    queued: Mapping[str, Queued] | None
    ended: Mapping[str, str]
    silence_s: float = 0.0
    log: tuple[str, ...] = ()
    cancelled: str | None = None


def judge(piece: str, seen: Evidence) -> PieceStatus:
    """Where a piece stands; a pure function of what is known."""
    last = seen.attempts[-1] if seen.attempts else None
    if seen.is_done:
        took = [] if seen.seconds is None else [f"{seen.seconds:.1f} s"]
        return PieceStatus(piece, "done", ", ".join(took + ([_attempts(seen)] if len(seen.attempts) > 1 else [])))
    if not seen.jobs:
        return PieceStatus(piece, "missing", "not submitted")
    queued = [seen.queued[job] for job in seen.jobs if job in seen.queued] if seen.queued is not None else []
    alive = [q for q in queued if q.alive]
    running = next((q for q in alive if q.state not in ("PENDING", "COMPLETING")), None)
    if last is not None and last.state == "failed":
        return PieceStatus(piece, "failed", f"job {last.job} on {last.node}: {last.reason}", last.tail)
    if last is not None and last.state == "running" and (running is not None or seen.queued is None):
        quiet = f", no sign of life for {seen.silence_s / 60:.0f} min" if seen.silence_s > 8 * BEAT_S else ""
        unknown = "" if seen.queued is not None else ", by its marker (the scheduler does not answer)"
        return PieceStatus(
            piece,
            "running",
            f"job {last.job} on {last.node} since {last.started[:19]}, {_attempts(seen)}{quiet}{unknown}",
        )
    if running is not None:
        return PieceStatus(piece, "running", f"job {running.job} on {running.node}, just started")
    if alive:
        waiting = alive[0]
        kept = f"; {last.reason}" if last is not None and last.reason else ""
        if waiting.state == "COMPLETING":
            return PieceStatus(piece, "stopped", f"job {waiting.job} is ending{kept}")
        return PieceStatus(piece, "waiting", f"job {waiting.job}: {waiting.reason}{kept}")
    if seen.queued is None and last is None:
        return PieceStatus(piece, "waiting", f"job {seen.jobs[0]}, by its marker (the scheduler does not answer)")
    return _over(piece, seen, last, queued)


def _over(piece: str, seen: Evidence, last: Attempt | None, queued: Sequence[Queued]) -> PieceStatus:
    """A piece that is not done, of which no job waits or runs any more."""
    job = last.job if last is not None else seen.jobs[-1]
    word = seen.ended.get(job) or next((q.state for q in queued if q.job == job), "")
    where = f"job {job}" + (f" on {last.node}" if last is not None else "")
    if last is None and any(q.reason == "DependencyNeverSatisfied" for q in queued):
        return PieceStatus(piece, "not run", f"{where}: what it waits for did not end well")
    if word == "CANCELLED" or (seen.cancelled and not word):
        kept = "; what it had is kept" if last is not None else ""
        never = last is None and not seen.cancelled
        return PieceStatus(piece, "not run" if never else "cancelled", f"{where} was cancelled{kept}")
    if last is None:
        why = WORDS.get(word, "") or (reason_of(1, seen.log) if seen.log else "it ended before it began")
        return PieceStatus(piece, "failed", f"{where}: {why}", seen.log)
    if last.state == "stopped" and word not in WORDS:
        return PieceStatus(piece, "stopped", f"{where}: {last.reason}; submit again to go on")
    guess = reason_of(137, seen.log)
    unknown = "ended without a word (time limit, memory or its node)" if guess.startswith("killed by") else guess
    return PieceStatus(piece, "failed", f"{where}: {WORDS.get(word, unknown)}", last.tail or seen.log)


def status(run: str, runs: str, overrides: Sequence[str] = ()) -> str:
    """The text that ``status`` prints."""
    folder, submission = open_run(run, runs, overrides)
    pieces = survey(folder, submission)
    lines = [f"{folder.experiment.name}: {folder.path.resolve()}"]
    if submission is None:
        lines.append("never submitted")
    else:
        state = f", cancelled {submission.cancelled}" if submission.cancelled else ""
        lines.append(f"submission {submission.number} of {submission.submitted}{state}, profile {submission.profile}")
    width = max(len(piece.piece) for piece in pieces) + 2
    for piece in pieces:
        lines.append(f"  {piece.piece:<{width}}{piece.word:<10} {piece.about}".rstrip())
        lines += [f"  {'':<{width}}| {line}" for line in piece.lines[-SHOWN_LINES:]]
    free = shutil.disk_usage(folder.path).free if folder.path.exists() else LITTLE_SPACE
    if free < LITTLE_SPACE and any(piece.word != "done" for piece in pieces):
        lines.append(f"{free:,} bytes are free in {folder.path}: make room before what is missing is run")
    failed = [piece.piece for piece in pieces if piece.word in ("failed", "cancelled", "stopped", "not run")]
    if all(piece.word == "done" or stage_of(piece.piece) in OPTIONAL for piece in pieces):
        lines.append(str(folder.report_page.resolve()))
    if failed and not any(piece.word in ("running", "waiting") for piece in pieces):
        lines.append("`convergence submit` with the same config runs what is missing")
    return "\n".join(lines)


def survey(folder: RunFolder, submission: Submission | None) -> list[PieceStatus]:
    """Where every piece of a run stands."""
    records = Records(folder.path.resolve() / "jobs")
    queued = scheduler.queue() if submission is not None else {}
    works = folder.tasks()
    jobs = {
        work.name: [job.member(work.name) for job in submission.jobs_of(work.name)] if submission is not None else []
        for work in works
    }
    unfinished = [work for work in works if folder.state(work) != "done"]
    gone = [job for work in unfinished for job in jobs[work.name] if job not in (queued or {})]
    ended = scheduler.ended(gone) if gone else {}
    found = []
    for work in works:
        attempts = [
            a for a in records.attempts(work.name) if submission is not None and a.submission == submission.number
        ]
        record = read_record(work.record)
        last = attempts[-1] if attempts else None
        log = _log(submission, work.name, last)
        found.append(
            judge(
                work.name,
                Evidence(
                    is_done=work not in unfinished,
                    seconds=record["seconds"] if record else None,
                    attempts=attempts,
                    jobs=jobs[work.name],
                    queued=queued,
                    ended=ended,
                    silence_s=time.time() - records.last_beat(last) if last is not None else 0.0,
                    log=tail(log, SHOWN_LINES) if log is not None and work in unfinished else (),
                    cancelled=submission.cancelled if submission is not None else None,
                ),
            )
        )
    return found


def open_run(run: str, runs: str, overrides: Sequence[str] = ()) -> tuple[RunFolder, Submission | None]:
    """A run by its config or its folder, and its latest submission; settings are those that were submitted.

    Raises
    ------
    UserError
        for a folder that nothing was submitted from.
    """
    place = Path(run)
    if place.is_dir():
        path = place
    else:
        experiment = read_config(run, overrides)
        path = Path(runs) / experiment.name
    records = Records(path / "jobs")
    submission = records.latest()
    if submission is not None and (place.is_dir() or not overrides):
        kept = records.submission_folder(submission.number) / "config.toml"
        return RunFolder(path, read_config(kept, submission.overrides)), submission
    if place.is_dir():
        raise UserError(f"{run}: nothing was submitted from this run folder; name the config instead.")
    return RunFolder(path, experiment), submission


def tail(path: Path, n_lines: int) -> tuple[str, ...]:
    """Last lines of a file that are not empty; none if it is not there."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 300 * n_lines))
            text = file.read().decode(errors="replace")
    except OSError:
        return ()
    return tuple(line for line in text.splitlines() if line.strip())[-n_lines:]


def _log(submission: Submission | None, piece: str, last: Attempt | None) -> Path | None:
    if last is not None:
        return Path(last.log)
    jobs = submission.jobs_of(piece) if submission is not None else []
    return jobs[-1].log_of(piece) if jobs else None


def _attempts(seen: Evidence) -> str:
    n = len(seen.attempts)
    return f"attempt {n}" if not seen.is_done else f"{n} attempts"
