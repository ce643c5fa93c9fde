"""Permuting and cutting units does not change the function of a net, or the net is refused by name."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from convergence.errors import UserError
from convergence.functional.surgery.permutations import PermutationGroup, permutation_groups, permuted, selected
from convergence.networks.alexnet import AlexNet
from convergence.networks.external import TorchvisionNetwork
from convergence.networks.small import Small

DIGIT = (1, 8, 8)
TORCHVISION = (
    "resnet18",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "regnet_y_400mf",
    "convnext_tiny",
)
"""A net for each way of joining units: sums, gates, shuffles, concatenation, groups, and norms over channels."""


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """In float64 with random norm weights and statistics, so that a unit in the wrong place is seen."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.ndim == 1 and value.is_floating_point():
                uniform = torch.rand(value.shape, generator=generator, dtype=torch.float64)
                value.copy_(0.5 + uniform if name.endswith(("weight", "running_var")) else 0.2 * (uniform - 0.5))
    return module


def built(name: str, shape: tuple[int, int, int]) -> nn.Module:
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torchvision's own, of how some models draw their weights
        return randomised(TorchvisionNetwork(name=f"torchvision:{name}").build(shape, 7))


def group_of(groups: list[PermutationGroup], layer: str) -> PermutationGroup:
    """The group whose units are the channels of a layer."""
    return next(group for group in groups if layer in group.layers)


def images(shape: tuple[int, ...], n: int = 2) -> torch.Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def random_orders(groups, seed: int = 0):
    rng = np.random.default_rng(seed)
    return {group.name: rng.permutation(group.n_units) for group in groups if not group.fixed}


@torch.no_grad()
def check_permuted(module: nn.Module, shape: tuple[int, int, int]):
    """A random order of all units computes the same, though weights differ; the groups."""
    groups = permutation_groups(module, shape)
    orders = random_orders(groups)
    assert orders
    other = permuted(module, groups, orders)
    assert type(other) is type(module)
    batch = images(shape)
    expected, got = module(batch), other(batch)
    assert (expected - got).abs().max() <= 1e-5 * expected.abs().max()
    assert expected.std() > 0
    back = permuted(other, groups, {name: np.argsort(order) for name, order in orders.items()})
    moved = 0
    for name, value in module.state_dict().items():
        assert torch.equal(back.state_dict()[name], value)
        moved += not torch.equal(other.state_dict()[name], value)
    assert moved > 1
    return groups


@torch.no_grad()
def check_selected(module: nn.Module, shape: tuple[int, int, int], groups) -> None:
    """Without units that nothing reads, the smaller net computes the same, and has fewer weights."""
    rng = np.random.default_rng(1)
    everything = selected(module, groups, {group.name: np.arange(group.n_units) for group in groups})
    kept = {}
    for group in groups:
        readers = group.of_role("in")
        if group.fixed or group.whole or not readers or group.n_units < 3:
            continue
        unread = rng.choice(group.n_units, group.n_units // 3, replace=False)
        kept[group.name] = np.setdiff1d(np.arange(group.n_units), unread)
        for axis in readers:
            module.state_dict()[axis.parameter].index_fill_(axis.dim, torch.from_numpy(axis.entries(unread)), 0.0)
    assert kept
    smaller = selected(module, groups, kept)
    batch = images(shape)
    expected = module(batch)
    assert (expected - smaller(batch)).abs().max() <= 1e-5 * expected.abs().max()
    n_weights = [sum(p.numel() for p in net.parameters()) for net in (everything, module, smaller)]
    assert n_weights[0] == n_weights[1] > n_weights[2]
    permutation_groups(smaller, shape)  # it is a net like any


@pytest.mark.parametrize(
    "name", [*TORCHVISION[:4], *(pytest.param(name, marks=pytest.mark.slow) for name in TORCHVISION[4:])]
)
def test_permuted_torchvision_net_computes_same_function(name):
    shape = (3, 32, 32)
    module = built(name, shape)
    groups = check_permuted(module, shape)
    if name in ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"):
        check_selected(module, shape, groups)


def test_permuted_densely_connected_net_computes_same_function():
    from torchvision.models import DenseNet

    torch.manual_seed(3)
    module = randomised(DenseNet(8, (2, 3, 2), 12, num_classes=7))
    check_selected(module, (3, 32, 32), check_permuted(module, (3, 32, 32)))


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"channels": [5, 7], "hidden": [11]}, DIGIT),
        ({"channels": [3], "hidden": []}, (3, 9, 6)),
        ({"channels": [4, 6, 8], "hidden": [9, 5], "kernel_size": 5}, (2, 12, 10)),
    ],
)
def test_permuted_and_cut_small_net_computes_same_function(settings, shape):
    torch.manual_seed(1)
    module = randomised(Small(name="small", **settings).build(shape, 6))
    check_selected(module, shape, check_permuted(module, shape))


def test_flattened_unit_spans_all_positions():
    groups = permutation_groups(Small(name="small", channels=[5, 7], hidden=[11]).build(DIGIT, 10), DIGIT)
    assert [group.name for group in groups] == ["conv1", "conv2", "fc1", "classifier"]
    (axis,) = group_of(groups, "conv2").of_role("in")
    assert (axis.parameter, axis.span) == ("fc1.weight", 4)
    assert list(axis.entries([2, 0])) == [8, 9, 10, 11, 0, 1, 2, 3]
    assert group_of(groups, "pool1").name == "conv1"
    assert groups[-1].fixed == "its units are the logits"


