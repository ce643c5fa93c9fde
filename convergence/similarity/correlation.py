"""Mean correlation of aligned units: with replacement (semi-matching) and one-to-one (matching)."""

from __future__ import annotations

from convergence.alignment.matching import matching
from convergence.similarity.pair import PairMoments, measure


@measure(
    title="Semi-matching correlation",
    source="Li et al. 2016, section 3: mean over i of max_j r_ij",
    symmetric=False,
    bounds=(-1.0, 1.0),
    rotation_invariant=False,
)
def mean_semi_matching(pair: PairMoments) -> float:
    """Mean over x's units of the largest signed correlation with a unit of y."""
    return float(pair.corr_xy.max(axis=1).mean())


@measure(
    title="Matching correlation",
    source="Li et al. 2016, section 3: max over permutations p of the mean of r_i,p(i)",
    symmetric=True,
    bounds=(-1.0, 1.0),
    rotation_invariant=False,
)
def mean_matching(pair: PairMoments) -> float:
    """Mean correlation of the best one-to-one assignment; as many pairs as the smaller layer has units."""
    return matching(pair.corr_xy).mean
