"""Dask workers as jobs of a batch system, through dask-jobqueue: for analyses that need more than one machine.

The scheduler runs in the calling process, on a login node or in a job. Each worker is one job. A worker retires before
the time limit of its job, and another job replaces it. The caller makes the scripts of the jobs, submits and cancels
them, so that worker jobs are treated as all other jobs. A worker's scratch folder is private and new, as that of
:mod:`hpc.dask_executor`, and the working folder is not on its search path for imports.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convergence.errors import UserError
from convergence.io.files import private_folder
from hpc.dask_executor import (
    ADAPT_INTERVAL,
    LOOPBACK,
    SETTINGS,
    Executor,
    Workers,
    certificates_in,
    client_of,
    settings,
    web_server,
)

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
RETRY_S = 60.0
"""Seconds between a refused job and the next try."""


@dataclass(frozen=True)
class BatchJob:
    """The job of a worker.

    Attributes
    ----------
    cores, memory_gb, walltime_min : of a job, which is one worker
    python : shell words that run the interpreter
    script : makes the script of a job from shell lines that prepare the worker and run it
    submit : submits a script; returns the id of its job, or raises a UserError
    cancel : cancels a job
    interface : network interface between scheduler and workers, for example ib0; None for the default
    """

    cores: int
    memory_gb: float
    walltime_min: int
    python: str
    script: Callable[[Sequence[str]], str]
    submit: Callable[[str], str]
    cancel: Callable[[str], object]
    interface: str | None = None


@dataclass
class Refusal:
    """Why the last worker job was not submitted; None if it was."""

    reason: UserError | None = None


class JobExecutor:
    """An executor on worker jobs. It ends with the reason if a job was refused and no worker runs."""

    def __init__(self, executor: Executor, refusal: Refusal, n_workers: Callable[[], int]) -> None:
        self._executor, self._refusal, self._n_workers = executor, refusal, n_workers

    @property
    def slots(self) -> int:
        if self._refusal.reason is not None and self._n_workers() == 0:
            raise self._refusal.reason
        return self._executor.slots

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return self._executor.submit(function, *arguments)


@contextmanager
def on_slurm(workers: Workers, number: int, job: BatchJob, folder: Path) -> Iterator[Executor]:
    """Start ``number`` worker jobs of Slurm; ``folder`` gets their scripts and, while they run, the certificates."""
    try:
        from dask_jobqueue import SLURMCluster
        from dask_jobqueue.core import Job
        from dask_jobqueue.slurm import SLURMJob
    except ImportError as error:
        raise UserError(
            "workers as Slurm jobs need the package dask-jobqueue: pip install 'convergent-learning[slurm]'."
        ) from error

    refusal = Refusal()

    class WorkerJob(SLURMJob):
        """A job whose script, submission and cancellation are those of the caller; a refused job is tried again."""

        submitting: asyncio.Task[None] | None = None

        def job_script(self) -> str:
            return job.script([*worker_lines(job), self._command_template])

        async def start(self) -> None:
            self.closing = asyncio.Event()
            self.submitting = asyncio.create_task(self.submit())
            await super(Job, self).start()  # Job.start() calls sbatch itself

        async def submit(self) -> None:
            while not self.closing.is_set():
                try:
                    self.job_id = await asyncio.to_thread(job.submit, self.job_script())
                except UserError as error:
                    refusal.reason = error
                    logger.warning("analyze: a worker job was not submitted: %s", error)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self.closing.wait(), RETRY_S)
                else:
                    refusal.reason = None
                    return

        async def close(self) -> None:
            if self.submitting is not None:
                self.closing.set()
                await self.submitting
            if self.job_id:
                await asyncio.to_thread(job.cancel, self.job_id)
            await super(Job, self).close()

    class WorkerCluster(SLURMCluster):
        """A cluster whose jobs get the paths of the certificates quoted for a shell."""

        job_cls = WorkerJob

        def _get_worker_security(self, security: Any) -> Any:
            paths = security.get_tls_config_for_role("worker")
            names = {"ca_file": "tls_ca_file", "cert": "tls_worker_cert", "key": "tls_worker_key"}
            return type(security)(**{name: shlex.quote(paths[key]) for key, name in names.items()})

    with (
        settings(workers.dashboard, fallback=private_folder(folder)),
        _secret_folder(folder) as secret,
        WorkerCluster(
            cores=job.cores, processes=1, memory=f"{job.memory_gb} GiB", python=job.python,
            death_timeout=DEATH_S, local_directory='"$CONVERGENCE_SCRATCH"', interface=job.interface, protocol="tls://",
            security=certificates_in(secret), scheduler_options=web_server(workers.dashboard),
            worker_extra_args=["--no-dashboard", "--dashboard-address", f"{LOOPBACK}:0", *_lifetime(workers, job)],
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):  # fmt: skip
        cluster.adapt(minimum=number, maximum=number, interval=ADAPT_INTERVAL)  # replaces jobs that end
        logger.info("analyze: up to %d worker jobs; their logs are in %s", number, folder)
        with client_of(cluster, workers.dashboard) as executor:
            yield JobExecutor(executor, refusal, lambda: len(cluster.scheduler_info["workers"]))


def environment(dashboard: bool) -> dict[str, str]:
    """Dask's settings as environment variables, for the jobs."""
    values = {**SETTINGS, "distributed.worker.http.routes": [] if not dashboard else None}
    return {
        f"DASK_{key.replace('.', '__').replace('-', '_').upper()}": str(value)
        for key, value in values.items()
        if value is not None and key.startswith("distributed.worker")
    }


def worker_lines(job: BatchJob) -> list[str]:
    """Shell lines before a worker starts: its private scratch folder, and the removal of it."""
    return [
        "umask 077",
        f"CONVERGENCE_SCRATCH=$({job.python} -c {shlex.quote(MAKE_SCRATCH)}) || exit 1",
        """trap 'rm -rf -- "$CONVERGENCE_SCRATCH"' EXIT""",
        'export DASK_TEMPORARY_DIRECTORY="$CONVERGENCE_SCRATCH"',
    ]


@contextmanager
def _secret_folder(folder: Path) -> Iterator[Path]:
    """A folder for keys, readable by its owner only, removed with the cluster."""
    with tempfile.TemporaryDirectory(prefix="tls-", dir=folder.resolve()) as secret:
        yield Path(secret)


def _lifetime(workers: Workers, job: BatchJob) -> list[str]:
    """Options that make a worker retire in time, and workers of the same age at different times."""
    margin = min(RETIREMENT_MARGIN_MIN, job.walltime_min / 10)
    minutes = workers.lifetime_min if workers.lifetime_min is not None else job.walltime_min - 2 * margin
    return ["--lifetime", f"{60 * minutes:.0f}s", "--lifetime-stagger", f"{60 * margin:.0f}s"]
