"""Hierarchical clusters: spectral clusters above a size limit are split again, with the tree of splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from convergence.clustering.eigenvectors import spectral_embedding, to_units, unit_rows
from convergence.clustering.graph import Labels, Matrix, by_size
from convergence.clustering.k_means import k_means
from convergence.clustering.spectral import UnitClusters, spectral_clusters
from convergence.errors import UserError

ALPHA = 0.025
"""Value of Li et al. 2016 for conv2."""

# A graph with a second Laplacian eigenvalue of at least 1 has no structure: no two parts have fewer edges between them
# than random parts. Only complete multipartite graphs reach 1; the constant allows for rounding.
_NO_STRUCTURE = 1.0 - 1e-9


@dataclass(frozen=True, eq=False)
class ClusterTree:
    """The tree of splits, a node for every cluster at any level; the root holds all units with an edge.

    ``parent`` (n_nodes,): the node that was split into this node and others, -1 for the root; parents come before their
    children. ``size`` (n_nodes,): number of units. ``label`` (n_nodes,): label of the final cluster, -1 for a node that
    was split.
    """

    parent: Labels
    size: Labels
    label: Labels


@dataclass(frozen=True, eq=False)
class HierarchicalClusters:
    """The final ``clusters`` and the ``tree`` of splits.

    ``limit`` is the largest allowed number of units. ``too_large`` lists the larger clusters, which have no structure
    to split by. Eigenvalues and eigengap are those of the first split, of the whole graph.
    """

    clusters: UnitClusters
    tree: ClusterTree
    limit: float
    too_large: Labels


def hierarchical_clusters(
    similarity: Matrix,
    alpha: float = ALPHA,
    n_clusters: int | Literal["eigengap"] = "eigengap",
    n_units: int | None = None,
    max_clusters: int | None = None,
    seed: int = 0,
) -> HierarchicalClusters:
    """Compute spectral clusters and split those of more than 2 α C units in two until none is left (Li et al. 2016).

    A cluster is split by its subgraph, without the edges that leave it. A unit without edges in the subgraph becomes a
    separate cluster. A cluster whose units are all equally similar, as in a complete graph, is not split.

    Parameters
    ----------
    similarity : (n, n)
        A graph of joined units, made by :func:`~convergence.clustering.graph.similarity_graph`.
    alpha : float
        Share α of the size limit, positive.
    n_clusters, max_clusters
        Settings of the first split, as in :func:`~convergence.clustering.spectral.spectral_clusters`.
    n_units : int, optional
        Number C of units of one net; default n / 2.
    seed : int
        Seed of eigenvectors and k-means.

    Raises
    ------
    UserError
        if the graph is invalid, or alpha or a number is not positive.
    """
    width = len(similarity) / 2 if n_units is None else n_units
    if not alpha > 0 or not width > 0:
        raise UserError(f"alpha {alpha} and n_units {n_units} must be positive; the limit is 2 x alpha x n_units.")
    limit = 2.0 * alpha * width
    first = spectral_clusters(similarity, n_clusters, max_clusters, seed)
    graph = np.asarray(similarity, dtype=np.float64)
    nodes = [np.flatnonzero(first.labels >= 0)] if first.n_clusters else []
    parent, ends, too_large = [-1] * len(nodes), [], []
    for node, units in enumerate(nodes):  # the list grows in the loop
        if node == 0 and first.n_clusters > 1:
            parts = [np.flatnonzero(first.labels == cluster) for cluster in range(first.n_clusters)]
        elif len(units) > limit:
            parts = _parts(graph, units, seed)
            too_large += [node] if len(parts) == 1 else []
        else:
            parts = [units]
        if len(parts) == 1:
            ends.append(node)
        else:
            nodes += parts
            parent += [node] * len(parts)
    labels = np.full(len(graph), -1, dtype=np.int64)
    for node in ends:
        labels[nodes[node]] = node
    labels = by_size(labels)
    label = np.full(len(nodes), -1, dtype=np.int64)
    label[ends] = [labels[nodes[node][0]] for node in ends]
    tree = ClusterTree(np.array(parent, dtype=np.int64), np.array([len(n) for n in nodes], dtype=np.int64), label)
    clusters = UnitClusters(labels, first.eigenvalues, int(labels.max()) + 1, first.eigengap, first.isolated)
    return HierarchicalClusters(clusters, tree, limit, np.sort(label[too_large]))


def _parts(graph: Matrix, units: Labels, seed: int) -> list[Labels]:
    """Split a cluster in two, the larger part first; units without an edge follow as parts of one unit."""
    embedding = spectral_embedding(graph[np.ix_(units, units)], 2, seed)
    alone = [units[[unit]] for unit in embedding.isolated]
    if len(embedding.linked) < 2 or embedding.values[1] > _NO_STRUCTURE:
        return [*([units[embedding.linked]] if len(embedding.linked) else []), *alone]
    labels = to_units(k_means(unit_rows(embedding, 2), 2, seed)[0], embedding)
    return [*(units[labels == part] for part in range(labels.max() + 1)), *alone]
