"""Nets as points of a map, from the distances between them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convergence.errors import UserError

Matrix = NDArray[np.float64]

# An eigenvalue below this share of the largest is rounding.
ROUNDING = 1e-12


def embed(distances: ArrayLike, dimensions: int = 2) -> tuple[Matrix, float]:
    """Classical multidimensional scaling (Torgerson 1952): points whose distances are nearest to those given.

    Parameters
    ----------
    distances : (K, K)
        Symmetric, none negative, 0 on the diagonal.
    dimensions
        1 … K.

    Returns
    -------
    points : (K, dimensions)
        About their mean, by falling spread; of each column the entry that is largest in size (of equal ones the
        first) is positive. Eigenvalues that no points in space can have, the negative ones, count as 0.
    explained : float
        Sum of the eigenvalues used over the sum of the sizes of all, so that what is not Euclidean counts as
        not explained; 1 where all distances are 0.

    Raises
    ------
    UserError
        when the matrix is not one of distances or there are not as many dimensions.
    """
    matrix = np.asarray(distances, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0 or not np.isfinite(matrix).all():
        raise UserError(f"distances of shape {matrix.shape} embed nothing; give a square matrix of finite ones.")
    largest = matrix.max()
    if matrix.min() < 0 or np.any(np.diagonal(matrix) != 0) or np.any(np.abs(matrix - matrix.T) > 1e-9 * largest):
        raise UserError("distances are symmetric, none negative and 0 on the diagonal; these are not.")
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
