"""``functional/<experiment>.h5``: a tree of results a piece, read with h5py and numpy alone. Format: docs/files.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from convergence.analysis.file import read_tree, write_tree
from convergence.io import hdf5
from convergence.provenance import provenance

SCHEMA = "convergence-functional"
PARTIAL_SCHEMA = "convergence-functional-piece"
VERSION = 1
Tree = dict[str, Any]


@dataclass(frozen=True)
class FunctionalResults:
    """What an experiment found.

    Attributes
    ----------
    experiment : its name, as in ``EXPERIMENTS``
    digest : of settings and inputs
    tree : results by piece; estimates as the dicts of :meth:`~convergence.uncertainty.Estimate.as_dict`
    n_images, n_groups : what scores are over
    provenance : versions of what computed it
    """

    experiment: str
    digest: str
    tree: Tree
    n_images: int
    n_groups: int
    provenance: dict[str, str]


def made_by(experiment: str) -> str:
    """The command that makes a file."""
    return f"convergence {experiment} CONFIG"


def write_results(path: Path, experiment: str, digest: str, config: str, tree: Tree, about: Mapping[str, Any]) -> None:
    """Write a file of results; ``about`` are further attributes, ``n_images`` and ``n_groups`` among them."""
    attributes = {
        "experiment": experiment,
        "digest": digest,
        "config": config,
        "provenance": json.dumps(provenance()),
        **about,
    }
    with hdf5.create(path, SCHEMA, VERSION, attributes) as file:
        write_tree(file, tree)


class FunctionalFile:
    """An open file of results."""

    def __init__(self, file: h5py.File) -> None:
        self.raw_file = file
        self.experiment, self.digest = str(file.attrs["experiment"]), str(file.attrs["digest"])

    def results(self) -> FunctionalResults:
        """Everything, held against its checksums."""
        attributes = self.raw_file.attrs
        return FunctionalResults(
            self.experiment, self.digest, read_tree(self.raw_file), int(attributes["n_images"]),
            int(attributes["n_groups"]), json.loads(attributes["provenance"]),
        )  # fmt: skip


@contextmanager
def open_results(path: str | Path) -> Iterator[FunctionalFile]:
    """Open a file of results; FileError for a file that is missing, damaged or another one."""
    with hdf5.open_checked(Path(path), SCHEMA, VERSION, made_by(Path(path).stem)) as file:
        yield FunctionalFile(file)


def read_results(path: Path) -> FunctionalResults:
    """Read what :func:`write_results` wrote; raises as :func:`open_results`."""
    with open_results(path) as file:
        return file.results()
