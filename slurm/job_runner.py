"""Runs one task inside a Slurm job, in place of the batch shell: records, signals, requeueing.

A stage exits with 0: done. With 75: a signal stopped it and it can resume; the job is requeued, at most
``requeue.max_requeues`` times. With another code: it failed, and the record has the reason and the last lines.

A job that Slurm itself ends (cancelled, time limit) or requeues is COMPLETING and is not requeued from here, so that a
cancelled job stays cancelled. Where requeueing is refused, the job submits a replacement and ends with exit code 0;
jobs that depend on it then wait for the replacement.
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
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from convergence.errors import EXIT_RESUME, UserError
from convergence.io.files import confined
from convergence.runs import job_lease
from slurm import slurm_commands
from slurm.records import HEARTBEAT_S, TAIL_LINES, Attempt, AttemptState, Records, Submission, failure_reason

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
STOPPED_CODES = (EXIT_RESUME, *(128 + number for number in SIGNALS))
"""Exit codes of a stopped stage: its own, and those of the signals before it handles them."""
MIN_FREE_BYTES = 2**20
POLL_S = 0.5
LOCK_TIMEOUT_S = 60.0
LAUNCHER_ENDED = "its launcher, which ended before the task was done"
LOST = "it ended without updating its record: its node failed, or it was killed"


class JobRunner:
    """One attempt at a task.

    Parameters
    ----------
    records : of the run's jobs
    attempt : this attempt
    method : ``requeue.method`` of the profile
    max_requeues : maximum number of restarts
    heartbeat_s : seconds between two heartbeats
    keep : ``keep_variables`` of the profile, for a replacement of the job
    """

    def __init__(
        self, records: Records, attempt: Attempt, method: str, max_requeues: int, heartbeat_s: float = HEARTBEAT_S,
        keep: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.records, self.attempt = records, attempt
        self.method, self.max_requeues, self.heartbeat_s, self.keep = method, max_requeues, heartbeat_s, keep
        self.restarts = attempt.restart
        self._signals: list[int] = []
        self._log_start = _log_size()

    def run(self, command: list[str]) -> int:
        """Run the command of the stage; returns the exit code of the job."""
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            return self._run(command)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self, command: list[str]) -> int:
        task = self.attempt.task
        earlier = [a for a in self.records.attempts(task) if a != self.attempt]
        previous = [a for a in earlier if a.submission == self.attempt.submission]
        if self.method == "chain" and previous and previous[-1].state == "failed":
            _print(f"{task} failed in job {previous[-1].job}; the remaining jobs of the chain are skipped")
            return 1
        active = self._find_active(earlier)
        if active is not None:
            return self._fail(1, f"job {active.job} still runs this task on {active.node}; a task runs only once")
        if self.method == "scontrol":
            self.restarts += restarts_before(self.records, self.attempt)
        if self.restarts > self.max_requeues:
            return self._fail(1, f"restarted {self.restarts} times; requeue.max_requeues is {self.max_requeues}")
        lease = self.records.claim(self.attempt)
        self.records.write_attempt(self.attempt)
        if any(a.state in ("running", "lost") for a in earlier):  # an orphaned process needs time to see the new lease
            time.sleep(3 * job_lease.EVERY_S)
        if self._signals:
            return self._stop(EXIT_RESUME)
        try:
            process = subprocess.Popen(command, env=os.environ | lease)
        except OSError as error:
            return self._fail(127, f"{command[0]} could not be started: {error}")
        code = self._wait(process)
        if code == 0 and not self.records.is_finished(task):
            return self._stop(EXIT_RESUME, LAUNCHER_ENDED)  # srun exits with 0 when its node goes down
        if code == 0:
            self._write("done", code, "")
            return 0
        if code in STOPPED_CODES:
            return self._stop(code)
        reason = failure_reason(code, self._tail())
        if shutil.disk_usage(self.records.path).free < MIN_FREE_BYTES:
            reason += f"; the disk of {self.records.path} is full: free some space and submit again"
        return self._fail(code, reason)

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for the stage; forward the first signal to it and write heartbeats."""
        forwarded = False
        beat = time.monotonic()
        while True:
            try:
                code = process.wait(timeout=min(POLL_S, self.heartbeat_s))
                return code if code >= 0 else 128 - code
            except subprocess.TimeoutExpired:
                pass
            if self._signals and not forwarded:
                forwarded = True
                info = slurm_commands.job_info(self.attempt.job)
                if info is None or info.state == "RUNNING":  # otherwise Slurm signals the steps itself
                    process.send_signal(signal.SIGUSR2)
            if time.monotonic() - beat > self.heartbeat_s:
                beat = time.monotonic()
                self.records.beat(self.attempt)

    def _stop(self, code: int, cause: str = "a signal") -> int:
        """Record a resumable stop and restart the job, unless Slurm or the next job of a chain does."""
        cause = f"stopped by {signal.Signals(self._signals[0]).name if self._signals else cause}"
        info = slurm_commands.job_info(self.attempt.job)
        if self.method == "chain":
            self._write("stopped", code, f"{cause}; the next job of the chain resumes")
        elif info is not None and info.restarts > self.attempt.restart:
            self._write("stopped", code, f"{cause}; requeued by Slurm")
        elif info is not None and info.state != "RUNNING":
            self._write("stopped", code, f"{cause} because the job was ended")
        elif self.method == "none":
            self._write("stopped", code, f"{cause}; requeue.method of the profile is none")
        elif self.restarts >= self.max_requeues:
            return self._fail(code, f"{cause} and not requeued: requeue.max_requeues is {self.max_requeues}")
        else:
            self._write("stopped", code, f"{cause}; requeued")
            refusal = slurm_commands.requeue(self.attempt.job)
            if refusal is not None:
                info = slurm_commands.job_info(self.attempt.job)
                if info is not None and info.state == "PENDING":  # its node failed, and Slurm was quicker
                    self._write("stopped", code, f"{cause}; requeued by Slurm")
                    return code
                return self._replace_job(code, f"{cause}; scontrol requeue was refused ({refusal})")
        return code

    def _replace_job(self, code: int, reason: str) -> int:
        """Submit a replacement of this job, which then ends as a successful one."""
        try:
            job = resubmit(self.records, self.attempt, self.keep)
        except UserError as error:
            remedy = 'set requeue.method = "chain" in the profile, or submit again'
            return self._fail(code, f"{reason}; no replacement could be submitted ({error}): {remedy}")
        self._write("stopped", code, f"{reason}; job {job} resumes")
        return 0

    def _fail(self, code: int, reason: str) -> int:
        self._write("failed", code, reason)
        _print(f"{self.attempt.task} failed: {reason}")
        return code or 1

    def _write(self, state: AttemptState, code: int, reason: str) -> None:
        tail = () if state == "done" else tuple(self._tail())
        self.attempt = replace(self.attempt, state=state, code=code, reason=reason, tail=tail, ended=_now())
        self.records.write_attempt(self.attempt)

    def _find_active(self, earlier: list[Attempt]) -> Attempt | None:
        """An earlier attempt that still sends heartbeats, or None; attempts without heartbeats are recorded as lost.

        A node that lost its connection may continue a task that Slurm has started again elsewhere.
        """
        for attempt in earlier:
            if attempt.state != "running":
                continue
            seen = self.records.last_beat(attempt)
            end, beats = time.monotonic() + 3 * self.heartbeat_s, 0
            while not _has_ended(attempt) and time.monotonic() < end:
                latest = self.records.last_beat(attempt)
                beats, seen = beats + (latest != seen), latest
                if beats >= 2:
                    return attempt
                time.sleep(min(POLL_S, self.heartbeat_s / 4))
            if attempt in self.records.attempts(attempt.task):  # not updated meanwhile
                self.records.write_attempt(replace(attempt, state="lost", reason=LOST, ended=_now()))
        return None

    def _tail(self) -> list[str]:
        """Last lines of the output of this attempt."""
        try:
            with Path(self.attempt.log).open("rb") as file:
                file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - 20_000))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return []
        return [line for line in lines if line.strip()][-TAIL_LINES:]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)


