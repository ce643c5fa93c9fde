"""Writing one HDF5 file from ranks, against a raw write of the same bytes from one process, in one run.

    mpiexec -n 2 python -m benchmarks.writing           # through one writer
    PYTHONPATH=.venv/parallel mpiexec -n 2 python -m benchmarks.writing   # with an h5py that has MPI: both ways

Blocks come from memory, so nothing but checksums and writing is timed; every file is flushed to the disk. SHA-256
runs at 1 to 2 GB/s, no faster than many disks: the raw write is measured with it as well, and MPI-IO without it. Disks
that others share swing by a factor of three: the ratio is the median over interleaved rounds. Takes a minute.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.timing import ratio  # before numpy, see there

# isort: split
import h5py
import numpy as np
from mpi4py import MPI

import hpc.hdf5_writers
from convergence.io import hdf5
from hpc.comm import MPICommunicator
from hpc.hdf5_writers import write_blocks


def write_raw(path: Path, blocks: list[np.ndarray], checksums: bool) -> None:
    """The bytes of all blocks, one after the other."""
    with path.open("wb") as file:
        for block in blocks:
            if checksums:
                hdf5.block_digest(block)
            file.write(memoryview(block).cast("B"))
        file.flush()
        os.fsync(file.fileno())


def write_file(path: Path, shape: tuple[int, ...], values: np.ndarray, comm: MPICommunicator, parallel: bool) -> None:
    """The same as a dataset, by all ranks."""
    if comm.rank == 0:
        with h5py.File(path, "w") as file:
            hdf5.create_blocks(file, "values", shape)
    comm.barrier()
    blocks = [("values", index) for index in hdf5.blocks(shape)]
    write_blocks(path, blocks, lambda _, index: values[: index[-1].stop - index[-1].start], comm, parallel)
    if comm.rank == 0:
        with path.open("rb") as written:
            os.fsync(written.fileno())
    comm.barrier()


def main() -> None:
    """Parse the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None, help="where to write (default: the system's temporary folder)")
    arguments = parser.parse_args()
    comm = MPICommunicator(MPI.COMM_WORLD)
    n_units = 4_096
    shape = (max(1, round(arguments.megabytes * 1e6 / (8 * n_units**2))), n_units, n_units)
    values = np.random.default_rng(0).standard_normal((hdf5.BLOCK_ROWS, n_units))
    ways = ["raw", "raw, SHA-256", "gathered"]
    if h5py.get_config().mpi:
        ways += ["MPI-IO", "MPI-IO, no checksums"]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    folder = MPI.COMM_WORLD.bcast(tempfile.mkdtemp(dir=arguments.folder) if comm.rank == 0 else None)
    for k in range(-1, arguments.rounds):
        for way in ways:
            path = Path(folder) / "file"
            comm.barrier()
            start = time.perf_counter()
            hpc.hdf5_writers.block_digest = hdf5.block_digest if "no" not in way else lambda _: bytes(32)
            if way.startswith("raw"):
                if comm.rank == 0:
                    write_raw(path, [values] * len(hdf5.blocks(shape)), "SHA" in way)
                comm.barrier()
            else:
                write_file(path, shape, values, comm, way.startswith("MPI-IO"))
            if k >= 0:  # the round before the first is not counted
                seconds[way].append(time.perf_counter() - start)
            comm.barrier()
            if comm.rank == 0:
                path.unlink()
    if comm.rank == 0:
        os.rmdir(folder)
        size, block = 8 * float(np.prod(shape)) / 1e6, values.nbytes / 1e6
        print(f"{comm.size} ranks, {size:.0f} MB in blocks of {block:.0f} MB; HDF5 {h5py.version.hdf5_version}")
        for way, times in seconds.items():
            share = ratio(seconds, "raw", way)
            print(f"{way:21s} {size / median(times):6.0f} MB/s   {share:.2f} of raw", flush=True)


if __name__ == "__main__":
    main()
