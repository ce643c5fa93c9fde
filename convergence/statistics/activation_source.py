"""Activation sources: batches of images in, samples along the joined unit axis of every comparison out.

A source has activations that nets compute (:mod:`convergence.statistics.torch_source`) or given arrays
(:mod:`convergence.statistics.array_source`). Everything downstream sees samples (n_units, n_samples), with the units of
all members of a comparison side by side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from convergence.config.layer_refs import LayerRef
from convergence.config.schema import Experiment
from convergence.config.stages import StatisticsConfig
from convergence.data.images import ImageSet
from convergence.errors import ConfigError
from convergence.networks import PRE_ACTIVATIONS
from convergence.statistics.bin_edges import encode
from convergence.statistics.fine_bins import FINE_EDGES, encode_fine
from convergence.statistics.group_sums import GroupSums, HostGroupSums, NewMatrix
from convergence.statistics.masks import PositionMasks, masked_units, read_masks
from convergence.statistics.null_group_sums import NullAbout, NullGroupSums
from convergence.statistics.pseudo_nets import PseudoMaps, PseudoUnits, n_null_positions, null_columns, read_maps
from convergence.statistics.sampling import (
    Bools,
    Float32,
    Indices,
    grid_positions,
    mean_over_positions,
    mean_over_valid,
    sample_positions,
)

CHUNK_SAMPLES = 65536
"""Samples joined at a time; bounds memory. Chunks are cut by image index, so their size affects the last bits."""
Maps = dict[tuple[str, str], Any]
"""Activations (n_images, n_units, n_positions) float32 of a batch, by (weights, layer)."""


@dataclass(frozen=True)
class JoinedUnits:
    """The members of a comparison, in order along its unit axis.

    Attributes
    ----------
    name : name of the comparison
    nets : names of the members
    of_net, epochs : for each member its net, and the epoch of its weights (−1: the final weights)
    trained : for each member whether its weights are trained
    layers, sources : for each member the layer asked for and the graph node that is read
    rectified : for each member whether that node is an activation function
    privileged : for each member whether the basis of its units is privileged
    null_kind, null_reason : for each member its kind of chance level, and why it has none, see
        :class:`~convergence.statistics.file.ComparisonSums`
    widths : units of each member
    map_shapes : for each member (height, width) of its maps; () for layers without positions
    pooled : whether a sample is an image, and values are means over positions
    n_valid : positions that every image has at least, where images have masks; None if all positions are valid
    """

    name: str
    nets: tuple[str, ...]
    of_net: tuple[str, ...]
    epochs: tuple[int, ...]
    trained: tuple[bool, ...]
    layers: tuple[str, ...]
    sources: tuple[str, ...]
    rectified: tuple[bool, ...]
    privileged: tuple[bool, ...]
    null_kind: tuple[str, ...]
    null_reason: tuple[str, ...]
    widths: tuple[int, ...]
    map_shapes: tuple[tuple[int, ...], ...]
    pooled: bool
    n_valid: int | None = None

    @property
    def map_shape(self) -> tuple[int, ...]:
        """The grid of positions that are samples: the coarsest of the members' maps, axis by axis; () if pooled."""
        return () if self.pooled else tuple(min(sides) for sides in zip(*self.map_shapes, strict=True))

    @property
    def n_units(self) -> int:
        """Length of the unit axis."""
        return sum(self.widths)

    @property
    def n_positions(self) -> int:
        """Number of positions of the grid."""
        return int(np.prod(self.map_shape, dtype=np.int64))

    def n_sampled(self, positions: int | str) -> int:
        """Positions per image that are samples, for a setting of ``"all"`` or a number."""
        available = self.n_positions if self.n_valid is None else self.n_valid
        return available if positions == "all" else min(int(positions), available)

    @property
    def n_pseudo(self) -> int:
        """Number of pseudo-units of a draw: units of the members that have pseudo-nets."""
        return sum(w for w, kind in zip(self.widths, self.null_kind, strict=True) if kind == "pre-activations")

    def n_null_sampled(self, config: StatisticsConfig) -> int:
        """Positions per image that are samples of the null."""
        return n_null_positions(self.n_sampled(config.positions), config.null.positions, config.null.draws)


