"""Timing that holds on busy machines: thread CPU time, candidates in turn, medians, and what BLAS ran.

Import it before numpy: where ``OPENBLAS_CORETYPE`` is exported, OpenBLAS may run kernels of an older
architecture at half speed, and it reads the variable when it is loaded. It is unset here; one thread is set
unless the caller chose.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from statistics import median

os.environ.pop("OPENBLAS_CORETYPE", None)
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
from threadpoolctl import threadpool_info  # noqa: E402


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int = 7,
    clock: Callable[[], float] = time.thread_time,
) -> dict[str, list[float]]:
    """Seconds of each candidate in each round.

    Every round runs all candidates in turn, so that a slow spell of the machine meets all of them. One run
    of each goes before, for compilation and caches.
    """
    for run in candidates.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            start = clock()
            run()
            seconds[name].append(clock() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """Median over rounds of how many times longer ``slow`` took than ``fast`` in the same round."""
    return median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


def describe_blas() -> str:
    """Version of numpy, and each BLAS that is loaded: its architecture and number of threads."""
    found = [
        f"{pool['internal_api']} {pool.get('version')} {pool.get('architecture')} x {pool['num_threads']}"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    ]
    return f"numpy {np.__version__}; " + "; ".join(sorted(set(found)))
