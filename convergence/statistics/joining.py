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
    map_shape : (height, width) of a map, () for layers without positions
    """

    name: str
    nets: tuple[str, ...]
    layers: tuple[str, ...]
    sources: tuple[str, ...]
    rectified: tuple[bool, ...]
    widths: tuple[int, ...]
    map_shape: tuple[int, ...]

    @property
    def n_units(self) -> int:
        """Length of the joined axis."""
        return sum(self.widths)

    @property
    def n_positions(self) -> int:
        """Positions of a map."""
        return int(np.prod(self.map_shape, dtype=np.int64))


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
            if len(set(shapes)) > 1:
                listed = ", ".join(
                    f"{net.name}.{layer}: {shape}" for (net, layer), shape in zip(members, shapes, strict=True)
                )
                raise ConfigError(
                    f'statistics.comparisons: "{comparison.name}" joins maps of different sizes ({listed}). Samples '
                    "are positions of the same image, so the maps must agree: choose layers of equal map size."
                )
            described[comparison.name] = JoinedUnits(
                name=comparison.name,
                nets=tuple(net.name for net, _ in members),
                layers=tuple(layer for _, layer in members),
                sources=tuple(self.readers[net.name].sources[layer] for net, layer in members),
                rectified=tuple(self.readers[net.name].rectified[layer] for net, layer in members),
                widths=tuple(as_maps(m).shape[1] for m in maps),
                map_shape=shapes[0],
            )
        return described

    def samples(
        self, images: npt.NDArray[np.float32], indices: Indices, positions: int | str, seed: int
    ) -> Iterator[tuple[str, Samples]]:
        """Yield ``(comparison, samples)`` for a batch: samples (n_units, n_samples), image by image, then position.

        Large batches come in several pieces of whole images.
        """
        batch = torch.from_numpy(images).to(self.device)
        outputs = {
            name: {layer: as_maps(out).cpu().numpy() for layer, out in reader(batch).items()}
            for name, reader in self.readers.items()
        }
        for comparison in self.comparisons:
            joined = self.joined[comparison.name]
            parts = [outputs[net.name][layer] for net, layer in self._members[comparison.name]]
            drawn = sample_positions(indices, joined.n_positions, positions, seed)
            per_image = joined.n_positions if drawn is None else drawn.shape[1]
            step = max(1, PIECE_SAMPLES // per_image)
            for start in range(0, len(indices), step):
                piece = slice(start, start + step)
                yield (
                    comparison.name,
                    _side_by_side([part[piece] for part in parts], None if drawn is None else drawn[piece]),
                )


def _side_by_side(maps: list[npt.NDArray[np.float32]], drawn: Indices | None) -> Samples:
    """Maps (n_images, n_units, n_positions) of several nets to samples (all units, n_images · positions)."""
    n_images = len(maps[0])
    per_image = maps[0].shape[2] if drawn is None else drawn.shape[1]
    out = np.empty((sum(m.shape[1] for m in maps), n_images, per_image), dtype=np.float32)
    row = 0
    for part in maps:
        chosen = part if drawn is None else np.take_along_axis(part, drawn[:, None, :], axis=2)
        out[row : row + part.shape[1]] = chosen.transpose(1, 0, 2)
        row += part.shape[1]
    return out.reshape(len(out), -1)
