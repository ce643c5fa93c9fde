"""Experiments on nets over two processes against one, one thread a process; the results must be the same.

    python -m benchmarks.experiments configs/digits.toml runs [rounds] [experiment …]

The run has to be there, with its statistics; a copy of it is worked on. The clock is the one on the wall, from the
command to its end, the start of Python included.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import h5py

from convergence.config.load import read_config

FORWARD = ("stitch", "merge", "compress", "ensemble")


def seconds(config: str, runs: str, experiment: str, size: int) -> float:
    """Of an experiment done anew, over so many processes."""
    for left in Path(runs).glob(f"*/functional/{experiment}*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(size), "--standalone"] if size > 1 else []
    command = [experiment, config, "--runs", runs]
    start = time.perf_counter()
    subprocess.run([sys.executable, *launcher, "-m", "convergence", *command], check=True, capture_output=True)
    return time.perf_counter() - start


def content(path: Path) -> dict[str, bytes]:
    """All datasets of a file."""
    found: dict[str, bytes] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            values = item[()]
            found[name] = repr(values).encode() if item.dtype.kind == "O" else values.tobytes()

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def main(config: str, runs: str, rounds: int, experiments: list[str]) -> None:
    name = read_config(config).name
    with tempfile.TemporaryDirectory() as place:
        folder = shutil.copytree(Path(runs) / name, Path(place) / name)
        for experiment in experiments:
            taken, made = [], []
            for _ in range(rounds):
                pair = []
                for size in (1, 2):
                    pair.append(seconds(config, place, experiment, size))
                    made.append(content(folder / "functional" / f"{experiment}.h5"))
                taken.append(pair)
            same = all(each == made[0] for each in made)
            one, two = (median(pair[k] for pair in taken) for k in (0, 1))
            ratio = median(a / b for a, b in taken)
            print(f"{experiment:10} {one:6.1f} s on one process, {two:6.1f} s on two: {ratio:.2f} x", end="; ")
            print("the same results" if same else "DIFFERENT RESULTS", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python -m benchmarks.experiments CONFIG RUNS [rounds] [experiment …]")
    main(*sys.argv[1:3], int((sys.argv[3:] or ["1"])[0]), sys.argv[4:] or list(FORWARD))
