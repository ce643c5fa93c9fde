"""``convergence submit``: what is missing becomes jobs, once."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from convergence.config import read_config
from convergence.errors import UserError
from convergence.files import atomic_write
from convergence.runs import RunFolder
from slurm import graph, scheduler, source
from slurm.launcher import submit_text
from slurm.profile import ClusterProfile, read_profile
from slurm.records import Records, Submission, SubmittedJob
from slurm.script import Setting, script

OLD_LOCK_S = 900.0


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


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a run's lock while jobs are submitted; the second to come is told, and a dead holder is recognised."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
    for _ in range(2):
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(holder, file)
            break
        except FileExistsError:
            if not _is_stale(path):
                raise UserError(
                    f"{path}: somebody is submitting this run just now ({path.read_text(encoding='utf-8')}). Wait a "
                    "moment and look at `convergence status`."
                ) from None
            path.unlink(missing_ok=True)
    else:
        raise UserError(f"{path}: somebody else took the lock of this run just now. Look at `convergence status`.")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _is_stale(path: Path) -> bool:
    """Whether the holder of a lock has died: on this machine its process is gone, elsewhere the lock is old."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        if holder["host"] == socket.gethostname():
            try:
                os.kill(holder["pid"], 0)
            except ProcessLookupError:
                return True
            return False
    except (OSError, ValueError, KeyError, TypeError):
        pass  # torn, or just being written
    try:
        return time.time() - path.stat().st_mtime > OLD_LOCK_S
    except FileNotFoundError:
        return True


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