def resubmit(records: Records, attempt: Attempt, keep: Collection[str] = ()) -> str:
    """Submit a replacement of the job of an attempt; returns Slurm's id of it.

    The replacement runs the same script for the same task and starts when this job has ended. Jobs that depend on this
    job depend on the replacement too. ``keep`` names variables of this job to pass on.

    Raises
    ------
    UserError
        if Slurm refuses the replacement or a dependency on it; the jobs are unchanged then.
    """
    with records.lock(LOCK_TIMEOUT_S):
        submission = next((s for s in records.submissions() if s.number == attempt.submission), None)
        jobs = submission.jobs_of(attempt.task) if submission is not None else []
        if submission is None or not jobs or not jobs[-1].script:
            raise UserError(f"{records.path}: submission {attempt.submission} has no script of {attempt.task}")
        first, last = jobs[0], jobs[-1]
        index = first.array_index(attempt.task) if first.array else None
        script = confined(records.submission_folder(submission.number), last.script)
        job = slurm_commands.submit_again(str(script), attempt.job, index, keep)
        try:
            _add_dependencies(submission, first.name, job if index is None else f"{job}_{index}")
        except BaseException:
            slurm_commands.cancel([job])
            raise
        replacement = replace(
            last, name=f"{first.name}-again{len(jobs)}", tasks=(attempt.task,), first=index or 0, job=job, after=(),
            after_any=(),
        )  # fmt: skip
        records.write_submission(replace(submission, jobs=(*submission.jobs, replacement)))
    return job


