"""Whether the cost model of the analysis holds: expected and real seconds of every kind of step, and a worker's memory.

    python -m benchmarks.plan [widths …]

Constants are in convergence/analysis/cost.py and plan.py. A ratio between a half and two is as good as is needed: the
model sizes tasks and tells the time left, which corrects itself by what was measured.
"""

from __future__ import annotations

from benchmarks import timing  # noqa: F401  before numpy

# isort: split
import multiprocessing
import sys
import time

from threadpoolctl import threadpool_limits

from benchmarks.analysis import sums_of_two_nets
from convergence.analysis.active_units import active_units
from convergence.analysis.pair import PairAnalysis
from convergence.analysis.plan import pair_memory
from convergence.analysis.steps import PairShape, Parts, Step, Tree, levels
from convergence.analysis.worker import peak_memory
from convergence.config.stages import AnalysisConfig

N_GROUPS = 8


def measured(width: int) -> tuple[dict[str, tuple[float, float]], float]:
    """By kind of step: expected and real seconds of a pair of nets of a width; and the peak of the memory in bytes."""
    config = AnalysisConfig(rotations=4)
    found: dict[str, tuple[float, float]] = {}
    with threadpool_limits(1):
        for n in (16, width):  # the first one compiles
            sums = sums_of_two_nets(n, N_GROUPS)
            pair = PairAnalysis(sums, active_units(sums), "a", "b", config)
            left: dict[Step, Tree] = {}
            parts = Parts(pair.steps, left.__getitem__)
            found = {}
            for step in (step for level in levels(pair.steps) for step in level):
                start = time.thread_time()
                left[step] = pair.compute(step, parts)
                before = found.get(step.group, (0.0, 0.0))
                found[step.group] = before[0] + step.seconds, before[1] + time.thread_time() - start
            pair.tree(parts)
    return found, peak_memory()


def main(widths: list[int]) -> None:
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        results = [pool.apply(measured, (width,)) for width in widths]
    print("real / expected seconds of steps")
    print(f"{'step':32}" + "".join(f"{width:>22}" for width in widths))
    for kind in results[0][0]:
        cells = (f"{real:.2f} / {wanted:.2f} = {real / wanted:.2f}" for wanted, real in (r[0][kind] for r in results))
        print(f"{kind:32}" + "".join(f"{cell:>22}" for cell in cells))
    totals = [tuple(map(sum, zip(*found.values(), strict=True))) for found, _ in results]
    print(f"{'all':32}" + "".join(f"{f'{r:.1f} / {w:.1f} = {r / w:.2f}':>22}" for w, r in totals))
    for width, (_, peak) in zip(widths, results, strict=True):
        promised = pair_memory(PairShape(width, width, N_GROUPS, True, False), AnalysisConfig())
        print(f"memory at {width}: {peak / 1e9:.3f} GB, expected {promised / 1e9:.3f}")


if __name__ == "__main__":
    main([int(width) for width in sys.argv[1:]] or [128, 256, 384])
