"""Linear algebra with covariances, also rank-deficient ones, and random rotations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
RANK_TOLERANCE = 1e-7
"""Directions with a smaller share of the largest variance than this are rounding errors of float32 sums."""


def principal_directions(covariance: Matrix, tolerance: float = RANK_TOLERANCE) -> tuple[Matrix, Matrix]:
    """Eigenvalues (rank,), falling, and eigenvectors (n, rank) of a covariance matrix (n, n).

    Eigenvalues below ``tolerance`` times the largest count as zero and are left out. They occur with duplicated units
    and with more units than samples.
    """
    values, vectors = np.linalg.eigh(covariance)
    kept = values > tolerance * values[-1]
    return values[kept][::-1], vectors[:, kept][:, ::-1]


def least_squares(s_xx: Matrix, s_xy: Matrix, tolerance: float = RANK_TOLERANCE) -> tuple[Matrix, int]:
    """Least-squares weights from covariances; the solution of smallest norm if predictors are linearly dependent.

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
    values, basis = principal_directions(s_xx, tolerance)
    return regression_weights(values, basis, s_xy, 0.0), len(values)


def regression_weights(values: Matrix, basis: Matrix, s_xy: Matrix, penalty: float) -> Matrix:
    """Weights (n_y, n_x) from the variances (rank,) and directions (n_x, rank) of the predictors."""
    return (s_xy.T @ basis / (values + penalty)) @ basis.T


def random_rotation(n: int, generator: np.random.Generator) -> Matrix:
    """Draw an orthogonal matrix (n, n) from the Haar measure: QR of a Gaussian matrix with the signs of R fixed."""
    q, r = np.linalg.qr(generator.standard_normal((n, n)))
    signs = np.sign(np.diag(r))
    signs[signs == 0] = 1.0
    return np.asarray(q * signs)
