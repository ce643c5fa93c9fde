"""Slurm's commands: each runs with a time limit and without the variables of a surrounding job, and has one parser.

Sites disable accounting, purge ended jobs after minutes, answer slowly and wrap commands in scripts that print banners.
A query that does not answer gives None or an empty result, never an exception.

All jobs are submitted by :func:`sbatch`: the stages, through submitit, which is imported here only; the replacement of
a job; the workers of the analysis. What ``sbatch`` printed is read by :func:`slurm.job_ids.submitted_ids`.
"""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from convergence.errors import UserError
from slurm.environment import submission_environment
from slurm.job_ids import JobId, listed_ids, plain_lines, submitted_ids
from slurm.shell import directives

TIMEOUT_S = 30.0
SUBMIT_TIMEOUT_S = 120.0
SHOWN = 400
"""Characters of a command's output that a message quotes."""
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
    name : the job's name
    """

    job: str
    state: str
    reason: str
    node: str
    comment: str
    name: str = ""

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
    code, out, errors = _run(command, timeout, env)
    return code == 0, out if code == 0 else (errors or out).strip()


def queue(cluster: str = "") -> dict[str, QueuedJob] | None:
    """Jobs of this user by id, recently ended jobs included; None if ``squeue`` does not answer.

    ``cluster`` names another cluster of a federation; several are separated by commas.
    """
    where = ("-M", cluster) if cluster else ()
    ok, text = _query("squeue", *where, "-h", "-r", "-t", "all", "-u", str(os.getuid()), "-o", "%i|%T|%r|%N|%k|%j")
    return parse_queue(text) if ok else None


def parse_queue(text: str) -> dict[str, QueuedJob]:
    """Parse the output of ``squeue -o '%i|%T|%r|%N|%k|%j'``; lines of banners are skipped."""
    found = {}
    for line in plain_lines(text):
        row = [field.strip() for field in line.split("|", 4)]
        if len(row) < 5:
            continue
        comment, separator, name = row[4].rpartition("|")
        for job in listed_ids(row[0]):
            found[job] = QueuedJob(job, row[1], row[2], row[3], *((comment, name) if separator else (row[4], "")))
    return found


def job_has_ended(job: str) -> bool | None:
    """Whether a job has ended or is not known to Slurm any more; None if ``squeue`` does not answer."""
    if not re.fullmatch(r"\d+(_\d+)?", job):
        return None
    ok, text = _query("squeue", "-h", "-j", job, "-t", "all", "-o", "%T")
    if not ok:
        return True if "Invalid job id" in text else None
    return all(state in ENDED_STATES for state in plain_lines(text))


def ended_states(jobs: Iterable[str], cluster: str = "") -> dict[str, str]:
    """Slurm's states of ended jobs by id, from ``sacct``; jobs that the accounting does not know are missing."""
    listed, where = ",".join(sorted(set(jobs))), ("-M", cluster) if cluster else ()
    ok, text = _query("sacct", *where, "-n", "-P", "-X", "-j", listed, "-o", "JobID,State") if listed else (False, "")
    return parse_accounting(text) if ok else {}


def parse_accounting(text: str) -> dict[str, str]:
    """Parse the output of ``sacct -n -P -o JobID,State``; "CANCELLED by 0" becomes "CANCELLED"."""
    rows = [line.split("|") for line in plain_lines(text)]
    return {job: row[1].split()[0] for row in rows if len(row) == 2 and row[1].split() for job in listed_ids(row[0])}


def job_info(job: str) -> JobInfo | None:
    """What the controller knows about a job that has not ended; None if it does not answer."""
    ok, text = _query("scontrol", "show", "job", "-o", job)
    return parse_job(text) if ok else None


