"""Linear algebra with covariances, also rank-deficient ones, random rotations, and random bases of units."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
RANK_TOLERANCE = 1e-7
"""Directions with a smaller share of the largest variance than this are rounding errors of float32 sums."""
SPECTRUM_ROTATIONS = 512
"""Rotations of n units, times n, over which the spectrum of a random basis is averaged; at least 1, at most 32."""
SPECTRUM_ITERATIONS, SPECTRUM_PROGRESS = 12, 0.9
"""Iterations of :func:`variances_of_bases` at most; one that leaves more than this share of the error is the last."""
MOST_DIRECTIONS = 1024
"""Directions of which spectra are computed; of more, the weaker ones are pooled to this number."""


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


class RandomBases:
    """Random bases of the space that standardised units span, for chance levels.

    Where few directions have most of the variance, units of a rotation Qᵀz differ in variance. Standardising them makes
    units with little of these directions count as much as others, and the correlations of the rotated units are
    smaller than those of the units themselves: their leading eigenvalues are lower. Therefore the directions of z are
    scaled first, such that rotated and standardised units have on average the eigenvalues of the correlations of z.

    Parameters
    ----------
    correlation : (n, n)
        Correlations of the units; may be rank-deficient.
    """

    def __init__(self, correlation: Matrix) -> None:
        values, vectors = np.linalg.eigh(correlation)
        values = np.maximum(values, 0.0)
        variances = variances_of_bases(values)
        known = values > RANK_TOLERANCE * values.max(initial=0.0)
        scale = np.sqrt(np.where(known, variances / np.where(known, values, 1.0), 1.0))
        # The symmetric forms do not depend on the signs of eigenvectors, nor on their choice for equal eigenvalues.
        self._scaled: Matrix = (vectors * scale) @ vectors.T
        self._covariance: Matrix = (vectors * variances) @ vectors.T

    def draw(self, generator: np.random.Generator) -> Matrix:
        """Draw a matrix B (n, n): Bᵀz are units of variance 1 that span the same space."""
        q = random_rotation(len(self._scaled), generator)
        variance = np.einsum("ij,ij->j", q, self._covariance @ q)
        return np.asarray(self._scaled @ q / np.sqrt(np.maximum(variance, np.finfo(float).tiny)))


def variances_of_bases(values: Matrix) -> Matrix:
    """Variances (n,), ascending, of directions such that random units in them have correlations of given eigenvalues.

    For a diagonal matrix Λ of the variances and Haar rotations Q, the mean of the eigenvalues of the correlation matrix
    of QᵀΛQ is nearly ``values`` (n,). The variances follow from a fixed-point iteration, λ ← λ · values / mean, sorted,
    over rotations that depend on n alone. The iteration starts with ``values``, which are right where all are equal.
    """
    n = len(values)
    if n < 2:
        return values.copy()
    if n > MOST_DIRECTIONS:
        return _of_pooled(values)
    generator = np.random.default_rng([n])
    rotations = np.stack([random_rotation(n, generator) for _ in range(min(max(SPECTRUM_ROTATIONS // n, 1), 32))])
    least = RANK_TOLERANCE * values.max()
    variances, error = np.sort(values), np.inf
    wanted = variances.copy()
    known = wanted > least
    for _ in range(SPECTRUM_ITERATIONS):
        covariance = (rotations.swapaxes(1, 2) * variances) @ rotations
        scale = 1 / np.sqrt(np.maximum(np.diagonal(covariance, axis1=1, axis2=2), np.finfo(float).tiny))
        covariance *= scale[:, :, None]
        covariance *= scale[:, None, :]
        found = np.linalg.eigvalsh(covariance).mean(axis=0)
        before, error = error, np.abs(found - wanted).sum()
        if error >= SPECTRUM_PROGRESS * before:
            break
        variances[known] *= wanted[known] / np.maximum(found[known], least)
        variances = np.sort(variances * (wanted.sum() / variances.sum()))
    return variances


def _of_pooled(values: Matrix) -> Matrix:
    """:func:`variances_of_bases` of ascending values, of which consecutive small ones count as one."""
    kept = MOST_DIRECTIONS // 2
    n_pooled = len(values) - kept
    starts = np.append(np.linspace(0, n_pooled, MOST_DIRECTIONS - kept, endpoint=False).astype(np.int64),
                       np.arange(n_pooled, len(values)))  # fmt: skip
    pooled = np.add.reduceat(values, starts)
    pooled *= MOST_DIRECTIONS / pooled.sum()
    order, ratio = np.argsort(pooled, kind="stable"), np.ones(len(pooled))
    ratio[order] = variances_of_bases(pooled) / np.maximum(pooled[order], np.finfo(float).tiny)
    variances = np.sort(values * np.repeat(ratio, np.diff(np.append(starts, len(values)))))
    return np.asarray(variances * (values.sum() / variances.sum()))
