"""Similarity measures of two layers: one function of the pair's moments each, registered below.

A measure maps a :class:`~convergence.similarity.pair.PairMoments` to a number. The analysis adds the jackknife
interval, the chance levels from other bases and from the next image, and the ceiling. For a measure that fits an
alignment, the analysis also scores the alignment on held-out images.

pair.py            the moments of two layers
measure.py         the properties of a measure
correlation.py     mean correlation of aligned units
cka.py             centred kernel alignment
cca.py             canonical correlations
procrustes.py      Procrustes correlation and shape distance
regression.py      explained variance of linear regression
subspace_match.py  subspace maximum match
images.py          measures over pairs of images
image_ranks.py     ranks of pairs of images, also without some images
"""

from convergence.registry import Registry

MEASURES = Registry(
    "measure",
    {
        "semi_matching": "convergence.similarity.correlation:mean_semi_matching",
        "matching": "convergence.similarity.correlation:mean_matching",
        "soft_matching": "convergence.similarity.correlation:mean_soft_matching",
        "absolute_semi_matching": "convergence.similarity.correlation:mean_absolute_semi_matching",
        "absolute_matching": "convergence.similarity.correlation:mean_absolute_matching",
        "linear_cka": "convergence.similarity.cka:linear_cka",
        "linear_cka_raw": "convergence.similarity.cka:linear_cka_raw",
        "debiased_cka": "convergence.similarity.cka:debiased_cka",
        "image_cka": "convergence.similarity.cka:image_cka",
        "mean_cca": "convergence.similarity.cca:mean_cca",
        "svcca": "convergence.similarity.cca:svcca",
        "pwcca": "convergence.similarity.cca:pwcca",
        "procrustes": "convergence.similarity.procrustes:procrustes_correlation",
        "shape_distance": "convergence.similarity.procrustes:shape_distance",
        "r_squared": "convergence.similarity.regression:mean_r_squared",
        "ridge_r_squared": "convergence.similarity.regression:mean_ridge_r_squared",
        "subspace_match": "convergence.similarity.subspace_match:subspace_match",
        "rsa": "convergence.similarity.images:representational_similarity",
        "rsa_cosine": "convergence.similarity.images:cosine_similarity",
        "mutual_knn": "convergence.similarity.images:mutual_nearest_neighbours",
    },
)
