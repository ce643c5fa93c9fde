"""A layer of a net to be visualised: its units before and after the activation function, and their receptive fields."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from convergence.errors import ConfigError
from convergence.networks.graphs import LayerGraph, is_rectifier
from convergence.networks.layer_config import LayerConfig
from convergence.visualization.patch_geometry import PatchGeometry
from convergence.visualization.receptive import Pair, receptive_fields


class PicturedLayer:
    """One layer of one net on a device.

    Attributes
    ----------
    name : the layer
    geometry : receptive fields of its positions
    n_units : units
    rectified : whether the layer is read after an activation function
    module : images to ``{"after": …, "before": …}``, the layer after and before its activation function (the same
        without one); later layers are not computed, and nothing is in place
    broken : (n_units,) whether a unit is not finite because of its weights, which are set to zero in ``module`` for the
        sake of other units
    device : of the module

    Raises
    ------
    ConfigError
        for an unknown layer, or one whose output has no units.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        image_shape: tuple[int, ...],
        device: torch.device,
        config: LayerConfig | None = None,
    ) -> None:
        sample = torch.rand((2, *image_shape), generator=torch.Generator().manual_seed(0)).to(device)
        traced = LayerGraph(module.to(device), {name: config or LayerConfig()}, sample)
        self._layout = traced.reader.layouts[name]
        if self._layout.image_axis or self._layout.per_image > 1 or self._layout.tokens != "all":
            raise ConfigError(
                f'"{name}" of {type(module).__name__} cannot be pictured: its first axis does not run over images '
                "alone, or some of its positions are left out. Leave it out of pictures.layers."
            )
        self.name, self.device, self.module = name, device, traced.module
        node = traced.node(name)
        self.rectified = traced.reader.rectified[name]
        before = node.args[0] if self.rectified and is_rectifier(node, dict(self.module.named_modules())) else node
        (output,) = (n for n in self.module.graph.nodes if n.op == "output")
        output.args = ({"after": node, "before": before},)
        self.module.graph.lint()
        self.module.recompile()
        self.module.requires_grad_(False)
        with torch.no_grad():
            out = self.maps(self.module(torch.zeros((1, *image_shape), device=device))["after"])
            self.broken = ~torch.isfinite(out[0].flatten(1)).all(dim=1).cpu().numpy()
            if self.broken.any():
                for weights in self.module.parameters():
                    weights.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        shape: Pair = (int(out.shape[2]), int(out.shape[3]))
        self.n_units = int(out.shape[1])
        self.geometry = PatchGeometry(receptive_fields(self.module)[node], shape, (image_shape[1], image_shape[2]))

    @property
    def graph_modules(self) -> dict[str, nn.Module]:
        """Modules of the graph, by name."""
        return dict(self.module.named_modules())

    @torch.no_grad()
    def values(self, images: torch.Tensor) -> torch.Tensor:
        """The layer (n, n_units, height, width) for images or parts of images."""
        return self.maps(self.module(images)["after"])

    def first_filters(self) -> torch.Tensor | None:
        """(n_units, channels, height, width) weights of the layer, if it is a convolution of the images."""
        node: Any = next(n for n in self.module.graph.nodes if n.op == "output").args[0]["before"]
        modules = self.graph_modules
        while True:
            part = modules.get(str(node.target)) if node.op == "call_module" else None
            if isinstance(part, nn.Conv2d):
                sees_images = all(source.op == "placeholder" for source in node.all_input_nodes)
                return part.weight.detach() if sees_images and part.groups == 1 else None
            if not isinstance(part, nn.BatchNorm2d | nn.Identity | nn.modules.dropout._DropoutNd):
                return None
            node = node.args[0]

    def maps(self, output: torch.Tensor) -> torch.Tensor:
        """An output of :attr:`module` as (n, n_units, height, width); vectors have one position, sequences a column."""
        units_second = output.movedim(self._layout.unit_axis, 1)
        if units_second.ndim == 4:
            return units_second
        return units_second.flatten(2)[..., None] if units_second.ndim > 2 else units_second[:, :, None, None]
