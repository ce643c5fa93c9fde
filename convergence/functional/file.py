"""``functional/<experiment>.h5``: a tree of results a piece, read with h5py and numpy alone. Format: docs/files.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convergence import hdf5
from convergence.analysis.file import read_tree, write_tree
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
    return "convergence train CONFIG --averaging" if experiment == "average" else f"convergence {experiment} CONFIG"


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


def read_results(path: Path, experiment: str) -> FunctionalResults:
    """Read what :func:`write_results` wrote; FileError for a file that is missing, damaged or another one."""
    with hdf5.open_checked(path, SCHEMA, VERSION, made_by(experiment)) as file:
        attributes = file.attrs
        return FunctionalResults(
            str(attributes["experiment"]), str(attributes["digest"]), read_tree(file), int(attributes["n_images"]),
            int(attributes["n_groups"]), json.loads(attributes["provenance"]),
        )  # fmt: skip
