"""The list of a net's layers: names, axes, positions, receptive fields and what is read."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from convergence.checks.layer_listing import list_layers
from convergence.cli import main
from convergence.networks.layer_config import LayerConfig
from convergence.networks.layer_reader import LayerReader

IMAGES = torch.randn((3, 3, 12, 10), generator=torch.Generator().manual_seed(0))


class Mixed(nn.Module):
    """Channels first, channels last, a sequence, a module that is called twice, and an axis that nothing tells."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU()
        self.last, self.rnn = nn.Linear(6, 7), nn.GRU(7, 5, batch_first=True)
        self.mixed, self.unused = Mixing(), nn.Linear(2, 2)

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x)))
        x = self.last(x.permute(0, 2, 3, 1))
        tokens, _ = self.rnn(self.relu(x).flatten(1, 2))
        return self.mixed(tokens).mean((1, 2))


class Mixing(nn.Module):
    def forward(self, x):
        return torch.einsum("ntc,nsc->nts", x, x)


def test_listed_layers_are_what_the_reader_reads():
    net = Mixed().eval()
    listed = list_layers(net, IMAGES)
    assert [row.layer for row in listed] == ["conv", "norm", "relu#1", "last", "relu#2", "rnn", "rnn", "mixed"]
    assert (listed[6].note, listed[6].positions) == ('output = "1"', (1,))
    rows = {row.layer: row for row in listed if not row.note.startswith("output")}
    known = [layer for layer, row in rows.items() if row.unit_axis is not None]
    reader = LayerReader(net, known, IMAGES)
    for layer in known:
        row, layout = rows[layer], reader.layouts[layer]
        assert (row.units, row.positions, row.source) == (layout.n_units, layout.map_shape, reader.sources[layer])
        assert bool(row.read_after) == reader.rectified[layer]
    assert (rows["conv"].shape, rows["conv"].unit_axis, rows["conv"].read_after) == ((1, 6, 5, 4), 1, "ReLU")
    assert (rows["last"].shape, rows["last"].unit_axis, rows["last"].source) == ((1, 5, 4, 7), 3, "relu#2")
    assert rows["conv"].receptive_field == (3, 3)
    assert (rows["rnn"].units, rows["rnn"].positions) == (5, (20,))
    assert rows["mixed"].units is None
    assert "axis 1 for 20 units at 20 positions, or axis 2 for 20 units at 20 positions" in rows["mixed"].note


def test_functions_and_settings_are_listed():
    net = nn.Sequential()
    net.part = Mixed().eval()
    functions = [row.layer for row in list_layers(net, IMAGES, functions=True)]
    assert {"part.permute", "part.flatten"} <= set(functions)
    assert not {"part.permute", "part.flatten"} & {row.layer for row in list_layers(net, IMAGES)}
    configs = {"map": LayerConfig(module="part.mixed", unit_axis=2), "no": LayerConfig(module="part.unused")}
    chosen, missing = list_layers(net, IMAGES, configs)[:2]
    assert (chosen.layer, chosen.units, chosen.positions) == ("map", 20, (20,))
    assert "is not called for images" in missing.note


def test_verb_lists_a_network_by_name_and_those_of_a_config(capsys, tmp_path):
    assert main(["layers", "torchvision:squeezenet1_1", "--images", "3x64x96", "--json"]) == 0
    (net,) = json.loads(capsys.readouterr().out)["networks"]
    assert (net["network"], net["input_shape"]) == ("torchvision:squeezenet1_1", [3, 64, 96])
    first = net["layers"][0]
    assert (first["layer"], first["shape"], first["source"]) == ("features.0", [1, 64, 31, 47], "features.1")
    config = tmp_path / "c.toml"
    config.write_text(
        'name = "c"\n[data]\nname = "digits"\n[[nets]]\nseeds = [1, 2]\nnetwork = "small"\n[statistics]\n'
        'comparisons = ["raw"]\n[layers.raw]\nmodule = "conv1"\npoint = "pre"\n',
        encoding="utf-8",
    )
    assert main(["layers", "--config", str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("small (net1, net2), inputs of shape 1x8x8")
    assert lines[2].split()[:5] == ["raw", "conv2d", "1x16x8x8", "1", "16"]
    assert any(line.split()[0] == "conv1" and line.endswith("ReLU (conv1_relu)") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give the name of a network, or --config CONFIG"),
        (["small", "--images", "8x"], "write channels, height and width as 3x224x224"),
        (["small", "--images", "1x8x8", "--tokens", "4"], "a net takes one of them"),
        (["small", "--set", "a=1"], "--set belongs to --config"),
        (["torchvision:resnet81"], 'no classifier "resnet81"; did you mean'),
        (["os:system"], "os"),
    ],
)
def test_wrong_arguments_are_one_paragraph(arguments, says, capsys):
    assert main(["layers", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.rstrip().count("\n") == 0
