"""Receptive fields against what gradients reach, for random nets, known ones, and operations that nobody knows."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from convergence.networks.alexnet import AlexNet
from convergence.networks.graphs import LayerGraph
from convergence.networks.layer_reader import LayerReader
from convergence.visualization.receptive import ReceptiveField, receptive_fields


def field_of(module: nn.Module, layer: str, image: tuple[int, ...] = (1, 64, 64)) -> ReceptiveField:
    graph = LayerGraph(module, [layer], torch.rand(2, *image))
    return receptive_fields(graph.module)[graph.node(layer)]


def open_net(module: nn.Module) -> nn.Module:
    """A net in which every tap lets gradients through: positive weights, means in the place of largest values."""
    module = copy.deepcopy(module)
    for name, part in list(module.named_modules()):
        if isinstance(part, nn.Conv2d):
            nn.init.constant_(part.weight, 1 / part.weight[0].numel())
            if part.bias is not None:
                nn.init.constant_(part.bias, 0.01)
        if isinstance(part, nn.MaxPool2d):
            assert part.dilation == 1
            pool = nn.AvgPool2d(part.kernel_size, part.stride, part.padding, part.ceil_mode)
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, pool)
    return module.double().eval()


def reached(module: nn.Module, layer: str, position: tuple[int, int] | None, image: tuple[int, ...]):
    """First and last pixel + 1, (2, 2), that a position of a layer depends on, by its gradient; and the map's shape."""
    graph = LayerGraph(module, [layer], torch.rand(2, *image, dtype=torch.float64))
    x = torch.rand((1, *image), generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    x.requires_grad_()
    with torch.enable_grad():
        out = graph.module(x)[layer]
        y, z = position or (out.shape[2] // 2, out.shape[3] // 2)
        (gradient,) = torch.autograd.grad(out[0, :, y, z].sum(), x)
    pixels = np.argwhere(gradient[0].abs().sum(dim=0).numpy() > 0)
    return (pixels.min(axis=0), pixels.max(axis=0) + 1), (y, z), tuple(out.shape[2:])


@st.composite
def nets(draw) -> nn.Sequential:
    layers: list[nn.Module] = []
    for k in range(draw(st.integers(1, 4))):
        kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 4)))
        stride = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
        if draw(st.booleans()):
            padding = tuple(draw(st.integers(0, n - 1)) for n in kernel)
            dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
            layers.append(nn.Conv2d(1 if k == 0 else 2, 2, kernel, stride, padding, dilation))
        else:
            padding = tuple(n // 2 for n in kernel)
            layers.append(nn.MaxPool2d(kernel, stride, padding, ceil_mode=draw(st.booleans())))
            if k == 0:
                layers.insert(0, nn.Conv2d(1, 2, 1))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


@settings(max_examples=15, deadline=None)
@given(net=nets(), where=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)))
def test_fields_of_random_nets_equal_gradients(net, where):
    layer, image = str(len(net) - 1), (1, 48, 48)
    shape = LayerReader(net, [layer], torch.rand(2, *image)).layouts[layer].map_shape
    position = tuple(int(w * n) for w, n in zip(where, shape, strict=True))
    field = field_of(net, layer, image)
    (first, last), _, _ = reached(open_net(net), layer, position, image)
    for axis in range(2):
        start = field.start(position)[axis]
        end = start + field.size[axis]
        gaps = any(
            isinstance(part, nn.Conv2d | nn.MaxPool2d) and (part.dilation not in (1, (1, 1)) or part.stride != (1, 1))
            for part in net
        )
        if (start >= 0 and end <= 48) or not gaps:
            assert (first[axis], last[axis]) == (max(start, 0), min(end, 48))
        else:  # a gap between two taps may be what lies at the border
            assert first[axis] >= max(start, 0)
            assert last[axis] <= min(end, 48)


class Residual(nn.Module):
    """Branches of different fields: added, joined, and scaled by functions and methods."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, stride=2, padding=1)
        self.long = nn.Conv2d(2, 2, (1, 7), padding=(0, 3))
        self.last = nn.Conv2d(4, 2, 2)

    def forward(self, x):
        x = functional.relu(self.first(x))
        x = x + functional.relu(self.long(x)).mul(0.5)
        y = functional.avg_pool2d(x, 3, stride=1, padding=1)
        return torch.cat([x, y], 1), functional.relu(self.last(torch.cat([x, y], dim=1)))


def test_field_of_branches_is_their_hull():
    net = Residual()
    field = field_of(net, "last")
    (first, last), position, _ = reached(open_net(net), "last", None, (1, 64, 64))
    assert tuple(first) == field.start(position)
    assert tuple(last - first) == field.size
    assert field.stride == (2, 2)


@pytest.mark.parametrize(
    ("model", "sizes", "image"),
    [
        pytest.param(
            lambda: AlexNet(name="alexnet").build((3, 227, 227), 10),
            {"conv1": 11, "conv2": 51, "conv5": 163},
            227,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"]),
            {"21": 92},
            128,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda: torchvision.models.resnet50(), {"layer1": 35, "layer2.0.conv2": 43}, 128, marks=pytest.mark.slow
        ),
        (lambda: torchvision.models.squeezenet1_1(), {"features.4": 23}, 96),
    ],
)
def test_fields_of_known_nets_have_the_published_sizes(model, sizes, image):
    with torch.random.fork_rng():
        net = model()
    opened = open_net(net)
    for layer, size in sizes.items():
        field = field_of(net, layer, (3, image, image))
        assert field.size == (size, size)
        (first, last), position, _ = reached(opened, layer, None, (3, image, image))
        assert tuple(first) == field.start(position)
        assert tuple(last - first) == field.size


@pytest.mark.parametrize(
    ("net", "says"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 2, 1)), r"1 \(AdaptiveAvgPool2d\)"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1)), r"1 \(GroupNorm\)"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.PixelShuffle(2), nn.Conv2d(1, 2, 1)), r"operation PixelShuffle \(1\)"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Upsample(scale_factor=2), nn.Conv2d(2, 2, 1)), "operation Upsample"),
    ],
)
def test_unknown_operations_have_the_whole_image_as_field(net, says):
    with pytest.raises(AssertionError, match=says):
        assert not field_of(net, "2").whole


def test_fields_that_cover_the_image_are_recognised():
    field = ReceptiveField((9, 9), (4, 4), (4, 4))
    assert field.sees_all((2, 1), (5, 5))
    assert not field.sees_all((2, 1), (6, 5))
    assert not ReceptiveField((9, 9), (4, 4), (0, 0)).sees_all((2, 1), (5, 5))
    assert ReceptiveField(whole="a reason").sees_all((2, 2), (500, 500))
