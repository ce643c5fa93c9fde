"""Layers of all kinds of modules: convolutions, recurrent nets, attention, wrapped modules and tied weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from convergence.errors import ConfigError
from convergence.networks.layer_config import LayerConfig
from convergence.networks.layer_reader import LayerReader

SEED = torch.Generator().manual_seed(0)
IMAGES = torch.randn((3, 3, 8, 6), generator=SEED)
TOKENS = torch.randn((3, 10, 12), generator=SEED)
SERIES = torch.randn((3, 5, 11), generator=SEED)
VOLUMES = torch.randn((3, 2, 4, 6, 5), generator=SEED)


class Sequence(nn.Module):
    """A module on tokens, with the batch first or second; the answer is the mean over tokens."""

    def __init__(self, part: nn.Module, batch_first: bool, attention: bool = False):
        super().__init__()
        self.part, self.batch_first, self.attention = part, batch_first, attention

    def forward(self, x):
        x = x if self.batch_first else x.transpose(0, 1)
        out = self.part(x, x, x) if self.attention else self.part(x)
        return (out[0] if isinstance(out, tuple) else out).mean(1 if self.batch_first else 0)


def read(net: nn.Module, inputs: torch.Tensor, layer: str, **settings) -> torch.Tensor:
    return LayerReader(net, {layer: LayerConfig(**settings)}, inputs)(inputs)[layer]


@torch.no_grad()
def assert_reads(net: nn.Module, inputs: torch.Tensor, layer: str, wanted: torch.Tensor, **settings) -> None:
    """``wanted`` is (n, units, …)."""
    found = read(net.eval(), inputs, layer, **settings)
    torch.testing.assert_close(found, wanted.reshape(*wanted.shape[:2], -1))


@pytest.mark.parametrize("dimension", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_of_every_dimension(dimension, transposed):
    inputs = {1: SERIES, 2: IMAGES, 3: VOLUMES}[dimension]
    kind = getattr(nn, f"Conv{'Transpose' * transposed}{dimension}d")
    norm = getattr(nn, f"BatchNorm{dimension}d")
    net = nn.Sequential(kind(inputs.shape[1], 4, 3), norm(4), nn.SiLU(), kind(4, 6, 1)).eval()
    assert_reads(net, inputs, "0", net[:3](inputs))
    assert_reads(net, inputs, "3", net(inputs))
    assert_reads(net, inputs, "0", net[0](inputs), point="output")


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_layers_of_both_directions(kind, batch_first):
    net = Sequence(kind(12, 7, num_layers=2, batch_first=batch_first, bidirectional=True), batch_first).eval()
    output, state = net.part(TOKENS if batch_first else TOKENS.transpose(0, 1))
    sequence = output if batch_first else output.transpose(0, 1)
    assert_reads(net, TOKENS, "part", sequence.movedim(2, 1))
    last = state[0] if kind is nn.LSTM else state  # (layers · directions, n, units)
    assert_reads(net, TOKENS, "part", last.permute(1, 2, 0), output="1.0" if kind is nn.LSTM else "1")


@pytest.mark.parametrize("batch_first", [True, False])
def test_encoders_of_torch_are_read_as_without_their_fast_path(batch_first):
    layer = nn.TransformerEncoderLayer(12, 2, 24, batch_first=batch_first, activation="gelu")
    net = Sequence(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), batch_first).eval()
    x = TOKENS if batch_first else TOKENS.transpose(0, 1)

    def units(tokens: torch.Tensor) -> torch.Tensor:
        return (tokens if batch_first else tokens.transpose(0, 1)).movedim(2, 1)

    first = net.part.layers[0]
    with torch.no_grad():
        assert_reads(net, TOKENS, "part.layers.0", units(first(x)))
        assert_reads(net, TOKENS, "part", units(net.part(x)))
        assert_reads(net, TOKENS, "part.layers.0.self_attn", units(first.self_attn(x, x, x)[0]))
        after = first.norm1(x + first.self_attn(x, x, x)[0])
        assert_reads(net, TOKENS, "part.layers.0.linear1", units(nn.functional.gelu(first.linear1(after))))


@pytest.mark.parametrize("batch_first", [True, False])
def test_weights_of_attention_have_no_known_axis_of_units(batch_first):
    net = Sequence(nn.MultiheadAttention(12, 3, batch_first=batch_first), batch_first, attention=True).eval()
    with pytest.raises(ConfigError, match="axis 1 for 10 units at 10 positions, or axis 2 for 10 units"):
        read(net, TOKENS, "part", output="1")
    x = TOKENS if batch_first else TOKENS.transpose(0, 1)
    assert_reads(net, TOKENS, "part", net.part(x, x, x)[1].movedim(2, 1), output="1", unit_axis=2)


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(40, 6))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    "normalise", [weight_norm, parametrizations.weight_norm, spectral_norm, parametrizations.spectral_norm]
)
def test_reparametrised_weights(normalise):
    net = plain()
    for k in (0, 2, 5):
        net[k] = normalise(net[k])
    net.eval()
    for layer, until in (("0", 2), ("2", 4), ("5", 6)):
        assert_reads(net, IMAGES, layer, net[:until](IMAGES))


def test_weights_of_two_layers_may_be_one():
    net = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh()).eval()
    net[2].weight = net[0].weight
    assert_reads(net, TOKENS, "0", net[:2](TOKENS).movedim(2, 1))
    assert_reads(net, TOKENS, "2", net(TOKENS).movedim(2, 1))


def test_wrapped_nets_are_read_by_both_names():
    net = plain().eval()
    wanted = net[:4](IMAGES)
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    compiled = torch.compile(net, backend=backend)
    for name in ("2", "_orig_mod.2"):
        assert_reads(compiled, IMAGES, name, wanted)
    assert not calls, "reading compiles nothing"
    in_part = plain().eval()
    in_part[2] = torch.compile(in_part[2], backend=backend)
    assert_reads(in_part, IMAGES, "2", wanted)
    assert_reads(nn.DataParallel(net), IMAGES, "module.2", wanted)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")
def test_nets_of_torchscript_are_refused_and_parts_are_passed_over():
    net = plain().eval()
    for scripted in (torch.jit.script(net), torch.jit.trace(net, IMAGES)):
        with pytest.raises(ConfigError, match=r"is a net of TorchScript.* Build the net without torch.jit.script"):
            read(scripted, IMAGES, "0")
    around = nn.Sequential(nn.Conv2d(3, 3, 1), torch.jit.script(net), nn.Linear(6, 2)).eval()
    assert_reads(around, IMAGES, "0", around[0](IMAGES))
    assert_reads(around, IMAGES, "2", around(IMAGES))
    for name in ("1", "1.0"):
        with pytest.raises(ConfigError, match=rf'"{name}" of Sequential is a module of TorchScript'):
            read(around, IMAGES, name)
