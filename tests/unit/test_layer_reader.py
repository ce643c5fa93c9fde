"""Layers of nets as people write them: names, axes, in-place operations, tuples, nets that cannot be traced."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from convergence.errors import ConfigError
from convergence.networks.graphs import LayerGraph
from convergence.networks.layer_config import LayerConfig
from convergence.networks.layer_reader import LayerReader

IMAGES = torch.randn((4, 3, 8, 8), generator=torch.Generator().manual_seed(0))


class Numbered(nn.Module):
    """Modules whose names end in numbers, and one module that is called twice."""

    def __init__(self):
        super().__init__()
        self.conv_1, self.conv_2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.conv, self.fc_1, self.fc_2 = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 10), nn.Linear(10, 3)

    def forward(self, x):
        x = functional.relu(self.conv_1(x))
        x = functional.relu(self.conv_2(x))
        x = functional.relu(self.conv(x))
        x = self.conv(x) + 1
        return self.fc_2(functional.relu(self.fc_1(x.mean((2, 3)))))


def read(module: nn.Module, layer: str, images: torch.Tensor = IMAGES, **settings) -> torch.Tensor:
    reader = LayerReader(module, {layer: LayerConfig(**settings)}, images)
    return reader(images)[layer]


def test_names_are_paths_of_modules():
    net = Numbered().eval()
    reader = LayerReader(net, ["conv_1", "conv_2", "fc_1", "conv#2"], IMAGES)
    assert {layer: layout.n_units for layer, layout in reader.layouts.items()} == {
        "conv_1": 4, "conv_2": 6, "fc_1": 10, "conv#2": 6,
    }  # fmt: skip
    with torch.no_grad():
        first = functional.relu(net.conv_1(IMAGES))
        third = functional.relu(net.conv(functional.relu(net.conv_2(first))))
        torch.testing.assert_close(reader(IMAGES)["conv_1"], first.flatten(2), rtol=0, atol=0)
        torch.testing.assert_close(reader(IMAGES)["conv#2"], net.conv(third).flatten(2), rtol=0, atol=0)
    with pytest.raises(ConfigError, match=r'"conv" of Numbered is called 2 times for an image. Choose one of conv#1'):
        LayerReader(net, ["conv"], IMAGES)
    with pytest.raises(ConfigError, match=r"there is no call 3"):
        LayerReader(net, ["conv#3"], IMAGES)
    with pytest.raises(ConfigError, match='no layer "conv_3"; did you mean'):
        LayerReader(net, ["conv_3"], IMAGES)


@pytest.mark.parametrize("name", ["conv_1", "conv#1", "conv#2", "add", "fc_1"])
def test_graph_is_cut_where_the_reader_reads(name):
    net = Numbered().eval()
    graph = LayerGraph(net, [name], IMAGES, with_answer=True)
    torch.testing.assert_close(graph.module(IMAGES)[name], graph.reader.tensors(IMAGES)[name])


INPLACE = {
    "F.relu_": (True, lambda net, h, x: functional.relu_(h)),
    "torch.relu_": (True, lambda net, h, x: torch.relu_(h)),
    "clamp_": (True, lambda net, h, x: h.clamp_(min=0)),
    "leaky_relu_": (True, lambda net, h, x: functional.leaky_relu_(h)),
    "tanh_": (True, lambda net, h, x: h.tanh_()),
    "sigmoid_": (True, lambda net, h, x: torch.sigmoid_(h)),
    "threshold_": (True, lambda net, h, x: functional.threshold_(h, 0, 0)),
    "nn.ReLU": (True, lambda net, h, x: nn.functional.relu(h, inplace=True)),
    "mul_": (False, lambda net, h, x: h.mul_(torch.sigmoid(net.gate(x)))),
    "iadd": (False, lambda net, h, x: h.__iadd__(1)),
    "setitem": (False, lambda net, h, x: h.index_fill_(1, torch.tensor([0]), 5.0)),
}


class InPlace(nn.Module):
    def __init__(self, operation):
        super().__init__()
        self.conv1, self.conv2, self.gate = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3), nn.Conv2d(3, 4, 1)
        self.operation = operation

    def forward(self, x):
        return functional.relu(self.conv2(self.operation(self, self.conv1(x), x))).mean((2, 3))


@pytest.mark.parametrize("name", INPLACE)
def test_in_place_operations_do_not_change_what_is_read(name):
    rectifies, operation = INPLACE[name]
    net = InPlace(operation).eval()
    with torch.no_grad():
        pre = net.conv1(IMAGES)
        post = operation(net, pre.clone(), IMAGES)
    wanted = {"post": post if rectifies else pre, "pre": pre, "output": pre}
    for point, values in wanted.items():
        alone = read(net, "conv1", point=point)
        both = LayerReader(net, {"conv1": LayerConfig(point=point), "conv2": LayerConfig()}, IMAGES)(IMAGES)["conv1"]
        torch.testing.assert_close(alone, values.flatten(2), rtol=0, atol=0)
        torch.testing.assert_close(both, alone, rtol=0, atol=0)


class RootMeanSquareNorm(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(n) + 0.5)

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6) * self.scale[:, None, None]


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Swish(nn.Module):
    def forward(self, x):
        return x * x.sigmoid()


class NormThenActivation(nn.BatchNorm2d):
    """A norm that applies the activation function itself, as timm's."""

    def forward(self, x):
        return functional.relu(super().forward(x))


