"""Statistics over ranks: the same bits for any number of them, any writer, any kill; no rank waits for a dead one."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time

import h5py
import numpy as np
import pytest

from tests.helpers.ranks import COMMAND, launch, run_ranks
from tests.helpers.runs import datasets, forget_statistics


def statistics(config, run) -> list[str]:
    return [*COMMAND, "statistics", str(config), "--runs", str(run.parent)]


@pytest.mark.parametrize(("ranks", "parallel"), [(1, False), (3, False), (2, True), (4, True), (7, True), (7, False)])
def test_ranks_and_writers_change_no_bit(tiny_config, tiny_copy, tiny_run, ranks, parallel):
    """Seven ranks share five groups and single blocks: some have nothing to do, in a collective write too."""
    forget_statistics(tiny_copy)
    code, errors = run_ranks(ranks, statistics(tiny_config, tiny_copy), parallel)
    assert code == 0, errors
    assert datasets(tiny_copy / "statistics.h5") == datasets(tiny_run / "statistics.h5")


WRITE = """
import sys, h5py, numpy as np
from pathlib import Path
from convergence import hdf5
from hpc.comm import MPICommunicator
from hpc.writers import write_blocks
from mpi4py import MPI
hdf5.BLOCK_ROWS = 10
comm = MPICommunicator(MPI.COMM_WORLD)
folder, parallel = Path(sys.argv[1]), sys.argv[2] == "together"
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
            hdf5.seal(file[name], [digest for n, digest in digests if n == name])
            assert (hdf5.read_array(file, name) == whole[name]).all()
"""


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("writer", ["together", "one"])
def test_both_writers_leave_the_same_numbers(tmp_path, writer, ranks):
    code, errors = run_ranks(
        ranks, [COMMAND[0], "-c", WRITE, str(tmp_path), writer], parallel=writer == "together", timeout=60
    )
    assert code == 0, errors
    with h5py.File(tmp_path / f"{writer}-{ranks}.h5") as file:
        assert (file["b"][()] == np.random.default_rng(1).standard_normal((41, 5))).all()


FAIL = """
import sys
import hpc.statistics
from convergence import cli
from convergence.errors import FileError
from convergence.statistics.collect import Collector
from mpi4py import MPI
method, kind = sys.argv[1], sys.argv[2]
def failing(self, *arguments):
    raise {"defect": ValueError, "user": FileError}[kind]("planted in one rank")
if MPI.COMM_WORLD.rank == 1:
    setattr(Collector, method, failing)
