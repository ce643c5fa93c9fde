"""A net and the redundancy of its units: which units can be pruned first, and smaller nets without them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from convergence.errors import UserError
from convergence.functional.compression.folding import Consumer, consumer_moments, consumers, fold
from convergence.functional.compression.redundancy import (
    ConsumerMoments,
    Elimination,
    dead_units,
    eliminate,
    eliminate_few,
)
from convergence.functional.costs import Costs, costs
from convergence.functional.surgery.permutations import PermutationGroup, permutation_groups, selected

Indices = npt.NDArray[np.int64]


class PruningMethod(NamedTuple):
    """A way to prune units.

    Attributes
    ----------
    order : of removal: "redundancy", "few", "one", "magnitude" or "random"
    folded : whether the weights of removed units are folded into kept ones
    terms : kept units that predict a removed one: "few", "one" or "" for all
    """

    order: str
    folded: bool
    terms: str = ""


METHODS = {
    "redundancy": PruningMethod("redundancy", True),
    "few": PruningMethod("few", True, "few"),
    "one": PruningMethod("one", True, "one"),
    "redundancy_unfolded": PruningMethod("redundancy", False),
    "magnitude": PruningMethod("magnitude", False),
    "magnitude_folded": PruningMethod("magnitude", True),
    "random": PruningMethod("random", False),
    "random_folded": PruningMethod("random", True),
}


class PrunableNet:
    """A net whose units can be pruned.

    Attributes
    ----------
    name, module, image_shape : of the net
    groups : permutation groups whose units can be pruned, in the order of the layers
    skipped : reasons why other groups cannot be pruned
    consumers : the layers that read each group

    Raises
    ------
    UserError
        for a net without prunable groups, with the reasons.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        image_shape: tuple[int, ...],
        batches: Callable[[], Iterable[torch.Tensor]],
        terms: int,
        seed: int,
    ) -> None:
        self.name, self.module, self.image_shape = name, module, image_shape
        self._batches, self._terms, self._seed = batches, {"few": terms, "one": 1}, seed
        self._eliminations: dict[tuple[str, str], Elimination] = {}
        self.all_groups = permutation_groups(module, image_shape)
        self.skipped: dict[str, str] = {}
        self.consumers: dict[str, list[Consumer]] = {}
        self.groups: list[PermutationGroup] = []
        for group in self.all_groups:
            try:
                if reason := group.fixed or group.whole:
                    raise UserError(reason)
                self.consumers[group.name] = consumers(module, group)
            except UserError as error:
                self.skipped[group.name] = str(error)
            else:
                self.groups.append(group)
        if not self.groups:
            reasons = "; ".join(f"{group}: {reason}" for group, reason in self.skipped.items())
            raise UserError(
                f"{name}: no layer has units that can be pruned ({reasons}). Remove the net from "
                "functional.compress.nets."
            )

    @cached_property
    def moments(self) -> dict[str, list[ConsumerMoments]]:
        """Input moments of each consumer of each group, from training images."""
        return consumer_moments(self.module, self.consumers, self._batches())

    @property
    def n_units(self) -> int:
        """Units of all prunable groups."""
        return sum(group.n_units for group in self.groups)

    def dead(self, group: str) -> int:
        """Number of units that are dead to all consumers."""
        return int(np.all([dead_units(moments) for moments in self.moments[group]], axis=0).sum())

    def elimination(self, group: str, kind: str) -> Elimination:
        """The greedy order of a group's units with predictions from all others, "few" of them or "one"."""
        if (group, kind) not in self._eliminations:
            found = self.moments[group]
            self._eliminations[group, kind] = (
                eliminate(found) if kind == "redundancy" else eliminate_few(found, self._terms[kind])
            )
        return self._eliminations[group, kind]

    def order(self, group: PermutationGroup, kind: str, draw: int = 0) -> Indices:
        """(n_units,) the units of a group in the order of removal."""
        if kind == "random":
            generator = np.random.default_rng([self._seed, draw, self.groups.index(group)])
            return generator.permutation(group.n_units).astype(np.int64)
        if kind == "magnitude":
            return np.argsort(magnitudes(self.module, group), kind="stable").astype(np.int64)
        return self.elimination(group.name, kind).order

    def kept(self, share: float, kind: str, groups: Iterable[str], draw: int = 0) -> dict[str, Indices]:
        """Units that are kept when a share of some groups is removed, ascending; at least one per group."""
        found = {}
        for group in self.groups:
            if group.name in groups:
                n = min(round(share * group.n_units), group.n_units - 1)
                found[group.name] = np.sort(self.order(group, kind, draw)[n:])
        return found

    def pruned(self, kept: Mapping[str, Indices], method: PruningMethod) -> nn.Module:
        """A smaller net with the kept units, after folding if the method folds."""
        module = self.module
        if method.folded:
            module = copy.deepcopy(module)
            for group, units in kept.items():
                fold(module, self.consumers[group], self.moments[group], units, self._terms.get(method.terms))
        return selected(module, self.all_groups, kept).eval()

    def costs(self, module: nn.Module, kept: Mapping[str, Indices]) -> Costs:
        """The costs of a net with the kept units."""
        units = sum(len(kept.get(group.name, range(group.n_units))) for group in self.groups)
        return costs(module, self.image_shape, units)


def magnitudes(module: nn.Module, group: PermutationGroup) -> npt.NDArray[np.float64]:
    """(n_units,) L1 norms of the weights that compute each unit (Li et al. 2017), as in ``torch.nn.utils.prune``.

    Where several layers compute a unit together (residual addition) it is the sum over them.
    """
    total = np.zeros(group.n_units)
    state = module.state_dict()
    for axis in group.of_role("out"):
        weight = state[axis.parameter]
        if weight.ndim > 1:
            norms = weight.double().movedim(axis.dim, 0).flatten(1).abs().sum(1).cpu().numpy()
            total += norms[axis.entries(np.arange(group.n_units))].reshape(group.n_units, axis.span).sum(1)
    return total
