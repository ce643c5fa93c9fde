"""The analysis stage: one task a pair of nets and comparison, each kept at once, the file put together at the end."""

from __future__ import annotations

import hashlib
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
from convergence.analysis.nets import analyze_nets
from convergence.analysis.over_time import trajectories
from convergence.analysis.pair import analyze_pair
from convergence.analysis.units import LiveUnits, live_units
from convergence.errors import FileError
from convergence.experiment import AnalysisConfig
from convergence.interruption import check
from convergence.progress import Progress
from convergence.provenance import provenance
from convergence.statistics.file import Sums, open_statistics

logger = logging.getLogger(__name__)
Task = tuple[str, str, str]
"""Comparison and two nets; or a comparison and "", "" for what is about all its nets."""
MAP_MEASURE = "shape_distance"


def analyze(statistics: Path, target: Path, config: AnalysisConfig, digest: str, partial: Path, executor: Any) -> None:
    """Compute every pair of every comparison of a statistics file and leave ``target``.

    ``partial`` is a folder for finished tasks; a task found there with the same ``digest`` is not computed again.
    ``executor`` is one of :mod:`hpc.tasks`, or anything of its shape.

    Raises
    ------
    FileError
        when the statistics file is damaged anywhere.
    """
    tasks: list[Task] = []
    live: dict[str, LiveUnits] = {}
    with open_statistics(statistics) as file:
        file.verify()  # once, block by block: tasks read parts of matrices, which have no checksum of their own
        names, source = file.comparisons, file.digest
        for name in names:
            sums = file.sums(name)
            live[name] = live_units(sums)
            tasks += [(name, x, y) for x, y in itertools.combinations(sums.nets, 2)]
    partial.mkdir(parents=True, exist_ok=True)
    missing = [task for task in tasks if not _is_done(_part(partial, task), digest)]
    if len(missing) < len(tasks):
        logger.info("analyze: %d of %d pairs found on disk", len(tasks) - len(missing), len(tasks))
    with Progress("pairs of nets", len(tasks), len(tasks) - len(missing)) as progress:
        arguments: list[tuple[Any, ...]] = [
            (str(statistics), task, live[task[0]], config, digest, str(_part(partial, task))) for task in missing
        ]
        for _ in executor.run(compute_pair, arguments):
            progress.advance()
            check()
    of_nets: list[Task] = [(name, "", "") for name in names]
    arguments = [
        (
            str(statistics),
            name,
            live[name],
            config,
            digest,
            str(_part(partial, (name, "", ""))),
            distances(partial, tasks, name),
        )
        for name, *_ in of_nets
        if not _is_done(_part(partial, (name, "", "")), digest)
    ]
    for _ in executor.run(compute_nets, arguments):
        check()
    attributes = {"digest": digest, "statistics_digest": source, "provenance": json.dumps(provenance())}
    with (
        open_statistics(statistics) as file,
        threadpool_limits(1),
        hdf5.create(target, SCHEMA, VERSION, attributes) as out,
    ):
        comparisons = out.create_group("comparisons", track_order=True)
        for name in names:
            place = comparisons.create_group(name)
            _describe(place, file.sums(name), live[name])
            _fold_in(place, "all_nets", _part(partial, (name, "", "")))
            pairs = place.create_group("pairs", track_order=True)
            for task in tasks:
                if task[0] == name:
                    _, x, y = task
                    there = _fold_in(pairs, f"{x}|{y}", _part(partial, task))
                    there.attrs["x"], there.attrs["y"] = x, y


def _describe(place: Any, sums: Sums, live: LiveUnits) -> None:
    for key in ("nets", "of_net", "layers", "sources"):
        place.attrs[key] = list(getattr(sums, key))
    place.attrs["epochs"] = np.array(sums.epochs, dtype=np.int64)
    place.attrs["trained"] = np.array(sums.trained)
    write_tree(place, {"units": {"net": sums.unit_net, **describe_units(sums, live)}})
    hdf5.write_array(place, "correlation", pooled_correlation(sums, live), ("unit", "unit"))


def compute_pair(statistics: str, task: Task, live: LiveUnits, config: AnalysisConfig, digest: str, part: str) -> None:
    """One pair, on whichever worker: reads what it needs from the file and leaves its part."""
    name, x, y = task
    with threadpool_limits(1), open_statistics(statistics) as file:
        # One thread a task: the same bits however many workers there are.
        tree = analyze_pair(file.sums(name), live, x, y, config)
    _leave(part, digest, tree)


def compute_nets(
    statistics: str,
    name: str,
    live: LiveUnits,
    config: AnalysisConfig,
    digest: str,
    part: str,
    found: dict[tuple[str, str], float],
) -> None:
    """What is about all nets of a comparison; ``found`` are distances of its pairs."""
    with threadpool_limits(1), open_statistics(statistics) as file:
        sums = file.sums(name)
        tree = analyze_nets(sums, live, config, found)
        tree["over_time"] = trajectories(sums, live)
    _leave(part, digest, tree)


def distances(partial: Path, tasks: list[Task], name: str) -> dict[tuple[str, str], float]:
    """Shape distances of the pairs of a comparison, of those that have one."""
    found = {}
    for task in tasks:
        if task[0] == name:
            with hdf5.open_checked(_part(partial, task), PARTIAL_SCHEMA, VERSION, MADE_BY) as file:
                if f"measures/{MAP_MEASURE}" in file:
                    found[task[1:]] = float(hdf5.read_array(file[f"measures/{MAP_MEASURE}/xy"], "value"))
    return found


def _leave(part: str, digest: str, tree: dict[str, Any]) -> None:
    with hdf5.create(Path(part), PARTIAL_SCHEMA, VERSION, {"digest": digest}) as file:
        write_tree(file, tree)


def _part(partial: Path, task: Task) -> Path:
    """Where a finished task is; names of nets may hold what a file name may not, so that they are hashed."""
    return partial / f"part-{hashlib.sha256(repr(task).encode()).hexdigest()[:24]}.h5"


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


def _fold_in(place: Any, name: str, part: Path) -> Any:
    """Copy a part into a new group, held against its checksums on the way."""
    with hdf5.open_checked(part, PARTIAL_SCHEMA, VERSION, MADE_BY) as file:
        there = place.create_group(name)
        write_tree(there, read_tree(file))
    return there
