"""The two passes over the evaluation images: batches in, named arrays out.

    pilot         before pass 1, one name of weights: the maps from pre-activations to those of pseudo-nets
    moments       pass 1, one image group: all sums, the means and maps of the stored images, the top images
    gram          inner products of the flattened maps of the stored images of one layer of one net
    codes         pass 2, one image group: bin numbers of its samples, with bin edges from pass 1
    information   mutual information of one tile of pairs of units, from the bin numbers

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
from convergence.data.images import read_batches
from convergence.errors import FileError
from convergence.networks import PRE_ACTIVATIONS
from convergence.statistics.activation_source import ActivationSource, Maps
from convergence.statistics.assembly import (
    Assembly,
    Tile,
    codes_name,
    gram_name,
    information_name,
    moments_name,
    pilot_name,
)
from convergence.statistics.bin_edges import BinEdges
from convergence.statistics.group_sums import NewMatrix, shift_of
from convergence.statistics.information import leave_one_out
from convergence.statistics.joint_counts import JointCounts
from convergence.statistics.masks import some_of_valid
from convergence.statistics.moments import Moments
from convergence.statistics.null_group_sums import NullAbout, compute_pseudo_units
from convergence.statistics.partial_results import Arrays, PartialResults
from convergence.statistics.pseudo_nets import PseudoUnits, make_maps, n_null_positions, null_columns, pseudo_units
from convergence.statistics.sampling import Indices
from convergence.statistics.top_images import TopImages

Float64 = npt.NDArray[np.float64]
CODES_SAMPLES = 65536
"""Samples of one array of bin numbers."""
GRAM_BYTES = 1 << 29
"""Bytes of stored maps in memory, for the Gram matrix of a layer."""
ABOUT_SAMPLES = 1024
"""Samples that give the points about which pseudo-units are summed."""


class Pass(NamedTuple):
    """One pass: its items, the name of each item's partial result, and what computes it from a matrix factory."""

    what: str
    items: Sequence[Any]
    name: Callable[[Any], str]
    compute: Callable[[Any, NewMatrix], Arrays]


