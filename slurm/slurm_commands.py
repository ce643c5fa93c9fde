"""Slurm's commands: each runs with a time limit, and each output has one parser.

Sites disable accounting, purge ended jobs after minutes and answer slowly. A command that does not answer gives None
or an empty result, never an exception. ``sbatch`` is called through submitit, which is imported here only.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from convergence.errors import UserError

TIMEOUT_S = 30.0
ENDED_STATES = frozenset(
    {
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
        "REVOKED", "TIMEOUT",
    }
)  # fmt: skip


@dataclass(frozen=True)
class QueuedJob:
    """One line of ``squeue``.

    Attributes
    ----------
    job : "12", or "12_3" for a task of an array
    state : Slurm's name, for example "PENDING"
    reason : why it waits, for example "Dependency"
    node : where it runs; "" if it does not
    comment : the job's comment; scripts of this toolkit put the run folder there
    """

    job: str
    state: str
    reason: str
    node: str
    comment: str

    @property
    def is_active(self) -> bool:
        """Whether the job runs or can still start."""
        return self.state not in ENDED_STATES and self.reason != "DependencyNeverSatisfied"


@dataclass(frozen=True)
class JobInfo:
    """State, number of requeues and dependencies of a job, from ``scontrol show job``."""

    state: str
    restarts: int
    dependency: str


def run_command(*command: str, timeout: float = TIMEOUT_S, env: Mapping[str, str] | None = None) -> tuple[bool, str]:
    """Run a command; returns whether it succeeded, and its output (of a failed command, what it printed as error)."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, errors="replace", env=env)
    except FileNotFoundError:
        return False, f"the command {command[0]} is not installed"
    except (OSError, subprocess.SubprocessError) as error:
        return False, str(error)
    return done.returncode == 0, done.stdout if done.returncode == 0 else (done.stderr or done.stdout).strip()


def queue() -> dict[str, QueuedJob] | None:
    """Jobs of this user by id, recently ended jobs included; None if ``squeue`` does not answer."""
    ok, text = run_command("squeue", "-h", "-r", "-t", "all", "-u", str(os.getuid()), "-o", "%i|%T|%r|%N|%k")
    return parse_queue(text) if ok else None


def parse_queue(text: str) -> dict[str, QueuedJob]:
    """Parse the output of ``squeue -o '%i|%T|%r|%N|%k'``."""
    rows = [[field.strip() for field in line.split("|", 4)] for line in text.splitlines()]
    return {row[0]: QueuedJob(*row) for row in rows if len(row) == 5}


def ended_states(jobs: Iterable[str]) -> dict[str, str]:
    """Slurm's states of ended jobs by id, from ``sacct``; jobs that the accounting does not know are missing."""
    listed = ",".join(sorted(set(jobs)))
    ok, text = run_command("sacct", "-n", "-P", "-X", "-j", listed, "-o", "JobID,State") if listed else (False, "")
    return parse_accounting(text) if ok else {}


def parse_accounting(text: str) -> dict[str, str]:
    """Parse the output of ``sacct -n -P -o JobID,State``; "CANCELLED by 0" becomes "CANCELLED"."""
    rows = [line.split("|") for line in text.splitlines()]
    return {row[0]: row[1].split()[0] for row in rows if len(row) == 2 and row[1].split()}


def job_info(job: str) -> JobInfo | None:
    """What the controller knows about a job that has not ended; None if it does not answer."""
    ok, text = run_command("scontrol", "show", "job", "-o", job)
    return parse_job(text) if ok else None


def parse_job(text: str) -> JobInfo | None:
    """Parse the output of ``scontrol show job -o``; dependencies are given as ``scontrol update`` takes them."""
    fields = dict(field.split("=", 1) for field in text.split() if "=" in field)
    if "JobState" not in fields:
        return None
    restarts, dependency = fields.get("Restarts", "0"), fields.get("Dependency", "(null)")
    dependency = "" if dependency == "(null)" else re.sub(r"\([^)]*\)|_\*", "", dependency)
    return JobInfo(fields["JobState"], int(restarts) if restarts.isdigit() else 0, dependency)


def requeue(job: str) -> str | None:
    """Put a running job back into the queue; returns None, or why Slurm refused."""
    ok, text = run_command("scontrol", "requeue", job)
    return None if ok else text


def add_dependency(job: str, dependency: str) -> str | None:
    """Make a waiting job depend on one more, for example "afterok:12"; returns None, or why Slurm refused."""
    info = job_info(job)
    if info is None:
        return "scontrol show job does not answer"
    value = ",".join(filter(None, (info.dependency, dependency)))
    ok, text = run_command("scontrol", "update", f"jobid={job}", f"dependency={value}")
    return None if ok else text


def cancel(jobs: Iterable[str]) -> str | None:
    """Cancel jobs; returns None, or why Slurm refused."""
    ok, text = run_command("scancel", *jobs)
    return None if ok else text


def submit_script(folder: Path, text: str) -> tuple[str, str]:
    """Submit a script; returns Slurm's job id and the name of the file in ``folder`` that holds the script.

    Raises
    ------
    UserError
        if submitit or Slurm is not installed, or Slurm refuses the job.
    """
    try:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError
    except ImportError as error:
        raise UserError(
            f"submitit cannot be imported ({error}). Jobs are submitted through it: pip install "
            "'convergent-learning[slurm]'."
        ) from error

    class TextExecutor(submitit.SlurmExecutor):
        """Submits a given text; submitit's own scripts unpickle a Python function."""

        def _make_submission_file_text(self, command: str, uid: str) -> str:
            return command

    try:
        executor = TextExecutor(folder)
    except RuntimeError as error:
        raise UserError(f"{error} Submit from a login node, or print the scripts with --dry-run.") from error
    try:
        job = executor._submit_command(text)
    except (FailedJobError, FailedSubmissionError) as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise UserError(
            f"sbatch refused a job: {reason}. Correct the options of the stage in the cluster profile, or list options "
            "that the site does not accept in leave_out."
        ) from error
    finally:
        for link in folder.glob(".submission_file_*"):
            link.unlink()
    return job.job_id, job.paths.submission_file.name


def submit_again(script: str, after: str, array_task: int | None) -> str:
    """Submit a script again from inside a job, to start when job ``after`` has ended; returns Slurm's job id.

    ``array_task`` chooses one task of an array. Slurm's variables of the calling job are not passed on.

    Raises
    ------
    UserError
        if Slurm refuses the job.
    """
    options = ["--parsable", f"--dependency=afterany:{after}"]
    options += [] if array_task is None else [f"--array={array_task}"]
    env = {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or not name.startswith("SLURM_")}
    ok, text = run_command("sbatch", *options, script, env=env)
    job = text.strip().split(";")[0]
    if not ok or not job.isdigit():
        raise UserError(f"sbatch refused the job that should replace this one: {' '.join(text.split())}")
    return job