def parse_job(text: str) -> JobInfo | None:
    """Parse the output of ``scontrol show job -o``; dependencies are given as ``scontrol update`` takes them."""
    line = next((line for line in plain_lines(text) if "JobState=" in line), "")
    fields = dict(field.split("=", 1) for field in line.split() if "=" in field)
    if "JobState" not in fields:
        return None
    restarts, dependency = fields.get("Restarts", "0"), fields.get("Dependency", "(null)")
    dependency = "" if dependency == "(null)" else re.sub(r"\([^)]*\)|_\*", "", dependency)
    return JobInfo(fields["JobState"], int(restarts) if restarts.isdigit() else 0, dependency)


def requeue(job: str) -> str | None:
    """Put a running job back into the queue; returns None, or why Slurm refused."""
    ok, text = _query("scontrol", "requeue", job)
    return None if ok else text


def add_dependency(job: str, dependency: str) -> str | None:
    """Make a waiting job depend on one more, for example "afterok:12"; returns None, or why Slurm refused."""
    info = job_info(job)
    if info is None:
        return "scontrol show job does not answer"
    value = ",".join(filter(None, (info.dependency, dependency)))
    ok, text = _query("scontrol", "update", f"jobid={job}", f"dependency={value}")
    return None if ok else text


def cancel(jobs: Iterable[str], cluster: str = "") -> str | None:
    """Cancel jobs; returns None, or why Slurm refused."""
    ok, text = _query("scancel", *(("-M", cluster) if cluster else ()), *jobs)
    return None if ok else text


def submit_script(
    folder: Path, text: str, keep: Collection[str] = (), known: Collection[str] = ()
) -> tuple[JobId, str]:
    """Submit a script; returns Slurm's job id and the name of the file in ``folder`` that holds the script.

    ``keep`` and ``known`` are those of :func:`sbatch`.

    Raises
    ------
    UserError
        if submitit or Slurm is not installed, and as :func:`sbatch`.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            f"submitit cannot be imported ({error}). Jobs are submitted through it: pip install "
            "'convergent-learning[slurm]'."
        ) from error

    class TextExecutor(submitit.SlurmExecutor):
        """Submits a given text by :func:`sbatch`; submitit's own scripts unpickle a Python function."""

        def _submit_command(self, command: str) -> submitit.Job:
            script = folder / f".submission_{uuid.uuid4().hex}.sh"
            script.write_bytes(command.encode("utf-8", "surrogateescape"))
            try:
                self.submitted = sbatch(script, (), keep, known)
                os.replace(script, folder / f"{self.submitted.number}_submission.sh")
            finally:
                script.unlink(missing_ok=True)
            return self.job_class(folder=folder, job_id=self.submitted.number)

    try:
        executor = TextExecutor(folder)
    except RuntimeError as error:
        raise UserError(f"{error} Submit from a login node, or print the scripts with --dry-run.") from error
    executor._submit_command(text)
    return executor.submitted, f"{executor.submitted.number}_submission.sh"


def submit_again(script: str, after: str, array_task: int | None, keep: Collection[str] = ()) -> str:
    """Submit a script again from inside a job, to start when job ``after`` has ended; returns Slurm's job id.

    ``array_task`` chooses one task of an array.

    Raises
    ------
    UserError
        as :func:`sbatch`.
    """
    options = [f"--dependency=afterany:{after}"]
    options += [] if array_task is None else [f"--array={array_task}"]
    known = queue() or {}
    return sbatch(Path(script), options, keep, known).number


