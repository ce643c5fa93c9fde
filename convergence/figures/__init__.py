"""Figures: functions of results that return a ``Drawing``, which is a matplotlib figure, its caption and its numbers.

style.py       colours, sizes, saving
overview.py    all layers in one figure, two runs side by side
partners.py, prediction.py, groups.py, dimensions.py, activations.py, nets.py, causes.py
               figures of one layer, ``draw(layer, pair)``; ``None`` without results to show
nets.py, best_layers.py, growth.py
               figures of all nets of a comparison: several epochs, layers or widths; ``draw(layer)``, a list
export.py      figures of a run for a publication

``FIGURES`` lists the figures of one layer in the order in which the report shows them; a new one is a function and a
line below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from convergence.registry import Registry

if TYPE_CHECKING:
    from convergence.figures.style import Drawing
    from convergence.results import ComparisonResults, PairResults

FIGURES = Registry(
    "figure",
    {
        "matched_units": "convergence.figures.partners:matched_units",
        "matrices": "convergence.figures.partners:matrices",
        "information": "convergence.figures.partners:information",
        "sparse": "convergence.figures.prediction:sparse_prediction",
        "codes": "convergence.figures.prediction:codes",
        "clusters": "convergence.figures.groups:clusters",
        "subspaces": "convergence.figures.groups:subspaces",
        "shared_dimensions": "convergence.figures.dimensions:shared_dimensions",
        "consensus": "convergence.figures.nets:consensus",
        "causes": "convergence.figures.causes:causes",
        "mean_activations": "convergence.figures.activations:mean_activations",
        "distributions": "convergence.figures.activations:distributions",
    },
)
JOINT_FIGURES = Registry(
    "figure",
    {
        "over_time": "convergence.figures.nets:over_time",
        "layer_map": "convergence.figures.nets:layer_map",
        "best_layers": "convergence.figures.best_layers:best_layers",
        "growth": "convergence.figures.growth:growth",
    },
)


def drawings_of(
    layer: ComparisonResults, pair: PairResults | None, names: Sequence[str] | None = None
) -> list[Drawing]:
    """The figures of a comparison that have results to show; ``names`` of the registries, all if None."""
    found: list[Drawing] = []
    if layer.whole and pair is not None:
        for name in FIGURES:
            if (names is None or name in names) and (drawing := FIGURES.load(name)(layer, pair)) is not None:
                found.append(drawing)
    for name in JOINT_FIGURES:
        if names is None or name in names:
            found += JOINT_FIGURES.load(name)(layer)
    return found
