"""Progress of many tasks of different lengths: finished, remaining by method, and the slowest at the end."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence

from convergence.analysis.plan import Task
from convergence.analysis.worker import Done
from convergence.progress import SECONDS_BETWEEN_LINES, new_bar, readable_seconds

logger = logging.getLogger(__name__)
SLOWEST = 5


class TaskProgress:
    """A bar on a terminal, lines in a log, and a summary at the end.

    The remaining time is the expected time of the remaining tasks, scaled by the measured times of their method. The
    first task of a process is not measured, since it may compile kernels, which takes longer than many tasks.
    """

    def __init__(self, tasks: Sequence[Task], done: set[int]) -> None:
        self._tasks, self._before, self._done = tasks, len(done), set(done)
        self._expected: dict[str, float] = {}
        self._taken: dict[str, float] = {}
        self._times: list[tuple[float, int]] = []
        self._processes: set[int] = set()
        self.peak_bytes = 0.0
        self._bar = new_bar("tasks", len(tasks), len(done))
        self._start = self._last = time.monotonic()

    def finished(self, index: int, done: Done, slots: int) -> None:
        """Count a task as done."""
        task = self._tasks[index]
        self._done.add(index)
        self._times.append((done.seconds, index))
        if done.process != os.getpid():  # this one may have trained nets before
            self.peak_bytes = max(self.peak_bytes, done.peak_bytes)
        if done.process in self._processes:
            self._expected[task.method] = self._expected.get(task.method, 0.0) + task.seconds
            self._taken[task.method] = self._taken.get(task.method, 0.0) + done.seconds
        self._processes.add(done.process)
        if self._bar is not None:
            self._bar.set_postfix_str(self.left(slots), refresh=False)
            self._bar.update()
            return
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES and len(self._done) < len(self._tasks):
            self._last = now
            logger.info("analyze: %d of %d tasks; %s", len(self._done), len(self._tasks), self.left(slots))

    def left(self, slots: int) -> str:
        """Remaining work: "about 3 min left (sparse_xy 4/12 2 min, clusters 0/3 1 min)"."""
        all_expected, all_taken = sum(self._expected.values()), sum(self._taken.values())
        overall = all_taken / all_expected if all_expected > 0 else 1.0
        seconds: dict[str, float] = {}
        counts: dict[str, list[int]] = {}
        for index, task in enumerate(self._tasks):
            count = counts.setdefault(task.method, [0, 0])
            count[1] += 1
            if index in self._done:
                count[0] += 1
                continue
            expected, taken = self._expected.get(task.method, 0.0), self._taken.get(task.method, 0.0)
            rate = taken / expected if expected > 0 else overall
            seconds[task.method] = seconds.get(task.method, 0.0) + rate * task.seconds / max(slots, 1)
        named = sorted(seconds.items(), key=lambda item: -item[1])
        listed = ", ".join(
            f"{method} {counts[method][0]}/{counts[method][1]} {readable_seconds(s)}" for method, s in named[:4]
        )
        total = f"about {readable_seconds(sum(seconds.values()))} left"
        return f"{total} ({listed})" if listed else total

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

    def summary(self, slots: int, promised: float) -> None:
        """Log the slowest tasks, unless the analysis was short."""
        elapsed, work = time.monotonic() - self._start, sum(seconds for seconds, _ in self._times)
        if elapsed < 2 * SLOWEST:
            return
        memory = ""
        if self.peak_bytes:
            memory = f"; a worker's memory at most {self.peak_bytes / 1e9:.2f} GB ({promised / 1e9:.2f} expected)"
        logger.info(
            "analyze: %d tasks, %s of work in %s on %d at a time%s",
            len(self._times), readable_seconds(work), readable_seconds(elapsed), slots, memory,
        )  # fmt: skip
        for seconds, index in sorted(self._times, key=lambda item: (-item[0], item[1]))[:SLOWEST]:
            logger.info("  %6.1f s  %s", seconds, self._tasks[index])
