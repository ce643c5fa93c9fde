"""The units of all members of a comparison, joined side by side: images in, samples of one U-long axis out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from convergence.config.layer_refs import LayerRef
from convergence.config.schema import Experiment
from convergence.errors import ConfigError
from convergence.statistics.groups import Indices, sample_positions
from convergence.statistics.pooling import mean_over_positions

Samples = npt.NDArray[np.float32]
PIECE_SAMPLES = 65536
"""Samples joined at a time: bounds the memory of a batch of large maps. Cut by image index, so part of the result."""


@dataclass(frozen=True)
class JoinedUnits:
    """What a comparison joins, in order along its unit axis.

    Attributes
    ----------
    name : the comparison
    nets : names of the members, in order
    of_net, epochs : for each member its net, and the epoch asked for
    layers, sources : for each member the layer asked for and the graph node that is read
    rectified : for each member whether that node is an activation function
    widths : units of each member
    map_shapes : for each member (height, width) of its maps, () for layers without positions
    pooled : whether a sample is an image, and values are means over positions
    """

    name: str
    nets: tuple[str, ...]
    of_net: tuple[str, ...]
    epochs: tuple[int, ...]
    layers: tuple[str, ...]
    sources: tuple[str, ...]
    rectified: tuple[bool, ...]
    widths: tuple[int, ...]
    map_shapes: tuple[tuple[int, ...], ...]
    pooled: bool

    @property
    def map_shape(self) -> tuple[int, ...]:
        """The grid of positions that are samples: the coarsest of the members' maps, axis by axis; () if pooled."""
        return () if self.pooled else tuple(min(sides) for sides in zip(*self.map_shapes, strict=True))

    @property
    def n_units(self) -> int:
        """Length of the joined axis."""
        return sum(self.widths)

    @property
    def n_positions(self) -> int:
        """Positions of the grid."""
        return int(np.prod(self.map_shape, dtype=np.int64))

    def n_sampled(self, positions: int | str) -> int:
        """Positions of an image that are samples, for a setting: ``"all"`` or a number."""
        return self.n_positions if positions == "all" else min(int(positions), self.n_positions)


class Layer(NamedTuple):
    """What is known of a layer of one net: units, (height, width) of its maps or (), where it is read."""

    width: int
    map_shape: tuple[int, ...]
    source: str
    rectified: bool


