"""What a net costs to run: units, parameters and multiply–adds per image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from convergence.networks.work import multiply_adds


class Costs(NamedTuple):
    """Costs of a net.

    Attributes
    ----------
    units : units of its hidden layers, as the caller counts them
    parameters : weights and biases, without running statistics
    multiply_adds : for one image, in convolutions and linear layers; biases, norms, activation functions and pooling
        are not counted
    """

    units: int
    parameters: int
    multiply_adds: int


def costs(module: nn.Module, image_shape: tuple[int, ...], units: int) -> Costs:
    """The costs of a net with ``units`` units."""
    image = torch.zeros(1, *image_shape, device=next(module.parameters()).device)
    return Costs(units, sum(p.numel() for p in module.parameters()), multiply_adds(module, image))
