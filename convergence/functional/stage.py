"""The stage of an experiment: its tasks, each saved when it is done, and one file of their joined results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from convergence.functional import EXPERIMENTS, RESULTS
from convergence.functional.context import ExperimentContext
from convergence.functional.file import PARTIAL_SCHEMA, VERSION, made_by, write_results
from convergence.functional.tables import joined, read_tables, write_tables
from convergence.io import hdf5
from convergence.io.files import create_for_owner, remove_leftovers, text_sha256
from convergence.progress import Progress
from convergence.runs.run_folder import RunFolder
from convergence.runs.signals import Stopped, check, is_stopping
from convergence.statistics.partial_results import is_done


class ExperimentTask(NamedTuple):
    """A part of an experiment that is saved as a whole.

    Attributes
    ----------
    key : names it among the tasks of the experiment
    run : computes its rows of the experiment's tables; may save nets below ``context.out``
    """

    key: str
    run: Callable[[], Any]


def run_experiment(folder: RunFolder, experiment: str, ranks: Any = None) -> None:
    """Run an experiment and write its file; tasks that a killed run finished are skipped.

    Tasks run in order. Each of several processes (``ranks``) runs all of them, with its share of the images, and the
    first one writes.
    """
    work = folder.functional_task(experiment)
    (partial,) = work.scratch
    with ExperimentContext(folder, folder.functional_folder / experiment, ranks) as context:
        first = context.ranks.rank == 0
        for place in (partial, context.out) if first else ():
            create_for_owner(place)
            remove_leftovers(place)
        tasks: list[ExperimentTask] = EXPERIMENTS.load(experiment)(context)
        paths = [partial / f"{text_sha256(task.key)[:24]}.h5" for task in tasks]
        done = [
            context.ranks.share(is_done(path, PARTIAL_SCHEMA, VERSION, work.digest) if first else None)
            for path in paths
        ]
        with Progress(experiment, len(tasks), sum(done)) as progress:
            for task, path, is_there in zip(tasks, paths, done, strict=True):
                if is_there:
                    continue
                if context.ranks.any(is_stopping())[0]:
                    check()
                    raise Stopped("stopped by a signal to another process")
                results = task.run()
                if first:
                    with hdf5.create(path, PARTIAL_SCHEMA, VERSION, {"digest": work.digest}) as file:
                        write_tables(file, results)
                progress.advance()
        if first:
            _assemble(context, folder, experiment, paths)


def _assemble(context: ExperimentContext, folder: RunFolder, experiment: str, paths: list[Path]) -> None:
    kind, parts = RESULTS.load(experiment), []
    for path in paths:
        with hdf5.open_checked(path, PARTIAL_SCHEMA, VERSION, made_by(experiment)) as file:
            parts.append(read_tables(file, kind))
    about = {
        "n_images": context.groups.n_images,
        "n_groups": len(context.groups),
        "split": folder.experiment.statistics.split,
        "images_manifest_sha256": context.images.manifest_hash(),
    }
    config = folder.experiment.model_dump_json(indent=1)
    work = folder.functional_task(experiment)
    write_results(work.outputs[0], experiment, work.digest, config, joined(kind, parts), about)
