"""The analysis stage: tasks are handed out, each is kept at once, and the file is put together at the end."""

from __future__ import annotations

import heapq
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from convergence.analysis.file import SCHEMA, VERSION, write_tree
from convergence.analysis.layer import describe_units, pooled_correlation
from convergence.analysis.live import LiveUnits, live_units
from convergence.analysis.plan import Plan, Subject, Task, plan
from convergence.analysis.watch import Watch
from convergence.analysis.worker import Job, close_all, compute, is_done, part_path, read_part, restore_threads
from convergence.config.stages import AnalysisConfig
from convergence.errors import TaskLost, UserError
from convergence.io import hdf5
from convergence.provenance import provenance
from convergence.runs.signals import check
from convergence.statistics.file import ComparisonSums, open_statistics

logger = logging.getLogger(__name__)
SECONDS_BETWEEN_CHECKS = 0.5


class Executor(Protocol):
    """What runs tasks: see :mod:`hpc.dask_executor`."""

    @property
    def slots(self) -> int:
        """Tasks that run at a time, at present."""
        ...

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run ``function(*arguments)``; the future raises TaskLost if the workers that tried it ended."""
        ...


Executors = Callable[[Plan], AbstractContextManager[Executor]]
"""Starts what runs the tasks of a plan."""


def analyze(
    statistics: Path, target: Path, config: AnalysisConfig, digest: str, partial: Path, executors: Executors
) -> None:
    """Compute every pair of every comparison of a statistics file and leave ``target``.

    ``partial`` is a folder for finished tasks; a task found there with the same ``digest`` is not computed again.
    ``executors`` starts what runs the tasks, those of :mod:`hpc.dask_executor` or anything of their shape.

    Raises
    ------
    FileError
        when the statistics file is damaged anywhere.
    UserError
        when tasks ended every worker that tried them; all others are kept.
    """
    live: dict[str, LiveUnits] = {}
    with open_statistics(statistics) as file:
        file.verify()  # once, block by block: tasks read parts of matrices, which have no checksum of their own
        names, source = file.comparisons, file.digest
        comparisons: dict[str, ComparisonSums] = {name: file.sums(name) for name in names}
        live = {name: live_units(sums) for name, sums in comparisons.items()}
        whole = plan([(sums, live[name]) for name, sums in comparisons.items()], config)
    partial.mkdir(parents=True, exist_ok=True)
    job = Job(str(statistics), str(partial), digest, config)
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
            place = places.create_group(name)
            _describe(place, file.sums(name), live[name])
            _fold_in(place, "all_nets", part_path(job, Subject(name)))
            pairs = place.create_group("pairs", track_order=True)
            for task in whole.tasks:
                subject = task.subject
                if task.final and subject.comparison == name and subject.x:
                    there = _fold_in(pairs, f"{subject.x}|{subject.y}", part_path(job, subject))
                    there.attrs["x"], there.attrs["y"] = subject.x, subject.y


def planned(statistics: Path, config: AnalysisConfig) -> Plan:
    """The tasks of an analysis, and what they are expected to take."""
    with open_statistics(statistics) as file:
        comparisons = [file.sums(name) for name in file.comparisons]
        return plan([(sums, live_units(sums)) for sums in comparisons], config)


def _run(job: Job, whole: Plan, executors: Executors) -> None:
    tasks = whole.tasks
    done = found_done(job, tasks)
    if done:
        logger.info("analyze: %d of %d tasks found on disk", len(done), len(tasks))
    if len(done) == len(tasks):
        return
    watch = Watch(tasks, done)
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
            f"{len(lost)} task{'s' * (len(lost) > 1)} ended every worker that tried, three times in a row:\n  {named}\n"
            f"The likely cause is memory: a worker is expected to need up to {whole.memory / 1e9:.2f} GB. Give workers "
            "more (--memory), or start fewer (--workers), or analyse in this process (--workers 1) to see what "
            "happens. All other tasks are kept; the same command tries these again."
        )


def found_done(job: Job, tasks: Sequence[Task]) -> set[int]:
    """Positions of tasks that are on disk: their parts, or the result of their subject."""
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
    executor: Executor,
    submit: Callable[[int], Future[Any]],
    finished: Callable[[int, Any, int], None],
) -> list[int]:
    """Run tasks that are not ``done``, none before those that it comes after, and the first ones first.

    No more are handed out than can run at once: the order is ours, and a worker that ends takes no task with it that
    had not begun. Returns the positions of tasks whose workers ended; those that come after them are left undone.
    Other exceptions of a task end the run and are raised here.
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
                    logger.warning("analyze: lost, three workers ended at it: %s", tasks[index])
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


def _describe(place: Any, sums: ComparisonSums, live: LiveUnits) -> None:
    for key in ("nets", "of_net", "layers", "sources"):
        place.attrs[key] = list(getattr(sums, key))
    place.attrs["epochs"] = np.array(sums.epochs, dtype=np.int64)
    place.attrs["trained"] = np.array(sums.trained)
    write_tree(place, {"units": {"net": sums.unit_net, **describe_units(sums, live)}})
    hdf5.write_array(place, "correlation", pooled_correlation(sums, live), ("unit", "unit"))


def _fold_in(place: Any, name: str, part: Path) -> Any:
    """Copy a part into a new group, held against its checksums on the way."""
    there = place.create_group(name)
    write_tree(there, read_part(part))
    return there
