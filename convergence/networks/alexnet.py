"""AlexNet of *Convergent Learning*: no channel groups, local response normalisation after pooling."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from convergence.errors import ConfigError
from convergence.networks import NetworkSpec

if TYPE_CHECKING:
    import torch

# name: standard deviation of the Gaussian weights, constant bias (those of the Caffe reference network)
INITIAL = {
    "conv1": (0.01, 0.0), "conv2": (0.01, 1.0), "conv3": (0.01, 0.0), "conv4": (0.01, 1.0), "conv5": (0.01, 1.0),
    "fc6": (0.005, 1.0), "fc7": (0.005, 1.0), "fc8": (0.01, 0.0),
}  # fmt: skip


LAYERS = (
    "conv1", "relu1", "pool1", "norm1", "conv2", "relu2", "pool2", "norm2", "conv3", "relu3", "conv4", "relu4", "conv5",
    "relu5", "pool5", "flatten", "fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8",
)  # fmt: skip


class AlexNet(NetworkSpec):
    """AlexNet (Krizhevsky et al. 2012) as in Li et al. 2016: conv1 … conv5, fc6 … fc8, for images of 3 × 227 × 227."""

    name: Literal["alexnet"]
    dropout: float = Field(0.5, ge=0, lt=1, description="Dropout after fc6 and fc7.")

    def known_layers(self) -> Collection[str]:
        return LAYERS

    def check_images(self, image_shape: tuple[int, ...]) -> None:
        if tuple(image_shape) != (3, 227, 227):
            raise ConfigError(
                f"the network alexnet needs images of 3 × 227 × 227, but the data set has {image_shape}: set "
                'data.crop = 227, or use network = { name = "torchvision:alexnet" } or "small".'
            )

    def build(self, image_shape: tuple[int, ...], n_classes: int) -> torch.nn.Module:
        from collections import OrderedDict

        from torch import nn

        self.check_images(image_shape)
        self.check_classes(n_classes)

        def normalise() -> nn.Module:
            return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)

        net = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(3, 96, 11, stride=4),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(3, 2),
                norm1=normalise(),
                conv2=nn.Conv2d(96, 256, 5, padding=2),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(3, 2),
                norm2=normalise(),
                conv3=nn.Conv2d(256, 384, 3, padding=1),
                relu3=nn.ReLU(),
                conv4=nn.Conv2d(384, 384, 3, padding=1),
                relu4=nn.ReLU(),
                conv5=nn.Conv2d(384, 256, 3, padding=1),
                relu5=nn.ReLU(),
                pool5=nn.MaxPool2d(3, 2),
                flatten=nn.Flatten(),
                fc6=nn.Linear(256 * 6 * 6, 4096),
                relu6=nn.ReLU(),
                drop6=nn.Dropout(self.dropout),
                fc7=nn.Linear(4096, 4096),
                relu7=nn.ReLU(),
                drop7=nn.Dropout(self.dropout),
                fc8=nn.Linear(4096, n_classes),
            )
        )
        for name, (deviation, bias) in INITIAL.items():
            layer = net.get_submodule(name)
            nn.init.normal_(layer.weight, std=deviation)  # type: ignore[arg-type]
            nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]
        return net
