"""Statistics over ranks: the same bits for any number of ranks, any writer and any kill; errors end all ranks.

The runs have given activations, so that no rank imports torch.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time

import h5py
import numpy as np
import psutil
import pytest

from tests.helpers.attempts import Attempt, launched, send
from tests.helpers.ranks import COMMAND, launch, run_ranks
from tests.helpers.runs import datasets, forget_statistics


@pytest.fixture
def run(planted_runs, tmp_path):
    """A folder of a run without statistics."""
    copy = shutil.copytree(planted_runs / "runs" / "planted", tmp_path / "runs" / "planted")
    forget_statistics(copy)
    return copy


@pytest.fixture
def command(planted_runs, run) -> list[str]:
    """The command that makes its statistics."""
    return [*COMMAND, "statistics", str(planted_runs / "planted.toml"), "--runs", str(run.parent)]


@pytest.fixture(scope="module")
def expected(planted_runs) -> dict[str, str]:
    """Checksums of the datasets that one process makes."""
    return datasets(planted_runs / "runs" / "planted" / "statistics.h5")


@pytest.mark.parametrize(("ranks", "parallel"), [(3, False), (2, True), (7, True)])
def test_ranks_and_writers_change_no_bit(command, run, expected, ranks, parallel):
    """Seven ranks share six groups: one has nothing to compute, and takes part in the collective write."""
    code, errors = run_ranks(ranks, command, parallel)
    assert code == 0, errors
    assert datasets(run / "statistics.h5") == expected


UNEVEN = """
import sys, time
from pathlib import Path
from convergence import cli
from convergence.statistics.passes import StatisticsPasses
from mpi4py import MPI
rank, moments = MPI.COMM_WORLD.rank, StatisticsPasses.moments
def slow(self, edges, run, new_matrix):
    with open(Path(sys.argv[1]) / f"rank{rank}", "a") as file:
        print(run, file=file)
    others = Path(sys.argv[1]) / "rank0"
    while rank == 1 and not (others.exists() and len(others.read_text().split()) == len(self.batches.runs) - 1):
        time.sleep(0.05)
    yield from moments(self, edges, run, new_matrix)
StatisticsPasses.moments = slow
sys.exit(cli.main(sys.argv[2:]))
"""


def test_a_rank_takes_over_the_items_of_a_slower_one(command, run, expected, tmp_path):
    """Rank 1 waits in its first item, until rank 0 has computed all others."""
    said = tmp_path / "said"
    said.mkdir()
    arguments = command[len(COMMAND) :]
    code, errors = run_ranks(2, [COMMAND[0], "-c", UNEVEN, str(said), *arguments])
    assert code == 0, errors
    by_rank = [[int(line) for line in (said / f"rank{rank}").read_text().split()] for rank in (0, 1)]
    assert by_rank[1] == [1]
    assert sorted([*by_rank[0], *by_rank[1]]) == list(range(len(by_rank[0]) + 1))
    assert len(by_rank[0]) > 1, "more than its half"
    assert datasets(run / "statistics.h5") == expected


WRITE = """
import sys, h5py, numpy as np
from pathlib import Path
from convergence.io import hdf5
from hpc.comm import MPICommunicator
from hpc.hdf5_writers import write_blocks
from mpi4py import MPI
hdf5.BLOCK_ROWS = 10
comm = MPICommunicator(MPI.COMM_WORLD)
folder, parallel = Path(sys.argv[1]), sys.argv[2] == "collective"
path = folder / f"{sys.argv[2]}-{comm.size}.h5"
shapes = {"a/cube": (3, 25, 7), "b": (41, 5), "c": (1, 1)}
if comm.rank == 0:
    with h5py.File(path, "w") as file:
        file.create_group("a")
        for name, shape in shapes.items():
            hdf5.create_blocks(file["a"] if "/" in name else file, name.split("/")[-1], shape)
comm.barrier()
blocks = [(name, index) for name, shape in shapes.items() for index in hdf5.blocks(shape)]
whole = {name: np.random.default_rng(len(name)).standard_normal(shape) for name, shape in shapes.items()}
digests = write_blocks(path, blocks, lambda name, index: whole[name][index], comm, parallel)
if comm.rank == 0:
    assert [name for name, _ in digests] == [name for name, _ in blocks]
    with h5py.File(path, "r+") as file:
        for name in shapes:
            hdf5.write_checksum(file[name], [digest for n, digest in digests if n == name])
            assert (hdf5.read_array(file, name) == whole[name]).all()
"""


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("writer", ["collective", "gather"])
def test_both_writers_write_the_same_numbers(tmp_path, writer, ranks):
    code, errors = run_ranks(
        ranks, [COMMAND[0], "-c", WRITE, str(tmp_path), writer], parallel=writer == "collective", timeout=60
    )
    assert code == 0, errors
    with h5py.File(tmp_path / f"{writer}-{ranks}.h5") as file:
        assert (file["b"][()] == np.random.default_rng(1).standard_normal((41, 5))).all()


FAIL = """
import sys
import hpc.comm, hpc.statistics
from convergence import cli
from convergence.errors import FileError
from convergence.runs.signals import Stopped
from convergence.statistics.assembly import RowsOnDisk
from convergence.statistics.passes import StatisticsPasses
from mpi4py import MPI
method, kind = sys.argv[1], sys.argv[2]
def failing(self, *arguments):
    raise {"defect": ValueError, "user": FileError, "stop": Stopped}[kind]("planted in one rank")
