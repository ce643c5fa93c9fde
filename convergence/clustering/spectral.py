"""Many-to-many alignment: spectral clusters of the units of two nets, joined into one similarity graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from convergence.clustering.eigenvectors import spectral_embedding, to_units
from convergence.clustering.graph import Labels, Matrix, check_square, normalised_cut
from convergence.clustering.partition import partition
from convergence.errors import UserError

FULL_SPECTRUM = 2048
"""Largest number of units of which all eigenvectors are computed; the dense solver takes time in proportion to n³."""
LANCZOS_CLUSTERS = 256
"""Largest number of clusters that is considered for more units, because their eigenvectors come one by one."""


@dataclass(frozen=True, eq=False)
class UnitClusters:
    """Clusters of units.

    ``labels`` (n,): clusters by descending size from 0; -1 for units without an edge, listed in ``isolated``.
    ``eigenvalues``: the smallest eigenvalues of the normalised Laplacian, ascending, each in [0, 2]. ``n_clusters``:
    number of clusters. ``eigengap``: the next eigenvalue minus the k-th for k clusters; 0 without a next one.
    """

    labels: Labels
    eigenvalues: Matrix
    n_clusters: int
    eigengap: float
    isolated: Labels


@dataclass(frozen=True, eq=False)
class Sweep:
    """Clusters for several k, from one set of eigenvectors.

    Attributes
    ----------
    ks : (n_ks,)
        Requested numbers of clusters.
    labels : (n_ks, n)
        Labels of :func:`spectral_clusters` for each k.
    n_clusters : (n_ks,)
        Numbers of clusters found; fewer than k with fewer distinct units.
    eigengaps : (n_ks,)
        The next eigenvalue minus the k-th; 0 without a next one.
    normalised_cuts : (n_ks,)
        Mean of cut / volume over clusters; small for well-separated clusters, and increasing with k in general.
    eigenvalues : (max k + 1,)
        Smallest eigenvalues, ascending.
    isolated
        Units without an edge, of label -1.
    """

    ks: Labels
    labels: Labels
    n_clusters: Labels
    eigengaps: Matrix
    normalised_cuts: Matrix
    eigenvalues: Matrix
    isolated: Labels


@dataclass(frozen=True, eq=False)
class ClusterSimilarities:
    """Mean |r| of the pairs of units of each cluster; columns are within x, within y, and between x and y.

    ``mean`` and ``n_pairs`` are (n_clusters, 3). ``sizes`` (n_clusters, 2) are the numbers of units of x and of y. A
    cluster without such a pair has ``n_pairs`` 0 and ``mean`` 0, which is no measurement.
    """

    mean: Matrix
    n_pairs: Labels
    sizes: Labels


def spectral_clusters(
    similarity: Matrix,
    n_clusters: int | Literal["eigengap"] = "eigengap",
    max_clusters: int | None = None,
    seed: int = 0,
) -> UnitClusters:
    """Cluster units by normalised spectral clustering (Ng, Jordan and Weiss 2001; von Luxburg 2007, arXiv 0711.0189).

    Parameters
    ----------
    similarity : (n, n)
        A graph, made by :func:`~convergence.clustering.graph.similarity_graph`.
    n_clusters
        Number of clusters, or ``"eigengap"``: the k of 2 … :func:`most_clusters` with the largest gap after the k-th
        eigenvalue. :mod:`convergence.clustering.number` chooses a number by its stability instead.
    max_clusters
        Maximum number of clusters chosen by the eigengap; None for no other limit than that of :func:`most_clusters`.
    seed
        Seed of eigenvectors and k-means; the result is the same for the same seed.

    Raises
    ------
    UserError
        if the graph has negative weights or loops, is not symmetric or finite, or a number of clusters is below 1.
    """
    if (n_clusters != "eigengap" and n_clusters < 1) or (max_clusters is not None and max_clusters < 1):
        raise UserError(f"n_clusters = {n_clusters} and max_clusters = {max_clusters} must be at least 1.")
    most = most_clusters(len(similarity), max_clusters) if n_clusters == "eigengap" else n_clusters
    embedding = spectral_embedding(similarity, most + 1, seed)
    values, n = embedding.values, len(embedding.linked)
    if n == 0:
        return UnitClusters(to_units(np.zeros(0, dtype=np.int32), embedding), values, 0, 0.0, embedding.isolated)
    k = _eigengap(values, most) if n_clusters == "eigengap" else min(n_clusters, n)
    labels = to_units(partition(embedding, k, seed), embedding)
    return UnitClusters(labels, values, int(labels.max()) + 1, _gap_after(values, k), embedding.isolated)


def most_clusters(n_units: int, max_clusters: int | None = None) -> int:
    """Largest number of clusters to consider: n − 1, at most ``max_clusters``, and at most 256 for n > 2048."""
    limit = n_units - 1 if n_units <= FULL_SPECTRUM else LANCZOS_CLUSTERS
    return max(limit if max_clusters is None else min(limit, max_clusters), 1)


def sweep(similarity: Matrix, ks: Sequence[int], seed: int = 0) -> Sweep:
    """Compute spectral clusters for every k of ``ks``, with their eigengap and normalised cut.

    ``similarity`` (n, n), ``seed`` and errors are those of :func:`spectral_clusters`. ``ks`` are numbers of at least 1
    in any order.
    """
    if len(ks) == 0 or min(ks) < 1:
        raise UserError(f"ks = {list(ks)}: give at least one number of clusters, each at least 1.")
    embedding = spectral_embedding(similarity, max(ks) + 1, seed)
    values, n = embedding.values, len(embedding.linked)
    labels = np.full((len(ks), len(similarity)), -1, dtype=np.int64)
    for row, k in enumerate(ks):
        if n:
            labels[row] = to_units(partition(embedding, k, seed), embedding)
    return Sweep(
        ks=np.array(ks, dtype=np.int64),
        labels=labels,
        n_clusters=labels.max(axis=1) + 1,
        eigengaps=np.array([_gap_after(values, min(k, n)) for k in ks]),
        normalised_cuts=np.array([normalised_cut(similarity, row) for row in labels]),
        eigenvalues=values,
        isolated=embedding.isolated,
    )


def cluster_similarities(correlation: Matrix, labels: Labels, sides: Labels) -> ClusterSimilarities:
    """Compute the mean |r| within x, within y and between them, for each cluster (Li et al. 2016, section 5).

    Parameters
    ----------
    correlation : (n, n)
        Correlations of the joined units, symmetric.
    labels : (n,)
        Clusters 0 … n_clusters - 1; units of label -1 are excluded.
    sides : (n,)
        0 for a unit of x, 1 for a unit of y.
    """
    check_square(correlation)
    n_clusters = int(labels.max(initial=-1)) + 1
    mean, n_pairs = np.zeros((n_clusters, 3)), np.zeros((n_clusters, 3), dtype=np.int64)
    sizes = np.zeros((n_clusters, 2), dtype=np.int64)
    for cluster in range(n_clusters):
        x, y = (np.flatnonzero((labels == cluster) & (sides == side)) for side in (0, 1))
        sizes[cluster] = len(x), len(y)
        n_pairs[cluster] = len(x) * (len(x) - 1) // 2, len(y) * (len(y) - 1) // 2, len(x) * len(y)
        sums = _of_pairs(correlation, x), _of_pairs(correlation, y), np.abs(correlation[np.ix_(x, y)]).sum()
        mean[cluster] = np.divide(sums, n_pairs[cluster], out=np.zeros(3), where=n_pairs[cluster] > 0)
    return ClusterSimilarities(mean, n_pairs, sizes)


def _of_pairs(correlation: Matrix, units: NDArray[np.intp]) -> float:
    """Sum |r| over all pairs of different units, each pair once."""
    block = np.abs(correlation[np.ix_(units, units)])
    return float(block.sum() - np.trace(block)) / 2


def _eigengap(values: Matrix, max_clusters: int) -> int:
    """Choose k by the largest eigengap from k = 2 on; 1 only if there is no other choice."""
    gaps = np.diff(values)[1:max_clusters]
    return 2 + int(np.argmax(gaps)) if len(gaps) else min(len(values), max_clusters)


def _gap_after(values: Matrix, k: int) -> float:
    """Compute the next eigenvalue minus the k-th; 0 without a next one."""
    return float(values[k] - values[k - 1]) if 0 < k < len(values) else 0.0
