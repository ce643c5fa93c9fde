"""The processes that train a net together, and their communication.

torchrun, submitit and srun start the processes and describe them in the environment. All training code takes a
:class:`ProcessGroup`. The group of a single process opens no connection and changes no result.
"""

from __future__ import annotations

import gc
import importlib
import os
import re
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import nn

from convergence.errors import ConfigError, UserError
from convergence.networks.devices import choose_device

TIMEOUT = timedelta(minutes=30)
"""Time that a process waits for the others; the first process evaluates the held-out images meanwhile."""


class ProcessRank(NamedTuple):
    """Rank of a process as set by the launcher, with the address of rank 0."""

    rank: int
    size: int
    local_rank: int
    address: str
    port: int


def launched(environ: Mapping[str, str] = os.environ) -> ProcessRank | None:
    """Read the rank of this process from the environment; None for a single process.

    ``RANK`` and ``WORLD_SIZE`` (torchrun, submitit) take precedence over Slurm's variables. ``WORLD_SIZE`` alone is a
    variable of a job script and is ignored.

    Raises
    ------
    UserError
        if several processes were started and the address of rank 0 is unknown.
    """
    if "RANK" in environ and environ.get("WORLD_SIZE", "1") != "1":
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        missing = [name for name in names if name not in environ]
        if missing:
            raise UserError(
                f"WORLD_SIZE = {environ['WORLD_SIZE']}, but {', '.join(missing)} are not set: use torchrun."
            )
        rank, size, local_rank = (int(environ[name]) for name in names[:3])
        return ProcessRank(rank, size, local_rank, environ["MASTER_ADDR"], int(environ["MASTER_PORT"]))
    step, tasks = environ.get("SLURM_STEP_ID", ""), environ.get("SLURM_NTASKS", "1")
    if not step.isdigit() or int(step) >= 4294967290 or tasks == "1":  # batch and interactive steps have high numbers
        return None
    address = environ.get("MASTER_ADDR") or first_host(environ.get("SLURM_STEP_NODELIST", ""))
    port = int(environ.get("MASTER_PORT") or 20000 + (int(environ["SLURM_JOB_ID"]) * 31 + int(step)) % 20000)
    return ProcessRank(int(environ["SLURM_PROCID"]), int(tasks), int(environ["SLURM_LOCALID"]), address, port)


def first_host(nodes: str) -> str:
    """Return the first host of a node list of Slurm, for example ``gpu07`` of ``gpu[07-09,12],cpu1``.

    Raises
    ------
    UserError
        for a list without a host.
    """
    found = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\])?", nodes)
    if found is None:
        raise UserError(
            f"SLURM_STEP_NODELIST = {nodes!r} names no host; set MASTER_ADDR to the host of the first task."
        )
    return found[1] + (found[2] or "")


class ProcessGroup:
    """The processes that train together; a single process unless made by :meth:`of`."""

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._device = torch.device("cpu")

    @classmethod
    def of(cls, place: ProcessRank, device: str) -> ProcessGroup:
        """Connect to the other processes: through NCCL if the device is a GPU, else through gloo."""
        # Functions of this module use the group of all processes as a default argument when they are defined. Wrapping
        # a net imports the module. If that import happened after the group exists, close() could not end its threads.
        importlib.import_module("torch.distributed.nn")
        ranks = cls(place.rank, place.size, place.local_rank)
        ranks._device = ranks.device(device)
        backend = "nccl" if ranks._device.type == "cuda" else "gloo"
        if ranks._device.type == "cuda":
            torch.cuda.set_device(ranks._device)
        where = "env://" if "RANK" in os.environ else f"tcp://{place.address}:{place.port}"
        torch.distributed.init_process_group(
            backend, init_method=where, rank=place.rank, world_size=place.size, timeout=TIMEOUT
        )
        return ranks

    def close(self) -> None:
        """Disconnect, and end gloo's threads by dropping the last reference to the group.

        A gloo thread that releases a tensor while the interpreter shuts down aborts the process.
        """
        if self.size == 1 or not torch.distributed.is_initialized():
            return
        torch.distributed.destroy_process_group()
        error = sys.exception()
        if error is not None:  # its frames refer to wrapped nets, which refer to the group
            traceback.clear_frames(error.__traceback__)
        gc.collect()

    def device(self, name: str) -> torch.device:
        """Return the device of this process; with ``auto`` and ``cuda`` each process of a machine has its own GPU.

        Raises
        ------
        ConfigError
            for a single GPU shared by several processes.
        """
        if self.size > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
            return choose_device(f"cuda:{self.local_rank}")
        if self.size > 1 and name.startswith("cuda:"):
            raise ConfigError(f'device = "{name}" would be the GPU of all {self.size} processes: use "auto" or "cuda".')
        return choose_device(name)

    def wrap(self, module: nn.Module) -> nn.Module:
        """Wrap a module so that gradients are averaged over the processes."""
        if self.size == 1:
            return module
        return nn.parallel.DistributedDataParallel(module)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum values over the processes in float64; the result is the same on all."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self._device)
        torch.distributed.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def any(self, *values: bool) -> list[bool]:
        """Check for each value whether it is true in any process."""
        return [total > 0 for total in self.sum([float(value) for value in values])]

    def first(self, values: Sequence[float]) -> list[float]:
        """Return the values of the first process."""
        return self.sum([value if self.rank == 0 else 0.0 for value in values])

    def share(self, value: bool | None) -> bool:
        """Return the value of the first process."""
        return bool(self.first([float(bool(value))])[0])

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(gathered, value)
        return gathered

    def abort(self, error: BaseException, code: int) -> None:
        """Print an error and end this process; the launcher or the lost connection ends the others."""
        if isinstance(error, UserError):
            print(f"convergence: {error}", file=sys.stderr)
        elif not isinstance(error, KeyboardInterrupt):
            traceback.print_exception(error)
        print(f"rank {self.rank} of {self.size} failed", file=sys.stderr, flush=True)
        time.sleep(0.2)
        os._exit(code)
