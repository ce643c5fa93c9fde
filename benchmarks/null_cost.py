"""Measure what the chance level of pseudo-nets costs in the sums of the statistics: processor seconds of both.

Nets are untrained and images are noise. Runs with and without it alternate, and the ratio of each pair of runs is
printed, so that a machine whose speed changes does not change the result:

    python -m benchmarks.null_cost
    python -m benchmarks.null_cost --net alexnet --images 64 --repeats 3
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from convergence.config.load import parse_config
from convergence.data.images import ArrayImages
from convergence.statistics.partial_results import PartialResults
from convergence.statistics.passes import StatisticsPasses
from convergence.statistics.torch_source import NetSource

NETS = {
    "small": (
        '{ name = "digits" }', '{ name = "small", channels = [16, 32], hidden = [64] }', (1, 8, 8),
        '["conv1", "conv2", "fc1"]',
    ),
    "alexnet": (
        '{ name = "image_folder", root = ".", crop = 227 }', '{ name = "alexnet" }', (3, 227, 227),
        '["conv1", "conv2", "conv3", "conv4", "conv5"]',
    ),
}  # fmt: skip
"""Data set, network, shape of the images, and layers."""
TEXT = """
name = "t"
data = {data}
[[nets]]
seeds = {seeds}
network = {network}
[statistics]
comparisons = {layers}
image_gram = false
groups = {groups}
null = {{ draws = {draws} }}
mutual_information = {{ enabled = false }}
device = "cpu"
threads = 1
"""


def seconds(draws: int, arguments: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Seconds of the sums, and of the pilot."""
    data, network, shape, layers = NETS[arguments.net]
    settings = {"groups": arguments.groups, "draws": draws, "seeds": list(range(arguments.nets))}
    text = TEXT.format(data=data, network=network, layers=layers, **settings)
    experiment = parse_config(text)
    modules = {}
    for net in experiment.all_nets():
        torch.manual_seed(net.seed)
        modules[net.name] = net.spec.build(shape, 10)
    rng = np.random.default_rng(0)
    images = ArrayImages(rng.random((arguments.images, *shape), np.float32), np.zeros(arguments.images), "ab")
    source = NetSource(experiment, modules, images, ["cpu"])
    partial = PartialResults(folder, f"{draws}")
    partial.prepare()
    passes, found = StatisticsPasses(source, experiment.statistics, partial, kept_bytes=0), {"pseudo-nets": 0.0}
    for step in passes:
        start = time.process_time()
        for item in step.items:
            partial.write(step.name(item), functools.partial(step.compute, item))
        found[step.what] = time.process_time() - start
    return found["sums"], found["pilot"] + found["pseudo-nets"]


def main() -> None:
    """Print the seconds and ratios of all repeats."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=NETS, default="small")
    parser.add_argument("--nets", type=int, default=4)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    ratios = []
    with threadpool_limits(1):
        torch.set_num_threads(1)
        for repeat in range(arguments.repeats + 1):
            with tempfile.TemporaryDirectory() as folder:
                without, _ = seconds(0, arguments, Path(folder) / "without")
                with_null, pilot = seconds(arguments.draws, arguments, Path(folder) / "with")
            if repeat:  # the first one compiles kernels
                ratios.append(with_null / without)
                print(
                    f"sums: {without:.2f} s without, {with_null:.2f} s with {arguments.draws} draws, "
                    f"ratio {ratios[-1]:.2f}; pilot {pilot:.2f} s",
                    flush=True,
                )
    print(f"{arguments.net}: ratio {median(ratios):.2f} (median of {len(ratios)})")


if __name__ == "__main__":
    main()
