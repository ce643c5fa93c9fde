"""How much of one layer the other predicts linearly."""

from __future__ import annotations

import numpy as np

from convergence.similarity.measure import aligned_measure
from convergence.similarity.pair import RANK_TOLERANCE, Matrix, PairMoments, directions

RIDGE = 0.01


def least_squares(s_xx: Matrix, s_xy: Matrix, tolerance: float = RANK_TOLERANCE) -> tuple[Matrix, int]:
    """Least-squares weights from covariances alone, of the smallest norm where units depend on each other.

    Parameters
    ----------
    s_xx, s_xy : (n_x, n_x), (n_x, n_y)
        Covariances of the predictors, and between predictors and targets.
    tolerance : float
        Eigenvalues of ``s_xx`` below this share of the largest count as zero.

    Returns
    -------
    weights : (n_y, n_x)
        One row a target.
    rank : int
        Number of directions used.
    """
    values, basis = directions(s_xx, tolerance)
    return _solve(values, basis, s_xy, 0.0), len(values)


def _solve(values: Matrix, basis: Matrix, s_xy: Matrix, penalty: float) -> Matrix:
    """(n_y, n_x) weights from the predictors' variances (rank,) and directions (n_x, rank)."""
    return (s_xy.T @ basis / (values + penalty)) @ basis.T


def _explained(weights: Matrix, pair: PairMoments) -> float:
    """Share of the variance of y's standardised units that weights (n_y, n_x) explain."""
    explained = 2.0 * np.sum(weights * pair.std_xy.T) - np.sum((weights @ pair.std_xx) * weights)
    return float(explained / np.trace(pair.std_yy))


@aligned_measure(
    fit=lambda pair: _solve(*pair.directions_x, pair.std_xy, 0.0),
    title="Mean R² of y from x",
    source="least squares of y's standardised units on x's; 1 - 2 x the dense loss of Li et al. 2016",
    symmetric=False,
    bounds=(0.0, 1.0),
    rotation_invariant=True,
)
def mean_r_squared(weights: Matrix, pair: PairMoments) -> float:
    """Share of the variance of y's standardised units that x's units predict: the mean R² of y's units.

    With fewer samples than units every target is explained; read the held-out value then.
    """
    return _explained(weights, pair)


@aligned_measure(
    fit=lambda pair: _solve(*pair.directions_x, pair.std_xy, RIDGE),
    title="Mean R² of y from x, ridge",
    source="ridge regression (Hoerl and Kennard 1970) of y's standardised units on x's, penalty 0.01",
    symmetric=False,
    bounds=(0.0, 1.0),
    rotation_invariant=True,
    of_itself=None,
)
def mean_ridge_r_squared(weights: Matrix, pair: PairMoments) -> float:
    """The same with a penalty of 0.01 of a unit's variance: directions that hardly vary predict little."""
    return _explained(weights, pair)
