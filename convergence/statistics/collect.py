"""The two passes over the evaluation images, one image group at a time.

Every method of :class:`Collector` leaves one file below ``statistics.partial/`` and returns nothing, so that it does
not matter who calls it, in which order, or how often it was killed before:

    moments(group)          pass 1: count, sums, products and unit histograms of the group
    codes(group)            pass 2: the group's samples as bin numbers, edges fixed by pass 1
    information(name, x0)   mutual information of one tile of units with all others, from the codes
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from convergence import hdf5
from convergence.config import StatisticsConfig
from convergence.data.images import ImageSet, read_batches
from convergence.errors import FileError
from convergence.statistics.groups import ImageGroups
from convergence.statistics.histograms import BinEdges, UnitHistograms, encode
from convergence.statistics.information import mutual_information_jackknife
from convergence.statistics.joining import Joiner
from convergence.statistics.joint import JointCounts
from convergence.statistics.moments import Moments

SCHEMA = "convergence-partial"
VERSION = 1
TILE_UNITS = 64
"""Units of one tile of mutual information: its joint counts, per block of groups, fit in memory."""
JACKKNIFE_BLOCKS = 8
MADE_BY = "convergence statistics CONFIG"


class Collector:
    """Computes and keeps the pieces of the statistics of one experiment."""

    def __init__(self, config: StatisticsConfig, images: ImageSet, joiner: Joiner, partial: Path, digest: str) -> None:
        self.config, self.images, self.joiner, self.partial, self.digest = (
            config,
            images,
            joiner,
            partial,
            digest,
        )
        self.groups = ImageGroups(len(images), config.groups, config.seed, config.max_images)
        self.joined = joiner.joined

    def moments_path(self, group: int) -> Path:
        """File of a group's first pass."""
        return self.partial / f"moments-{group:05d}.h5"

    def codes_path(self, group: int) -> Path:
        """File of a group's second pass."""
        return self.partial / f"codes-{group:05d}.h5"

    def information_path(self, name: str, x0: int) -> Path:
        """File of one tile of a comparison's mutual information."""
        return self.partial / f"information-{name}-{x0:06d}.h5"

    def tiles(self) -> list[tuple[str, int]]:
        """All tiles of all comparisons, as (comparison, first unit)."""
        return [(name, x0) for name, joined in self.joined.items() for x0 in range(0, joined.n_units, TILE_UNITS)]

    def is_done(self, path: Path) -> bool:
        """Whether a piece is on disk, whole, and of these settings; a damaged one is removed, to be done again."""
        if not path.exists():
            return False
        try:
            with hdf5.open_checked(path, SCHEMA, VERSION, MADE_BY) as file:
                if file.attrs["digest"] == self.digest:
                    _verify(file)
                    return True
        except (FileError, OSError, KeyError):
            pass
        path.unlink()
        return False

    def shift(self) -> dict[str, np.ndarray]:
        """The point about which all moments are taken: each unit's mean over the first batch of the first group."""
        first = next(self.groups.batches(0, self.config.batch_size))
        sums: dict[str, list[np.ndarray]] = {name: [] for name in self.joined}
        for name, samples in self.joiner.samples(
            self.images.read(first), first, self.config.positions, self.config.seed
        ):
            sums[name].append(samples.mean(axis=1, dtype=np.float64))
        return {name: np.nan_to_num(np.mean(m, axis=0), posinf=0.0, neginf=0.0) for name, m in sums.items()}

    def moments(self, group: int, shift: dict[str, np.ndarray]) -> None:
        """Pass 1 of one group."""
        moments = {name: Moments.zeros(shift[name]) for name in self.joined}
        histograms = {name: UnitHistograms.zeros(joined.n_units) for name, joined in self.joined.items()}
        batches = self.groups.batches(group, self.config.batch_size)
        for indices, batch in read_batches(self.images, batches, self.config.loader_workers):
            for name, samples in self.joiner.samples(batch, indices, self.config.positions, self.config.seed):
                moments[name].update(samples, self.config.precision)
                histograms[name].update(samples)
        with hdf5.create(self.moments_path(group), SCHEMA, VERSION, {"digest": self.digest}) as file:
            for name in self.joined:
                place = file.create_group(name)
                hdf5.write_array(place, "shift", moments[name].shift)
                hdf5.write_array(place, "count", moments[name].count)
                hdf5.write_array(place, "sums", moments[name].sums)
                hdf5.write_array(place, "products", moments[name].products)
                for key, array in histograms[name].to_arrays().items():
                    hdf5.write_array(place, f"histogram/{key}", array)

    def read_moments(self, group: int, name: str) -> Moments:
        """A group's sums for one comparison."""
        with hdf5.open_checked(self.moments_path(group), SCHEMA, VERSION, MADE_BY) as file:
            place = file[name]
            return Moments(
                hdf5.read_array(place, "shift"),
                int(hdf5.read_array(place, "count")),
                hdf5.read_array(place, "sums"),
                hdf5.read_array(place, "products"),
            )

    def histograms(self, name: str) -> UnitHistograms:
        """Unit histograms of one comparison over all groups."""
        total = UnitHistograms.zeros(self.joined[name].n_units)
        for group in range(len(self.groups)):
            with hdf5.open_checked(self.moments_path(group), SCHEMA, VERSION, MADE_BY) as file:
                place = file[name]["histogram"]
                total.merge(UnitHistograms.from_arrays({key: hdf5.read_array(place, key) for key in place}))
        return total

    def edges(self) -> dict[str, BinEdges]:
        """Bin edges of every comparison, from the histograms of the first pass."""
        bins = self.config.mutual_information.bins
        return {name: self.histograms(name).edges(bins) for name in self.joined}

    def codes(self, group: int, edges: dict[str, BinEdges]) -> None:
        """Pass 2 of one group."""
        pieces: dict[str, list[np.ndarray]] = {name: [] for name in self.joined}
        batches = self.groups.batches(group, self.config.batch_size)
        positions = self.config.mutual_information.positions
        for indices, batch in read_batches(self.images, batches, self.config.loader_workers):
            for name, samples in self.joiner.samples(batch, indices, positions, self.config.seed):
                pieces[name].append(encode(samples, edges[name].edges))
        with hdf5.create(self.codes_path(group), SCHEMA, VERSION, {"digest": self.digest}) as file:
            for name, parts in pieces.items():
                hdf5.write_array(file, name, np.concatenate(parts, axis=1))

    def information(self, name: str, x0: int) -> None:
        """Mutual information of units ``x0 … x0 + TILE_UNITS`` with every unit, and its jackknife error."""
        n_units, bins = self.joined[name].n_units, self.config.mutual_information.bins
        x1 = min(x0 + TILE_UNITS, n_units)
        blocks = []
        for block in self.groups.blocks(JACKKNIFE_BLOCKS):
            counts = JointCounts(n_units, bins, x0, x1)
            for group in block:
                with hdf5.open_checked(self.codes_path(group), SCHEMA, VERSION, MADE_BY) as file:
                    counts.update(hdf5.read_array(file, name))
            blocks.append(counts.counts())
        estimate, error = mutual_information_jackknife(np.stack(blocks))
        with hdf5.create(self.information_path(name, x0), SCHEMA, VERSION, {"digest": self.digest}) as file:
            hdf5.write_array(file, "estimate", estimate)
            hdf5.write_array(file, "standard_error", error)


def _verify(file: h5py.File) -> None:
    """Read every dataset against its checksum."""

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            hdf5.read_array(item.parent, name.rsplit("/", 1)[-1])

    file.visititems(visit)
