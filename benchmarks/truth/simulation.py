"""Draws of scenarios, in this process or in several."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TextIO

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.truth.readings import Reading
from benchmarks.truth.scenarios import BY_NAME

AT_ONCE = 4
"""Draws of a task."""


def draw(name: str, k: int) -> list[Reading]:
    """Readings of draw ``k`` of a scenario; draws do not depend on each other."""
    return list(BY_NAME[name].read(np.random.default_rng([zlib.crc32(name.encode()), k])))


def simulate(
    names: Sequence[str], draws: int, workers: int = 1, progress: TextIO | None = None
) -> dict[str, list[Reading]]:
    """Readings of all draws of scenarios, in the order of the draws."""
    tasks = [
        (name, range(first, min(first + AT_ONCE, n)))
        for name in names
        for n in [max(2, round(draws * BY_NAME[name].share))]
        for first in range(0, n, AT_ONCE)
    ]
    found: dict[str, list[Reading]] = {name: [] for name in names}
    if workers <= 1:
        results = map(_draws, tasks)
        return _gathered(found, tasks, results, progress)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        return _gathered(found, tasks, pool.map(_draws, tasks), progress)


def _draws(task: tuple[str, range]) -> list[Reading]:
    name, ks = task
    with threadpool_limits(1):
        return [reading for k in ks for reading in draw(name, k)]


def _gathered(
    found: dict[str, list[Reading]],
    tasks: Sequence[tuple[str, range]],
    results: Iterable[list[Reading]],
    progress: TextIO | None,
) -> dict[str, list[Reading]]:
    for n, ((name, _), readings) in enumerate(zip(tasks, results, strict=True), start=1):
        found[name] += readings
        if progress is not None and (n == len(tasks) or tasks[n][0] != name):
            print(f"{name}: done, {n} of {len(tasks)} tasks", file=progress, flush=True)
    return found
