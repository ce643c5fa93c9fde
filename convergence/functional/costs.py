"""What a net costs to run, counted from the net as it is: units, parameters, multiply–adds an image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class Costs(NamedTuple):
    """Of a net.

    Attributes
    ----------
    units : units of its hidden layers; what counts as one is the caller's to say
    parameters : weights and biases, without running statistics
    multiply_adds : multiplications with a weight for one image, in convolutions and linear layers; biases, norms,
        activation functions and pooling are left out, as is usual
    """

    units: int
    parameters: int
    multiply_adds: int


@torch.no_grad()
def costs(module: nn.Module, image_shape: tuple[int, int, int], units: int) -> Costs:
    """Count by one forward pass of an empty image: every convolution and linear layer says what it multiplied."""
    total = 0

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        # Every value of the output is a sum over all weights of its unit.
        total += output.numel() * (weight.numel() // weight.shape[0])

    hooks = [layer.register_forward_hook(count) for layer in module.modules() if isinstance(layer, COUNTED)]
    try:
        device = next(module.parameters()).device
        module(torch.zeros(1, *image_shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return Costs(units, sum(p.numel() for p in module.parameters()), total)
