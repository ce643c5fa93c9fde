"""Linear predictivity: the variance of one layer that linear regression on the other explains."""

from __future__ import annotations

import numpy as np

from convergence.linalg import Matrix, regression_weights
from convergence.similarity.measure import aligned_measure
from convergence.similarity.pair import PairMoments

RIDGE = 0.01


def _explained(weights: Matrix, pair: PairMoments) -> float:
    """Share of the variance of the standardised units of y that weights (n_y, n_x) explain."""
    explained = 2.0 * np.sum(weights * pair.std_xy.T) - np.sum((weights @ pair.std_xx) * weights)
    return float(explained / pair.y.total)


def _explained_by_the_fit(pair: PairMoments, penalty: float) -> float:
    """The same of ridge regression on the pair that it is fitted on, from the covariances with principal components."""
    values = pair.directions_x[0]
    kept = values * (values + 2 * penalty) / (values + penalty) ** 2
    return float(kept @ (pair.projections**2).sum(axis=1) / pair.y.total)


def explained_bound(pair: PairMoments) -> float:
    """Σ_{k <= rank x} b_k / Σ b of the falling eigenvalues b of S_yy: 1 if x has at least the rank of y.

    Predictions have at most the rank of x, and no projection of that rank keeps more variance (Eckart and Young).
    """
    (a, _), (b, _) = pair.directions_x, pair.directions_y
    return float(b[: len(a)].sum() / b.sum())


@aligned_measure(
    fit=lambda pair: regression_weights(*pair.directions_x, pair.std_xy, 0.0),
    of_the_fit=lambda pair: _explained_by_the_fit(pair, 0.0),
    title="Mean R² of y from x",
    source="least squares of y's standardised units on x's; 1 - 2 x the dense loss of Li et al. 2016",
    symmetric=False,
    bounds=(0.0, 1.0),
    rotation_invariant=True,
    bound=explained_bound,
)
def mean_r_squared(weights: Matrix, pair: PairMoments) -> float:
    """Mean R² of the units of y predicted from the units of x by least squares.

    With fewer samples than units the fit explains every target; use the held-out value in that case.
    """
    return _explained(weights, pair)


@aligned_measure(
    fit=lambda pair: regression_weights(*pair.directions_x, pair.std_xy, RIDGE),
    of_the_fit=lambda pair: _explained_by_the_fit(pair, RIDGE),
    title="Mean R² of y from x, ridge",
    source="ridge regression (Hoerl and Kennard 1970) of y's standardised units on x's, penalty 0.01",
    symmetric=False,
    bounds=(0.0, 1.0),
    rotation_invariant=True,
    of_itself=None,
    bound=explained_bound,
)
def mean_ridge_r_squared(weights: Matrix, pair: PairMoments) -> float:
    """Mean R² with a ridge penalty of 0.01 of a unit's variance, which shrinks directions of small variance."""
    return _explained(weights, pair)
