"""Measures of the similarity of two layers, each one function over the pair's sums and one line below.

A measure takes a :class:`~convergence.similarity.pair.PairMoments` and gives a number. The analysis adds its
delete-one-group jackknife interval and, unless the measure is invariant to rotations, its level under random rotations.
"""

from convergence.registry import Registry

MEASURES = Registry(
    "measure",
    {
        "semi_matching": "convergence.similarity.correlation:mean_semi_matching",
        "matching": "convergence.similarity.correlation:mean_matching",
        "linear_cka": "convergence.similarity.cka:linear_cka",
        "procrustes": "convergence.similarity.procrustes:procrustes_correlation",
        "r_squared": "convergence.similarity.regression:mean_r_squared",
    },
)