@pytest.mark.parametrize(
    "parts",
    [
        [nn.BatchNorm2d(4), nn.ReLU()],
        [nn.GroupNorm(2, 4), nn.Dropout(0.5), nn.GELU()],
        [RootMeanSquareNorm(4), QuickGELU()],
        [nn.Identity(), Swish()],
        [nn.InstanceNorm2d(4), nn.PReLU(4)],
        [NormThenActivation(4)],
        [nn.Hardtanh()],
    ],
    ids=lambda parts: "-".join(type(part).__name__ for part in parts),
)
def test_norms_and_activation_functions_of_any_library_are_passed(parts):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), *parts, nn.Conv2d(4, 2, 1)).eval()
    reader = LayerReader(net, ["0"], IMAGES, pre_activations=True)
    with torch.no_grad():
        wanted = net[:-1](IMAGES)
    torch.testing.assert_close(reader(IMAGES)["0"], wanted.flatten(2))
    assert reader.null_kind("0", 8) == ("pre-activations", "")
    probe = torch.linspace(-2, 2, 8).reshape(1, 4, 2)
    activation = parts[-1] if len(parts) > 1 or isinstance(parts[-1], nn.Hardtanh) else nn.ReLU()
    torch.testing.assert_close(reader.nonlinearities["0"](probe), activation(probe.detach()).detach())


class Axes(nn.Module):
    """A net whose units move: channels last, windows, heads, sequence first."""

    def __init__(self):
        super().__init__()
        self.conv, self.last, self.qkv = nn.Conv2d(3, 6, 1), nn.Linear(6, 10), nn.Linear(10, 30)
        self.series, self.volume, self.out = nn.Conv1d(10, 5, 3), nn.Conv3d(1, 7, 1), nn.Linear(10, 4)
        self.rnn, self.first = nn.LSTM(10, 8), nn.MultiheadAttention(10, 2)

    def forward(self, x):
        x = self.last(self.conv(x).permute(0, 2, 3, 1))
        windows = x.reshape(-1, 2, 4, 2, 4, 10).transpose(2, 3).reshape(-1, 16, 10)
        q, k, v = (part.unflatten(2, (2, 5)).transpose(1, 2) for part in self.qkv(windows).chunk(3, -1))
        z = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 16, 10)
        x = self.out(z).reshape(-1, 64, 4)
        tokens = functional.pad(x, (0, 6)).transpose(0, 1)
        self.rnn(tokens), self.first(tokens, tokens, tokens), self.series(tokens.permute(1, 2, 0))
        self.volume(x.reshape(-1, 1, 4, 8, 8))
        return x.mean(1)


@pytest.mark.parametrize(
    ("layer", "settings", "units", "map_shape"),
    [
        ("conv", {}, 6, (8, 8)),
        ("permute#1", {}, 6, (8, 8)),
        ("last", {}, 10, (8, 8)),
        ("qkv", {}, 30, (4, 16)),
        ("out", {"point": "input"}, 10, (4, 16)),
        ("out", {}, 4, (4, 16)),
        ("rnn", {}, 8, (64,)),
        ("rnn", {"output": "1.0"}, 8, (1,)),
        ("first", {}, 10, (64,)),
        ("series", {}, 5, (62,)),
        ("volume", {}, 7, (4, 8, 8)),
        ("rnn", {"tokens": "last"}, 8, ()),
        ("rnn", {"tokens": (0, -1)}, 8, (2,)),
    ],
)
def test_units_are_followed_through_the_operations(layer, settings, units, map_shape):
    torch.manual_seed(0)
    net = Axes().eval()
    reader = LayerReader(net, {layer: LayerConfig(**settings)}, IMAGES)
    layout = reader.layouts[layer]
    assert (layout.n_units, layout.map_shape) == (units, map_shape)
    together = reader(IMAGES)[layer]
    for k in range(len(IMAGES)):
        torch.testing.assert_close(reader(IMAGES[k : k + 1])[layer][0], together[k], rtol=1e-4, atol=1e-5)


