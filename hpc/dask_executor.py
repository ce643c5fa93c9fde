"""The only module that uses Dask's scheduler: an executor like those of ``concurrent.futures`` for independent tasks.

Small workloads run in this process, larger ones on a Dask cluster of processes on this machine or of jobs of a batch
system (:mod:`hpc.dask_jobs`). Results do not depend on the choice.

A client that reaches a port of Dask can run code as its user. Every port therefore listens on the loopback interface
where possible, and uses TLS with certificates created for this cluster only, so other users of the machine are refused.
The dashboard is off by default and listens on the loopback interface only.

Dask's scratch folders are below a new private folder of the cluster, never in ``dask-scratch-space`` of a shared folder
for temporary files. Dask puts them on the search path for imports; :mod:`hpc.dask_preload` removes them.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import spawn
from pathlib import Path
from typing import Any, Protocol

from convergence.errors import TaskLost, UserError
from convergence.io.files import scratch_folder
from hpc.dask_preload import without_scratch

logger = logging.getLogger(__name__)
SMALL_SECONDS = 60.0
"""Work expected to take less runs in this process, unless a number of workers is given."""
LOOPBACK = "127.0.0.1"
TRIES = 3
"""Number of workers that a task may lose before it fails."""
SETTINGS: dict[str, Any] = {
    "distributed.scheduler.allowed-failures": TRIES - 1,
    "distributed.scheduler.work-stealing": False,
    "distributed.worker.memory.target": False,  # results are names and numbers: nothing to spill
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,  # a paused worker would never resume
    "distributed.worker.memory.terminate": 0.95,
    "distributed.worker.preload": ["hpc.dask_preload"],
    "distributed.deploy.lost-worker-timeout": "60 s",  # a worker that ended has to be back by then, or is replaced
}
ADAPT_INTERVAL = "2 s"
"""Time between two looks for workers to replace."""
NO_PAGES: dict[str, Any] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}


@dataclass(frozen=True)
class Workers:
    """The requested worker processes.

    Attributes
    ----------
    number : number of workers; None to choose it from the work, the cores and the memory
    threads : threads per worker, which share its matrices
    memory_gb : memory limit per worker; None for an equal share of the free memory
    lifetime_min : minutes after which a worker is replaced by a new one; None for never
    dashboard : whether to serve Dask's dashboard
    """

    number: int | None = None
    threads: int = 1
    memory_gb: float | None = None
    lifetime_min: float | None = None
    dashboard: bool = False


class Work(Protocol):
    """The cost of a workload, see :class:`convergence.analysis.plan.Plan`."""

    @property
    def seconds(self) -> float:
        """Expected seconds on one core."""
        ...

    @property
    def memory(self) -> float:
        """Expected bytes per worker."""
        ...


class Executor(Protocol):
    """Runs functions, in this process or on workers."""

    @property
    def slots(self) -> int:
        """Number of tasks that can currently run at the same time; at least 1."""
        ...

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run ``function(*arguments)``; the future raises its exception, or TaskLost if its workers ended."""
        ...


class InProcess:
    """Runs each task immediately in this process."""

    slots = 1

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


