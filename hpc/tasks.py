"""The one door to Dask: an executor in the shape of ``concurrent.futures`` for many independent tasks.

One worker runs tasks in this process. More start a Dask cluster of processes on this machine that listens on the
loopback interface only, without a dashboard. Results never depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Executor(Protocol):
    """Runs tasks and yields results as they are done, each with its position."""

    def run(self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Yield ``(index of the task, function(*task))`` in any order; an exception of a task is raised here."""
        ...


class InProcess:
    """One after another, here."""

    def run(self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        for index, task in enumerate(tasks):
            yield index, function(*task)


class DaskExecutor:
    """On the workers of a Dask client."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def run(self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        from distributed import as_completed

        futures = [self._client.submit(function, *task, pure=False) for task in tasks]
        index = {future.key: k for k, future in enumerate(futures)}
        try:
            for future, result in as_completed(futures, with_results=True):
                yield index[future.key], result
        finally:
            self._client.cancel(futures)


@contextmanager
def executor(workers: int) -> Iterator[Executor]:
    """An executor with so many worker processes on this machine; 1 stays in this process."""
    if workers <= 1:
        yield InProcess()
        return
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        yield DaskExecutor(client)
