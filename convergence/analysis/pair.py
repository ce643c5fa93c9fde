"""Results of two nets, x and y, of one comparison, as nested groups of arrays.

Unit indices are those within the layer, inactive units included; -1 means "none". Direction ``xy`` looks up every unit
of x among those of y, or predicts every unit of y from those of x; ``yx`` is the reverse.
"""

from __future__ import annotations

from collections.abc import Callable

from convergence.alignment.matching import matching
from convergence.analysis import cost
from convergence.analysis.active_units import ActiveUnits
from convergence.analysis.distributions import compare_distributions, mean_activation_distance
from convergence.analysis.few_to_one import FewToOne
from convergence.analysis.layout import DIRECTIONS
from convergence.analysis.many_to_many import ManyToMany
from convergence.analysis.measures import Measures
from convergence.analysis.mutual_information import information
from convergence.analysis.net_sums import NetSums
from convergence.analysis.nulls import SUMS, n_draws, pair_nulls
from convergence.analysis.one_to_one import OneToOne
from convergence.analysis.pair_sums import PairSums
from convergence.analysis.shared_dimensions import SharedDimensionsMethod
from convergence.analysis.steps import Method, PairShape, Parts, Step, Tree, computed
from convergence.analysis.within_class import WithinClass
from convergence.config.stages import AnalysisConfig
from convergence.statistics.file import ComparisonSums

OTHERS = "others"


def shape_of(sums: ComparisonSums, live: ActiveUnits, x: str, y: str, config: AnalysisConfig) -> PairShape:
    """Input for planning the steps of a pair; reads no matrix."""
    n_x, n_y = (int(live.alive[sums.units(net)].sum()) for net in (x, y))
    has_information, has_histograms = sums.mutual_information is not None, sums.histograms is not None
    return PairShape(
        n_x, n_y, len(sums.group_count), whole(sums), has_information, has_histograms,
        null_draws=(n_draws(sums, y, config), n_draws(sums, x, config)),
        rotates_sums=SUMS in (sums.null_kind[sums.nets.index(net)] for net in (x, y)),
        labels=sums.class_sums is not None,
    )  # fmt: skip


def pair_steps(shape: PairShape, config: AnalysisConfig) -> list[Step]:
    """All steps of a pair, each after its predecessors; none if a net has no active unit.

    Sparse mappings, shared dimensions and clusters are left out where a comparison joins several layers or epochs of a
    net.
    """
    if not shape.n_x or not shape.n_y:
        return []
    steps = [*Measures.steps(shape, config), *OneToOne.steps(shape, config)]
    if shape.whole:
        steps += SharedDimensionsMethod.steps(shape, config)
    if shape.labels:
        steps += WithinClass.steps(shape, config)
    if shape.whole and config.sparse.enabled:
        steps += [step for direction in DIRECTIONS for step in FewToOne.steps(shape, config, direction)]
    if shape.whole and config.clustering.enabled:
        steps += ManyToMany.steps(shape, config)
    if shape.histograms:
        seconds = cost.DISTRIBUTIONS * shape.n**2 + 3 * cost.MATCHING * shape.n**3
        steps.append(Step(OTHERS, "distributions", seconds=seconds))
    if shape.information:
        steps.append(Step(OTHERS, "information", seconds=20 * cost.MATCHING * shape.n**3))
    return steps


class PairAnalysis:
    """Two nets of a comparison: computes steps and combines their parts."""

    def __init__(
        self,
        sums: ComparisonSums,
        live: ActiveUnits,
        x: str,
        y: str,
        config: AnalysisConfig,
        net: Callable[[str], NetSums] | None = None,
    ) -> None:
        self._sums, self._live, self._x, self._y = sums, live, x, y
        self._pair, self._seed = PairSums.of(sums, live, x, y, net), config.seed
        self.steps = pair_steps(shape_of(sums, live, x, y, config), config)
        nulls = pair_nulls(sums, live, self._pair, x, y, config)
        sparse = [FewToOne(self._pair, config, direction, nulls) for direction in DIRECTIONS]
        made: list[Method] = [
            Measures(self._pair, config, nulls),
            OneToOne(self._pair, config, nulls),
            WithinClass(self._pair, config, nulls),
            *sparse,
            SharedDimensionsMethod(self._pair, config),
            ManyToMany(self._pair, config, sparse if config.sparse.enabled else []),
        ]
        planned = {step.method for step in self.steps}
        self._methods = {method.name: method for method in made if method.name in planned}

    def compute(self, step: Step, parts: Parts) -> Tree:
        """Result of a step, from the results of earlier steps."""
        if step.method != OTHERS:
            return self._methods[step.method].compute(step, parts)
        if step.name == "information":
            return information(self._sums, self._pair, self._x, self._y)
        partners = matching(self._pair.pooled.corr_xy)
        return compare_distributions(self._pair.x, self._pair.y, partners)

    def tree(self, parts: Parts) -> Tree:
        """All results; only the reason where a net has no active unit."""
        pair = self._pair
        tree: Tree = {"units_x": pair.units_x, "units_y": pair.units_y, "n_x": pair.n_x, "n_y": pair.n_y}
        if not self._methods:
            dead = self._y if len(pair.units_x) else self._x
            return tree | {"skip_reason": f"{dead} has no active unit"}
        for name, method in self._methods.items():
            tree[name] = method.tree(parts)
            if isinstance(method, WithinClass):
                tree["within_class_held_out"] = method.held_out(parts)
        measures = self._methods[Measures.name]
        assert isinstance(measures, Measures)
        tree["held_out"] = measures.held_out(parts)
        tree["excess"] = measures.excess(parts)
        tree["unavailable"] = measures.missing(parts)
        if pair.within_reason:
            tree["unavailable"][WithinClass.name] = pair.within_reason
        tree["mean_activations"] = mean_activation_distance(self._sums, self._live, self._x, self._y, self._seed)
        for name in ("distributions", "information"):
            if parts.steps(OTHERS, name):
                tree[name] = parts.one(OTHERS, name)
        return tree


def analyze_pair(sums: ComparisonSums, live: ActiveUnits, x: str, y: str, config: AnalysisConfig) -> Tree:
    """All results of two nets, computed in this process."""
    return computed(PairAnalysis(sums, live, x, y, config))


def whole(sums: ComparisonSums) -> bool:
    """Whether a comparison joins one layer of every net, once."""
    return len(set(sums.of_net)) == len(sums.nets)
