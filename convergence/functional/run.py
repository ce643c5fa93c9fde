"""The stages: an experiment's pieces, each kept when it is done, and then one file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from convergence.analysis.file import read_tree, write_tree
from convergence.functional import EXPERIMENTS
from convergence.functional.bench import Bench
from convergence.functional.file import PARTIAL_SCHEMA, VERSION, Tree, made_by, write_results
from convergence.io import hdf5
from convergence.io.files import remove_leftovers, text_sha256
from convergence.progress import Progress
from convergence.runs.run_folder import RunFolder
from convergence.runs.signals import Stopped, check, is_stopping
from convergence.statistics.partial_results import is_done

logger = logging.getLogger(__name__)


class Piece(NamedTuple):
    """A part of an experiment that is done in one go.

    Attributes
    ----------
    key : where its tree goes in the results, "/" between names of groups
    make : computes the tree, of dicts, arrays, numbers and strings; may leave nets below ``bench.out``
    """

    key: str
    make: Callable[[], Tree]


def functional(folder: RunFolder, experiment: str, ranks: Any = None) -> None:
    """Do an experiment and leave its file; pieces that a killed run finished are not done again.

    Pieces are made in order. Of several processes (``ranks``) each makes all of them, with its share of the images of
    each, and the first one writes.
    """
    work = folder.functional_task(experiment)
    (partial,) = work.scratch
    with Bench(folder, folder.functional_folder / experiment, ranks) as bench:
        first = bench.ranks.rank == 0
        for place in (partial, bench.out) if first else ():
            place.mkdir(parents=True, exist_ok=True)
            remove_leftovers(place)
        pieces: list[Piece] = EXPERIMENTS.load(experiment)(bench)
        paths = [partial / f"{text_sha256(piece.key)[:24]}.h5" for piece in pieces]
        done = [
            bench.ranks.share(is_done(path, PARTIAL_SCHEMA, VERSION, work.digest) if first else None) for path in paths
        ]
        with Progress(experiment, len(pieces), sum(done)) as progress:
            for piece, path, is_there in zip(pieces, paths, done, strict=True):
                if is_there:
                    continue
                if bench.ranks.any(is_stopping())[0]:
                    check()
                    raise Stopped("stopped by a signal to another process")
                tree = piece.make()
                if first:
                    with hdf5.create(path, PARTIAL_SCHEMA, VERSION, {"digest": work.digest}) as file:
                        write_tree(file, tree)
                progress.advance()
        if first:
            _assemble(bench, folder, experiment, pieces, paths)


def _assemble(bench: Bench, folder: RunFolder, experiment: str, pieces: list[Piece], paths: list[Path]) -> None:
    tree: Tree = {}
    for piece, path in zip(pieces, paths, strict=True):
        with hdf5.open_checked(path, PARTIAL_SCHEMA, VERSION, made_by(experiment)) as file:
            *parents, last = piece.key.split("/")
            here = tree
            for name in parents:
                here = here.setdefault(name, {})
            here[last] = read_tree(file)
    about = {
        "n_images": bench.groups.n_images,
        "n_groups": len(bench.groups),
        "split": folder.experiment.statistics.split,
        "images_manifest_sha256": bench.images.manifest_hash(),
    }
    config = folder.experiment.model_dump_json(indent=1)
    work = folder.functional_task(experiment)
    write_results(work.outputs[0], experiment, work.digest, config, tree, about)