def test_windows_and_sequences_keep_units_apart():
    """A unit's values are those of its weights: setting them to zero silences that unit alone."""
    for layer, weights in (("last", "last"), ("qkv", "qkv"), ("series", "series"), ("volume", "volume")):
        torch.manual_seed(0)
        net = Axes().eval()
        part = net.get_submodule(weights)
        part.weight.data[2], part.bias.data[2] = 0, 0
        found = read(net, layer)
        silent = (found == 0).all(dim=2).all(dim=0)
        assert silent.tolist() == [unit == 2 for unit in range(found.shape[1])]


class Unknown(nn.Module):
    def forward(self, x):
        return torch.einsum("nchw,nchv->nhwv", x, x)


def test_unknown_axes_are_refused_with_all_readings():
    net = nn.Sequential(nn.Conv2d(3, 5, 1), Unknown())
    with pytest.raises(ConfigError, match=r"axis 1 for 8 units at 8 × 8 positions, or axis 2.* unit_axis"):
        read(net, "1")
    assert read(net, "1", unit_axis=-1).shape == (4, 8, 64)
    with pytest.raises(ConfigError, match="unit_axis = 0 is not one of its axes"):
        read(net, "1", unit_axis=0)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 5, 1)

    def forward(self, x):
        return {"left": self.a(x), "right": (self.b(x), None)}


def test_modules_that_return_several_tensors_need_a_choice():
    net = nn.Sequential()
    net.pair = Pair()
    with pytest.raises(ConfigError, match=r"returns 2 tensors. Choose one: .* \"right.0\""):
        read(net, "pair")
    torch.testing.assert_close(read(net, "pair", output="right.0"), net.pair.b(IMAGES).flatten(2).detach())
    with pytest.raises(ConfigError, match='no tensor "up"'):
        read(net, "pair", output="up")


class Dynamic(nn.Module):
    """Control flow and checks on shapes, which torch.fx cannot trace."""

    def __init__(self):
        super().__init__()
        self.conv1, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x):
        assert x.shape[1] == 3
        assert x.shape[2] > 4
        h = functional.relu(self.conv1(x))
        for _ in range(int(h.shape[2]) // 3):
            h = h * 0.5
        return self.fc(h.mean((2, 3)))


def test_nets_that_cannot_be_traced_are_read():
    net = Dynamic()
    wanted = functional.relu(net.conv1(IMAGES)).flatten(2).detach()
    torch.testing.assert_close(read(net, "conv1"), wanted)
    torch.testing.assert_close(read(nn.DataParallel(net), "module.conv1"), wanted)


class Mixing(nn.Module):
    def forward(self, x):
        return x - x.mean(0, keepdim=True)


class Noisy(nn.Module):
    def forward(self, x):
        return functional.dropout(x, 0.5)


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (Mixing(), "the layer mixes images"),
        (Noisy(), "draws random numbers in evaluation mode"),
        (nn.Flatten(0), "no axis runs over the images"),
    ],
)
def test_layers_without_values_of_single_images_are_refused(part, says):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), part)
    images = IMAGES[:, :, :4, :4] if isinstance(part, nn.Flatten) else IMAGES
    if isinstance(part, nn.Flatten):
        part = net[1] = SumOverImages()
    with pytest.raises(ConfigError, match=says):
        read(net, "1", images)


class SumOverImages(nn.Module):
    def forward(self, x):
        return x.sum(0)


def test_reader_leaves_the_net_as_it_was():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(), nn.Conv2d(4, 2, 1))
    net[3].eval()
    before = copy.deepcopy(net.state_dict())
    reader = LayerReader(net, ["0", "4"], IMAGES, pre_activations=True)
    reader(IMAGES)
    assert [part.training for part in net] == [True, True, True, False, True]
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_layers_read_together_equal_layers_read_alone():
    net = Axes().eval()
    names = ["conv", "last", "qkv", "out", "rnn", "series", "permute#1"]
    together = LayerReader(net, names, IMAGES)(IMAGES)
    for some in itertools.chain(([name] for name in names), [names[::-1]]):
        found = LayerReader(net, some, IMAGES)(IMAGES)
        for name in some:
            assert torch.equal(found[name], together[name])


def test_tied_modules_have_one_name():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    net.again = net[0]
    torch.testing.assert_close(read(nn.Sequential(net[0], net[1]), "0"), read(net, "0#1"))
    with pytest.raises(ConfigError, match="called 2 times"):
        read(net, "again")
