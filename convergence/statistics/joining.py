"""The units of all nets of a comparison, joined side by side: images in, samples of one U-long axis out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from convergence.errors import ConfigError
from convergence.experiment import Experiment
from convergence.statistics.groups import Indices, sample_positions

Samples = npt.NDArray[np.float32]
PIECE_SAMPLES = 65536
"""Samples joined at a time: bounds the memory of a batch of large maps. Cut by image index, so part of the result."""


@dataclass(frozen=True)
class JoinedUnits:
    """What a comparison joins, in order along its unit axis.

    Attributes
    ----------
    name : the comparison
    nets : names of the nets, in order
    layers, sources : for each net the layer asked for and the graph node that is read
    rectified : for each net whether that node is an activation function
    widths : units of each net
    map_shapes : for each net (height, width) of its maps, () for layers without positions
    """

    name: str
    nets: tuple[str, ...]
    layers: tuple[str, ...]
    sources: tuple[str, ...]
    rectified: tuple[bool, ...]
    widths: tuple[int, ...]
    map_shapes: tuple[tuple[int, ...], ...]

    @property
    def map_shape(self) -> tuple[int, ...]:
        """The grid of positions that are samples: the coarsest of the nets' maps, axis by axis."""
        return tuple(min(sides) for sides in zip(*self.map_shapes, strict=True))

    @property
    def n_units(self) -> int:
        """Length of the joined axis."""
        return sum(self.widths)

    @property
    def n_positions(self) -> int:
        """Positions of a map."""
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
    joined : what each comparison joins, by name
    layers : for each net that takes part the layers that are read
    sums_device : the device on which samples are and sums are taken; None for arrays on the host
    """

    joined: dict[str, JoinedUnits]
    sums_device: Any = None

    def __init__(self, experiment: Experiment) -> None:
        self._members = {
            comparison.name: [(net.name, layer) for net, layer in experiment.nets_of(comparison)]
            for comparison in experiment.statistics.comparisons
        }
        self.layers: dict[str, list[str]] = {}
        for name, layer in dict.fromkeys(member for members in self._members.values() for member in members):
            self.layers.setdefault(name, []).append(layer)

    @property
    def nets(self) -> tuple[str, ...]:
        """Names of the nets that take part."""
        return tuple(self.layers)

    @abstractmethod
    def outputs(self, images: npt.NDArray[np.float32], indices: Indices) -> dict[str, dict[str, Any]]:
        """By net and layer, the activations (n_images, n_units, n_positions) float32 of a batch."""

    def describe(self, about: Mapping[tuple[str, str], Layer]) -> dict[str, JoinedUnits]:
        """What every comparison joins, from what is known of each net's layers.

        Raises
        ------
        ConfigError
            for a comparison of layers without positions in common.
        """
        described = {}
        for name, members in self._members.items():
            layers = [about[member] for member in members]
            shapes = [layer.map_shape for layer in layers]
            if len(set(shapes)) > 1 and any(len(shape) != 2 for shape in shapes):
                listed = ", ".join(
                    f"{net}.{layer}: {shape}" for (net, layer), shape in zip(members, shapes, strict=True)
                )
                raise ConfigError(
                    f'statistics.comparisons: "{name}" joins layers whose outputs have no positions in common '
                    f"({listed}): maps (height, width) of any size go together, and outputs of one shape."
                )
            described[name] = JoinedUnits(
                name=name,
                nets=tuple(net for net, _ in members),
                layers=tuple(layer for _, layer in members),
                sources=tuple(layer.source for layer in layers),
                rectified=tuple(layer.rectified for layer in layers),
                widths=tuple(layer.width for layer in layers),
                map_shapes=tuple(shapes),
            )
        return described

    def samples(
        self, images: npt.NDArray[np.float32], indices: Indices, positions: int | str, seed: int
    ) -> Iterator[tuple[str, Any, int]]:
        """Yield ``(comparison, samples, n_images)`` for a batch: samples (n_units, n_samples), image by image.

        Large batches come in several pieces of whole images.
        """
        outputs = self.outputs(images, indices)
        for name, members in self._members.items():
            joined = self.joined[name]
            grids = [grid_positions(shape, joined.map_shape) for shape in joined.map_shapes]
            drawn = sample_positions(indices, joined.n_positions, positions, seed)
            per_image = joined.n_sampled(positions)
            step = max(1, PIECE_SAMPLES // per_image)
            for start in range(0, len(indices), step):
                piece = slice(start, start + step)
                parts = [outputs[net][layer][piece] for net, layer in members]
                chosen = [
                    grid if drawn is None else drawn[piece] if grid is None else grid[drawn[piece]] for grid in grids
                ]
                yield name, self.side_by_side(parts, chosen), min(step, len(indices) - start)

    def side_by_side(self, parts: Sequence[Any], positions: Sequence[Indices | None]) -> Any:
        """Samples (all units, n_images · positions) of the nets' activations (n_images, units, all positions).

        Positions are, for each net, (n,) for all images, (n_images, n), or None for all of them.
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
