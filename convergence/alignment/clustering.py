"""Many-to-many alignment: spectral clusters of the units of two nets, joined into one similarity graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from convergence.errors import UserError

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class UnitClusters:
    """Clusters of units.

    ``labels`` (n,): 0 for the largest cluster and so on; -1 for units without any edge, listed in
    ``isolated``. ``eigenvalues``: the smallest ones of the normalised Laplacian, ascending, each in [0, 2].
    ``n_clusters`` that came out; ``eigengap``: the eigenvalue after them less the last of them (0 if there
    is no next one).
    """

    labels: Labels
    eigenvalues: Matrix
    n_clusters: int
    eigengap: float
    isolated: Labels


@dataclass(frozen=True, eq=False)
class ClusterSimilarities:
    """Mean |r| of the pairs of units of each cluster; columns are within x, within y and between x and y.

    ``mean`` and ``n_pairs`` are (n_clusters, 3), ``sizes`` (n_clusters, 2) the units of x and of y. A
    cluster without such a pair has ``n_pairs`` 0 and ``mean`` 0, which is no measurement.
    """

    mean: Matrix
    n_pairs: Labels
    sizes: Labels


def similarity_graph(
    correlation: Matrix, kind: Literal["absolute", "positive"] = "absolute", threshold: float = 0.0
) -> Matrix:
    """Edge weights of a valid graph: symmetric, none negative, no loops.

    Parameters
    ----------
    correlation : (n, n)
        Correlations of the joined units, [[R_xx, R_xy], [R_yx, R_yy]].
    kind
        ``"absolute"``: |r|; ``"positive"``: max(r, 0). Signed weights would make the Laplacian indefinite,
        and its eigenvectors no relaxation of a cut (Li et al. 2016 took them so).
    threshold
        Edges below it are dropped.
    """
    _check_square(correlation)
    if kind not in ("absolute", "positive"):
        raise UserError(f'unknown kind of graph "{kind}"; valid are "absolute" and "positive".')
    weights = np.abs(correlation) if kind == "absolute" else np.maximum(correlation, 0.0)
    weights = (weights + weights.T) / 2
    weights[weights < threshold] = 0.0
    np.fill_diagonal(weights, 0.0)
    return weights


def normalised_laplacian(similarity: Matrix) -> Matrix:
    """I - D^-1/2 W D^-1/2 of a graph without isolated vertices, (n, n)."""
    root = np.sqrt(similarity.sum(axis=1))
    laplacian = -similarity / np.outer(root, root)
    np.fill_diagonal(laplacian, laplacian.diagonal() + 1.0)
    return laplacian


def spectral_clusters(
    similarity: Matrix,
    n_clusters: int | Literal["eigengap"] = "eigengap",
    max_clusters: int = 20,
    seed: int = 0,
) -> UnitClusters:
    """Normalised spectral clustering (Ng, Jordan and Weiss 2001; von Luxburg 2007, arXiv 0711.0189).

    Parameters
    ----------
    similarity : (n, n)
        A graph as :func:`similarity_graph` makes it.
    n_clusters
        How many, or ``"eigengap"``: the k of 2 … ``max_clusters`` with the largest gap after the k-th
        eigenvalue.
    max_clusters
        Largest number that the eigengap may choose.
    seed
        Seed of k-means; the result is the same for the same seed.

    Raises
    ------
    UserError
        when the graph has negative weights or loops, is not symmetric or finite, or a number of clusters is
        below 1.
    """
    _check_square(similarity)
    if similarity.min() < 0 or np.any(np.diagonal(similarity) != 0) or not np.allclose(similarity, similarity.T):
        raise UserError("a graph has no negative weights, no loops and is symmetric; make it with similarity_graph().")
    if (n_clusters != "eigengap" and n_clusters < 1) or max_clusters < 1:
        raise UserError(f"n_clusters {n_clusters} and max_clusters {max_clusters} must be at least 1.")
    labels = np.full(len(similarity), -1, dtype=np.int64)
    degree = similarity.sum(axis=1)
    isolated, linked = np.flatnonzero(degree == 0), np.flatnonzero(degree > 0)
    n = len(linked)
    if n == 0:
        return UnitClusters(labels, np.zeros(0), 0, 0.0, isolated)
    wanted = min(n, 1 + (max_clusters if n_clusters == "eigengap" else n_clusters))
    laplacian = normalised_laplacian(similarity[np.ix_(linked, linked)])
    values, vectors = scipy.linalg.eigh(laplacian, subset_by_index=(0, wanted - 1))
    values = np.clip(values, 0.0, 2.0)
    k = _eigengap(values, max_clusters) if n_clusters == "eigengap" else min(n_clusters, n)
    points = _fixed_signs(vectors[:, :k])
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), np.finfo(float).tiny)
    distinct = len(np.unique(points.round(12), axis=0))  # k-means cannot make more clusters than there are points
    found = KMeans(min(k, distinct), n_init=10, random_state=seed).fit_predict(points)
    labels[linked] = _by_size(found)
    gap = float(values[k] - values[k - 1]) if k < len(values) else 0.0
    return UnitClusters(labels, values, int(labels.max()) + 1, gap, isolated)


def cluster_similarities(correlation: Matrix, labels: Labels, sides: Labels) -> ClusterSimilarities:
    """Mean |r| within x, within y and between them, for each cluster (Li et al. 2016, section 5).

    Parameters
    ----------
    correlation : (n, n)
        Correlations of the joined units.
    labels : (n,)
        Clusters 0 … n_clusters - 1; units of label -1 are left out.
    sides : (n,)
        0 for a unit of x, 1 for a unit of y.
    """
    _check_square(correlation)
    n_clusters = int(labels.max(initial=-1)) + 1
    mean, n_pairs = np.zeros((n_clusters, 3)), np.zeros((n_clusters, 3), dtype=np.int64)
    sizes = np.zeros((n_clusters, 2), dtype=np.int64)
    strength = np.abs(correlation)
    for cluster in range(n_clusters):
        x, y = (np.flatnonzero((labels == cluster) & (sides == side)) for side in (0, 1))
        sizes[cluster] = len(x), len(y)
        for column, values in enumerate((_pairs(strength, x), _pairs(strength, y), strength[np.ix_(x, y)].ravel())):
            n_pairs[cluster, column] = len(values)
            mean[cluster, column] = values.mean() if len(values) else 0.0
    return ClusterSimilarities(mean, n_pairs, sizes)


def _pairs(strength: Matrix, units: NDArray[np.intp]) -> Matrix:
    """Similarities of all pairs of different units, each pair once."""
    return strength[np.ix_(units, units)][np.triu_indices(len(units), 1)]


def _eigengap(values: Matrix, max_clusters: int) -> int:
    """One cluster is no answer unless there is no choice, so the gaps begin at the second eigenvalue."""
    gaps = np.diff(values)[1:max_clusters]
    return 2 + int(np.argmax(gaps)) if len(gaps) else min(len(values), max_clusters)


def _fixed_signs(vectors: Matrix) -> Matrix:
    """Eigenvectors have no sign of their own: make each one's largest entry positive."""
    largest = np.argmax(np.abs(vectors), axis=0)
    return vectors * np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)


def _by_size(labels: NDArray[np.int32]) -> Labels:
    """Number clusters by falling size; of equal ones, the one with the lowest unit first."""
    names, first, counts = np.unique(labels, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    new = np.empty(len(names), dtype=np.int64)
    new[order] = np.arange(len(names))
    return new[np.searchsorted(names, labels)]


def _check_square(matrix: Matrix) -> None:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise UserError(f"a matrix of shape {matrix.shape} joins no units; give a square one of at least one unit.")
    if not np.isfinite(matrix).all():
        raise UserError("a similarity is NaN or infinite; leave units without variance out before clustering.")
