"""``convergence submit``: what is missing becomes jobs, once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from convergence.config.load import read_config
from convergence.errors import UserError
from convergence.io.files import atomic_write
from convergence.runs.run_folder import RunFolder
from slurm import graph, scheduler, source
from slurm.launcher import submit_text
from slurm.lock import lock
from slurm.profile import ClusterProfile, read_profile
from slurm.records import Records, Submission, SubmittedJob
from slurm.script import Setting, script


def dry_run(config: str, overrides: Sequence[str], runs: str, cluster: str, overwrite: bool = False) -> str:
    """The text of every job, as it would be submitted; writes nothing. Ids of jobs stand as <name>."""
    folder, profile = _read(config, overrides, runs, cluster)
    records = Records(folder.path.resolve() / "jobs")
    setting = _setting(folder, records, overrides, overwrite, source.place(records.path))
    jobs = graph.jobs(graph.missing(folder), profile)
    names = {job.name: f"<{job.name}>" for job in jobs}
    return "\n".join(script(profile, job, setting, _dependency(job, names)) for job in jobs) or NOTHING


NOTHING = "nothing to submit: all stages are done for these settings"


def submit(config: str, overrides: Sequence[str], runs: str, cluster: str, overwrite: bool = False) -> str:
    """Submit what is missing and return at once, with a line for each job.

    Raises
    ------
    UserError
        when jobs of the run are waiting or running, somebody is submitting it just now, or Slurm refuses a job; the
        jobs that were submitted before that are cancelled.
    """
    folder, profile = _read(config, overrides, runs, cluster)
    folder.create()
    records = Records(folder.path.resolve() / "jobs")
    with lock(records.path):
        refuse_if_busy(records)
        jobs = graph.jobs(graph.missing(folder), profile)
        if not jobs:
            return NOTHING
        setting = _setting(folder, records, overrides, overwrite, source.keep(records.path))
        (setting.folder / "logs").mkdir(parents=True)
        with atomic_write(setting.config) as temporary:
            temporary.write_bytes(Path(config).read_bytes())
        submission = Submission(
            number=setting.number,
            submitted=datetime.now(UTC).isoformat(timespec="seconds"),
            profile=str(Path(cluster).resolve()),
            config=str(Path(config).resolve()),
            overrides=tuple(overrides),
            environment=source.environment(Path(setting.search_path[0])),
        )
        records.write_submission(submission)
        ids: dict[str, str] = {}
        try:
            for job in jobs:
                text = script(profile, job, setting, _dependency(job, ids))
                ids[job.name], name = submit_text(setting.folder, text)
                done = SubmittedJob(
                    job.name, job.stage, job.pieces, job.array, job.after, ids[job.name], setting.log(job), name,
                    job.after_any,
                )  # fmt: skip
                submission = replace(submission, jobs=(*submission.jobs, done))
                records.write_submission(submission)
        except BaseException:
            if ids:
                scheduler.cancel(ids.values())
            raise
        records.write_submission(replace(submission, complete=True))
    lines = [f"submission {setting.number} of {setting.experiment}: {len(jobs)} jobs"]
    lines += [f"  {job.job:<8} {job.name:<18} {_pieces(job)}{_after(job)}" for job in submission.jobs]
    where = "" if runs == "runs" else f" --runs {runs}"
    return "\n".join([*lines, f"`convergence status {config}{where}` tells how they are getting on"])


def refuse_if_busy(records: Records) -> None:
    """A UserError when jobs of the run wait or run; those that can never start any more are cancelled."""
    mine = {job.job for submission in records.submissions() for job in submission.jobs}
    queued = scheduler.queue()
    if queued is None:
        raise UserError(
            "squeue does not answer, so nobody can tell whether jobs of this run are there already. Submit from a "
            "login node of the cluster, or see the jobs with --dry-run."
        )
    here = str(records.path.parent)
    of_run = [q for q in queued.values() if q.job.split("_")[0] in mine or q.comment == here]
    alive = [q for q in of_run if q.alive]
    if alive:
        listed = ", ".join(f"{q.job} ({q.state.lower()})" for q in alive[:8]) + (", …" if len(alive) > 8 else "")
        raise UserError(
            f"{here}: the run is submitted already, and nothing may run twice. Its jobs: {listed}. See `convergence "
            "status`, or end them with `convergence cancel`; then submit again what is missing."
        )
    stuck = [q.job for q in of_run if q.state == "PENDING"]
    if stuck:
        scheduler.cancel(stuck)


def _read(config: str, overrides: Sequence[str], runs: str, cluster: str) -> tuple[RunFolder, ClusterProfile]:
    experiment = read_config(config, overrides)
    return RunFolder(Path(runs) / experiment.name, experiment), read_profile(cluster)


def _setting(folder: RunFolder, records: Records, overrides: Sequence[str], overwrite: bool, code: Path) -> Setting:
    latest = records.latest()
    return Setting(
        experiment=folder.experiment.name,
        number=latest.number + 1 if latest else 1,
        run=folder.path.resolve(),
        python=sys.executable,
        search_path=tuple(source.search_path(code)),
        cwd=os.getcwd(),
        overrides=tuple(overrides),
        overwrite=overwrite,
    )


def _dependency(job: graph.Job, ids: dict[str, str]) -> str:
    """What a job waits for, in Slurm's words."""
    parts = [f"afterok:{':'.join(ids[name] for name in job.after)}"] if job.after else []
    if job.after_any:
        parts.append(f"afterany:{':'.join(ids[name] for name in job.after_any)}")
    return ",".join(parts)


def _pieces(job: SubmittedJob) -> str:
    return f"array of {len(job.pieces)}: {', '.join(job.pieces)}" if job.array else job.pieces[0]


def _after(job: SubmittedJob) -> str:
    names = [*job.after, *job.after_any]
    return f", after {', '.join(names)}" if names else ""