def test_response_normalisation_fixes_only_its_layers():
    shape = (3, 227, 227)
    module = AlexNet(name="alexnet").build(shape, 10).eval()
    groups = permutation_groups(module, shape)
    for layer in ("conv1", "conv2"):
        assert "LocalResponseNorm" in group_of(groups, layer).fixed
        n = group_of(groups, layer).n_units
        with pytest.raises(UserError, match="LocalResponseNorm"):
            permuted(module, groups, {layer: np.roll(np.arange(n), 1)})
    assert list(random_orders(groups)) == ["conv3", "conv4", "conv5", "fc6", "fc7"]
    batch = images(shape, 1).float()
    with torch.no_grad():
        expected = module(batch)
        got = permuted(module, groups, random_orders(groups))(batch)
    assert (expected - got).abs().max() <= 1e-5 * expected.abs().max()


def test_transformers_are_refused_by_name():
    from torchvision.models import SwinTransformer, VisionTransformer

    for module, operation in (
        (VisionTransformer(32, 8, 1, 2, 16, 16), "cat"),
        (SwinTransformer([4, 4], 8, [1, 1], [1, 1], [2, 2]), "shifted_window_attention"),
    ):
        with pytest.raises(UserError, match=rf"Transformer.*{operation}"):
            permutation_groups(module, (3, 32, 32))


class Odd(nn.Module):
    """What the nets of torchvision have not: a choice of layers between two convolutions and a pooled classifier."""

    def __init__(self, between: nn.Module, width: int = 12):
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3)
        self.between = between
        self.second = nn.Conv2d(width, 6, 3)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(functional.relu(self.second(functional.relu(self.between(self.first(x))))).mean((2, 3)))


@pytest.mark.parametrize(
    ("between", "cuts"),
    [
        (nn.GroupNorm(1, 12), False),
        (nn.GroupNorm(12, 12), True),
        (nn.LayerNorm((12, 7, 7)), False),
        (nn.InstanceNorm2d(12, affine=True, track_running_stats=True), True),
        (nn.PReLU(12), True),
        (nn.Conv2d(12, 12, 3, padding=1, groups=12), True),
    ],
)
@torch.no_grad()
def test_norms_and_scales_are_permuted_with_units(between, cuts):
    shape = (3, 9, 9)
    module = randomised(Odd(between), 2)
    groups = check_permuted(module, shape)
    assert (not group_of(groups, "first").whole) == cuts
    if cuts:
        check_selected(module, shape, groups)
    else:
        with pytest.raises(UserError, match="cut out"):
            selected(module, groups, {"first": [0, 1]})


@pytest.mark.parametrize(
    ("between", "reason"),
    [(nn.GroupNorm(3, 12), "GroupNorm"), (nn.LocalResponseNorm(3), "LocalResponseNorm"),
     (nn.Conv2d(12, 12, 1, groups=4), "convolution with 4 groups")],
)  # fmt: skip
def test_units_that_depend_on_neighbours_are_fixed(between, reason):
    module = randomised(Odd(between))
    groups = check_permuted(module, (3, 9, 9))
    assert reason in group_of(groups, "first").fixed
    assert not group_of(groups, "second").fixed
    with pytest.raises(UserError, match=reason):
        selected(module, groups, {"first": [0]})


class Gated(nn.Module):
    """Halves of one layer multiplied with each other, a layer used twice, and positions before channels."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4 * 49 + 4, 5)

    def forward(self, x):
        a, b = self.first(x).chunk(2, 1)
        x = torch.relu(self.twice(self.twice(a * torch.sigmoid(b))))
        return self.head(torch.cat([x.permute(0, 2, 3, 1).flatten(1), x.mean((2, 3))], 1))


@torch.no_grad()
def test_shared_layers_and_split_halves_are_permuted():
    torch.manual_seed(0)
    module = randomised(Gated())
    groups = permutation_groups(module, (3, 9, 9))
    assert "added to each other" in group_of(groups, "twice#1").fixed
    batch = images((3, 9, 9))
    assert torch.equal(module(batch), permuted(module, groups, random_orders(groups))(batch))


class Mixed(nn.Module):
    """Concatenation with what it is made of, position-major flattening, a spatial gate."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.gate = nn.Conv2d(6, 1, 1)
        self.second = nn.Conv2d(6, 5, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(11, 1, 1))
        self.norm = nn.BatchNorm2d(11)
        self.head = nn.Linear(11 * 49, 5)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = torch.cat([x, self.second(x * torch.sigmoid(self.gate(x)))], 1)
        return self.head(torch.relu(self.norm(x) * self.scale).permute(0, 2, 3, 1).reshape(x.size(0), -1))


def test_concatenation_scales_and_position_major_flattening_are_permuted():
    torch.manual_seed(0)
    module = randomised(Mixed())
    module.scale.data = torch.rand(11, 1, 1, dtype=torch.float64)
    groups = check_permuted(module, (3, 9, 9))
    assert {axis.offset for axis in group_of(groups, "second").axes if axis.parameter == "norm.weight"} == {6}
    check_selected(module, (3, 9, 9), groups)


def test_invalid_orders_and_names_are_refused():
    module = Small(name="small", channels=[5, 7], hidden=[11]).build(DIGIT, 10)
    groups = permutation_groups(module, DIGIT)
    with pytest.raises(UserError, match=r"no permutation of its 5 units"):
        permuted(module, groups, {"conv1": [0, 1, 2, 3, 3]})
    with pytest.raises(UserError, match=r"logits"):
        permuted(module, groups, {"classifier": np.roll(np.arange(10), 1)})
    with pytest.raises(UserError, match=r'did you mean "conv1"'):
        permuted(module, groups, {"conv_1": [0]})
    for units in ([], [0, 0], [5]):
        with pytest.raises(UserError, match=r"some of its 5 units"):
            selected(module, groups, {"conv1": units})
    with pytest.raises(UserError, match=r"cannot process images"):
        permutation_groups(module, (3, 8, 8))