def sbatch(script: Path, options: Sequence[str] = (), keep: Collection[str] = (), known: Collection[str] = ()) -> JobId:
    """Submit a script without the variables of the surrounding job; returns the id of its job.

    ``keep`` names variables of the surrounding job to pass on: ``keep_variables`` of the profile. The job name and the
    comment of the script identify its job in the queue, unless the id is one of ``known``: the jobs from before.

    Raises
    ------
    UserError
        if sbatch refuses the job, or its output does not tell the id. A job that was submitted all the same is looked
        up in the queue and cancelled, and the message says so.
    """
    try:
        settings = directives(script.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError:
        settings = {}
    environ = submission_environment(os.environ, keep, settings)
    command = ("sbatch", "--parsable", *options, str(script))
    code, out, errors = _run(command, SUBMIT_TIMEOUT_S, environ)
    printed = " ".join(plain_lines(f"{errors}\n{out}"))
    shown = printed[:SHOWN] + ("…" if len(printed) > SHOWN else "")
    ids = submitted_ids(out) or submitted_ids(errors)
    if code == 0 and len(ids) == 1:
        return ids[0]
    cluster = ",".join({job.cluster for job in ids if job.cluster})
    queued = queue(cluster)
    found = _jobs_of(settings, queued or {}, known)
    named = [job for job in ids if job.number in found]
    if code == 0 and len(named) == 1:
        return named[0]
    if code and not found and not ids:
        raise UserError(
            f"sbatch refused a job: {shown or 'no reason given'}. Correct the options of the stage in the cluster "
            "profile, or list options that the site does not accept in leave_out."
        )
    if not found and len(ids) == 1 and f"batch job {ids[0].number}" in printed:
        found = [ids[0].number]
    ended = "did not answer in time" if code is None else f"ended with exit code {code}"
    raise UserError(
        f'sbatch {ended}, and its output "{shown}" does not tell the id of one job. '
        f"{_cancel_unread(settings, found, queued is not None, cluster)} "
        'An sbatch of the site must print "Submitted batch job N", "N" or "N;cluster": put Slurm\'s own sbatch before '
        "it on the PATH, then submit again."
    )


def _jobs_of(settings: Mapping[str, str], queued: Mapping[str, QueuedJob], known: Collection[str]) -> list[str]:
    """Numbers of active jobs in the queue with the name and the comment of a script, without those of ``known``."""
    name, comment = settings.get("job-name"), settings.get("comment")
    numbers = [
        job.job.partition("_")[0]
        for job in queued.values()
        if job.is_active and job.name in (name, "") and job.comment in (comment, "", "(null)")
        and (job.name == name or job.comment == comment) and (name or comment)
    ]  # fmt: skip
    old = {job.partition("_")[0] for job in known}
    return [number for number in dict.fromkeys(numbers) if number not in old]


def _cancel_unread(settings: Mapping[str, str], found: Sequence[str], answered: bool, cluster: str) -> str:
    """Cancel a job whose id was not understood; returns a sentence that says what happened."""
    name = settings.get("job-name", "?")
    if not found:
        place = "No such job is in the queue" if answered else "squeue does not answer, so the job was not looked up"
        return f"{place}: look with `squeue --me --name={name}`, and cancel a job that is there with scancel."
    listed = ", ".join(found)
    refusal = cancel(found, cluster)
    if refusal is not None:
        return f"Job {listed} ({name}) was submitted and could not be cancelled ({refusal}): scancel {' '.join(found)}."
    return f"Job {listed} ({name}) was submitted all the same and has been cancelled."


def _query(*command: str) -> tuple[bool, str]:
    """Run a command of Slurm without variables that choose other jobs, another cluster or another format."""
    return run_command(*command, env=submission_environment(os.environ))


def _run(command: Sequence[str], timeout: float, env: Mapping[str, str] | None) -> tuple[int | None, str, str]:
    """Run a command; returns its exit code, None if it was stopped after ``timeout`` seconds, and both outputs."""
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, text=True, encoding="utf-8", errors="replace",
            timeout=timeout, env=env,
        )  # fmt: skip
    except FileNotFoundError:
        return 127, "", f"the command {command[0]} is not installed"
    except subprocess.TimeoutExpired as error:
        parts = [part.decode("utf-8", "replace") if isinstance(part, bytes) else part or ""
                 for part in (error.stdout, error.stderr)]  # fmt: skip
        return None, parts[0], parts[1] or str(error)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return 126, "", str(error)
    return done.returncode, done.stdout, done.stderr
