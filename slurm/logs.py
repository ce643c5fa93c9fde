"""``convergence logs`` and ``convergence cancel``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from convergence.errors import UserError, nearest
from slurm import scheduler
from slurm.records import Records
from slurm.status import open_run, tail


def logs(run: str, runs: str, pieces: Sequence[str], n_lines: int) -> str:
    """The last lines of each piece's latest job, after the path of the log.

    Raises
    ------
    UserError
        for a run that was not submitted or a piece that it does not have; "net1" stands for "train net1".
    """
    folder, submission = open_run(run, runs)
    if submission is None:
        raise UserError(f"{folder.path}: never submitted, there are no logs. `convergence submit` submits it.")
    records = Records(folder.path.resolve() / "jobs")
    known = [piece for job in submission.jobs for piece in job.pieces]
    chosen = []
    for name in pieces:
        match = next((piece for piece in known if name in (piece, piece.removeprefix("train "))), None)
        if match is None and name != "train":
            hint = nearest(name, {piece.removeprefix("train ") for piece in known})
            raise UserError(f'submission {submission.number} has no piece "{name}"; {hint}.')
        chosen += [piece for piece in known if piece.startswith("train ")] if match is None else [match]
    blocks = []
    for piece in dict.fromkeys(chosen or known):
        attempts = [a for a in records.attempts(piece) if a.submission == submission.number]
        path = Path(attempts[-1].log) if attempts else submission.jobs_of(piece)[-1].log_of(piece)
        lines = tail(path, n_lines)
        if lines or piece in chosen:
            blocks.append("\n".join([f"== {piece}: {path}", *(lines or ("(nothing yet)",))]))
    return "\n\n".join(blocks) or "no job has printed anything yet"


def cancel(run: str, runs: str) -> str:
    """Cancel all jobs of a run that wait or run; what is done and half done stays.

    Raises
    ------
    UserError
        when it was not submitted, or the scheduler does not answer or refuses.
    """
    folder, submission = open_run(run, runs)
    if submission is None:
        raise UserError(f"{folder.path}: never submitted, there is nothing to cancel.")
    queued = scheduler.queue()
    if queued is None:
        raise UserError("squeue does not answer: cancel from a login node of the cluster.")
    records = Records(folder.path.resolve() / "jobs")
    mine = {job.job for every in records.submissions() for job in every.jobs}
    alive = [q.job for q in queued.values() if q.job.split("_")[0] in mine and q.state not in scheduler.ENDED]
    if not alive:
        return "no job of this run waits or runs"
    refused = scheduler.cancel(alive)
    if refused is not None:
        raise UserError(f"scancel refused: {refused}")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    records.write_submission(replace(submission, cancelled=now))
    return f"cancelled {', '.join(alive)}; `convergence submit` goes on with what is missing"