class Joiner(ABC):
    """Yields the joined samples of every comparison for batches of images, whatever the activations come from.

    Attributes
    ----------
    nets : names of the nets that take part
    joined : what each comparison joins, by name
    layers : for all weights that take part the layers that are read
    sums_device : the device on which samples are and sums are taken; None for arrays on the host
    """

    joined: dict[str, JoinedUnits]
    sums_device: Any = None

    def __init__(self, experiment: Experiment) -> None:
        comparisons = experiment.statistics.comparisons
        self._members = {comparison.name: experiment.layer_refs_of(comparison) for comparison in comparisons}
        self._pooled = {comparison.name for comparison in comparisons if comparison.pool}
        self.nets = tuple(dict.fromkeys(member.net for member in experiment.all_layer_refs()))
        self.layers: dict[str, list[str]] = {}
        for weights, layer in dict.fromkeys((member.weights, member.layer) for member in experiment.all_layer_refs()):
            self.layers.setdefault(weights, []).append(layer)

    def members(self, name: str) -> Sequence[LayerRef]:
        """What a comparison joins, in order."""
        return self._members[name]

    @abstractmethod
    def outputs(self, images: npt.NDArray[np.float32], indices: Indices) -> dict[str, dict[str, Any]]:
        """By weights and layer, the activations (n_images, n_units, n_positions) float32 of a batch."""

    def describe(self, about: Mapping[tuple[str, str], Layer]) -> dict[str, JoinedUnits]:
        """What every comparison joins, from what is known of the layers of all weights.

        Raises
        ------
        ConfigError
            for a comparison of layers without positions in common.
        """
        described = {}
        for name, members in self._members.items():
            layers = [about[member.weights, member.layer] for member in members]
            shapes = [layer.map_shape for layer in layers]
            pooled = name in self._pooled
            if not pooled and len(set(shapes)) > 1 and any(len(shape) != 2 for shape in shapes):
                found = {f"{m.net}.{m.layer}": shape for m, shape in zip(members, shapes, strict=True)}
                listed = ", ".join(f"{layer}: {shape}" for layer, shape in found.items())
                raise ConfigError(
                    f'statistics.comparisons: "{name}" joins layers whose outputs have no positions in common '
                    f"({listed}): maps (height, width) of any size go together, and outputs of one shape. With "
                    "pool = true all layers do: a sample is then an image, a unit's value its mean over positions."
                )
            described[name] = JoinedUnits(
                name=name,
                nets=tuple(member.name for member in members),
                of_net=tuple(member.net for member in members),
                epochs=tuple(member.epoch for member in members),
                layers=tuple(member.layer for member in members),
                sources=tuple(layer.source for layer in layers),
                rectified=tuple(layer.rectified for layer in layers),
                widths=tuple(layer.width for layer in layers),
                map_shapes=tuple(shapes),
                pooled=pooled,
            )
        return described

    def samples(
        self, images: npt.NDArray[np.float32], indices: Indices, positions: int | str, seed: int
    ) -> Iterator[tuple[str, Any, int]]:
        """:meth:`join` of the outputs of a batch."""
        return self.join(self.outputs(images, indices), indices, positions, seed)

    def join(
        self, outputs: Mapping[str, Mapping[str, Any]], indices: Indices, positions: int | str, seed: int
    ) -> Iterator[tuple[str, Any, int]]:
        """Yield ``(comparison, samples, n_images)`` for a batch: samples (n_units, n_samples), image by image.

        Large batches come in several pieces of whole images.
        """
        for name, members in self._members.items():
            joined = self.joined[name]
            grids = [None if joined.pooled else grid_positions(shape, joined.map_shape) for shape in joined.map_shapes]
            drawn = sample_positions(indices, joined.n_positions, positions, seed)
            per_image = joined.n_sampled(positions)
            step = max(1, PIECE_SAMPLES // per_image)
            for start in range(0, len(indices), step):
                piece = slice(start, start + step)
                parts = self._parts(outputs, members, piece, joined.pooled)
                chosen = [
                    grid if drawn is None else drawn[piece] if grid is None else grid[drawn[piece]] for grid in grids
                ]
                yield name, self.side_by_side(parts, chosen), min(step, len(indices) - start)

    def pooled(self, outputs: Mapping[str, Mapping[str, Any]], rows: Indices) -> dict[str, Any]:
        """By comparison, the means over positions (len(rows), n_units) of some images of a batch."""
        return {
            name: self.side_by_side(self._parts(outputs, members, rows, pooled=True), [None] * len(members)).T
            for name, members in self._members.items()
        }

    def pool(self, maps: Any) -> Any:
        """Means over positions (n_images, n_units, 1) of maps (n_images, n_units, n_positions)."""
        return mean_over_positions(maps)

    def _parts(
        self, outputs: Mapping[str, Mapping[str, Any]], members: Sequence[LayerRef], rows: Any, pooled: bool
    ) -> list[Any]:
        """Activations of members for some images of a batch, pooled or as they are."""
        parts = [outputs[member.weights][member.layer][rows] for member in members]
        return [self.pool(part) for part in parts] if pooled else parts

    def side_by_side(self, parts: Sequence[Any], positions: Sequence[Indices | None]) -> Any:
        """Samples (all units, n_images · positions) of the members' activations (n_images, units, all positions).

        Positions are, for each member, (n,) for all images, (n_images, n), or None for all of them.
        """
        kept = [_at_positions(part, where) for part, where in zip(parts, positions, strict=True)]
        n_images, _, per_image = kept[0].shape
        out = np.empty((sum(part.shape[1] for part in kept), n_images, per_image), dtype=np.float32)
        row = 0
        for part in kept:
            out[row : row + part.shape[1]] = part.transpose(1, 0, 2)
            row += part.shape[1]
        return out.reshape(len(out), -1)


def _at_positions(part: Samples, where: Indices | None) -> Samples:
    if where is None:
        return part
    return part[:, :, where] if where.ndim == 1 else np.take_along_axis(part, where[:, None, :], axis=2)


def grid_positions(shape: tuple[int, ...], grid: tuple[int, ...]) -> Indices | None:
    """Which positions of a flattened map of ``shape`` lie on a coarser grid; None if it is that grid.

    A point of the grid takes the position whose cell holds its centre.
    """
    if shape == grid:
        return None
    along = [((2 * np.arange(n) + 1) * side) // (2 * n) for side, n in zip(shape, grid, strict=True)]
    return np.ravel_multi_index(np.meshgrid(*along, indexing="ij"), shape).ravel().astype(np.int64)
