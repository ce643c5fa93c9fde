"""The layers that consume a group's units, the moments of their inputs, and folding of removed units into kept ones.

A consumer is a convolution or linear layer. Moments are taken at its input: behind activation function, normalisation
and pooling, where the next operation is linear. If x_removed ≈ P x_kept + c there,

    W x + b ≈ (W_kept + W_removed P) x_kept + (b + W_removed c),

with the same P at every position and for every offset of a kernel. Padded convolutions read zeros beyond the border,
where a constant c would be wrong; they, and consumers without a bias, get predictions through the origin (c = 0, second
moments about zero).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from convergence.errors import UserError
from convergence.functional.compression.redundancy import ConsumerMoments, predicted
from convergence.functional.surgery.permutations import PermutationGroup

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class Consumer(NamedTuple):
    """A module that reads the units of a group.

    Attributes
    ----------
    module : its name
    entries : (n_units, positions) indices along its input axis of each unit; one position for a convolution, all
        positions for a linear layer behind a flattened map
    constant : whether predictions may have a constant
    """

    module: str
    entries: Indices
    constant: bool


def consumers(module: nn.Module, group: PermutationGroup) -> list[Consumer]:
    """All consumers of a group.

    Raises
    ------
    UserError
        for a group that other layers than convolutions and linear layers read.
    """
    found = []
    for axis in group.of_role("in"):
        name, _, kind = axis.parameter.rpartition(".")
        layer = module.get_submodule(name)
        if kind != "weight" or axis.dim != 1 or not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            raise UserError(
                f"the units of {group.name} are read by {axis.parameter} of a {type(layer).__name__}; only "
                "convolutions and linear layers can take over the weights of removed units."
            )
        padded = isinstance(layer, nn.modules.conv._ConvNd) and any(layer._reversed_padding_repeated_twice)
        entries = axis.entries(np.arange(group.n_units)).reshape(group.n_units, axis.span)
        found.append(Consumer(name, entries, layer.bias is not None and not padded))
    if not found:
        raise UserError(f"the units of {group.name} are read by no convolution or linear layer.")
    return found


@torch.no_grad()
def consumer_moments(
    module: nn.Module, wanted: Mapping[str, Sequence[Consumer]], batches: Iterable[torch.Tensor]
) -> dict[str, list[ConsumerMoments]]:
    """Input moments and weights of each consumer of each group, from one pass over images."""
    sums: dict[tuple[str, int], list[Float64]] = {}

    def note(key: tuple[str, int], consumer: Consumer, values: torch.Tensor) -> None:
        x = _samples(module.get_submodule(consumer.module), values, consumer.entries).double()
        more = [np.array([len(x)], np.float64), x.sum(0).cpu().numpy(), (x.T @ x).cpu().numpy()]
        sums[key] = [a + b for a, b in zip(sums[key], more, strict=True)] if key in sums else more

    hooks = []
    for group, several in wanted.items():
        for k, consumer in enumerate(several):
            layer = module.get_submodule(consumer.module)
            hooks.append(
                layer.register_forward_pre_hook(
                    lambda _, given, key=(group, k), consumer=consumer: note(key, consumer, given[0])
                )
            )
    try:
        for batch in batches:
            module(batch)
    finally:
        for hook in hooks:
            hook.remove()
    found: dict[str, list[ConsumerMoments]] = {}
    for group, several in wanted.items():
        for k, consumer in enumerate(several):
            count, total, products = sums[group, k]
            if not np.isfinite(products).all():
                raise UserError(f"{consumer.module} reads values of {group} that are not finite.")
            center = total / count if consumer.constant else np.zeros_like(total)
            moments = products / count - np.outer(center, center)
            weights = _columns(module.get_submodule(consumer.module), consumer.entries)
            found.setdefault(group, []).append(ConsumerMoments(moments, center, weights))
    return found


@torch.no_grad()
def fold(
    module: nn.Module,
    consumers: Sequence[Consumer],
    moments: Sequence[ConsumerMoments],
    kept: Indices,
    terms: int | None = None,
) -> None:
    """Fold the outgoing weights of removed units into kept ones, in place; the removed units can then be cut out.

    ``terms``: largest number of units that predict a removed one; None for all kept units.
    """
    removed = np.setdiff1d(np.arange(len(moments[0].moments)), kept)
    for consumer, read in zip(consumers, moments, strict=True):
        layer = module.get_submodule(consumer.module)
        matrix, constant = predicted(read, kept, removed, terms)
        weight = layer.weight
        assert isinstance(weight, nn.Parameter)
        exact = weight.double()
        into, out_of = (torch.from_numpy(consumer.entries[some]).to(weight.device) for some in (kept, removed))
        share = torch.from_numpy(matrix).to(weight.device)
        leaving = exact[:, out_of]  # (out, removed, positions, …)
        exact[:, into] += torch.einsum("orp...,rk->okp...", leaving, share)
        weight.copy_(exact)
        if consumer.constant and isinstance(layer.bias, nn.Parameter):
            amount = torch.einsum("orp,r->o", leaving.flatten(2), torch.from_numpy(constant).to(weight.device))
            layer.bias.copy_(layer.bias.double() + amount)


def _samples(layer: nn.Module, values: torch.Tensor, entries: Indices) -> torch.Tensor:
    """(samples, n_units): the units at each position of a layer's input."""
    index = torch.from_numpy(entries).to(values.device)
    if isinstance(layer, nn.Linear):
        return values[..., index].movedim(-2, -1).reshape(-1, len(entries))
    return values[:, index[:, 0]].movedim(1, -1).reshape(-1, len(entries))


def _columns(layer: nn.Module, entries: Indices) -> Float64:
    """(m, n_units) outgoing weights, a column per unit."""
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    columns = weight.detach().double().cpu()[:, torch.from_numpy(entries)]  # (out, n_units, positions, …)
    return np.asarray(columns.movedim(1, -1).reshape(-1, len(entries)).numpy())
