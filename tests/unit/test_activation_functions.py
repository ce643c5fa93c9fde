"""Pre-activations of layers, and the functions that give activations from them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from convergence.networks import PRE_ACTIVATIONS
from convergence.networks.graphs import RECTIFIERS
from convergence.networks.layer_reader import LayerReader


class Net(nn.Module):
    """Layers with an activation function that is a module, a function, or a method."""

    def __init__(self, rectifier: nn.Module):
        super().__init__()
        self.conv1, self.norm, self.rectifier = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), rectifier
        self.conv2, self.conv3, self.pool = nn.Conv2d(4, 5, 3), nn.Conv2d(5, 6, 1), nn.MaxPool2d(2)
        self.conv4, self.mean, self.fc = nn.Conv2d(6, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Linear(6, 7)

    def forward(self, x):
        x = self.rectifier(self.norm(self.conv1(x)))
        x = functional.leaky_relu(self.conv2(x), 0.2, inplace=True)
        x = self.pool(self.conv3(x).relu_())
        return self.fc(self.mean(self.conv4(x)).flatten(1))


def read(module: nn.Module, layers: list[str]) -> tuple[LayerReader, dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    images = torch.randn(2, 3, 8, 8)
    reader = LayerReader(module, layers, images, pre_activations=True)
    return reader, reader(images)


@pytest.mark.parametrize("rectifier", RECTIFIERS)
def test_functions_give_activations_from_pre_activations(rectifier):
    torch.manual_seed(0)
    arguments = (4,) if rectifier is nn.PReLU else ()
    layers = ["conv1", "conv2", "conv3"]
    reader, found = read(Net(rectifier(*arguments)), layers)
    for layer in layers:
        pre, wanted = found[PRE_ACTIVATIONS + layer], found[layer]
        torch.testing.assert_close(reader.nonlinearities[layer](pre), wanted, rtol=1e-6, atol=1e-6)
        assert (pre < 0).any(), "in-place functions do not change what is read"
        assert reader.null_kind(layer, 8) == ("pre-activations", "")
        assert reader.null_kind(layer, 0) == ("", "statistics.null.draws = 0")


def test_linear_layers_need_no_pre_activations():
    reader, found = read(Net(nn.ReLU()), ["fc", "mean", "conv4", "pool"])
    assert not any(name.startswith(PRE_ACTIVATIONS) for name in found)
    for layer in ("fc", "mean", "conv4"):
        assert reader.null_kind(layer, 8) == ("sums", "")
    assert reader.null_kind("pool", 8) == ("", "read after MaxPool2d, which is not linear")


class Tokens(nn.Module):
    """An activation function with a slope for each token, not for each unit."""

    def __init__(self):
        super().__init__()
        self.embed, self.rectifier = nn.Linear(64, 5), nn.PReLU(3)
        self.rectifier.weight.data = torch.tensor([0.1, 0.5, 0.9])

    def forward(self, x):
        return self.rectifier(self.embed(x.flatten(2)))


def test_functions_that_depend_on_the_position_are_refused():
    reader, _ = read(Tokens(), ["embed"])
    assert reader.null_kind("embed", 8) == ("", "the activation function is not elementwise")
    assert not reader.nonlinearities
