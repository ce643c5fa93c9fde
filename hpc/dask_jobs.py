"""Dask workers as jobs of a batch system, through dask-jobqueue: for analyses that need more than one machine.

The scheduler runs in the calling process, on a login node or in a job. Each worker is one job. A worker retires before
the time limit of its job, and another job replaces it. A worker's scratch folder is private and new, as that of
:mod:`hpc.dask_executor`, and the working folder is not on its search path for imports.
"""

from __future__ import annotations

import logging
import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convergence.errors import UserError
from convergence.io.files import private_folder
from hpc.dask_executor import LOOPBACK, SETTINGS, Executor, Workers, certificates_in, client_of, settings, web_server

logger = logging.getLogger(__name__)
DEATH_S = 120
"""Seconds without a scheduler after which a worker ends."""
RETIREMENT_MARGIN_MIN = 2.0
"""Minutes between a worker's retirement and the time limit of its job, at most; a tenth of a short limit."""

MAKE_SCRATCH = (
    "import tempfile; from convergence.io.files import SCRATCH, scratch_place; "
    "print(tempfile.mkdtemp(prefix=SCRATCH, dir=scratch_place()))"
)
"""Program that makes the scratch folder of a worker on its machine."""


@dataclass(frozen=True)
class BatchJob:
    """Resources and options of a worker's job.

    Attributes
    ----------
    queue, account : of the batch system; None for its defaults
    cores, memory_gb, walltime_min : of a job, which is one worker
    directives : further directives for the batch system, verbatim
    prologue : shell lines to run before the worker starts
    python : path of the interpreter
    interface : network interface between scheduler and workers, for example ib0; None for the default
    leave_out : directives to omit because the site rejects them
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
    """Start ``number`` worker jobs of Slurm; ``folder`` gets their logs and, while they run, the certificates."""
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise UserError(
            "workers as Slurm jobs need the package dask-jobqueue: pip install 'convergent-learning[slurm]'."
        ) from error

    with (
        settings(workers.dashboard, fallback=private_folder(folder)),
        _secret_folder(folder) as secret,
        SLURMCluster(
            queue=job.queue, account=job.account, cores=job.cores, processes=1, memory=f"{job.memory_gb} GiB",
            walltime=_time(job.walltime_min), job_extra_directives=list(job.directives), python=job.python,
            job_script_prologue=prologue(job, workers.dashboard), job_name="convergence-worker",
            job_directives_skip=list(job.leave_out), log_directory=str(folder), death_timeout=DEATH_S,
            local_directory='"$CONVERGENCE_SCRATCH"', job_cls=_job_class(secret), interface=job.interface, protocol="tls://",
            security=certificates_in(secret),
            scheduler_options=web_server(workers.dashboard),
            worker_extra_args=["--no-dashboard", "--dashboard-address", f"{LOOPBACK}:0", *_lifetime(workers, job)],
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):  # fmt: skip
        cluster.adapt(minimum=number, maximum=number, interval="2 s")  # replaces jobs that end
        logger.info("analyze: up to %d worker jobs; their logs are in %s", number, folder)
        with client_of(cluster, workers.dashboard) as executor:
            yield executor


@contextmanager
def _secret_folder(folder: Path) -> Iterator[Path]:
    """A folder for keys, readable by its owner only, removed with the cluster."""
    with tempfile.TemporaryDirectory(prefix="tls-", dir=folder) as secret:
        yield Path(secret)


def _job_class(secret: Path) -> Any:
    """A job of dask-jobqueue whose script is written to a private folder, not to the shared one for temporary files."""
    from dask_jobqueue.slurm import SLURMJob

    class Job(SLURMJob):
        @contextmanager
        def job_file(self) -> Iterator[str]:
            with tempfile.NamedTemporaryFile("w", suffix=".sh", dir=secret, encoding="utf-8") as file:
                file.write(self.job_script())
                file.flush()
                yield file.name

    return Job


def prologue(job: BatchJob, dashboard: bool) -> list[str]:
    """Shell lines before a worker starts: its environment, its private scratch folder and the removal of it."""
    return [
        *job.prologue,
        *_environment(dashboard),
        "umask 077",
        "export PYTHONSAFEPATH=1",
        f"CONVERGENCE_SCRATCH=$({job.python} -c {shlex.quote(MAKE_SCRATCH)}) || exit 1",
        """trap 'rm -rf -- "$CONVERGENCE_SCRATCH"' EXIT""",
        'export DASK_TEMPORARY_DIRECTORY="$CONVERGENCE_SCRATCH"',
    ]


def _lifetime(workers: Workers, job: BatchJob) -> list[str]:
    """Options that make a worker retire in time, and workers of the same age at different times."""
    margin = min(RETIREMENT_MARGIN_MIN, job.walltime_min / 10)
    minutes = workers.lifetime_min if workers.lifetime_min is not None else job.walltime_min - 2 * margin
    return ["--lifetime", f"{60 * minutes:.0f}s", "--lifetime-stagger", f"{60 * margin:.0f}s"]


def _environment(dashboard: bool) -> list[str]:
    """Dask's settings as environment variables, for the jobs."""
    values = {**SETTINGS, "distributed.worker.http.routes": [] if not dashboard else None}
    return [
        f"export DASK_{key.replace('.', '__').replace('-', '_').upper()}={shlex.quote(str(value))}"
        for key, value in values.items()
        if value is not None and key.startswith("distributed.worker")
    ] + [f"cd {shlex.quote(os.getcwd())}"]


def _time(minutes: int) -> str:
    return f"{minutes // 1440}-{minutes % 1440 // 60:02d}:{minutes % 60:02d}:00"
