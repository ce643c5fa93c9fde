"""The net of ANI-1x: for each of the elements H, C, N and O a perceptron, whose results are added."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

DATA = Path(__file__).parent / "data"
ELEMENTS = "HCNO"
WIDTHS = {"H": (160, 128, 96), "C": (144, 112, 96), "N": (128, 112, 96), "O": (128, 112, 96)}
N_INPUTS = 384


class AtomicNets(nn.Module):
    """Energies (n, 1) of atoms (n, 4, 384): one of each element, described by its atomic environment vector (AEV).

    Layers are named by element and number: ``C.layer2``. Initial weights are those of torchani's training example:
    normal with variance 1 / n_inputs of a layer (Kaiming, a = 1), and biases of 0.
    """

    def __init__(self) -> None:
        super().__init__()
        for element in ELEMENTS:
            sizes = (N_INPUTS, *WIDTHS[element])
            net = nn.Sequential()
            for k in range(3):
                net.add_module(f"layer{k + 1}", nn.Linear(sizes[k], sizes[k + 1]))
                net.add_module(f"celu{k + 1}", nn.CELU(0.1))
            net.add_module("energy", nn.Linear(sizes[-1], 1))
            self.add_module(element, net)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, a=1.0)
                nn.init.zeros_(module.bias)

    def forward(self, atoms: torch.Tensor) -> torch.Tensor:
        """Sum of the energies of the four atoms."""
        energies = [self.get_submodule(element)(atoms[:, k]) for k, element in enumerate(ELEMENTS)]
        return torch.stack(energies).sum(0)


def ani() -> nn.Module:
    """Build the net."""
    return AtomicNets()


class RotatedUnits(AtomicNets):
    """The first net of ANI-1x with other bases: what nets would be that share subspaces and no unit.

    ``C.rotated2`` is CELU of the pre-activations of ``C.layer2``, standardised, rotated at random, and scaled to the
    mean and the deviation of the unit in whose place they are. Nets of other seeds have other rotations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.load_state_dict(load_file(DATA / "ani1.safetensors"))
        atoms = torch.from_numpy(np.load(DATA / "atoms.npy"))
        with torch.no_grad():
            for at, element in ((1, "C"), (2, "N")):
                net, values = self.get_submodule(element), atoms[:, at]
                for k in (1, 2, 3):
                    before = net.get_submodule(f"layer{k}")(values)
                    values = net.get_submodule(f"celu{k}")(before)
                    net.add_module(f"rotated{k}", in_another_basis(before.double()))
                    net.add_module(f"rotated_celu{k}", nn.CELU(0.1))

    def forward(self, atoms: torch.Tensor) -> torch.Tensor:
        shown = []
        for at, element in ((1, "C"), (2, "N")):
            net, values = self.get_submodule(element), atoms[:, at]
            for k in (1, 2, 3):
                before = net.get_submodule(f"layer{k}")(values)
                values = net.get_submodule(f"celu{k}")(before)
                rotated = net.get_submodule(f"rotated_celu{k}")(net.get_submodule(f"rotated{k}")(before))
                shown.append(rotated.sum(1, keepdim=True))
        return torch.stack(shown).sum(0)


def in_another_basis(before: torch.Tensor) -> nn.Linear:
    """A linear map that rotates pre-activations (n, units) and gives each unit the moments of the one in its place."""
    n = before.shape[1]
    mean, deviation = before.mean(0), before.std(0)
    rotation = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q
    weight = rotation.T / deviation
    weight *= (deviation / ((before - mean) @ weight.T).std(0))[:, None]
    layer = nn.Linear(n, n)
    layer.weight.copy_(weight)
    layer.bias.copy_(mean - weight @ mean)
    return layer


def rotated() -> nn.Module:
    """Build a net with rotated pre-activations."""
    return RotatedUnits()
