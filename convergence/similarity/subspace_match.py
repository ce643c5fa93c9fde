"""Subspace maximum match: how many units of two layers lie near the span of the other's matched units."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convergence.linalg import Matrix, principal_directions
from convergence.similarity.measure import measure
from convergence.similarity.pair import PairMoments

EPSILON = 0.5


@measure(
    title="Subspace maximum match",
    source="Wang et al. 2018 (arXiv 1810.11750), definition 3 and algorithm 1, epsilon 0.5, centred units",
    symmetric=True,
    bounds=(0.0, 1.0),
    rotation_invariant=False,
    smooth=False,
)
def subspace_match(pair: PairMoments) -> float:
    """Share of all units in the largest sets of x and y whose members lie within epsilon of the other set's span.

    Distances are relative to a unit's own length, so 0.5 asks for three quarters of its variance. Units are centred:
    as they come in the source, the mean activation of rectified units alone would make most of them near.
    """
    x, y = maximum_match(pair.corr_xx, pair.corr_xy, pair.corr_yy, EPSILON)
    return float((x.sum() + y.sum()) / (len(x) + len(y)))


def maximum_match(
    r_xx: Matrix, r_xy: Matrix, r_yy: Matrix, epsilon: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Members (n_x,) and (n_y,) of the maximum match, from correlations.

    Units too far from the other set's span leave, on both sides at once, until none does. No member of any match can
    ever be too far, since the spans hold that match's, so what is left is the largest one.
    """
    x, y = np.ones(len(r_xx), dtype=bool), np.ones(len(r_yy), dtype=bool)
    while True:
        keep_x = x.copy()
        keep_x[x] = unexplained(r_yy[np.ix_(y, y)], r_xy[np.ix_(x, y)]) <= epsilon**2
        keep_y = y.copy()
        keep_y[y] = unexplained(r_xx[np.ix_(x, x)], r_xy[np.ix_(x, y)].T) <= epsilon**2
        if keep_x.sum() == x.sum() and keep_y.sum() == y.sum():
            return x, y
        x, y = keep_x, keep_y


def unexplained(r: Matrix, targets: Matrix) -> Matrix:
    """(n_targets,) shares of variance outside the span of units with correlations ``r`` (n, n); 1 if there are none.

    ``targets`` (n_targets, n) are their correlations with those units.
    """
    if not len(r) or not len(targets):
        return np.ones(len(targets))
    values, basis = principal_directions(r)
    return np.clip(1.0 - ((targets @ basis) ** 2 / values).sum(axis=1), 0.0, 1.0)
