"""The units of all nets of a comparison, joined side by side: images in, samples of one U-long axis out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from convergence.activations import LayerReader, as_maps
from convergence.config import Experiment
from convergence.devices import choose_device
from convergence.errors import ConfigError
from convergence.statistics.groups import Indices, sample_positions
from convergence.training import load_net

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


class Joiner:
    """All nets of an experiment, ready to read images and yield the joined samples of every comparison."""

    def __init__(
        self,
        experiment: Experiment,
        modules: dict[str, torch.nn.Module],
        image_shape: tuple[int, ...],
        device: str,
    ) -> None:
        self.device = choose_device(device) if device != "meta" else torch.device("meta")
        self.comparisons = experiment.statistics.comparisons
        self._members = {c.name: experiment.nets_of(c) for c in self.comparisons}
        wanted: dict[str, list[str]] = {}
        for members in self._members.values():
            for net, layer in members:
                wanted.setdefault(net.name, []).append(layer)
        self.readers: dict[str, LayerReader] = {}
        for name, layers in wanted.items():
            self.readers[name] = LayerReader(modules[name].to(self.device), list(dict.fromkeys(layers)))
        self.joined = self._describe(image_shape)

    @classmethod
    def from_folders(cls, experiment: Experiment, folders: dict[str, Any], images: Any) -> Joiner:
        """Load every net that takes part from its folder below the run folder."""
        taking_part = {n.name for c in experiment.statistics.comparisons for n, _ in experiment.nets_of(c)}
        modules = {
            net.name: load_net(folders[net.name], net.network, images.image_shape, images.n_classes)
            for net in experiment.all_nets()
            if net.name in taking_part
        }
        return cls(experiment, modules, images.image_shape, experiment.statistics.device)

    def _describe(self, image_shape: tuple[int, ...]) -> dict[str, JoinedUnits]:
        probe = torch.zeros((1, *image_shape), device=self.device)
        outputs = {name: reader(probe) for name, reader in self.readers.items()}
        described = {}
        for comparison in self.comparisons:
            members = self._members[comparison.name]
            maps = [outputs[net.name][layer] for net, layer in members]
            shapes = [tuple(m.shape[2:]) if m.ndim == 4 else (m.shape[1],) if m.ndim == 3 else () for m in maps]
            if len(set(shapes)) > 1 and any(len(shape) != 2 for shape in shapes):
                listed = ", ".join(
                    f"{net.name}.{layer}: {shape}" for (net, layer), shape in zip(members, shapes, strict=True)
                )
                raise ConfigError(
                    f'statistics.comparisons: "{comparison.name}" joins layers whose outputs have no positions in '
                    f"common ({listed}): maps (height, width) of any size go together, and outputs of one shape."
                )
            described[comparison.name] = JoinedUnits(
                name=comparison.name,
                nets=tuple(net.name for net, _ in members),
                layers=tuple(layer for _, layer in members),
                sources=tuple(self.readers[net.name].sources[layer] for net, layer in members),
                rectified=tuple(self.readers[net.name].rectified[layer] for net, layer in members),
                widths=tuple(as_maps(m).shape[1] for m in maps),
                map_shapes=tuple(shapes),
            )
        return described

    def samples(
        self, images: npt.NDArray[np.float32], indices: Indices, positions: int | str, seed: int
    ) -> Iterator[tuple[str, Samples, int]]:
        """Yield ``(comparison, samples, n_images)`` for a batch: samples (n_units, n_samples), image by image.

        Large batches come in several pieces of whole images.
        """
        batch = torch.from_numpy(images).to(self.device)
        outputs = {
            name: {layer: as_maps(out).cpu().numpy() for layer, out in reader(batch).items()}
            for name, reader in self.readers.items()
        }
        for comparison in self.comparisons:
            joined = self.joined[comparison.name]
            grids = [grid_positions(shape, joined.map_shape) for shape in joined.map_shapes]
            drawn = sample_positions(indices, joined.n_positions, positions, seed)
            per_image = joined.n_sampled(positions)
            step = max(1, PIECE_SAMPLES // per_image)
            for start in range(0, len(indices), step):
                n_images = min(step, len(indices) - start)
                out = np.empty((joined.n_units, n_images, per_image), dtype=np.float32)
                row = 0
                for (net, layer), grid in zip(self._members[comparison.name], grids, strict=True):
                    part = outputs[net.name][layer][start : start + step]
                    if drawn is not None:
                        chosen = drawn[start : start + step]
                        part = np.take_along_axis(part, (chosen if grid is None else grid[chosen])[:, None, :], axis=2)
                    elif grid is not None:
                        part = part[:, :, grid]
                    out[row : row + part.shape[1]] = part.transpose(1, 0, 2)
                    row += part.shape[1]
                yield comparison.name, out.reshape(len(out), -1), n_images


def grid_positions(shape: tuple[int, ...], grid: tuple[int, ...]) -> Indices | None:
    """Which positions of a flattened map of ``shape`` lie on a coarser grid; None if it is that grid.

    A point of the grid takes the position whose cell holds its centre.
    """
    if shape == grid:
        return None
    along = [((2 * np.arange(n) + 1) * side) // (2 * n) for side, n in zip(shape, grid, strict=True)]
    return np.ravel_multi_index(np.meshgrid(*along, indexing="ij"), shape).ravel().astype(np.int64)
