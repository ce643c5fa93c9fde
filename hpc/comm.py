"""The one door to MPI: a communicator with the few methods that the toolkit needs, serial unless ranks were launched.

Code takes a communicator as an argument and never asks whether there is MPI: ``mpiexec`` only changes which object is
passed. mpi4py is imported when a launcher started several ranks, so that a login node never initialises MPI.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any, Protocol

import numpy.typing as npt

from convergence.errors import UserError

_SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_SIZE", "MPI_LOCALNRANKS")


class Communicator(Protocol):
    """What the toolkit asks of a communicator."""

    rank: int
    size: int

    def barrier(self) -> None:
        """Return when every rank has called it."""
        ...

    def gather_errors(self, message: str | None) -> list[str]:
        """Every rank's error message, in rank order, ranks without one left out; the same list on all ranks."""
        ...

    def share(self, value: bool | None) -> bool:
        """The first rank's value, on all ranks."""
        ...

    def any(self, value: bool) -> bool:
        """Whether the value is true on any rank."""
        ...

    def send(self, values: npt.NDArray[Any], rank: int) -> None:
        """Send an array's buffer to a rank that receives it; contiguous, at most 1 GiB."""
        ...

    def receive(self, values: npt.NDArray[Any], rank: int) -> None:
        """Fill an array with what a rank sends."""
        ...

    def gather_bytes(self, value: bytes) -> list[bytes]:
        """On rank 0 every rank's bytes, in rank order; [] on the others."""
        ...

    @property
    def handle(self) -> Any:
        """The communicator as mpi4py and h5py know it."""
        ...

    def io_hints(self) -> Any:
        """Hints for MPI-IO: large contiguous blocks go to the disk from the rank that has them, not through others."""
        ...

    def abort(self, error: BaseException, code: int) -> None:
        """End the job on all ranks at once, after saying what went wrong on this one."""
        ...


class SerialCommunicator:
    """One process: rank 0 of 1."""

    rank = 0
    size = 1

    def barrier(self) -> None:
        """Nobody to wait for."""

    def gather_errors(self, message: str | None) -> list[str]:
        return [] if message is None else [message]

    def share(self, value: bool | None) -> bool:
        return bool(value)

    def any(self, value: bool) -> bool:
        return value

    def send(self, values: npt.NDArray[Any], rank: int) -> None:
        raise ValueError("one process has nobody to send to")

    def receive(self, values: npt.NDArray[Any], rank: int) -> None:
        raise ValueError("one process has nobody to receive from")

    def gather_bytes(self, value: bytes) -> list[bytes]:
        return [value]

    @property
    def handle(self) -> Any:
        raise ValueError("one process has no MPI communicator")

    def io_hints(self) -> Any:
        raise ValueError("one process has no MPI-IO")

    def abort(self, error: BaseException, code: int) -> None:
        raise error


class MPICommunicator:
    """The world of an MPI launcher."""

    def __init__(self, world: Any) -> None:
        self._world = world
        self.rank: int = world.Get_rank()
        self.size: int = world.Get_size()

    def barrier(self) -> None:
        self._world.Barrier()

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

    def abort(self, error: BaseException, code: int) -> None:
        if isinstance(error, UserError):
            print(f"convergence: {error}", file=sys.stderr)
        else:
            traceback.print_exception(error)
        print(f"rank {self.rank} of {self.size} failed; ending the job on all ranks", file=sys.stderr, flush=True)
        time.sleep(0.5)  # launchers drop what a rank said last when it ends too soon
        self._world.Abort(code)


def launched_ranks(environ: Mapping[str, str] = os.environ) -> int:
    """How many ranks an MPI launcher says it started; 1 without a launcher."""
    sizes = [int(environ[name]) for name in _SIZE_VARIABLES if environ.get(name, "").isdigit()]
    return max(sizes, default=1)


def _slurm_step_tasks(environ: Mapping[str, str]) -> int:
    """Tasks of the srun step that this process is in; 1 outside of one (batch and interactive steps have high ids)."""
    step, tasks = environ.get("SLURM_STEP_ID", ""), environ.get("SLURM_NTASKS", "")
    if step.isdigit() and int(step) < 4294967290 and tasks.isdigit():
        return int(tasks)
    return 1


def world(environ: Mapping[str, str] = os.environ) -> Communicator:
    """The communicator of this process.

    Raises
    ------
    UserError
        if a launcher started ranks but mpi4py is missing, or MPI's world is smaller than what was launched (a
        ``srun`` without PMI makes as many worlds of one rank: each would do all the work and write the same files).
    """
    expected = max(launched_ranks(environ), _slurm_step_tasks(environ))
    if expected == 1:
        return SerialCommunicator()
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise UserError(
            f"{expected} ranks were launched, but mpi4py is not installed: pip install 'convergent-learning[mpi]', "
            "or run without a launcher."
        ) from error
    comm = MPICommunicator(MPI.COMM_WORLD)
    if comm.size != expected:
        raise UserError(
            f"{expected} ranks were launched, but MPI sees a world of {comm.size}. The launcher and MPI do not speak "
            "the same protocol: under Slurm try srun --mpi=pmi2 (or --mpi=pmix), otherwise the mpiexec of the MPI "
            "that mpi4py uses."
        )
    return comm
