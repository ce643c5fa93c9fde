"""Layers factored by the principal components of their inputs, the alternative to pruning units.

Each consumer W of a layer with second moments M becomes two layers, (W U) Uᵀ, with the r first principal components U
of M (about the mean where the consumer takes a constant). Of all projections of rank r this loses least of the second
moment (Eckart and Young 1936); compare Denton et al. 2014 and Jaderberg et al. 2014.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from convergence.functional.compression.folding import Consumer
from convergence.functional.compression.redundancy import ConsumerMoments, Float64


class ComponentLinear(nn.Module):
    """A linear layer behind a flattened map that reads principal components of the units at every position."""

    entries: torch.Tensor

    def __init__(self, entries: torch.Tensor, project: nn.Linear, read: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("entries", entries)
        self.project, self.read = project, read

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        components = self.project(values[..., self.entries].movedim(-2, -1))
        answer: torch.Tensor = self.read(components.flatten(-2))
        return answer


@torch.no_grad()
def projected(
    module: nn.Module,
    consumers: Mapping[str, Sequence[Consumer]],
    moments: Mapping[str, Sequence[ConsumerMoments]],
    share: float,
) -> nn.Module:
    """A copy of a net whose consumers read only the first principal components of their units.

    ``share`` of the components are kept, at least one, in every consumer where that saves multiplications; consumers of
    several permutation groups are not changed.
    """
    found = copy.deepcopy(module)
    for group, several in consumers.items():
        for consumer, read in zip(several, moments[group], strict=True):
            layer = found.get_submodule(consumer.module)
            weight = layer.weight
            assert isinstance(weight, torch.Tensor)
            n_units = len(consumer.entries)
            rank, outputs = max(1, round(share * n_units)), weight[0, 0].numel() * len(weight)
            whole = weight.shape[1] == consumer.entries.size and getattr(layer, "groups", 1) == 1
            if not whole or rank * (n_units + outputs) >= n_units * outputs:
                continue
            _, vectors = np.linalg.eigh(read.moments)
            basis = np.ascontiguousarray(vectors[:, ::-1][:, :rank])
            parent, _, name = consumer.module.rpartition(".")
            new = _factors(layer, consumer, basis, read.center)
            setattr(found.get_submodule(parent), name, new.to(weight.device))
    return found.eval()


def _factors(layer: nn.Module, consumer: Consumer, basis: Float64, center: Float64) -> nn.Module:
    """Layers that compute W (center + U Uᵀ (x - center)) + b."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, torch.Tensor)
    entries = torch.from_numpy(np.asarray(consumer.entries)).to(weight.device)
    components = torch.from_numpy(basis).to(weight.device)
    each = weight.double()[:, entries]  # (out, n_units, positions, …)
    reads = torch.einsum("onp...,nr->orp...", each, components)
    rest = torch.from_numpy(center).to(weight.device)
    rest = torch.einsum("onp,n->o", each.flatten(2), rest - components @ (components.T @ rest))
    n_units, rank = basis.shape
    if isinstance(layer, nn.Linear):
        project = nn.Linear(n_units, rank, bias=False)
        read = nn.Linear(entries.shape[1] * rank, len(weight), bias=bias is not None)
        project.weight.copy_(components.T)
        read.weight.copy_(reads.movedim(1, 2).flatten(1))  # (positions, rank), as ComponentLinear flattens them
        new: nn.Module = ComponentLinear(entries, project, read)
    else:
        assert isinstance(layer, nn.modules.conv._ConvNd)
        kind = type(layer)
        project_maps = kind(n_units, rank, 1, bias=False)  # type: ignore[call-arg, arg-type]
        project_maps.weight.copy_(components.T.reshape(project_maps.weight.shape))
        read_maps = copy.deepcopy(layer)
        read_maps.in_channels = rank
        order = torch.argsort(entries[:, 0])
        project_maps.weight.copy_(project_maps.weight[:, order])
        read_maps.weight = nn.Parameter(reads[:, :, 0].to(weight.dtype))
        new, read = nn.Sequential(project_maps, read_maps), read_maps  # type: ignore[assignment]
    if bias is not None:
        assert isinstance(bias, torch.Tensor)
        read.bias.copy_(bias.double() + rest)
    return new
