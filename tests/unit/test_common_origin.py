"""Nets that were trained from the same weights are recognised by the places of their weights."""

import numpy as np
import pytest

from convergence.networks.common_origin import common_origins, sample_of

SHAPES = {"conv.weight": (32, 8, 3, 3), "fc.weight": (10, 40), "norm.weight": (64,), "small.weight": (5, 5)}


def weights(seed, start=None, change=1.0):
    """Weights whose kernels have a common profile, around those of a net to start from."""
    rng = np.random.default_rng(seed)
    own = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in SHAPES.items()}
    own["conv.weight"] += 3 * np.arange(9, dtype=np.float32).reshape(3, 3)
    if start is None:
        return own
    return {key: start[key] + np.float32(change) * values for key, values in own.items()}


def found(states):
    return [
        (pair.first, pair.second, pair.key) for pair in common_origins({k: sample_of(v) for k, v in states.items()})
    ]


def test_nets_of_other_seeds_have_no_common_origin():
    states = {f"net{seed}": weights(seed) for seed in range(12)}
    assert found(states) == []


def test_nets_from_one_net_are_named_with_the_tensor_that_shows_it():
    base = weights(0)
    states = {"a": weights(1, base), "b": weights(2, base), "apart": weights(3)}
    states["b"]["fc.weight"] = weights(4)["fc.weight"]  # a new head
    assert found(states) == [("a", "b", "conv.weight")]
    (pair,) = common_origins({name: sample_of(state) for name, state in states.items()})
    assert pair.r == pytest.approx(0.5, abs=0.05)
    assert str(pair).startswith(f"the weights of a and b correlate at {pair.r:.2f} place by place (conv.weight)")


def test_tensors_of_torch_and_large_ones_are_read_in_part():
    torch = pytest.importorskip("torch")
    large = torch.randn(3_000, 100, generator=torch.Generator().manual_seed(0))
    states = {"a": {"w": large}, "b": {"w": large.half()}, "c": {"w": large[:100]}, "d": {"counter": torch.tensor(3)}}
    (pair,) = common_origins({name: sample_of(state) for name, state in states.items()})
    assert (pair.first, pair.second) == ("a", "b")
    assert pair.r == pytest.approx(1.0, abs=1e-3)
