"""What the nine strongest images of every unit cost on top of the statistics pass, and how far maximised images reach.

    python -m benchmarks.pictures             # the cost
    python -m benchmarks.pictures runs/digits # and the share of units whose maximised image beats every real one

The cost is that of the sums of images (:meth:`~convergence.statistics.passes.StatisticsPasses.moments`) with
``statistics.top_images`` 9 and 0, in turn, on the same nets and images: four small nets on the digits, and four on
photographs of 64 pixels; two threads, time on the wall. Bar: 15 %. Of maximised images, live convolutional units of
trained nets count; bar: 95 %.
"""

from __future__ import annotations

from benchmarks.timing import describe_blas, interleaved, ratio  # before numpy, see there

# isort: split
import functools
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from convergence.config.load import parse_config
from convergence.runs.run_folder import RunFolder
from convergence.statistics.partial_results import PartialResults
from convergence.statistics.passes import Pass, StatisticsPasses
from convergence.statistics.torch_source import NetSource
from convergence.training.loop import make_net
from convergence.visualization.file import open_pictures

CONFIGS = {
    "digits": """
name = "digits"
[data]
name = "digits"
[[nets]]
seeds = [1, 2, 3, 4]
network = { name = "small", channels = [16, 32], hidden = [64] }
trained = false
[statistics]
comparisons = ["conv1", "conv2", "fc1"]
groups = 4
""",
    "photos": """
name = "photos"
[data]
name = "photos"
[[nets]]
seeds = [1, 2, 3, 4]
network = { name = "small", channels = [32, 64, 96], hidden = [128] }
trained = false
[statistics]
comparisons = ["conv1", "conv2", "conv3", "fc1"]
groups = 4
max_images = 512
""",
}


def seconds_of_passes(text: str, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of one group's pass without and with the strongest images."""
    experiments = {n: parse_config(text, [f"statistics.top_images={n}"]) for n in (0, 9)}
    experiment = experiments[0]
    run = RunFolder(folder, experiment)
    splits = experiment.images.load()
    for net in experiment.all_nets():
        run.net_folder(net).mkdir(parents=True)
        make_net(run.net_folder(net), net.spec, net.seed, False, splits, experiment.training)
    folders = {net.name: run.net_folder(net) for net in experiment.all_nets()}
    passes: dict[int, tuple[Pass, PartialResults]] = {}
    for n, one in experiments.items():
        partial = PartialResults(folder / f"partial-{n}", "benchmark")
        partial.prepare()
        for step in StatisticsPasses(NetSource.load(one, folders), one.statistics, partial):
            if step.what == "sums":
                passes[n] = (step, partial)
                break
            for item in step.items:
                partial.write(step.name(item), functools.partial(step.compute, item))

    def moments(n: int) -> None:
        step, partial = passes[n]
        partial.write(step.name(1), functools.partial(step.compute, 1))

    return interleaved(
        {"without": lambda: moments(0), "with": lambda: moments(9)},
        rounds,
        time.perf_counter,
    )


def reached(path: Path) -> None:
    """Print how many live convolutional units have a maximised image that beats every real one."""
    beats, layers = [], set()
    with open_pictures(path) as file:
        for net in file.nets:
            for layer in file.layers(net):
                found = file.of(net, layer)
                if layer.startswith("conv") and found.maximization_value is not None:
                    won = found.maximization_value.max(axis=1) >= found.maximization_best_real
                    beats.append(won[~found.dead])
                    layers.add(layer)
    share = np.concatenate(beats)
    print(f"{path}: {', '.join(sorted(layers))}: {100 * share.mean():.1f} % of {len(share)} live units (bar 95 %)")


def main() -> None:
    """Compare, and look into runs that are named."""
    print(describe_blas())
    for name, text in CONFIGS.items():
        folder = Path(tempfile.mkdtemp())
        try:
            seconds = seconds_of_passes(text, folder, 15)
        finally:
            shutil.rmtree(folder)
        extra = 100 * (ratio(seconds, "with", "without") - 1)
        each = 1000 * median(seconds["without"])
        print(f"{name}: a group's pass {each:.0f} ms; with the nine strongest images {extra:+.1f} % (bar 15 %)")
    for run in sys.argv[1:]:
        reached(Path(run) / "pictures.h5")


if __name__ == "__main__":
    main()
