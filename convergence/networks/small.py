"""A small convolutional net: conv1, conv2, …, fc1, …, classifier, with a ReLU after each layer but the last."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from convergence.errors import ConfigError
from convergence.networks import NetworkSpec

if TYPE_CHECKING:
    import torch

Width = Annotated[int, Field(ge=1, le=100_000)]
MAX_WEIGHTS = 4_000_000_000
CONVOLUTION = ("conv{}", "conv{}_relu", "pool{}")


class Small(NetworkSpec):
    """3 × 3 convolutions with ReLU, each followed by 2 × 2 max-pooling while the map is at least 4 on both sides."""

    name: Literal["small"]
    channels: tuple[Width, ...] = Field((16, 32), min_length=1, description="Numbers of units of conv1, conv2, ….")
    hidden: tuple[Width, ...] = Field((64,), description="Numbers of units of fc1, fc2, …, before the classifier.")
    kernel_size: int = Field(
        3, ge=1, le=255, description="Kernel size of the convolutions; odd sizes keep the map size."
    )

    @model_validator(mode="after")
    def _fits_memory(self) -> Small:
        widths = itertools.pairwise(self.channels)
        n_weights = sum(a * b for a, b in widths) * self.kernel_size**2
        n_weights += sum(a * b for a, b in itertools.pairwise((self.channels[-1], *self.hidden)))
        if n_weights > MAX_WEIGHTS:
            raise ValueError(
                f"the net has more than {n_weights:,} weights; choose channels, hidden and kernel_size for at most "
                f"{MAX_WEIGHTS:,}"
            )
        return self

    def known_layers(self) -> Collection[str]:
        convolutions = [f"{kind.format(k)}" for k in range(1, len(self.channels) + 1) for kind in CONVOLUTION]
        return {
            **dict.fromkeys(convolutions),
            "flatten": None,
            **{name: None for k in range(1, len(self.hidden) + 1) for name in (f"fc{k}", f"fc{k}_relu")},
            "classifier": None,
        }

    def check_images(self, image_shape: tuple[int, ...]) -> None:
        if len(image_shape) != 3:
            raise ConfigError(
                "the network small needs images (channels, height, width), and an input of the data set has the shape "
                f'{tuple(image_shape)}: name a factory of your own, network = {{ name = "mynets:make" }}.'
            )

    def build(self, image_shape: tuple[int, ...], n_classes: int) -> torch.nn.Module:
        from collections import OrderedDict

        from torch import nn

        self.check_images(image_shape)
        self.check_classes(n_classes)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width, height, side = image_shape
        for k, channels in enumerate(self.channels, start=1):
            layers[f"conv{k}"] = nn.Conv2d(width, channels, self.kernel_size, padding=self.kernel_size // 2)
            layers[f"conv{k}_relu"] = nn.ReLU()
            if min(height, side) >= 4:
                layers[f"pool{k}"] = nn.MaxPool2d(2)
                height, side = height // 2, side // 2
            width = channels
        layers["flatten"] = nn.Flatten()
        width = width * height * side
        for k, units in enumerate(self.hidden, start=1):
            layers[f"fc{k}"] = nn.Linear(width, units)
            layers[f"fc{k}_relu"] = nn.ReLU()
            width = units
        layers["classifier"] = nn.Linear(width, n_classes)
        net = nn.Sequential(layers)
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # He et al. 2015, arXiv 1502.01852
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        return net
