"""Means over pairs of nets, with the replicates that delete a net: numbers for intervals over nets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convergence.inference.populations import NONE, Float64, NetsNumber, NumberKind


@dataclass(frozen=True, eq=False)
class PairUnits:
    """The units of a list of pairs of nets, by population.

    Attributes
    ----------
    names : by population, the (n_units,) names of its units
    members : by population, (n_units, n_pairs) whether the pair has a net of the unit
    """

    names: Mapping[str, tuple[str, ...]]
    members: Mapping[str, npt.NDArray[np.bool_]]

    @classmethod
    def of(cls, pairs: Sequence[Sequence[tuple[str, str]]]) -> PairUnits:
        """From the nets of each pair, each a (population, unit)."""
        names: dict[str, dict[str, int]] = {}
        for pair in pairs:
            for population, unit in pair:
                place = names.setdefault(population, {})
                place.setdefault(unit, len(place))
        members = {population: np.zeros((len(units), len(pairs)), bool) for population, units in names.items()}
        for k, pair in enumerate(pairs):
            for population, unit in pair:
                members[population][names[population][unit], k] = True
        return cls({population: tuple(units) for population, units in names.items()}, members)

    def mean(
        self,
        values: Float64,
        without_groups: Float64,
        smooth: bool = True,
        monte_carlo: tuple[float, int] = (0.0, 1),
        kind: NumberKind = "plain",
    ) -> NetsNumber:
        """The mean over pairs of a number, (n_pairs,), that is ``without_groups`` (n_pairs, n_groups) without a group.

        Pairs whose value is NaN do not have the number; units without a pair that has it take no part.
        """
        has = np.isfinite(values)
        total, n = float(values[has].sum()), int(has.sum())
        nets: dict[str, dict[str, float]] = {}
        for population, names in self.names.items():
            members = self.members[population][:, has]
            of_unit, sums = members.sum(axis=1), members @ values[has]
            for name, k, own in zip(names, of_unit.tolist(), sums.tolist(), strict=True):
                if k:
                    nets.setdefault(population, {})[name] = (total - own) / (n - k) if k < n else NONE
        return NetsNumber(total / n, without_groups[has].mean(axis=0), nets, smooth, monte_carlo, kind)


def plain_mean_without(values: Float64, pairs: Sequence[Sequence[tuple[str, str]]], deleted: tuple[str, str]) -> float:
    """The mean over the pairs without a (population, unit), as :meth:`PairUnits.mean` has to give it."""
    return float(np.mean([value for value, pair in zip(values, pairs, strict=True) if deleted not in pair]))
