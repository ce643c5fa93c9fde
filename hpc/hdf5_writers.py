"""Write the blocks of one HDF5 file from all ranks: collectively through MPI-IO, or gathered by rank 0.

The file and its datasets already exist (:meth:`convergence.statistics.writer.StatisticsWriter.create`). The blocks of
each dataset are written in rounds of one block per rank. A rank holds one block at a time (rank 0 of a gather: two),
and a message is at most a block long. Both writers produce the same bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import h5py
import numpy as np
import numpy.typing as npt

from convergence.errors import UserError
from convergence.io.full_disk import open_hdf5
from convergence.io.hdf5 import Index, block_digest, little_endian
from hpc.comm import Communicator

Block = tuple[str, Index]
Values = npt.NDArray[Any]
LARGEST_MESSAGE = 1 << 30
"""Largest number of bytes of a block."""


class Writer(Protocol):
    """A file that is open on all ranks; all ranks call ``write`` in each round."""

    def __enter__(self) -> Writer: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, dataset: str, indices: Sequence[Index], values: Values | None) -> None:
        """Write the blocks ``indices`` of a dataset; ``values`` is block k on rank k, or None."""
        ...


class GatherWriter:
    """Rank 0 writes; the other ranks send it their blocks, one at a time."""

    def __init__(self, path: Path, comm: Communicator) -> None:
        self._comm = comm
        self._path = path
        self._file: Any = None
        self._open = ExitStack()

    def __enter__(self) -> GatherWriter:
        if self._comm.rank == 0:
            self._file = self._open.enter_context(open_hdf5(self._path, "r+"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def write(self, dataset: str, indices: Sequence[Index], values: Values | None) -> None:
        if self._comm.rank > 0:
            if values is not None:
                self._comm.send(values, 0)
            return
        place = self._file[dataset]
        for rank, index in enumerate(indices):
            if rank > 0:
                values = np.empty(_shape(place.shape, index), place.dtype)
                self._comm.receive(values, rank)
            place[index] = values


class CollectiveWriter:
    """All ranks write their blocks in one collective call of parallel HDF5.

    Collective calls suit parallel file systems best. The low-level interface is needed because a rank without a block
    has to take part with an empty selection; otherwise the other ranks would wait forever.
    """

    def __init__(self, path: Path, comm: Communicator) -> None:
        self._comm = comm
        self._path = path
        self._file: Any = None
        self._transfer = h5py.h5p.create(h5py.h5p.DATASET_XFER)
        self._transfer.set_dxpl_mpio(h5py.h5fd.MPIO_COLLECTIVE)

    def __enter__(self) -> CollectiveWriter:
        self._file = h5py.File(self._path, "r+", driver="mpio", comm=self._comm.handle, info=self._comm.io_hints())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:  # closing is collective: after an error on one rank it would wait for the others
            self._file.close()

    def write(self, dataset: str, indices: Sequence[Index], values: Values | None) -> None:
        place = self._file[dataset]
        in_file = place.id.get_space()
        if values is None:
            values = np.empty(1, place.dtype)
            in_memory = h5py.h5s.create_simple((1,))
            in_memory.select_none()
            in_file.select_none()
        else:
            start, count = _hyperslab(place.shape, indices[self._comm.rank])
            in_file.select_hyperslab(start, count)
            in_memory = h5py.h5s.create_simple(count)
        place.id.write(in_memory, in_file, np.ascontiguousarray(values), dxpl=self._transfer)


def write_blocks(
    path: Path,
    blocks: Sequence[Block],
    compute: Callable[[str, Index], Values],
    comm: Communicator,
    parallel: bool | None = None,
) -> list[tuple[str, bytes]]:
    """Write ``compute(dataset, index)`` for every block; return (dataset, digest) of all blocks, in order, on rank 0.

    Parameters
    ----------
    path
        A file on a file system shared by all ranks.
    blocks
        (path of a dataset, index of contiguous rows), the same list on all ranks.
    compute
        Returns the content of a block, of the type of the dataset.
    comm
        The ranks that share the work.
    parallel
        Whether to write through MPI-IO; None for MPI-IO if h5py supports it and there are several ranks.

    Raises
    ------
    UserError
        for a block that exceeds the largest message.
    """
    if parallel is None:
        parallel = comm.size > 1 and bool(h5py.get_config().mpi)
    rounds = [
        (dataset, [index for _, index in members][first : first + comm.size])
        for dataset, group in itertools.groupby(blocks, key=lambda block: block[0])
        for members in [list(group)]
        for first in range(0, len(members), comm.size)
    ]
    digests: list[Future[bytes]] = []
    with ThreadPoolExecutor(1) as pool, (CollectiveWriter if parallel else GatherWriter)(path, comm) as writer:
        for dataset, indices in rounds:
            values = None
            if comm.rank < len(indices):
                values = little_endian(compute(dataset, indices[comm.rank]))
                if values.nbytes > LARGEST_MESSAGE:
                    raise UserError(
                        f"{dataset}: a block has {values.nbytes:,} bytes, and at most {LARGEST_MESSAGE:,} can be sent. "
                        "Join fewer units in a comparison."
                    )
                digests.append(pool.submit(block_digest, values))  # computed during the write
            writer.write(dataset, indices, values)
    gathered = [iter(_split(joined)) for joined in comm.gather_bytes(b"".join(digest.result() for digest in digests))]
    return [(dataset, next(gathered[rank])) for dataset, indices in rounds for rank in range(len(indices)) if gathered]


def _split(joined: bytes) -> list[bytes]:
    return [joined[k : k + 32] for k in range(0, len(joined), 32)]


def _shape(shape: tuple[int, ...], index: Index) -> tuple[int, ...]:
    _, count = _hyperslab(shape, index)
    return count[len(index) - 1 :]


def _hyperslab(shape: tuple[int, ...], index: Index) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Start and count along every axis for an index of integers followed by a slice of rows."""
    *matrix, rows = index
    assert isinstance(rows, slice)
    rest = shape[len(index) :]
    start = (*matrix, rows.start, *(0 for _ in rest))
    return start, (*(1 for _ in matrix), rows.stop - rows.start, *rest)
