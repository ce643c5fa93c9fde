"""The passes over the evaluation images: batches in, named arrays out.

    pilot               some images, see :mod:`convergence.statistics.pilot`
    pseudo-nets         one name of weights: maps from pre-activations to those of pseudo-nets, from the pilot
    sums                one run of image groups: all sums, numbers of fine bins, stored images, top images
    Gram matrices       one layer of one net: inner products of the flattened maps of the stored images
    mutual information  one tile of pairs of units, from the numbers of fine bins

Images of a group are decoded, and the nets run on them, once; the pilot's a second time unless their maps were kept.
A pass yields ``(path, array)`` and knows no file. Its items are independent of each other: any process may compute any
of them, in any order, and :class:`~convergence.statistics.partial_results.PartialResults` stores each. Joint counts
exist in memory only, for one tile at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from convergence.config.stages import StatisticsConfig
from convergence.errors import FileError
from convergence.io import hdf5
from convergence.statistics.activation_source import ActivationSource, Maps
from convergence.statistics.assembly import (
    Assembly,
    Tile,
    gram_name,
    information_name,
    moments_name,
    pilot_name,
    pseudo_nets_name,
)
from convergence.statistics.code_buffer import CodeBuffer
from convergence.statistics.forward_batches import KEPT_BYTES, KeptMaps, by_group
from convergence.statistics.group_sums import NewMatrix
from convergence.statistics.information import leave_one_out
from convergence.statistics.joint_counts import JointCounts
from convergence.statistics.null_group_sums import NullAbout
from convergence.statistics.partial_results import Arrays, PartialResults
from convergence.statistics.pilot import AddedMoments, null_about, pilot_arrays
from convergence.statistics.pseudo_nets import PseudoUnits, make_maps, pseudo_units
from convergence.statistics.sampling import Indices
from convergence.statistics.top_images import TopImages

Float64 = npt.NDArray[np.float64]
GRAM_BYTES = 1 << 29
"""Bytes of stored maps in memory, for the Gram matrix of a layer."""


class Pass(NamedTuple):
    """One pass: its items, the name of each item's partial result, what computes it, and the amount of its work.

    ``compute`` gets a factory of matrices. Work is in any unit: images of a run of groups, pairs of units of a tile.
    """

    what: str
    items: Sequence[Any]
    name: Callable[[Any], str]
    compute: Callable[[Any, NewMatrix], Arrays]
    size: Callable[[Any], int] = lambda item: 1


class StatisticsPasses:
    """The passes over one source of activations.

    Parameters
    ----------
    kept_bytes : bytes of the pilot's maps to keep for the sums

    Attributes
    ----------
    assembly : the sums of all groups, once the passes are done
    """

    def __init__(
        self,
        source: ActivationSource,
        config: StatisticsConfig,
        partial: PartialResults,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self.source, self.config = source, config
        source.read_masks(config)
        self.assembly = Assembly(source, config, partial)
        self.groups, self.batches, self.joined = self.assembly.groups, self.assembly.batches, source.joined
        self._maps = KeptMaps(source, kept_bytes, config.loader_workers)
        fits = self.assembly.map_bytes * self.batches.n_pilot_images <= kept_bytes
        self._keep = fits or self.batches.pilot_is_whole

    def __iter__(self) -> Iterator[Pass]:
        """The passes in order; each needs the partial results of all items of the previous one."""
        runs = range(len(self.batches.runs))
        yield Pass("pilot", list(self.batches.pilot), pilot_name, self.pilot)
        with_pre = list(dict.fromkeys(weights for weights, _ in self.source.nonlinearities))
        if with_pre:
            yield Pass("pseudo-nets", with_pre, pseudo_nets_name, self.make_pseudo_nets)
        yield Pass("sums", runs, moments_name, functools.partial(self.moments, self.fine_edges()), self._n_images)
        if self.assembly.has_grams:
            yield Pass("Gram matrices", self.assembly.grams(), gram_name, self.gram)
        if self.config.mutual_information.enabled:
            tiles = self.assembly.tiles()
            yield Pass("mutual information", tiles, information_name, self.information, lambda tile: tile.n_pairs)

    def pilot(self, run: int, new_matrix: NewMatrix) -> Arrays:
        """The part of the pilot in one run of image groups.

        Raises
        ------
        FileError
            for given pre-activations that are not those of the given activations.
        """
        batches = self._maps.read(self.batches.pilot[run], self._keep)
        return pilot_arrays(self.source, self.config, batches, new_matrix, run == 0)

    def make_pseudo_nets(self, weights: str, new_matrix: NewMatrix) -> Arrays:
        """Maps to the pre-activations of pseudo-nets, for the layers of one name of weights, by number of the layer."""
        null, seed = self.config.null, self.config.seed
        layers = [layer for name, layer in self.source.nonlinearities if name == weights]
        for k, layer in enumerate(layers):
            number, added = list(self.source.nonlinearities).index((weights, layer)), AddedMoments()
            for place in self.assembly.pilot_parts(f"moments/{number}"):
                added.add({key: hdf5.read_array(place, key) for key in ("count", "shift", "sums", "products")})
            found = added.finish()
            made = make_maps(found.mean, found.covariance, null.draws, seed, f"{weights}.{layer}")
            for key, array in made.arrays().items():
                yield f"{k}/{key}", array

    def _n_images(self, run: int) -> int:
        """Images of a run of groups."""
        return sum(len(self.groups.images(group)) for group in self.batches.runs[run])

    @functools.cached_property
    def shift(self) -> dict[str, Float64]:
        """For each comparison the point about which all moments are taken: means over the first batch of the pilot."""
        with self.assembly.pilot_of(0) as file:
            return {name: np.asarray(hdf5.read_array(file["shift"], name)) for name in self.joined}

    @functools.cached_property
    def pseudo_units(self) -> dict[str, list[PseudoUnits]]:
        """For each comparison with pseudo-nets those of its members, from their partial results."""
        source = self.source
        maps = {
            (weights, layer): source.arrays.pseudo_maps(arrays)
            for weights in source.layers
            for layer, arrays in self.assembly.pseudo_maps(
                weights, [layer for name, layer in source.nonlinearities if name == weights]
            )
        }
        found = {}
        for name, joined in self.joined.items():
            keys = [(member.weights, member.layer) for member in source.members(name)]
            functions = [source.nonlinearities.get(key) for key in keys]
            if any(functions):
                found[name] = pseudo_units(joined.widths, [maps.get(key) for key in keys], functions)
        return found

    @functools.cached_property
    def null_about(self) -> dict[str, NullAbout]:
        """For each comparison with pseudo-nets the points about which they are summed."""
        if not self.pseudo_units:
            return {}
        shift, draws = self.shift, self.config.null.draws
        with self.assembly.pilot_of(0) as file:
            return {
                name: null_about(
                    file["about"][name], shift[name], members, self.joined[name].pooled, draws, self.source
                )
                for name, members in self.pseudo_units.items()
            }

    def fine_edges(self) -> dict[str, npt.NDArray[np.float32]]:
        """Edges of the fine bins of every comparison, from the histograms of the pilot; empty without bins."""
        return self.assembly.fine_edges

    def moments(self, edges: dict[str, npt.NDArray[np.float32]], run: int, new_matrix: NewMatrix) -> Arrays:
        """The arrays of :meth:`group_arrays` of each group of a run, below the number of the group."""
        groups = self.batches.runs[run]
        sizes = {group: len(self.groups.images(group)) for group in groups}
        batches = self._maps.read(self.batches.batches(run))
        for group, of_group in by_group(groups, sizes.__getitem__, batches):
            for path, array in self.group_arrays(edges, group, of_group, _below(str(group), new_matrix)):
                yield f"{group}/{path}", array

    def group_arrays(
        self,
        edges: dict[str, npt.NDArray[np.float32]],
        group: int,
        batches: Iterator[tuple[Indices, Maps]],
        new_matrix: NewMatrix,
    ) -> Arrays:
        """For each comparison the sums of a group, ``codes/*``, ``subset`` and ``top/*``; ``maps/*`` and ``stored``."""
        config, source = self.config, self.source
        labels, n_classes = source.images.labels, self.assembly.n_classes
        sums = {
            name: source.arrays.group_sums(
                self.shift[name], config.precision, config.shifted_null, n_classes, _below(name, new_matrix)
            )
            for name in self.joined
        }
        stored = {name: [np.empty((0, joined.n_units), np.float32)] for name, joined in self.joined.items()}
        stored_images = [np.empty(0, np.int64)]
        null = {
            name: source.arrays.null_group_sums(
                members, self.null_about[name], self.joined[name].pooled, config.precision, _below(name, new_matrix)
            )
            for name, members in self.pseudo_units.items()
        }
        tops = self._empty_top_images()
        ring = self.groups.images(group)
        previous, n_done, of_bins = np.roll(ring, 1), 0, config.mutual_information.positions
        codes = {
            name: CodeBuffer(self.joined[name].n_units, len(ring) * self.joined[name].n_sampled(of_bins))
            for name in edges
        }
        for n_batch, (indices, maps) in enumerate(batches):
            before, done = previous[n_done : n_done + len(indices)], dict.fromkeys(self.joined, 0)
            n_done += len(indices)
            later = source.later_samples(maps, before, config.positions, config.seed)
            for name, samples, n_images in source.samples(maps, indices, config.positions, config.seed):
                images = indices[done[name] : done[name] + n_images]
                done[name] += n_images
                classes = None if labels is None else labels[images]
                sums[name].update(samples, n_images, classes, next(later) if config.shifted_null else None)
                if edges and of_bins == config.positions:
                    for number, full in codes[name].add(source.arrays.encode(samples, edges[name])):
                        yield f"{name}/codes/{number:06d}", full
            if edges and of_bins != config.positions:
                for name, samples, _ in source.samples(maps, indices, of_bins, config.seed):
                    for number, full in codes[name].add(source.arrays.encode(samples, edges[name])):
                        yield f"{name}/codes/{number:06d}", full
            for name, real, pre, n_images, weights in source.null_samples(maps, indices, config):
                null[name].update(real, pre, n_images, weights)
            for layer, top in tops.items():
                top.update(source.only_valid(maps[layer], indices, np.nan), indices)
            rows = np.flatnonzero(np.isin(indices, self.assembly.subset))
            if len(rows):
                for name, means in source.image_means(maps, indices, rows):
                    stored[name].append(means)
                stored_images.append(indices[rows])
                for k, layer in enumerate(self.assembly.grams()):
                    some_maps = source.only_valid(maps[layer][rows], indices[rows], 0.0)
                    flat = source.arrays.to_host(some_maps).reshape(len(rows), -1)
                    yield f"maps/{k}/{n_batch:06d}", np.asarray(flat, np.float32)
        order = np.argsort(np.concatenate(stored_images), kind="stable")
        yield "stored", np.concatenate(stored_images)
        for name, of_comparison in sums.items():
            for key, array in of_comparison.arrays():
                yield f"{name}/{key}", array
            if name in null:
                for key, array in null[name].arrays():
                    yield f"{name}/null/{key}", array
            if name in codes:
                for number, rest in codes[name].finish():
                    yield f"{name}/codes/{number:06d}", rest
            yield f"{name}/subset", np.concatenate(stored[name])[order]
            if self.assembly.has_top_images(name):
                parts = [tops[member.weights, member.layer] for member in source.members(name)]
                for key, array in TopImages.side_by_side(parts).to_arrays().items():
                    yield f"{name}/top/{key}", array

    def gram(self, layer: tuple[str, str], new_matrix: NewMatrix) -> Arrays:
        """The Gram matrix (N, N) of the stored images' flattened maps, from two image groups at a time.

        Maps of groups stay in memory up to ``GRAM_BYTES``; others are read again for each pair of groups.
        """
        k, groups = self.assembly.grams().index(layer), self.assembly.subset_groups
        kept: dict[int, tuple[Float64, Indices]] = {}

        def stored(group: int) -> tuple[Float64, Indices]:
            found = kept.get(group) or self.assembly.stored_maps(group, k)
            if group in kept or sum(maps.nbytes for maps, _ in (*kept.values(), found)) <= GRAM_BYTES:
                kept[group] = found
            return found

        gram = np.zeros((len(self.assembly.subset),) * 2)
        for g in np.unique(groups):
            x, of_x = stored(int(g))
            for h in np.unique(groups[groups >= g]):
                y, of_y = (x, of_x) if h == g else stored(int(h))
                product = x @ y.T
                gram[np.ix_(of_x, of_y)] = product
                gram[np.ix_(of_y, of_x)] = product.T
        yield "gram", gram

    def information(self, tile: Tile, new_matrix: NewMatrix) -> Arrays:
        """Mutual information of the units of a tile, and the same without each block of image groups.

        Raises
        ------
        FileError
            for more samples in a block than an int32 count can hold.
        """
        bins = self.config.mutual_information.bins
        n_x, n_y = tile.x1 - tile.x0, tile.y1 - tile.y0
        blocks = self.groups.blocks(self.config.mutual_information.blocks)
        counts = np.empty((len(blocks), n_x, n_y, bins, bins), np.int32)
        for block, groups in zip(counts, blocks, strict=True):
            joint = JointCounts(n_x, n_y, bins)
            for group in groups:
                for x, y in self.assembly.codes(group, tile):
                    joint.update(x, y)
            if joint.n_samples > np.iinfo(np.int32).max:
                raise FileError(
                    f"{joint.n_samples:,} samples in a block of image groups exceed the range of joint counts: set "
                    "statistics.mutual_information.positions to a smaller number."
                )
            joint.counts(block)
        estimate, without = leave_one_out(counts)
        yield "mutual_information", estimate
        yield "mutual_information_without", without

    def _empty_top_images(self) -> dict[tuple[str, str], TopImages]:
        """Lists without images, by weights and layer, for the members of comparisons that keep top images."""
        widths = {
            (member.weights, member.layer): width
            for name, joined in self.joined.items()
            if self.assembly.has_top_images(name)
            for member, width in zip(self.source.members(name), joined.widths, strict=True)
        }
        return {layer: TopImages.zeros(width, self.config.top_images) for layer, width in widths.items()}


def _below(place: str, new_matrix: NewMatrix) -> NewMatrix:
    """A factory of matrices whose names begin with ``place``."""
    return lambda name, n_rows: new_matrix(f"{place}/{name}", n_rows)
