"""Worker processes as jobs of a batch system, through dask-jobqueue: for analyses that outgrow one machine.

The scheduler stays in the process that was started, on a login node or in a job of its own; its workers come and go
with their jobs. A worker leaves before its job's time is over, and another job takes its place.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from convergence.errors import UserError
from hpc.tasks import LOOPBACK, SETTINGS, Executor, Workers, certificates_in, client_of, settings, web_server

logger = logging.getLogger(__name__)
DEATH_S = 120
"""Seconds after which a worker ends that has lost its scheduler, or never found it."""
LEAVES_BEFORE_MIN = 2.0
"""Minutes before the time limit of its job at which a worker leaves, at most; a tenth of short limits."""


@dataclass(frozen=True)
class BatchJob:
    """What a worker's job asks for.

    Attributes
    ----------
    queue, account : of the batch system; None for its defaults
    cores, memory_gb, walltime_min : of a job, which is one worker
    directives : further options of the scheduler, as they are
    prologue : shell lines before the worker starts
    python : interpreter
    interface : network interface on which scheduler and workers talk, for example ib0; None for the default one
    leave_out : directives that the site does not take
    """

    queue: str | None
    account: str | None
    cores: int
    memory_gb: float
    walltime_min: int
    directives: tuple[str, ...]
    prologue: tuple[str, ...]
    python: str
    interface: str | None = None
    leave_out: tuple[str, ...] = ()


@contextmanager
def on_slurm(workers: Workers, number: int, job: BatchJob, folder: Path) -> Iterator[Executor]:
    """So many worker jobs of Slurm; logs and, while they run, certificates go to ``folder``."""
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise UserError(
            "workers as Slurm jobs need the package dask-jobqueue: pip install 'convergent-learning[slurm]'."
        ) from error

    with (
        settings(workers.dashboard),
        _secret_folder(folder) as secret,
        SLURMCluster(
            queue=job.queue, account=job.account, cores=job.cores, processes=1, memory=f"{job.memory_gb} GiB",
            walltime=_time(job.walltime_min), job_extra_directives=list(job.directives), python=job.python,
            job_script_prologue=[*job.prologue, *_environment(workers.dashboard)], job_name="convergence-worker",
            job_directives_skip=list(job.leave_out), log_directory=str(folder), death_timeout=DEATH_S,
            local_directory="${TMPDIR:-/tmp}", interface=job.interface, protocol="tls://",
            security=certificates_in(secret),
            scheduler_options=web_server(workers.dashboard),
            worker_extra_args=["--no-dashboard", "--dashboard-address", f"{LOOPBACK}:0", *_lifetime(workers, job)],
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):  # fmt: skip
        cluster.adapt(minimum=number, maximum=number, interval="2 s")  # jobs that end are replaced
        logger.info("analyze: up to %d worker jobs; their logs are in %s", number, folder)
        with client_of(cluster, workers.dashboard) as executor:
            yield executor


@contextmanager
def _secret_folder(folder: Path) -> Iterator[Path]:
    """A folder for keys, readable by its owner only, that goes with the cluster."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tls-", dir=folder) as secret:
        yield Path(secret)


def _lifetime(workers: Workers, job: BatchJob) -> list[str]:
    """Options with which a worker leaves in time, workers of one minute not all at once."""
    margin = min(LEAVES_BEFORE_MIN, job.walltime_min / 10)
    minutes = workers.lifetime_min if workers.lifetime_min is not None else job.walltime_min - 2 * margin
    return ["--lifetime", f"{60 * minutes:.0f}s", "--lifetime-stagger", f"{60 * margin:.0f}s"]


def _environment(dashboard: bool) -> list[str]:
    """Dask's settings for processes that read none of ours."""
    values = {**SETTINGS, "distributed.worker.http.routes": [] if not dashboard else None}
    return [
        f"export DASK_{key.replace('.', '__').replace('-', '_').upper()}='{value}'"
        for key, value in values.items()
        if value is not None and key.startswith("distributed.worker")
    ] + [f"cd {os.getcwd()!r}"]


def _time(minutes: int) -> str:
    return f"{minutes // 1440}-{minutes % 1440 // 60:02d}:{minutes % 60:02d}:00"
