"""The analysis stage: one task a pair of nets and comparison, each kept at once, the file put together at the end."""

from __future__ import annotations

import functools
import itertools
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from convergence import hdf5
from convergence.analysis.file import MADE_BY, PARTIAL_SCHEMA, SCHEMA, VERSION, read_tree, write_tree
from convergence.analysis.layer import describe_units, pooled_correlation
from convergence.analysis.pair import analyze_pair
from convergence.analysis.units import live_units
from convergence.errors import FileError
from convergence.experiment import AnalysisConfig
from convergence.interruption import check
from convergence.progress import Progress
from convergence.provenance import provenance
from convergence.statistics.file import Sums, open_statistics

logger = logging.getLogger(__name__)
Task = tuple[str, str, str]


def analyze(statistics: Path, target: Path, config: AnalysisConfig, digest: str, partial: Path, executor: Any) -> None:
    """Compute every pair of every comparison of a statistics file and leave ``target``.

    ``partial`` is a folder for finished tasks; a task found there with the same ``digest`` is not computed again.
    ``executor`` is one of :mod:`hpc.tasks`, or anything of its shape.
    """
    with open_statistics(statistics) as file:
        names, source = file.comparisons, file.digest
        tasks: list[Task] = [(name, x, y) for name in names for x, y in itertools.combinations(file.sums(name).nets, 2)]
    partial.mkdir(parents=True, exist_ok=True)
    missing = [task for task in tasks if not _is_done(_part(partial, task), digest)]
    if len(missing) < len(tasks):
        logger.info("analyze: %d of %d pairs found on disk", len(tasks) - len(missing), len(tasks))
    with Progress("pairs of nets", len(tasks), len(tasks) - len(missing)) as progress:
        arguments = [(str(statistics), task, config, digest, str(_part(partial, task))) for task in missing]
        for _ in executor.run(compute_task, arguments):
            progress.advance()
            check()
    attributes = {"digest": digest, "statistics_digest": source, "provenance": json.dumps(provenance())}
    with hdf5.create(target, SCHEMA, VERSION, attributes) as out:
        comparisons = out.create_group("comparisons", track_order=True)
        for name in names:
            sums = _sums(str(statistics), statistics.stat().st_mtime_ns, name)
            live = live_units(sums)
            place = comparisons.create_group(name)
            for key, values in (("nets", sums.nets), ("layers", sums.layers), ("sources", sums.sources)):
                place.attrs[key] = list(values)
            place.attrs["trained"] = np.array(sums.trained)
            write_tree(place, {"units": {"net": sums.unit_net, **describe_units(sums, live)}})
            hdf5.write_array(place, "correlation", pooled_correlation(sums, live), ("unit", "unit"))
            pairs = place.create_group("pairs", track_order=True)
            for task in tasks:
                if task[0] == name:
                    _fold_in(pairs, _part(partial, task), task)


def compute_task(statistics: str, task: Task, config: AnalysisConfig, digest: str, part: str) -> None:
    """One task, on whichever worker: reads what it needs from the file and leaves its part."""
    name, x, y = task
    with threadpool_limits(1):  # one thread a task: the same bits however many workers there are
        sums = _sums(statistics, Path(statistics).stat().st_mtime_ns, name)
        tree = analyze_pair(sums, live_units(sums), x, y, config)
    with hdf5.create(Path(part), PARTIAL_SCHEMA, VERSION, {"digest": digest}) as file:
        write_tree(file, tree)


@functools.lru_cache(maxsize=2)
def _sums(statistics: str, modified: int, name: str) -> Sums:
    """A comparison's sums, read once a process; ``modified`` keeps a rewritten file from being served from memory."""
    with open_statistics(statistics) as file:
        return file.sums(name)


def _part(partial: Path, task: Task) -> Path:
    return partial / ("pair-" + "-".join(task) + ".h5")


def _is_done(part: Path, digest: str) -> bool:
    if not part.exists():
        return False
    try:
        with hdf5.open_checked(part, PARTIAL_SCHEMA, VERSION, MADE_BY) as file:
            if file.attrs["digest"] == digest:
                read_tree(file)
                return True
    except (FileError, OSError, KeyError):
        pass
    part.unlink()
    return False


def _fold_in(pairs: Any, part: Path, task: Task) -> None:
    _, x, y = task
    with hdf5.open_checked(part, PARTIAL_SCHEMA, VERSION, MADE_BY) as file:
        place = pairs.create_group(f"{x}|{y}")
        place.attrs["x"], place.attrs["y"] = x, y
        write_tree(place, read_tree(file))
