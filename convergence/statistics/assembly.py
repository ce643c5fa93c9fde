"""The sums over all image groups, read from partial results: the other end of the passes.

Small arrays are read whole. Matrices are read in blocks of rows when the writer asks for them, so no process ever holds
a whole matrix.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from convergence.config.stages import StatisticsConfig
from convergence.io import hdf5
from convergence.provenance import provenance
from convergence.statistics.activation_source import ActivationSource
from convergence.statistics.bin_edges import BinEdges, equal_mass_bins
from convergence.statistics.code_buffer import samples_gathered
from convergence.statistics.file import Array, ComparisonSums, StatisticsHeader
from convergence.statistics.fine_bins import bin_error, fine_edges, join_bins, join_codes, thresholds
from convergence.statistics.forward_batches import ForwardBatches
from convergence.statistics.histograms import UnitHistograms
from convergence.statistics.moments import BAND, PRODUCT_SAMPLES, symmetric_rows
from convergence.statistics.null_assembly import NullAssembly
from convergence.statistics.partial_results import MATRIX_BYTES, PartialResults
from convergence.statistics.sampling import ImageGroups
from convergence.statistics.schema import matrix_shapes
from convergence.statistics.top_images import TopImages

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
TILE = 128
"""Units on either side of a tile of mutual information."""


class Tile(NamedTuple):
    """The pairs of units x0 … x1 − 1 with units y0 … y1 − 1 of a comparison."""

    name: str
    x0: int
    x1: int
    y0: int
    y1: int

    @property
    def n_pairs(self) -> int:
        """Number of pairs."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)


def pilot_name(run: int) -> str:
    """Name of the partial result of the pilot in a run of groups."""
    return f"pilot-{run:05d}"


def pseudo_nets_name(weights: str) -> str:
    """Name of the partial result of the maps to pseudo-nets of one name of weights."""
    return f"pseudo-nets-{weights}"


def moments_name(run: int) -> str:
    """Name of the partial result of the sums of a run of groups."""
    return f"moments-{run:05d}"


def gram_name(layer: tuple[str, str]) -> str:
    """Name of the partial result of a layer's Gram matrix, by (weights, layer)."""
    return f"gram-{hashlib.sha256(repr(layer).encode()).hexdigest()[:24]}"


def information_name(tile: Tile) -> str:
    """Name of the partial result of a tile."""
    return f"information-{tile.name}-{tile.x0:06d}-{tile.y0:06d}"


def pass_memory(config: StatisticsConfig, n_units: int) -> tuple[float, float | None]:
    """Bytes of a rank for a comparison of ``n_units``: its sums, and the joint counts of a tile.

    The sums are the samples gathered and centred, the matrix of products or a band of it, and the bin numbers that are
    gathered. The second number is None without mutual information.
    """
    matrix = 8 * n_units**2
    sums = 2 * 4 * PRODUCT_SAMPLES * n_units + (matrix if matrix <= MATRIX_BYTES else 3 * 8 * BAND * n_units)
    information = config.mutual_information
    if not information.enabled:
        return sums, None
    counts = 4 * min(TILE, n_units) ** 2 * information.bins**2 * min(information.blocks, config.groups)
    return sums + n_units * samples_gathered(n_units), counts


def n_pilot(config: StatisticsConfig) -> int:
    """Images that the pilot has at least; one, whose batch gives the shift, if neither bins nor null need it."""
    return config.pilot if config.mutual_information.enabled or config.null.draws else 1


def information_tiles(name: str, n_units: int) -> list[Tile]:
    """Tiles of all pairs of units, on and above the diagonal."""
    starts = range(0, n_units, TILE)
    return [Tile(name, x, min(x + TILE, n_units), y, min(y + TILE, n_units)) for x in starts for y in starts if y >= x]


