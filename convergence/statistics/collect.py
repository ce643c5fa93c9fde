"""The two passes over the evaluation images, one image group at a time.

Every method of :class:`Collector` leaves one file below ``statistics.partial/`` and returns nothing, so that it does
not matter who calls it, in which order, or how often it was killed before:

    moments(group)             pass 1: all sums of the group, its images' rows of the stored subset, the top images
    codes(group)               pass 2: the group's samples as bin numbers, edges fixed by pass 1
    information(name, x0, y0)  mutual information of one tile of pairs of units, from the codes

Joint counts live in memory only, those of one tile at a time. :meth:`Collector.block` reads blocks of the final
matrices from these files, so that whoever puts them together holds one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convergence import pieces
from convergence.config.stages import StatisticsConfig
from convergence.data.images import ImageSet, read_batches
from convergence.errors import FileError
from convergence.io import hdf5
from convergence.statistics.bin_edges import BinEdges, encode
from convergence.statistics.group_sums import GroupSums, shift_of
from convergence.statistics.groups import ImageGroups, Indices
from convergence.statistics.histograms import UnitHistograms
from convergence.statistics.information import leave_one_out
from convergence.statistics.joining import JoinedUnits, Joiner
from convergence.statistics.joint import JointCounts
from convergence.statistics.moments import symmetric_rows
from convergence.statistics.top_images import TopImages

Float64 = npt.NDArray[np.float64]
SCHEMA = "convergence-partial"
VERSION = 6
TILE = 128
"""Units on either side of a tile of mutual information."""
CODES_SAMPLES = 65536
"""Samples of a piece of codes."""
MADE_BY = "convergence statistics CONFIG"


class Collector:
    """Computes and keeps the pieces of the statistics of one experiment."""

    def __init__(self, config: StatisticsConfig, images: ImageSet, joiner: Joiner, partial: Path, digest: str) -> None:
        self.config, self.images, self.joiner = config, images, joiner
        self.partial, self.digest = partial, digest
        self.groups = ImageGroups(len(images), config.groups, config.seed, config.max_images)
        self.subset = self.groups.subset(config.subset)
        self.joined = joiner.joined

    def moments_path(self, group: int) -> Path:
        """File of a group's first pass."""
        return self.partial / f"moments-{group:05d}.h5"

    def codes_path(self, group: int) -> Path:
        """File of a group's second pass."""
        return self.partial / f"codes-{group:05d}.h5"

    def information_path(self, name: str, x0: int, y0: int) -> Path:
        """File of one tile of a comparison's mutual information."""
        return self.partial / f"information-{name}-{x0:06d}-{y0:06d}.h5"

    def tiles(self) -> list[tuple[str, int, int]]:
        """All tiles on and above the diagonal, as (comparison, first unit of x, first unit of y)."""
        return [tile for name, joined in self.joined.items() for tile in information_tiles(name, joined.n_units)]

    def is_done(self, path: Path) -> bool:
        """Whether a piece is on disk, whole, and of these settings; a damaged one is removed, to be done again."""
        return pieces.is_done(path, SCHEMA, VERSION, self.digest)

    def shift(self) -> dict[str, Float64]:
        """The point about which all moments are taken, from the first samples of the first group; see ``shift_of``."""
        first = next(self.groups.batches(0, self.config.batch_size))
        found: dict[str, Float64] = {}
        pieces = self.joiner.samples(self.images.read(first), first, self.config.positions, self.config.seed)
        for name, samples, _ in pieces:
            if name not in found:
                values = samples if self.joiner.sums_device is None else samples.cpu().numpy()
                found[name] = shift_of(values, self.joined[name].widths)
        return found

    def moments(self, group: int, shift: dict[str, Float64]) -> None:
        """Pass 1 of one group."""
        with hdf5.create(self.moments_path(group), SCHEMA, VERSION, {"digest": self.digest}) as file:
            sums = {
                name: GroupSums(
                    file.create_group(name),
                    joined.widths,
                    shift[name],
                    self.config.precision,
                    self.config.shifted_null,
                    self.joiner.sums_device,
                )
                for name, joined in self.joined.items()
            }
            kept: dict[str, list[Any]] = {name: [] for name in self.joined}
            tops = self._no_top_images()
            for indices, batch in self._batches(group):
                outputs = self.joiner.outputs(batch, indices)
                for name, samples, n_images in self.joiner.join(
                    outputs, indices, self.config.positions, self.config.seed
                ):
                    sums[name].update(samples, n_images)
                for (weights, layer), top in tops.items():
                    top.update(outputs[weights][layer], indices)
                rows = np.flatnonzero(np.isin(indices, self.subset))
                if len(rows):
                    for name, means in self.joiner.pooled(outputs, rows).items():
                        kept[name].append(means if self.joiner.sums_device is None else means.cpu().numpy())
            for name, of_comparison in sums.items():
                of_comparison.close()
                nothing = np.empty((0, self.joined[name].n_units), np.float32)
                hdf5.write_array(file[name], "subset", np.concatenate([nothing, *kept[name]]))
                for key, array in self._joined_top_images(name, tops).items():
                    hdf5.write_array(file[name], f"top/{key}", array)

    def _no_top_images(self) -> dict[tuple[str, str], TopImages]:
        """No images yet, by weights and layer, of all that take part in a comparison that is not pooled."""
        if not self.config.top_images:
            return {}
        widths = {
            (member.weights, member.layer): width
            for name, joined in self.joined.items()
            if not joined.pooled
            for member, width in zip(self.joiner.members(name), joined.widths, strict=True)
        }
        return {key: TopImages.zeros(width, self.config.top_images) for key, width in widths.items()}

    def _joined_top_images(self, name: str, tops: dict[tuple[str, str], TopImages]) -> dict[str, npt.NDArray[Any]]:
        if not tops or self.joined[name].pooled:
            return {}
        parts = [tops[member.weights, member.layer] for member in self.joiner.members(name)]
        return TopImages.side_by_side(parts).to_arrays()

    def top_images(self, name: str) -> TopImages | None:
        """The images of all groups that excite each unit of a comparison most; None if nobody kept them."""
        if not self.config.top_images or self.joined[name].pooled:
            return None
        total = TopImages.zeros(self.joined[name].n_units, self.config.top_images)
        for group in range(len(self.groups)):
            with self._open(self.moments_path(group)) as file:
                place = file[name]["top"]
                total.merge(TopImages.from_arrays({key: hdf5.read_array(place, key) for key in place}))
        return total

    def matrices(self, name: str) -> dict[str, tuple[int, ...]]:
        """The matrices of a comparison in ``statistics.h5``, with their shapes."""
        return matrices(self.joined[name], self.config)

    def read_shift(self, name: str) -> Float64:
        """The shift that pass 1 used, of units and then of norms."""
        with self._open(self.moments_path(0)) as file:
            return np.asarray(hdf5.read_array(file[name], "shift"))

    def group_sums(self, group: int, name: str) -> tuple[int, Float64, Float64, Float64]:
        """Of one group and comparison: count, sums, and products of norms with norms and with units.

        Sums and products have units first and norms last, see :mod:`convergence.statistics.group_sums`.
        """
        n_units = self.joined[name].n_units
        with self._open(self.moments_path(group)) as file:
            place = file[name]
            norms = place["products"][:n_units, n_units:].T
            return (
                int(hdf5.read_array(place, "count")),
                hdf5.read_array(place, "sums"),
                symmetric_rows(place["products"], n_units, place["products"].shape[0])[:, n_units:],
                norms,
            )

    def histograms(self, name: str) -> UnitHistograms:
        """Unit histograms of one comparison over all groups."""
        total = UnitHistograms.zeros(self.joined[name].n_units)
        for group in range(len(self.groups)):
            with self._open(self.moments_path(group)) as file:
                place = file[name]["histogram"]
                total.add_arrays({key: hdf5.read_array(place, key) for key in place})
        return total

    def subset_samples(self, name: str) -> npt.NDArray[np.float32]:
        """(images of the subset, n_units) means over positions, in the order of :attr:`subset`."""
        samples = np.empty((len(self.subset), self.joined[name].n_units), np.float32)
        groups = self.groups.group_of_image[self.subset]
        for group in np.unique(groups):
            with self._open(self.moments_path(int(group))) as file:
                samples[groups == group] = hdf5.read_array(file[name], "subset")
        return samples

    def edges(self) -> dict[str, BinEdges]:
        """Bin edges of every comparison, from the histograms of the first pass."""
        bins = self.config.mutual_information.bins
        return {name: self.histograms(name).edges(bins) for name in self.joined}

    def codes(self, group: int, edges: dict[str, BinEdges]) -> None:
        """Pass 2 of one group: for each comparison pieces 0, 1, … of at most ``CODES_SAMPLES`` samples."""
        n_images = len(self.groups.images(group))
        positions = self.config.mutual_information.positions
        with hdf5.create(self.codes_path(group), SCHEMA, VERSION, {"digest": self.digest}) as file:
            gathered, filled = {}, dict.fromkeys(self.joined, 0)
            for name, joined in self.joined.items():
                n_samples = min(n_images * joined.n_sampled(positions), CODES_SAMPLES)
                gathered[name] = np.empty((joined.n_units, n_samples), np.uint8)
                file.create_group(name, track_order=True)
            for name, samples, _ in self._group_samples(group, positions):
                codes, start = self._encode(samples, edges[name]), 0
                while start < codes.shape[1]:
                    n = min(codes.shape[1] - start, gathered[name].shape[1] - filled[name])
                    gathered[name][:, filled[name] : filled[name] + n] = codes[:, start : start + n]
                    filled[name] += n
                    start += n
                    if filled[name] == gathered[name].shape[1]:
                        hdf5.write_array(file[name], str(len(file[name])), gathered[name])
                        filled[name] = 0
            for name, n in filled.items():
                if n:
                    hdf5.write_array(file[name], str(len(file[name])), gathered[name][:, :n])

    def _encode(self, samples: Any, edges: BinEdges) -> npt.NDArray[np.uint8]:
        if self.joiner.sums_device is None:
            return encode(samples, edges.edges)
        from convergence.statistics.device_sums import encode_on_device

        return encode_on_device(samples, edges.edges)

    def information(self, name: str, x0: int, y0: int) -> None:
        """Mutual information of units x0 … with units y0 …, and its jackknife error."""
        n_units, bins = self.joined[name].n_units, self.config.mutual_information.bins
        x1, y1 = min(x0 + TILE, n_units), min(y0 + TILE, n_units)
        n_x, n_y = x1 - x0, y1 - y0
        blocks = self.groups.blocks(self.config.mutual_information.blocks)
        counts = np.empty((len(blocks), n_x, n_y, bins, bins), np.int32)
        for block, groups in zip(counts, blocks, strict=True):
            joint = JointCounts(n_x, n_y, bins)
            for group in groups:
                with self._open(self.codes_path(group)) as file:
                    for piece in file[name].values():
                        codes = piece[x0:x1]
                        joint.update(codes, codes if x0 == y0 else piece[y0:y1])
            if joint.n_samples > np.iinfo(np.int32).max:
                raise FileError(
                    f"{joint.n_samples:,} samples in a block of groups are more than joint counts hold: take fewer "
                    "statistics.mutual_information.positions."
                )
            joint.counts(block)
        estimate, without = leave_one_out(counts)
        path = self.information_path(name, x0, y0)
        with hdf5.create(path, SCHEMA, VERSION, {"digest": self.digest}) as file:
            hdf5.write_array(file, "mutual_information", estimate)
            hdf5.write_array(file, "mutual_information_without", without)

    def block(self, name: str, matrix: str, index: hdf5.Index) -> Float64:
        """A block of rows of one of the final matrices of a comparison, from the pieces on disk."""
        rows = index[-1]
        assert isinstance(rows, slice)
        n_units = self.joined[name].n_units
        if matrix.startswith("mutual_information"):
            return self._information_rows(name, matrix, index[:-1], rows)
        with self._open(self.moments_path(int(index[0]))) as file:  # type: ignore[arg-type]
            if matrix == "group_shifted_products":
                return np.asarray(file[name]["shifted"][rows])
            return symmetric_rows(file[name]["products"], rows.start, rows.stop)[:, :n_units]

    def _information_rows(self, name: str, matrix: str, block: hdf5.Index, rows: slice) -> Float64:
        out = np.empty((rows.stop - rows.start, self.joined[name].n_units))
        for _, x0, y0 in information_tiles(name, self.joined[name].n_units):
            for first, second, turned in ((x0, y0, False), (y0, x0, True)):
                low, high = max(first, rows.start), min(first + TILE, rows.stop)
                if low < high:
                    with self._open(self.information_path(name, x0, y0)) as file:
                        tile = file[matrix][block]
                    tile = tile.T if turned else tile
                    out[low - rows.start : high - rows.start, second : second + tile.shape[1]] = tile[
                        low - first : high - first
                    ]
        return out

    def _group_samples(self, group: int, positions: int | str) -> Iterator[tuple[str, Any, int]]:
        """Samples of a whole group, as from :meth:`Joiner.samples`."""
        for indices, batch in self._batches(group):
            yield from self.joiner.samples(batch, indices, positions, self.config.seed)

    def _batches(self, group: int) -> Iterator[tuple[Indices, npt.NDArray[np.float32]]]:
        """A group's images, with their indices."""
        batches = self.groups.batches(group, self.config.batch_size)
        return read_batches(self.images, batches, self.config.loader_workers)

    def _open(self, path: Path) -> Any:
        return hdf5.open_checked(path, SCHEMA, VERSION, MADE_BY)


def information_tiles(name: str, n_units: int) -> list[tuple[str, int, int]]:
    """Tiles on and above the diagonal of (n_units, n_units) pairs."""
    starts = range(0, n_units, TILE)
    return [(name, x0, y0) for x0 in starts for y0 in starts if y0 >= x0]


def matrices(joined: JoinedUnits, config: StatisticsConfig) -> dict[str, tuple[int, ...]]:
    """The matrices of a comparison in ``statistics.h5``, with their shapes."""
    square = (joined.n_units, joined.n_units)
    shapes: dict[str, tuple[int, ...]] = {"group_products": (config.groups, *square)}
    if config.shifted_null:
        shapes["group_shifted_products"] = (config.groups, *square)
    if config.mutual_information.enabled:
        n_blocks = min(config.mutual_information.blocks, config.groups)
        shapes |= {"mutual_information": square, "mutual_information_without": (n_blocks, *square)}
    return shapes
