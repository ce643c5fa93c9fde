"""Draws of scenarios, in this process or in several."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import TextIO

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.truth.readings import Reading
from benchmarks.truth.scenarios import BY_NAME

Task = tuple[str, range]
"""Scenario and numbers of draws."""
AT_ONCE = 4
"""Draws of a task."""


def draw(name: str, k: int) -> list[Reading]:
    """Readings of draw ``k`` of a scenario; draws do not depend on each other."""
    found = BY_NAME[name].read(np.random.default_rng([zlib.crc32(name.encode()), k]))
    return [replace(reading, draw=k) for reading in found]


def n_draws(name: str, draws: int) -> int:
    """Draws of a scenario where ``draws`` are asked for."""
    return max(2, round(draws * BY_NAME[name].share))


def simulate(
    names: Sequence[str], draws: int, workers: int = 1, progress: TextIO | None = None
) -> dict[str, list[Reading]]:
    """Readings of all draws of scenarios, in the order of the draws."""
    tasks = [
        (name, range(first, min(first + AT_ONCE, n)))
        for name in names
        for n in [n_draws(name, draws)]
        for first in range(0, n, AT_ONCE)
    ]
    if workers <= 1:
        return _gathered(names, tasks, map(_draws, tasks), progress)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        return _gathered(names, tasks, pool.map(_draws, tasks), progress)


def _draws(task: Task) -> tuple[list[Reading], float]:
    """Readings of a task, and the CPU time that it took."""
    name, ks = task
    start = time.process_time()
    with threadpool_limits(1):
        return [reading for k in ks for reading in draw(name, k)], time.process_time() - start


def _gathered(
    names: Sequence[str],
    tasks: Sequence[Task],
    results: Iterable[tuple[list[Reading], float]],
    progress: TextIO | None,
) -> dict[str, list[Reading]]:
    found: dict[str, list[Reading]] = {name: [] for name in names}
    seconds = dict.fromkeys(names, 0.0)
    for n, ((name, _), (readings, taken)) in enumerate(zip(tasks, results, strict=True), start=1):
        found[name] += readings
        seconds[name] += taken
        if progress is not None and (n == len(tasks) or tasks[n][0] != name):
            print(f"{name}: {seconds[name]:.0f} s of one core, {n} of {len(tasks)} tasks", file=progress, flush=True)
    return found
