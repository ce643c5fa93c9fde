"""Four small nets trained together against one after the other.

    python -m benchmarks.together [images]

From JPEG files of 375 × 500 pixels, cut to 32 × 32 and to 64 × 64 (each batch is decoded once instead of four times),
and from digits in memory (there is nothing to share). Two threads decode, one computes. The same bits either way.
Bar: at least 2 x the throughput.
"""

from __future__ import annotations

from benchmarks.timing import interleaved, ratio  # isort: skip

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.loading import make_photographs
from convergence.config.stages import TrainingConfig
from convergence.data.digits import Digits
from convergence.data.image_folder import ImageFolder
from convergence.data.images import Splits
from convergence.io.files import CHECKPOINTS
from convergence.networks.small import Small
from convergence.training.loop import train_jointly
from convergence.training.trainer import Candidate


def compare(what: str, splits: Splits, config: TrainingConfig, network: Small, folder: Path) -> None:
    nets = [Candidate(folder / f"net{seed}", network, seed) for seed in range(4)]

    def clear() -> None:
        for net in nets:
            for name in CHECKPOINTS:
                (net.folder / name).unlink(missing_ok=True)

    def one_by_one() -> None:
        clear()
        for net in nets:
            train_jointly([net], splits, config)

    def together() -> None:
        clear()
        train_jointly(nets, splits, config)

    seconds = interleaved({"one": one_by_one, "together": together}, rounds=3, clock=time.perf_counter)
    images = 4 * config.epochs * len(splits.train)
    print(f"{what}: {images / median(seconds['one']):.0f} images a second and net one after the other, ", end="")
    print(f"{images / median(seconds['together']):.0f} together: {ratio(seconds, 'one', 'together'):.2f} x  (bar: 2)")


def main(n: int = 256) -> None:
    print(f"{os.cpu_count()} cores")
    network = Small(name="small", channels=(16, 32), hidden=(64,))
    config = TrainingConfig(epochs=1, batch_size=64, threads=1, loader_workers=2, learning_rate=1e-3, device="cpu")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_photographs(root, n, 375, 500)
        for side in (32, 64):
            folder = ImageFolder(name="image_folder", root=root, resize=side + 8, crop=side)
            compare(f"JPEG files, {side} x {side}", folder.load(), config, network, root / "nets")
        digits = config.model_copy(update={"epochs": 4, "batch_size": 32})
        compare("digits", Digits(name="digits").load(), digits, network, root / "nets")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
