"""Embedding of nets as points of a map, from the distances between them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convergence.errors import UserError

Matrix = NDArray[np.float64]

# An eigenvalue below this share of the largest is a rounding error.
ROUNDING = 1e-12


def embed(distances: ArrayLike, dimensions: int = 2) -> tuple[Matrix, float]:
    """Embed points by classical multidimensional scaling of their distances (Torgerson 1952).

    Parameters
    ----------
    distances : (K, K)
        Symmetric, non-negative, 0 on the diagonal.
    dimensions
        1 … K.

    Returns
    -------
    points : (K, dimensions)
        Centred points, columns by descending spread. The entry of largest magnitude of each column (the first of equal
        ones) is positive. Negative eigenvalues, which no Euclidean points have, count as 0.
    explained : float
        Sum of the used eigenvalues over the sum of the magnitudes of all, so the non-Euclidean part counts as not
        explained; 1 if all distances are 0.

    Raises
    ------
    UserError
        if the matrix is no distance matrix, or ``dimensions`` is out of range.
    """
    matrix = np.asarray(distances, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0 or not np.isfinite(matrix).all():
        raise UserError(f"distances of shape {matrix.shape} are not valid; give a square matrix of finite numbers.")
    largest = matrix.max()
    if matrix.min() < 0 or np.any(np.diagonal(matrix) != 0) or np.any(np.abs(matrix - matrix.T) > 1e-9 * largest):
        raise UserError("the matrix is no distance matrix; give symmetric, non-negative distances, 0 on the diagonal.")
    if not 1 <= dimensions <= len(matrix):
        raise UserError(f"{dimensions} dimensions for {len(matrix)} points; give 1 … {len(matrix)}.")
    if largest == 0:
        return np.zeros((len(matrix), dimensions)), 1.0
    squared = (matrix / largest + matrix.T / largest) ** 2 / 4
    squared -= squared.mean(axis=0)
    squared -= squared.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(-squared / 2)
    values, vectors = values[::-1], vectors[:, ::-1][:, :dimensions]
    used = np.where(values > ROUNDING * values[0], values, 0.0)[:dimensions]
    sizes = np.abs(vectors)
    first = np.argmax(sizes >= sizes.max(axis=0) * (1.0 - 1e-9), axis=0)
    signs = np.where(vectors[first, np.arange(dimensions)] < 0, -1.0, 1.0)
    return largest * vectors * signs * np.sqrt(used), float(used.sum() / np.abs(values).sum())
