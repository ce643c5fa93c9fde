"""Runs one piece inside a job, in the place of the batch shell: marker files, signals, and whether to start again.

The stage exits with 0: done. With 75: a signal stopped it with everything kept, and the job goes back into the queue,
at most so many times. With anything else it failed, and the marker holds the reason and the last lines.

A job that slurmctld is about to end (cancelled, time limit) or has put back itself is COMPLETING, and is not requeued
from here: a cancelled job stays cancelled.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from convergence.errors import UserError
from convergence.runs import job_lease
from slurm import scheduler
from slurm.reasons import TAIL_LINES, reason_of
from slurm.records import BEAT_S, Attempt, Records
from slurm.successor import succeed, turns_before

EXIT_AGAIN = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
STOPPED = (EXIT_AGAIN, *(128 + number for number in SIGNALS))
"""Exit codes of a stage that was told to stop; the signals' own before it could listen."""
NO_SPACE = 2**20
INTERRUPTED = "its launcher, which ended well before the work was done"
LOST = "ended without a word: its node failed, or it was killed there"


class Wrapper:
    """One attempt."""

    def __init__(self, records: Records, attempt: Attempt, requeue: str, most: int) -> None:
        self.records, self.attempt = records, attempt
        self.requeue, self.most = requeue, most
        self.job, self.turns = attempt.job, attempt.restart
        self.signals: list[int] = []
        self._offset = _log_size()

    def run(self, command: list[str]) -> int:
        """Run the stage; returns the exit code of the job."""
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            return self._run(command)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self, command: list[str]) -> int:
        earlier = [a for a in self.records.attempts(self.attempt.piece) if a != self.attempt]
        of_submission = [a for a in earlier if a.submission == self.attempt.submission]
        if self.requeue == "chain" and of_submission and of_submission[-1].state == "failed":
            _say(f"{self.attempt.piece} failed in job {of_submission[-1].job}; this link of the chain does nothing")
            return 1
        busy = self._wait_for(earlier)
        if busy is not None:
            return self._fail(1, f"job {busy.job} is still at work on it on {busy.node}; nothing runs twice")
        if self.requeue == "scontrol":
            self.turns += turns_before(self.records, self.attempt)
        if self.turns > self.most:
            return self._fail(1, f"restarted {self.turns} times, and requeue.most of the profile is {self.most}")
        claim = self.records.claim(self.attempt)
        self.records.write_attempt(self.attempt)
        if any(a.state in ("running", "lost") for a in earlier):  # a process of it may live on: time to see the claim
            time.sleep(3 * job_lease.EVERY_S)
        if self.signals:
            return self._stopped(EXIT_AGAIN)
        try:
            process = subprocess.Popen(command, env=os.environ | claim)
        except OSError as error:
            return self._fail(127, f"{command[0]} could not be started: {error}")
        code = self._wait(process)
        if code == 0 and not self.records.is_finished(self.attempt.piece):
            return self._stopped(EXIT_AGAIN, INTERRUPTED)  # srun ends with 0 when its node goes down
        if code == 0:
            self._write("done", code, "")
            return 0
        if code in STOPPED:
            return self._stopped(code)
        reason = reason_of(code, self._tail())
        if shutil.disk_usage(self.records.path).free < NO_SPACE:
            reason += f"; the disk of {self.records.path} is full, make room there and submit again"
        return self._fail(code, reason)

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for the stage, pass a signal on to it once, and show that the job is alive."""
        passed = False
        beat = time.monotonic()
        while True:
            try:
                code = process.wait(timeout=0.5)
                return code if code >= 0 else 128 - code
            except subprocess.TimeoutExpired:
                pass
            if self.signals and not passed:
                passed = True
                known = scheduler.now(self.job)
                if known is None or known.state == "RUNNING":  # else Slurm sends signals to the steps itself
                    process.send_signal(signal.SIGUSR2)
            if time.monotonic() - beat > BEAT_S:
                beat = time.monotonic()
                self.records.beat(self.attempt)

    def _stopped(self, code: int, by: str = "a signal") -> int:
        """Everything is kept: have the job run again, if that is for this side to do."""
        by = signal.Signals(self.signals[0]).name if self.signals else by
        known = scheduler.now(self.job)
        if self.requeue == "chain":
            self._write("stopped", code, f"stopped by {by}; the next link of the chain goes on")
        elif known is not None and known.restarts > self.attempt.restart:
            self._write("stopped", code, f"stopped by {by}, put back into the queue by the scheduler")
        elif known is not None and known.state != "RUNNING":
            self._write("stopped", code, f"stopped by {by} as the job was ended")
        elif self.requeue == "none":
            self._write("stopped", code, f"stopped by {by}; the profile does not requeue")
        elif self.turns >= self.most:
            return self._fail(code, f"stopped by {by} for the last time: requeue.most of the profile is {self.most}")
        else:
            self._write("stopped", code, f"stopped by {by} and put back into the queue")
            refused = scheduler.requeue(self.job)
            if refused is not None:
                return self._succeed(code, by, refused)
        return code

    def _succeed(self, code: int, by: str, refused: str) -> int:
        """Have another job go on in the place of this one, which then ends as one that did its part."""
        why = f"stopped by {by}, and scontrol requeue was refused ({refused})"
        try:
            job = succeed(self.records, self.attempt)
        except UserError as error:
            remedy = 'set requeue.by = "chain" in the profile, or submit again'
            return self._fail(code, f"{why}; no other job could take its place ({error}): {remedy}")
        self._write("stopped", code, f"{why}; job {job} goes on in its place")
        return 0

    def _fail(self, code: int, reason: str) -> int:
        self._write("failed", code, reason)
        _say(f"{self.attempt.piece} failed: {reason}")
        return code or 1

    def _write(self, state: str, code: int, reason: str) -> None:
        tail = () if state == "done" else tuple(self._tail())
        self.attempt = replace(self.attempt, state=state, code=code, reason=reason, tail=tail, ended=_now())  # type: ignore[arg-type]
        self.records.write_attempt(self.attempt)

    def _wait_for(self, earlier: list[Attempt]) -> Attempt | None:
        """Wait until no earlier attempt shows that it is alive; an attempt that does not end, or None.

        A node that lost its connection may go on with what the scheduler has begun again elsewhere.
        """
        for attempt in earlier:
            if attempt.state != "running":
                continue
            seen = self.records.last_beat(attempt)
            start, beats = time.monotonic(), 0
            while not _is_gone(attempt) and time.monotonic() - start < 3 * BEAT_S:
                latest = self.records.last_beat(attempt)
                beats, seen = beats + (latest != seen), latest
                if beats >= 2:
                    return attempt
                time.sleep(0.5)
            if attempt in self.records.attempts(attempt.piece):  # it may have ended with a word meanwhile
                self.records.write_attempt(replace(attempt, state="lost", reason=LOST, ended=_now()))
        return None

    def _tail(self) -> list[str]:
        """Last lines that this attempt printed."""
        try:
            with Path(self.attempt.log).open("rb") as file:
                file.seek(max(self._offset, file.seek(0, os.SEEK_END) - 20_000))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return []
        return [line for line in lines if line.strip()][-TAIL_LINES:]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signals.append(number)


def _is_gone(attempt: Attempt) -> bool:
    """Whether the process of an attempt on this machine has ended; False for other machines."""
    if attempt.host != socket.gethostname():
        return False
    try:
        os.kill(attempt.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _log_size() -> int:
    try:
        return os.fstat(1).st_size
    except OSError:
        return 0


def _say(text: str) -> None:
    print(f"convergence: {text}", file=sys.stderr, flush=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def this_attempt(piece: str, submission: int, environ: Mapping[str, str] = os.environ) -> Attempt:
    """The attempt that this process is, from Slurm's variables."""
    job = environ.get("SLURM_JOB_ID", str(os.getpid()))
    if "SLURM_ARRAY_JOB_ID" in environ:
        job = f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    host = socket.gethostname()
    return Attempt(
        piece=piece,
        submission=submission,
        job=job,
        restart=int(environ.get("SLURM_RESTART_COUNT", "0") or 0),
        node=environ.get("SLURM_JOB_NODELIST", host),
        host=host,
        pid=os.getpid(),
        log=os.path.realpath("/proc/self/fd/1"),
        started=_now(),
    )


def main(arguments: list[str] | None = None) -> int:
    """The command that a job's script calls."""
    parser = argparse.ArgumentParser(prog="slurm.wrapper", description="Run one piece inside a job.")
    parser.add_argument("--jobs", required=True, type=Path)
    parser.add_argument("--submission", required=True, type=int)
    parser.add_argument("--requeue", required=True, choices=("scontrol", "chain", "none"))
    parser.add_argument("--most", required=True, type=int)
    parser.add_argument("--piece", required=True)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    attempt = this_attempt(options.piece, options.submission)
    return Wrapper(Records(options.jobs), attempt, options.requeue, options.most).run(options.command)


if __name__ == "__main__":
    sys.exit(main())