class LayerShape(NamedTuple):
    """Units of a layer, (height, width) of its maps or (), the node read, whether that is an activation function.

    Then the kind of its chance level, why it has none, and whether the basis of the units is privileged.
    """

    width: int
    map_shape: tuple[int, ...]
    source: str
    rectified: bool
    null_kind: str = ""
    null_reason: str = ""
    privileged: bool = True


class NullSamples(NamedTuple):
    """Samples of a comparison in a batch, where pseudo-nets are summed.

    Attributes
    ----------
    comparison : its name
    samples : (n_units, n_images · positions) of all members
    pre : pre-activations (units, n_images · positions) of the members that have them, at the same positions, or at all
        positions if pooled
    n_images : images of the batch
    weights : for each of ``pre`` (n_images, positions) of the means over positions; None for equal weights
    """

    comparison: str
    samples: Any
    pre: list[Any]
    n_images: int
    weights: list[Float32 | None]


class HostArrays:
    """Operations on activations and samples that are numpy arrays; a subclass does the same on a device."""

    def mean_over_positions(self, maps: Any) -> Any:
        """Means (n_images, n_units, 1) of maps (n_images, n_units, n_positions)."""
        return mean_over_positions(maps)

    def mean_over_valid(self, maps: Any, valid: Bools) -> Any:
        """Means (n_images, n_units, 1) over the valid positions (n_images, n_positions) of maps."""
        if isinstance(maps, np.ndarray):
            return mean_over_valid(maps, valid)
        count = valid.sum(axis=1)[:, None, None]
        total = self.keep_valid(maps, valid, 0.0).double().sum(dim=2, keepdim=True)
        return (total / total.new_tensor(count)).float()

    def keep_valid(self, maps: Any, valid: Bools, fill: float) -> Any:
        """Maps (n_images, n_units, n_positions) with ``fill`` at positions that are not valid."""
        if isinstance(maps, np.ndarray):
            return np.where(valid[:, None, :], maps, np.float32(fill))
        import torch

        return maps.masked_fill(torch.from_numpy(~valid[:, None, :]).to(maps.device), fill)

    def join(self, parts: Sequence[Any], positions: Sequence[Indices | None]) -> Any:
        """Samples (all units, n_images · n) of the members' activations (n_images, units, n_positions).

        ``positions`` has for each member the positions to take: (n,) for all images, (n_images, n), or None for all.
        """
        taken = [_take(part, where) for part, where in zip(parts, positions, strict=True)]
        n_images, _, per_image = taken[0].shape
        out = np.empty((sum(part.shape[1] for part in taken), n_images, per_image), dtype=np.float32)
        row = 0
        for part in taken:
            out[row : row + part.shape[1]] = part.transpose(1, 0, 2)
            row += part.shape[1]
        return out.reshape(len(out), -1)

    def group_sums(self, shift: Any, precision: str, shifted: bool, n_classes: int, new_matrix: NewMatrix) -> GroupSums:
        """Empty sums of one image group."""
        return HostGroupSums(shift, precision, shifted, n_classes, new_matrix)

    def null_group_sums(
        self, members: Sequence[PseudoUnits], about: NullAbout, pooled: bool, precision: str, new_matrix: NewMatrix
    ) -> NullGroupSums:
        """Empty sums of pseudo-nets of one image group."""
        return NullGroupSums(members, about, pooled, precision, new_matrix)

    def pseudo_maps(self, arrays: Mapping[str, Any]) -> PseudoMaps:
        """Maps to pre-activations of pseudo-nets."""
        return read_maps(arrays)

    def zeros(self, shape: tuple[int, ...]) -> Any:
        """A float32 array of zeros."""
        return np.zeros(shape, np.float32)

    def encode(self, samples: Any, edges: Float32) -> npt.NDArray[np.uint8]:
        """Bin numbers (n_units, n_samples), see :func:`convergence.statistics.bin_edges.encode`."""
        return encode(samples, edges) if edges.shape[1] < FINE_EDGES else encode_fine(samples, edges)

    def from_host(self, values: npt.NDArray[Any]) -> Any:
        """A numpy array where activations are."""
        return values

    def to_host(self, values: Any) -> npt.NDArray[Any]:
        """The values as a numpy array."""
        return np.asarray(values)


