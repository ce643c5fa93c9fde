"""``convergence logs`` and ``convergence cancel``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from convergence.errors import UserError, did_you_mean
from convergence.runs.run_folder import RunFolder
from slurm import scheduler
from slurm.records import Records, Submission
from slurm.status import open_run, survey, tail

ASK_EVERY = 5
"""Of so many looks at the logs, one asks the scheduler."""


def logs(run: str, runs: str, pieces: Sequence[str], n_lines: int) -> str:
    """The last lines of each piece's latest job, after the path of the log.

    Raises
    ------
    UserError
        for a run that was not submitted or a piece that it does not have; "net1" stands for "train net1".
    """
    _, submission, records = _open(run, runs)
    chosen = _chosen(submission, pieces)
    blocks = []
    for piece in chosen or _all(submission):
        path = _path(records, submission, piece)
        lines = tail(path, n_lines)
        if lines or piece in chosen:
            blocks.append("\n".join([f"== {piece}: {path}", *(lines or ("(nothing yet)",))]))
    return "\n\n".join(blocks) or "no job has printed anything yet"


def follow(run: str, runs: str, pieces: Sequence[str], n_lines: int, every_s: float = 1.0) -> Iterator[str]:
    """The last lines of each piece, and what is printed from then on, until none of them waits or runs any more.

    Jobs that begin meanwhile are read from their start. The scheduler is asked much more seldom than logs are read.

    Raises
    ------
    UserError
        as :func:`logs`.
    """
    places: dict[Path, int] = {}
    shown: Path | None = None
    asked, begun, at_rest = 0.0, False, 0
    while True:
        folder, submission, records = _open(run, runs)
        names = _chosen(submission, pieces) or _all(submission)
        if time.monotonic() - asked >= ASK_EVERY * every_s:
            asked = time.monotonic()
            moving = [piece for piece in survey(folder, submission) if piece.word in ("running", "waiting")]
            at_rest = 0 if any(piece.piece in names for piece in moving) else at_rest + 1
        for piece in names:
            path = _path(records, submission, piece)
            if path not in places:
                places[path] = 0 if begun else _start_of_tail(path, n_lines)
            lines, places[path] = _since(path, places[path])
            if lines and path != shown:
                yield f"== {piece}: {path}"
                shown = path
            yield from lines
        begun = True
        if at_rest >= 2:  # a job that is put back is neither for a moment
            return
        time.sleep(every_s)


def _open(run: str, runs: str) -> tuple[RunFolder, Submission, Records]:
    folder, submission = open_run(run, runs)
    if submission is None:
        raise UserError(f"{folder.path}: never submitted, there are no logs. `convergence submit` submits it.")
    return folder, submission, Records(folder.path.resolve() / "jobs")


def _all(submission: Submission) -> list[str]:
    return list(dict.fromkeys(piece for job in submission.jobs for piece in job.pieces))


def _chosen(submission: Submission, names: Sequence[str]) -> list[str]:
    """The pieces of these names; "train" is all nets."""
    known = _all(submission)
    chosen = []
    for name in names:
        match = next((piece for piece in known if name in (piece, piece.removeprefix("train "))), None)
        if match is None and name != "train":
            hint = did_you_mean(name, {piece.removeprefix("train ") for piece in known})
            raise UserError(f'submission {submission.number} has no piece "{name}"; {hint}.')
        chosen += [piece for piece in known if piece.startswith("train ")] if match is None else [match]
    return list(dict.fromkeys(chosen))


def _path(records: Records, submission: Submission, piece: str) -> Path:
    """The log of the latest attempt at a piece, or of the job that is to do it."""
    attempts = [a for a in records.attempts(piece) if a.submission == submission.number]
    return Path(attempts[-1].log) if attempts else submission.jobs_of(piece)[-1].log_of(piece)


def _start_of_tail(path: Path, n_lines: int) -> int:
    """Where the last lines of a file begin."""
    try:
        content = path.read_bytes()
    except OSError:
        return 0
    place = len(content)
    for _ in range(n_lines + content.endswith(b"\n")):
        place = content.rfind(b"\n", 0, place)
        if place < 0:
            break
    return place + 1


def _since(path: Path, place: int) -> tuple[list[str], int]:
    """The whole lines of a file after a place, and the place after them."""
    try:
        with path.open("rb") as file:
            file.seek(place)
            content = file.read()
    except OSError:
        return [], place
    whole = content[: content.rfind(b"\n") + 1]
    return whole.decode(errors="replace").splitlines(), place + len(whole)


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
