"""Mean correlation of aligned units: semi-matching, matching, soft matching, and excess over a rotated basis."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from convergence.alignment.matching import Matching, matching, semi_matching
from convergence.alignment.soft_matching import soft_matching
from convergence.linalg import Matrix, random_rotation
from convergence.similarity.measure import aligned_measure, measure
from convergence.similarity.pair import PairMoments

N_ROTATIONS = 3
CACHED_UNITS = 1024


@aligned_measure(
    fit=lambda pair: semi_matching(pair.corr_xy),
    title="Semi-matching correlation",
    source="Li et al. 2016, section 3: mean over i of max_j r_ij",
    symmetric=False,
    bounds=(-1.0, 1.0),
    rotation_invariant=False,
)
def mean_semi_matching(partner: NDArray[np.intp], pair: PairMoments) -> float:
    """Mean over the units of x of the largest signed correlation with a unit of y."""
    return float(pair.corr_xy[np.arange(len(partner)), partner].mean())


@aligned_measure(
    fit=lambda pair: matching(pair.corr_xy),
    title="Matching correlation",
    source="Li et al. 2016, section 3: max over permutations p of the mean of r_i,p(i)",
    symmetric=True,
    bounds=(-1.0, 1.0),
    rotation_invariant=False,
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
)
def mean_soft_matching(plan: Matrix, pair: PairMoments) -> float:
    """Mean correlation if every unit of both layers is matched; equals matching for layers of equal width."""
    return float(np.sum(plan * pair.corr_xy))


@measure(
    title="Excess correlation",
    source="Gurnee et al. 2024 (arXiv 2401.12181): mean over i of max_j r_ij minus its value in a rotated basis",
    symmetric=False,
    bounds=(-2.0, 2.0),
    rotation_invariant=False,
    of_itself=None,
)
def excess_correlation(pair: PairMoments) -> float:
    """Semi-matching correlation minus its mean under three random rotations of y.

    It is 0 if units are like random directions. The rotations are the same for all layers of the same width.
    """
    rotated = [pair.rotated(_rotation(len(pair.cov_yy), k)).corr_xy.max(axis=1).mean() for k in range(N_ROTATIONS)]
    return float(pair.corr_xy.max(axis=1).mean() - np.mean(rotated))


def _rotation(n: int, k: int) -> Matrix:
    """Return the k-th rotation of n units; rotations of up to ``CACHED_UNITS`` units are cached."""
    return _cached_rotation(n, k) if n <= CACHED_UNITS else random_rotation(n, np.random.default_rng([n, k]))


@functools.lru_cache(maxsize=4 * N_ROTATIONS)
def _cached_rotation(n: int, k: int) -> Matrix:
    return random_rotation(n, np.random.default_rng([n, k]))
