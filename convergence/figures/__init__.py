"""Figures, each a function of results alone that returns a ``Drawing``: a matplotlib figure, words and a table.

style.py     colours, sizes and the few helpers that make all figures look alike
overview.py  all layers in one figure
the others   figures of one layer, ``draw(layer, pair)``; ``None`` where the analysis has nothing to show

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
        "clusters": "convergence.figures.clusters:clusters",
        "mean_activations": "convergence.figures.activations:mean_activations",
    },
)
