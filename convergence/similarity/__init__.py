"""Measures of the similarity of two layers, each one function over the pair's sums and one line below.

A measure takes a :class:`~convergence.similarity.pair.PairMoments` and gives a number. The analysis adds its
delete-one-group jackknife interval, its level under random rotations and for the next image, its ceiling and, where
the measure fits an alignment, the score of that alignment on images that it was not fitted on.
"""

from convergence.registry import Registry

MEASURES = Registry(
    "measure",
    {
        "semi_matching": "convergence.similarity.correlation:mean_semi_matching",
        "matching": "convergence.similarity.correlation:mean_matching",
        "soft_matching": "convergence.similarity.correlation:mean_soft_matching",
        "excess_correlation": "convergence.similarity.correlation:excess_correlation",
        "linear_cka": "convergence.similarity.cka:linear_cka",
        "linear_cka_raw": "convergence.similarity.cka:linear_cka_raw",
        "debiased_cka": "convergence.similarity.cka:debiased_cka",
        "mean_cca": "convergence.similarity.cca:mean_cca",
        "svcca": "convergence.similarity.cca:svcca",
        "pwcca": "convergence.similarity.cca:pwcca",
        "procrustes": "convergence.similarity.procrustes:procrustes_correlation",
        "shape_distance": "convergence.similarity.procrustes:shape_distance",
        "r_squared": "convergence.similarity.regression:mean_r_squared",
        "ridge_r_squared": "convergence.similarity.regression:mean_ridge_r_squared",
        "subspace_match": "convergence.similarity.subspace_match:subspace_match",
        "rsa": "convergence.similarity.images:representational_similarity",
        "mutual_knn": "convergence.similarity.images:mutual_nearest_neighbours",
    },
)
