"""Optimisers: the states and bits of torch's, without its compiler."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from convergence.training.optimisers import SGD, AdamW


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (AdamW, torch.optim.AdamW, {"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.05, "fused": True}),
        (AdamW, torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.0, "fused": True}),
        (SGD, torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}),
        (SGD, torch.optim.SGD, {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.0}),
    ],
)
def test_steps_and_states_have_the_bits_of_torch(ours, theirs, settings):
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(45, 3)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    optimisers = [kind(net.parameters(), **settings) for kind, net in zip((ours, theirs), nets, strict=True)]
    for step in range(6):
        images = torch.randn(4, 2, 5, 5)
        for net, optimiser in zip(nets, optimisers, strict=True):
            optimiser.param_groups[0]["lr"] = 0.01 / (step + 1)
            optimiser.zero_grad(set_to_none=True)
            net(images).square().mean().backward()
            optimiser.step()
        if step == 2:  # each continues from the state of the other
            states = [optimiser.state_dict() for optimiser in optimisers]
            optimisers[0].load_state_dict(states[1])
            optimisers[1].load_state_dict(states[0])
    for one, other in zip(*(net.state_dict().values() for net in nets), strict=True):
        assert torch.equal(one, other)
    mine, wanted = (optimiser.state_dict() for optimiser in optimisers)
    assert mine["state"].keys() == wanted["state"].keys()
    for parameter, state in wanted["state"].items():
        for name, value in state.items():
            found = mine["state"][parameter][name]
            assert value is found is None or torch.equal(found, value), name


def test_training_on_the_cpu_does_not_import_the_compiler_of_torch():
    code = """
import sys, torch
from convergence.networks.devices import reproducible_arithmetic
from convergence.training.optimisers import AdamW
import convergence.functional.compression.experiment, convergence.functional.averaging.experiment
reproducible_arithmetic(1)
net = torch.nn.Linear(2, 2)
optimiser = AdamW(net.parameters())
net(torch.ones(1, 2)).sum().backward()
optimiser.step(), optimiser.zero_grad(), optimiser.load_state_dict(optimiser.state_dict())
assert torch.are_deterministic_algorithms_enabled()
print(sorted({"torch._dynamo", "torch._inductor", "sympy", "sklearn", "scipy.stats"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