hpc.comm.LEAVE_S = 0.5
if MPI.COMM_WORLD.rank == 1:
    owner = RowsOnDisk if method == "__getitem__" else StatisticsPasses
    setattr(owner, method, failing)
sys.exit(cli.main(sys.argv[3:]))
"""


@pytest.mark.parametrize(
    ("method", "kind", "parallel"),
    [
        ("moments", "user", False), ("fine_edges", "defect", False), ("__getitem__", "user", False),
        ("__getitem__", "defect", True), ("fine_edges", "stop", False),
    ],
)  # fmt: skip
def test_error_of_one_rank_ends_all_ranks(command, run, method, kind, parallel):
    """In a pass, between two passes, and during the write with either writer; a rank that stops alone, too."""
    started = time.monotonic()
    arguments = command[len(COMMAND) :]
    code, errors = run_ranks(3, [COMMAND[0], "-c", FAIL, method, kind, *arguments], parallel, timeout=120)
    assert code == 75 if kind == "stop" else code not in (0, 75)
    assert ("planted in one rank" in errors) == (kind != "stop")
    assert ("Traceback" in errors) == (kind == "defect")
    assert time.monotonic() - started < 60
    assert not (run / "statistics.h5").exists()


STARTING = """
import os, subprocess, sys, time
from convergence.cli import main
if os.environ["PMI_RANK"] == "0":  # ends before MPI starts, for which the other rank waits
    time.sleep(3)
    sys.exit(130)
else:
    subprocess.Popen(["sh", "-c", f"sleep 4; kill -INT {os.getpid()}"])
sys.exit(main(sys.argv[1:]))
"""


def test_interrupt_while_mpi_starts_ends_all_ranks(command):
    """A terminal interrupts all ranks: one before it starts MPI, the other while it waits for the first in C."""
    code, _ = run_ranks(2, [COMMAND[0], "-c", STARTING, *command[len(COMMAND) :]], timeout=60)
    assert code != 0


def test_other_stages_refuse_ranks(command):
    command[command.index("statistics")] = "analyze"
    code, errors = run_ranks(2, command, timeout=120)
    assert code == 2
    assert errors.count("2 ranks were launched. Only `convergence statistics` runs on several MPI ranks") == 1


def partial_results(run) -> int:
    """Number of partial results on disk; 0 once the stage has removed their folder."""
    try:
        return sum(name.endswith(".h5") for name in os.listdir(run / "statistics.partial"))
    except FileNotFoundError:
        return 0


def wait_for_partial_results(run, process, n: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if partial_results(run) >= n:
            return
        time.sleep(0.002)


def rank_processes(process: subprocess.Popen | Attempt) -> list[psutil.Process]:
    """The ranks below a launcher."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if not child.children()]
    return []


def test_kills_at_any_instant_change_no_bit(command, run, expected, tmp_path, request):
    """kill -9 of one rank or of all at random instants, several times; then a run to the end."""
    draw = random.Random(0)
    killed = 0
    for _ in range(request.config.getoption("kills") // 2):
        attempt = launched(2, command[len(COMMAND) :], tmp_path / "scratch")
        wait_for_partial_results(run, attempt, partial_results(run) + draw.randrange(3))
        time.sleep(draw.uniform(0, 0.3))
        ranks = rank_processes(attempt)
        if ranks and draw.random() < 0.5:
            send(draw.choice(ranks), signal.SIGKILL)
            attempt.wait(60)
        if attempt.poll() is None:
            send(psutil.Process(attempt.pid), signal.SIGKILL)
        killed += attempt.wait(60) != 0
        attempt.orphans(0)
        if (run / "statistics.json").exists() and not (run / "statistics.partial").exists():
            forget_statistics(run)  # the stage ended before the kill
    assert killed
    code, errors = run_ranks(3, command)
    assert code == 0, errors
    assert datasets(run / "statistics.h5") == expected
    assert sorted(path.name for path in run.iterdir()) == [
        "analysis.h5",
        "analysis.json",
        "check",
        "data",
        "statistics.h5",
        "statistics.json",
    ]


def test_damaged_partial_results_are_computed_again(command, run, expected):
    """Stop by signal after two partial results of groups, then truncate one and flip a bit in the other."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for_partial_results(run, process, 6 + 4 + 2)  # six of the pilot and the pseudo-nets of four nets come first
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "finishing the current unit of work" in errors
    torn, flipped, *_ = sorted((run / "statistics.partial").glob("moments-*.h5"))
    torn.write_bytes(torn.read_bytes()[:-500])
    with h5py.File(flipped, "r+") as file:
        (group,) = file
        file[f"{group}/fc/products"][0, 3] *= 1 + 1e-12
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stderr
    assert datasets(run / "statistics.h5") == expected


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="this system has no SIGUSR2")
def test_signal_to_one_rank_stops_all_ranks(command, run, expected):
    process = launch(2, command, stderr=subprocess.PIPE)
    wait_for_partial_results(run, process, 1)
    rank_processes(process)[0].send_signal(signal.SIGUSR2)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    code, errors = run_ranks(2, command)
    assert code == 0, errors
    assert datasets(run / "statistics.h5") == expected
