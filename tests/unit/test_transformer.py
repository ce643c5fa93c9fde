"""The network transformer: its layers, padding and causality, attention heads, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from convergence.errors import ConfigError
from convergence.networks.graphs import LayerGraph
from convergence.networks.layer_reader import LayerReader
from convergence.networks.transformer import Transformer

LENGTH = 12
GENERATOR = torch.Generator().manual_seed(0)
TOKENS = torch.randint(0, 20, (4, LENGTH), generator=GENERATOR)
IMAGES = torch.randn((4, 1, 8, 8), generator=GENERATOR)


def spec(**settings) -> Transformer:
    return Transformer(name="transformer", **{"width": 8, "heads": 2, "n_tokens": 20, "patch": 2, **settings})


def build(inputs: torch.Tensor = TOKENS, **settings) -> torch.nn.Module:
    torch.manual_seed(0)
    net = spec(**settings).build(tuple(inputs.shape[1:]), 3).eval()
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return net


@pytest.mark.parametrize(
    ("inputs", "task"),
    [(TOKENS, "classes"), (TOKENS, "next_token"), (IMAGES, "classes")],
    ids=["text", "next", "image"],
)
def test_every_known_layer_is_read_in_the_net_and_in_its_graph(inputs, task):
    net = build(inputs, depth=2, task=task)
    layers = list(spec(depth=2, task=task).known_layers())
    reader = LayerReader(net, layers, inputs, pre_activations=True)
    n_positions = LENGTH if inputs is TOKENS else 16
    units = {layer: layout.n_units for layer, layout in reader.layouts.items()}
    assert {units[f"blocks.{k}{part}"] for k in (0, 1) for part in ("", ".attention.heads", ".mlp.down")} == {8}
    assert units["blocks.1.mlp.up"] == 32
    assert [layer for layer in layers if reader.rectified[layer]] == [
        f"blocks.{k}.mlp.{part}" for k in (0, 1) for part in ("up", "act")
    ]
    shapes = {tuple(reader(inputs)[layer].shape[2:]) for layer in layers if layer != "classifier"}
    assert shapes == {(n_positions,)}
    LayerGraph(net, layers, inputs, with_answer=True)  # compares the values
    assert net(inputs).shape == ((4, 3) if task == "classes" else (4, LENGTH, 20))


@torch.no_grad()
def test_heads_are_weighted_sums_of_values_before_the_output_projection():
    net = build(depth=1)
    read = LayerReader(
        net, [f"blocks.0.attention.{part}" for part in ("query", "key", "value", "heads", "out")], TOKENS
    )
    q, k, v, heads, out = (values.transpose(1, 2) for values in read(TOKENS).values())
    for head in (slice(0, 4), slice(4, 8)):
        weights = (q[..., head] @ k[..., head].transpose(1, 2) / 2).softmax(-1)
        torch.testing.assert_close(heads[..., head], weights @ v[..., head])
    torch.testing.assert_close(net.blocks[0].attention.out(heads), out)


@torch.no_grad()
def test_padding_changes_no_token_and_no_class():
    net = build()
    padded = torch.cat([TOKENS[:, :7], torch.full_like(TOKENS[:, 7:], -1)], 1)
    other = torch.cat([padded[:2], TOKENS[2:]])
    layers = ["blocks.1", "classifier"]
    alone, mixed = (LayerReader(net, layers, given)(given) for given in (padded, other))
    torch.testing.assert_close(alone["blocks.1"][:2], mixed["blocks.1"][:2])
    net.positions.data[7:] += 1  # of padding
    torch.testing.assert_close(net(padded), alone["classifier"][:, :, 0])
    x = net.blocks[1](net.blocks[0](net.embedding(TOKENS[:, :7]) + net.positions[:7], None), None)
    torch.testing.assert_close(net.classifier(net.norm(x).mean(1)), net(padded))


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_causal_nets_see_earlier_tokens_only(causal):
    net = build(task="next_token" if causal else "classes")
    changed = TOKENS.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 20
    first, second = (LayerReader(net, ["blocks.1"], given)(given)["blocks.1"] for given in (TOKENS, changed))
    same = (first == second).all(1).all(0)
    assert same.tolist() == [causal] * 5 + [False] * 7


def test_dropout_is_of_training_only():
    net = build(dropout=0.5)
    assert torch.equal(net(TOKENS), net(TOKENS))
    assert not torch.equal(net.train()(TOKENS), net(TOKENS))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "width = 8 is no multiple of heads = 3"),
        ({"mlp_ratio": 0.01}, "no unit of an MLP"),
        ({"task": "next_token", "causal": False}, "remove causal"),
        ({"width": 65536, "heads": 1, "depth": 1000}, "lower width"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        spec(**settings)


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"patches of 3 × 3 pixels do not divide images of 8 × 8"):
        spec(patch=3).check_images((1, 8, 8))
    with pytest.raises(ConfigError, match=r"rows of token ids \(tokens,\) or images"):
        spec().check_images((3, 8))
    with pytest.raises(ConfigError, match="needs rows of token ids, and the data set has images"):
        spec(task="next_token").check_images((1, 8, 8))
    with pytest.raises(ConfigError, match=r"token ids up to 20\. Set n_tokens to 21 or more"):
        spec().check_tokens(21)
    spec().check_tokens(20)
    with pytest.raises(ConfigError, match="no labels"):
        spec().build((LENGTH,), 0)
