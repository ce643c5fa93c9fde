"""Similarity graphs of joined units: edge weights, checks, normalised Laplacian and normalised cut."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from convergence.errors import UserError

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]

# Rows that are compared with columns at once, so that both fit in the processor's cache.
_BLOCK = 256


def similarity_graph(
    correlation: Matrix, kind: Literal["absolute", "positive"] = "absolute", threshold: float = 0.0
) -> Matrix:
    """Make a graph from correlations: symmetric non-negative edge weights without loops.

    Parameters
    ----------
    correlation : (n, n)
        Correlations of the joined units, [[R_xx, R_xy], [R_yx, R_yy]].
    kind
        ``"absolute"``: |r|; ``"positive"``: max(r, 0). Signed weights, as in Li et al. 2016, would make the Laplacian
        indefinite, and its eigenvectors would not relax a cut.
    threshold
        Smaller edge weights are set to 0.

    Raises
    ------
    UserError
        if the matrix is not square, empty or not finite, or the kind is unknown.
    """
    check_square(correlation)
    if kind not in ("absolute", "positive"):
        raise UserError(f'unknown kind "{kind}" of graph; valid are "absolute" and "positive".')
    weights = np.abs(correlation) if kind == "absolute" else np.maximum(correlation, 0.0)
    weights = (weights + weights.T) / 2
    weights[weights < threshold] = 0.0
    np.fill_diagonal(weights, 0.0)
    return weights


def normalised_laplacian(similarity: Matrix) -> Matrix:
    """Compute I - D^-1/2 W D^-1/2, (n, n), of a graph without isolated vertices."""
    root = np.sqrt(similarity.sum(axis=1))
    laplacian = -similarity / np.outer(root, root)
    np.fill_diagonal(laplacian, laplacian.diagonal() + 1.0)
    return laplacian


def normalised_cut(similarity: Matrix, labels: Labels) -> float:
    """Compute the mean of cut / volume over clusters, in [0, 1].

    This is the normalised cut of Shi and Malik 2000, divided by the number of clusters. The volume of a cluster is the
    sum of the degrees of its units. Its cut is the sum of its edges to other clusters. The value is 0 if no edge is
    cut, and about 1 - 1/k for k random clusters of equal volume. Units of label -1 are excluded with their edges. A
    cluster without edges counts 0; a graph without clusters gives 0.
    """
    n_clusters = int(labels.max(initial=-1)) + 1
    clustered = labels >= 0
    degree = similarity @ clustered.astype(np.float64)
    shares = np.zeros(n_clusters)
    for cluster in range(n_clusters):
        units = np.flatnonzero(labels == cluster)
        volume = degree[units].sum()
        inside = similarity[np.ix_(units, units)].sum()
        shares[cluster] = min(max(1.0 - inside / volume, 0.0), 1.0) if volume > 0 else 0.0
    return float(shares.mean()) if n_clusters else 0.0


def checked_graph(similarity: Matrix) -> Matrix:
    """Convert a graph (n, n) to float64; raises :class:`UserError` for an invalid graph."""
    graph = np.asarray(similarity, dtype=np.float64)
    check_square(graph)
    if graph.min() < 0 or np.any(np.diagonal(graph) != 0) or not _symmetric(graph):
        raise UserError(
            "the matrix is no graph: it has negative weights or loops, or is not symmetric. Make a graph with "
            "similarity_graph()."
        )
    return graph


def check_square(matrix: Matrix) -> None:
    """Raise :class:`UserError` unless the matrix is square, not empty and finite."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise UserError(f"a matrix of shape {matrix.shape} is not valid; give a square one of at least one unit.")
    if not (np.isfinite(matrix.min()) and np.isfinite(matrix.max())):  # min and max propagate NaN
        raise UserError("a similarity is NaN or infinite; exclude units without variance before clustering.")


def by_size(labels: NDArray[np.integer]) -> Labels:
    """Number clusters by descending size, ties by their lowest unit; negative labels are unchanged."""
    names, first, counts = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    new = np.empty(len(names), dtype=np.int64)
    new[order] = np.arange(len(names))
    out = np.asarray(labels, dtype=np.int64).copy()
    out[labels >= 0] = new[np.searchsorted(names, labels[labels >= 0])]
    return out


def _symmetric(matrix: Matrix) -> bool:
    """Compute np.allclose(matrix, matrix.T) block by block."""
    starts = range(0, len(matrix), _BLOCK)
    return all(
        np.array_equal(above, below) or np.allclose(above, below)
        for i in starts
        for j in starts[i // _BLOCK :]
        for above, below in [(matrix[i : i + _BLOCK, j : j + _BLOCK], matrix[j : j + _BLOCK, i : i + _BLOCK].T)]
    )
