"""Permuting the units of workers onto those of the first one before their weights are averaged.

The same function has many sets of weights, one for each order of its units. Workers that went to different orders meet
badly in the middle; permuted onto the first one they may meet well (Ainsworth et al. 2023, arXiv 2209.04836). By
weights it is :func:`convergence.functional.aligning.weight_orders`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from convergence.functional.spaces import Space
from convergence.networks.layer_reader import LayerReader, as_maps

Orders = dict[str, npt.NDArray[np.intp]]
State = Mapping[str, torch.Tensor]


def free_spaces(spaces: Sequence[Space]) -> list[Space]:
    """Those whose units can change places."""
    return [space for space in spaces if not space.fixed and space.n_units > 1]


def random_orders(spaces: Sequence[Space], generator: np.random.Generator) -> Orders:
    """An order of the units of each space at random."""
    return {space.name: generator.permutation(space.n_units) for space in free_spaces(spaces)}


class ActivationMatcher:
    """Matches units by the correlation of what they answer to the same images (Li et al. 2016, section 3.2).

    Parameters
    ----------
    module : a net of the workers' kind, which takes their weights in turn
    spaces : its unit spaces
    batches : images
    """

    def __init__(self, module: nn.Module, spaces: Sequence[Space], batches: Sequence[torch.Tensor]) -> None:
        self.module, self.spaces, self.batches = module, free_spaces(spaces), batches
        self.layers = {space.name: space.layers[0] for space in self.spaces if space.layers}

    def answers(self, state: State) -> dict[str, torch.Tensor]:
        """By space: (n_images · n_positions, n_units) in float64 on the CPU."""
        self.module.load_state_dict(dict(state))
        reader = LayerReader(self.module, list(dict.fromkeys(self.layers.values())))
        found: dict[str, list[torch.Tensor]] = {name: [] for name in self.layers}
        for batch in self.batches:
            outputs = reader(batch)
            for name, layer in self.layers.items():
                maps = as_maps(outputs[layer])
                found[name].append(maps.movedim(1, 2).flatten(0, 1).cpu())
        return {name: torch.cat(parts).double() for name, parts in found.items()}

    def match(self, onto: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> Orders:
        """Orders that make units answer like the other's; a unit that never varies correlates with none."""
        orders: Orders = {}
        for name, x in onto.items():
            correlation = (_standardised(x).T @ _standardised(given[name])).numpy()
            orders[name] = linear_sum_assignment(correlation, maximize=True)[1]
        return orders

    def bytes_of(self, answers: Mapping[str, torch.Tensor]) -> int:
        """Bytes of answers in float32, as they would be sent."""
        return sum(4 * value.numel() for value in answers.values())


def _standardised(values: torch.Tensor) -> torch.Tensor:
    centred = values - values.mean(0)
    norm = centred.norm(dim=0)
    return centred / torch.where(norm > 1e-12 * (1 + values.abs().amax(0)), norm, torch.inf)


def moved(orders: Orders) -> float:
    """Share of units that change places."""
    n = sum(len(order) for order in orders.values())
    return sum(int((order != np.arange(len(order))).sum()) for order in orders.values()) / n if n else 0.0
