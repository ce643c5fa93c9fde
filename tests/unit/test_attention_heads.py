"""Attention heads: read from torch's attention; permuted as a whole, with units within them and the residual stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from convergence.errors import ConfigError, UserError
from convergence.functional.merging.zipping import zippable
from convergence.functional.surgery.alignment import (
    ActivationMatcher,
    activation_orders,
    distance,
    joint_correlations,
    movable,
    random_orders,
    weight_orders,
)
from convergence.functional.surgery.permutations import permutation_groups, permuted, selected
from convergence.networks.layer_reader import LayerReader
from convergence.networks.transformer import Transformer

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = {
    "classes": torch.randint(-1, 11, (16, 7), generator=GENERATOR),
    "next_token": torch.randint(0, 11, (16, 7), generator=GENERATOR),
    "images": torch.randn((16, 2, 6, 4), generator=GENERATOR, dtype=torch.float64),
}


def build(kind: str) -> nn.Module:
    task = "next_token" if kind == "next_token" else "classes"
    spec = Transformer(name="transformer", width=12, heads=3, mlp_ratio=1.5, n_tokens=11, patch=2, task=task)
    torch.manual_seed(0)
    net = spec.build(tuple(INPUTS[kind].shape[1:]), 5).double().eval()
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.5)
    return net


@pytest.mark.parametrize("kind", INPUTS)
@torch.no_grad()
def test_permuted_transformers_compute_the_same(kind):
    net, inputs = build(kind), INPUTS[kind]
    groups = permutation_groups(net, tuple(inputs.shape[1:]))
    answer = "next_token" if kind == "next_token" else "classifier"
    parts = [f"blocks.{k}.{part}" for k in (0, 1) for part in ("attention.query", "attention.value", "mlp.up")]
    assert {group.name: group.n_units for group in groups} == {
        "embedding": 12, **{name: 18 if name.endswith("up") else 12 for name in parts},
        answer: 11 if kind == "next_token" else 5,
    }  # fmt: skip
    assert [group.name for group in groups if group.fixed] == [answer]
    assert {group.name: group.heads for group in groups if group.together} == {
        name: 3 for name in parts if "attention" in name
    }
    free = movable(groups)
    for draw in range(3):
        orders = random_orders(free, np.random.default_rng(draw))
        other = permuted(net, groups, orders)
        torch.testing.assert_close(other(inputs), net(inputs))
        assert distance(net.state_dict(), other.state_dict()) > 0.5
        for name in ("blocks.0.attention.query", "blocks.0.attention.value"):
            assert [set(head) for head in (orders[name] // 4).reshape(3, 4).tolist()] != [{0}, {1}, {2}] or draw < 2
        back = permuted(other, groups, {name: np.argsort(order) for name, order in orders.items()})
        assert distance(net.state_dict(), back.state_dict()) == 0


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("method", ["weights", "activation", "net by net"])
@torch.no_grad()
def test_the_permutation_of_a_copy_is_found(kind, method):
    net, inputs = build(kind), INPUTS[kind]
    free = movable(permutation_groups(net, tuple(inputs.shape[1:])))
    planted = random_orders(free, np.random.default_rng(4))
    other = permuted(net, free, planted)
    if method == "weights":
        orders = weight_orders(net.state_dict(), other.state_dict(), free, restarts=12, seed=0)
    elif method == "activation":
        orders = activation_orders(free, joint_correlations([net, other], free, [inputs]), 0, 1)
    else:
        matcher = ActivationMatcher(build(kind), free, [inputs])
        mine, theirs = (matcher.activations(one.state_dict()) for one in (net, other))
        orders = matcher.match(mine, theirs)
    assert distance(net.state_dict(), permuted(other, free, orders).state_dict()) == 0
    for name, order in orders.items():
        assert np.array_equal(planted[name][order], np.arange(len(order))), name


def test_orders_that_tear_heads_are_refused():
    net = build("classes")
    groups = permutation_groups(net, (7,))
    torn = np.arange(12)
    torn[[0, 11]] = 11, 0
    with pytest.raises(UserError, match=r"blocks.0.attention.value: the order moves units of .* to another head"):
        permuted(net, groups, {"blocks.0.attention.value": torn})
    turned = np.roll(np.arange(12), 4)
    with pytest.raises(UserError, match="Give all groups of an attention the same order of heads"):
        permuted(net, groups, {"blocks.0.attention.value": turned})
    permuted(net, groups, {"blocks.0.attention.value": turned, "blocks.0.attention.query": turned})


def test_heads_are_neither_cut_nor_zipped():
    net = build("classes")
    groups = permutation_groups(net, (7,))
    with pytest.raises(UserError, match="heads of equal width"):
        selected(net, groups, {"blocks.0.attention.value": np.arange(8)})
    with pytest.raises(UserError, match="stay in their heads"):
        zippable([group for group in groups if group.name != "embedding"])
    smaller = selected(net, groups, {"blocks.1.mlp.up": [3, 5, 6]})
    assert smaller.blocks[1].mlp.down.weight.shape == (12, 3)


class Attention(nn.Module):
    """Attention with values that other layers read as well, or with several heads of queries to one of keys."""

    def __init__(self, kind: str):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(4, 6)
        self.out, self.kind = nn.Linear(6, 3), kind

    def forward(self, x):
        x = x.transpose(1, 2)
        value = self.value(x)
        q, k, v = (part.unflatten(2, (2, 3)).transpose(1, 2) for part in (self.query(x), self.key(x), value))
        if self.kind == "same":
            k = q
        z = functional.scaled_dot_product_attention(q, k[:, :1] if self.kind == "grouped" else k, v)
        z = z.transpose(1, 2).flatten(2)
        if self.kind == "added":
            z = functional.relu(z + self.query(x))
        return self.out(z).mean(1)


@torch.no_grad()
def test_queries_that_are_keys_have_one_order():
    net = Attention("same").double().eval()
    groups = permutation_groups(net, (4, 5))
    inputs = torch.randn((3, 4, 5), generator=GENERATOR, dtype=torch.float64)
    other = permuted(net, groups, random_orders(movable(groups), np.random.default_rng(0)))
    torch.testing.assert_close(other(inputs), net(inputs))


def test_units_of_heads_with_other_uses_are_fixed():
    groups = permutation_groups(Attention("added").eval(), (4, 5))
    assert movable(groups) == []
    assert any("as units of its heads" in group.fixed for group in groups)
    with pytest.raises(UserError, match="scaled_dot_product_attention"):
        permutation_groups(Attention("grouped").eval(), (4, 5))


class Encoder(nn.Module):
    """A layer of torch's transformers for rows of token ids with padding; tokens along the first axis or not."""

    def __init__(self, batch_first: bool):
        super().__init__()
        self.embedding = nn.Embedding(11, 12)
        self.layer = nn.TransformerEncoderLayer(12, 3, 16, batch_first=batch_first, norm_first=True)
        self.batch_first = batch_first

    def forward(self, ids):
        x = self.embedding(ids.clamp(min=0))
        x = self.layer(x if self.batch_first else x.transpose(0, 1), src_key_padding_mask=ids < 0)
        return (x if self.batch_first else x.transpose(0, 1)).mean(1)


