"""Clusters of units that predict each other: agglomerative clustering of the sparse weights in both directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from convergence.clustering.graph import Labels, Matrix, by_size
from convergence.errors import UserError


@dataclass(frozen=True, eq=False)
class SparseClusters:
    """Clusters of the joined units, those of x first.

    ``labels`` (n_x + n_y,): clusters by descending size from 0; -1 for units without a weight, listed in ``isolated``.
    ``n_clusters``: number of clusters. ``linked`` (m,): the clustered units. ``linkage`` (m - 1, 4): their tree in the
    format of SciPy; row k joins nodes [k, 0] and [k, 1] at distance [k, 2] to node m + k of [k, 3] units, and node
    j < m is unit ``linked[j]``. ``order`` (m,): the clustered units in the order of the leaves of the tree.
    """

    labels: Labels
    n_clusters: int
    isolated: Labels
    linked: Labels
    linkage: Matrix
    order: Labels


def weight_affinity(weights_xy: ArrayLike, weights_yx: ArrayLike) -> Matrix:
    """Compute the affinities A_ij = max(|W_xy[j, i]|, |W_yx[i, j]|), (n_x, n_y), of units that predict each other.

    The larger weight counts, because the LASSO selects one of two similar units and drops the other: a weight in one
    direction is evidence, but a missing weight in the other direction is not.

    Parameters
    ----------
    weights_xy : (n_y, n_x)
        Weights of the units of x for every unit of y, from :func:`~convergence.alignment.sparse.lasso_path` at one
        penalty.
    weights_yx : (n_x, n_y)
        Weights of the units of y for every unit of x.

    Raises
    ------
    UserError
        if the shapes do not fit, or a weight is not finite.
    """
    forth, back = np.asarray(weights_xy, dtype=np.float64), np.asarray(weights_yx, dtype=np.float64)
    if forth.ndim != 2 or forth.size == 0 or back.shape != forth.shape[::-1]:
        raise UserError(
            f"weights of shapes {forth.shape} and {back.shape} are not two directions between the same units; give "
            "(n_y, n_x) and (n_x, n_y)."
        )
    if not (np.isfinite(forth).all() and np.isfinite(back).all()):
        raise UserError("a weight is NaN or infinite; give finite weights, or fit both directions again.")
    return np.maximum(np.abs(forth.T), np.abs(back))


def joined_affinity(affinity: Matrix) -> Matrix:
    """Compute similarities (n, n) in [0, 1] of the joined units from affinities (n_x, n_y) between the nets.

    Between the nets the similarity is A / max A. Within a net it is the cosine of the rows (or columns) of A, which
    compares the links of two units with the other net. The diagonal is 1.
    """
    largest = affinity.max()
    between = affinity / largest if largest > 0 else affinity
    joined = np.block([[_cosines(between), between], [between.T, _cosines(between.T)]])
    np.fill_diagonal(joined, 1.0)
    return joined


def agglomerative_clusters(
    weights_xy: ArrayLike,
    weights_yx: ArrayLike,
    n_clusters: int | None = None,
    distance: float | None = None,
) -> SparseClusters:
    """Cluster the units with a weight in either direction by average linkage (Li et al. 2016, section 5).

    The distance of two units is 1 minus their similarity in :func:`joined_affinity`, in [0, 1].

    Parameters
    ----------
    weights_xy, weights_yx : (n_y, n_x), (n_x, n_y)
        As in :func:`weight_affinity`.
    n_clusters : int, optional
        Number of clusters, at most the number of units with a weight. Give either this or ``distance``.
    distance : float, optional
        Largest distance at which clusters are joined.

    Raises
    ------
    UserError
        as :func:`weight_affinity`, if both or none of ``n_clusters`` and ``distance`` are given, if ``n_clusters`` is
        below 1, or if ``distance`` is negative.
    """
    if (n_clusters is None) == (distance is None):
        raise UserError(f"n_clusters = {n_clusters} and distance = {distance}: give one of the two.")
    if (n_clusters is not None and n_clusters < 1) or (distance is not None and not distance >= 0):
        raise UserError(f"n_clusters = {n_clusters} must be at least 1, and distance = {distance} at least 0.")
    affinity = weight_affinity(weights_xy, weights_yx)
    used = np.concatenate([affinity.any(axis=1), affinity.any(axis=0)])
    linked, isolated = np.flatnonzero(used), np.flatnonzero(~used)
    labels = np.full(len(used), -1, dtype=np.int64)
    if len(linked) == 0:
        return SparseClusters(labels, 0, isolated, linked, np.zeros((0, 4)), linked)
    apart = 1.0 - joined_affinity(affinity)[np.ix_(linked, linked)]
    # A unit with a weight has a partner, so there are at least two units.
    tree = linkage(squareform(apart, checks=False), method="average")
    if distance is not None:
        n_merges = int(np.count_nonzero(tree[:, 2] <= distance))
    else:
        n_merges = max(len(linked) - (n_clusters or 0), 0)
    labels[linked] = cut(tree, n_merges)
    labels = by_size(labels)
    return SparseClusters(labels, int(labels.max()) + 1, isolated, linked, tree, linked[leaves_list(tree)])


def cut(tree: Matrix, n_merges: int) -> Labels:
    """Clusters (m,) after the first merges of a linkage (m - 1, 4); exact for tied distances, unlike fcluster."""
    m = len(tree) + 1
    node = np.arange(m + n_merges)
    for k in range(n_merges - 1, -1, -1):  # a node takes the label of the node it was joined to
        node[tree[k, :2].astype(np.int64)] = node[m + k]
    return node[:m]


def _cosines(rows: Matrix) -> Matrix:
    """Compute the non-negative cosines of all pairs of rows; 0 for a row of zeros."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return np.clip(unit @ unit.T, 0.0, 1.0)
