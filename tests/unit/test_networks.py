"""Networks, and layers read after their activation function, against plain hooks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convergence.config.load import parse_config
from convergence.errors import ConfigError
from convergence.networks.external import TorchvisionNetwork
from convergence.networks.graphs import trace
from convergence.networks.layer_reader import LayerReader
from convergence.networks.weights import initialise, load_net, save_weights

TABLE = {  # PAPER: units, height, width of the maps
    "conv1": (96, 55, 55), "conv2": (256, 27, 27), "conv3": (384, 13, 13), "conv4": (384, 13, 13),
    "conv5": (256, 13, 13), "fc6": (4096,), "fc7": (4096,), "fc8": (1000,),
}  # fmt: skip
TEXT = """
name = "t"
data = { name = "image_folder", root = ".", crop = 227 }
statistics = { comparisons = ["conv1"] }
[[nets]]
seeds = [1, 2]
network = {network}
"""


def build(network: str, image_shape=(3, 32, 32), n_classes=10) -> nn.Module:
    torch.manual_seed(0)
    (net, _) = parse_config(TEXT.replace("{network}", network)).all_nets()
    return net.network.build(image_shape, n_classes)


def test_alexnet_is_the_papers():
    net = build('{name="alexnet"}', (3, 227, 227), 1000)
    images = torch.randn(2, 3, 227, 227)
    reader = LayerReader(net, list(TABLE), images)
    outputs = reader(images)
    assert {name: (layout.n_units, *layout.map_shape) for name, layout in reader.layouts.items()} == TABLE
    assert all((outputs[name] >= 0).all() for name in TABLE if name != "fc8")
    assert reader.sources["conv2"] == "relu2"
    assert reader.rectified == {name: name != "fc8" for name in TABLE}
    names = [name for name, _ in net.named_children()]
    assert names.index("norm1") == names.index("pool1") + 1
    assert all(part.groups == 1 for part in net.modules() if isinstance(part, nn.Conv2d))
    assert net.conv1.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert (net.conv2.bias == 1).all()


def test_alexnet_refuses_other_images():
    with pytest.raises(ConfigError, match=r"3 × 227 × 227.*set data.crop = 227"):
        build('{name="alexnet"}', (3, 224, 224))


def test_small_net_pools_while_it_can():
    net = build('{name="small", channels=[4, 6, 8, 8], hidden=[12]}', (1, 8, 8))
    reader = LayerReader(net, ["conv1", "conv3", "fc1"], torch.rand(2, 1, 8, 8))
    shapes = {name: (layout.n_units, *layout.map_shape) for name, layout in reader.layouts.items()}
    assert shapes == {"conv1": (4, 8, 8), "conv3": (8, 2, 2), "fc1": (12,)}


def test_residual_layers_are_read_after_addition_and_relu():
    """Resnet18 of torchvision: in-place ReLU and +=, against hooks that copy what they see."""
    net = build('{name="torchvision:resnet18"}').eval()
    layers = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.1", "layer1.1.relu#2", "fc"]
    images = torch.randn(2, 3, 32, 32)
    reader = LayerReader(net, layers, images)
    assert reader.sources["layer1.0.conv2"] == "layer1.0.relu#2"
    assert reader.sources["conv1"] == "relu"
    assert reader.rectified["fc"] is False

    seen: dict[str, list[torch.Tensor]] = {}
    for name, part in net.named_modules():
        if isinstance(part, nn.ReLU) or name == "fc":
            part.register_forward_hook(lambda _m, _i, out, name=name: seen.setdefault(name, []).append(out.clone()))
    found = reader(images)
    seen.clear()
    with torch.no_grad():
        net(images)
    wanted = {
        "conv1": seen["relu"][0], "layer1.0.conv1": seen["layer1.0.relu"][0],
        "layer1.0.conv2": seen["layer1.0.relu"][1], "layer1.1.relu#2": seen["layer1.1.relu"][1],
        "layer2.1": seen["layer2.1.relu"][1], "fc": seen["fc"][0],
    }  # fmt: skip
    for name in layers:
        torch.testing.assert_close(found[name], wanted[name].flatten(2) if name != "fc" else wanted[name][:, :, None])
    assert any(getattr(part, "inplace", False) for part in net.modules()), "the caller's net stays as it was"


def test_reading_layers_leaves_norm_statistics_unchanged():
    net = build('{name="torchvision:resnet18"}').train()
    before = net.bn1.running_mean.clone()
    images = torch.randn(4, 3, 32, 32)
    LayerReader(net, ["conv1"], images)(images)
    assert torch.equal(before, net.bn1.running_mean)
    assert net.training


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x) if x.sum() > 0 else x


def branching() -> nn.Module:
    return Branching()


def not_a_module() -> int:
    return 3


def test_user_factories_build_nets_or_are_refused(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "users_nets", sys.modules[__name__])
    branching = build('{name="users_nets:branching"}')
    images = torch.ones(2, 3, 8, 8)
    assert LayerReader(branching, ["conv"], images)(images)["conv"].shape == (2, 4, 36)
    with pytest.raises(ConfigError, match="Branching cannot be traced"):
        trace(branching)
    with pytest.raises(ConfigError, match="returned a int"):
        build('{name="users_nets:not_a_module"}')
    with pytest.raises(ConfigError, match='"users_nets" has no "missing"'):
        build('{name="users_nets:missing"}')
    with pytest.raises(ConfigError, match="could not be imported"):
        build('{name="no_such_package:net"}')
    with pytest.raises(ConfigError, match='no classifier "resnet81"; did you mean "resnet18"'):
        build('{name="torchvision:resnet81"}')


def test_unknown_layers_name_the_nearest():
    with pytest.raises(ConfigError, match=r'no layer "conv9"; did you mean "conv[12]"'):
        LayerReader(build('{name="small"}'), ["conv9"], torch.rand(2, 3, 32, 32))


@pytest.mark.parametrize("name", ["resnet18", "mnasnet0_5"])  # the second asks for the version of its parts
def test_weights_survive_safetensors(name, tmp_path):
    spec = TorchvisionNetwork(name=f"torchvision:{name}")
    net = initialise(spec, 3, (3, 48, 48), 4).eval()
    save_weights(net, tmp_path)
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(load_net(tmp_path, spec, (3, 48, 48), 4)(images), net(images), rtol=0, atol=0)
