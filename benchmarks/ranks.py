"""The statistics stage on 1, 2 and 4 ranks, one thread each: seconds, and the ratio to one rank.

    python -m benchmarks.ranks            # 1, 2, 4 ranks
    python -m benchmarks.ranks --rounds 5

Four nets of 192 units on 10 × 10 maps of 6,000 images, as arrays on the disk: both passes, all positions, the file
included. Times are those that the stage records, so starting Python is left out. Rounds go through all numbers of ranks
in turn; the ratio is the median over rounds. Needs mpiexec (pip install 'mpich>=5,<6'), 2 GB of disk, three minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.timing import describe_blas, ratio  # before numpy, see there

# isort: split
import numpy as np

CONFIG = """
name = "ranks"
[activations]
root = "{root}"
[activations.nets]
{nets}
[statistics]
comparisons = ["layer"]
groups = {groups}
batch_size = 64
threads = 1
loader_workers = 0
"""


def write_inputs(
    folder: Path, n_nets: int = 4, n_units: int = 192, n_images: int = 6_000, side: int = 10, groups: int = 16
) -> Path:
    """Arrays of rectified units with common causes, and a config; the config's path."""
    rng = np.random.default_rng(0)
    causes = rng.standard_normal((n_images, 8, side * side), dtype=np.float32)
    for net in range(n_nets):
        mixing = rng.standard_normal((n_units, 8), dtype=np.float32)
        noise = rng.standard_normal((n_images, n_units, side * side), dtype=np.float32)
        values = np.maximum(np.matmul(mixing, causes) + noise - 0.5, 0)
        np.save(folder / f"net{net}.npy", values.reshape(n_images, n_units, side, side))
    nets = "\n".join(f'net{net} = {{ layer = "net{net}.npy" }}' for net in range(n_nets))
    config = folder / "ranks.toml"
    config.write_text(CONFIG.format(root=folder.as_posix(), nets=nets, groups=groups), encoding="utf-8")
    return config


def seconds_of(config: Path, ranks: int) -> float:
    """Time of the stage, as it records it, from nothing."""
    run = config.parent / "ranks"
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-m", "convergence", "statistics", str(config), "--runs", str(config.parent)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = os.environ | {"MPIR_CVAR_POLLS_BEFORE_YIELD": "0", "PATH": path}
    subprocess.run(["mpiexec", "-n", str(ranks), *command], check=True, env=environ, stderr=subprocess.DEVNULL)
    return float(json.loads((run / "statistics.json").read_text(encoding="utf-8"))["seconds"])


def main() -> None:
    """Parse the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ranks", nargs="*", type=int, default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{describe_blas()}; {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        config = write_inputs(Path(folder))
        seconds_of(config, 1)  # compiled kernels and the files' pages are there afterwards
        seconds: dict[str, list[float]] = {str(n): [] for n in arguments.ranks}
        for _ in range(arguments.rounds):
            for n in arguments.ranks:
                seconds[str(n)].append(seconds_of(config, n))
    first = str(arguments.ranks[0])
    for n, values in seconds.items():
        print(f"{n} ranks: {median(values):6.1f} s   {ratio(seconds, first, n):.2f} x {first}", flush=True)


if __name__ == "__main__":
    main()
