"""The analysis stage: submit tasks, keep the result of each, and assemble the file at the end."""

from __future__ import annotations

import heapq
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from threadpoolctl import threadpool_limits

from convergence.analysis.active_units import ActiveUnits, active_units, pooled_correlation
from convergence.analysis.assembly import ComparisonRows
from convergence.analysis.layout import SCHEMA, VERSION
from convergence.analysis.plan import Plan, Subject, Task, plan
from convergence.analysis.task_progress import TaskProgress
from convergence.analysis.worker import AnalysisJob, close_all, compute, is_done, part_path, read_part, restore_threads
from convergence.config.stages import AnalysisConfig
from convergence.errors import TaskLost, UserError
from convergence.io import hdf5
from convergence.io.files import create_for_owner
from convergence.provenance import provenance
from convergence.runs.signals import check
from convergence.statistics.file import ComparisonSums, open_statistics

logger = logging.getLogger(__name__)
SECONDS_BETWEEN_CHECKS = 0.5


class TaskExecutor(Protocol):
    """Runs tasks: see :mod:`hpc.dask_executor`."""

    @property
    def slots(self) -> int:
        """Tasks that run at the same time."""
        ...

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run ``function(*arguments)``; the future raises TaskLost if the workers that tried it ended."""
        ...


Executors = Callable[[Plan], AbstractContextManager[TaskExecutor]]
"""Starts the executor of a plan."""


def analyze(
    statistics: Path,
    target: Path,
    config: AnalysisConfig,
    digest: str,
    partial: Path,
    executors: Executors,
    chosen: Sequence[str] = (),
) -> None:
    """Compute every pair of the ``chosen`` comparisons (all if empty) of a statistics file and write ``target``.

    ``partial`` is a folder for finished tasks; a task found there with the same ``digest`` is not computed again.
    ``executors`` starts an executor: see :mod:`hpc.dask_executor`.

    Raises
    ------
    FileError
        for a damaged statistics file.
    UserError
        for tasks whose workers ended three times in a row; results of other tasks are kept.
    """
    live: dict[str, ActiveUnits] = {}
    with open_statistics(statistics) as file:
        names, source = [name for name in file.comparisons if not chosen or name in chosen], file.digest
        for name in names:
            file.verify(name)
        comparisons: dict[str, ComparisonSums] = {name: file.sums(name) for name in names}
        live = {name: active_units(sums) for name, sums in comparisons.items()}
        whole = plan([(sums, live[name]) for name, sums in comparisons.items()], config)
    create_for_owner(partial)
    job = AnalysisJob(str(statistics), str(partial), digest, config)
    try:
        _run(job, whole, executors)
    finally:
        close_all()
        restore_threads()
    attributes = {"digest": digest, "statistics_digest": source, "provenance": json.dumps(provenance())}
    with (
        open_statistics(statistics) as file,
        threadpool_limits(1),
        hdf5.create(target, SCHEMA, VERSION, attributes) as out,
    ):
        places = out.create_group("comparisons", track_order=True)
        for name in names:
            sums = file.sums(name)
            rows = ComparisonRows(sums, live[name])
            for task in whole.tasks:
                subject = task.subject
                if task.final and subject.comparison == name and subject.x:
                    rows.add_pair(subject.x, subject.y, read_part(part_path(job, subject)))
            rows.add_nets(read_part(part_path(job, Subject(name))))
            rows.add_summaries()
            rows.add_matrix("correlation", pooled_correlation(sums, live[name]))
            rows.write(places.create_group(name))


def planned(statistics: Path, config: AnalysisConfig) -> Plan:
    """The tasks of an analysis, with their expected time and memory."""
    with open_statistics(statistics) as file:
        comparisons = [file.sums(name) for name in file.comparisons]
        return plan([(sums, active_units(sums)) for sums in comparisons], config)


def _run(job: AnalysisJob, whole: Plan, executors: Executors) -> None:
    tasks = whole.tasks
    done = found_done(job, tasks)
    if done:
        logger.info("analyze: %d of %d tasks found on disk", len(done), len(tasks))
    if len(done) == len(tasks):
        return
    watch = TaskProgress(tasks, done)
    with executors(whole) as executor:
        try:
            lost = run_tasks(
                tasks, done, executor, lambda index: executor.submit(compute, job, tasks[index]), watch.finished
            )
            slots = executor.slots
        finally:
            watch.close()
    watch.summary(slots, whole.memory)
    if lost:
        named = "\n  ".join(str(tasks[index]) for index in lost[:10]) + ("\n  …" if len(lost) > 10 else "")
        raise UserError(
            f"{len(lost)} task{'s' * (len(lost) > 1)} failed: three workers in a row ended while computing"
            f" {'them' if len(lost) > 1 else 'it'}:\n  {named}\n"
            f"The likely cause is memory: a worker needs up to {whole.memory / 1e9:.2f} GB. Give workers more memory "
            "(--memory), start fewer (--workers), or analyse in this process (--workers 1) to see the error. "
            "Results of other tasks are kept; the same command retries these."
        )


def found_done(job: AnalysisJob, tasks: Sequence[Task]) -> set[int]:
    """Positions of tasks with results on disk: their parts, or the result of their subject."""
    finished = {task.subject: is_done(part_path(job, task.subject), job.digest) for task in tasks if task.final}
    return {
        index
        for index, task in enumerate(tasks)
        if finished[task.subject]
        or (not task.final and all(is_done(part_path(job, task.subject, step), job.digest) for step in task.steps))
    }


def run_tasks(
    tasks: Sequence[Task],
    done: set[int],
    executor: TaskExecutor,
    submit: Callable[[int], Future[Any]],
    finished: Callable[[int, Any, int], None],
) -> list[int]:
    """Run tasks that are not ``done``, in their order, each after its predecessors.

    At most ``slots`` tasks are submitted at a time, so that a worker that ends loses no task that has not begun.
    Returns the positions of tasks whose workers ended; their successors are not run. Other exceptions are raised.
    """
    waits = {k: {j for j in task.after if j not in done} for k, task in enumerate(tasks) if k not in done}
    followers: dict[int, list[int]] = {}
    for k, before in waits.items():
        for j in before:
            followers.setdefault(j, []).append(k)
    ready = [k for k, before in waits.items() if not before]
    heapq.heapify(ready)
    running: dict[Future[Any], int] = {}
    lost: list[int] = []
    try:
        while ready or running:
            while ready and len(running) < executor.slots:
                index = heapq.heappop(ready)
                running[submit(index)] = index
                check()
            for future in wait(running, SECONDS_BETWEEN_CHECKS, FIRST_COMPLETED).done:
                index = running.pop(future)
                try:
                    finished(index, future.result(), executor.slots)
                except TaskLost:
                    logger.warning("analyze: failed, three workers ended: %s", tasks[index])
                    lost.append(index)
                    continue
                for k in followers.get(index, ()):
                    waits[k].discard(index)
                    if not waits[k]:
                        heapq.heappush(ready, k)
            check()
    finally:
        for future in running:
            future.cancel()
    return sorted(lost)
