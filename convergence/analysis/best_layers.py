"""Which layer of another net has a unit's best partner, in comparisons that join several layers of every net.

Every unit of one net looks up its best partner in each layer of another net, and in all of them together (Gurnee et al.
2024, arXiv 2401.12181). Wide layers win more often by chance; the null has every layer of the other net in another
basis, all layers in the same draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from convergence.analysis import cost
from convergence.analysis.active_units import ActiveUnits
from convergence.analysis.joint import JointCorrelations
from convergence.analysis.nulls import NetNull, n_draws
from convergence.analysis.steps import Float64, Indices, Step, Tree, ranges
from convergence.config.stages import AnalysisConfig
from convergence.inference import jackknife_error
from convergence.statistics.file import ComparisonSums

BEST_LAYERS = "best_layers"
NONE = float("nan")


def members_by_net(sums: ComparisonSums, live: ActiveUnits) -> dict[str, list[str]]:
    """By net its members with active units, one a layer; {} unless two nets or more each have several layers."""
    found: dict[str, list[str]] = {}
    layers: dict[str, list[str]] = {}
    for member, net, layer in zip(sums.nets, sums.of_net, sums.layers, strict=True):
        layers.setdefault(net, []).append(layer)
        if live.alive[sums.units(member)].any():
            found.setdefault(net, []).append(member)
    several = all(1 < len(of_net) == len(set(of_net)) for of_net in layers.values())
    return found if several and len(found) > 1 else {}


def best_layer_steps(sums: ComparisonSums, live: ActiveUnits, config: AnalysisConfig) -> list[Step]:
    """The steps of a comparison: ranges of its pairs of nets."""
    members = members_by_net(sums, live)
    n_pairs = len(members) * (len(members) - 1) // 2
    if not n_pairs:
        return []
    widest = 2 * max(sum(len(sums.units(name)) for name in names) for names in members.values())
    most = max(n_draws(sums, name, config) * len(names) for names in members.values() for name in names)
    each = cost.MOMENTS * widest**2 * (len(sums.group_count) + 1 + 2 * most)
    return [
        Step(BEST_LAYERS, "found", first, last, seconds=each * (last - first))
        for first, last in ranges(n_pairs, each, cost.GOAL)
    ]


def best_layers(sums: ComparisonSums, live: ActiveUnits, config: AnalysisConfig, step: Step) -> Tree:
    """Results of the pairs of nets ``first`` … ``last`` − 1, by their number, and of both directions."""
    members = members_by_net(sums, live)
    pairs = list(combinations(members, 2))
    tree: Tree = {}
    for k in range(step.first, step.last):
        x, y = pairs[k]
        pair = _PairOfNets(sums, live, config, members[x], members[y])
        tree[str(k)] = {"xy": {"x": x, "y": y} | pair.tree(0), "yx": {"x": y, "y": x} | pair.tree(1)}
    return tree


@dataclass(frozen=True)
class BestNumbers:
    """Means over the units of each layer of a net, from their best correlations with each layer of another net.

    Attributes
    ----------
    correlation : (n_layers, n_other_layers) of the best partner in a layer
    share : (n_layers, n_other_layers) of the units whose best partner of all layers is in the layer
    best : (n_layers,) correlation of the best partner in all layers
    """

    correlation: Float64
    share: Float64
    best: Float64

    @classmethod
    def of(cls, best: Float64, layer: Indices) -> BestNumbers:
        """From (n_units, n_other_layers) best correlations of units and the (n_units,) layer of each."""
        chosen = best.argmax(axis=1)[:, None] == np.arange(best.shape[1])
        own = [layer == k for k in range(int(layer.max()) + 1)]
        return cls(
            np.stack([best[of].mean(axis=0) for of in own]),
            np.stack([chosen[of].mean(axis=0) for of in own]),
            np.stack([best[of].max(axis=1).mean() for of in own]),
        )


class _PairOfNets:
    def __init__(
        self,
        sums: ComparisonSums,
        live: ActiveUnits,
        config: AnalysisConfig,
        members_x: list[str],
        members_y: list[str],
    ) -> None:
        self._members = (members_x, members_y)
        self._joint = JointCorrelations(sums, live, [*members_x, *members_y])
        self._null = NetNull(sums, live, [*members_x, *members_y], self._joint, config)
        layers = dict(zip(sums.nets, sums.layers, strict=True))
        self._layers = [[layers[name] for name in names] for names in self._members]
        self._found = self._of(self._joint.pooled())
        self._without = [self._of(correlation) for correlation in self._joint.without()]

    def tree(self, which: int) -> Tree:
        """Results of the first net's units (0) or of the second one's."""
        found = self._found[which]
        without = [numbers[which] for numbers in self._without]
        draws = list(self._draws(which))
        null = np.mean([draw.correlation for draw in draws], axis=0) if draws else np.full_like(found.share, NONE)
        share = np.mean([draw.share for draw in draws], axis=0) if draws else np.full_like(found.share, NONE)
        best = np.stack([draw.best for draw in draws]) if draws else np.full((1, len(found.best)), NONE)
        return {
            "layers_x": np.array(self._layers[which], dtype=object),
            "layers_y": np.array(self._layers[1 - which], dtype=object),
            "n_units": np.bincount(self._joint.net_of_unit)[self._places(which)],
            "correlation": found.correlation,
            "correlation_error": jackknife_error([numbers.correlation for numbers in without]),
            "null": null,
            "share": found.share,
            "share_null": share,
            "best": found.best,
            "best_error": jackknife_error([numbers.best for numbers in without]),
            "best_null": best.mean(axis=0),
            "best_null_sd": best.std(axis=0, ddof=1) if len(best) > 1 else np.full(len(found.best), NONE),
            "null_draws": len(draws),
        }

    def _places(self, which: int) -> slice:
        """Members of a net among those of both."""
        n_x, n_y = (len(names) for names in self._members)
        return slice(0, n_x) if which == 0 else slice(n_x, n_x + n_y)

    def _of(self, correlation: Float64) -> tuple[BestNumbers, BestNumbers]:
        net_of_unit, n_x = self._joint.net_of_unit, len(self._members[0])
        layer_x, layer_y = net_of_unit[net_of_unit < n_x], net_of_unit[net_of_unit >= n_x] - n_x
        r = correlation[: len(layer_x), len(layer_x) :]
        return BestNumbers.of(_best(r, layer_y), layer_x), BestNumbers.of(_best(r.T, layer_x), layer_y)

    def _draws(self, which: int) -> Iterator[BestNumbers]:
        """The numbers where every layer of the other net has the other basis of a draw; none if a layer has no null."""
        own, others = self._places(which), self._places(1 - which)
        net_of_unit = self._joint.net_of_unit
        layer = net_of_unit[(net_of_unit >= own.start) & (net_of_unit < own.stop)] - own.start
        for draw in range(min(self._null.draws_of[others])):
            columns = []
            for k in range(others.start, others.stop):
                replaced = self._null.replaced(k, draw)
                if replaced is None:
                    break
                correlation, of = replaced
                rows = np.flatnonzero((of >= own.start) & (of < own.stop))
                columns.append(correlation[np.ix_(rows, np.flatnonzero(of == k))].max(axis=1))
            else:
                yield BestNumbers.of(np.stack(columns, axis=1), layer)


def _best(r: Float64, layer: Indices) -> Float64:
    """(n_units, n_layers) best of each layer of correlations (n_units, n_others); every layer has units."""
    return np.stack([r[:, layer == k].max(axis=1) for k in range(int(layer.max()) + 1)], axis=1)
