"""Mean correlation of aligned units: semi-matching and matching by r and by |r|, and soft matching."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convergence.alignment.matching import Matching, matching, semi_matching
from convergence.alignment.soft_matching import soft_matching
from convergence.linalg import Matrix
from convergence.similarity.measure import aligned_measure, one, one_for_equal_widths
from convergence.similarity.pair import PairMoments

Indices = NDArray[np.intp]


@aligned_measure(
    fit=lambda pair: semi_matching(pair.corr_xy),
    title="Semi-matching correlation",
    source="Li et al. 2016, section 3: mean over i of max_j r_ij",
    symmetric=False,
    bounds=(-1.0, 1.0),
    rotation_invariant=False,
    bound=one,
)
def mean_semi_matching(partner: Indices, pair: PairMoments) -> float:
    """Mean over the units of x of the largest signed correlation with a unit of y."""
    return float(pair.corr_xy[np.arange(len(partner)), partner].mean())


@aligned_measure(
    fit=lambda pair: matching(pair.corr_xy),
    title="Matching correlation",
    source="Li et al. 2016, section 3: max over permutations p of the mean of r_i,p(i)",
    symmetric=True,
    bounds=(-1.0, 1.0),
    rotation_invariant=False,
    bound=one,
)
def mean_matching(matched: Matching, pair: PairMoments) -> float:
    """Mean correlation of the best one-to-one assignment, over min(n_x, n_y) pairs."""
    return float(pair.corr_xy[matched.rows, matched.columns].mean())


@aligned_measure(
    fit=lambda pair: soft_matching(pair.corr_xy).plan,
    title="Soft-matching correlation",
    source="Khosla and Williams 2023 (arXiv 2311.09466): max over the transportation polytope of sum P_ij r_ij",
    symmetric=True,
    bounds=(-1.0, 1.0),
    rotation_invariant=False,
    bound=one_for_equal_widths,
)
def mean_soft_matching(plan: Matrix, pair: PairMoments) -> float:
    """Mean correlation if every unit of both layers is matched; equals matching for layers of equal width."""
    return float(np.sum(plan * pair.corr_xy))


def _signed(pair: PairMoments, rows: Indices, columns: Indices) -> tuple[Indices, Indices, Matrix]:
    """Pairs of units, with the signs that make their correlations positive."""
    return rows, columns, np.where(pair.corr_xy[rows, columns] < 0, -1.0, 1.0)


def _absolute_semi_matching(pair: PairMoments) -> tuple[Indices, Indices, Matrix]:
    partner = semi_matching(np.abs(pair.corr_xy))
    return _signed(pair, np.arange(len(partner)), partner)


def _absolute_matching(pair: PairMoments) -> tuple[Indices, Indices, Matrix]:
    matched = matching(np.abs(pair.corr_xy))
    return _signed(pair, matched.rows, matched.columns)


@aligned_measure(
    fit=_absolute_semi_matching,
    title="Semi-matching by |r|",
    source="Li et al. 2016, section 3, with unit signs: mean over i of max_j |r_ij|",
    symmetric=False,
    bounds=(-1.0, 1.0),
    rotation_invariant=False,
    bound=one,
)
def mean_absolute_semi_matching(pairs: tuple[Indices, Indices, Matrix], pair: PairMoments) -> float:
    """Mean over the units of x of the largest |r| with a unit of y; other images keep the partner and the sign.

    Units of a layer without rectification, such as a residual stream, have no preferred sign.
    """
    rows, columns, signs = pairs
    return float((signs * pair.corr_xy[rows, columns]).mean())


@aligned_measure(
    fit=_absolute_matching,
    title="Matching by |r|",
    source="Li et al. 2016, section 3, with unit signs: max over permutations p of the mean of |r_i,p(i)|",
    symmetric=True,
    bounds=(-1.0, 1.0),
    rotation_invariant=False,
    bound=one,
)
def mean_absolute_matching(pairs: tuple[Indices, Indices, Matrix], pair: PairMoments) -> float:
    """Mean |r| of the best one-to-one assignment by |r|; other images keep the partner and the sign."""
    rows, columns, signs = pairs
    return float((signs * pair.corr_xy[rows, columns]).mean())