def restarts_before(records: Records, attempt: Attempt) -> int:
    """Number of starts of a task in earlier jobs of the same submission."""
    earlier = [a for a in records.attempts(attempt.task, attempt.submission) if a.job != attempt.job]
    return sum(1 + restart for restart in {a.job: a.restart for a in earlier}.values())


def _add_dependencies(submission: Submission, name: str, job: str) -> None:
    """Make every job that depends on the job ``name`` depend on Slurm's job ``job`` too."""
    for waiting in submission.jobs:
        for names, kind in ((waiting.after, "afterok"), (waiting.after_any, "afterany")):
            if name in names:
                refusal = slurm_commands.add_dependency(waiting.job, f"{kind}:{job}")
                if refusal is not None:
                    raise UserError(f"the dependency of job {waiting.job} on it was refused: {refusal}")


def _has_ended(attempt: Attempt) -> bool:
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


def _print(text: str) -> None:
    print(f"convergence: {text}", file=sys.stderr, flush=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def current_attempt(task: str, submission: int, environ: Mapping[str, str] = os.environ) -> Attempt:
    """The attempt of this process, from Slurm's environment variables."""
    job = environ.get("SLURM_JOB_ID", str(os.getpid()))
    if "SLURM_ARRAY_JOB_ID" in environ:
        job = f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    host = socket.gethostname()
    return Attempt(
        task=task,
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
    """Run the task that the command line of a job's script names."""
    parser = argparse.ArgumentParser(prog="slurm.job_runner", description="Run one task inside a Slurm job.")
    parser.add_argument("--records", required=True, type=Path)
    parser.add_argument("--submission", required=True, type=int)
    parser.add_argument("--requeue", required=True, choices=("scontrol", "chain", "none"))
    parser.add_argument("--max-requeues", required=True, type=int)
    parser.add_argument("--keep-variable", action="append", default=[], dest="keep")
    parser.add_argument("--job", required=True)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    attempt = current_attempt(options.job, options.submission)
    records = Records(options.records)
    return JobRunner(records, attempt, options.requeue, options.max_requeues, keep=options.keep).run(options.command)


if __name__ == "__main__":
    sys.exit(main())
