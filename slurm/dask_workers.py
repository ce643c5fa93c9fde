"""Workers of the analysis as Slurm jobs, by the ``[analyze]`` section of a cluster profile."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from convergence.errors import ConfigError
from hpc.dask_executor import Executor, Work, Workers
from hpc.dask_jobs import BatchJob, on_slurm
from hpc.dask_preload import without_working_folder
from slurm.jobs import environment_lines
from slurm.profile import AnalyzeResources, read_profile

DEFAULT_MEMORY_GB = 4.0


def executors(workers: Workers, profile: str, runs: str) -> Callable[[Work], AbstractContextManager[Executor]]:
    """A function that starts worker jobs: ``--workers`` of them, by default ``analyze.workers`` of the profile.

    Raises
    ------
    ConfigError
        if the profile is not valid, or ``--threads`` differs from its cores per worker.
    """
    resources = read_profile(profile).analyze
    job = batch_job(resources, workers)
    number = workers.number or resources.workers
    return lambda work: on_slurm(workers, number, job, Path(runs) / "workers")


def batch_job(resources: AnalyzeResources, workers: Workers) -> BatchJob:
    """The job of one worker."""
    cores = resources.cpus_per_task or workers.threads
    if workers.threads not in (1, cores):
        raise ConfigError(
            f"--threads is {workers.threads}, but analyze.cpus_per_task of the profile is {cores}. A worker runs one "
            "thread per core: remove one of the two settings."
        )
    named = {"qos": resources.qos, "constraint": resources.constraint, "reservation": resources.reservation}
    directives = [f"--{name}={shlex.quote(value)}" for name, value in named.items() if value is not None]
    paths = [path for path in without_working_folder(sys.path) if path and os.path.isdir(path)]
    return BatchJob(
        queue=resources.partition,
        account=resources.account,
        cores=cores,
        memory_gb=workers.memory_gb or resources.memory_gb or DEFAULT_MEMORY_GB,
        walltime_min=resources.walltime_min,
        directives=(*directives, *resources.sbatch),
        prologue=tuple(environment_lines(resources, paths)),
        python=shlex.quote(sys.executable),
        interface=resources.interface,
        leave_out=resources.leave_out,
    )
