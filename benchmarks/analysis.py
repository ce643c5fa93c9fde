"""What the analysis of a pair of layers takes, and of the paper's five conv layers for four nets.

    python -m benchmarks.analysis [--layers conv1 conv3] [--groups 32]

One pair of synthetic layers of each width, analysed as ``convergence analyze`` does (every measure, both directions, 20
penalties, clusters), on one thread; pairs are independent tasks, so workers divide the time.
"""

from __future__ import annotations

from benchmarks import timing  # noqa: F401  before numpy

# isort: split
import argparse
import time

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.units import rectified
from convergence.analysis.active_units import active_units
from convergence.analysis.pair import analyze_pair
from convergence.config.stages import AnalysisConfig
from convergence.statistics.file import ComparisonSums
from convergence.statistics.histograms import UnitHistograms

WIDTHS = {"conv1": 96, "conv2": 256, "conv3": 384, "conv4": 384, "conv5": 256}
N_PAIRS = 6
N_SAMPLES, KEPT = 20_000, 256


def sums_of_two_nets(width: int, n_groups: int) -> ComparisonSums:
    """Sums of two layers of this width that share causes, without mutual information."""
    samples = rectified(2 * width, N_SAMPLES)
    histograms = UnitHistograms.zeros(2 * width)
    histograms.update(samples)
    parts = [samples[:, g::n_groups].astype(np.float64) for g in range(n_groups)]
    return ComparisonSums(
        name="layer",
        nets=("a", "b"),
        trained=(True, True),
        layers=("layer", "layer"),
        sources=("layer", "layer"),
        map_shape=(),
        unit_net=np.repeat([0, 1], width),
        shift=np.zeros(2 * width),
        group_count=np.array([part.shape[1] for part in parts]),
        group_sums=np.stack([part.sum(axis=1) for part in parts]),
        group_products=np.stack([part @ part.T for part in parts]),
        group_shifted_products=None,
        histograms=histograms,
        mutual_information=None,
        mutual_information_without=None,
        subset_samples=samples[:, :KEPT].T.copy(),
        subset_group=np.arange(KEPT) % n_groups,
        image_gram=np.stack([kept.T @ kept for kept in (samples[:width, :KEPT], samples[width:, :KEPT])]).astype(
            np.float64
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    parser.add_argument("--groups", type=int, default=32)
    options = parser.parse_args()
    seconds: dict[int, float] = {}
    with threadpool_limits(1):
        for width in sorted({WIDTHS[layer] for layer in options.layers}):
            sums = sums_of_two_nets(width, options.groups)
            live = active_units(sums)
            if not seconds:
                analyze_pair(sums_of_two_nets(12, 4), active_units(sums_of_two_nets(12, 4)), "a", "b", AnalysisConfig())
            start = time.thread_time()
            analyze_pair(sums, live, "a", "b", AnalysisConfig())
            seconds[width] = time.thread_time() - start
            print(f"{width} units, {options.groups} groups: {seconds[width]:.1f} s a pair")
    total = sum(N_PAIRS * seconds[WIDTHS[layer]] for layer in options.layers)
    print(f"four nets, {', '.join(options.layers)}: {total / 60:.1f} min on one core")


if __name__ == "__main__":
    main()
