"""A net and what is known of its units: who could go first, and who would stand in."""

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
from convergence.functional.costs import Costs, costs
from convergence.functional.folding import Reading, fold, readers, readings
from convergence.functional.redundancy import Elimination, Reader, dead_units, eliminate, eliminate_few
from convergence.functional.spaces import Space, selected, unit_spaces

Indices = npt.NDArray[np.int64]


class Rule(NamedTuple):
    """A way to make a net smaller.

    Attributes
    ----------
    order : by which units go: "redundancy", "few", "one", "magnitude", "random"
    folded : whether the units that stay take over the weights of those that go
    few : by how many of them each; "" for all, "few" or "one"
    """

    order: str
    folded: bool
    few: str = ""


RULES = {
    "redundancy": Rule("redundancy", True),
    "few": Rule("few", True, "few"),
    "one": Rule("one", True, "one"),
    "redundancy_unfolded": Rule("redundancy", False),
    "magnitude": Rule("magnitude", False),
    "magnitude_folded": Rule("magnitude", True),
    "random": Rule("random", False),
    "random_folded": Rule("random", True),
}


class Compressible:
    """A net whose units can be taken out.

    Attributes
    ----------
    name, module, image_shape : of the net
    spaces : those whose units can go, in the order of the layers
    left_out : of the others, why not
    readings : what reads each space

    Raises
    ------
    UserError
        for a net without such spaces, with the reasons.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        image_shape: tuple[int, int, int],
        batches: Callable[[], Iterable[torch.Tensor]],
        terms: int,
        seed: int,
    ) -> None:
        self.name, self.module, self.image_shape = name, module, image_shape
        self._batches, self._terms, self._seed = batches, {"few": terms, "one": 1}, seed
        self.all_spaces = unit_spaces(module, image_shape)
        self.left_out: dict[str, str] = {}
        self.readings: dict[str, list[Reading]] = {}
        self.spaces: list[Space] = []
        for space in self.all_spaces:
            try:
                if reason := space.fixed or space.whole:
                    raise UserError(reason)
                self.readings[space.name] = readings(module, space)
            except UserError as error:
                self.left_out[space.name] = str(error)
            else:
                self.spaces.append(space)
        if not self.spaces:
            reasons = "; ".join(f"{space}: {reason}" for space, reason in self.left_out.items())
            raise UserError(
                f"{name}: no layer has units that can be taken out ({reasons}). Leave the net out of "
                "functional.compress.nets."
            )

    @cached_property
    def readers(self) -> dict[str, list[Reader]]:
        """The moments of what each reader of each space sees, from training images."""
        return readers(self.module, self.readings, self._batches())

    @property
    def n_units(self) -> int:
        """Units of all spaces that can be made smaller."""
        return sum(space.n_units for space in self.spaces)

    def dead(self, space: str) -> int:
        """Units that tell no reader anything."""
        return int(np.all([dead_units(reader) for reader in self.readers[space]], axis=0).sum())

    def elimination(self, space: str, kind: str) -> Elimination:
        """Units by redundancy: with all others standing in, "few" of them, or "one"."""
        if (space, kind) not in self._eliminations:
            found = self.readers[space]
            self._eliminations[space, kind] = (
                eliminate(found) if kind == "redundancy" else eliminate_few(found, self._terms[kind])
            )
        return self._eliminations[space, kind]

    def order(self, space: Space, kind: str, draw: int = 0) -> Indices:
        """(n_units,) the units of a space in the order in which they go."""
        if kind == "random":
            generator = np.random.default_rng([self._seed, draw, self.spaces.index(space)])
            return generator.permutation(space.n_units).astype(np.int64)
        if kind == "magnitude":
            return np.argsort(magnitudes(self.module, space), kind="stable").astype(np.int64)
        return self.elimination(space.name, kind).order

    def kept(self, share: float, kind: str, spaces: Iterable[str], draw: int = 0) -> dict[str, Indices]:
        """Units that stay when a share goes of some spaces, at least one unit of each; ascending."""
        found = {}
        for space in self.spaces:
            if space.name in spaces:
                n = min(round(share * space.n_units), space.n_units - 1)
                found[space.name] = np.sort(self.order(space, kind, draw)[n:])
        return found

    def smaller(self, kept: Mapping[str, Indices], rule: Rule) -> nn.Module:
        """The net with these units, and with the others' weights folded into theirs if the rule says so."""
        module = self.module
        if rule.folded:
            module = copy.deepcopy(module)
            for space, units in kept.items():
                fold(module, self.readings[space], self.readers[space], units, self._terms.get(rule.few))
        return selected(module, self.all_spaces, kept).eval()

    def costs(self, module: nn.Module, kept: Mapping[str, Indices]) -> Costs:
        """What a net of these units costs."""
        units = sum(len(kept.get(space.name, range(space.n_units))) for space in self.spaces)
        return costs(module, self.image_shape, units)

    @cached_property
    def _eliminations(self) -> dict[tuple[str, str], Elimination]:
        return {}


def magnitudes(module: nn.Module, space: Space) -> npt.NDArray[np.float64]:
    """(n_units,) L1 norms of the weights that make each unit (Li et al. 2017), as ``torch.nn.utils.prune`` ranks them.

    Where several layers make a unit together (residual addition) it is the sum over them.
    """
    total = np.zeros(space.n_units)
    state = module.state_dict()
    for slot in space.of_role("out"):
        weight = state[slot.parameter]
        if weight.ndim > 1:
            norms = weight.double().movedim(slot.axis, 0).flatten(1).abs().sum(1).cpu().numpy()
            total += norms[slot.entries(np.arange(space.n_units))].reshape(space.n_units, slot.span).sum(1)
    return total