sys.exit(cli.main(sys.argv[3:]))
"""


@pytest.mark.parametrize("kind", ["defect", "user"])
@pytest.mark.parametrize(
    ("method", "parallel"), [("moments", False), ("edges", False), ("block", False), ("block", True)]
)
def test_one_failing_rank_ends_all_at_once(tiny_config, tiny_copy, method, kind, parallel):
    """Before a meeting of the ranks, between two, and amid writing: nobody waits for the one that is gone."""
    forget_statistics(tiny_copy)
    arguments = statistics(tiny_config, tiny_copy)[len(COMMAND) :]
    started = time.monotonic()
    code, errors = run_ranks(3, [COMMAND[0], "-c", FAIL, method, kind, *arguments], parallel, timeout=120)
    assert code != 0
    assert "planted in one rank" in errors
    assert ("Traceback" in errors) == (kind == "defect")
    assert time.monotonic() - started < 60
    assert not (tiny_copy / "statistics.h5").exists()


def test_damaged_weights_are_named(tiny_config, tiny_copy):
    forget_statistics(tiny_copy)
    (tiny_copy / "nets" / "net2" / "weights.safetensors").write_bytes(b"damaged")
    code, errors = run_ranks(2, statistics(tiny_config, tiny_copy), timeout=120)
    assert code == 2
    assert "net2" in errors


def test_other_stages_refuse_ranks(tiny_config, tiny_copy):
    code, errors = run_ranks(2, [*COMMAND, "analyze", str(tiny_config), "--runs", str(tiny_copy.parent)], timeout=120)
    assert code == 2
    assert errors.count("only `convergence statistics` spreads over ranks") == 1


def pieces(run) -> int:
    """Finished pieces on disk; none once the stage has cleared them up, which it may do while they are counted."""
    try:
        return sum(name.endswith(".h5") for name in os.listdir(run / "statistics.partial"))
    except FileNotFoundError:
        return 0


def wait_for_pieces(run, process, n: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if pieces(run) >= n:
            return
        time.sleep(0.002)


def test_kills_at_any_instant_change_no_bit(tiny_config, tiny_copy, tiny_run, request):
    """kill -9 of one rank or of all, at instants drawn by seed, again and again; then an undisturbed end."""
    forget_statistics(tiny_copy)
    command = statistics(tiny_config, tiny_copy)
    draw = random.Random(0)
    killed = 0
    for _ in range(request.config.getoption("kills")):
        process = launch(2, command, stderr=subprocess.DEVNULL, start_new_session=True)
        before = pieces(tiny_copy)
        wait_for_pieces(tiny_copy, process, before + draw.randrange(3))
        time.sleep(draw.uniform(0, 0.3))
        if draw.random() < 0.5:
            children = subprocess.run(["pgrep", "-f", str(tiny_copy.parent)], capture_output=True, text=True)
            ranks = [int(pid) for pid in children.stdout.split() if int(pid) not in (process.pid, os.getpid())]
            if ranks:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(draw.choice(ranks), signal.SIGKILL)
                process.wait(60)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        killed += process.wait(60) != 0
        subprocess.run(["pkill", "-9", "-f", str(tiny_copy.parent)], check=False)
        if (tiny_copy / "statistics.json").exists() and not (tiny_copy / "statistics.partial").exists():
            forget_statistics(tiny_copy)  # it was done before the kill came
    assert killed
    code, errors = run_ranks(3, command)
    assert code == 0, errors
    assert datasets(tiny_copy / "statistics.h5") == datasets(tiny_run / "statistics.h5")
    assert not (tiny_copy / "statistics.partial").exists()


def test_a_damaged_piece_is_made_again(tiny_config, tiny_copy, tiny_run):
    """Stop by signal after two pieces, then tear one and flip a bit in the other: neither is trusted."""
    forget_statistics(tiny_copy)
    process = subprocess.Popen(statistics(tiny_config, tiny_copy), stderr=subprocess.PIPE, text=True)
    wait_for_pieces(tiny_copy, process, 2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "finishing the piece at hand" in errors
    torn, flipped, *_ = sorted((tiny_copy / "statistics.partial").glob("moments-*.h5"))
    torn.write_bytes(torn.read_bytes()[:-500])
    with h5py.File(flipped, "r+") as file:
        file["conv2/products"][0, 3] *= 1 + 1e-12
    done = subprocess.run(statistics(tiny_config, tiny_copy), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "goes on where it stopped" in done.stderr
    assert datasets(tiny_copy / "statistics.h5") == datasets(tiny_run / "statistics.h5")


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="this system has no SIGUSR2")
def test_a_walltime_signal_stops_all_ranks(tiny_config, tiny_copy, tiny_run):
    forget_statistics(tiny_copy)
    process = launch(2, statistics(tiny_config, tiny_copy), stderr=subprocess.PIPE)
    wait_for_pieces(tiny_copy, process, 1)
    pids = subprocess.run(["pgrep", "-f", f"python.*{tiny_copy.parent}"], capture_output=True, text=True).stdout.split()
    for pid in pids:
        if int(pid) not in (process.pid, os.getpid()):
            os.kill(int(pid), signal.SIGUSR2)
            break
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    code, errors = run_ranks(2, statistics(tiny_config, tiny_copy))
    assert code == 0, errors
    assert datasets(tiny_copy / "statistics.h5") == datasets(tiny_run / "statistics.h5")
