"""Several processes that train a net together: who they are, and the few things that they tell each other.

torchrun, submitit and srun start the processes and say so in the environment. Everything that trains takes a
:class:`ProcessGroup`, and one process is a world of one: it opens no connection and computes what it always did.
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

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others: for the first one while it reads held-out images."""


class ProcessRank(NamedTuple):
    """What a launcher says of a process, and where rank 0 is."""

    rank: int
    size: int
    local_rank: int
    address: str
    port: int


def launched(environ: Mapping[str, str] = os.environ) -> ProcessRank | None:
    """Where this process stands among those that were started together; None for one that stands alone.

    ``RANK`` and ``WORLD_SIZE`` (torchrun, submitit) go before Slurm's own variables.

    Raises
    ------
    UserError
        if several processes were started and there is no saying where rank 0 is.
    """
    if environ.get("WORLD_SIZE", "1") != "1":
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
    """The first host of Slurm's list: ``gpu[07-09,12],cpu1`` begins with ``gpu07``."""
    found = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\])?", nodes)
    if found is None:
        raise UserError(f"SLURM_STEP_NODELIST = {nodes!r} names no host; set MASTER_ADDR to that of the first task.")
    return found[1] + (found[2] or "")


class ProcessGroup:
    """The processes that train together; one, unless :meth:`of` finds that several were launched."""

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._device = torch.device("cpu")

    @classmethod
    def of(cls, place: ProcessRank, device: str) -> ProcessGroup:
        """Join the others: through NCCL where the device is a GPU, else through gloo."""
        # Functions below this module take the group of all processes as a default when they are defined. Wrapping a net
        # imports it, and had it been imported with the group there, close() could not end the group's threads.
        importlib.import_module("torch.distributed.nn")
        ranks = cls(place.rank, place.size, place.local_rank)
        ranks._device = ranks.device(device)
        backend = "nccl" if ranks._device.type == "cuda" else "gloo"
        if ranks._device.type == "cuda":
            torch.cuda.set_device(ranks._device)
        where = "env://" if "WORLD_SIZE" in os.environ else f"tcp://{place.address}:{place.port}"
        torch.distributed.init_process_group(
            backend, init_method=where, rank=place.rank, world_size=place.size, timeout=PATIENCE
        )
        return ranks

    def close(self) -> None:
        """Leave the others, and end gloo's threads with the last reference to the group.

        A thread of gloo that lets go of a tensor when the interpreter has begun to end aborts the whole process.
        """
        if self.size == 1 or not torch.distributed.is_initialized():
            return
        torch.distributed.destroy_process_group()
        error = sys.exception()
        if error is not None:  # its frames hold nets, and wrapped nets the group
            traceback.clear_frames(error.__traceback__)
        gc.collect()

    def device(self, name: str) -> torch.device:
        """The device of this process: with ``auto`` and ``cuda`` each process of a machine has a GPU of its own."""
        if self.size > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
            return choose_device(f"cuda:{self.local_rank}")
        if self.size > 1 and name.startswith("cuda:"):
            raise ConfigError(f'device = "{name}" would be the GPU of all {self.size} processes: use "auto" or "cuda".')
        return choose_device(name)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over the processes."""
        if self.size == 1:
            return module
        return nn.parallel.DistributedDataParallel(module)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over the processes, in float64, the same on all."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self._device)
        torch.distributed.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def any(self, *values: bool) -> list[bool]:
        """For each value whether it is true in any process."""
        return [total > 0 for total in self.sum([float(value) for value in values])]

    def first(self, values: Sequence[float]) -> list[float]:
        """The values of the first process."""
        return self.sum([value if self.rank == 0 else 0.0 for value in values])

    def share(self, value: bool | None) -> bool:
        """Whether a value is true in the first process."""
        return bool(self.first([float(bool(value))])[0])

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in order."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(gathered, value)
        return gathered

    def abort(self, error: BaseException, code: int) -> None:
        """End this process after saying what went wrong; the launcher, or a lost connection, ends the others."""
        if isinstance(error, UserError):
            print(f"convergence: {error}", file=sys.stderr)
        else:
            traceback.print_exception(error)
        print(f"rank {self.rank} of {self.size} failed", file=sys.stderr, flush=True)
        time.sleep(0.2)
        os._exit(code)
