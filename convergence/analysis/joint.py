"""All active units of some nets, joined: correlations by image groups, and trajectories over epochs.

A comparison with ``epochs`` holds every net at every epoch. The partner of a unit is the one that one-to-one matching
of two nets at their last epoch gives it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from convergence.alignment.matching import matching
from convergence.analysis.active_units import ActiveUnits
from convergence.analysis.steps import Numbers, Replicated, Tree, full
from convergence.statistics.file import ComparisonSums
from convergence.statistics.moments import correlation, covariance

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class JointCorrelations:
    """The joined active units of nets in the order given.

    Attributes
    ----------
    units : (n,) indices along the comparison's axis
    net_of_unit : (n,) index into the nets given
    """

    def __init__(self, sums: ComparisonSums, live: ActiveUnits, nets: Sequence[str]) -> None:
        self._sums = sums
        of_nets = [sums.units(net)[live.alive[sums.units(net)]] for net in nets]
        self.units = np.concatenate(of_nets)
        self.net_of_unit = np.repeat(np.arange(len(nets)), [len(units) for units in of_nets])
        self._products: Float64 | None = None
        self._halves: dict[int, Float64] = {}

    @property
    def n_groups(self) -> int:
        """Image groups."""
        return len(self._sums.group_count)

    def pooled(self) -> Float64:
        """(n, n) over all groups."""
        return self._correlation(np.arange(self.n_groups), self._total())

    def without(self) -> Iterator[Float64]:
        """(n, n) over all groups but one, for each in turn."""
        for g in range(self.n_groups):
            yield self.without_group(g)

    def without_group(self, g: int) -> Float64:
        """(n, n) over all groups but ``g``."""
        kept = np.delete(np.arange(self.n_groups), g)
        return self._correlation(kept, np.subtract(self._total(), self._of_group(g)))

    def half(self, which: int) -> Float64:
        """(n, n) over the even groups (0) or the odd ones (1)."""
        return self._correlation(np.arange(self.n_groups)[which::2], self._half(which))

    def half_without(self, g: int) -> Float64:
        """(n, n) over the half of the groups that group ``g`` is in, but without it; over it all, if it is alone."""
        half = np.arange(self.n_groups)[g % 2 :: 2]
        if len(half) < 2:
            return self.half(g % 2)
        return self._correlation(half[half != g], np.subtract(self._half(g % 2), self._of_group(g)))

    def of_groups(self, own: Indices) -> Iterator[Float64]:
        """Correlations (n_own, n_own) of the units at positions ``own`` by group, about the means of all groups."""
        first, last = int(self.units[own].min()), int(self.units[own].max()) + 1
        place = self.units[own] - first
        count, sums = self._sums.group_count, self._sums.group_sums[:, self.units[own]]
        mean = sums.sum(axis=0) / count.sum()
        variance = np.diagonal(self._total())[own] / count.sum() - mean**2
        for g in range(self.n_groups):
            products = np.asarray(self._sums.group_products[g, first:last, first:last])[np.ix_(place, place)]
            yield about(products, sums[g], float(count[g]), mean, np.sqrt(variance))

    def _half(self, which: int) -> Float64:
        if which not in self._halves:
            self._halves[which] = self._of_group(which)
            for g in range(which + 2, self.n_groups, 2):
                self._halves[which] += self._of_group(g)
        return self._halves[which]

    def _total(self) -> Float64:
        if self._products is None:
            self._products = self._of_group(0)
            for g in range(1, self.n_groups):
                self._products += self._of_group(g)
        return self._products

    def _of_group(self, g: int) -> Float64:
        """(n, n) products of a group, read in the span of the units that are wanted."""
        first, last = int(self.units.min()), int(self.units.max()) + 1
        own = self.units - first
        return np.asarray(self._sums.group_products[g, first:last, first:last])[np.ix_(own, own)]

    def _correlation(self, groups: Indices, products: Float64) -> Float64:
        n = float(self._sums.group_count[groups].sum())
        found = correlation(covariance(n, self._sums.group_sums[groups][:, self.units].sum(axis=0), products))
        found = found + found.T
        found /= 2
        np.fill_diagonal(found, 1.0)
        return found


def about(products: Float64, sums: Float64, n: float, mean: Float64, scale: Float64) -> Float64:
    """Covariances (n_units, n_units) of n samples from their products and sums, about a given mean, over a scale."""
    own = sums / n
    return (products / n - np.outer(own, mean) - np.outer(mean, own) + np.outer(mean, mean)) / np.outer(scale, scale)


def trajectories(sums: ComparisonSums, live: ActiveUnits) -> Tree:
    """By layer: each net with its last epoch, and each pair of nets at equal epochs; {} for a single epoch.

    Units that are inactive at an epoch have no partner then, and correlation 0 with themselves at the last epoch. Units
    that are inactive at the last epoch are left out.
    """
    tree: Tree = {}
    for layer in dict.fromkeys(sums.layers):
        members = {
            (net, epoch): name
            for name, net, epoch, of_layer in zip(sums.nets, sums.of_net, sums.epochs, sums.layers, strict=True)
            if of_layer == layer and epoch >= 0
        }
        epochs = sorted({epoch for _, epoch in members})
        nets = [n for n in dict.fromkeys(net for net, _ in members) if all((n, e) in members for e in epochs)]
        if len(epochs) > 1 and nets:
            names = [members[net, epoch] for net in nets for epoch in epochs]
            tree[layer] = _Trajectories(sums, live, nets, epochs, names).tree()
    return tree


class _Trajectories:
    def __init__(
        self, sums: ComparisonSums, live: ActiveUnits, nets: list[str], epochs: list[int], names: list[str]
    ) -> None:
        self._nets, self._epochs = nets, epochs
        self._joint = JointCorrelations(sums, live, names)
        starts = np.array([sums.units(name)[0] for name in names])
        index = self._joint.units - starts[self._joint.net_of_unit]
        # Position along the joint axis of every unit of every member, -1 for an inactive one.
        self._place: dict[tuple[str, int], Indices] = {}
        for k, (net, epoch) in enumerate((net, epoch) for net in nets for epoch in epochs):
            own = np.flatnonzero(self._joint.net_of_unit == k)
            self._place[net, epoch] = full(len(sums.units(names[k])), index[own], own)
        pooled = self._joint.pooled()
        self._partners = {pair: self._matching(pooled, *pair, epochs[-1]) for pair in combinations(nets, 2)}

    def tree(self) -> Tree:
        pooled = self._joint.pooled()
        halves = [self._all_partners(self._joint.half(which)) for which in (0, 1)]
        without = []
        for g, left_out in enumerate(self._joint.without()):
            left = list(halves)
            left[g % 2] = self._all_partners(self._joint.half_without(g))
            without.append(self._numbers(left_out) | self._same_partners(left))
        found = Replicated(self._numbers(pooled) | self._same_partners(halves), without)
        tree: Tree = {
            "epochs": np.array(self._epochs),
            "nets": np.array(self._nets, dtype=object),
            "own": {},
            "pairs": {},
        }
        for net in self._nets:
            tree["own"][net] = self._described(found, f"own {net}")
        for x, y in self._partners:
            key = f"{x}|{y}"
            tree["pairs"][key] = {
                "matched": self._described(found, f"matched {key}"),
                "final_partner": self._described(found, f"partner {key}"),
                "same_partner": self._described(found, f"same {key}"),
                "partner": self._partners[x, y],
                "first_matched": self._first_matched(pooled, x, y),
            }
        return tree

    def _described(self, found: Replicated, key: str) -> Tree:
        return {"value": found.values[key], "standard_error": found.error(key)}

    def _numbers(self, correlation: Float64) -> Numbers:
        """Means over units, by epoch."""
        last = self._epochs[-1]
        numbers: Numbers = {}
        for net in self._nets:
            end = self._place[net, last]
            live = np.flatnonzero(end >= 0)
            numbers[f"own {net}"] = np.array(
                [
                    self._at(correlation, self._place[net, e][live], end[live]).sum() / max(len(live), 1)
                    for e in self._epochs
                ]
            )
        for (x, y), partner in self._partners.items():
            has = np.flatnonzero(partner >= 0)
            matched, with_partner = (np.zeros(len(self._epochs)) for _ in range(2))
            for k, epoch in enumerate(self._epochs):
                now = self._matching(correlation, x, y, epoch)
                some = np.flatnonzero(now >= 0)
                place_x, place_y = self._place[x, epoch], self._place[y, epoch]
                if len(some):
                    matched[k] = self._at(correlation, place_x[some], place_y[now[some]]).mean()
                if len(has):
                    with_partner[k] = self._at(correlation, place_x[has], place_y[partner[has]]).mean()
            numbers |= {f"matched {x}|{y}": matched, f"partner {x}|{y}": with_partner}
        return numbers

    def _all_partners(self, correlation: Float64) -> dict[tuple[str, str], list[Indices]]:
        """By pair of nets, the partners of the units at every epoch."""
        return {pair: [self._matching(correlation, *pair, e) for e in self._epochs] for pair in self._partners}

    def _same_partners(self, halves: Sequence[dict[tuple[str, str], list[Indices]]]) -> Numbers:
        """By epoch, the share of units with their partner of the last epoch, by partners of halves of the groups.

        The partner of the last epoch is that of one half and the partner of the epoch that of the other half, mean of
        both ways. So the share at the last epoch says how far images determine the partner, and is not 1 by
        construction.
        """
        numbers: Numbers = {}
        for (x, y), partner in self._partners.items():
            has = np.flatnonzero(partner >= 0)
            same = np.zeros(len(self._epochs))
            for one, other in (halves, halves[::-1]):
                final = one[x, y][-1][has]
                for k, now in enumerate(other[x, y]):
                    same[k] += np.mean((now[has] == final) & (final >= 0)) / 2 if len(has) else 0.0
            numbers[f"same {x}|{y}"] = same
        return numbers

    def _first_matched(self, correlation: Float64, x: str, y: str) -> Indices:
        """(n_x,) the epoch from which on every later matching gives the unit its final partner; −1 without one."""
        partner = self._partners[x, y]
        first = np.where(partner >= 0, self._epochs[-1], -1)
        still = partner >= 0
        for epoch in reversed(self._epochs[:-1]):
            still &= self._matching(correlation, x, y, epoch) == partner
            first[still] = epoch
        return first

    def _matching(self, correlation: Float64, x: str, y: str, epoch: int) -> Indices:
        """(n_x,) the unit of y that each unit of x is matched with, −1 for none."""
        place_x, place_y = self._place[x, epoch], self._place[y, epoch]
        live_x, live_y = np.flatnonzero(place_x >= 0), np.flatnonzero(place_y >= 0)
        if not len(live_x) or not len(live_y):
            return np.full(len(place_x), -1)
        found = matching(correlation[np.ix_(place_x[live_x], place_y[live_y])])
        return full(len(place_x), live_x[found.rows], live_y[found.columns])

    def _at(self, correlation: Float64, rows: Indices, columns: Indices) -> Float64:
        """Correlations of pairs of places, 0 where one is −1."""
        return np.where((rows >= 0) & (columns >= 0), correlation[rows, columns], 0.0)
