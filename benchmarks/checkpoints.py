"""What a checkpoint a minute costs: steps of a net with a checkpoint amid them against the same steps without.

    python -m benchmarks.checkpoints [network] [batch size] [steps]

The time that a checkpoint adds (copying the state, and what the thread that writes takes from the training) is set
against a minute. Bar: at most 2 %.
"""

from __future__ import annotations

from benchmarks.timing import interleaved  # isort: skip

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from convergence.config.stages import TrainingConfig
from convergence.data.images import ArrayImages, Splits
from convergence.networks.devices import reproducible_arithmetic
from convergence.networks.external import TorchvisionNetwork
from convergence.training.trainer import Candidate, Trainer

THREADS = 1


def main(network: str = "torchvision:resnet18", batch: int = 32, steps: int = 20) -> None:
    reproducible_arithmetic(THREADS)
    rng = np.random.default_rng(0)
    images = ArrayImages(rng.standard_normal((batch, 3, 96, 96)), np.arange(batch) % 10, map(str, range(10)))
    config = TrainingConfig(threads=THREADS, learning_rate=1e-3)
    x, y = torch.from_numpy(images.images), torch.from_numpy(images.labels)
    with tempfile.TemporaryDirectory() as folder:
        net = Candidate(Path(folder), TorchvisionNetwork(name=network), 0)
        trainer = Trainer(net, Splits(images, images), config, torch.device("cpu"))
        trainer.start_epoch()

        def learn(n: int) -> None:
            for _ in range(n):
                trainer.step(x, y, 1e-3)

        def with_one() -> None:
            learn(steps // 4)
            trainer.save()
            learn(steps - steps // 4)
            trainer.checkpoints.wait()

        stalls = []

        def stall() -> None:
            start = time.perf_counter()
            trainer.save()
            stalls.append(time.perf_counter() - start)
            trainer.checkpoints.wait()

        seconds = interleaved(
            {"without": lambda: learn(steps), "with": with_one, "stall": stall}, rounds=7, clock=time.perf_counter
        )
        size = (Path(folder) / "checkpoint.pt").stat().st_size / 1e6
        trainer.checkpoints.close()
    added = [a - b for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    print(
        f"{network}, batch {batch}: {steps} steps in {median(seconds['without']):.1f} s, a checkpoint of {size:.0f} MB"
    )
    print(f"the step that hands it over waits {median(stalls):.3f} s; writing takes {median(seconds['stall']):.2f} s")
    print(f"a checkpoint adds {median(added):.2f} s ({min(added):.2f} … {max(added):.2f})")
    print(f"one a minute: {median(added) / 60:.1%} of the time of training (bar: 2 %)")


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
