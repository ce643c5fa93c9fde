"""The only module that uses MPI: it decides which rank this process is, and communicates with the others.

Code takes a communicator as an argument; :func:`world` returns a serial one unless a launcher started several ranks.
mpi4py is imported only in the latter case, so a login node never initialises MPI.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from convergence.errors import EXIT_RESUME, SharedError, UserError

_SIZE_VARIABLES = (
    "PMI_SIZE",  # Hydra (MPICH, Intel MPI, MVAPICH), Cray PALS, Flux
    "PMIX_SIZE",
    "OMPI_COMM_WORLD_SIZE",  # Open MPI
    "MPI_LOCALNRANKS",  # Hydra, of one node
    "MV2_COMM_WORLD_SIZE",  # MVAPICH2
    "MVP_COMM_WORLD_SIZE",  # MVAPICH 3 and 4
    "PALS_SIZE",
    "JSM_NAMESPACE_SIZE",  # jsrun of IBM Spectrum LSF
    "FLUX_JOB_SIZE",
)
"""Variables of launchers with the number of ranks; the launchers set them for the processes that they start only."""
_RANK_VARIABLES = (
    "PMI_RANK",
    "PMIX_RANK",
    "OMPI_COMM_WORLD_RANK",
    "MV2_COMM_WORLD_RANK",
    "MVP_COMM_WORLD_RANK",
    "PALS_RANKID",  # Cray PALS
    "ALPS_APP_PE",  # aprun of Cray ALPS
    "JSM_NAMESPACE_RANK",
    "FLUX_TASK_RANK",
)
"""Variables of launchers with the rank of a process, from 0."""

LEAVE_S = 10.0
"""Time within which all ranks have to stop after a signal; a rank that waits for another never would."""


class Communicator(Protocol):
    """Operations over the ranks of a job."""

    rank: int
    size: int

    def barrier(self) -> None:
        """Wait until every rank has called this method."""
        ...

    def on_this_machine(self) -> tuple[int, int]:
        """Number of this rank among those of its machine, and their number; every rank must call this method."""
        ...

    def gather_errors(self, message: str | None) -> list[str]:
        """Error messages of all ranks that have one, in rank order; the same list on all ranks."""
        ...

    def share(self, value: bool | None) -> bool:
        """The value of rank 0, on all ranks."""
        ...

    def any(self, value: bool) -> bool:
        """Whether the value is true on any rank."""
        ...

    def send(self, values: npt.NDArray[Any], rank: int) -> None:
        """Send a contiguous array of at most 1 GiB to ``rank``, which must call :meth:`receive`."""
        ...

    def receive(self, values: npt.NDArray[Any], rank: int) -> None:
        """Fill an array with the values that ``rank`` sends."""
        ...

    def gather_bytes(self, value: bytes) -> list[bytes]:
        """The bytes of every rank, in rank order, on rank 0; [] on other ranks."""
        ...

    @property
    def handle(self) -> Any:
        """The mpi4py communicator, for h5py."""
        ...

    def io_hints(self) -> Any:
        """Hints for MPI-IO: each rank writes its large contiguous blocks itself, without collective buffering."""
        ...

    def abort(self, error: BaseException, code: int) -> None:
        """Print the error of this rank, and end the job on all ranks immediately."""
        ...


class SerialCommunicator:
    """One process: rank 0 of 1."""

    rank = 0
    size = 1

    def barrier(self) -> None:
        """Return at once."""

    def on_this_machine(self) -> tuple[int, int]:
        return 0, 1

    def gather_errors(self, message: str | None) -> list[str]:
        return [] if message is None else [message]

    def share(self, value: bool | None) -> bool:
        return bool(value)

    def any(self, value: bool) -> bool:
        return value

    def send(self, values: npt.NDArray[Any], rank: int) -> None:
        raise ValueError("a serial communicator cannot send")

    def receive(self, values: npt.NDArray[Any], rank: int) -> None:
        raise ValueError("a serial communicator cannot receive")

    def gather_bytes(self, value: bytes) -> list[bytes]:
        return [value]

    @property
    def handle(self) -> Any:
        raise ValueError("a serial communicator has no MPI handle")

    def io_hints(self) -> Any:
        raise ValueError("a serial communicator has no MPI-IO")

    def abort(self, error: BaseException, code: int) -> None:
        raise error


class MPICommunicator:
    """All ranks that an MPI launcher started."""

    def __init__(self, world: Any) -> None:
        self._world = world
        self.rank: int = world.Get_rank()
        self.size: int = world.Get_size()
        self._leaving = world.Dup() if self.size > 1 else world  # its own messages: others may wait in another call

    def barrier(self) -> None:
        self._world.Barrier()

    def on_this_machine(self) -> tuple[int, int]:
        from mpi4py import MPI

        machine = self._world.Split_type(MPI.COMM_TYPE_SHARED)  # ranks that share memory
        try:
            return machine.Get_rank(), machine.Get_size()
        finally:
            machine.Free()

    def gather_errors(self, message: str | None) -> list[str]:
        gathered = self._world.allgather(message)
        return [f"rank {rank}: {text}" for rank, text in enumerate(gathered) if text is not None]

    def share(self, value: bool | None) -> bool:
        return bool(self._world.bcast(value))

    def any(self, value: bool) -> bool:
        return any(self._world.allgather(value))

    def send(self, values: npt.NDArray[Any], rank: int) -> None:
        self._world.Send(values, dest=rank)

    def receive(self, values: npt.NDArray[Any], rank: int) -> None:
        self._world.Recv(values, source=rank)

    def gather_bytes(self, value: bytes) -> list[bytes]:
        gathered = self._world.gather(value)
        return gathered if self.rank == 0 else []

    @property
    def handle(self) -> Any:
        return self._world

    def io_hints(self) -> Any:
        from mpi4py import MPI

        return MPI.Info.Create({"romio_cb_write": "disable", "romio_ds_write": "disable"})

    def all_leave(self) -> bool:
        """Whether every rank calls this method within ``LEAVE_S`` seconds."""
        request, end = self._leaving.Ibarrier(), time.monotonic() + LEAVE_S
        while not request.Test():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def abort(self, error: BaseException, code: int) -> None:
        if isinstance(error, UserError):
            print(f"convergence: {error}", file=sys.stderr)
        elif isinstance(error, Exception) and code != EXIT_RESUME:
            traceback.print_exception(error)
        print(f"rank {self.rank} of {self.size} failed; ending the job on all ranks", file=sys.stderr, flush=True)
        time.sleep(0.5)  # launchers may drop the last output of a rank that ends at once
        self._world.Abort(code)


def owned(n_items: int, rank: int, size: int) -> range:
    """Indices of the items of a rank, round robin: shares differ by at most one item.

    Raises
    ------
    ValueError
        for a rank outside ``0 … size − 1``.
    """
    if not 0 <= rank < size:
        raise ValueError(f"rank {rank} is not within 0 … {size - 1}")
    return range(rank, n_items, size)


@contextmanager
def errors_shared(comm: Communicator) -> Iterator[None]:
    """Run a block on all ranks; if it raises UserError on any of them, raise SharedError with all messages on all."""
    message = None
    try:
        yield
    except UserError as error:
        message = str(error)
    errors = comm.gather_errors(message)
    if errors:
        raise SharedError("\n".join(errors))


class Launched(NamedTuple):
    """Ranks that a launcher started: their number, at least, and the variable that says so ("" without a launcher)."""

    ranks: int
    variable: str
    at_least: bool = False


def launched_ranks(environ: Mapping[str, str] = os.environ) -> Launched:
    """Number of ranks according to the variables of launchers; 1 without a launcher.

    Some launchers give each process its rank and not the number of ranks: a rank above 0 is one of at least rank + 1.
    Variables of a surrounding job (``SLURM_NTASKS`` of a batch script or an interactive allocation) are not counted.
    """
    sizes = [Launched(_number(environ, name), name) for name in _SIZE_VARIABLES]
    sizes.append(Launched(_slurm_step_tasks(environ), "SLURM_STEP_ID"))
    beyond = max(Launched(_number(environ, name) + 1, name, True) for name in _RANK_VARIABLES)
    largest = max(sizes)
    if max(beyond.ranks, largest.ranks) <= 1:
        return Launched(1, "")
    return beyond if beyond.ranks > largest.ranks else largest


def _number(environ: Mapping[str, str], name: str) -> int:
    """The number in a variable; 0 if it holds none."""
    return int(environ[name]) if re.fullmatch("[0-9]{1,9}", environ.get(name, "")) else 0


def _slurm_step_tasks(environ: Mapping[str, str]) -> int:
    """Tasks of the srun step of this process; 1 outside of a step (batch and interactive steps have high ids)."""
    if not re.fullmatch("[0-9]{1,10}", environ.get("SLURM_STEP_ID", "")) or int(environ["SLURM_STEP_ID"]) >= 4294967290:
        return 1
    return _number(environ, "SLURM_STEP_NUM_TASKS") or _number(environ, "SLURM_NTASKS")


@contextmanager
def _ending_on_interrupt() -> Iterator[None]:
    """SIGINT ends the process during the block.

    While MPI starts, it waits in C for all ranks, where Python's handler never runs. If the interrupt ended another
    rank before, it would wait forever.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def world(environ: Mapping[str, str] = os.environ) -> Communicator:
    """The communicator of this process.

    Raises
    ------
    UserError
        if a launcher started several ranks and mpi4py is missing, or MPI sees another number of ranks. (Without PMI,
        ``srun`` starts independent worlds of one rank, each of which would do all the work and write the same files.)
    """
    launched = launched_ranks(environ)
    if launched.ranks <= 1:
        return SerialCommunicator()
    number = f"at least {launched.ranks}" if launched.at_least else str(launched.ranks)
    said = f"{number} ranks were launched"
    plain = (
        f"({launched.variable} = {environ[launched.variable]} says so. If this shell only inherited the variable, run "
        f"the command with env -u {launched.variable}.)"
    )
    try:
        with _ending_on_interrupt():
            from mpi4py import MPI
    except ImportError as error:
        raise UserError(
            f"{said}, but mpi4py is not installed: pip install 'convergent-learning[mpi]', or run without a launcher. "
            f"{plain}"
        ) from error
    comm = MPICommunicator(MPI.COMM_WORLD)
    if comm.size < launched.ranks or (comm.size > launched.ranks and not launched.at_least):
        raise UserError(
            f"{said}, but MPI sees a world of {comm.size}. The launcher and MPI use different protocols. Under Slurm "
            "use srun --mpi=pmi2 (or --mpi=pmix), otherwise the mpiexec of the MPI library that mpi4py was built with. "
            f"{plain}"
        )
    return comm
