"""Subspace maximum match: the share of units of two layers near the span of the other layer's matched units."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convergence.linalg import Matrix, principal_directions
from convergence.similarity.measure import measure, one_for_equal_widths
from convergence.similarity.pair import PairMoments

Directions = tuple[Matrix, Matrix]
EPSILON = 0.5


@measure(
    title="Subspace maximum match",
    source="Wang et al. 2018 (arXiv 1810.11750), definition 3 and algorithm 1, epsilon 0.5, centred units",
    symmetric=True,
    bounds=(0.0, 1.0),
    rotation_invariant=False,
    smooth=False,
    bound=one_for_equal_widths,
)
def subspace_match(pair: PairMoments) -> float:
    """Share of all units in the largest sets of x and y whose units are within epsilon of the span of the other set.

    Distances are relative to the norm of a unit, so epsilon 0.5 requires three quarters of its variance. Units are
    centred, unlike in the source, because the mean activation of rectified units alone would make most units close.
    """
    known = None if pair.standardised else (pair.directions_x, pair.directions_y)
    x, y = maximum_match(pair.corr_xx, pair.corr_xy, pair.corr_yy, EPSILON, known)
    return float((x.sum() + y.sum()) / (len(x) + len(y)))


def maximum_match(
    r_xx: Matrix, r_xy: Matrix, r_yy: Matrix, epsilon: float, known: tuple[Directions, Directions] | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Compute the maximum match from correlations, as masks (n_x,) and (n_y,).

    Units too far from the span of the other set are removed on both sides at once until no unit is too far. A unit of
    any match is never removed, because the spans always contain those of the match. The result is therefore maximal.
    ``known`` are the principal directions of ``r_xx`` and ``r_yy``, where these are computed already.
    """
    x, y = np.ones(len(r_xx), dtype=bool), np.ones(len(r_yy), dtype=bool)
    of_x, of_y = known if known is not None else (principal_directions(r_xx), principal_directions(r_yy))
    while True:
        between = r_xy[np.ix_(x, y)]
        keep_x, keep_y = x.copy(), y.copy()
        keep_x[x] = unexplained(of_y, between) <= epsilon**2
        keep_y[y] = unexplained(of_x, between.T) <= epsilon**2
        if keep_x.sum() == x.sum() and keep_y.sum() == y.sum():
            return x, y
        if not keep_x.any() or not keep_y.any():
            return np.zeros_like(x), np.zeros_like(y)
        if keep_x.sum() < x.sum():
            of_x = principal_directions(r_xx[np.ix_(keep_x, keep_x)])
        if keep_y.sum() < y.sum():
            of_y = principal_directions(r_yy[np.ix_(keep_y, keep_y)])
        x, y = keep_x, keep_y


def unexplained(directions: Directions, targets: Matrix) -> Matrix:
    """Shares of variance (n_targets,) of targets outside the span of units with these principal directions.

    ``targets`` (n_targets, n) are the correlations with those units.
    """
    values, basis = directions
    return np.clip(1.0 - ((targets @ basis) ** 2 / values).sum(axis=1), 0.0, 1.0)
