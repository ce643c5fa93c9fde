"""The writer of statistics.h5: the one place that puts sums into the layout of the schema."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from convergence.errors import FileError
from convergence.io import hdf5
from convergence.io.full_disk import open_hdf5
from convergence.statistics.file import Array, ComparisonRecord, Matrix, StatisticsHeader
from convergence.statistics.schema import DATASETS, IMAGE_DATASETS, NET_DATASETS, SCHEMA, VERSION, Dataset

Block = tuple[str, hdf5.Index]
"""A block of a matrix: the path of its dataset, and the index of its rows."""


class StatisticsWriter:
    """Writes one file in three steps: everything except matrices, the blocks of the matrices, their checksums.

    Several processes may write the blocks; the first and the last step are for one.

    Parameters
    ----------
    path : the file to write
    matrices : for each comparison its matrices by name, which are read block by block; None for an absent one
    """

    def __init__(self, path: Path, matrices: Mapping[str, Mapping[str, Matrix | None]]) -> None:
        self.path = path
        self._matrices: dict[str, Matrix] = {
            f"comparisons/{name}/{key}": matrix
            for name, of_comparison in matrices.items()
            for key, matrix in of_comparison.items()
            if matrix is not None
        }

    def check_space(self, n_subset: int, folder: Path, remedy: str) -> None:
        """Raise FileError if the file, with ``n_subset`` stored images, does not fit on the disk of ``folder``."""
        needed = sum(self._dtype(path).itemsize * math.prod(m.shape) for path, m in self._matrices.items())
        needed += sum(
            4 * n_subset * m.shape[-1] for path, m in self._matrices.items() if path.endswith("group_products")
        )
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise FileError(
                f"{folder}: the statistics file needs about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free. "
                f"{remedy}."
            )

    def create(self, header: StatisticsHeader, comparisons: Iterable[ComparisonRecord]) -> None:
        """Write the file without the content of its matrices, for which it reserves the space."""
        attributes = {
            "digest": header.digest,
            "config": header.config_text,
            "provenance": header.provenance,
            "about": "Sums over evaluation images, per image group; see docs/files.md",
        }
        if header.selection:
            attributes["selection"] = header.selection
        with hdf5.create(self.path, SCHEMA, VERSION, attributes, sealed=False) as file:
            images = file.create_group("images")
            images.attrs["manifest_sha256"] = header.manifest_sha256
            images.attrs["n_images"] = int((header.group_of_image >= 0).sum())
            images.attrs["n_groups"] = header.n_groups
            images.attrs["n_pilot"] = header.n_pilot
            arrays = {"group_of_image": header.group_of_image, "family_of_image": header.family_of_image}
            if header.subset is not None:
                arrays |= {"subset": header.subset, "subset_group": header.group_of_image[header.subset]}
            _write(images, IMAGE_DATASETS, arrays)
            nets = {dataset.path: np.array([net[dataset.path] for net in header.nets]) for dataset in NET_DATASETS}
            _write(file.create_group("nets"), NET_DATASETS, nets)
            place = file.create_group("comparisons", track_order=True)
            for record in comparisons:
                comparison = place.create_group(record.name)
                comparison.attrs.update(record.attributes)
                _write(comparison, DATASETS, record.arrays)

    def blocks(self) -> list[Block]:
        """All blocks of all matrices, in order."""
        return [(path, index) for path, matrix in self._matrices.items() for index in hdf5.blocks(matrix.shape)]

    def block(self, path: str, index: hdf5.Index) -> Array:
        """The content of one of :meth:`blocks`."""
        return np.asarray(self._matrices[path][index], self._dtype(path))

    @staticmethod
    def _dtype(path: str) -> np.dtype[Any]:
        """Type of the matrix at a path."""
        name = path.rpartition("/")[2]
        return next(np.dtype(dataset.dtype) for dataset in DATASETS if dataset.path == name)

    def write_blocks(self) -> None:
        """Write all blocks in this process, and :meth:`seal`."""
        digests = []
        with open_hdf5(self.path, "r+") as file:
            for path, index in self.blocks():
                values = self.block(path, index)
                file[path][index] = values
                digests.append((path, hdf5.block_digest(values)))
        self.seal(digests)

    def seal(self, digests: Iterable[tuple[str, bytes]]) -> None:
        """Set the checksums of the matrices from (path of the dataset, digest) of all blocks, in order, and seal."""
        of_dataset: dict[str, list[bytes]] = {}
        for path, digest in digests:
            of_dataset.setdefault(path, []).append(digest)
        with hdf5.complete(self.path) as file:
            for path, found in of_dataset.items():
                hdf5.write_checksum(file[path], found)


def _write(place: h5py.Group, datasets: tuple[Dataset, ...], arrays: Mapping[str, Any]) -> None:
    for dataset in datasets:
        array = arrays.get(dataset.path)
        if array is None:
            continue
        if dataset.is_matrix:
            hdf5.create_blocks(
                place, dataset.path, array.shape, dataset.axes, dataset.unit, dataset.about, dataset.dtype
            )
        else:
            hdf5.write_array(place, dataset.path, array, dataset.axes, dataset.unit, dataset.about)
