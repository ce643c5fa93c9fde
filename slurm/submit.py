"""``convergence submit`` and ``convergence cancel``; the copy of the code that jobs run.

Jobs run the code and config of their submission, whatever is edited while they wait. The three packages are copied
into ``jobs/code-<hash>/``; submissions of the same code share a copy. Other packages are not copied: their versions
are recorded.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from convergence.checks.findings import CheckError, error_text
from convergence.checks.run import NO_TORCH, can_check, check_run, has_passed, stages_ahead
from convergence.cli.launch import check_code
from convergence.config.load import read_config
from convergence.errors import UserError
from convergence.io.files import atomic_write, create_for_owner, put_folder_in_place
from convergence.provenance import COMMIT_FILE, git_commit, provenance
from convergence.runs.run_folder import RunFolder
from slurm import slurm_commands
from slurm.container import data_paths
from slurm.job_ids import job_number
from slurm.jobs import ScriptSettings, make_jobs, script_text, search_path, unfinished
from slurm.profile import ClusterProfile, read_profile
from slurm.records import Records, Submission, SubmittedJob
from slurm.slurm_commands import QueuedJob
from slurm.status import open_run

logger = logging.getLogger(__name__)
NOTHING = "nothing to submit: all stages are done for these settings"
PACKAGES = ("convergence", "hpc", "slurm")
ROOT = Path(__file__).resolve().parents[1]


def dry_run(config: str, overrides: Sequence[str], runs: str, cluster: str, overwrite: bool = False) -> str:
    """The script of every job, as it would be submitted, with <name> for ids of jobs; writes nothing."""
    folder, profile, records = _open(config, overrides, runs, cluster)
    settings = _script_settings(folder, records, config, overrides, overwrite, code_folder(records.path))
    jobs = make_jobs(unfinished(folder), profile)
    ids = {job.name: f"<{job.name}>" for job in jobs}
    return "\n".join(script_text(profile, job, settings, job.dependency(ids)) for job in jobs) or NOTHING


def check(config: str, overrides: Sequence[str], runs: str, cluster: str, keep: bool = True) -> None:
    """Check a run before its jobs are queued; print warnings. Jobs do not repeat a check that passed and is kept.

    Raises
    ------
    CheckError
        with all faults.
    """
    folder, profile, _ = _open(config, overrides, runs, cluster)
    ahead = stages_ahead(folder)
    if not ahead or has_passed(folder, ahead):
        return
    if not can_check(folder.experiment):
        logger.warning("the run is not checked: %s. The first job checks it.", NO_TORCH)
        return
    check_code(folder.experiment)
    limits = {stage.name: 2**30 * (profile.stage(stage.name).memory_gb or math.inf) for stage in ahead}
    run = check_run(folder, ahead, limits=limits, keep=keep)
    for finding in run.findings:
        if finding.level == "warning" or "computed on the CPU" in finding.found:
            logger.warning("%s: %s: %s", finding.level, finding.check, finding)
    text = error_text(run.findings, f"convergence check {config}")
    if text:
        raise CheckError(text)


def submit(config: str, overrides: Sequence[str], runs: str, cluster: str, overwrite: bool = False) -> str:
    """Submit unfinished stages and return at once, with one line for each job.

    Raises
    ------
    UserError
        if jobs of the run wait or run, another process is submitting it, or Slurm refuses a job; jobs that were
        already submitted are cancelled then.
    """
    folder, profile, records = _open(config, overrides, runs, cluster)
    folder.create()
    with records.lock():
        queued = _refuse_if_active(records)
        jobs = make_jobs(unfinished(folder), profile)
        if not jobs:
            return NOTHING
        settings = _script_settings(folder, records, config, overrides, overwrite, copy_code(records.path))
        create_for_owner(settings.folder / "logs")
        with atomic_write(settings.config) as temporary:
            temporary.write_bytes(Path(config).read_bytes())
        submission = Submission(
            number=settings.number,
            submitted=_now(),
            profile=str(Path(cluster).resolve()),
            config=str(Path(config).resolve()),
            overrides=tuple(overrides),
            environment=_environment(Path(settings.search_path[0])),
        )
        records.write_submission(submission)
        ids: dict[str, str] = {}
        cluster = ""
        try:
            for job in jobs:
                text = script_text(profile, job, settings, job.dependency(ids))
                keep = profile.stage(job.stage).keep_variables
                known = (*queued, *ids.values())
                found, name = slurm_commands.submit_script(settings.folder, text, keep, known)
                ids[job.name], cluster = found.number, found.cluster
                submitted = SubmittedJob(
                    job.name, job.stage, job.tasks, job.array, job.after, found.number, settings.log(job), name,
                    job.after_any, cluster=found.cluster,
                )  # fmt: skip
                submission = replace(submission, jobs=(*submission.jobs, submitted))
                records.write_submission(submission)
        except BaseException as error:
            refusal = slurm_commands.cancel(ids.values(), cluster) if ids else None
            if refusal is not None and isinstance(error, UserError):
                raise UserError(
                    f"{error} The jobs submitted before it could not be cancelled ({refusal}): scancel "
                    f"{' '.join(ids.values())}."
                ) from error
            raise
        records.write_submission(replace(submission, complete=True))
    where = "" if runs == "runs" else f" --runs {runs}"
    lines = [f"submission {settings.number} of {settings.experiment}: {len(jobs)} jobs"]
    lines += [_describe(job) for job in submission.jobs]
    return "\n".join([*lines, f"`convergence status {config}{where}` shows their progress"])


def cancel(run: str, runs: str) -> str:
    """Cancel all jobs of a run; finished and partial results are kept.

    Raises
    ------
    UserError
        if the run was never submitted, or Slurm does not answer or refuses.
    """
    folder, submission = open_run(run, runs)
    if submission is None:
        raise UserError(f"{folder.path}: the run was never submitted, so it has no jobs to cancel.")
    records = Records(folder.path.resolve() / "jobs")
    cluster = records.clusters()
    queued = slurm_commands.queue(cluster)
    if queued is None:
        raise UserError("squeue does not answer. Cancel from a login node of the cluster.")
    ids = _job_ids(records)
    active = [q.job for q in queued.values() if job_number(q.job) in ids and q.state not in slurm_commands.ENDED_STATES]
    if not active:
        return "no job of this run waits or runs"
    refusal = slurm_commands.cancel(active, cluster)
    if refusal is not None:
        raise UserError(f"scancel refused: {refusal}")
    records.write_submission(replace(submission, cancelled=_now()))
    return f"cancelled {', '.join(active)}; `convergence submit` runs the unfinished stages"


def code_folder(jobs_folder: Path) -> Path:
    """Where the copy of the code is, or would be: named by a hash of the files and of their commit."""
    files = [
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    hashing = hashlib.sha256(str(git_commit(ROOT / "convergence")).encode())
    for path in sorted(files):
        hashing.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return jobs_folder / f"code-{hashing.hexdigest()[:12]}"


def copy_code(jobs_folder: Path) -> Path:
    """Copy the packages, unless the copy exists; file times are kept, so that compiled files stay valid."""
    folder = code_folder(jobs_folder)
    if folder.exists():
        return folder
    create_for_owner(jobs_folder)
    temporary = Path(tempfile.mkdtemp(prefix=".code-", dir=jobs_folder))
    try:
        for package in PACKAGES:
            shutil.copytree(ROOT / package, temporary / package, copy_function=_copy)
        commit = git_commit(ROOT / "convergence")
        if commit:
            (temporary / COMMIT_FILE).write_text(commit + "\n", encoding="utf-8")
        put_folder_in_place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _copy(source: str, target: str) -> None:
    """Copy a file; a compiled file that a compiler removes meanwhile is skipped."""
    try:
        shutil.copy2(source, target)
    except FileNotFoundError:
        if "__pycache__" not in source:
            raise


def _environment(code: Path) -> dict[str, Any]:
    """The environment of a submission, for its record."""
    return {
        "python": sys.executable,
        "prefix": sys.prefix,
        "host": platform.node(),
        "cwd": os.getcwd(),
        "code": str(code),
        "search_path": search_path(str(code)),
        "provenance": provenance(),
    }


def _refuse_if_active(records: Records) -> dict[str, QueuedJob]:
    """Raise a UserError if jobs of the run wait or run; cancel jobs that can never start; return the queue."""
    cluster = records.clusters()
    queued = slurm_commands.queue(cluster)
    if queued is None:
        raise UserError(
            "squeue does not answer, so it is not known whether jobs of this run wait or run. Submit from a login node "
            "of the cluster, or print the scripts with --dry-run."
        )
    ids, run = _job_ids(records), str(records.path.parent)
    of_run = [q for q in queued.values() if job_number(q.job) in ids or q.comment == run]
    active = [q for q in of_run if q.is_active]
    if active:
        listed = ", ".join(f"{q.job} ({q.state.lower()})" for q in active[:8]) + (", …" if len(active) > 8 else "")
        raise UserError(
            f"{run}: the run is already submitted. Its jobs: {listed}. See `convergence status`, or stop them with "
            "`convergence cancel` and submit again."
        )
    never_start = [q.job for q in of_run if q.state == "PENDING"]
    if never_start:
        slurm_commands.cancel(never_start, cluster)
    return queued


def _job_ids(records: Records) -> set[str]:
    return {job.job for submission in records.submissions() for job in submission.jobs}


def _open(config: str, overrides: Sequence[str], runs: str, cluster: str) -> tuple[RunFolder, ClusterProfile, Records]:
    experiment = read_config(config, overrides)
    folder = RunFolder(Path(runs) / experiment.name, experiment)
    folder.data.doubt_changes()
    folder.weights.doubt_changes()
    return folder, read_profile(cluster), Records(folder.path.resolve() / "jobs")


def _code_folders(folder: RunFolder) -> list[str]:
    """Folders beside the config that hold code of its networks."""
    found = [net.network.code_folder() for net in folder.experiment.all_nets() if net.network is not None]
    found += [folder.experiment.data.code_folder()] if folder.experiment.data is not None else []
    return [str(path) for path in dict.fromkeys(found) if path is not None]


def _script_settings(
    folder: RunFolder, records: Records, config: str, overrides: Sequence[str], overwrite: bool, code: Path
) -> ScriptSettings:
    latest = records.latest()
    data, texts = data_paths(folder.experiment, os.getcwd())
    settings = ScriptSettings(
        experiment=folder.experiment.name,
        number=latest.number + 1 if latest else 1,
        run=folder.path.resolve(),
        python=sys.executable,
        search_path=tuple(dict.fromkeys([*search_path(str(code)), *_code_folders(folder)])),
        cwd=os.getcwd(),
        data=(str(Path(config).resolve().parent), *data),
        data_texts=tuple(texts),
        overrides=tuple(overrides),
        overwrite=overwrite,
        allowed_code=check_code(folder.experiment),
    )
    settings.check()
    return settings


def _describe(job: SubmittedJob) -> str:
    tasks = f"array of {len(job.tasks)}: {', '.join(job.tasks)}" if job.array else job.tasks[0]
    after = [*job.after, *job.after_any]
    return f"  {job.job:<8} {job.name:<18} {tasks}" + (f", after {', '.join(after)}" if after else "")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
