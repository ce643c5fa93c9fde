"""Workers of the analysis as Slurm jobs, by the ``[analyze]`` section of a cluster profile."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from convergence.errors import ConfigError
from hpc.dask_executor import Executor, Work, Workers
from hpc.dask_jobs import BatchJob, on_slurm
from slurm.profile import AnalyzeResources, quoted, read_profile

DEFAULT_MEMORY_GB = 4.0


def executors(workers: Workers, profile: str, runs: str) -> Callable[[Work], AbstractContextManager[Executor]]:
    """What starts worker jobs: ``--workers`` of them, else as many as the profile's ``analyze.workers`` says.

    Raises
    ------
    ConfigError
        if the profile cannot be used, or asks for more than a worker's threads can use.
    """
    resources = read_profile(profile).analyze
    job = batch_job(resources, workers)
    number = workers.number or resources.workers
    return lambda work: on_slurm(workers, number, job, Path(runs) / "workers")


def batch_job(resources: AnalyzeResources, workers: Workers) -> BatchJob:
    """A worker's job, as the profile has it for the whole analysis."""
    cores = resources.cpus_per_task or workers.threads
    if workers.threads not in (1, cores):
        raise ConfigError(
            f"a worker job has analyze.cpus_per_task = {cores} cores, one a thread, and --threads asks for "
            f"{workers.threads}. Give one of them."
        )
    named = {"qos": resources.qos, "constraint": resources.constraint, "reservation": resources.reservation}
    directives = [f"--{name}={quoted(value)}" for name, value in named.items() if value is not None]
    prologue = [*resources.setup]
    for module in resources.modules:
        prologue.append(
            f'module load {quoted(module)} || {{ echo "module {module} could not be loaded" >&2; exit 1; }}'
        )
    paths = [path for path in sys.path if path and os.path.isdir(path)]
    prologue.append(f"export PYTHONPATH={quoted(':'.join(paths))}")
    prologue += [f"export {name}={quoted(value)}" for name, value in resources.environment.items()]
    return BatchJob(
        queue=resources.partition,
        account=resources.account,
        cores=cores,
        memory_gb=workers.memory_gb or resources.memory_gb or DEFAULT_MEMORY_GB,
        walltime_min=resources.walltime_min,
        directives=(*directives, *resources.sbatch),
        prologue=tuple(prologue),
        python=quoted(sys.executable),
        interface=resources.interface,
        leave_out=resources.leave_out,
    )
