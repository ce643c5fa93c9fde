"""Figures, each a function of results alone that returns a ``Drawing``: a matplotlib figure, words and a table.

style.py     colours, sizes and the few helpers that make all figures look alike
overview.py  all layers in one figure
the others   figures of one layer, ``draw(layer, pair)``; ``None`` where the analysis has nothing to show
over_time.py, layer_map.py   of comparisons that join several epochs or layers, ``draw(layer)``; a list

``FIGURES`` lists the figures of one layer in the order in which the report shows them; a new one is a function and a
line below.
"""

from convergence.registry import Registry

FIGURES = Registry(
    "figure",
    {
        "matched_units": "convergence.figures.matching:matched_units",
        "matrices": "convergence.figures.matching:matrices",
        "information": "convergence.figures.information:information",
        "sparse": "convergence.figures.sparse:sparse_prediction",
        "codes": "convergence.figures.codes:codes",
        "clusters": "convergence.figures.clusters:clusters",
        "subspaces": "convergence.figures.subspaces:subspaces",
        "consensus": "convergence.figures.consensus:consensus",
        "mean_activations": "convergence.figures.activations:mean_activations",
        "distributions": "convergence.figures.distributions:distributions",
    },
)
JOINT_FIGURES = Registry(
    "figure",
    {
        "over_time": "convergence.figures.over_time:over_time",
        "layer_map": "convergence.figures.layer_map:layer_map",
    },
)