def _take(part: Float32, where: Indices | None) -> Float32:
    if where is None:
        return part
    return part[:, :, where] if where.ndim == 1 else np.take_along_axis(part, where[:, None, :], axis=2)


class ActivationSource(ABC):
    """The activations of all members of an experiment's comparisons, for any batch of images.

    Attributes
    ----------
    images : the evaluation images
    nets : names of the nets that take part
    joined : the members of each comparison, by name
    layers : the layers to read, by the name of the weights
    nonlinearities : by (weights, layer) the functions of single values that give activations from pre-activations; for
        layers whose pre-activations are read, under the key (weights, PRE_ACTIVATIONS + layer)
    arrays : where activations are and sums are computed: the host, or a device
    masks : which positions of the images are valid, see :meth:`read_masks`; None where all are
    """

    images: ImageSet
    joined: dict[str, JoinedUnits]
    arrays = HostArrays()
    masks: PositionMasks | None = None

    def __init__(self, experiment: Experiment) -> None:
        comparisons = experiment.statistics.comparisons
        self._members = {comparison.name: experiment.layer_refs_of(comparison) for comparison in comparisons}
        self.nets = tuple(dict.fromkeys(member.net for member in experiment.all_layer_refs()))
        self.layers: dict[str, list[str]] = {}
        for weights, layer in dict.fromkeys((member.weights, member.layer) for member in experiment.all_layer_refs()):
            self.layers.setdefault(weights, []).append(layer)
        self.nonlinearities: dict[tuple[str, str], Callable[[Any], Any]] = {}

    def members(self, name: str) -> Sequence[LayerRef]:
        """The members of a comparison, in order."""
        return self._members[name]

    def read_masks(self, config: StatisticsConfig) -> None:
        """Use valid positions of images only from now on, in all samples and means.

        Raises
        ------
        ConfigError
            for layers that a mask does not fit, and images with fewer valid positions than samples.
        """
        self.masks = read_masks(self.images, config)
        self.joined = masked_units(self.joined, self.masks, config)

    def valid(self, indices: Indices, n_positions: int) -> Bools | None:
        """Which positions of a layer with ``n_positions`` of them are valid, (n_images, n_positions); None if all."""
        if self.masks is None or n_positions != self.masks.length:
            return None
        return self.masks.of(indices)

    def only_valid(self, maps: Any, indices: Indices, fill: float) -> Any:
        """Maps (n_images, n_units, n_positions) of a layer with ``fill`` at positions that are not valid."""
        valid = self.valid(indices, maps.shape[2])
        return maps if valid is None else self.arrays.keep_valid(maps, valid, fill)

    def prepare(self, folder: Path) -> None:  # noqa: B027
        """Unpack compressed arrays to copies in ``folder``, or find the copies that another process made there."""

    @abstractmethod
    def maps(self, images: npt.NDArray[np.float32], indices: Indices) -> Maps:
        """The activations of a batch, by weights and layer."""

    def check_pre_activations(self, weights: str, layer: str, maps: Maps) -> None:  # noqa: B027
        """Raise FileError if the nonlinearity does not give the activations of a batch from its pre-activations."""

    def samples(self, maps: Maps, indices: Indices, positions: int | str, seed: int) -> Iterator[tuple[str, Any, int]]:
        """Yield ``(comparison, samples, n_images)`` of a batch: samples (n_units, n_samples), image by image.

        A large batch is yielded in chunks of whole images.
        """
        for name in self._members:
            drawn = self._drawn(name, indices, positions, seed)
            for rows in self._chunks(name, len(indices), positions):
                yield name, self._joined_samples(name, maps, indices, rows, drawn), rows.stop - rows.start

    def later_samples(self, maps: Maps, before: Indices, positions: int | str, seed: int) -> Iterator[Any]:
        """Yield for each chunk of :meth:`samples` the same images at the positions drawn for the images ``before``.

        Yield None where an image has the same positions as the image before it. With masks, valid positions of one
        image are not those of another: the chunks are None too, and the k-th sample of an image is paired with the k-th
        sample of the image before.
        """
        for name, joined in self.joined.items():
            masked = self.valid(before[:0], joined.n_positions) is not None and not joined.pooled
            drawn = None if masked else self._drawn(name, before, positions, seed)
            for rows in self._chunks(name, len(before), positions):
                yield None if drawn is None else self._joined_samples(name, maps, before, rows, drawn)

    def _drawn(self, name: str, indices: Indices, positions: int | str, seed: int) -> Indices | None:
        """Positions (n_images, n) of the samples of a comparison; None for all."""
        joined = self.joined[name]
        valid = None if joined.pooled else self.valid(indices, joined.n_positions)
        return sample_positions(indices, joined.n_positions, positions, seed, valid)

    def _pooled(self, part: Any, indices: Indices) -> Any:
        """Means over the valid positions of maps, (n_images, n_units, 1)."""
        valid = self.valid(indices, part.shape[2])
        return self.arrays.mean_over_positions(part) if valid is None else self.arrays.mean_over_valid(part, valid)

    def _chunks(self, name: str, n_images: int, positions: int | str) -> Iterator[slice]:
        step = max(1, CHUNK_SAMPLES // self.joined[name].n_sampled(positions))
        for start in range(0, n_images, step):
            yield slice(start, min(start + step, n_images))

    def _joined_samples(self, name: str, maps: Maps, indices: Indices, rows: slice, drawn: Indices | None) -> Any:
        joined = self.joined[name]
        parts = [maps[member.weights, member.layer][rows] for member in self._members[name]]
        if joined.pooled:
            parts = [self._pooled(part, indices[rows]) for part in parts]
        grids = [None if joined.pooled else grid_positions(shape, joined.map_shape) for shape in joined.map_shapes]
        chosen = [grid if drawn is None else drawn[rows] if grid is None else grid[drawn[rows]] for grid in grids]
        return self.arrays.join(parts, chosen)

    def null_samples(self, maps: Maps, indices: Indices, config: StatisticsConfig) -> Iterator[NullSamples]:
        """Yield the samples of a batch where pseudo-nets are summed: those of :meth:`samples` at fewer positions."""
        for name, members in self._members.items():
            joined = self.joined[name]
            having = [m for m, member in enumerate(members) if (member.weights, member.layer) in self.nonlinearities]
            if not having:
                continue
            grids = [None if joined.pooled else grid_positions(shape, joined.map_shape) for shape in joined.map_shapes]
            drawn = self._drawn(name, indices, config.positions, config.seed)
            n_used = joined.n_null_sampled(config)
            columns = null_columns(joined.n_sampled(config.positions), n_used, config.seed)
            most = max(int(np.prod(shape)) for shape in joined.map_shapes) if joined.pooled else n_used
            step = max(1, CHUNK_SAMPLES // most)
            for start in range(0, len(indices), step):
                rows = slice(start, start + step)
                parts = [maps[member.weights, member.layer][rows] for member in members]
                before = [maps[members[m].weights, PRE_ACTIVATIONS + members[m].layer][rows] for m in having]
                weights: list[Float32 | None] = [None] * len(having)
                if joined.pooled:
                    parts = [self._pooled(part, indices[rows]) for part in parts]
                    weights = [self._weights(indices[rows], part.shape[2]) for part in before]
                    before = [self.only_valid(part, indices[rows], 0.0) for part in before]
                chosen = [
                    grid if drawn is None else drawn[rows] if grid is None else grid[drawn[rows]] for grid in grids
                ]
                if columns is not None:
                    chosen = [columns if where is None else where[..., columns] for where in chosen]
                pre = [
                    self.arrays.join([part], [None if joined.pooled else chosen[m]])
                    for m, part in zip(having, before, strict=True)
                ]
                n_images = min(step, len(indices) - start)
                yield NullSamples(name, self.arrays.join(parts, chosen), pre, n_images, weights)

    def _weights(self, indices: Indices, n_positions: int) -> Float32 | None:
        """Weights (n_images, n_positions) of positions in means over the valid ones; None if all are valid."""
        valid = self.valid(indices, n_positions)
        return None if valid is None else (valid / valid.sum(axis=1, keepdims=True)).astype(np.float32)

    def image_means(self, maps: Maps, indices: Indices, rows: Indices) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Yield ``(comparison, means)`` for ``rows`` of a batch: means over positions, (len(rows), n_units)."""
        for name, members in self._members.items():
            parts = [self._pooled(maps[member.weights, member.layer][rows], indices[rows]) for member in members]
            yield name, self.arrays.to_host(self.arrays.join(parts, [None] * len(members)).T)


def joined_units(experiment: Experiment, shapes: Mapping[tuple[str, str], LayerShape]) -> dict[str, JoinedUnits]:
    """The members of every comparison, from the shapes of the layers by (weights, layer).

    Raises
    ------
    ConfigError
        for a comparison of layers that share no positions.
    """
    trained = {net.name: net.trained for net in experiment.all_nets()}
    described = {}
    for comparison in experiment.statistics.comparisons:
        name, members = comparison.name, experiment.layer_refs_of(comparison)
        layers = [shapes[member.weights, member.layer] for member in members]
        map_shapes = [layer.map_shape for layer in layers]
        if not comparison.pool and len(set(map_shapes)) > 1 and any(len(shape) != 2 for shape in map_shapes):
            found = {f"{m.net}.{m.layer}": shape for m, shape in zip(members, map_shapes, strict=True)}
            listed = ", ".join(f"{layer}: {shape}" for layer, shape in found.items())
            raise ConfigError(
                f'statistics.comparisons: "{name}" joins layers whose outputs have no positions in common '
                f"({listed}). Join maps (height, width) of any size, or outputs of one shape, or set pool = true, "
                "which joins all layers: a sample is then an image, and a unit's value its mean over positions."
            )
        described[name] = JoinedUnits(
            name=name,
            nets=tuple(member.name for member in members),
            of_net=tuple(member.net for member in members),
            epochs=tuple(member.epoch for member in members),
            trained=tuple(trained[member.net] and member.epoch != 0 for member in members),
            layers=tuple(member.layer for member in members),
            sources=tuple(layer.source for layer in layers),
            rectified=tuple(layer.rectified for layer in layers),
            privileged=tuple(layer.privileged for layer in layers),
            null_kind=tuple(layer.null_kind for layer in layers),
            null_reason=tuple(layer.null_reason for layer in layers),
            widths=tuple(layer.width for layer in layers),
            map_shapes=tuple(map_shapes),
            pooled=comparison.pool,
        )
    return described


def open_source(
    experiment: Experiment, folders: Mapping[str, Path], local_rank: int = 0, local_size: int = 1
) -> ActivationSource:
    """The source of an experiment: its arrays, or its nets with the weights in ``folders`` (by net).

    ``local_rank`` is the number of this process among the ``local_size`` processes of its machine.

    Raises
    ------
    UserError
        for missing or damaged weights, images or arrays, and layers that cannot be joined.
    """
    if experiment.activations is not None:
        from convergence.statistics.array_source import ArraySource

        return ArraySource(experiment)
    from convergence.statistics.torch_source import NetSource

    return NetSource.load(experiment, folders, local_rank, local_size)
