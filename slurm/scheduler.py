"""Slurm's own commands, asked with a time limit and never trusted to answer: sites switch off accounting, purge jobs
after minutes and are slow at times. What is not known is None, or missing from a table.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from convergence.errors import UserError

TIMEOUT_S = 30.0
ENDED = frozenset(
    {
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
        "REVOKED", "TIMEOUT",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Queued:
    """What the queue says of a job or a member of an array.

    Attributes
    ----------
    job : "12", or "12_3" for a member of an array
    state : Slurm's word, for example "PENDING"
    reason : why it waits, for example "Dependency"
    node : where it runs, "" if nowhere
    elapsed : time it has run, in Slurm's spelling
    comment : the comment of the job; scripts of the toolkit hold the run folder
    """

    job: str
    state: str
    reason: str
    node: str
    elapsed: str
    comment: str

    @property
    def alive(self) -> bool:
        """Whether the job runs, or can."""
        return self.state not in ENDED and self.reason != "DependencyNeverSatisfied"


def ask(*command: str, timeout: float = TIMEOUT_S, environ: Mapping[str, str] | None = None) -> tuple[bool, str]:
    """Whether a command ended well, and what it said on either stream."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, errors="replace", env=environ)
    except FileNotFoundError:
        return False, f"there is no command {command[0]} here"
    except (OSError, subprocess.SubprocessError) as error:
        return False, str(error)
    return done.returncode == 0, done.stdout if done.returncode == 0 else (done.stderr or done.stdout).strip()


def queue() -> dict[str, Queued] | None:
    """Jobs of this user that the scheduler still knows, by id, recently ended ones included; None without an answer."""
    fine, text = ask("squeue", "-h", "-r", "-t", "all", "-u", str(os.getuid()), "-o", "%i|%T|%r|%N|%M|%k")
    return read_queue(text) if fine else None


def read_queue(text: str) -> dict[str, Queued]:
    """The lines of ``squeue -o '%i|%T|%r|%N|%M|%k'``."""
    found = {}
    for line in text.splitlines():
        fields = line.split("|", 5)
        if len(fields) == 6:
            found[fields[0].strip()] = Queued(*(field.strip() for field in fields))
    return found


def ended(jobs: Iterable[str]) -> dict[str, str]:
    """Slurm's word for jobs that have ended, from the accounting; what it does not know, or all of it, is missing."""
    listed = ",".join(sorted(set(jobs)))
    if not listed:
        return {}
    fine, text = ask("sacct", "-n", "-P", "-X", "-j", listed, "-o", "JobID,State")
    rows = [line.split("|") for line in text.splitlines()] if fine else []
    return {row[0]: row[1].split()[0] for row in rows if len(row) == 2 and row[1].split()}


@dataclass(frozen=True)
class Now:
    """A job as its own batch script sees it: Slurm's word for its state, and how often it was put back."""

    state: str
    restarts: int


def now(job: str) -> Now | None:
    """What the controller says of a running job; None without an answer."""
    fine, text = ask("scontrol", "show", "job", "-o", job)
    fields = dict(field.split("=", 1) for field in text.split() if "=" in field) if fine else {}
    if "JobState" not in fields:
        return None
    restarts = fields.get("Restarts", "0")
    return Now(fields["JobState"], int(restarts) if restarts.isdigit() else 0)


def requeue(job: str) -> str | None:
    """Put a job back into the queue; None, or why it was refused."""
    fine, text = ask("scontrol", "requeue", job)
    return None if fine else text


def submit_again(script: str, after: str, member: int | None) -> str:
    """Submit a script once more, for one member of an array or for all, to start when a job has ended; Slurm's id.

    Raises
    ------
    UserError
        if it is refused.
    """
    options = ["--parsable", f"--dependency=afterany:{after}", *([] if member is None else [f"--array={member}"])]
    kept = {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or not name.startswith("SLURM_")}
    fine, text = ask("sbatch", *options, script, environ=kept)
    job = text.strip().split(";")[0]
    if not fine or not job.isdigit():
        raise UserError(f"sbatch refused another one: {' '.join(text.split())}")
    return job


def wait_also(job: str, dependency: str) -> str | None:
    """Have a job wait for something more, for example "afterok:12"; None, or why it was refused."""
    fine, text = ask("scontrol", "show", "job", "-o", job)
    found = re.search(r"\bDependency=(\S+)", text) if fine else None
    if found is None:
        return text if not fine else "its dependency is not told"
    known = "" if found[1] == "(null)" else re.sub(r"\([^)]*\)|_\*", "", found[1]) + ","
    fine, text = ask("scontrol", "update", f"jobid={job}", f"dependency={known}{dependency}")
    return None if fine else text


def cancel(jobs: Iterable[str]) -> str | None:
    """Cancel jobs; None, or why it was refused."""
    fine, text = ask("scancel", *jobs)
    return None if fine else text