@pytest.mark.parametrize("batch_first", [True, False])
@torch.no_grad()
def test_heads_of_torchs_attention_are_read_before_the_output_projection(batch_first):
    net, ids = Encoder(batch_first).eval(), torch.randint(0, 11, (6, 7), generator=GENERATOR)
    ids[::2, 5:] = -1
    layers = ["layer.self_attn.heads", "layer.self_attn"]
    reader = LayerReader(net, layers, ids)
    z, out = (values.transpose(1, 2) for values in reader(ids).values())
    attention = net.layer.self_attn
    torch.testing.assert_close(attention.out_proj(z), out, rtol=0, atol=1e-6)
    x = net.layer.norm1(net.embedding(ids.clamp(min=0)))
    q, k, v = functional.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, 2)
    for head in range(3):
        units = slice(4 * head, 4 * head + 4)
        scores = q[..., units] @ k[..., units].transpose(1, 2) / 2
        weights = scores.masked_fill((ids < 0)[:, None, :], -torch.inf).softmax(-1)
        torch.testing.assert_close(z[..., units], weights @ v[..., units])
    assert reader.privileged["layer.self_attn.heads"] is False
    assert reader.null_kind("layer.self_attn.heads", 8) == ("sums", "")


def test_heads_of_torchs_attention_cannot_be_replaced():
    from torchvision.models import VisionTransformer

    from convergence.networks.graphs import LayerGraph

    net = VisionTransformer(32, 16, 1, 2, 8, 8, num_classes=3).eval()
    images = torch.randn((3, 3, 32, 32), generator=GENERATOR)
    heads = "encoder.layers.encoder_layer_0.self_attention.heads"
    assert LayerReader(net, [heads], images)(images)[heads].shape == (3, 8, 5)
    with pytest.raises(ConfigError, match=r"computed inside a module that torch\.fx does not"):
        LayerGraph(net, [heads], images)
