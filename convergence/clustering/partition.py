"""From eigenvectors to clusters: a unit's row, scaled to length 1, is a point; clusters are those of the points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convergence.clustering.eigenvectors import SpectralEmbedding
from convergence.clustering.graph import Labels, Matrix, by_size

# Shorter rows are of units whose component has none of these eigenvectors: rounding, which has no direction.
_NO_ROW = 1e-12


def unit_rows(embedding: SpectralEmbedding, k: int) -> Matrix:
    """(n_linked, k): rows of the first k eigenvectors at length 1 (Ng, Jordan and Weiss 2001), or 0."""
    rows = embedding.vectors[:, :k]
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > _NO_ROW)


def to_units(found: NDArray[np.integer], embedding: SpectralEmbedding) -> Labels:
    """Labels of all units, numbered by falling size, from those of linked ones; -1 for isolated units."""
    labels = np.full(len(embedding.linked) + len(embedding.isolated), -1, dtype=np.int64)
    labels[embedding.linked] = found
    return by_size(labels)
