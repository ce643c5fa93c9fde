"""Everything about two nets, x and y, in one comparison: a tree of arrays, ready to be written.

Indices are those of units within their layer, dead units included; ``-1`` stands for "none". Directions: ``xy`` looks
for every unit of x among those of y, or predicts every unit of y from those of x; ``yx`` is the other way round.
"""

from __future__ import annotations

from convergence.alignment.matching import matching
from convergence.analysis.distributions import compare_distributions, mean_activation_distance
from convergence.analysis.few_to_one import FewToOne
from convergence.analysis.information import information
from convergence.analysis.many_to_many import ManyToMany
from convergence.analysis.measures import Measures
from convergence.analysis.one_to_one import OneToOne
from convergence.analysis.section import Numbers, Replicated, Section, Tree
from convergence.analysis.units import LiveUnits, PairSums
from convergence.experiment import AnalysisConfig
from convergence.statistics.file import Sums


def analyze_pair(sums: Sums, live: LiveUnits, x: str, y: str, config: AnalysisConfig) -> Tree:
    """All results of two nets; a net without live units gives a tree that says so and holds nothing else.

    Sparse mappings and clusters are left out where a comparison joins several layers or epochs of a net.
    """
    pair = PairSums.of(sums, live, x, y)
    tree: Tree = {"units_x": pair.units_x, "units_y": pair.units_y, "n_x": pair.n_x, "n_y": pair.n_y}
    if not len(pair.units_x) or not len(pair.units_y):
        return tree | {"nothing_because": f"{y if len(pair.units_x) else x} has no unit that carries anything"}
    measures = Measures(pair, config)
    sections: list[Section] = [measures, OneToOne(pair, config)]
    if whole(sums):
        sparse = [FewToOne(pair, config, direction) for direction in ("xy", "yx")] if config.sparse.enabled else []
        sections += sparse
        if config.clustering.enabled:
            sections.append(ManyToMany(pair, config, sparse))
    without: list[list[Numbers]] = [[] for _ in sections]
    for moments in pair.without():
        for section, numbers in zip(sections, without, strict=True):
            numbers.append(section.numbers(moments))
    for section, numbers in zip(sections, without, strict=True):
        tree[section.name] = section.tree(Replicated(section.numbers(pair.pooled), numbers))
    tree["held_out"] = measures.held_out()
    tree["unavailable"] = measures.missing
    tree["mean_activations"] = mean_activation_distance(sums, live, x, y).as_dict()
    if sums.histograms is not None:
        tree["distributions"] = compare_distributions(sums, live, x, y, matching(pair.pooled.corr_xy))
    if sums.mutual_information is not None:
        tree["information"] = information(sums, pair, x, y)
    return tree


def whole(sums: Sums) -> bool:
    """Whether a comparison joins one layer of every net, once."""
    return len(set(sums.of_net)) == len(sums.nets)
