"""What reads a layer's units, the moments of what it reads, and outgoing weights folded into the units that are kept.

A reader is a convolution or linear layer whose weights run over the units. Moments are taken at its input: behind
activation function, normalisation and pooling, where the next operation is linear. If x_removed ≈ P x_kept + c there,

    W x + b ≈ (W_kept + W_removed P) x_kept + (b + W_removed c),

with the same P at every position and for every offset of a kernel. It is exact where the prediction is. Convolutions
with padding read zeros beyond the border, where a constant c would be wrong; they, and readers without a bias, are
given predictions through the origin (c = 0, second moments about zero), which are right at the border, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from convergence.errors import UserError
from convergence.functional.redundancy import Reader, predicted
from convergence.functional.spaces import Space

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class Reading(NamedTuple):
    """How a module reads the units of a space.

    Attributes
    ----------
    module : its name
    entries : (n_units, positions) int, the entries of its input axis that are of each unit: one for a convolution,
        one a position for a linear layer behind a flattened map
    constant : whether predictions may have a constant
    """

    module: str
    entries: Indices
    constant: bool


def readings(module: nn.Module, space: Space) -> list[Reading]:
    """All readers of a space.

    Raises
    ------
    UserError
        for a space that is read by something else than convolutions and linear layers.
    """
    found = []
    for slot in space.of_role("in"):
        name, _, kind = slot.parameter.rpartition(".")
        layer = module.get_submodule(name)
        if kind != "weight" or slot.axis != 1 or not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            raise UserError(
                f"the units of {space.name} are read by {slot.parameter} of a {type(layer).__name__}; weights can be "
                "folded in convolutions and linear layers only."
            )
        padded = isinstance(layer, nn.modules.conv._ConvNd) and any(layer._reversed_padding_repeated_twice)
        entries = slot.entries(np.arange(space.n_units)).reshape(space.n_units, slot.span)
        found.append(Reading(name, entries, layer.bias is not None and not padded))
    if not found:
        raise UserError(f"the units of {space.name} are read by no convolution or linear layer.")
    return found


@torch.no_grad()
def readers(
    module: nn.Module, wanted: Mapping[str, Sequence[Reading]], batches: Iterable[torch.Tensor]
) -> dict[str, list[Reader]]:
    """The moments of what each reader of each space sees of images, from one pass over them, and its weights."""
    sums: dict[tuple[str, int], list[Float64]] = {}
    n_images = 0

    def note(key: tuple[str, int], reading: Reading, values: torch.Tensor) -> None:
        x = _samples(module.get_submodule(reading.module), values, reading.entries).double()
        more = [np.array([len(x)], np.float64), x.sum(0).cpu().numpy(), (x.T @ x).cpu().numpy()]
        sums[key] = [a + b for a, b in zip(sums[key], more, strict=True)] if key in sums else more

    hooks = []
    for space, several in wanted.items():
        for k, reading in enumerate(several):
            layer = module.get_submodule(reading.module)
            hooks.append(
                layer.register_forward_pre_hook(
                    lambda _, given, key=(space, k), reading=reading: note(key, reading, given[0])
                )
            )
    try:
        for batch in batches:
            module(batch)
            n_images += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
    found: dict[str, list[Reader]] = {}
    for space, several in wanted.items():
        for k, reading in enumerate(several):
            count, total, products = sums[space, k]
            if not np.isfinite(products).all():
                raise UserError(f"{reading.module} reads values of {space} that are not finite.")
            about = total / count if reading.constant else np.zeros_like(total)
            moments = products / count - np.outer(about, about)
            weights = _columns(module.get_submodule(reading.module), reading.entries)
            found.setdefault(space, []).append(Reader(moments, about, weights))
    return found


@torch.no_grad()
def fold(
    module: nn.Module,
    several: Sequence[Reading],
    moments: Sequence[Reader],
    kept: Indices,
    terms: int | None = None,
) -> None:
    """Fold what leads away from the units that are not kept into those that are, in place.

    Afterwards the weights of the others no longer matter, and they can be cut out. ``terms``: most units that stand in
    for one; all that are kept if None.
    """
    removed = np.setdiff1d(np.arange(len(moments[0].moments)), kept)
    for reading, reader in zip(several, moments, strict=True):
        layer = module.get_submodule(reading.module)
        matrix, constant = predicted(reader, kept, removed, terms)
        weight = layer.weight
        assert isinstance(weight, nn.Parameter)
        exact = weight.double()
        into, out_of = (torch.from_numpy(reading.entries[some]).to(weight.device) for some in (kept, removed))
        share = torch.from_numpy(matrix).to(weight.device)
        leaving = exact[:, out_of]  # (out, removed, positions, …)
        exact[:, into] += torch.einsum("orp...,rk->okp...", leaving, share)
        weight.copy_(exact)
        if reading.constant and isinstance(layer.bias, nn.Parameter):
            amount = torch.einsum("orp,r->o", leaving.flatten(2), torch.from_numpy(constant).to(weight.device))
            layer.bias.copy_(layer.bias.double() + amount)


def _samples(layer: nn.Module, values: torch.Tensor, entries: Indices) -> torch.Tensor:
    """Units at one place after another, (samples, n_units), of what a layer is given."""
    index = torch.from_numpy(entries).to(values.device)
    if isinstance(layer, nn.Linear):
        return values[..., index].movedim(-2, -1).reshape(-1, len(entries))
    return values[:, index[:, 0]].movedim(1, -1).reshape(-1, len(entries))


def _columns(layer: nn.Module, entries: Indices) -> Float64:
    """(m, n_units) weights: all that leads away from a unit in its column."""
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    columns = weight.detach().double().cpu()[:, torch.from_numpy(entries)]  # (out, n_units, positions, …)
    return np.asarray(columns.movedim(1, -1).reshape(-1, len(entries)).numpy())
