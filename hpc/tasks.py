"""The one door to Dask: an executor in the shape of ``concurrent.futures`` for many independent tasks.

Little work is done in this process, more of it by a Dask cluster of processes on this machine, or on a batch system
(:mod:`hpc.batch_workers`). Results never depend on which.

Whoever reaches a port of Dask can run code as its user. So every port listens on the loopback interface if it can, and
speaks TLS alone, with certificates made for this one cluster and forgotten with it: other users of the same machine
get nothing either. There is no dashboard unless it is asked for, and then on the loopback interface.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from convergence.errors import TaskLost, UserError

logger = logging.getLogger(__name__)
SMALL_SECONDS = 60.0
"""Work that is expected to take less is done in this process, unless a number of workers is given."""
LOOPBACK = "127.0.0.1"
TRIES = 3
"""Workers that may end at a task before it is given up."""
SETTINGS: dict[str, Any] = {
    "distributed.scheduler.allowed-failures": TRIES - 1,
    "distributed.scheduler.work-stealing": False,
    "distributed.worker.memory.target": False,  # results are names and numbers: there is nothing to spill,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,  # and a worker that pauses would wait for ever
    "distributed.worker.memory.terminate": 0.95,
}


NO_PAGES: dict[str, Any] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}


@dataclass(frozen=True)
class Workers:
    """What the user asks for.

    Attributes
    ----------
    number : worker processes; None for as many as work, cores and memory make sensible
    threads : of a worker; they share its matrices
    memory_gb : limit of a worker; None for an equal share of what is free
    lifetime_min : minutes after which a worker makes room for a new one; None for never
    dashboard : whether Dask's dashboard is served
    """

    number: int | None = None
    threads: int = 1
    memory_gb: float | None = None
    lifetime_min: float | None = None
    dashboard: bool = False


class Work(Protocol):
    """What is to be done: see :class:`convergence.analysis.plan.Plan`."""

    @property
    def seconds(self) -> float:
        """Expected on one core."""
        ...

    @property
    def memory(self) -> float:
        """Bytes of a worker."""
        ...


class Executor(Protocol):
    """Runs functions elsewhere or here."""

    @property
    def slots(self) -> int:
        """Tasks that run at a time, at present; at least 1."""
        ...

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run ``function(*arguments)``; the future raises what it raised, TaskLost if its workers ended."""
        ...


class InProcess:
    """At once, here."""

    slots = 1

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


class DaskExecutor:
    """On the workers of a Dask client."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._submitted: dict[Future[Any], Any] = {}

    @property
    def slots(self) -> int:
        return max(1, sum(self._client.nthreads().values()))

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        there = self._client.submit(function, *arguments, pure=False)
        self._submitted[future] = there  # Dask forgets tasks that nobody holds on to
        there.add_done_callback(lambda done: self._settle(future, done))
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
    """What starts an executor for some work: this process, or worker processes on this machine."""

    def start(work: Work) -> AbstractContextManager[Executor]:
        number = number_of_workers(workers, work)
        return in_process() if number * workers.threads == 1 else on_this_machine(workers, number, work.memory)

    return start


@contextmanager
def in_process() -> Iterator[Executor]:
    """No workers: tasks are run where they are submitted."""
    yield InProcess()


def number_of_workers(workers: Workers, work: Work) -> int:
    """The number that was asked for; else one for little work, else as many as there are cores and memory."""
    if workers.number is not None:
        return workers.number
    if work.seconds < SMALL_SECONDS:
        return 1
    fit = int(free_memory() // (work.memory if workers.memory_gb is None else 1e9 * workers.memory_gb))
    return max(1, min(usable_cores() // workers.threads, fit))


@contextmanager
def on_this_machine(workers: Workers, number: int, memory: float) -> Iterator[Executor]:
    """So many worker processes here; ``memory`` is what each is expected to need, in bytes."""
    from distributed import LocalCluster

    limit = 1e9 * workers.memory_gb if workers.memory_gb is not None else free_memory() / number
    if memory > limit:
        logger.warning(
            "%d workers have %.1f GB each, and a task may need %.1f GB; a worker that takes more is ended",
            number, limit / 1e9, memory / 1e9,
        )  # fmt: skip
    lifetime: dict[str, Any] = {}
    if workers.lifetime_min is not None:
        lifetime = {"lifetime": f"{60 * workers.lifetime_min:.3f} s", "lifetime_restart": True}
    with (
        settings(workers.dashboard),
        LocalCluster(
            n_workers=number, threads_per_worker=workers.threads, processes=True, host=LOOPBACK, protocol="tls://",
            security=certificates(), memory_limit=int(limit), worker_dashboard_address=None,
            scheduler_kwargs=web_server(workers.dashboard), silence_logs=logging.CRITICAL, **lifetime,
        ) as cluster,
        client_of(cluster, workers.dashboard) as executor,
    ):  # fmt: skip
        yield executor


@contextmanager
def client_of(cluster: Any, dashboard: bool) -> Iterator[DaskExecutor]:
    """The executor on a cluster that runs already."""
    from distributed import Client

    with Client(cluster) as client:
        if dashboard:
            port = cluster.dashboard_link.rpartition(":")[2].partition("/")[0]
            logger.info(
                "dashboard: http://%s:%s/status; from elsewhere first: ssh -L %s:%s:%s %s",
                LOOPBACK, port, port, LOOPBACK, port, socket.getfqdn(),
            )  # fmt: skip
        yield DaskExecutor(client)


@contextmanager
def settings(dashboard: bool) -> Iterator[None]:
    """Dask's settings as this toolkit needs them, and its log no louder than warnings."""
    import dask

    silent = {} if dashboard else NO_PAGES
    names = ("distributed", "dask_jobqueue", "bokeh")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with dask.config.set(SETTINGS | silent):
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def certificates() -> Any:
    """A key and a certificate that nobody else has; whoever has no copy of them is refused."""
    from distributed.security import Security

    try:
        return Security.temporary()
    except ImportError as error:
        raise UserError(
            "workers speak through TLS, which needs the package cryptography: pip install cryptography, or analyse in "
            "this process with --workers 1."
        ) from error


def certificates_in(folder: Path) -> Any:
    """Fresh ones as files of a folder, for workers that are not children of this process."""
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
    """Settings of the scheduler's web server, which is on the loopback interface and has no page but a dashboard's."""
    if dashboard:
        try:
            import bokeh  # noqa: F401
        except ImportError as error:
            raise UserError("the dashboard needs the package bokeh: pip install bokeh.") from error
    return {"dashboard": dashboard, "dashboard_address": f"{LOOPBACK}:0"}


def usable_cores() -> int:
    """Cores that this process may use; of a Slurm job those of its task."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(allowed, int(given)) if given.isdigit() else allowed


def free_memory() -> float:
    """Bytes that are free, or that the limits on this process leave."""
    import psutil
    from distributed.system import MEMORY_LIMIT

    return float(min(psutil.virtual_memory().available, MEMORY_LIMIT))
