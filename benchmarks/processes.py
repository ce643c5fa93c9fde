"""Training on two processes against one: the same net, the same batches of 256, one thread a process.

    python -m benchmarks.processes [rounds]

The seconds are those of whole epochs as `metrics.csv` has them, the first one left out, evaluation included.
Two processes that exchange nothing, with half of the images and of the batch each, say what the two cores could give.
Bar: two processes at least 1.6 x as fast as one.
"""

from __future__ import annotations

import csv
import shutil
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
    subprocess.run(
        [sys.executable, *launcher, *arguments(folder, "runs", f"training.data_seed={size}")],
        check=True, capture_output=True,
    )  # fmt: skip
    return epoch_seconds(folder / "runs")


def seconds_apart(folder: Path) -> float:
    """The same for two processes that know nothing of each other, each with half the images and half the batch."""
    half = ("data.n_train=2048", "training.batch_size=128")
    both = [
        subprocess.Popen(
            [sys.executable, *arguments(folder, f"half{k}", *half)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for k in (1, 2)
    ]  # fmt: skip
    if any(process.wait() for process in both):
        raise RuntimeError("a training failed")
    return max(epoch_seconds(folder / f"half{k}") for k in (1, 2))


def arguments(folder: Path, runs: str, *settings: str) -> list[str]:
    """A training of one net, from nothing."""
    command = ["-m", "convergence", "train", str(folder / "processes.toml"), "--runs", str(folder / runs)]
    return [*command, "--net", "net1", "--overwrite", *(part for one in settings for part in ("--set", one))]


def epoch_seconds(runs: Path) -> float:
    """Median over the epochs after the first."""
    with (runs / "processes/nets/net1/metrics.csv").open() as file:
        return median(float(row["seconds"]) for row in list(csv.DictReader(file))[1:])


def main(rounds: int = 5) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "processes.toml").write_text(TOML, encoding="utf-8")
        taken = []
        for k in range(rounds):
            taken.append((seconds(folder, 1), seconds(folder, 2), seconds_apart(folder)))
            for one in ("half1", "half2") if k < rounds - 1 else ():
                shutil.rmtree(folder / one)
    print(f"an epoch of 4096 images: {median(a for a, _, _ in taken):.2f} s on one process, ", end="")
    print(f"{median(b for _, b, _ in taken):.2f} s on two")
    ratios, limit = sorted(a / b for a, b, _ in taken), median(a / c for a, _, c in taken)
    print(f"two against one: {median(ratios):.2f} x ({ratios[0]:.2f} … {ratios[-1]:.2f})  (bar: 1.6)")
    print(f"two processes that exchange nothing: {limit:.2f} x, which is what these two cores can give")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