class DaskExecutor:
    """Runs tasks on the workers of a Dask client."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._submitted: dict[Future[Any], Any] = {}

    @property
    def slots(self) -> int:
        return max(1, sum(self._client.nthreads().values()))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        task = self._client.submit(function, *arguments, pure=False)
        self._submitted[future] = task  # Dask cancels tasks without references
        task.add_done_callback(lambda done: self._settle(future, done))
        return future

    def _settle(self, future: Future[Any], done: Any) -> None:
        from distributed import KilledWorker

        self._submitted.pop(future, None)
        if done.cancelled():
            future.set_exception(TaskLost("the cluster was closed"))
            return
        error = done.exception()
        if error is None:
            future.set_result(done.result())
        else:
            future.set_exception(TaskLost(str(error)) if isinstance(error, KilledWorker) else error)


def executors(workers: Workers) -> Callable[[Work], AbstractContextManager[Executor]]:
    """A function that starts an executor for a workload: in this process, or with workers on this machine."""
    return partial(_start, workers)


def _start(workers: Workers, work: Work) -> AbstractContextManager[Executor]:
    number = number_of_workers(workers, work)
    return in_process() if number * workers.threads == 1 else on_this_machine(workers, number, work.memory)


@contextmanager
def in_process() -> Iterator[Executor]:
    """An executor that runs tasks in this process."""
    yield InProcess()


def number_of_workers(workers: Workers, work: Work) -> int:
    """The requested number; by default one for a small workload, otherwise as many as cores and memory allow."""
    if workers.number is not None:
        return workers.number
    if work.seconds < SMALL_SECONDS:
        return 1
    fit = int(free_memory() // (work.memory if workers.memory_gb is None else 1e9 * workers.memory_gb))
    return max(1, min(usable_cores() // workers.threads, fit))


@contextmanager
def on_this_machine(workers: Workers, number: int, memory: float) -> Iterator[Executor]:
    """Start ``number`` worker processes on this machine; ``memory`` is the expected bytes per worker."""
    from distributed import LocalCluster

    limit = 1e9 * workers.memory_gb if workers.memory_gb is not None else free_memory() / number
    if memory > limit:
        logger.warning(
            "%d workers have %.1f GB each, and a task may need %.1f GB; a worker above its limit is terminated. "
            "Use fewer workers, or --memory",
            number, limit / 1e9, memory / 1e9,
        )  # fmt: skip
    lifetime: dict[str, Any] = {}
    if workers.lifetime_min is not None:
        lifetime = {"lifetime": f"{60 * workers.lifetime_min:.3f} s", "lifetime_restart": True}
    with (
        settings(workers.dashboard) as scratch,
        without_main_module(),
        LocalCluster(
            n_workers=number, threads_per_worker=workers.threads, processes=True, host=LOOPBACK, protocol="tls://",
            security=certificates(), memory_limit=int(limit), worker_dashboard_address=None,
            local_directory=str(scratch), scheduler_kwargs=web_server(workers.dashboard),
            silence_logs=logging.CRITICAL, **lifetime,
        ) as cluster,
    ):  # fmt: skip
        cluster.adapt(minimum=number, maximum=number, interval=ADAPT_INTERVAL)  # replaces workers that do not come back
        with client_of(cluster, workers.dashboard) as executor:
            yield executor


@contextmanager
def without_main_module() -> Iterator[None]:
    """Start Dask's workers without the main module of this process.

    multiprocessing runs the main module again in every process that it spawns. Tasks do not need it, and a script
    without ``if __name__ == "__main__"`` would start the same analysis in each worker.
    """
    prepared = spawn.get_preparation_data

    def without_main(name: str) -> dict[str, Any]:
        found: dict[str, Any] = prepared(name)
        if name.startswith("Dask Worker"):
            return {key: value for key, value in found.items() if not key.startswith("init_main_from")}
        return found

    spawn.get_preparation_data = without_main
    try:
        yield
    finally:
        spawn.get_preparation_data = prepared


@contextmanager
def client_of(cluster: Any, dashboard: bool) -> Iterator[DaskExecutor]:
    """An executor on a running cluster."""
    import dask
    from distributed import Client

    sys.path[:] = without_scratch(sys.path, Path(dask.config.get("temporary-directory")))
    with Client(cluster) as client:
        if dashboard:
            port = cluster.dashboard_link.rpartition(":")[2].partition("/")[0]
            logger.info(
                "dashboard: http://%s:%s/status; from another machine, first run: ssh -L %s:%s:%s %s",
                LOOPBACK, port, port, LOOPBACK, port, socket.getfqdn(),
            )  # fmt: skip
        yield DaskExecutor(client)


@contextmanager
def settings(dashboard: bool, fallback: Path | None = None) -> Iterator[Path]:
    """Apply the toolkit's settings of Dask, and reduce its log to errors; yield the private scratch folder.

    ``fallback`` holds the scratch folder if the system's folder for temporary files is not safe, see
    :func:`~convergence.io.files.scratch_folder`.
    """
    import dask

    silent = {} if dashboard else NO_PAGES
    names = ("distributed", "dask_jobqueue", "bokeh")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with (
            scratch_folder(fallback) as scratch,
            dask.config.set(SETTINGS | silent | {"temporary-directory": str(scratch)}),
        ):
            try:
                yield scratch
            finally:
                sys.path[:] = without_scratch(sys.path, scratch)
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def certificates() -> Any:
    """A new key and certificate in memory; connections without them are refused."""
    from distributed.security import Security

    try:
        return Security.temporary()
    except ImportError as error:
        raise UserError(
            "workers communicate through TLS, which needs the package cryptography: pip install cryptography, or run "
            "in this process with --workers 1."
        ) from error


def certificates_in(folder: Path) -> Any:
    """A new key and certificate as files of a folder, for workers that are not children of this process."""
    from distributed.security import Security

    fresh, paths = certificates(), {}
    for name in ("tls_ca_file", "tls_worker_cert", "tls_worker_key"):
        paths[name] = str(folder / name)
        with open(os.open(paths[name], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(getattr(fresh, name))
    certificate, key = paths["tls_worker_cert"], paths["tls_worker_key"]
    others = {f"tls_{role}_{kind}": path for role in ("scheduler", "client")
              for kind, path in (("cert", certificate), ("key", key))}  # fmt: skip
    return Security(require_encryption=True, **paths, **others)


def web_server(dashboard: bool) -> dict[str, Any]:
    """Settings of the scheduler's web server: on the loopback interface, without pages unless ``dashboard``."""
    if dashboard:
        try:
            import bokeh  # noqa: F401
        except ImportError as error:
            raise UserError("the dashboard needs the package bokeh: pip install bokeh.") from error
    return {"dashboard": dashboard, "dashboard_address": f"{LOOPBACK}:0"}


def usable_cores() -> int:
    """Number of cores that this process may use; in a Slurm job, those of its task."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(allowed, int(given)) if given.isdigit() else allowed


def free_memory() -> float:
    """Free bytes of memory, within the limits of this process."""
    import psutil
    from distributed.system import MEMORY_LIMIT

    return float(min(psutil.virtual_memory().available, MEMORY_LIMIT))
