"""Deconvolution and guided backpropagation: by hand in numpy, against captum where that is right, for any graph."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from captum.attr import NeuronDeconvolution, NeuronGuidedBackprop
from torch import nn
from torch.nn import functional

from convergence.visualization.backprop import backprop
from convergence.visualization.layer import PicturedLayer

SHAPE = (1, 6, 6)
CPU = torch.device("cpu")


class Plain(nn.Module):
    """Convolution, ReLU, pooling, convolution, ReLU, with modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 3, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(3, 2, 2)
        self.relu2 = nn.ReLU()

    def forward(self, x):
        return self.relu2(self.conv2(self.pool(self.relu1(input=self.conv1(x)))))


class Functional(Plain):
    """The same with functions, methods and one ReLU in place and used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.ReLU(inplace=True)

    def forward(self, x):
        return functional.relu(self.conv2(functional.max_pool2d(self.conv1(x).relu_(), 2)), inplace=True)


def by_hand(net: Plain, image: np.ndarray, unit: int, y: int, x: int, guided: bool) -> np.ndarray:
    """Loops over filters in numpy: forwards with switches, then backwards. ``image`` (6, 6); returns (6, 6)."""
    w1, b1, w2, b2 = (p.detach().double().numpy() for p in net.parameters())
    padded = np.pad(image, 1)
    before = np.zeros((3, 6, 6))
    for c in range(3):
        for i in range(6):
            for j in range(6):
                before[c, i, j] = b1[c] + (w1[c, 0] * padded[i : i + 3, j : j + 3]).sum()
    after = np.maximum(before, 0)
    pooled, switches = np.zeros((3, 3, 3)), {}
    for c in range(3):
        for i in range(3):
            for j in range(3):
                block = after[c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                k, l = divmod(int(block.argmax()), 2)
                pooled[c, i, j], switches[c, i, j] = block[k, l], (2 * i + k, 2 * j + l)
    value = b2[unit] + (w2[unit] * pooled[:, y : y + 2, x : x + 2]).sum()
    signal = float(value > 0) if guided else max(value, 0.0)
    unpooled = np.zeros((3, 6, 6))
    for c in range(3):
        for k in range(2):
            for l in range(2):
                unpooled[(c, *switches[c, y + k, x + l])] += signal * w2[unit, c, k, l]
    rectified = np.maximum(unpooled, 0) * ((before > 0) if guided else 1)
    out = np.zeros((8, 8))
    for c in range(3):
        for i in range(6):
            for j in range(6):
                out[i : i + 3, j : j + 3] += rectified[c, i, j] * w1[c, 0]
    return out[1:7, 1:7]


def seen(whole: np.ndarray, box: np.ndarray) -> np.ndarray:
    """What a position sees of (channels, height, width), zero beyond the border."""
    y0, x0, y1, x1 = box + 30
    return np.pad(whole, ((0, 0), (30, 30), (30, 30)))[:, y0:y1, x0:x1]


def made(kind, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = kind()
    return net.eval()


@pytest.mark.parametrize("kind", [Plain, Functional])
@pytest.mark.parametrize("method", ["deconvolution", "guided"])
def test_backprop_signals_equal_plain_numpy(kind, method):
    net = made(kind)
    layer = PicturedLayer(net, "conv2", SHAPE, CPU)
    assert layer.rectified
    rng = np.random.default_rng(0)
    images = rng.standard_normal((8, *SHAPE)).astype(np.float32)
    units, positions = rng.integers(0, 2, 8), rng.integers(0, 2, (8, 2))
    found = backprop(layer, method, images, units, positions, batch=3)
    assert found.shape == (8, 1, *layer.geometry.size)
    whole = np.zeros((8, 6, 6))
    n_lit = 0
    for k, (y0, x0, y1, x1) in enumerate(layer.geometry.boxes(positions)):
        wanted = by_hand(net, images[k, 0].astype(float), units[k], *positions[k], method == "guided")
        padded = np.pad(wanted, 9)  # beyond the border there is nothing
        np.testing.assert_allclose(found[k, 0], padded[y0 + 9 : y1 + 9, x0 + 9 : x1 + 9], atol=1e-5)
        whole[k] = wanted
        n_lit += bool(np.abs(wanted).max() > 1e-3)
        outside = padded.copy()
        outside[y0 + 9 : y1 + 9, x0 + 9 : x1 + 9] = 0
        assert np.abs(outside).max() == 0
    assert n_lit >= 3


@pytest.mark.parametrize("method", ["deconvolution", "guided"])
def test_backprop_signals_equal_captum(method):
    net = made(lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(),
        nn.Conv2d(5, 4, 3), nn.ReLU(),
    ))  # fmt: skip
    net[1].running_var.uniform_(0.5, 2)
    layer = PicturedLayer(net, "6", (3, 20, 20), CPU)
    images = np.random.default_rng(0).standard_normal((4, 3, 20, 20)).astype(np.float32)
    positions = np.array([[0, 0], [3, 2], [5, 5], [1, 4]])
    units = np.array([0, 1, 2, 3])
    found = backprop(layer, method, images, units, positions, batch=9)
    peer = {"deconvolution": NeuronDeconvolution, "guided": NeuronGuidedBackprop}[method](net, net[7])
    for k, box in enumerate(layer.geometry.boxes(positions)):
        image = torch.from_numpy(images[k : k + 1]).requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = peer.attribute(image, (int(units[k]), *map(int, positions[k])))[0].detach().numpy()
        if method == "deconvolution":
            wanted = wanted * float(net(image).detach()[0, units[k], positions[k, 0], positions[k, 1]])
        np.testing.assert_allclose(found[k], seen(wanted, box), atol=1e-6)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 2, 3, padding=1)
        self.conv2 = nn.Conv2d(2, 2, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.conv1(x))
        y = self.relu(self.conv2(x))
        y += x
        return self.relu(self.conv2(y))


def test_residual_net_with_shared_relu_is_supported():
    """Against the rule written out for this net: the signal parts where the branches meet, and adds up."""
    net = made(Residual, 1)
    nn.init.constant_(net.conv2.bias, 0.5)
    layer = PicturedLayer(net, "conv2#2", (1, 9, 9), CPU)
    image = np.random.default_rng(0).standard_normal((1, 1, 9, 9)).astype(np.float32)
    for guided in (False, True):
        x = torch.from_numpy(image)
        a = net.conv1(x)
        b = net.conv2(a.relu())
        c = net.conv2(b.relu() + a.relu())

        def back(conv, g):
            return functional.conv_transpose2d(g, conv.weight, padding=1)

        g = torch.zeros_like(c)
        g[0, 1, 4, 5] = float(c[0, 1, 4, 5] > 0) if guided else c[0, 1, 4, 5].clamp(min=0)
        meeting = back(net.conv2, g)
        through = meeting.clamp(min=0) * ((b > 0) if guided else 1)
        total = (meeting + back(net.conv2, through)).clamp(min=0) * ((a > 0) if guided else 1)
        wanted = back(net.conv1, total)[0].detach().numpy()
        assert np.abs(wanted).max() > 1e-3
        method = "guided" if guided else "deconvolution"
        found = backprop(layer, method, image, np.array([1]), np.array([[4, 5]]), 1)[0]
        (box,) = layer.geometry.boxes(np.array([[4, 5]]))
        np.testing.assert_allclose(found, seen(wanted, box), atol=1e-6)


def test_other_activation_functions_keep_their_derivative():
    net = made(lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.GELU(), nn.Conv2d(2, 1, 1), nn.Tanh()))
    layer = PicturedLayer(net, "2", (1, 3, 3), CPU)
    assert layer.rectified
    image = np.random.default_rng(0).standard_normal((1, 1, 3, 3)).astype(np.float32)
    x = torch.from_numpy(image).requires_grad_()
    out = net(x)[0, 0, 1, 1]
    before = net[0](x)
    weight = net[2].weight[0, :, 0, 0] * (1 - out.detach() ** 2)
    slope = torch.autograd.grad(functional.gelu(before).sum(), before)[0][0, :, 1, 1]
    wanted = ((weight.clamp(min=0) * slope) * net[0].weight[:, 0, 0, 0]).sum()
    found = backprop(layer, "guided", image, np.array([0]), np.array([[1, 1]]), 1)
    assert found.shape == (1, 1, 1, 1)
    assert found[0, 0, 0, 0] == pytest.approx(float(wanted.detach()), abs=1e-6)