class StatisticsPasses:
    """The passes over one source of activations.

    Attributes
    ----------
    assembly : the sums of all groups, once the passes are done
    """

    def __init__(self, source: ActivationSource, config: StatisticsConfig, partial: PartialResults) -> None:
        self.source, self.config = source, config
        source.read_masks(config)
        self.assembly = Assembly(source, config, partial)
        self.groups, self.joined = self.assembly.groups, source.joined

    def __iter__(self) -> Iterator[Pass]:
        """The passes in order; each needs the partial results of all items of the previous one."""
        groups = range(len(self.groups))
        with_pre = list(dict.fromkeys(weights for weights, _ in self.source.nonlinearities))
        if with_pre:
            yield Pass("pass 0, pilot", with_pre, pilot_name, self.pilot)
        yield Pass("pass 1, moments", groups, moments_name, self.moments)
        if self.assembly.has_grams:
            yield Pass("pass 1, Gram matrices", self.assembly.grams(), gram_name, self.gram)
        if self.config.mutual_information.enabled:
            edges = self.edges()
            yield Pass("pass 2, bins", groups, codes_name, functools.partial(self.codes, edges))
            yield Pass("pass 2, mutual information", self.assembly.tiles(), information_name, self.information)

    @functools.cached_property
    def shift(self) -> dict[str, Float64]:
        """For each comparison the point about which all moments are taken: means over the first batch of group 0."""
        first = next(self.groups.batches(0, self.config.batch_size))
        maps = self.source.maps(self.source.images.read(first), first)
        found: dict[str, Float64] = {}
        for name, samples, _ in self.source.samples(maps, first, self.config.positions, self.config.seed):
            if name not in found:
                found[name] = shift_of(self.source.arrays.to_host(samples))
        return found

    def pilot(self, weights: str, new_matrix: NewMatrix) -> Arrays:
        """Maps to the pre-activations of pseudo-nets, for the layers of one name of weights, by number of the layer.

        Raises
        ------
        FileError
            for given pre-activations that are not those of the given activations.
        """
        null, source, seed = self.config.null, self.source, self.config.seed
        layers = [layer for name, layer in source.nonlinearities if name == weights]
        moments: dict[str, Moments] = {}
        images = self.groups.subset(null.pilot)
        batches = [images[k : k + self.config.batch_size] for k in range(0, len(images), self.config.batch_size)]
        for indices, batch in read_batches(source.images, batches, self.config.loader_workers):
            maps = source.maps(batch, indices, weights)
            for layer in layers:
                source.check_pre_activations(weights, layer, maps)
                z = source.arrays.to_host(maps[weights, PRE_ACTIVATIONS + layer])
                n_used = n_null_positions(z.shape[2], "auto", null.draws)
                columns = null_columns(z.shape[2], n_used, seed)
                samples = np.ascontiguousarray((z if columns is None else z[:, :, columns]).transpose(1, 0, 2))
                samples = samples.reshape(len(samples), -1)
                valid = source.valid(indices, z.shape[2])
                if valid is not None:
                    samples = z.transpose(1, 0, 2)[:, some_of_valid(valid, n_used, seed)]
                if layer not in moments:
                    moments[layer] = Moments(shift_of(samples), "float64")
                moments[layer].update(samples)
        for k, layer in enumerate(layers):
            found = moments[layer]
            made = make_maps(found.mean(), found.covariance(), null.draws, seed, f"{weights}.{layer}")
            for key, array in made.arrays().items():
                yield f"{k}/{key}", array

    @functools.cached_property
    def pseudo_units(self) -> dict[str, list[PseudoUnits]]:
        """For each comparison with pseudo-nets those of its members, from the partial results of the pilot."""
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
        """For each comparison with pseudo-nets the points about which they are summed: means over the first batch."""
        if not self.pseudo_units:
            return {}
        first = next(self.groups.batches(0, self.config.batch_size))
        maps = self.source.maps(self.source.images.read(first), first)
        found: dict[str, NullAbout] = {}
        for name, real, pre, n_images, weights in self.source.null_samples(maps, first, self.config):
            if name not in found:
                per_image = real.shape[1] // n_images
                some = min(n_images, max(1, ABOUT_SAMPLES // per_image))
                members, arrays = self.pseudo_units[name], self.source.arrays
                pseudo = arrays.zeros((self.config.null.draws, members[-1].place.stop, some * per_image))
                parts = [z.reshape(len(z), n_images, -1)[:, :some] for z in pre]
                no_shift = arrays.zeros((*pseudo.shape[:2], 1))
                chosen = [None if w is None else w[:some] for w in weights]
                compute_pseudo_units(members, parts, self.joined[name].pooled, pseudo, no_shift, chosen)
                real = arrays.to_host(real[:, : some * per_image])
                found[name] = NullAbout.of(real, self.shift[name][: len(real)], arrays.to_host(pseudo), members)
        return found

    def moments(self, group: int, new_matrix: NewMatrix) -> Arrays:
        """Pass 1 of one group: the arrays of its sums, ``subset`` and ``top/*``, for each comparison; ``maps/*``."""
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
        previous = self.groups.previous(group, config.batch_size)
        for n_batch, (indices, maps) in enumerate(self._batches(group)):
            before, done = next(previous), dict.fromkeys(self.joined, 0)
            later = source.later_samples(maps, before, config.positions, config.seed)
            for name, samples, n_images in source.samples(maps, indices, config.positions, config.seed):
                images = indices[done[name] : done[name] + n_images]
                done[name] += n_images
                classes = None if labels is None else labels[images]
                sums[name].update(samples, n_images, classes, next(later) if config.shifted_null else None)
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

    def edges(self) -> dict[str, BinEdges]:
        """Bin edges of every comparison, from the histograms of pass 1."""
        return self.assembly.edges()

    def codes(self, edges: dict[str, BinEdges], group: int, new_matrix: NewMatrix) -> Arrays:
        """Pass 2 of one group: for each comparison arrays of at most ``CODES_SAMPLES`` samples.

        The memory of an array is used again for the next one.
        """
        n_images, positions = len(self.groups.images(group)), self.config.mutual_information.positions
        buffers, filled, written = {}, dict.fromkeys(self.joined, 0), dict.fromkeys(self.joined, 0)
        for name, joined in self.joined.items():
            n_samples = min(n_images * joined.n_sampled(positions), CODES_SAMPLES)
            buffers[name] = np.empty((joined.n_units, n_samples), np.uint8)
        for indices, maps in self._batches(group):
            for name, samples, _ in self.source.samples(maps, indices, positions, self.config.seed):
                codes, buffer, start = self.source.arrays.encode(samples, edges[name].edges), buffers[name], 0
                while start < codes.shape[1]:
                    n = min(codes.shape[1] - start, buffer.shape[1] - filled[name])
                    buffer[:, filled[name] : filled[name] + n] = codes[:, start : start + n]
                    filled[name] += n
                    start += n
                    if filled[name] == buffer.shape[1]:
                        yield f"{name}/{written[name]:06d}", buffer
                        filled[name] = 0
                        written[name] += 1
        for name, n in filled.items():
            if n:
                yield f"{name}/{written[name]:06d}", buffers[name][:, :n]

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

    def _batches(self, group: int) -> Iterator[tuple[Indices, Maps]]:
        """Indices and activations of a group's images."""
        batches = self.groups.batches(group, self.config.batch_size)
        for indices, images in read_batches(self.source.images, batches, self.config.loader_workers):
            yield indices, self.source.maps(images, indices)


def _below(place: str, new_matrix: NewMatrix) -> NewMatrix:
    """A factory of matrices whose names begin with ``place``."""
    return lambda name, n_rows: new_matrix(f"{place}/{name}", n_rows)
