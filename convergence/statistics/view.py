"""Some comparisons of a statistics file without a copy: a small file with links to the large one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import h5py

from convergence.errors import FileError, did_you_mean
from convergence.io import hdf5
from convergence.statistics.file import SCHEMA, VERSION, open_statistics


def view_comparisons(source: Path, target: Path, comparisons: Sequence[str]) -> None:
    """Leave ``target``, a statistics file with these comparisons of ``source``, in the order of ``source``.

    It reads as any other, as long as ``source`` stays where it is. Checksums do not reach through links, so those of
    the comparisons are held here.

    Raises
    ------
    FileError
        for an unknown comparison, and a damaged one.
    """
    with open_statistics(source) as file:
        for name in comparisons:
            if name not in file.comparisons:
                raise FileError(
                    f"--comparison {name}: {source} has no such one; {did_you_mean(name, file.comparisons)}."
                )
        chosen = [name for name in file.comparisons if name in comparisons]
        for name in chosen:
            file.verify(name)
        attributes = {key: value for key, value in file.attributes.items() if key not in ("schema", "schema_version")}
        with hdf5.create(target, SCHEMA, VERSION, attributes) as out:
            for part in ("images", "nets"):
                out.copy(file.raw().file[part], part)
            places = out.create_group("comparisons", track_order=True)
            for name in chosen:
                places[name] = h5py.ExternalLink(_way(source, target.parent), f"/comparisons/{name}")


def _way(source: Path, folder: Path) -> str:
    """The path that the link names: relative, so that a folder can move; absolute from one drive to another."""
    try:
        return os.path.relpath(source.resolve(), folder.resolve())
    except ValueError:
        return str(source.resolve())
