"""How much of one layer the other predicts linearly."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from convergence.similarity.pair import Matrix, PairMoments, measure

# Directions whose variance is below this share of the largest carry no information beyond the rounding of
# float32 sums.
RANK_TOLERANCE = 1e-7


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
    values, vectors = scipy.linalg.eigh(s_xx)
    kept = values > tolerance * values[-1]
    basis = vectors[:, kept]
    return (s_xy.T @ basis / values[kept]) @ basis.T, int(kept.sum())


@measure(
    title="Mean R² of y from x",
    source="least squares of y's standardised units on x's; 1 - 2 x the dense loss of Li et al. 2016",
    symmetric=False,
    bounds=(0.0, 1.0),
    rotation_invariant=True,
)
def mean_r_squared(pair: PairMoments) -> float:
    """Share of the variance of y's standardised units that x's units predict: the mean R² of y's units.

    With fewer samples than units every target is explained; read the value against held-out image groups
    then.
    """
    weights, _ = least_squares(pair.std_xx, pair.std_xy)
    return float(np.sum(weights * pair.std_xy.T) / np.trace(pair.std_yy))
