"""Training on two processes against one: the same net, the same batches of 256, one thread a process.

    python -m benchmarks.processes [rounds]

The seconds are those of whole epochs as `metrics.csv` has them, the first one left out, evaluation included.
Bar: two processes at least 1.6 x as fast as one.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

TOML = """
name = "processes"
[data]
name = "photos"
n_train = 4096
n_test = 256
[[nets]]
seeds = [1, 2]
network = { name = "small", channels = [32, 64], hidden = [64] }
[training]
epochs = 4
batch_size = 256
threads = 1
loader_workers = 0
device = "cpu"
[statistics]
comparisons = ["conv1"]
"""


def seconds(folder: Path, size: int) -> float:
    """Median seconds of an epoch over so many processes."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(size), "--standalone"] if size > 1 else []
    arguments = ["-m", "convergence", "train", str(folder / "processes.toml"), "--runs", str(folder / "runs")]
    subprocess.run(
        [sys.executable, *launcher, *arguments, "--net", "net1", "--overwrite", "--set", f"training.data_seed={size}"],
        check=True, capture_output=True,
    )  # fmt: skip
    with (folder / "runs/processes/nets/net1/metrics.csv").open() as file:
        return median(float(row["seconds"]) for row in list(csv.DictReader(file))[1:])


def main(rounds: int = 5) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "processes.toml").write_text(TOML, encoding="utf-8")
        taken = [(seconds(folder, 1), seconds(folder, 2)) for _ in range(rounds)]
    print(f"an epoch of 4096 images: {median(a for a, _ in taken):.2f} s on one process, ", end="")
    print(f"{median(b for _, b in taken):.2f} s on two")
    ratios = sorted(a / b for a, b in taken)
    print(f"two against one: {median(ratios):.2f} x ({ratios[0]:.2f} … {ratios[-1]:.2f})  (bar: 1.6)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
