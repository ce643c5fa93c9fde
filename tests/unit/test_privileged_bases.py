"""Privileged bases: layers whose units can be rotated, with the weights around them, without any change of the net."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from convergence.networks.layer_config import LayerConfig
from convergence.networks.layer_reader import LayerReader
from convergence.networks.transformer import Transformer

GENERATOR = torch.Generator().manual_seed(0)
TOKENS = torch.randint(0, 9, (3, 6), generator=GENERATOR)
IMAGES = torch.randn((3, 3, 8, 8), generator=GENERATOR)


def privileged(net: nn.Module, inputs: torch.Tensor, *layers: str, **settings) -> dict[str, bool]:
    return LayerReader(net.eval(), {layer: LayerConfig(**settings) for layer in layers}, inputs).privileged


def rotation(n: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn((n, n), generator=GENERATOR, dtype=torch.float64))[0]


@pytest.mark.parametrize("task", ["classes", "next_token"])
def test_streams_and_heads_of_a_transformer_are_not_privileged(task):
    net = Transformer(name="transformer", width=8, heads=2, n_tokens=9, task=task).build((6,), 4)
    parts = ("attention.query", "attention.key", "attention.value", "attention.heads", "attention.out", "mlp.down")
    free = ["embedding", *(f"blocks.{k}" for k in (0, 1)), *(f"blocks.1.{part}" for part in parts), "norm"]
    answer = "classifier" if task == "classes" else "next_token"
    found = privileged(net, TOKENS, *free, "blocks.0.mlp.up", "blocks.1.mlp.act", answer)
    assert found == dict.fromkeys(free, False) | {"blocks.0.mlp.up": True, "blocks.1.mlp.act": True, answer: True}
    assert privileged(net, TOKENS, "blocks.0.mlp.up", point="pre") == {"blocks.0.mlp.up": True}


@torch.no_grad()
def test_rotated_values_of_a_head_are_undone_by_the_output_projection():
    """What the claim means: the net stays the same function."""
    net = Transformer(name="transformer", width=8, heads=2, n_tokens=9).build((6,), 4).double().eval()
    before = net(TOKENS)
    attention = net.blocks[0].attention
    turn = torch.block_diag(rotation(4), rotation(4))
    attention.value.weight.copy_(turn @ attention.value.weight)
    attention.value.bias.copy_(turn @ attention.value.bias)
    attention.out.weight.copy_(attention.out.weight @ turn.T)
    torch.testing.assert_close(net(TOKENS), before)


class Net(nn.Module):
    """A convolution, what follows it, and a classifier."""

    def __init__(self, following, modules: nn.Module | None = None):
        super().__init__()
        self.conv, self.more, self.following = nn.Conv2d(3, 4, 3, padding=1), modules, following
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.following(self, self.conv(x)).mean((2, 3)))


FOLLOWING = {
    "nothing": (False, lambda net, h: h, None),
    "batch norm": (False, lambda net, h: net.more(h), nn.BatchNorm2d(4)),
    "mean pooling": (False, lambda net, h: functional.avg_pool2d(h, 2), None),
    "convolution": (False, lambda net, h: functional.relu(net.more(h)), nn.Conv2d(4, 4, 1)),
    "scaling by weights": (False, lambda net, h: h * net.more.weight[:4, :1, :1, 0], nn.Conv2d(4, 4, 1)),
    "max pooling": (True, lambda net, h: functional.max_pool2d(h, 2), None),
    "softmax": (True, lambda net, h: h.softmax(1), None),
    "a gate": (True, lambda net, h: h * torch.sigmoid(net.more(h)), nn.Conv2d(4, 4, 1)),
    "depthwise convolution": (True, lambda net, h: net.more(h), nn.Conv2d(4, 4, 3, groups=4)),
    "norm and activation": (True, lambda net, h: functional.relu(net.more(h)), nn.BatchNorm2d(4)),
    "absolute value": (True, lambda net, h: h.abs(), None),
}


@pytest.mark.parametrize("name", FOLLOWING)
def test_operations_on_single_units_make_the_basis_privileged(name):
    wanted, following, modules = FOLLOWING[name]
    assert privileged(Net(following, modules), IMAGES, "conv", point="output") == {"conv": wanted}


def test_written_by_anything_but_linear_maps_is_privileged():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(36, 3))
    assert privileged(net, IMAGES, "1", "2", "4") == {"1": True, "2": False, "4": True}


def test_bases_of_torchvisions_nets():
    from torchvision import models

    images = torch.randn((3, 3, 32, 32), generator=GENERATOR)
    assert privileged(models.convnext_tiny(num_classes=4), images, "features.1.0") == {"features.1.0": True}
    assert privileged(models.resnet18(num_classes=4), images, "layer1.0", "fc") == {"layer1.0": True, "fc": True}
    vit = models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4)
    layers = ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1.mlp.0"]
    assert list(privileged(vit, images, *layers).values()) == [False, True]


def test_last_hidden_states_are_not_classes():
    """A net that answers with a norm has no classes there."""
    net = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6))
    assert privileged(net, torch.randn((3, 5), generator=GENERATOR), "0", "1") == {"0": False, "1": False}
