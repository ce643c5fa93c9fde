"""``functional/<experiment>.h5``: the tables of an experiment's results. Format: docs/files.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import h5py

from convergence.errors import FileError
from convergence.functional import RESULTS
from convergence.functional.tables import read_tables, write_tables
from convergence.io import hdf5
from convergence.provenance import FUNCTIONAL_SCHEMA_VERSION, provenance

SCHEMA = "convergence-functional"
PARTIAL_SCHEMA = "convergence-functional-task"
VERSION = FUNCTIONAL_SCHEMA_VERSION
Tables = TypeVar("Tables")


@dataclass(frozen=True)
class FunctionalResults(Generic[Tables]):
    """Results of an experiment.

    Attributes
    ----------
    experiment : its name, as in ``EXPERIMENTS``
    digest : of settings and inputs
    tables : an instance of the experiment's class in ``RESULTS``
    n_images, n_groups : images and image groups that scores are over
    provenance : versions of the software that computed them
    """

    experiment: str
    digest: str
    tables: Tables
    n_images: int
    n_groups: int
    provenance: dict[str, str]


def made_by(experiment: str) -> str:
    """The command that makes a file."""
    return f"convergence {experiment} CONFIG"


def write_results(path: Path, experiment: str, digest: str, config: str, tables: Any, about: Mapping[str, Any]) -> None:
    """Write a file of results; ``about`` are further attributes, ``n_images`` and ``n_groups`` among them."""
    attributes = {
        "experiment": experiment,
        "digest": digest,
        "config": config,
        "provenance": json.dumps(provenance()),
        **about,
    }
    with hdf5.create(path, SCHEMA, VERSION, attributes) as file:
        write_tables(file, tables)


class FunctionalFile:
    """An open file of results."""

    def __init__(self, file: h5py.File) -> None:
        self.raw_file = file
        self.experiment, self.digest = str(file.attrs["experiment"]), str(file.attrs["digest"])
        if self.experiment not in RESULTS:
            raise FileError(
                f"{file.filename}: there is no experiment {self.experiment[:80]!r}. Make the file again with: "
                f"{made_by(Path(file.filename).stem)}."
            )

    def results(self) -> FunctionalResults[Any]:
        """Read all tables and verify their checksums."""
        attributes, kind = self.raw_file.attrs, RESULTS.load(self.experiment)
        with hdf5.reading(self.raw_file.filename, made_by=made_by(self.experiment)):
            return FunctionalResults(
                self.experiment, self.digest, read_tables(self.raw_file, kind),
                int(attributes["n_images"]), int(attributes["n_groups"]), json.loads(attributes["provenance"]),
            )  # fmt: skip


@contextmanager
def open_results(path: str | Path) -> Iterator[FunctionalFile]:
    """Open a file of results.

    Raises
    ------
    FileError
        for a file that is missing, damaged, of another kind or of another version.
    """
    command = made_by(Path(path).stem)
    with hdf5.open_checked(Path(path), SCHEMA, VERSION, command) as file:
        with hdf5.reading(path, made_by=command):
            found = FunctionalFile(file)
        yield found


def read_results(path: Path) -> FunctionalResults[Any]:
    """Read what :func:`write_results` wrote; raises as :func:`open_results`."""
    with open_results(path) as file:
        return file.results()
