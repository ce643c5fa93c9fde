"""How the statistics and the analysis grow with images, units and nets, and how ranks share uneven work.

    python -m benchmarks.scale                # five minutes, 2 GB of disk
    python -m benchmarks.scale --simulate     # the ranks and the plan only: a second

Every point is a run of the command on arrays: processor seconds, peak memory and bytes of a stage, of one process on
one thread. An exponent is the slope of log(seconds - start) over the points of one quantity, where start is what a run
of four units takes. The simulation gives ranks the image groups of a study in the order of hpc/claims.py, and compares
with fixed shares. The plan is of 100 ResNet-50 on 50,000 images: operations, bytes and hours of a layer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.timing import describe_blas  # before numpy, see there

# isort: split
import numpy as np

from benchmarks.ranks import write_inputs
from hpc.claims import Claims
from hpc.comm import owned


@dataclass(frozen=True)
class Size:
    """What is varied."""

    images: int = 1_000
    units: int = 48
    nets: int = 3


SMALLEST = Size(images=64, units=4, nets=2)
POINTS: dict[str, tuple[int, ...]] = {
    "images": (1_000, 2_000, 4_000, 8_000),
    "units": (48, 96, 192),
    "nets": (3, 6, 12),
}
SIDE, GROUPS = 6, 8
STAGES = {"statistics": ("statistics.h5", ()), "analyze": ("analysis.h5", ("--workers", "1"))}


def costs(size: Size) -> dict[str, tuple[float, float, int]]:
    """By stage: processor seconds, peak memory in GB, and bytes of its file."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        config = write_inputs(Path(folder), size.nets, size.units, size.images, SIDE, GROUPS)
        for stage, (name, options) in STAGES.items():
            command = [sys.executable, "-m", "convergence", stage, str(config), "--runs", folder, *options]
            environ = os.environ | {"OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise RuntimeError(f"{' '.join(command)} failed with status {status}")
            bytes_of_file = (Path(folder) / "ranks" / name).stat().st_size
            found[stage] = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6, bytes_of_file
    return found


def exponent(values: list[int], seconds: list[float], start: float) -> float:
    """Slope of log(seconds - start) against log(value)."""
    return float(np.polyfit(np.log(values), np.log(np.maximum(np.subtract(seconds, start), 1e-2)), 1)[0])


def measure() -> None:
    """Print the table of costs and exponents."""
    costs(SMALLEST)  # compiled kernels are there afterwards
    start = costs(SMALLEST)
    print(f"{'':24}" + "".join(f"{stage:>34}" for stage in STAGES))
    print(f"{'start':24}" + "".join(f"{start[stage][0]:>32.1f} s" for stage in STAGES))
    base = costs(Size())
    for name, values in POINTS.items():
        found = [
            base if value == getattr(Size(), name) else costs(replace(Size(), **{name: value})) for value in values
        ]
        for value, cost in zip(values, found, strict=True):
            cells = (f"{s:8.1f} s {gb:8.2f} GB {n / 1e6:9.1f} MB" for s, gb, n in (cost[stage] for stage in STAGES))
            print(f"{f'{value:,} {name}':24}" + "".join(f"{cell:>34}" for cell in cells), flush=True)
        slopes = (exponent(list(values), [cost[stage][0] for cost in found], start[stage][0]) for stage in STAGES)
        print(f"{f'exponent of {name}':24}" + "".join(f"{slope:>34.2f}" for slope in slopes), flush=True)


def makespan(seconds: np.ndarray[Any, Any], speeds: np.ndarray[Any, Any], shared: bool) -> float:
    """Seconds until the last rank is done, with fixed shares, or with items that ranks claim."""
    size = len(speeds)
    if not shared:
        return float(max(seconds[list(owned(len(seconds), rank, size))].sum() / speeds[rank] for rank in range(size)))
    orders = [iter(Claims(Path(), rank, size).order(seconds)) for rank in range(size)]
    free, taken = np.zeros(size), set[int]()
    waiting = set(range(size))
    while waiting:
        rank = min(waiting, key=lambda rank: free[rank])
        item = next((k for k in orders[rank] if k not in taken), None)
        if item is None:
            waiting.remove(rank)
        else:
            taken.add(item)
            free[rank] += seconds[item] / speeds[rank]
    return float(free.max())


def simulate() -> None:
    """Print how long ranks need with fixed shares and with claims, relative to work that is divided evenly."""
    rng = np.random.default_rng(0)
    print("\nseconds of ranks / seconds of evenly divided work: fixed shares, claims (means of 200 draws)")
    for what, spread, slow in (
        ("equal groups, equal ranks", 0.0, 1.0),
        ("groups of families (log-normal, 0.5)", 0.5, 1.0),
        ("equal groups, a quarter of the ranks at half speed", 0.0, 0.5),
        ("both", 0.5, 0.5),
    ):
        for groups, ranks in ((20, 4), (64, 16), (256, 64)):
            ratios = []
            for _ in range(200):
                seconds, speeds = np.exp(spread * rng.standard_normal(groups)), np.ones(ranks)
                speeds[rng.permutation(ranks)[: ranks // 4]] = slow
                ideal = seconds.sum() / speeds.sum()
                ratios.append([makespan(seconds, speeds, shared) / ideal for shared in (False, True)])
            fixed, claimed = np.mean(ratios, axis=0)
            print(f"{what:52} {groups:4} groups {ranks:3} ranks   {fixed:5.2f} {claimed:5.2f}")


def plan(gflops: float = 100.0, pair_samples: float = 40.0, nets: int = 100, images: int = 50_000) -> None:
    """Print what a layer of 100 ResNet-50 takes, by rates in 10⁹ a second on one core."""
    forward, groups = 8.2e9, 8
    print(f"\n{nets} ResNet-50, {images:,} images, {groups} image groups; a core does {gflops:.0f} Gflop/s")
    print(f"forward passes: {nets * images * forward / gflops / 3.6e12:,.0f} core hours")
    titles = ("nets together", "units", "comparisons", "sums", "joint counts", "a group", "all files")
    print("".join(f"{title:>14}" for title in titles))
    for together, comparisons in ((nets, 1), (nets // 5, 5), (2, nets * (nets - 1) // 2)):
        for units, positions in ((256, 64), (2_048, 49)):
            n, samples = together * units, images * positions
            hours = comparisons * n * n * samples / gflops / 3.6e12
            counting = comparisons * (n * n / 2) * samples / pair_samples / 3.6e12
            group, whole = 8 * n * n / 1e9, comparisons * 8 * n * n * groups / 1e12
            cells = (together, units, f"{comparisons:,}", f"{hours:,.0f} h", f"{counting:,.0f} h",
                     f"{group:,.2f} GB", f"{whole:,.2f} TB")  # fmt: skip
            print("".join(f"{cell:>14}" for cell in cells))


def main() -> None:
    """Parse the arguments and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulate", action="store_true", help="measure nothing")
    if not parser.parse_args().simulate:
        print(f"{describe_blas()}; {os.cpu_count()} cores; {shutil.disk_usage('.').free / 1e9:.0f} GB of disk free")
        measure()
    simulate()
    plan()


if __name__ == "__main__":
    main()
