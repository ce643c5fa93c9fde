"""Nets that answer with tuples, dicts and several heads answer with one tensor, or are refused with all readings."""

import copy
from collections import namedtuple

import pytest

torch = pytest.importorskip("torch")
from torch import fx, nn  # noqa: E402

from convergence.errors import ConfigError  # noqa: E402
from convergence.networks.answers import with_answer  # noqa: E402

Heads = namedtuple("Heads", ["logits", "aux"])


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.features, self.fc = kind, nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        f = self.features(x)
        y = self.fc(f)
        return {
            "tensor": y, "dict": {"logits": y, "features": f}, "pair": (y, f), "named": Heads(y, f), "one": (y, None),
            "hidden": {"last_hidden_state": y, "pooled": f}, "none": "text", "ids": {"a": y, "b": torch.ones(2).long()},
        }[self.kind]  # fmt: skip


X = torch.randn(2, 3)


@pytest.mark.parametrize("kind", ["tensor", "dict", "named", "one", "hidden", "ids"])
def test_answer_is_found_and_modules_keep_their_paths(kind):
    net = Net(kind)
    wanted = net.fc(net.features(X))
    keys, paths = list(net.state_dict()), [name for name, _ in net.named_modules()]
    changed = with_answer(net)
    assert changed is net
    assert torch.equal(net(X), wanted)
    assert (list(net.state_dict()), [name for name, _ in net.named_modules()]) == (keys, paths)
    assert type(net).__name__ == "Net"
    assert isinstance(net, Net)
    assert torch.equal(copy.deepcopy(net)(X), wanted)
    assert torch.equal(with_answer(net)(X), wanted), "twice is once"


def test_several_tensors_are_refused_with_all_readings():
    with pytest.raises(ConfigError, match=r"answer = 0: \(2, 2\) float32, answer = 1: \(2, 4\) float32"):
        with_answer(Net("pair"))(X)
    assert with_answer(Net("pair"), 1)(X).shape == (2, 4)
    assert with_answer(Net("dict"), "features")(X).shape == (2, 4)
    with pytest.raises(ConfigError, match=r'network.answer = "logit", and the net returns answer = "logits"'):
        with_answer(Net("dict"), "logit")(X)
    with pytest.raises(ConfigError, match="returns a str without floating tensors"):
        with_answer(Net("none"))(X)


@pytest.mark.parametrize(("kind", "choice"), [("tensor", None), ("dict", None), ("pair", 0), ("named", 0)])
def test_changed_nets_are_traced_as_before(kind, choice):
    net = with_answer(Net(kind), choice)
    traced = fx.symbolic_trace(net)
    assert torch.equal(traced(X), net(X))