class Assembly:
    """Sums of all groups of a run's comparisons.

    Attributes
    ----------
    groups : the image groups
    batches : the images that share a forward pass, and those of the pilot
    subset, subset_groups : (N,) ascending indices of the images whose activations are stored, and their groups
    n_classes : number of classes with sums of their own; 0 for none
    has_grams : whether there are Gram matrices of the stored images
    """

    def __init__(self, source: ActivationSource, config: StatisticsConfig, partial: PartialResults) -> None:
        self.joined, self.config, self._partial = source.joined, config, partial
        self._source = source
        self.groups = ImageGroups.of(config, len(source.images), source.images.families)
        self.batches = ForwardBatches(self.groups, config.batch_size, n_pilot(config))
        self.subset = self.groups.subset(config.subset)
        self.subset_groups = self.groups.group_of_image[self.subset]
        self.n_classes = source.images.n_classes if config.class_sums else 0
        self.has_grams = config.image_gram and len(self.subset) > 0

    def header(
        self, digest: str, config_text: str, manifest_sha256: str, nets: list[dict[str, Any]]
    ) -> StatisticsHeader:
        """Everything in the file besides the comparisons."""
        return StatisticsHeader(
            digest=digest,
            config_text=config_text,
            provenance=json.dumps(provenance()),
            manifest_sha256=manifest_sha256,
            group_of_image=self.groups.group_of_image,
            family_of_image=self.groups.family_of_image,
            n_groups=len(self.groups),
            subset=self.subset if len(self.subset) else None,
            nets=nets,
            n_pilot=self.batches.n_pilot_images,
        )

    def tiles(self) -> list[Tile]:
        """The tiles of mutual information of all comparisons."""
        return [tile for name, joined in self.joined.items() for tile in information_tiles(name, joined.n_units)]

    def grams(self) -> list[tuple[str, str]]:
        """The layers that have Gram matrices, by (weights, layer)."""
        if not self.has_grams:
            return []
        return list(dict.fromkeys((m.weights, m.layer) for name in self.joined for m in self._source.members(name)))

    def stored_maps(self, group: int, layer: int) -> tuple[Float64, npt.NDArray[np.int64]]:
        """Flattened maps (n, units · positions) of the stored images of a group, and their places in ``subset``."""
        with self.sums_of(group) as file:
            images = hdf5.read_array(file, "stored")
            place = file["maps"][str(layer)]
            maps = np.concatenate([hdf5.read_array(place, batch) for batch in sorted(place)])
        return maps.astype(np.float64), np.searchsorted(self.subset, images)

    def has_top_images(self, name: str) -> bool:
        """Whether the top images of a comparison are kept."""
        return bool(self.config.top_images) and not self.joined[name].pooled

    @cached_property
    def map_bytes(self) -> int:
        """Bytes of the maps of an image that are in memory together: activations, and pre-activations that are read."""
        shapes = {
            (member.weights, member.layer): width * math.prod(shape)
            for name, joined in self.joined.items()
            for member, width, shape in zip(self._source.members(name), joined.widths, joined.map_shapes, strict=True)
        }
        return sum(4 * n * (1 + (key in self._source.nonlinearities)) for key, n in shapes.items())

    def pilot_parts(self, place: str) -> Iterator[h5py.Group]:
        """Yield a group of the partial results of the pilot, run by run."""
        for run in self.batches.pilot:
            with self.pilot_of(run) as file:
                yield file[place]

    @contextmanager
    def pilot_of(self, run: int) -> Iterator[h5py.File]:
        """Open the partial result of the pilot in a run of groups."""
        with self._partial.open(pilot_name(run)) as file:
            yield file

    @cached_property
    def fine_edges(self) -> dict[str, Float32]:
        """Edges of the fine bins of every comparison, from the pilot; those of the bins if the pilot has all images."""
        information, n_images, found = self.config.mutual_information, self.batches.n_pilot_images, {}
        for name, joined in self.joined.items() if information.enabled else ():
            total = UnitHistograms.zeros(joined.n_units)
            for place in self.pilot_parts(f"histograms/{name}"):
                total.add_arrays({key: hdf5.read_array(place, key) for key in place})
            if self.batches.pilot_is_whole:
                found[name] = equal_mass_bins(total, information.bins).edges
            else:
                found[name] = fine_edges(total, information.bins, n_images)
        return found

    def bins(self, name: str, histograms: UnitHistograms) -> BinEdges:
        """The bins of mutual information, whose edges are among those of the fine bins."""
        n_bins = self.config.mutual_information.bins
        if self.batches.pilot_is_whole:
            return equal_mass_bins(histograms, n_bins)
        return join_bins(histograms, self.fine_edges[name], n_bins)

    @cached_property
    def _thresholds(self) -> dict[str, npt.NDArray[np.uint8]]:
        """For each comparison the first fine bin of each bin; empty if the fine bins are the bins."""
        if self.batches.pilot_is_whole:
            return {}
        return {
            name: thresholds(fine, self.bins(name, self._histograms(name)).edges)
            for name, fine in self.fine_edges.items()
        }

    def codes(self, group: int, tile: Tile) -> Iterator[tuple[Array, Array]]:
        """Yield bin numbers (n_x, n_samples) and (n_y, n_samples) of a group for the units of a tile."""
        first = self._thresholds.get(tile.name)
        with self.sums_of(group) as place:
            for batch in place[tile.name]["codes"]:
                codes = hdf5.large_array(place[tile.name]["codes"], batch)
                x, y = (
                    codes[units] if first is None else join_codes(codes[units], first[units])
                    for units in (slice(tile.x0, tile.x1), slice(tile.y0, tile.y1))
                )
                yield x, y

    @contextmanager
    def sums_of(self, group: int) -> Iterator[h5py.Group]:
        """Open the partial result of the sums of a group."""
        with self._partial.open(moments_name(self.batches.run_of_group[group])) as file:
            yield file[str(group)]

    def pseudo_maps(self, weights: str, layers: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the layers of one name of weights, in order, with the arrays of the maps to pseudo-nets."""
        if not layers:
            return
        path = pseudo_nets_name(weights)
        with self._partial.open(path) as file:
            for k, layer in enumerate(layers):
                place = file[str(k)]
                arrays: dict[str, Any] = {key: hdf5.read_array(place, key) for key in place if key != "weights"}
                stored = hdf5.large_array(place, "weights")
                is_small = 4 * math.prod(stored.shape) <= MATRIX_BYTES // 4
                arrays["weights"] = stored[:] if is_small else StoredWeights(self._partial, path, k, stored.shape)
                yield layer, arrays

    def sums(self, name: str) -> ComparisonSums:
        """All sums of a comparison: matrices to be read in blocks, everything else in memory."""
        joined, n_groups = self.joined[name], len(self.groups)
        n_units, n_members = joined.n_units, len(joined.nets)
        counts, sums = np.zeros(n_groups, np.int64), np.zeros((n_groups, n_units))
        for group in range(n_groups):
            with self.sums_of(group) as file:
                place = file[name]
                counts[group] = int(hdf5.read_array(place, "count"))
                sums[group] = hdf5.read_array(place, "sums")
                if group == 0:
                    shift = np.asarray(hdf5.read_array(place, "shift"))
        matrices = self.matrices(name)
        null = matrices.pop("null_products"), matrices.pop("null_own")
        has_subset, histograms = len(self.subset) > 0, self._histograms(name)
        bins = self.bins(name, histograms) if self.config.mutual_information.enabled else None
        return ComparisonSums(
            name=name,
            nets=joined.nets,
            of_net=joined.of_net,
            epochs=joined.epochs,
            trained=joined.trained,
            layers=joined.layers,
            sources=joined.sources,
            rectified=joined.rectified,
            privileged=joined.privileged,
            map_shape=joined.map_shape,
            map_shapes=joined.map_shapes,
            pooled=joined.pooled,
            positions="all" if joined.pooled else str(self.config.positions),
            precision=self.config.precision,
            unit_net=np.repeat(np.arange(n_members, dtype=np.int32), joined.widths),
            shift=shift,
            group_count=counts,
            group_sums=sums,
            histograms=histograms,
            bins=bins,
            bin_error=math.nan if bins is None else bin_error(histograms, bins),
            subset_samples=self._subset_samples(name) if has_subset else None,
            subset_group=self.subset_groups if has_subset else None,
            subset_family=self.groups.family_of_image[self.subset] if has_subset else None,
            class_count=self._class_count(name) if self.n_classes else None,
            top_images=self._top_images(name) if self.has_top_images(name) else None,
            null=None if null[0] is None else self._null(name).sums(*null),
            null_kind=joined.null_kind,
            null_reason=joined.null_reason,
            **matrices,
        )

    def matrices(self, name: str) -> dict[str, Any]:
        """The matrices of a comparison, each a :class:`RowsOnDisk`, or None if it is not computed."""
        joined = self.joined[name]
        n_stored = len(self.subset) if self.has_grams else 0
        shapes = matrix_shapes(joined, self.config, self.n_classes, n_stored)
        readers: dict[str, Callable[[hdf5.Index], Float64]] = {
            "group_products": lambda index: self._products(name, index),
            "group_shifted_products": lambda index: self._shifted_products(name, index),
            "class_sums": lambda index: self._class_sums(name, index),
            "image_gram": lambda index: self._gram(name, index),
            "null_products": lambda index: self._null(name).products(index),
            "null_own": lambda index: self._null(name).own(index),
            "mutual_information": lambda index: self._information(name, "mutual_information", index),
            "mutual_information_without": lambda index: self._information(name, "mutual_information_without", index),
        }
        return {key: RowsOnDisk(shapes[key], read) if key in shapes else None for key, read in readers.items()}

    def _null(self, name: str) -> NullAssembly:
        return NullAssembly(self.joined[name], self.config.null.draws, len(self.groups), self.sums_of)

    def _histograms(self, name: str) -> UnitHistograms:
        total = UnitHistograms.zeros(self.joined[name].n_units)
        for group in range(len(self.groups)):
            with self.sums_of(group) as file:
                place = file[name]["histogram"]
                total.add_arrays({key: hdf5.read_array(place, key) for key in place})
        return total

    def _top_images(self, name: str) -> TopImages:
        total = TopImages.zeros(self.joined[name].n_units, self.config.top_images)
        for group in range(len(self.groups)):
            with self.sums_of(group) as file:
                place = file[name]["top"]
                total.merge(TopImages.from_arrays({key: hdf5.read_array(place, key) for key in place}))
        return total

    def _subset_samples(self, name: str) -> npt.NDArray[np.float32]:
        samples = np.empty((len(self.subset), self.joined[name].n_units), np.float32)
        for group in np.unique(self.subset_groups):
            with self.sums_of(int(group)) as file:
                samples[self.subset_groups == group] = hdf5.read_array(file[name], "subset")
        return samples

    def _products(self, name: str, index: hdf5.Index) -> Float64:
        group, rows = index
        assert isinstance(rows, slice)
        with self.sums_of(int(group)) as file:  # type: ignore[arg-type]
            return symmetric_rows(hdf5.large_array(file[name], "products"), rows.start, rows.stop)

    def _shifted_products(self, name: str, index: hdf5.Index) -> Float64:
        group, rows = index
        with self.sums_of(int(group)) as file:  # type: ignore[arg-type]
            return hdf5.large_array(file[name], "shifted")[rows]

    def _class_sums(self, name: str, index: hdf5.Index) -> Float64:
        group, rows = index
        with self.sums_of(int(group)) as file:  # type: ignore[arg-type]
            return hdf5.large_array(file[name], "class_sums")[rows]

    def _class_count(self, name: str) -> npt.NDArray[np.int64]:
        counts = np.empty((len(self.groups), self.n_classes), np.int64)
        for group in range(len(self.groups)):
            with self.sums_of(group) as file:
                counts[group] = hdf5.read_array(file[name], "class_count")
        return counts

    def _gram(self, name: str, index: hdf5.Index) -> Float64:
        member, rows = index
        of = self._source.members(name)[int(member)]  # type: ignore[arg-type]
        with self._partial.open(gram_name((of.weights, of.layer))) as file:
            return hdf5.large_array(file, "gram")[rows]

    def _information(self, name: str, matrix: str, index: hdf5.Index) -> Float64:
        *block, rows = index
        assert isinstance(rows, slice)
        out = np.empty((rows.stop - rows.start, self.joined[name].n_units))
        for tile in information_tiles(name, self.joined[name].n_units):
            for first, second, transposed in ((tile.x0, tile.y0, False), (tile.y0, tile.x0, True)):
                low, high = max(first, rows.start), min(first + TILE, rows.stop)
                if low < high:
                    with self._partial.open(information_name(tile)) as file:
                        values = hdf5.large_array(file, matrix)[tuple(block)]
                    values = values.T if transposed else values
                    out[low - rows.start : high - rows.start, second : second + values.shape[1]] = values[
                        low - first : high - first
                    ]
        return out


class StoredWeights:
    """Maps of pseudo-nets that are read from a pilot whenever they are indexed by draws."""

    def __init__(self, partial: PartialResults, path: str, number: int, shape: tuple[int, ...]) -> None:
        self._partial, self._path, self._number, self.shape = partial, path, number, shape

    def __getitem__(self, draws: slice) -> npt.NDArray[np.float32]:
        with self._partial.open(self._path) as file:
            return hdf5.large_array(file[str(self._number)], "weights")[draws]


class RowsOnDisk:
    """A matrix (…, n, n) that reads a block of rows when it is indexed with the index of the block."""

    def __init__(self, shape: tuple[int, ...], read: Callable[[Any], Float64]) -> None:
        self.shape, self._read = shape, read

    def __getitem__(self, index: Any) -> Float64:
        return self._read(index)
