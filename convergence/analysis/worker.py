"""Execution of a task in a worker: open its subject, compute its steps, and write a part file for each.

A subject and its comparison stay open between tasks, so that consecutive tasks and threads of a worker share matrices,
and consecutive pairs what depends on one net alone. Workers receive names and return seconds.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from convergence.analysis.active_units import active_units
from convergence.analysis.layout import MADE_BY
from convergence.analysis.net_sums import NETS_BYTES, NetSums
from convergence.analysis.nets import NetsAnalysis
from convergence.analysis.pair import PairAnalysis
from convergence.analysis.part_files import PARTIAL_SCHEMA, PARTIAL_VERSION, read_leaf, read_tree, write_tree
from convergence.analysis.plan import Subject, Task
from convergence.analysis.steps import Computation, Parts, Step, Tree
from convergence.config.stages import AnalysisConfig
from convergence.io import hdf5
from convergence.statistics import partial_results
from convergence.statistics.file import ComparisonSums, open_statistics

MAP_MEASURE = "shape_distance"


@dataclass(frozen=True)
class AnalysisJob:
    """Common input of all tasks: the file of sums, the folder of part files, the digest and the config."""

    statistics: str
    partial: str
    digest: str
    config: AnalysisConfig


@dataclass(frozen=True)
class Done:
    """Time of a task, and peak memory and process id of its worker; 0 bytes where the system does not report it."""

    seconds: float
    peak_bytes: float
    process: int


def compute(job: AnalysisJob, task: Task) -> Done:
    """Do a task; parts on disk are not computed again, since a worker may end before it reports."""
    start = time.monotonic()
    if is_done(part_path(job, task.subject), job.digest):
        return Done(0.0, peak_memory(), os.getpid())
    _one_thread()
    subject = _opened(job, task.subject)
    if task.final:
        _finish(job, task, subject)
    else:
        parts = stored_parts(job, task.subject, subject.steps)
        for step in task.steps:
            if not is_done(part_path(job, task.subject, step), job.digest):
                leave(part_path(job, task.subject, step), job.digest, subject.compute(step, parts))
    return Done(time.monotonic() - start, peak_memory(), os.getpid())


def _finish(job: AnalysisJob, task: Task, subject: Computation) -> None:
    """Write the result of a subject, computed in memory or from its part files, which are then removed."""
    left: dict[Step, Tree] = {}
    stored = stored_parts(job, task.subject, subject.steps)
    parts = Parts(subject.steps, left.__getitem__) if task.steps else stored
    for step in task.steps:
        left[step] = subject.compute(step, parts)
    if isinstance(subject, NetsAnalysis):
        subject.distances = _distances(job, task.subject.comparison, subject.sums)
    leave(part_path(job, task.subject), job.digest, subject.tree(parts))
    for step in subject.steps:
        part_path(job, task.subject, step).unlink(missing_ok=True)
    _release(job, task.subject)


def part_path(job: AnalysisJob, subject: Subject, step: Step | None = None) -> Path:
    """Path of a part file; names of nets may contain characters that file names may not, so they are hashed."""
    named = (subject.comparison, subject.x, subject.y, step.key if step else "")
    return Path(job.partial) / f"part-{hashlib.sha256(repr(named).encode()).hexdigest()[:24]}.h5"


def stored_parts(job: AnalysisJob, subject: Subject, steps: list[Step]) -> Parts:
    """Parts of a subject from disk, with verified checksums."""
    return Parts(steps, lambda step: read_part(part_path(job, subject, step)))


def read_part(path: Path) -> Tree:
    """Read a part file."""
    with hdf5.open_checked(path, PARTIAL_SCHEMA, PARTIAL_VERSION, MADE_BY) as file:
        return read_tree(file)


def leave(path: Path, digest: str, tree: Tree) -> None:
    """Write a part file."""
    with hdf5.create(path, PARTIAL_SCHEMA, PARTIAL_VERSION, {"digest": digest}) as file:
        write_tree(file, tree)


def is_done(path: Path, digest: str) -> bool:
    """Whether a part is on disk, complete, and of these settings; a damaged file is removed."""
    return partial_results.is_done(path, PARTIAL_SCHEMA, PARTIAL_VERSION, digest, read_tree)


def _distances(job: AnalysisJob, comparison: str, sums: ComparisonSums) -> dict[tuple[str, str], float]:
    """Shape distances of the pairs of a comparison that have one."""
    found = {}
    for a, x in enumerate(sums.nets):
        for y in sums.nets[a + 1 :]:
            path = part_path(job, Subject(comparison, x, y))
            with hdf5.open_checked(path, PARTIAL_SCHEMA, PARTIAL_VERSION, MADE_BY) as file:
                distance = read_leaf(file, "measures", MAP_MEASURE, "xy", "value")
            if distance is not None:
                found[x, y] = float(distance)
    return found


class _OpenComparison:
    """A comparison whose file is open, with the sums of its nets, which pairs share."""

    def __init__(self, job: AnalysisJob, name: str) -> None:
        self._stack = ExitStack()
        self.sums = self._stack.enter_context(open_statistics(job.statistics)).sums(name)
        self.live = active_units(self.sums)
        self._nets: OrderedDict[str, NetSums] = OrderedDict()
        self._lock = threading.Lock()

    def net(self, name: str) -> NetSums:
        """The sums of a net; those used last are kept, up to :data:`NETS_BYTES`."""
        with self._lock:
            if name not in self._nets:
                self._nets[name] = NetSums(self.sums, self.live, name)
            self._nets.move_to_end(name)
            while len(self._nets) > 1 and sum(net.n_bytes for net in self._nets.values()) > NETS_BYTES:
                self._nets.popitem(last=False)
            return self._nets[name]

    def analysis(self, job: AnalysisJob, subject: Subject) -> Computation:
        """The analysis of a pair, or of all nets."""
        if subject.x:
            return PairAnalysis(self.sums, self.live, subject.x, subject.y, job.config, self.net)
        self._nets.clear()  # pairs are done, and matrices of all nets are large
        return NetsAnalysis(self.sums, self.live, job.config, {})

    def close(self) -> None:
        self._stack.close()


_lock = threading.Lock()
_open: dict[tuple[Any, ...], _OpenComparison] = {}
_analyses: dict[tuple[Any, ...], Computation] = {}
_in_use: dict[int, tuple[Any, ...]] = {}
"""The subject that each thread used last, with its analysis and the state of the file."""


def _opened(job: AnalysisJob, subject: Subject) -> Computation:
    """The analysis of a subject.

    Pairs and comparisons that no thread uses are closed first, since matrices of a pair may be large.
    """
    key = (*_identity(job), subject)
    of = (*_identity(job), subject.comparison)
    with _lock:
        _in_use[threading.get_ident()] = key
        for other in set(_analyses) - set(_in_use.values()):
            del _analyses[other]
        for other in set(_open) - {(*used[:-1], used[-1].comparison) for used in _in_use.values()}:
            _open.pop(other).close()
        if of not in _open:
            _open[of] = _OpenComparison(job, subject.comparison)
        if key not in _analyses:
            _analyses[key] = _open[of].analysis(job, subject)
        return _analyses[key]


def _release(job: AnalysisJob, subject: Subject) -> None:
    """Free the matrices of a subject whose result is written; its comparison stays open."""
    key = (*_identity(job), subject)
    with _lock:
        _analyses.pop(key, None)
        for thread in [thread for thread, used in _in_use.items() if used == key]:
            del _in_use[thread]


def close_all() -> None:
    """Close all subjects, at the end of an analysis in this process."""
    with _lock:
        for one in _open.values():
            one.close()
        _open.clear()
        _analyses.clear()
        _in_use.clear()


def _identity(job: AnalysisJob) -> tuple[Any, ...]:
    """An analysis and the state of its file: a replaced file is opened anew."""
    stat = os.stat(job.statistics)
    return job.statistics, stat.st_size, stat.st_mtime_ns, job.digest


_limits: list[Any] = []


def _one_thread() -> None:
    """Limit matrix products to one thread: the same bits for any number of workers and threads."""
    with _lock:
        if not _limits:
            _limits.append(threadpool_limits(1))


def restore_threads() -> None:
    """Remove the limit, at the end of an analysis in this process."""
    with _lock:
        while _limits:
            _limits.pop().restore_original_limits()


def peak_memory() -> float:
    """Peak memory of this process in bytes.

    Linux's ``ru_maxrss`` counts that of the process which started this one, too: its memory was copied at the start.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return 1024.0 * int(line.split()[1])
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if sys.platform == "darwin" else 1024 * most)
