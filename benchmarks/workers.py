"""The analysis on one and on two workers, beside scikit-learn through joblib on the same paths; and a plan for fc6.

    python -m benchmarks.workers [--width 512] [--targets 512] [--memory 256 512 768]

One pair of synthetic layers with the LASSO, clusters and all measures, 8 image groups. Bars: two workers at least 1.7 x
one; what is not the tasks' own time at most 5 % of it; the paths at least 5 x as fast as scikit-learn's Gram coordinate
descent (to gaps of 1e-8 like `benchmarks.lasso`, joblib on as many processes) on some targets; a worker's peak memory
within 20 % of the plan's.
"""

from __future__ import annotations

from benchmarks import timing  # noqa: F401  before numpy

# isort: split
import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.lasso import looped, loosest_tolerance
from benchmarks.units import rectified
from convergence.alignment.sparse import lasso_path
from convergence.analysis.pair import pair_steps
from convergence.analysis.plan import pair_memory
from convergence.analysis.run import compute, found_done, planned, run_tasks
from convergence.analysis.steps import PairShape
from convergence.analysis.worker import AnalysisJob
from convergence.cli import main as command
from convergence.config.stages import AnalysisConfig
from hpc.dask_executor import Workers, on_this_machine

N_SAMPLES, N_GROUPS = 20_000, 8
TRIED = 16
"""Targets on which scikit-learn's tolerance is chosen."""
TOML = """
name = "w{width}"
[activations]
root = "{root}"
nets.a = {{ layer = "a{width}.npy" }}
nets.b = {{ layer = "b{width}.npy" }}
[statistics]
comparisons = ["layer"]
groups = {groups}
mutual_information.enabled = false
"""
CONFIG = AnalysisConfig(rotations=5)


def statistics(folder: Path, width: int) -> Path:
    """A file of sums of two nets of a width that share causes."""
    samples = rectified(2 * width, N_SAMPLES).T
    np.save(folder / f"a{width}.npy", samples[:, :width])
    np.save(folder / f"b{width}.npy", samples[:, width:])
    config = folder / f"w{width}.toml"
    config.write_text(TOML.format(width=width, root=folder, groups=N_GROUPS), encoding="utf-8")
    if command(["statistics", str(config), "--runs", str(folder)]):
        raise SystemExit("the statistics failed")
    return folder / f"w{width}" / "statistics.h5"


def analysed(source: Path, folder: Path, n_workers: int) -> tuple[float, float, float]:
    """Seconds on so many workers that have started, the tasks' own seconds, and a worker's peak memory in bytes."""
    plan = planned(source, CONFIG)
    partial = Path(tempfile.mkdtemp(dir=folder))
    job = AnalysisJob(str(source), str(partial), "benchmark", CONFIG)
    own: list[float] = []
    peaks: list[float] = []

    def finished(_: int, done: Any, __: int) -> None:
        own.append(done.seconds)
        peaks.append(done.peak_bytes)

    with on_this_machine(Workers(), n_workers, plan.memory) as executor:
        for future in [executor.submit(time.sleep, 1.0) for _ in range(n_workers)]:
            future.result()
        start = time.perf_counter()
        done = found_done(job, plan.tasks)
        if run_tasks(plan.tasks, done, executor, lambda k: executor.submit(compute, job, plan.tasks[k]), finished):
            raise SystemExit("tasks were lost")
        seconds = time.perf_counter() - start
    return seconds, sum(own), max(peaks)


def sklearn_seconds(r_xx: np.ndarray, r_xy: np.ndarray, alphas: np.ndarray, tolerance: float, n_jobs: int) -> float:
    """Gram coordinate descent of every target, through joblib."""
    from joblib import Parallel, delayed

    with Parallel(n_jobs=n_jobs) as pool:
        pool(
            delayed(_sklearn_path)(r_xx, r_xy[:, :1], alphas[:2], tolerance) for _ in range(n_jobs)
        )  # start the processes
        start = time.perf_counter()
        pool(delayed(_sklearn_path)(r_xx, part, alphas, tolerance) for part in np.array_split(r_xy, n_jobs, axis=1))
        return time.perf_counter() - start


def _sklearn_path(r_xx: np.ndarray, r_xy: np.ndarray, alphas: np.ndarray, tolerance: float) -> None:
    with threadpool_limits(1):
        looped(r_xx, np.ascontiguousarray(r_xy.T), alphas, tolerance)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--targets", type=int, default=512)
    parser.add_argument("--memory", type=int, nargs="*", default=[256, 512, 768])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = statistics(folder, options.width)
        analysed(source, folder, 1)  # compiles
        one, own_one, _ = analysed(source, folder, 1)
        two, own_two, _ = analysed(source, folder, 2)
        print(
            f"a pair of {options.width} units: {one:.1f} s on one worker, {two:.1f} s on two: {one / two:.2f} x (1.7)"
        )
        print(f"not the tasks' own time: {one / own_one - 1:.1%} on one worker (5 %)")
        print(f"their own time on two at once is {own_two / own_one:.2f} of that on one, which is the machine's doing")
        _sparse(options.width, options.targets)
        for width in options.memory:
            peak = analysed(statistics(folder, width) if width != options.width else source, folder, 1)[2]
            promised = pair_memory(PairShape(width, width, N_GROUPS, True, False), CONFIG)
            print(f"memory of a worker at {width}: {peak / 1e9:.3f} GB of {promised / 1e9:.3f}: {peak / promised:.2f}")
    shape = PairShape(4096, 4096, 4, True, False)
    steps = pair_steps(shape, AnalysisConfig())
    hours = 6 * sum(step.seconds for step in steps) / 3600 * own_one / planned_seconds(options.width)
    print(f"fc6 of four AlexNets: 6 pairs, {6 * len(steps):,} steps, about {hours:.0f} core hours at this pace")
    for workers in (8, 32, 128):
        print(
            f"  {workers:4} workers: {hours / workers:.1f} h, {pair_memory(shape, AnalysisConfig()) / 1e9:.0f} GB each"
        )


def planned_seconds(width: int) -> float:
    """What the cost model expects of the pair that was measured."""
    return sum(step.seconds for step in pair_steps(PairShape(width, width, N_GROUPS, True, False), CONFIG))


def _sparse(width: int, n_targets: int) -> None:
    samples = rectified(2 * width, N_SAMPLES)
    correlation = np.corrcoef(samples)
    r_xx, r_xy = correlation[:width, :width].copy(), correlation[:width, width : width + n_targets].copy()
    alphas = np.geomspace(CONFIG.sparse.alpha_max, CONFIG.sparse.alpha_min, CONFIG.sparse.alphas)
    with on_this_machine(Workers(), 2, 1e9) as executor, threadpool_limits(1):
        edges = [n_targets * k // 2 for k in range(3)]
        parts = [r_xy[:, a:b] for a, b in itertools.pairwise(edges)]
        for _ in range(2):  # the first time compiles
            start = time.perf_counter()
            for future in [executor.submit(lasso_path, r_xx, part, alphas) for part in parts]:
                future.result()
            ours = time.perf_counter() - start
    tolerance, gap = loosest_tolerance(r_xx, r_xy[:, :TRIED], alphas)
    theirs = sklearn_seconds(r_xx, r_xy, alphas, tolerance, 2)
    print(f"{n_targets} LASSO paths on two workers: {ours:.2f} s, scikit-learn and joblib {theirs:.2f} s ", end="")
    print(f"(tolerance {tolerance:.0e}, gap {gap:.0e}): {theirs / ours:.1f} x (5)")


if __name__ == "__main__":
    main()
