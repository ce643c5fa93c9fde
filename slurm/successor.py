"""A job that may not go back into the queue submits one in its place, and what waits for it waits for that one too.

The successor runs the same script, for one piece. It starts when this job has ended, which then counts as one that
ended well, so that jobs which wait for all nets go on waiting for the successor alone.
"""

from __future__ import annotations

from dataclasses import replace

from convergence.errors import UserError
from slurm import scheduler
from slurm.lock import lock
from slurm.records import Attempt, Records, Submission

PATIENCE_S = 60.0


def succeed(records: Records, attempt: Attempt) -> str:
    """Submit the successor of a job that is at work on an attempt; returns Slurm's id of it.

    Raises
    ------
    UserError
        where jobs cannot be submitted from jobs, or others cannot be told to wait; nothing was changed then.
    """
    with lock(records.path, PATIENCE_S):
        submission = next((s for s in records.submissions() if s.number == attempt.submission), None)
        mine = submission.jobs_of(attempt.piece) if submission is not None else []
        if submission is None or not mine or not mine[-1].script:
            raise UserError(f"{records.path}: submission {attempt.submission} keeps no script of this job")
        first, last = mine[0], mine[-1]
        k = first.first + first.pieces.index(attempt.piece) if first.array else None
        script = records.submission_folder(submission.number) / last.script
        job = scheduler.submit_again(str(script), attempt.job, k)
        try:
            _put_behind(submission, first.name, job if k is None else f"{job}_{k}")
        except BaseException:
            scheduler.cancel([job])
            raise
        successor = replace(
            last, name=f"{first.name}-again{len(mine)}", pieces=(attempt.piece,), first=k or 0, job=job, after=(),
            after_any=(),
        )  # fmt: skip
        records.write_submission(replace(submission, jobs=(*submission.jobs, successor)))
    return job


def turns_before(records: Records, attempt: Attempt) -> int:
    """How many starts a piece had in jobs of the same submission before this one."""
    restarts = {
        other.job: other.restart
        for other in records.attempts(attempt.piece)
        if other.submission == attempt.submission and other.job != attempt.job
    }
    return sum(1 + restart for restart in restarts.values())


def _put_behind(submission: Submission, name: str, job: str) -> None:
    """Have all that waits for a job of this name wait for another one, too."""
    for waiting in submission.jobs:
        for names, word in ((waiting.after, "afterok"), (waiting.after_any, "afterany")):
            if name in names:
                refused = scheduler.wait_also(waiting.job, f"{word}:{job}")
                if refused is not None:
                    raise UserError(f"job {waiting.job} could not be told to wait for it: {refused}")
