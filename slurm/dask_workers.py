"""Workers of the analysis as Slurm jobs, by the ``[analyze]`` section of a cluster profile."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from convergence.errors import ConfigError
from hpc.dask_executor import Executor, Work, Workers
from hpc.dask_jobs import BatchJob, environment, on_slurm
from hpc.dask_preload import without_working_folder
from slurm import slurm_commands
from slurm.container import container_words, python_words
from slurm.jobs import ROOT, environment_lines, option_lines, search_path
from slurm.profile import AnalyzeResources, read_profile
from slurm.shell import check_paths, literal_pattern

DEFAULT_MEMORY_GB = 4.0
JOB_NAME = "convergence-worker"


def executors(workers: Workers, profile: str, runs: str) -> Callable[[Work], AbstractContextManager[Executor]]:
    """A function that starts worker jobs: ``--workers`` of them, by default ``analyze.workers`` of the profile.

    Raises
    ------
    UserError
        if the profile is not valid, ``--threads`` differs from its cores per worker, or a path cannot be used in jobs.
    """
    resources = worker_resources(read_profile(profile).analyze, workers)
    folder = Path(runs).resolve() / "workers"
    job = batch_job(resources, workers, folder)
    number = workers.number or resources.workers
    return partial(_start, workers, number, job, folder)


def _start(workers: Workers, number: int, job: BatchJob, folder: Path, work: Work) -> AbstractContextManager[Executor]:
    return on_slurm(workers, number, job, folder)


def worker_resources(resources: AnalyzeResources, workers: Workers) -> AnalyzeResources:
    """The resources of one worker: those of the profile with the options of the command line."""
    cores = resources.cpus_per_task or workers.threads
    if workers.threads not in (1, cores):
        raise ConfigError(
            f"--threads is {workers.threads}, but analyze.cpus_per_task of the profile is {cores}. A worker runs one "
            "thread per core: remove one of the two settings."
        )
    memory = workers.memory_gb or resources.memory_gb or DEFAULT_MEMORY_GB
    return resources.model_copy(update={"cpus_per_task": cores, "memory_gb": memory})


def batch_job(resources: AnalyzeResources, workers: Workers, folder: Path) -> BatchJob:
    """The job of one worker; ``folder`` gets its script and its log."""
    cwd, paths = os.getcwd(), search_path(ROOT, without_working_folder(sys.path))
    check_paths((str(folder), cwd))
    check_paths(paths, ":")
    inside = container_words(resources, [str(folder.parent), *paths], cwd)
    submitting = threading.Lock()  # jobs have one name: two at a time could be taken for each other
    known: set[str] = set()
    clusters: dict[str, str] = {}

    def script(commands: Sequence[str]) -> str:
        return worker_script(resources, folder, cwd, paths, environment(workers.dashboard), commands)

    def submit(text: str) -> str:
        with submitting:
            if not known:
                known.update(slurm_commands.queue() or ())
            job, _ = slurm_commands.submit_script(folder, text, resources.keep_variables, known)
            known.add(job.number)
            clusters[job.number] = job.cluster
            return job.number

    return BatchJob(
        cores=resources.cpus_per_task or 1,
        memory_gb=resources.memory_gb or DEFAULT_MEMORY_GB,
        walltime_min=resources.walltime_min,
        python=" ".join([*inside, *python_words(resources, sys.executable), "-P"]),
        script=script,
        submit=submit,
        cancel=lambda job: slurm_commands.cancel([job], clusters.get(job, "")),
        interface=resources.interface,
    )


def worker_script(
    resources: AnalyzeResources, folder: Path, cwd: str, paths: list[str], variables: dict[str, str],
    commands: Sequence[str],
) -> str:  # fmt: skip
    """The sbatch script of a worker; ``variables`` are set beside those of the profile."""
    options = option_lines(
        {"job-name": JOB_NAME, "output": f"{literal_pattern(str(folder))}/{JOB_NAME}-%j.log", "chdir": cwd},
        resources,
        {"no-requeue": True, "comment": str(folder)},
    )
    prepared = resources.model_copy(update={"environment": variables | resources.environment})
    return "\n".join(["#!/bin/bash", *options, "", *environment_lines(prepared, paths), "", *commands, ""])
