"""Activations of an experiment's nets, computed: images in, layers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from convergence.config.schema import Experiment
from convergence.data.images import ImageSet
from convergence.networks.devices import choose_device
from convergence.networks.layer_reader import LayerReader, as_maps
from convergence.networks.weights import load_net
from convergence.statistics.groups import Indices
from convergence.statistics.joining import Joiner, Layer


class NetJoiner(Joiner):
    """The nets that take part in an experiment's comparisons, ready to read images.

    ``modules`` holds the nets by the name of their weights (:attr:`convergence.config.layer_refs.Member.weights`: the net's name
    for the final ones); ``device`` is as in the config, or "meta" to know shapes and compute nothing.
    """

    def __init__(
        self, experiment: Experiment, modules: Mapping[str, torch.nn.Module], image_shape: tuple[int, ...], device: str
    ) -> None:
        super().__init__(experiment)
        self.device = choose_device(device) if device != "meta" else torch.device("meta")
        self.readers = {
            weights: LayerReader(modules[weights].to(self.device), layers) for weights, layers in self.layers.items()
        }
        probe = torch.zeros((1, *image_shape), device=self.device)
        about = {}
        for weights, reader in self.readers.items():
            for layer, out in reader(probe).items():
                map_shape = tuple(out.shape[2:]) if out.ndim == 4 else (out.shape[1],) if out.ndim == 3 else ()
                width = as_maps(out).shape[1]
                about[weights, layer] = Layer(width, map_shape, reader.sources[layer], reader.rectified[layer])
        self.joined = self.describe(about)
        sums = experiment.statistics.sums
        if sums == "device" or (sums == "auto" and self.device.type == "cuda"):
            self.sums_device = self.device

    @classmethod
    def from_folders(cls, experiment: Experiment, folders: Mapping[str, Path], images: ImageSet) -> NetJoiner:
        """Load all weights that take part from the nets' folders of the run."""
        specs = {net.name: net.spec for net in experiment.all_nets()}
        modules = {
            weights: load_net(folders[net], specs[net], images.image_shape, images.n_classes, kept)
            for weights, net, kept in dict.fromkeys((m.weights, m.net, m.kept) for m in experiment.all_layer_refs())
        }
        return cls(experiment, modules, images.image_shape, experiment.statistics.device)

    def outputs(self, images: npt.NDArray[np.float32], indices: Indices) -> dict[str, dict[str, Any]]:
        batch = torch.from_numpy(images).to(self.device)
        maps = {
            weights: {layer: as_maps(out) for layer, out in reader(batch).items()}
            for weights, reader in self.readers.items()
        }
        if self.sums_device is not None:
            return maps
        return {key: {layer: out.cpu().numpy() for layer, out in layers.items()} for key, layers in maps.items()}

    def pool(self, maps: Any) -> Any:
        if self.sums_device is None:
            return super().pool(maps)
        return maps.mean(dim=2, keepdim=True, dtype=torch.float64).float()

    def side_by_side(self, parts: Sequence[Any], positions: Sequence[Indices | None]) -> Any:
        if self.sums_device is None:
            return super().side_by_side(parts, positions)
        kept = []
        for part, where in zip(parts, positions, strict=True):
            if where is None:
                kept.append(part)
                continue
            index = torch.from_numpy(where).to(self.device)
            if index.ndim == 1:
                kept.append(part[:, :, index])
            else:
                kept.append(part.gather(2, index[:, None, :].expand(-1, part.shape[1], -1)))
        return torch.cat([part.transpose(0, 1) for part in kept]).flatten(1).float()
